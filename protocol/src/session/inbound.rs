//! Incoming QoS 2: the packet ids received and not released ([MQTT-4.3.3-2]).
//!
//! Bounded by the 65,535 packet ids there are; an entry is 4 bytes.

use crate::PacketId;

/// What a QoS 2 PUBLISH means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Receipt {
    /// The first with this id since its release: it is to be forwarded, once.
    New,
    /// Seen, and its receipt is not durable yet: its PUBREC follows when it is.
    Pending,
    /// Seen and durable: PUBREC again, nothing is forwarded.
    Known,
}

/// What a PUBREL means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    /// The id was held and is free now.
    Released,
    /// The id was not held: PUBCOMP all the same, since the first one may have been lost.
    Unknown,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    id: PacketId,
    durable: bool,
    again: bool,
}

/// Receipts of one session, oldest first. Empty costs 24 bytes and no allocation.
#[derive(Debug, Default)]
pub struct Inbound {
    held: Vec<Held>,
}

impl Inbound {
    /// Bytes that a receipt takes, the spare room of a list that grows included.
    pub const COST: usize = 2 * size_of::<Held>();

    /// Receipts found in the store.
    pub fn restored(ids: &[PacketId]) -> Self {
        Self { held: ids.iter().map(|id| Held { id: *id, durable: true, again: false }).collect() }
    }

    /// A QoS 2 PUBLISH with this id arrives. [`Receipt::New`] holds the id from now on, pending
    /// until [`Self::stored`].
    pub fn publish(&mut self, id: PacketId) -> Receipt {
        match self.held.iter_mut().find(|held| held.id == id) {
            Some(held) if held.durable => Receipt::Known,
            Some(held) => {
                held.again = true;
                Receipt::Pending
            }
            None => {
                self.held.push(Held { id, durable: false, again: false });
                Receipt::New
            }
        }
    }

    /// A message under this id is being handled, which the client may send again.
    pub fn hold(&mut self, id: PacketId) {
        if !self.held.iter().any(|held| held.id == id) {
            self.held.push(Held { id, durable: false, again: false });
        }
    }

    /// True when the PUBLISH under `id` came again while it was pending, perhaps on another
    /// connection than the first.
    pub fn came_again(&self, id: PacketId) -> bool {
        self.held.iter().any(|held| held.id == id && held.again)
    }

    /// What the route asks for has happened to the message under `id`: PUBREC may be sent. False
    /// when the id has been released meanwhile.
    pub fn stored(&mut self, id: PacketId) -> bool {
        match self.held.iter_mut().find(|held| held.id == id) {
            Some(held) => {
                held.durable = true;
                true
            }
            None => false,
        }
    }

    /// PUBREL with this id arrives ([MQTT-4.3.3-2]).
    pub fn release(&mut self, id: PacketId) -> Release {
        match self.held.iter().position(|held| held.id == id) {
            // Order does not matter to anybody; ids are mostly released oldest first.
            Some(at) => {
                self.held.remove(at);
                if self.held.is_empty() && self.held.capacity() > 64 {
                    self.held = Vec::new();
                }
                Release::Released
            }
            None => Release::Unknown,
        }
    }

    /// Ids held.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// True when none is held.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn id(n: u16) -> PacketId {
        PacketId::new(n).unwrap()
    }

    #[test]
    fn a_resent_publish_is_recognised_until_its_release() {
        let mut inbound = Inbound::default();
        assert_eq!(inbound.publish(id(1)), Receipt::New);
        assert!(!inbound.came_again(id(1)));
        assert_eq!(inbound.publish(id(1)), Receipt::Pending);
        assert!(inbound.came_again(id(1)));
        assert!(inbound.stored(id(1)));
        assert_eq!(inbound.publish(id(1)), Receipt::Known);
        assert_eq!(inbound.release(id(1)), Release::Released);
        assert_eq!(inbound.release(id(1)), Release::Unknown);
        assert!(!inbound.stored(id(1)));
        assert_eq!(inbound.publish(id(1)), Receipt::New);
        // One that was begun before.
        inbound.hold(id(2));
        assert!(!inbound.came_again(id(2)));
        assert_eq!(inbound.publish(id(2)), Receipt::Pending);
        assert!(inbound.came_again(id(2)));
    }

    #[test]
    fn restored_receipts_are_known() {
        let mut inbound = Inbound::restored(&[id(5), id(6)]);
        assert_eq!(inbound.publish(id(6)), Receipt::Known);
        assert_eq!(inbound.len(), 2);
    }
}
