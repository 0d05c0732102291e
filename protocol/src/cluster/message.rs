//! What the nodes of a cluster say to each other over a peer link: the bodies of its frames.
//!
//! Control messages are many in a frame; publishes are one batch in a frame ([`super::batch`]).
//! Bounds: a frame by the link's largest.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::dedup::Visit;

pub use super::batch::{
    Prepared, Publish, PublishId, Publishes, Recipients, append, begin, publishes, set_head,
};

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
    pub given_up: u64,
}

/// A lost incarnation whose sessions a node has; as in [`Control::TakenOver`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakenOver {
    /// The lost one.
    pub incarnation: u64,
    /// See there.
    pub orphan: u64,
    /// See there.
    pub lineage: u64,
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
    /// [`Control::InterestWhole`]. Interest of an earlier start of that node is not the sender's.
    InterestAnew {
        /// The sender's lineage: the number of the first of those starts that followed each other.
        lineage: u64,
        /// What it has taken over. A receiver that keeps nothing for any of an orphaned state says [`Control::Resent`]
        /// for them before it publishes anything to the sender.
        taken_over: Vec<TakenOver>,
        /// It awaits no [`Control::Resent`] for them.
        settled: bool,
    },
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
        /// The lowest that is prepared.
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
        /// Live subscribers get it later: its publish says when ([`Publish::shows`]), or
        /// [`Control::RetainedReached`] does.
        ahead: bool,
    },
    /// What [`Control::Retained`] had ahead is not any more: for live subscribers of the receiver as well.
    RetainedReached {
        /// Topic name.
        topic: Arc<str>,
        /// As in [`Control::Retained`].
        version: u64,
        /// The router that has published it: this comes behind what that has published before.
        router: u16,
        /// The receiver gets no publish of it: whoever has subscribed there since gets it by this.
        live: bool,
    },
    /// The sender has changed retained messages that it did not tell the receiver, while there was no link.
    RetainedMissed,
    /// The sender is about to read the retained messages from the store: what the receiver has told it is to be there.
    RetainedFlush {
        /// Number of this at the sender.
        round: u64,
    },
    /// What this router of the sender had changed of retained messages before is in the store.
    RetainedFlushed {
        /// As in [`Control::RetainedFlush`].
        round: u64,
        /// As in [`Control::StreamMarker`].
        router: (u16, u16),
    },
    /// To the owner of these client ids: the sender holds their sessions.
    Held {
        /// Client id, and whether its session ends with its connection.
        clients: Vec<(Arc<str>, bool)>,
    },
    /// The sender has told everybody what it holds, by the members with this [`super::MembershipView::digest`].
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
    /// To the owner of a client id: the client of that claim has left. What is granted already is given back.
    Unclaim {
        /// The request.
        request: u64,
        /// Client id.
        client: Arc<str>,
    },
    /// The answer: that claim is not granted any more.
    Unclaimed {
        /// The request.
        request: u64,
    },
    /// The sender stops in order: that its link ends is as it should be.
    Stopping,
    /// The link is up again: the receiver answers behind what it had queued meanwhile. Its claims wait for that,
    /// so that one whose client has left since is withdrawn before it is looked at.
    Resuming {
        /// Number of the question.
        number: u64,
    },
    /// The answer.
    Resumed {
        /// Number of the question.
        number: u64,
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
        /// Number of the handover at the owner.
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
    TakenOver {
        /// The lost one.
        incarnation: u64,
        /// As which the sender knows its sessions: the one that it took them over from, where that had
        /// taken them over itself.
        orphan: u64,
        /// Its lineage. Whoever still knows an earlier one of it knows by this that it is over, too.
        lineage: u64,
    },
    /// To the node that gets a session: its source is ready to give it up.
    Offer {
        /// Number of the handover: incarnation and counter of the source.
        id: u64,
        /// Client id.
        client: Arc<str>,
        /// Its filters, and the granted QoS of each.
        filters: Vec<(Arc<str>, u8)>,
        /// The lost incarnations that it may have been taken over from.
        orphans: Vec<u64>,
    },
    /// The sender keeps that session after all.
    Abort {
        /// As in [`Control::Offer`].
        id: u64,
        /// Client id.
        client: Arc<str>,
    },
    /// The sender has that session.
    Complete {
        /// As in [`Control::Offer`].
        id: u64,
    },
    /// The sender takes a session with these filters over from a node: the receiver sends what
    /// matches them to the sender as well, and says to both where in its stream that begins.
    Announce {
        /// As in [`Control::Offer`].
        id: u64,
        /// Client id.
        client: Arc<str>,
        /// The node that has it.
        from: Arc<str>,
        /// Its filters.
        filters: Vec<Arc<str>>,
        /// As in [`Control::Offer`]: what was for these is to be sent again before the markers.
        orphans: Vec<u64>,
    },
    /// What this router of the sender publishes behind this goes to the target of that session as well: its source
    /// queues nothing of it any more, and its target everything.
    StreamMarker {
        /// As in [`Control::Offer`].
        id: u64,
        /// Client id.
        client: Arc<str>,
        /// The router, and how many the sender has: each says so for itself.
        router: (u16, u16),
    },
    /// Every prepared publish of a lost incarnation is everywhere, as its successor says: none of them comes again.
    Finished {
        /// The lost one.
        incarnation: u64,
    },
    /// To a node that is back: sessions have moved without its markers while the sender did not see it. What it had
    /// published for one of them is answered for a session that is elsewhere, so it believes nothing behind this
    /// and ends.
    Missed {
        /// The start of the receiver that this is said to; another one ignores it.
        incarnation: u64,
    },
    /// To the node that gets a session: where it has been.
    Visited {
        /// Client id.
        client: Arc<str>,
        /// The last one last.
        visits: Vec<Visit>,
    },
    /// This router of the sender has sent the receiver again what a lost incarnation had not stored: what
    /// it publishes behind this for the sessions of that one, it publishes to the receiver alone.
    Resent {
        /// The lost one.
        incarnation: u64,
        /// As in [`Control::StreamMarker`].
        router: (u16, u16),
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::QoS;

    #[test]
    fn a_batch_comes_back_as_it_was() {
        let publish = |topic, payload, qos, recipients| Publish {
            topic,
            payload,
            qos,
            durable: qos != QoS::AtMostOnce,
            recipients,
            prepared: None,
            shows: 0,
        };
        let id = PublishId { incarnation: u64::MAX, router: 2, number: 5 };
        let prepared = Some(Prepared { id, low_watermark: 4, queued: true });
        let all = [
            publish("a/b", b"x".as_slice(), QoS::AtMostOnce, Recipients::All),
            publish("", b"", QoS::AtLeastOnce, Recipients::Live),
            publish("é/#", &[0; 70_000], QoS::ExactlyOnce, Recipients::Queues),
            Publish { prepared, ..publish("c", b"y", QoS::ExactlyOnce, Recipients::Live) },
            Publish { shows: 7, ..publish("d", b"", QoS::ExactlyOnce, Recipients::Live) },
            Publish {
                prepared,
                shows: 8,
                ..publish("e", b"z", QoS::ExactlyOnce, Recipients::Live)
            },
        ];
        let mut body = Vec::new();
        begin(&mut body, 0, 3, 0);
        all.iter().for_each(|publish| append(&mut body, publish));
        set_head(&mut body, 9, 7);
        let (number, router, orphan, found) = publishes(&body).unwrap();
        assert_eq!((number, router, orphan), (9, 3, 7));
        assert_eq!(found.collect::<Vec<_>>(), all);
    }

    #[test]
    fn control_messages_come_back_as_they_were() {
        let all = vec![
            Control::Interest { request: 4, changes: vec![("a/+".into(), Interest::Queues)] },
            Control::Granted {
                request: 1,
                from: Some(Handed { session: 2, incarnation: 3, given_up: 4 }),
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
