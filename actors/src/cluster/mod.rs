//! This node's part in a cluster: what the other nodes want of its publishes, what it wants of
//! theirs, and the work that arbiters give PeersActor.
//!
//! Like [`Shared`](crate::shared::Shared) it outlives every actor. Locks are held for one operation.
//!
//! Bounds: a filter of any node once (in [`Cluster::remote`] and [`interest::LocalInterest`]), a
//! link by `cluster.max_link_bytes`.

mod discovery;
mod heirs;
mod inbound;
mod incoming;
mod inherit;
mod interest;
mod io;
mod link;
mod members;
mod moves;
mod peers;
mod retained;
mod sessions;

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use ahash::AHashSet;
use hydrant_protocol::cluster::View;
use hydrant_protocol::cluster::message::{Control, Handed, Interest, PublishId};
use hydrant_protocol::cluster::seen::{Seen, Stay};
use hydrant_protocol::topic::SubscriptionTable;
use hydrant_protocol::{Message, QoS};
use parking_lot::{Mutex, RwLock};

use crate::inbox::Inbox;
use crate::ports::{Membership, OpenPublish, Sealing, SessionId, SharedStore, StoredSession};
use crate::shard::Barrier;
use crate::shared::Token;

pub use discovery::DiscoveryActor;
pub use inbound::FromPeer;
pub use interest::LocalInterest;
pub use peers::PeersActor;
pub(crate) use peers::describe;
pub use retained::RetainedVersions;

/// Index of a node in [`Cluster::nodes`].
pub type NodeIndex = u16;

/// What a cluster needs from outside.
pub struct ClusterParts {
    /// Who else there is.
    pub membership: Arc<dyn Membership>,
    /// The store that all nodes share.
    pub store: Arc<dyn SharedStore>,
    /// The bound socket for the other nodes, non-blocking.
    pub listener: Arc<TcpListener>,
    /// Choices and bounds.
    pub settings: ClusterSettings,
}

/// Choices and bounds of a cluster.
#[derive(Debug, Clone)]
pub struct ClusterSettings {
    /// `cluster.id`: what nodes of one cluster have in common.
    pub id: Arc<str>,
    /// `cluster.advertise`: host and port at which the others reach this node.
    pub peer: String,
    /// `cluster.advertise_mqtt`: the same for clients.
    pub mqtt: Vec<String>,
    /// The broker's version, for people.
    pub version: String,
    /// `cluster.max_link_bytes`: bytes on their way to one other node; past it what nobody waits
    /// for is dropped.
    pub max_link_bytes: usize,
    /// How long the loss of a node may take to be repaired: ZooKeeper's session time-out, the lease in
    /// the store and a second. What waits longer is said so in the log.
    pub repair: Duration,
}

/// See the module.
pub struct Cluster {
    /// `node.id`.
    pub node_id: Arc<str>,
    /// The number of this start.
    pub incarnation: u64,
    /// Choices and bounds.
    pub settings: ClusterSettings,
    /// The store that all nodes share.
    pub store: Arc<dyn SharedStore>,
    /// What other nodes want. A QoS of 0 stands for [`Interest::Live`], one of 1 for
    /// [`Interest::Queues`].
    pub remote: RwLock<SubscriptionTable<NodeIndex>>,
    /// What this node wants.
    pub interest: Mutex<LocalInterest>,
    /// Which of two changes of a topic's retained message counts; taken under the lock of
    /// [`Shared::retained`](crate::shared::Shared::retained).
    pub retained: Mutex<RetainedVersions>,
    /// Batches of other nodes that a lost incarnation had stored whose sessions are here now, by the
    /// sender's incarnation and number: when they are sent again, they are known.
    pub stored_batches: Mutex<AHashSet<(u64, u64)>>,
    /// QoS 2 publishes of other nodes that this one has routed.
    pub seen: Mutex<Seen>,
    /// Publishes that lost nodes had begun, or earlier starts of this one, and that are not everywhere.
    begun: Mutex<BTreeSet<PublishId>>,
    /// Incarnations that were over before this start and whose sessions it has had from the beginning.
    pub continued: Vec<u64>,
    /// Lost incarnations that are being sealed, or are and whose sessions are not in force here: what the
    /// store says of this node's sessions is not to be relied on.
    pub sealing: AtomicUsize,
    /// The nodes that ever were members, by their index.
    pub nodes: RwLock<Vec<Arc<Node>>>,
    /// PeersActor's inbox.
    pub work: Inbox<PeerWork>,
    /// Every member has told what it wants and holds: clients may come.
    pub synced: AtomicBool,
    /// Members as this node sees them.
    pub members: AtomicUsize,
    /// Changes of interest announced, and confirmed by every member.
    pub announced: AtomicU64,
    /// Number for the next session that leaves: this incarnation and a counter.
    pub next_move: AtomicU64,
    /// See `announced`.
    pub confirmed: AtomicU64,
    /// Batches for other nodes that are not stored there yet, and that somebody waits for or has to
    /// have.
    pub unstored: AtomicUsize,
}

/// Another node.
#[derive(Debug)]
pub struct Node {
    /// Its node id.
    pub id: Arc<str>,
    /// The link to it is up.
    pub up: AtomicBool,
    /// Not 0: that batches of it are stored is kept in the store, and may be forgotten when it says so.
    pub kept: AtomicU8,
}

impl Node {
    fn new(id: &Arc<str>, up: bool) -> Arc<Self> {
        Arc::new(Self { id: Arc::clone(id), up: up.into(), kept: AtomicU8::new(0) })
    }
}

/// Work for PeersActor.
#[derive(Debug)]
pub enum PeerWork {
    /// A batch of publishes for a node.
    Publishes {
        /// Whose subscribers they are for.
        node: NodeIndex,
        /// A batch as in `hydrant_protocol::cluster::message`, its number not set.
        body: Vec<u8>,
        /// Publishes in it.
        count: u32,
        /// Answered when what they had to have stored there is stored.
        tokens: Vec<Token>,
        /// Some of them are for queues there: they outlive the node.
        queues: bool,
    },
    /// What stands in [`Cluster::interest`] is to be announced; the token is answered when all that was
    /// announced up to here is confirmed.
    Interest(Option<Token>),
    /// For every other node.
    Broadcast(Control),
    /// A batch of another node has been routed; it may send as much again.
    Consumed {
        /// The node.
        node: NodeIndex,
        /// Its incarnation.
        incarnation: u64,
        /// Bytes of the frame.
        bytes: u64,
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
    /// A client wants to connect; [`crate::shared::ManagerWork::Granted`] is the answer.
    Claim {
        /// Index of the arbiter.
        shard: u16,
        /// The connection there, and the stamp of the claim.
        conn: (usize, u32),
        /// Client id.
        client: Arc<str>,
        /// CleanSession.
        clean: bool,
        /// This node has a session of it already.
        known: bool,
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
    View(View),
    /// What the store has retained, and the versions.
    Retained(Vec<(Arc<Message>, u64)>),
    /// A session is to be given up; it waits for the marks of all nodes.
    Leaving {
        /// Number of the change of hands.
        id: u64,
        /// Client id.
        client: Arc<str>,
        /// The node that gets it.
        to: Arc<str>,
        /// Its filters, and the granted QoS of each.
        filters: Vec<(Arc<str>, u8)>,
        /// The lost incarnation that it was inherited from, as in `shard::sessions::Stored::estate`.
        estate: u64,
    },
    /// It stays after all.
    Keeps {
        /// Number of the change of hands.
        id: u64,
    },
    /// A session was given up to a node that is lost now: whose is it? [`ManagerWork::Recovered`] is the
    /// answer.
    ///
    /// [`ManagerWork::Recovered`]: crate::shared::ManagerWork::Recovered
    Recover {
        /// Index of its arbiter.
        shard: u16,
        /// Number of the change of hands.
        id: u64,
        /// Client id.
        client: Arc<str>,
        /// Its number in the store.
        session: SessionId,
    },
    /// All lanes of a node have sent again what a lost incarnation had not stored, as one arbiter has seen.
    ResentSeen {
        /// The lost one.
        incarnation: u64,
        /// The arbiter.
        shard: u16,
        /// The node.
        origin: NodeIndex,
    },
    /// The filters of a session that comes here are in force.
    Expected {
        /// Number of the change of hands.
        id: u64,
    },
    /// One of this node's routers has passed a barrier.
    Passed {
        /// The barrier.
        barrier: Arc<Barrier>,
        /// The router, and how many there are.
        lane: (u16, u16),
    },
    /// All lanes of a node have marked the session that is here.
    Marked {
        /// Number of the change of hands.
        id: u64,
        /// Whose mark.
        origin: NodeIndex,
    },
    /// What a session has that goes to another node.
    Stayed {
        /// That node.
        to: Arc<str>,
        /// Client id.
        client: Arc<str>,
        /// Where it has been.
        stays: Vec<Stay>,
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
    /// The store has answered who holds a client's session, or has taken it.
    Looked {
        /// Number of the claim.
        request: u64,
        /// The holder's incarnation, where it is another.
        holder: Option<u64>,
        /// The session, now this node's.
        taken: Option<Box<StoredSession>>,
    },
    /// An attempt to seal a lost incarnation has ended.
    Sealed {
        /// The incarnation.
        incarnation: u64,
        /// How; `None`: the store does not answer, it is tried again.
        sealing: Option<Sealing>,
    },
    /// Every arbiter has taken over its part of what a lost incarnation held.
    Inherited {
        /// The incarnation.
        incarnation: u64,
        /// And those that it had sealed itself.
        incarnations: Vec<u64>,
        /// Client ids of the sessions.
        clients: Vec<Arc<str>>,
    },
}

/// Changes of hands of one incarnation: 2 to the power of this.
const MOVE_BITS: u32 = 32;
/// Cost of a small piece of work.
pub const SMALL: usize = 64;

impl Cluster {
    /// Of a node that has not joined yet.
    pub fn new(
        node_id: &Arc<str>,
        store: Arc<dyn SharedStore>,
        settings: ClusterSettings,
    ) -> Arc<Self> {
        let max = settings.max_link_bytes;
        let store_incarnation = store.incarnation();
        let stored_batches = store.stored_batches().into_iter().collect();
        let continued = store.continues();
        Arc::new(Self {
            node_id: Arc::clone(node_id),
            incarnation: store_incarnation,
            settings,
            store,
            remote: RwLock::new(SubscriptionTable::new()),
            interest: Mutex::new(LocalInterest::default()),
            retained: Mutex::default(),
            stored_batches: Mutex::new(stored_batches),
            seen: Mutex::default(),
            begun: Mutex::default(),
            continued,
            sealing: AtomicUsize::new(0),
            nodes: RwLock::default(),
            work: Inbox::new(usize::MAX, max),
            synced: AtomicBool::new(false),
            members: AtomicUsize::new(0),
            announced: AtomicU64::new(0),
            next_move: AtomicU64::new(store_incarnation << MOVE_BITS),
            confirmed: AtomicU64::new(0),
            unstored: AtomicUsize::new(0),
        })
    }

    /// The lease in the store runs: what leaves this node counts.
    pub fn may_act(&self) -> bool {
        self.store.holds_lease()
    }

    /// Nothing that was published here is still on its way to another node.
    pub fn is_idle(&self) -> bool {
        self.work.is_empty() && self.unstored.load(Ordering::SeqCst) == 0
    }

    /// True while a change of interest is not confirmed by every member.
    pub fn is_unsettled(&self) -> bool {
        self.announced.load(Ordering::SeqCst) != self.confirmed.load(Ordering::SeqCst)
    }

    /// The link to a node is up.
    pub fn is_up(&self, node: NodeIndex) -> bool {
        let nodes = self.nodes.read();
        nodes.get(usize::from(node)).is_some_and(|node| node.up.load(Ordering::Relaxed))
    }

    /// It is kept in the store which batches of a node are stored.
    pub fn keeps_batches_of(&self, node: NodeIndex) {
        if let Some(node) = self.nodes.read().get(usize::from(node)) {
            // What the node says next may be about those before this one only.
            node.kept.store(2, Ordering::Relaxed);
        }
    }

    /// What a lost incarnation had begun is finished here.
    pub fn finishes(&self, publishes: &[OpenPublish]) {
        let mut begun = self.begun.lock();
        begun.extend(publishes.iter().map(|publish| publish.id));
    }

    /// One of those is everywhere; true: it was the last of its incarnation.
    pub fn closed(&self, id: PublishId) -> bool {
        let mut begun = self.begun.lock();
        begun.remove(&id) && !begun.iter().any(|other| other.incarnation == id.incarnation)
    }

    /// A subscription of this node is new, changed or gone: its QoS before and after.
    pub fn subscription_changed(
        &self,
        filter: &Arc<str>,
        persistent: bool,
        before: Option<QoS>,
        after: Option<QoS>,
    ) {
        let level = |qos: Option<QoS>| match qos {
            None => Interest::None,
            Some(QoS::AtMostOnce) => Interest::Live,
            Some(_) if persistent => Interest::Queues,
            Some(_) => Interest::Live,
        };
        let mut interest = self.interest.lock();
        if interest.change(filter, level(before), level(after)) {
            self.announced.fetch_add(1, Ordering::SeqCst);
            self.work.push(PeerWork::Interest(None), SMALL);
        }
    }
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("node_id", &self.node_id).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]
mod tests;
