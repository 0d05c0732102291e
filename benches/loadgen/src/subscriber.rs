//! The receiving side: acknowledges, and checks order, copies and losses.

use std::collections::HashSet;

use crate::report::Latencies;
use crate::wire::{self, Frame, Stamp};

/// Of so many messages one latency is recorded when throughput is what is measured.
const SAMPLE: u64 = 16;

/// What all subscribers together have seen.
#[derive(Debug)]
pub struct Ledger {
    /// Deliveries, by publisher.
    pub received: Vec<u64>,
    /// Sum of `received`.
    pub total: u64,
    /// Late ones.
    pub out_of_order: u64,
    /// Second copies; not in `received`.
    pub duplicates: u64,
    /// Delivery latency.
    pub latencies: Latencies,
    /// Record every latency, not one in sixteen.
    pub every: bool,
}

impl Ledger {
    /// For so many publishers; one latency in sixteen is recorded.
    pub fn new(publishers: usize) -> Ledger {
        Ledger {
            received: vec![0; publishers],
            total: 0,
            out_of_order: 0,
            duplicates: 0,
            latencies: Latencies::new(),
            every: false,
        }
    }
}

/// One subscriber.
#[derive(Debug)]
pub struct Subscriber {
    /// Next sequence expected, by publisher.
    next: Vec<u64>,
    every: u64,
    /// Skipped so far; empty in a good run.
    missing: HashSet<(u32, u64)>,
}

impl Subscriber {
    /// For so many publishers, of whose messages the last in `every` come here.
    pub fn new(publishers: usize, every: u64) -> Subscriber {
        Subscriber { next: vec![every - 1; publishers], every, missing: HashSet::new() }
    }

    /// Takes one packet from the broker, its answer goes to `out`.
    ///
    /// # Errors
    /// A packet a subscriber does not expect.
    pub fn receive(
        &mut self,
        frame: Frame<'_>,
        now_ns: u64,
        out: &mut Vec<u8>,
        ledger: &mut Ledger,
    ) -> Result<(), String> {
        if frame.first & 0xf0 != wire::PUBLISH {
            if frame.first == wire::PUBREL {
                let id = frame.packet_id().ok_or("a PUBREL without id")?;
                wire::acknowledge(out, wire::PUBCOMP, id);
                return Ok(());
            }
            return Err(format!("packet {:#04x} to a subscriber", frame.first));
        }
        let (qos, id, payload) = frame.publish().ok_or("a PUBLISH cut short")?;
        let stamp = Stamp::read(payload).ok_or("a payload that is not ours")?;
        match qos {
            0 => {}
            1 => wire::acknowledge(out, wire::PUBACK, id),
            2 => wire::acknowledge(out, wire::PUBREC, id),
            _ => return Err("a PUBLISH of QoS 3".into()),
        }
        self.count(stamp, ledger)?;
        if ledger.every || stamp.sequence.is_multiple_of(SAMPLE) {
            ledger.latencies.record(now_ns.saturating_sub(stamp.at_ns));
        }
        Ok(())
    }

    fn count(&mut self, stamp: Stamp, ledger: &mut Ledger) -> Result<(), String> {
        let index = stamp.publisher as usize;
        let next = self.next.get_mut(index).ok_or("a message of a publisher that is not ours")?;
        if stamp.sequence >= *next {
            for sequence in (*next..stamp.sequence).step_by(self.every as usize) {
                self.missing.insert((stamp.publisher, sequence));
            }
            *next = stamp.sequence + self.every;
        } else if self.missing.remove(&(stamp.publisher, stamp.sequence)) {
            ledger.out_of_order += 1;
        } else {
            ledger.duplicates += 1;
            return Ok(());
        }
        ledger.received[index] += 1;
        ledger.total += 1;
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::wire::{Template, cut};

    fn feed(sequences: &[u64]) -> Ledger {
        let mut ledger = Ledger { every: true, ..Ledger::new(2) };
        let mut subscriber = Subscriber::new(2, 1);
        for &sequence in sequences {
            let mut bytes = Vec::new();
            let stamp = Stamp { publisher: 1, sequence, at_ns: 0 };
            Template::new("t", 2, 20).append(&mut bytes, 4, stamp);
            let (frame, _) = cut(&bytes).unwrap().unwrap();
            let mut out = Vec::new();
            subscriber.receive(frame, 0, &mut out, &mut ledger).unwrap();
            assert_eq!(out, [0x50, 2, 0, 4]);
        }
        ledger
    }

    #[test]
    fn a_gap_is_not_received_and_a_late_one_is_out_of_order() {
        let ledger = feed(&[0, 1, 4, 2, 2]);
        assert_eq!((ledger.received[1], ledger.total), (4, 4));
        assert_eq!((ledger.out_of_order, ledger.duplicates), (1, 1));
    }

    #[test]
    fn a_straight_run_is_clean() {
        let ledger = feed(&[0, 1, 2, 3]);
        assert_eq!((ledger.total, ledger.out_of_order, ledger.duplicates), (4, 0, 0));
    }

    #[test]
    fn of_every_second_message_those_between_are_not_missed() {
        let mut ledger = Ledger { every: true, ..Ledger::new(1) };
        let mut subscriber = Subscriber::new(1, 2);
        for sequence in [1, 7, 5] {
            let stamp = Stamp { publisher: 0, sequence, at_ns: 0 };
            subscriber.count(stamp, &mut ledger).unwrap();
        }
        assert_eq!((ledger.total, ledger.out_of_order, ledger.duplicates), (3, 1, 0));
        assert_eq!(subscriber.missing, HashSet::from([(0, 3)]));
    }
}
