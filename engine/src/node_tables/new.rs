//! Makes the tables that a node's actors share, of what was found in the store.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize};

use hydrant_protocol::topic::{Retained, SubscriptionTable};
use parking_lot::{Mutex, RwLock};

use super::NodeTables;
use crate::clock::Clock;
use crate::cluster::Cluster;
use crate::drain_budget::Budget;
use crate::generations::Generations;
use crate::log::{DeadLetters, Gate, OutboxProgress};
use crate::metrics::Metrics;
use crate::now::Now;
use crate::ports::{DeadId, Lanes, StoredSession, StoredWill};
use crate::settings::Settings;

/// Sessions and connections with a will that one incarnation of a node in a cluster can make: 2 to the power of
/// this.
const SESSION_BITS: u32 = 40;

/// What was found in the store at start.
pub struct Found {
    /// Persistent sessions.
    pub sessions: Vec<StoredSession>,
    /// Last Wills whose connections are over.
    pub wills: Vec<StoredWill>,
    /// In a cluster they are read when the other nodes are heard of, so that no change is missed in between.
    pub retained: Retained,
    /// The highest version among them.
    pub retained_clock: u64,
    /// The outbox.
    pub lanes: Lanes,
    /// Id and cost of each dead letter.
    pub dead_letters: Vec<(DeadId, u64)>,
}

impl NodeTables {
    /// Those of a node that starts now.
    pub fn new(
        settings: &Arc<Settings>,
        found: &Found,
        cluster: Option<Arc<Cluster>>,
        gate: Gate,
        now: Now,
    ) -> Arc<Self> {
        let workers = settings.workers.max(1);
        // By the clock as well: the number of a session that was removed is not given again while the
        // store still clears up behind it.
        let sessions = found.sessions.iter().map(|session| session.id);
        let highest =
            sessions.chain(found.wills.iter().map(|will| will.connection)).max().unwrap_or(0);
        let next_session = match &cluster {
            // Two nodes may start in one millisecond; of incarnations each has its own.
            Some(cluster) => (cluster.incarnation << SESSION_BITS) + 1,
            None => (highest + 1).max(now.wall.ms() << 20),
        };
        let mut retained = Retained::new();
        for message in found.retained.iter() {
            retained.insert(Arc::clone(message));
        }
        let metrics = Metrics::new(workers);
        metrics.retained.set(retained.len() as u64);
        metrics.retained_bytes.set(retained.bytes() as u64);
        let lanes = OutboxProgress::new(
            settings.storage.outbox_lanes,
            settings.storage.outbox_max_bytes,
            &found.lanes,
        );
        let (records, bytes) = lanes.backlog();
        metrics.outbox_records.set(records);
        metrics.outbox_bytes.set(bytes);
        let max_bytes = settings.log.dead_letter_max_bytes;
        let dead_letters = DeadLetters::new(max_bytes, &found.dead_letters);
        dead_letters.show(&metrics);
        Arc::new(Self {
            settings: Arc::clone(settings),
            metrics,
            subscriptions: RwLock::new(SubscriptionTable::new()),
            in_handover: RwLock::default(),
            generations: Generations::default(),
            retained: RwLock::new(retained),
            retained_clock: AtomicU64::new(found.retained_clock),
            gate,
            lanes: Mutex::new(lanes),
            dead_letters,
            parked_bytes: AtomicUsize::new(0),
            next_session: AtomicU64::new(next_session),
            next_transaction: AtomicU64::new(1),
            persistent_sessions: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            connections_peak: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
            cluster,
            draining: AtomicBool::new(false),
            drain_rate: AtomicU32::new(settings.drain_rate),
            drain_budget: Mutex::new(Budget::new(now.boot)),
            clock: Clock::new(now),
            drops: Mutex::default(),
            not_ready: Mutex::new(HashMap::new()),
        })
    }

    /// Those of an empty node.
    #[cfg(any(test, feature = "for-tests"))]
    pub fn for_tests(settings: &Arc<Settings>, gate: Gate, now: Now) -> Arc<Self> {
        let (sessions, wills, retained, lanes) =
            (Vec::new(), Vec::new(), Retained::new(), Vec::new());
        let dead_letters = Vec::new();
        let found = Found { sessions, wills, retained, retained_clock: 0, lanes, dead_letters };
        Self::new(settings, &found, None, gate, now)
    }
}
