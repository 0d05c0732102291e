//! This node's part in a cluster: what the other nodes want of its publishes, and what it wants of
//! theirs.
//!
//! Like [`NodeTables`](crate::node_tables::NodeTables) it outlives every actor. Locks are held for one operation. Who
//! writes and reads each table stands in [`state::status`].
//!
//! Bounds: a filter of any node once (in [`Cluster::remote`] and [`LocalInterest`]), a
//! link by `cluster.max_link_bytes`.

pub mod coordinator;
mod forget;
mod handovers;
mod incoming;
mod lease;
mod lost_nodes;
mod members;
pub mod node_index;
mod refresh;
mod sending;
mod sessions;
pub mod state;
mod successors;
mod survey;
mod take_over;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ahash::AHashMap;
use hydrant_protocol::QoS;
use hydrant_protocol::cluster::dedup::DedupWindow;
use hydrant_protocol::cluster::message::{Interest, PublishId};
use parking_lot::{Mutex, RwLock, RwLockReadGuard};

use crate::ports::{PreparedPublish, SealedIncarnation, SessionId, StoredBatch};

pub use lease::{Beginning, GiveUp, Lease};
pub use lost_nodes::{LostNode, LostNodes};
pub use node_index::{EARLIER_STARTS, Node, NodeIndex, Recipient};
pub use state::interest::LocalInterest;
pub use state::remote::RemoteInterest;
pub use state::retained::RetainedVersions;
pub use state::status::ClusterStatus;

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
    /// How long a lost node's successor may take, from when it is no member: [`ClusterSettings::take_over_in`].
    pub take_over: Duration,
    /// How long the loss of a node may take to be repaired, from its last sign of life: the membership's
    /// time-out and `take_over`. What waits longer is said so in the log.
    pub repair: Duration,
}

/// What a successor needs beside the lease: to read what the lost node held and to have it in force. So long also
/// because ZooKeeper ends sessions in steps of its tickTime. Measured: 0.6 to 3.3 s with ten thousand sessions.
const SEAL: Duration = Duration::from_secs(4);

impl ClusterSettings {
    /// The lease, which its successor watches for a tenth longer, since clocks differ; and `SEAL`.
    pub fn take_over_in(lease: Duration) -> Duration {
        lease * 11 / 10 + SEAL
    }

    /// What clients of a killed node wait: until nobody hears it any more, and then for its successor.
    pub fn repaired_in(session_timeout: Duration, lease: Duration) -> Duration {
        session_timeout + Self::take_over_in(lease)
    }
}

/// See the module.
pub struct Cluster {
    /// `node.id`.
    pub node_id: Arc<str>,
    /// The number of this start.
    pub incarnation: u64,
    /// The lineage of this start.
    pub lineage: u64,
    /// Choices and bounds.
    pub settings: ClusterSettings,
    lease: Arc<dyn Lease>,
    store: Arc<dyn GiveUp>,
    /// What other nodes want, by incarnation.
    remote: RwLock<RemoteInterest>,
    /// What this node wants.
    interest: Mutex<LocalInterest>,
    /// Which of two changes of a topic's retained message counts; taken under the lock of
    /// [`NodeTables::retained`](crate::node_tables::NodeTables::retained).
    pub retained: Mutex<RetainedVersions>,
    /// Batches of other nodes that a lost incarnation had stored whose sessions are here now, by the
    /// sender's incarnation and number: when they are sent again, they are known, but for the sessions of these
    /// clients.
    stored_batches: Mutex<StoredBatches>,
    /// QoS 2 publishes of other nodes that this one has routed.
    pub dedup: Mutex<DedupWindow>,
    /// Publishes that lost nodes had begun, or earlier starts of this one, and that are not everywhere.
    begun: Mutex<BTreeSet<PublishId>>,
    /// Incarnations that were over before this start and whose sessions it has had from the beginning.
    pub continued: Vec<SealedIncarnation>,
    /// What the coordinator shows of the cluster.
    pub status: ClusterStatus,
    /// Changes of interest, counted.
    announced: AtomicU64,
    /// Number for the next session that leaves: this incarnation and a counter.
    pub next_move: AtomicU64,
}

/// Batches by the sender's incarnation and number, each with the clients for whose sessions it is not known.
type StoredBatches = AHashMap<(u64, u64), Vec<Arc<str>>>;

/// By its number, and for whom it is not known.
fn known_batch(batch: StoredBatch) -> ((u64, u64), Vec<Arc<str>>) {
    ((batch.origin, batch.number), batch.except)
}

/// Handovers of one incarnation: 2 to the power of this.
const MOVE_BITS: u32 = 32;

impl Cluster {
    /// Of a node that has not joined yet.
    pub fn new<S: Lease + GiveUp + 'static>(
        node_id: &Arc<str>,
        beginning: Beginning,
        store: &Arc<S>,
        settings: ClusterSettings,
    ) -> Arc<Self> {
        let Beginning { incarnation, lineage, continued, batches, prepared } = beginning;
        let stored_batches = batches.into_iter().map(known_batch).collect();
        let begun = prepared.iter().map(|publish| publish.id).collect();
        Arc::new(Self {
            node_id: Arc::clone(node_id),
            incarnation,
            lineage,
            settings,
            lease: Arc::clone(store) as Arc<dyn Lease>,
            store: Arc::clone(store) as Arc<dyn GiveUp>,
            remote: RwLock::default(),
            interest: Mutex::new(LocalInterest::default()),
            retained: Mutex::default(),
            stored_batches: Mutex::new(stored_batches),
            dedup: Mutex::default(),
            begun: Mutex::new(begun),
            continued,
            status: ClusterStatus::default(),
            announced: AtomicU64::new(0),
            next_move: AtomicU64::new(incarnation << MOVE_BITS),
        })
    }

    /// The lease in the store runs: what leaves this node counts.
    pub fn may_act(&self) -> bool {
        self.lease.holds()
    }

    /// A session is another node's to take: see [`GiveUp::give_up`].
    pub fn give_up(&self, session: SessionId) -> u64 {
        self.store.give_up(session)
    }

    /// Other nodes have stored what was published here and handed to PeersActor.
    pub fn is_idle(&self) -> bool {
        self.status.unstored() == 0
    }

    /// True while a change of interest is not confirmed by every member.
    pub fn is_unsettled(&self) -> bool {
        self.announced.load(Ordering::SeqCst) != self.status.confirmed()
    }

    /// Whether an incarnation was over before this start, which has had its sessions from the beginning.
    pub fn continues(&self, incarnation: u64) -> bool {
        self.continued.iter().any(|before| before.number == incarnation)
    }

    /// The last of those that this start goes on with: their sessions are known as its.
    pub fn predecessor(&self) -> Option<u64> {
        self.continued.iter().map(|before| before.number).max()
    }

    /// The link to a node is up.
    pub fn is_up(&self, node: NodeIndex) -> bool {
        self.status.is_up(node)
    }

    /// What other nodes want.
    pub fn remote(&self) -> RwLockReadGuard<'_, RemoteInterest> {
        self.remote.read()
    }

    /// A lost incarnation whose sessions are here has stored this batch for all of them.
    pub fn was_stored_by_all(&self, batch: (u64, u64)) -> bool {
        self.stored_batches.lock().get(&batch).is_some_and(Vec::is_empty)
    }

    /// It has stored this batch also for the session of this client.
    pub fn was_stored(&self, batch: (u64, u64), client: &Arc<str>) -> bool {
        let stored = self.stored_batches.lock();
        stored.get(&batch).is_some_and(|except| !except.contains(client))
    }

    /// What a lost incarnation had begun is finished here.
    fn finishes(&self, publishes: &[PreparedPublish]) {
        let mut begun = self.begun.lock();
        begun.extend(publishes.iter().map(|publish| publish.id));
    }

    /// Whether one of an incarnation is not everywhere.
    fn is_begun(&self, incarnation: u64) -> bool {
        self.begun.lock().iter().any(|id| id.incarnation == incarnation)
    }

    /// Whether one of any lost incarnation is not everywhere.
    fn has_begun(&self) -> bool {
        !self.begun.lock().is_empty()
    }

    /// One of those is everywhere; true: it was the last of its incarnation.
    pub fn closed(&self, id: PublishId) -> bool {
        let mut begun = self.begun.lock();
        begun.remove(&id) && !begun.iter().any(|other| other.incarnation == id.incarnation)
    }

    /// A subscription of this node is new, changed or gone: its QoS before and after. True: PeersActor is to
    /// announce it.
    pub fn subscription_changed(
        &self,
        filter: &Arc<str>,
        persistent: bool,
        before: Option<QoS>,
        after: Option<QoS>,
    ) -> bool {
        let level = |qos: Option<QoS>| match qos {
            None => Interest::None,
            Some(QoS::AtMostOnce) => Interest::Live,
            Some(_) if persistent => Interest::Queues,
            Some(_) => Interest::Live,
        };
        let mut interest = self.interest.lock();
        let changed = interest.change(filter, level(before), level(after));
        if changed {
            self.announced.fetch_add(1, Ordering::SeqCst);
        }
        changed
    }
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("node_id", &self.node_id).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests;
