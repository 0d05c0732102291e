//! Outgoing QoS 1 and 2: packet ids, the in-flight window, and what waits for it.
//!
//! Invariants: a packet id in flight is never given again ([MQTT-2.3.1-4]); entries leave `waiting`
//! in the order in which they came ([MQTT-4.6.0-6]); flights are kept in the order of sending, which
//! is the order of resending ([MQTT-4.6.0-1]).
//!
//! Bounds: `window` flights (an argument of every call that could exceed it); the caller bounds
//! `waiting` by count and bytes, both kept here.

use std::collections::VecDeque;
use std::sync::Arc;

use super::RangeSet;
use crate::{Message, PacketId, QoS};

/// A message that waits for room in the window.
#[derive(Debug, Clone)]
pub struct Waiting {
    /// The session's number for it; 0 in a session that is not stored.
    pub sequence: u64,
    /// QoS of the delivery; never 0 except for queued QoS 0.
    pub qos: QoS,
    /// RETAIN as the subscriber shall see it.
    pub retain: bool,
    /// The message.
    pub message: Arc<Message>,
}

/// A waiting message without its texts, beyond what [`Message::cost`] counts.
const WAITING: usize = size_of::<Message>() + 2 * size_of::<Waiting>();

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Puback,
    Pubrec,
    Pubcomp,
}

#[derive(Debug, Clone, Copy)]
struct Flight {
    id: PacketId,
    stage: Stage,
    cost: u32,
    sequence: u64,
}

/// What an acknowledgement from the client did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acknowledged {
    /// The message has moved on, or is done.
    Message {
        /// The session's number for it.
        sequence: u64,
        /// Its [`Message::cost`].
        cost: u32,
    },
    /// No message in flight waits for this packet under this id.
    Unknown,
}

/// The outgoing half of one session. Empty and idle it holds no allocation.
#[derive(Debug, Default)]
pub struct Outbound {
    flights: VecDeque<Flight>,
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    next_id: u16,
    /// Ids that can be given, from `next_id` on, before the flights have to be looked at again.
    free_run: u16,
}

impl Outbound {
    /// Messages in flight.
    pub fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// The message that has waited for the longest.
    pub fn first_waiting(&self) -> Option<&Waiting> {
        self.waiting.front()
    }

    /// Messages waiting in memory.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Their bytes, by [`Message::cost`].
    pub fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// What the waiting messages take in memory, as if nobody else had them.
    pub fn memory(&self) -> usize {
        self.waiting_bytes + self.waiting.len() * WAITING
    }

    /// The session's numbers in flight and waiting.
    pub fn left(&self) -> RangeSet {
        let flights = self.flights.iter().map(|flight| flight.sequence);
        let waiting = self.waiting.iter().map(|waiting| waiting.sequence);
        let mut sequences: Vec<u64> = flights.chain(waiting).collect();
        sequences.sort_unstable();
        let mut left = RangeSet::default();
        for sequence in sequences {
            left.push(sequence..sequence + 1);
        }
        left
    }

    /// True when a new message may be sent at once: the window has room and nothing waits.
    pub fn can_send(&self, window: u16) -> bool {
        self.waiting.is_empty() && self.flights.len() < usize::from(window)
    }

    /// Takes a message into flight and gives it a packet id. The caller has seen
    /// [`Self::can_send`] or [`Self::next_waiting`]; `qos` is 1 or 2.
    pub fn send(&mut self, qos: QoS, sequence: u64, cost: u32) -> PacketId {
        let id = self.allocate();
        let stage = if qos == QoS::ExactlyOnce { Stage::Pubrec } else { Stage::Puback };
        self.flights.push_back(Flight { id, stage, cost, sequence });
        id
    }

    /// A flight found in the store: PUBLISH was sent (or may have been) under `id`, or PUBREL when
    /// `released`.
    pub fn restore(&mut self, id: PacketId, qos: QoS, released: bool, sequence: u64, cost: u32) {
        let stage = match (qos, released) {
            (QoS::ExactlyOnce, true) => Stage::Pubcomp,
            (QoS::ExactlyOnce, false) => Stage::Pubrec,
            _ => Stage::Puback,
        };
        self.flights.push_back(Flight { id, stage, cost, sequence });
        self.free_run = 0;
    }

    /// Appends to the waiting messages.
    pub fn wait(&mut self, waiting: Waiting) {
        self.waiting_bytes += waiting.message.cost();
        self.waiting.push_back(waiting);
    }

    /// Removes the oldest waiting message, for `overflow = "drop_old"`.
    pub fn drop_oldest(&mut self) -> Option<Waiting> {
        let oldest = self.waiting.pop_front()?;
        self.waiting_bytes -= oldest.message.cost();
        Some(oldest)
    }

    /// The next waiting message that the window has room for; QoS 0 needs none.
    pub fn next_waiting(&mut self, window: u16) -> Option<Waiting> {
        let next = self.waiting.front()?;
        if next.qos != QoS::AtMostOnce && self.flights.len() >= usize::from(window) {
            return None;
        }
        self.drop_oldest()
    }

    /// PUBACK arrives ([MQTT-4.3.2-1]).
    pub fn puback(&mut self, id: PacketId) -> Acknowledged {
        self.finish(id, Stage::Puback)
    }

    /// PUBREC arrives: from here on only PUBREL is sent ([MQTT-4.3.3-1]). A second PUBREC for a
    /// released message is answered with PUBREL again, so it counts as known.
    pub fn pubrec(&mut self, id: PacketId) -> Acknowledged {
        for flight in &mut self.flights {
            if flight.id == id && flight.stage != Stage::Puback {
                flight.stage = Stage::Pubcomp;
                return Acknowledged::Message { sequence: flight.sequence, cost: flight.cost };
            }
        }
        Acknowledged::Unknown
    }

    /// PUBCOMP arrives.
    pub fn pubcomp(&mut self, id: PacketId) -> Acknowledged {
        self.finish(id, Stage::Pubcomp)
    }

    /// True when a message is in flight under `id`, whatever it waits for: an acknowledgement that
    /// was [`Acknowledged::Unknown`] is then of the wrong kind.
    pub fn is_in_flight(&self, id: PacketId) -> bool {
        self.flights.iter().any(|flight| flight.id == id)
    }

    fn finish(&mut self, id: PacketId, stage: Stage) -> Acknowledged {
        // Acknowledgements come in order from a conforming client, so this looks at the front.
        let found = self.flights.iter().position(|flight| flight.id == id && flight.stage == stage);
        match found.and_then(|at| self.flights.remove(at)) {
            Some(flight) => Acknowledged::Message { sequence: flight.sequence, cost: flight.cost },
            None => Acknowledged::Unknown,
        }
    }

    /// Forgets everything in memory, for a session whose store has it all; keeps the id counter.
    pub fn clear(&mut self) -> usize {
        let dropped = self.waiting.len();
        self.flights = VecDeque::new();
        self.waiting = VecDeque::new();
        self.waiting_bytes = 0;
        self.free_run = 0;
        dropped
    }

    /// Gives back memory once nothing is in flight and nothing waits.
    pub fn shrink(&mut self) {
        if self.flights.is_empty() && self.flights.capacity() > 64 {
            self.flights = VecDeque::new();
        }
        if self.waiting.is_empty() && self.waiting.capacity() > 0 {
            self.waiting = VecDeque::new();
        }
    }

    /// The next free id. `free_run` makes this constant time: the flights are looked at once for
    /// a run of ids, not once an id.
    fn allocate(&mut self) -> PacketId {
        loop {
            if self.next_id == 0 {
                self.next_id = 1;
            }
            if self.free_run == 0 {
                self.find_run();
            }
            let id = self.next_id;
            self.next_id = self.next_id.wrapping_add(1);
            self.free_run = self.free_run.saturating_sub(1);
            if let Some(id) = PacketId::new(id) {
                return id;
            }
        }
    }

    /// Moves `next_id` to an id that is free and counts the free ids behind it. The window is below
    /// 65,535, so there is one.
    fn find_run(&mut self) {
        let mut used: Vec<u16> = self.flights.iter().map(|flight| flight.id.get()).collect();
        used.sort_unstable();
        let mut start = self.next_id.max(1);
        // To the end of the number range, then from its beginning.
        for _ in 0..2 {
            let from = used.partition_point(|id| *id < start);
            let mut ended = false;
            for id in &used[from..] {
                if *id > start {
                    self.next_id = start;
                    self.free_run = *id - start;
                    return;
                }
                match start.checked_add(1) {
                    Some(next) => start = next,
                    None => ended = true,
                }
            }
            if !ended {
                self.next_id = start;
                self.free_run = u16::MAX - start + 1;
                return;
            }
            start = 1;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn message(n: u64) -> Waiting {
        Waiting {
            sequence: n,
            qos: QoS::AtLeastOnce,
            retain: false,
            message: Arc::new(Message {
                topic: "t".into(),
                payload: Bytes::from(n.to_string()),
                qos: QoS::AtLeastOnce,
                retain: false,
                properties: None,
            }),
        }
    }

    #[test]
    fn packet_ids_in_flight_are_not_given_again() {
        let mut out = Outbound::default();
        let kept = out.send(QoS::AtLeastOnce, 0, 1);
        assert_eq!(kept.get(), 1);
        for n in 0..200_000_u64 {
            let id = out.send(QoS::AtLeastOnce, n, 1);
            assert_ne!(id, kept);
            assert_eq!(out.puback(id), Acknowledged::Message { sequence: n, cost: 1 });
        }
        assert_eq!(out.puback(kept), Acknowledged::Message { sequence: 0, cost: 1 });
        assert_eq!(out.in_flight(), 0);
    }

    #[test]
    fn restored_ids_are_skipped() {
        let mut out = Outbound::default();
        for n in 1..=3 {
            out.restore(PacketId::new(n).unwrap(), QoS::ExactlyOnce, false, u64::from(n), 1);
        }
        assert_eq!(out.send(QoS::AtLeastOnce, 9, 1).get(), 4);
    }

    #[test]
    fn a_full_range_still_finds_the_one_free_id() {
        let mut out = Outbound::default();
        for n in 1..=u16::MAX {
            if n != 40_000 {
                out.restore(PacketId::new(n).unwrap(), QoS::AtLeastOnce, false, 0, 1);
            }
        }
        assert_eq!(out.send(QoS::AtLeastOnce, 1, 1).get(), 40_000);
    }

    #[test]
    fn the_window_holds_back_and_order_is_kept() {
        let mut out = Outbound::default();
        for n in 1..=5 {
            out.wait(message(n));
        }
        assert!(!out.can_send(2), "nothing may overtake what waits");
        let mut sent = Vec::new();
        while let Some(next) = out.next_waiting(2) {
            sent.push((out.send(next.qos, next.sequence, 1), next.sequence));
        }
        assert_eq!(sent.iter().map(|s| s.1).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(out.puback(sent[0].0), Acknowledged::Message { sequence: 1, cost: 1 });
        assert_eq!(out.next_waiting(2).map(|w| w.sequence), Some(3));
        assert_eq!(out.waiting(), 2);
        assert!(out.waiting_bytes() > 0);
    }

    #[test]
    fn what_is_left_is_in_flight_or_waits() {
        let left = |out: &Outbound| {
            let mut left = out.left();
            std::iter::from_fn(|| left.pop_first()).collect::<Vec<_>>()
        };
        let mut out = Outbound::default();
        assert_eq!(left(&out), [0; 0]);
        out.wait(message(8));
        let first = out.send(QoS::AtLeastOnce, 5, 1);
        out.send(QoS::AtLeastOnce, 6, 1);
        assert_eq!(left(&out), [5, 6, 8]);
        out.puback(first);
        assert_eq!(left(&out), [6, 8]);
    }

    #[test]
    fn qos_2_goes_through_its_stages_and_pubrec_may_repeat() {
        let mut out = Outbound::default();
        let id = out.send(QoS::ExactlyOnce, 7, 1);
        assert_eq!(out.puback(id), Acknowledged::Unknown);
        assert_eq!(out.pubcomp(id), Acknowledged::Unknown);
        assert!(out.is_in_flight(id));
        assert_eq!(out.pubrec(id), Acknowledged::Message { sequence: 7, cost: 1 });
        assert_eq!(out.pubrec(id), Acknowledged::Message { sequence: 7, cost: 1 });
        assert_eq!(out.pubcomp(id), Acknowledged::Message { sequence: 7, cost: 1 });
        assert_eq!(out.pubcomp(id), Acknowledged::Unknown);
        assert!(!out.is_in_flight(id));
    }
}
