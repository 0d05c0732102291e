//! The sending side: packet ids, the window, acknowledgements.
//!
//! Packet ids are indexes into `slots` plus one. The window bounds what one publisher has on its
//! way; an open-loop run has no window and grows its slots up to the 65,535 ids there are.

use crate::report::Latencies;
use crate::wire::{self, Frame, Stamp, Template};

/// What a packet id is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Free,
    /// PUBLISH sent at QoS 1.
    WaitPuback,
    /// PUBLISH sent at QoS 2.
    WaitPubrec,
    /// PUBREL sent.
    WaitPubcomp,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    state: State,
    at_ns: u64,
}

/// One publisher.
#[derive(Debug)]
pub struct Publisher {
    number: u32,
    qos: u8,
    /// One per topic, used in turn.
    templates: Vec<Template>,
    next_template: usize,
    slots: Vec<Slot>,
    free: Vec<u16>,
    /// Messages still to send.
    pub remaining: u64,
    /// Messages sent.
    pub sent: u64,
    /// Messages acknowledged to the end (PUBACK, PUBCOMP).
    pub acknowledged: u64,
}

impl Publisher {
    /// Publisher `number` that sends `count` messages to the topics of `templates` in turn.
    pub fn new(number: u32, qos: u8, templates: Vec<Template>, count: u64) -> Publisher {
        Publisher {
            number,
            qos,
            templates,
            next_template: 0,
            slots: Vec::new(),
            free: Vec::new(),
            remaining: count,
            sent: 0,
            acknowledged: 0,
        }
    }

    /// Messages sent and not acknowledged; 0 at QoS 0.
    pub fn unacknowledged(&self) -> u64 {
        if self.qos == 0 { 0 } else { self.sent - self.acknowledged }
    }

    /// Appends the next message to `out`; false when every packet id is taken.
    pub fn send(&mut self, at_ns: u64, out: &mut Vec<u8>) -> bool {
        let packet_id = match self.qos {
            0 => 0,
            qos => {
                let Some(id) = self.take_id() else {
                    return false;
                };
                let state = if qos == 1 { State::WaitPuback } else { State::WaitPubrec };
                self.slots[usize::from(id) - 1] = Slot { state, at_ns };
                id
            }
        };
        let stamp = Stamp { publisher: self.number, sequence: self.sent, at_ns };
        self.templates[self.next_template].append(out, packet_id, stamp);
        self.next_template += 1;
        if self.next_template == self.templates.len() {
            self.next_template = 0;
        }
        self.sent += 1;
        self.remaining -= 1;
        true
    }

    fn take_id(&mut self) -> Option<u16> {
        if let Some(id) = self.free.pop() {
            return Some(id);
        }
        let id = u16::try_from(self.slots.len() + 1).ok()?;
        self.slots.push(Slot { state: State::Free, at_ns: 0 });
        Some(id)
    }

    /// Takes one packet from the broker, its answer goes to `out`.
    ///
    /// # Errors
    /// An acknowledgement of what was not sent, or any other packet.
    pub fn receive(
        &mut self,
        frame: Frame<'_>,
        now_ns: u64,
        out: &mut Vec<u8>,
        latencies: &mut Latencies,
    ) -> Result<(), String> {
        let id = frame.packet_id().filter(|&id| id > 0).ok_or("a packet without its id")?;
        let slot = self.slots.get_mut(usize::from(id) - 1);
        let slot = slot.ok_or_else(|| format!("an acknowledgement of id {id}, never used"))?;
        match (frame.first, slot.state) {
            (wire::PUBREC, State::WaitPubrec) => {
                slot.state = State::WaitPubcomp;
                wire::acknowledge(out, wire::PUBREL, id);
                return Ok(());
            }
            (wire::PUBACK, State::WaitPuback) | (wire::PUBCOMP, State::WaitPubcomp) => {
                slot.state = State::Free;
            }
            (first, state) => {
                return Err(format!("packet {first:#04x} for id {id}, which is in {state:?}"));
            }
        }
        latencies.record(now_ns.saturating_sub(slot.at_ns));
        self.free.push(id);
        self.acknowledged += 1;
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn publisher(qos: u8) -> Publisher {
        Publisher::new(0, qos, vec![Template::new("t", qos, 20)], 100_000)
    }

    #[test]
    fn qos_2_goes_through_both_halves_and_frees_its_id() {
        let (mut p, mut out, mut lat) = (publisher(2), Vec::new(), Latencies::new());
        assert!(p.send(1_000, &mut out));
        out.clear();
        let body = [0, 1];
        let rec = Frame { first: wire::PUBREC, body: &body };
        let comp = Frame { first: wire::PUBCOMP, body: &body };
        assert!(p.receive(comp, 1, &mut out, &mut lat).is_err());
        p.receive(rec, 2_000, &mut out, &mut lat).unwrap();
        assert_eq!(out, [0x62, 2, 0, 1]);
        p.receive(comp, 3_000, &mut out, &mut lat).unwrap();
        assert_eq!((p.acknowledged, p.unacknowledged()), (1, 0));
        assert!(p.receive(comp, 4_000, &mut out, &mut lat).is_err());
    }

    #[test]
    fn a_puback_twice_is_an_error() {
        let (mut p, mut out, mut lat) = (publisher(1), Vec::new(), Latencies::new());
        p.send(0, &mut out);
        let ack = Frame { first: wire::PUBACK, body: &[0, 1] };
        p.receive(ack, 5, &mut out, &mut lat).unwrap();
        assert!(p.receive(ack, 5, &mut out, &mut lat).is_err());
        assert!(
            p.receive(Frame { first: wire::PUBACK, body: &[0, 9] }, 5, &mut out, &mut lat).is_err()
        );
    }

    #[test]
    fn there_are_65535_packet_ids() {
        let (mut p, mut out) = (publisher(1), Vec::new());
        while p.send(0, &mut out) {
            out.clear();
        }
        assert_eq!(p.sent, 65_535);
    }
}
