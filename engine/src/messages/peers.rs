//! What PeersActor is given to do: by the routers and managers of this node, by discovery, and as answers of the
//! store. Plain data.

use std::sync::Arc;

use hydrant_protocol::Message;
use hydrant_protocol::cluster::MembershipView;
use hydrant_protocol::cluster::dedup::Visit;
use hydrant_protocol::cluster::message::{Control, Handed};
use smallvec::SmallVec;

use super::{CompletionToken, StreamMarker};
use crate::cluster::{NodeIndex, Recipient};
use crate::ports::{Holder, KnownIncarnation, Sealing, SessionId, StoreError, StoredSession};

/// Work for PeersActor.
#[derive(Debug)]
pub enum PeerWork {
    /// A batch of publishes for an incarnation of a node.
    Publishes {
        /// Whose subscribers they are for.
        to: Recipient,
        /// A batch as in `hydrant_protocol::cluster::message`, its number not set.
        body: Vec<u8>,
        /// Publishes in it.
        count: u32,
        /// Answered when what they had to have stored there is stored.
        tokens: Vec<CompletionToken>,
        /// Some of them are for queues there: they outlive the node.
        queues: bool,
        /// The highest number of a publish in it that its router has prepared; 0: none. [`u64::MAX`]: a lost node
        /// had prepared one.
        prepared: u64,
    },
    /// What stands in `Cluster::interest` is to be announced; the token is answered
    /// when all that was announced up to here is confirmed.
    Interest(Option<CompletionToken>),
    /// For every other node.
    Broadcast(Control),
    /// A retained message that was ahead of live subscribers is not any more, for every other node.
    RetainedReached {
        /// Topic name.
        topic: Arc<str>,
        /// Version of the change.
        version: u64,
        /// The router that has published it.
        router: u16,
        /// Who gets its publish; `None`: nobody will.
        routed: Option<SmallVec<[Recipient; 2]>>,
    },
    /// A batch of another node has been routed; it may send as much again.
    Consumed {
        /// The node.
        node: NodeIndex,
        /// Its incarnation.
        incarnation: u64,
        /// Bytes of the frame.
        bytes: u64,
        /// That it is stored is kept in the store.
        kept: bool,
    },
    /// What a batch of another node had to have stored is stored.
    Stored {
        /// The node.
        node: NodeIndex,
        /// Its incarnation.
        incarnation: u64,
        /// The batch.
        batch: u64,
    },
    /// A client wants to connect; [`ManagerWork::Granted`](super::ManagerWork::Granted) is the answer.
    Claim {
        /// Index of the worker.
        worker: u16,
        /// The connection there, and the number of the claim.
        conn: (usize, u32),
        /// Client id.
        client: Arc<str>,
        /// CleanSession.
        clean: bool,
        /// This node has a session of it already.
        known: bool,
    },
    /// The connection of a claim has ended before it was let in.
    Unclaim {
        /// Index of the worker.
        worker: u16,
        /// The number of the claim.
        claim: u32,
    },
    /// A session of this node has ended.
    Gone {
        /// Client id.
        client: Arc<str>,
        /// The last admission that had been heard of then.
        seen: u64,
    },
    /// Sessions that were found in the store at start.
    Holds(Vec<Arc<str>>),
    /// The members have changed.
    Members(MembershipView),
    /// A session is to be given up; it waits for the markers of all nodes.
    Offer {
        /// Number of the handover.
        id: u64,
        /// Client id.
        client: Arc<str>,
        /// The node that gets it.
        to: Arc<str>,
        /// Its filters, and the granted QoS of each.
        filters: Vec<(Arc<str>, u8)>,
        /// The lost incarnation that it was taken over from, as in `worker::state::sessions::Stored::orphan`.
        orphan: u64,
    },
    /// It stays after all.
    Abort {
        /// Number of the handover.
        id: u64,
    },
    /// A session was given up to a node that is lost now: whose is it? [`ManagerWork::Recovered`] is the
    /// answer.
    ///
    /// [`ManagerWork::Recovered`]: super::ManagerWork::Recovered
    Recover {
        /// Index of its worker.
        worker: u16,
        /// Number of the handover.
        id: u64,
        /// Client id.
        client: Arc<str>,
        /// Its number in the store.
        session: SessionId,
    },
    /// All routers of a node have sent again what a lost incarnation had not stored, as one worker has seen.
    ResentSeen {
        /// The lost one.
        incarnation: u64,
        /// The worker.
        worker: u16,
        /// The node.
        origin: NodeIndex,
    },
    /// The filters of a session that comes here are in force.
    Expected {
        /// Number of the handover.
        id: u64,
    },
    /// One of this node's routers has passed a marker.
    MarkerPassed {
        /// The marker.
        marker: Arc<StreamMarker>,
        /// The router, and how many there are.
        router: (u16, u16),
    },
    /// All routers of a node have marked the session that is here.
    NodeMarked {
        /// Number of the handover.
        id: u64,
        /// Whose marker.
        origin: NodeIndex,
    },
    /// What a session has that goes to another node.
    Visited {
        /// That node.
        to: Arc<str>,
        /// Client id.
        client: Arc<str>,
        /// Where it has been.
        visits: Vec<Visit>,
    },
    /// A session is given up; everything of it is stored.
    Released {
        /// Who asked.
        owner: Arc<str>,
        /// Its ticket.
        ticket: u64,
        /// Client id.
        client: Arc<str>,
        /// The persistent session.
        handed: Option<Handed>,
    },
    /// The store has forgotten the prepared publishes of a router below a number.
    PreparedForgotten {
        /// The router.
        router: u16,
        /// See above.
        below: u64,
    },
    /// Every prepared publish of a lost incarnation is everywhere, and the store has forgotten them.
    Finished {
        /// See above.
        incarnation: u64,
    },
    /// What the coordinator has asked for has come to an end.
    Answered {
        /// The number of its request.
        request: u64,
        /// How.
        answer: Answer,
    },
}

/// The answers to what the coordinator asks of the store and of this node's workers.
#[derive(Debug)]
pub enum Answer {
    /// All incarnations that share the store.
    Incarnations(Result<Vec<KnownIncarnation>, StoreError>),
    /// The filters of some lineages with QoS 1-2.
    Wanted(Result<Vec<Arc<str>>, StoreError>),
    /// All retained messages, and the versions.
    Retained(Result<Vec<(Arc<Message>, u64)>, StoreError>),
    /// Who holds a client's session.
    Located(Result<Option<Holder>, StoreError>),
    /// A session, now this node's; `None`: it was not as it was said to be.
    Taken(Result<Option<Box<StoredSession>>, StoreError>),
    /// How an attempt to seal a lost incarnation has ended.
    Sealed(Result<Sealing, StoreError>),
    /// Every worker has taken over its part of what a lost incarnation held.
    TakenOver,
}
