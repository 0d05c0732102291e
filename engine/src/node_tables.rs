//! What the actors of one node read and write together: settings, counters and tables.
//!
//! Owned by nobody in particular: it outlives every actor, so that a rebuilt one finds the tables
//! as they were. It knows no actor and no inbox: those are in `Mailboxes` of `hydrant-actors`.
//! Locks are held for one operation, never across an await or a handler.

mod new;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use ahash::AHashSet;
use hydrant_protocol::QoS;
use hydrant_protocol::topic::{Retained, SubscriptionTable};
use parking_lot::{Mutex, RwLock};

use crate::clock::Clock;
use crate::cluster::Cluster;
use crate::drain_budget::Budget;
use crate::dropped::DropLines;
use crate::generations::Generations;
use crate::log::{DeadLetters, Gate, OutboxProgress};
use crate::metrics::Metrics;
use crate::now::{Boot, Wall};
use crate::say;
use crate::settings::Settings;
use crate::subscriptions::Subscriber;

pub use new::Found;

/// The part that is not ready while the node is drained.
const DRAIN: &str = "drain";

/// What a change of the subscriptions comes to.
#[derive(Debug, Clone, Copy)]
#[must_use]
pub struct SubscriptionChange {
    /// The subscription is new, or it is gone.
    pub changed: bool,
    /// What this node wants of others has changed: PeersActor is to announce it.
    pub announce: bool,
}

/// See the module.
#[derive(Debug)]
pub struct NodeTables {
    /// Checked settings.
    pub settings: Arc<Settings>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Every subscription of the node.
    pub subscriptions: RwLock<SubscriptionTable<Subscriber>>,
    /// Persistent sessions that are on their way between two nodes, by worker and slot.
    pub in_handover: RwLock<AHashSet<(u16, u32)>>,
    /// Which cached routes a change of `subscriptions`, `in_handover` or another node's interest makes stale.
    pub generations: Generations,
    /// Retained messages.
    pub retained: RwLock<Retained>,
    /// The highest version of a retained message that this node has given or seen.
    pub retained_clock: AtomicU64,
    /// Whether a topic may have records of its own.
    pub gate: Gate,
    /// The outbox's lanes: what is written, handed to the log, acknowledged.
    pub lanes: Mutex<OutboxProgress>,
    /// Records that the log refused for good.
    pub dead_letters: DeadLetters,
    /// Bytes that StorageActor has admitted and holds back: the outbox is full, or a transaction
    /// waits for other workers.
    pub parked_bytes: AtomicUsize,
    /// Number for the next persistent session, or for the next connection with a will.
    pub next_session: AtomicU64,
    /// Number for the next transaction.
    pub next_transaction: AtomicU64,
    /// Persistent sessions of the node.
    pub persistent_sessions: AtomicUsize,
    /// Open sockets.
    pub connections: AtomicUsize,
    /// Most connections at one time.
    pub connections_peak: AtomicUsize,
    /// The node shuts down: no new connections, no new sessions.
    pub stopping: AtomicBool,
    /// This node's part in a cluster.
    pub cluster: Option<Arc<Cluster>>,
    /// The node is being emptied (`crate::drain`): no new clients.
    pub draining: AtomicBool,
    /// Connections a second that are closed meanwhile.
    pub drain_rate: AtomicU32,
    /// How many connections may be closed for that.
    pub drain_budget: Mutex<Budget>,
    /// What has passed.
    pub clock: Clock,
    /// What was dropped, as far as the log has been told.
    pub drops: Mutex<DropLines>,
    /// Why the node is not ready, by the part that says so.
    pub not_ready: Mutex<HashMap<&'static str, String>>,
}

impl NodeTables {
    /// These, each with the others that have the same home.
    pub fn by_home<T>(&self, all: Vec<T>, client_id: impl Fn(&T) -> &str) -> HashMap<u16, Vec<T>> {
        let mut homes: HashMap<u16, Vec<T>> = HashMap::new();
        for one in all {
            homes.entry(self.home(client_id(&one))).or_default().push(one);
        }
        homes
    }

    /// How many workers the node has.
    pub fn workers(&self) -> usize {
        self.settings.workers.max(1)
    }

    /// The worker that holds everything about a client id.
    pub fn home(&self, client_id: &str) -> u16 {
        if self.workers() == 1 {
            return 0;
        }
        // FNV-1a: stable over restarts, so that recovery finds the same home.
        let hash = client_id.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| {
            (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
        });
        #[allow(clippy::cast_possible_truncation)]
        {
            ((hash >> 16) % self.workers() as u64) as u16
        }
    }

    /// Adds or replaces a subscription.
    pub fn subscribe(
        &self,
        filter: &hydrant_protocol::topic::TopicFilter,
        subscriber: Subscriber,
        qos: QoS,
    ) -> SubscriptionChange {
        let mut table = self.subscriptions.write();
        let before = self.cluster.as_ref().and_then(|_| table.granted(filter, subscriber));
        let new = table.subscribe(filter, subscriber, qos);
        // Under the table's lock: changes are announced in the order in which they were made.
        let announce = self.cluster.as_ref().is_some_and(|cluster| {
            cluster.subscription_changed(filter.arc(), subscriber.persistent, before, Some(qos))
        });
        drop(table);
        self.generations.changed(filter.as_str());
        if new {
            self.metrics.subscriptions.inc();
        }
        SubscriptionChange { changed: new, announce }
    }

    /// Removes a subscription.
    pub fn unsubscribe(
        &self,
        filter: &hydrant_protocol::topic::TopicFilter,
        subscriber: Subscriber,
    ) -> SubscriptionChange {
        let mut table = self.subscriptions.write();
        let before = self.cluster.as_ref().and_then(|_| table.granted(filter, subscriber));
        let removed = table.unsubscribe(filter, subscriber);
        let announce = self.cluster.as_ref().is_some_and(|cluster| {
            cluster.subscription_changed(filter.arc(), subscriber.persistent, before, None)
        });
        drop(table);
        if removed {
            self.generations.changed(filter.as_str());
            self.metrics.subscriptions.sub(1);
        }
        SubscriptionChange { changed: removed, announce }
    }

    /// False while the lease in a shared store is over: nothing is read from a client, and nothing
    /// is sent to one.
    pub fn may_act(&self) -> bool {
        self.cluster.as_ref().is_none_or(|cluster| cluster.may_act())
    }

    /// The version of a change of a retained message: by the clock, and above every one before.
    pub fn retained_version(&self, now: Wall) -> u64 {
        let now = now.0;
        let next = |last: u64| Some(now.max(last.saturating_add(1)));
        let last = self.retained_clock.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        now.max(last.unwrap_or_else(|last| last).saturating_add(1))
    }

    /// Whether a client of this address may connect; one that may not is logged.
    pub fn admits(&self, client: SocketAddr) -> bool {
        let admitted = self.settings.access.rules.admit(client.ip());
        if !admitted {
            say::warn!(
                target: "hydrant::actors",
                "closing the connection from {client}: listener.deny or listener.allow keeps it out"
            );
        }
        admitted
    }

    /// A part of the node is not ready, and why; `None` when it is again.
    pub fn set_ready(&self, part: &'static str, why_not: Option<String>) {
        let mut not_ready = self.not_ready.lock();
        match why_not {
            Some(why) => not_ready.insert(part, why),
            None => not_ready.remove(part),
        };
    }

    /// Begins to drain, at `rate` connections a second or `node.drain_rate`. When it does already, a
    /// rate that is given takes the place of the one before.
    pub fn start_drain(&self, now: Boot, rate: Option<u32>) {
        let again = self.draining.load(Ordering::SeqCst);
        if again && rate.is_none() {
            return;
        }
        let rate = rate.unwrap_or(self.settings.drain_rate).max(1);
        self.drain_rate.store(rate, Ordering::Relaxed);
        *self.drain_budget.lock() = Budget::new(now);
        if again {
            log::info!(target: "hydrant::actors", "broker drain: connections close at {rate} a second from now on");
            return;
        }
        self.set_ready(DRAIN, Some("the node is drained (broker drain)".to_owned()));
        self.draining.store(true, Ordering::SeqCst);
        log::info!(target: "hydrant::actors", "broker drain: no new clients, connections close at {rate} a second");
    }

    /// Takes clients again; those that were closed stay away until they come back.
    pub fn cancel_drain(&self) {
        if self.draining.swap(false, Ordering::SeqCst) {
            self.set_ready(DRAIN, None);
            log::info!(target: "hydrant::actors", "broker drain --cancel: the node takes clients again");
        }
    }
}
