//! What the nodes of a cluster say to each other over a peer link: the bodies of its frames.
//!
//! Control messages are many in a frame, publishes are one batch in a frame: records without a gap, so
//! that the router of the sender writes into what is sent and that of the receiver reads from it.
//! Bounds: a frame by the link's largest; [`publishes`] checks every length before it uses it.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::seen::Stay;
use crate::QoS;

/// Kind of a frame with control messages.
pub const CONTROL: u8 = 1;
/// Kind of a frame with a batch of publishes.
pub const PUBLISHES: u8 = 2;

/// How much one node wants of what matches a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Interest {
    /// Nothing any more.
    None,
    /// It has subscribers; nobody waits for it.
    Live,
    /// It has persistent sessions that queue QoS 1-2: a publisher's acknowledgement waits for it.
    Queues,
}

/// A session that changes hands, and where it stands in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handed {
    /// Its number in the store.
    pub session: u64,
    /// The incarnation that held it.
    pub incarnation: u64,
    /// When it was given up, as the store counts. If its holder has taken it back since, nobody gets it.
    pub stamp: u64,
}

/// One control message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Control {
    /// From here on the sender wants this of these filters.
    Interest {
        /// To be confirmed; 0: nobody waits for it.
        request: u64,
        /// Filter and what is wanted.
        changes: Vec<(Arc<str>, Interest)>,
    },
    /// The receiver forgets what it knew of the sender's interest; what follows is all of it, up to
    /// [`Control::InterestWhole`].
    InterestAnew,
    /// See [`Control::InterestAnew`].
    InterestWhole,
    /// An [`Control::Interest`] is in force at the sender.
    InterestConfirmed {
        /// Which.
        request: u64,
    },
    /// What the publishes of these batches had to have stored is stored.
    Done {
        /// Their numbers.
        batches: Vec<u64>,
    },
    /// The sender has heard of the end of every batch with a lower number, and sends none of them again.
    Answered {
        /// The lowest that is open.
        below: u64,
    },
    /// A retained message, or the end of one.
    Retained {
        /// Topic name.
        topic: Arc<str>,
        /// Empty: it is removed.
        payload: Bytes,
        /// Its QoS, 0 to 2.
        qos: u8,
        /// Of two the higher one counts.
        version: u64,
    },
    /// To the owner of these client ids: the sender holds their sessions.
    Held {
        /// Client id, and whether its session ends with its connection.
        clients: Vec<(Arc<str>, bool)>,
    },
    /// The sender has told everybody what it holds, by the members with this [`super::View::digest`].
    Synced {
        /// Digest of the view.
        view: u64,
    },
    /// To the owner of a client id: a client wants to connect at the sender.
    Claim {
        /// Number of the request at the sender.
        request: u64,
        /// Client id.
        client: Arc<str>,
        /// CleanSession.
        clean: bool,
        /// The incarnation that holds it by the store, where that was asked; 0: none does.
        hint: Option<u64>,
    },
    /// The sender of a [`Control::Claim`] holds the client's session from here on.
    Granted {
        /// The request.
        request: u64,
        /// The persistent session that another node held.
        from: Option<Handed>,
    },
    /// The sender does not own that client id (any more): the request is to be made again.
    NotOwner {
        /// The request.
        request: u64,
    },
    /// To the holder of a session: another node wants it.
    Release {
        /// Number of the change of hands at the owner.
        ticket: u64,
        /// Client id.
        client: Arc<str>,
        /// The node that gets it.
        to: Arc<str>,
    },
    /// The answer: the sender holds it no longer.
    Released {
        /// The ticket.
        ticket: u64,
        /// Client id.
        client: Arc<str>,
        /// The persistent session.
        handed: Option<Handed>,
    },
    /// To the owner: the session has ended.
    Gone {
        /// Client id.
        client: Arc<str>,
    },
    /// All that a lost incarnation held is the sender's now, and its interest was sent before this.
    Inherited {
        /// The lost one.
        incarnation: u64,
        /// As which the sender knows its sessions: the one that it inherited them from, where that had
        /// inherited them itself.
        estate: u64,
    },
    /// These are lost and have no heir yet, with their node ids: who starts now does not know what they wanted.
    Lost {
        /// Incarnation and node id.
        incarnations: Vec<(u64, Arc<str>)>,
    },
    /// To the node that gets a session: its holder is ready to give it up.
    Leaving {
        /// Number of the change of hands: incarnation and counter of the holder.
        id: u64,
        /// Client id.
        client: Arc<str>,
        /// Its filters, and the granted QoS of each.
        filters: Vec<(Arc<str>, u8)>,
        /// The lost incarnations that it may have been inherited from.
        estates: Vec<u64>,
    },
    /// The sender keeps that session after all.
    Withdrawn {
        /// As in [`Control::Leaving`].
        id: u64,
        /// Client id.
        client: Arc<str>,
    },
    /// The sender has that session.
    Taken {
        /// As in [`Control::Leaving`].
        id: u64,
    },
    /// The sender takes a session with these filters over from a node: the receiver sends what
    /// matches them to the sender as well, and says to both where in its stream that begins.
    Move {
        /// As in [`Control::Leaving`].
        id: u64,
        /// Client id.
        client: Arc<str>,
        /// The node that has it.
        from: Arc<str>,
        /// Its filters.
        filters: Vec<Arc<str>>,
        /// As in [`Control::Leaving`]: what was for these is to be sent again before the marks.
        estates: Vec<u64>,
    },
    /// What this lane of the sender publishes behind this goes to the taker of that session as well: its holder
    /// queues nothing of it any more, and its taker everything.
    Mark {
        /// As in [`Control::Leaving`].
        id: u64,
        /// Client id.
        client: Arc<str>,
        /// The lane, and how many the sender has: each says so for itself.
        lane: (u16, u16),
    },
    /// To the node that gets a session: where it has been.
    Stayed {
        /// Client id.
        client: Arc<str>,
        /// The last one last.
        stays: Vec<Stay>,
    },
    /// This lane of the sender has sent the receiver again what a lost incarnation had not stored: what
    /// it publishes behind this for the sessions of that one, it publishes to the receiver alone.
    Resent {
        /// The lost one.
        incarnation: u64,
        /// As in [`Control::Mark`].
        lane: (u16, u16),
    },
}

/// Control messages as the body of a frame.
pub fn encode(messages: &[Control]) -> Bytes {
    // A type without a map or a float of unknown length is always encoded.
    postcard::to_allocvec(messages).unwrap_or_default().into()
}

/// The other way; `None`: not a frame of this version.
pub fn decode(body: &[u8]) -> Option<Vec<Control>> {
    postcard::from_bytes(body).ok()
}

/// Which of the receiver's subscribers a publish is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// All.
    All,
    /// QoS 2, not stored yet: queues of persistent sessions only.
    Queues,
    /// QoS 2, stored: everybody else.
    Live,
}

/// Tells a QoS 2 publish from every other one, also when another node publishes it again for a lost one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublishId {
    /// The start of a node that has it from its publisher.
    pub incarnation: u64,
    /// The router there.
    pub lane: u16,
    /// 1, 2, 3 … in the order of that router.
    pub number: u64,
}

/// What goes with a publish that must not be taken twice; [`super::seen`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Open {
    /// Which it is.
    pub id: PublishId,
    /// Every number of its lane below this is everywhere.
    pub floor: u64,
    /// The sessions that its incarnation held have it.
    pub queued: bool,
}

/// One publish of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Publish<'a> {
    /// Topic name.
    pub topic: &'a str,
    /// Application message.
    pub payload: &'a [u8],
    /// QoS of the PUBLISH.
    pub qos: QoS,
    /// Its route waits for the store.
    pub durable: bool,
    /// Whom it is for.
    pub audience: Audience,
    /// It must not be taken twice.
    pub open: Option<Open>,
}

/// Bytes before the records of a batch: its number, and the lane its publishers are in.
const HEAD: usize = 8 + 2 + 8;
/// Bytes of a record before topic and payload.
const RECORD: usize = 1 + 2 + 4;
/// Bytes of [`Open`] between the two.
const OPEN: usize = 8 + 2 + 8 + 8;
/// Bits of a record's first byte beside QoS and audience.
const DURABLE: u8 = 1 << 2;
const IS_OPEN: u8 = 1 << 5;
const IS_QUEUED: u8 = 1 << 6;

/// Begins a batch in an empty buffer. `batch` 0: nobody waits for it. Batches of one `lane` are
/// routed in order. `estate` is 0, or a lost incarnation: only sessions that were held by it get this.
pub fn begin(out: &mut Vec<u8>, batch: u64, lane: u16, estate: u64) {
    out.clear();
    out.extend_from_slice(&batch.to_le_bytes());
    out.extend_from_slice(&lane.to_le_bytes());
    out.extend_from_slice(&estate.to_le_bytes());
}

/// Sets the head of a batch that was begun.
pub fn set_head(out: &mut [u8], batch: u64, estate: u64) {
    if out.len() >= HEAD {
        out[..8].copy_from_slice(&batch.to_le_bytes());
        out[10..HEAD].copy_from_slice(&estate.to_le_bytes());
    }
}

/// Appends a publish to a batch. A topic is at most 65,535 bytes, a payload less than 4 GiB, by the
/// wire format of MQTT.
pub fn append(out: &mut Vec<u8>, publish: &Publish<'_>) {
    let audience = match publish.audience {
        Audience::All => 0,
        Audience::Queues => 1,
        Audience::Live => 2,
    };
    let durable = if publish.durable { DURABLE } else { 0 };
    let open = publish.open.map_or(0, |open| IS_OPEN | if open.queued { IS_QUEUED } else { 0 });
    out.push(publish.qos as u8 | durable | audience << 3 | open);
    #[allow(clippy::cast_possible_truncation)]
    {
        out.extend_from_slice(&(publish.topic.len() as u16).to_le_bytes());
        out.extend_from_slice(&(publish.payload.len() as u32).to_le_bytes());
    }
    if let Some(Open { id, floor, .. }) = publish.open {
        out.extend_from_slice(&id.incarnation.to_le_bytes());
        out.extend_from_slice(&id.lane.to_le_bytes());
        out.extend_from_slice(&id.number.to_le_bytes());
        out.extend_from_slice(&floor.to_le_bytes());
    }
    out.extend_from_slice(publish.topic.as_bytes());
    out.extend_from_slice(publish.payload);
}

/// Number, lane and estate of a batch, and its publishes; `None`: too short to be one.
pub fn publishes(body: &[u8]) -> Option<(u64, u16, u64, Publishes<'_>)> {
    let (head, records) = body.split_at_checked(HEAD)?;
    let number = u64::from_le_bytes(head[..8].try_into().ok()?);
    let lane = u16::from_le_bytes(head[8..10].try_into().ok()?);
    let estate = u64::from_le_bytes(head[10..].try_into().ok()?);
    Some((number, lane, estate, Publishes { rest: records }))
}

/// The publishes of a batch, in order; ends early at a record that is cut off or not one.
#[derive(Debug, Clone, Default)]
pub struct Publishes<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Publishes<'a> {
    type Item = Publish<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let (head, rest) = self.rest.split_at_checked(RECORD)?;
        let topic_len = usize::from(u16::from_le_bytes([head[1], head[2]]));
        let payload_len = u32::from_le_bytes([head[3], head[4], head[5], head[6]]) as usize;
        let (open, rest) = match head[0] & IS_OPEN {
            0 => (None, rest),
            _ => {
                let (open, rest) = rest.split_at_checked(OPEN)?;
                (Some(read_open(open, head[0] & IS_QUEUED != 0)?), rest)
            }
        };
        let (topic, rest) = rest.split_at_checked(topic_len)?;
        let (payload, rest) = rest.split_at_checked(payload_len)?;
        self.rest = rest;
        let qos = match head[0] & 3 {
            0 => QoS::AtMostOnce,
            1 => QoS::AtLeastOnce,
            2 => QoS::ExactlyOnce,
            _ => return None,
        };
        let audience = match (head[0] & !(IS_OPEN | IS_QUEUED)) >> 3 {
            0 => Audience::All,
            1 => Audience::Queues,
            2 => Audience::Live,
            _ => return None,
        };
        let topic = std::str::from_utf8(topic).ok()?;
        Some(Publish { topic, payload, qos, durable: head[0] & DURABLE != 0, audience, open })
    }
}

fn read_open(bytes: &[u8], queued: bool) -> Option<Open> {
    let (incarnation, rest) = bytes.split_first_chunk()?;
    let (lane, rest) = rest.split_first_chunk()?;
    let (number, rest) = rest.split_first_chunk()?;
    let (floor, _) = rest.split_first_chunk()?;
    let id = PublishId {
        incarnation: u64::from_le_bytes(*incarnation),
        lane: u16::from_le_bytes(*lane),
        number: u64::from_le_bytes(*number),
    };
    Some(Open { id, floor: u64::from_le_bytes(*floor), queued })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_batch_comes_back_as_it_was() {
        let publish = |topic, payload, qos, audience| Publish {
            topic,
            payload,
            qos,
            durable: qos != QoS::AtMostOnce,
            audience,
            open: None,
        };
        let id = PublishId { incarnation: u64::MAX, lane: 2, number: 5 };
        let open = Some(Open { id, floor: 4, queued: true });
        let all = [
            publish("a/b", b"x".as_slice(), QoS::AtMostOnce, Audience::All),
            publish("", b"", QoS::AtLeastOnce, Audience::Live),
            publish("é/#", &[0; 70_000], QoS::ExactlyOnce, Audience::Queues),
            Publish { open, ..publish("c", b"y", QoS::ExactlyOnce, Audience::Live) },
        ];
        let mut body = Vec::new();
        begin(&mut body, 0, 3, 0);
        all.iter().for_each(|publish| append(&mut body, publish));
        set_head(&mut body, 9, 7);
        let (number, lane, estate, found) = publishes(&body).unwrap();
        assert_eq!((number, lane, estate), (9, 3, 7));
        assert_eq!(found.collect::<Vec<_>>(), all);
    }

    #[test]
    fn control_messages_come_back_as_they_were() {
        let all = vec![
            Control::Interest { request: 4, changes: vec![("a/+".into(), Interest::Queues)] },
            Control::Granted {
                request: 1,
                from: Some(Handed { session: 2, incarnation: 3, stamp: 4 }),
            },
        ];
        assert_eq!(decode(&encode(&all)).unwrap(), all);
        assert_eq!(decode(&[1, 200]), None);
    }

    proptest! {
        #[test]
        fn garbage_is_no_panic(body: Vec<u8>) {
            let _ = decode(&body);
            if let Some((.., found)) = publishes(&body) {
                found.for_each(drop);
            }
        }
    }
}
