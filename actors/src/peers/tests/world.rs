//! A store and a membership that the nodes of a test share, in memory: as Cassandra and ZooKeeper
//! would answer, at once.

mod apply;
mod members;
mod store;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hydrant_protocol::Message;
use hydrant_protocol::cluster::message::PublishId;
use hydrant_protocol::cluster::{Member, MembershipView};
use hydrant_protocol::session::RangeSet;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::ports::{
    OrphanedState, PreparedPublish, QueueEntry, SealedIncarnation, SessionId, StoredBatch,
    StoredSession, StoredSubscription, StoredWill,
};

/// What a test does to the store.
#[derive(Debug, Default)]
pub struct Faults {
    /// Sessions that are asked for or taken wait while this is set.
    pub hold_locate: AtomicBool,
    /// So many questions whose a session is have no answer.
    pub fail_locates: AtomicU64,
    /// See `hold_locate`.
    pub hold_take: AtomicBool,
    /// The same, of this incarnation.
    pub hold_take_of: AtomicU64,
    /// Nobody is taken for dead while this is set.
    pub hold_seal: AtomicBool,
    /// Who has sealed one hears so only when this is not set.
    pub hold_sealed: AtomicBool,
    /// A start goes on with the dead one before it of the same node, where nobody has sealed that.
    pub goes_on: AtomicBool,
    /// What the rows of incarnations say, in milliseconds.
    pub lease: AtomicU64,
    /// `limits.connect_timeout` of a node that starts, in milliseconds; 0: the deadline of a test.
    pub connect_timeout: AtomicU64,
    /// Workers of a node that starts; 0: two.
    pub workers: AtomicU64,
    /// Retained messages that are read come late while this is set, as they were.
    pub hold_retained: AtomicBool,
    /// Times that they were read.
    pub reads: AtomicU64,
    /// Attempts to take one.
    pub takes: AtomicU64,
    /// Those that ended.
    pub takes_ended: AtomicU64,
    /// See `takes`.
    pub locates: AtomicU64,
    /// What this incarnation writes takes until this is not set any more.
    pub hold_writes_of: AtomicU64,
}

#[derive(Debug, Clone)]
struct Kept {
    client_id: Arc<str>,
    epoch: u64,
    disconnected_ms: Option<u64>,
    holder: u64,
    /// Under which its holder has it; a seal does not change it.
    lineage: u64,
    /// How often it was taken.
    taken: u64,
    subscriptions: BTreeMap<Arc<str>, StoredSubscription>,
    receipts: BTreeSet<u16>,
    queue: BTreeMap<u64, QueueEntry>,
    last: u64,
}

#[derive(Debug, Default)]
struct State {
    sessions: BTreeMap<SessionId, Kept>,
    retained: BTreeMap<Arc<str>, (Arc<Message>, u64)>,
    /// By the connection that left it, with the incarnation that may end it.
    wills: BTreeMap<u64, (u64, StoredWill)>,
    /// Batches of other nodes, by the incarnation that has stored them.
    batches: HashMap<u64, BTreeMap<(u64, u64), StoredBatch>>,
    prepared: BTreeMap<PublishId, PreparedPublish>,
    /// Incarnations whose lease has ended, and those that were sealed.
    dead: BTreeSet<u64>,
    /// Those of the dead that ended in order.
    released: BTreeSet<u64>,
    sealed: BTreeMap<u64, u64>,
    /// Of every start: its node, and its lineage.
    starts: BTreeMap<u64, (Arc<str>, u64)>,
    members: BTreeMap<Arc<str>, Member>,
    /// Those that have taken themselves out.
    withdrawn: BTreeMap<u64, Member>,
    views: Vec<(Arc<str>, watch::Sender<MembershipView>)>,
    generation: u64,
    /// Where a node reaches another, unless where that says.
    ways: HashMap<(Arc<str>, Arc<str>), String>,
}

/// What all nodes share.
#[derive(Debug, Default, Clone)]
pub struct World(Arc<Mutex<State>>, pub Arc<Faults>);

impl World {
    /// One start of a node.
    pub fn node(&self, id: &str, incarnation: u64) -> Arc<Node> {
        let mut state = self.0.lock();
        let before = state.starts.iter().rfind(|(_, (node, _))| **node == *id);
        let before = before.map(|(before, (_, lineage))| (*before, *lineage));
        let goes_on = |before: &(u64, u64)| {
            let State { dead, sealed, .. } = &*state;
            self.1.goes_on.load(Ordering::SeqCst)
                && dead.contains(&before.0)
                && !sealed.contains_key(&before.0)
        };
        let before = before.filter(goes_on);
        let lineage = before.map_or(incarnation, |(_, lineage)| lineage);
        state.starts.insert(incarnation, (id.into(), lineage));
        let taken = before.map(|(before, _)| state.seal(before, incarnation));
        let node = Node { continued: taken.unwrap_or_default(), ..Node::new(self, incarnation) };
        Arc::new(node)
    }

    /// The end of an incarnation's chain of owners.
    pub fn owner(&self, incarnation: u64) -> u64 {
        self.0.lock().owner(incarnation)
    }

    /// A start that has not got to its entry among the members, or that ended in order, is dead.
    pub fn is_dead(&self, incarnation: u64, released: bool) {
        let mut state = self.0.lock();
        state.dead.insert(incarnation);
        if released {
            state.released.insert(incarnation);
        }
    }

    /// How often a client's session was taken.
    pub fn taken(&self, client: &str) -> u64 {
        let state = self.0.lock();
        let its = state.sessions.values().find(|kept| *kept.client_id == *client);
        its.map_or(0, |kept| kept.taken)
    }

    /// Wills of a client that are neither discarded nor everywhere.
    pub fn wills(&self, client: &str) -> usize {
        let state = self.0.lock();
        state.wills.values().filter(|(_, will)| *will.client_id == *client).count()
    }

    /// QoS 2 publishes that are kept because they may not be everywhere.
    pub fn prepared(&self) -> usize {
        self.0.lock().prepared.len()
    }

    /// Whether the store has a session of a client.
    pub fn has_session(&self, client: &str) -> bool {
        self.0.lock().sessions.values().any(|kept| *kept.client_id == *client)
    }

    /// Entries that wait for a client.
    pub fn queued(&self, client: &str) -> usize {
        let state = self.0.lock();
        state
            .sessions
            .values()
            .filter(|kept| *kept.client_id == *client)
            .map(|k| k.queue.len())
            .sum()
    }
}

impl State {
    fn owner(&self, mut incarnation: u64) -> u64 {
        while let Some(by) = self.sealed.get(&incarnation) {
            incarnation = *by;
        }
        incarnation
    }

    /// Gives everything of an incarnation, and of those that it had sealed, to another.
    fn seal(&mut self, incarnation: u64, by: u64) -> OrphanedState {
        let before: Vec<u64> = self
            .sealed
            .iter()
            .filter(|(_, owner)| **owner == incarnation)
            .map(|it| *it.0)
            .collect();
        let mut orphaned = OrphanedState::default();
        for number in before.into_iter().chain([incarnation]) {
            self.sealed.insert(number, by);
            let lineage = self.starts.get(&number).map_or(number, |start| start.1);
            orphaned.incarnations.push(SealedIncarnation { number, lineage });
            for (id, kept) in &mut self.sessions {
                if kept.holder == number {
                    kept.holder = by;
                    orphaned.sessions.push(found(*id, kept));
                }
            }
            // They stay until they are forgotten, whoever holds the sessions.
            let batches = self.batches.remove(&number).unwrap_or_default();
            orphaned.batches.extend(batches.values().cloned());
            for (key, batch) in batches {
                let kept = self.batches.entry(by).or_default();
                let kept = kept.entry(key).or_insert_with(|| batch.clone());
                kept.except.retain(|client| batch.except.contains(client));
            }
            let prepared =
                self.prepared.values().filter(|prepared| prepared.id.incarnation == number);
            orphaned.prepared.extend(prepared.cloned());
            for (of, will) in self.wills.values_mut().filter(|(of, _)| *of == number) {
                *of = by;
                orphaned.wills.push(will.clone());
            }
        }
        orphaned
    }
}

/// One start of a node, as its store and membership.
#[derive(Debug)]
pub struct Node {
    world: World,
    incarnation: u64,
    /// What it goes on with from its beginning.
    continued: OrphanedState,
    /// It is frozen or cut off: nothing of it is written any more.
    pub cut: Arc<AtomicBool>,
    /// What it writes is written, and it never hears so.
    pub mute: Arc<AtomicBool>,
    /// It hears so only when this is not set.
    pub late: Arc<AtomicBool>,
    /// Its lease is over and it cannot write, until this is not set any more.
    pub stalled: AtomicBool,
    /// It may end by itself, and why it did.
    pub may_end: AtomicBool,
    pub ended: Mutex<Option<String>>,
}

fn found(id: SessionId, kept: &Kept) -> StoredSession {
    StoredSession {
        id,
        client_id: Arc::clone(&kept.client_id),
        epoch: kept.epoch,
        disconnected_ms: kept.disconnected_ms,
        subscriptions: kept.subscriptions.values().cloned().collect(),
        receipts: kept.receipts.iter().filter_map(|id| (*id).try_into().ok()).collect(),
        queued: kept.queue.len() as u64,
        queued_bytes: kept.queue.values().map(|entry| entry.message.cost() as u64).sum(),
        last_sequence: kept.last,
        left: kept.queue.keys().fold(RangeSet::default(), |mut left, &sequence| {
            left.push(sequence..sequence + 1);
            left
        }),
    }
}

impl Node {
    fn new(world: &World, incarnation: u64) -> Self {
        let (world, continued) = (world.clone(), OrphanedState::default());
        let (cut, mute, late) = (Arc::default(), Arc::default(), Arc::default());
        let (stalled, may_end, ended) = Default::default();
        Self { world, incarnation, continued, cut, mute, late, stalled, may_end, ended }
    }
}
