//! A store and a membership that the nodes of a test share, in memory: as Cassandra and ZooKeeper
//! would answer, at once.

mod members;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hydrant_protocol::Message;
use hydrant_protocol::cluster::message::PublishId;
use hydrant_protocol::cluster::{Member, MembershipView};
use hydrant_protocol::session::RangeSet;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::ports::{
    DeadId, DeadLetter, Holder, KnownIncarnation, Lanes, LogRecord, OrphanedState, PreparedPublish,
    QueueEntry, SealedIncarnation, Sealing, SessionId, SessionStore, SharedStore, StoreError,
    StoreFuture, StoreOp, StoredBatch, StoredSession, StoredSubscription, StoredWill,
};

/// What a write takes, and what it takes to take a session over unless a test says otherwise: long enough
/// for much to come meanwhile.
const WRITE: Duration = Duration::from_millis(1);
const TAKE: Duration = Duration::from_millis(20);

/// What a test does to the store.
#[derive(Debug, Default)]
pub struct Faults {
    /// Sessions that are asked for or taken wait while this is set.
    pub hold_locate: AtomicBool,
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

async fn while_held(flag: impl Fn() -> bool) {
    while flag() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
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

    fn apply(me: u64, state: &mut State, op: StoreOp) {
        let lineage = state.starts.get(&me).map_or(me, |start| start.1);
        let kept = |state: &mut State, id: SessionId, act: &dyn Fn(&mut Kept)| {
            if let Some(kept) = state.sessions.get_mut(&id).filter(|kept| kept.holder == me) {
                act(kept);
            }
        };
        match op {
            StoreOp::PutSession { id, client_id, epoch, disconnected_ms } => {
                let kept = state.sessions.entry(id).or_insert_with(|| Kept {
                    client_id,
                    epoch,
                    disconnected_ms,
                    holder: me,
                    lineage,
                    taken: 0,
                    subscriptions: BTreeMap::new(),
                    receipts: BTreeSet::new(),
                    queue: BTreeMap::new(),
                    last: 0,
                });
                assert_eq!(kept.holder, me, "written by who does not hold it");
                (kept.epoch, kept.disconnected_ms) = (epoch, disconnected_ms);
            }
            StoreOp::DeleteSession { id, .. } => drop(state.sessions.remove(&id)),
            StoreOp::PutSubscription { id, filter, qos, owes } => kept(state, id, &|kept| {
                let filter = Arc::clone(&filter);
                let owes = owes.clone();
                let new = StoredSubscription { filter: Arc::clone(&filter), qos, owes };
                kept.subscriptions.insert(filter, new);
            }),
            StoreOp::DeleteSubscription { id, filter } => kept(state, id, &|kept| {
                kept.subscriptions.remove(&filter);
            }),
            StoreOp::PutQueued { id, entry } => kept(state, id, &|kept| {
                kept.last = kept.last.max(entry.sequence);
                kept.queue.insert(entry.sequence, entry.clone());
            }),
            StoreOp::PutOutgoing { id, sequence, packet_id, stage } => kept(state, id, &|kept| {
                if let Some(entry) = kept.queue.get_mut(&sequence) {
                    entry.outgoing = Some((packet_id, stage));
                }
            }),
            StoreOp::DeleteQueued { id, sequence } => kept(state, id, &|kept| {
                kept.queue.remove(&sequence);
            }),
            StoreOp::PutReceipt { id, packet_id } => kept(state, id, &|kept| {
                kept.receipts.insert(packet_id.get());
            }),
            StoreOp::DeleteReceipt { id, packet_id } => kept(state, id, &|kept| {
                kept.receipts.remove(&packet_id.get());
            }),
            StoreOp::PutRetained { message, version } => {
                let topic = Arc::clone(&message.topic);
                state.retained.insert(topic, (message, version));
            }
            StoreOp::DeleteRetained { topic, .. } => drop(state.retained.remove(&topic)),
            StoreOp::PutWill { will } => {
                state.wills.insert(will.connection, (me, will));
            }
            StoreOp::DeleteWill { connection, .. } => {
                if state.wills.get(&connection).is_some_and(|(of, _)| *of == me) {
                    state.wills.remove(&connection);
                }
            }
            StoreOp::PutPeerBatch { origin, batch, prepared } => {
                Self::batch(state, me, (origin, batch)).prepared = prepared;
            }
            StoreOp::ExceptPeerBatch { origin, batch, client_id } => {
                Self::batch(state, me, (origin, batch)).except.push(client_id);
            }
            StoreOp::CompletePeerBatch { origin, batch, client_id } => {
                let except = &mut Self::batch(state, me, (origin, batch)).except;
                except.retain(|client| *client != client_id);
            }
            StoreOp::ForgetPeerBatches { origin, below } => {
                let batches = state.batches.entry(me).or_default();
                batches.retain(|(of, batch), _| *of != origin || *batch >= below);
            }
            StoreOp::Prepare(prepared) => drop(state.prepared.insert(prepared.id, *prepared)),
            StoreOp::Committed { id } => {
                if let Some(prepared) = state.prepared.get_mut(&id) {
                    prepared.queued = true;
                }
            }
            StoreOp::ForgetPrepared { incarnation, router, below } => {
                let its = |id: &PublishId| {
                    id.incarnation == incarnation
                        && router.is_none_or(|router| id.router == router)
                        && id.number < below
                };
                state.prepared.retain(|id, _| !its(id));
            }
            // Its nodes have no log.
            StoreOp::PutOutbox { .. }
            | StoreOp::MoveCursor { .. }
            | StoreOp::PutDeadLetter { .. }
            | StoreOp::DropDeadLetter { .. } => {}
        }
    }

    fn batch(state: &mut State, of: u64, key: (u64, u64)) -> &mut StoredBatch {
        let (origin, number) = key;
        let new = StoredBatch { origin, number, prepared: Vec::new(), except: Vec::new() };
        state.batches.entry(of).or_default().entry(key).or_insert(new)
    }

    fn now<T: Send + 'static>(answer: Result<T, StoreError>) -> StoreFuture<T> {
        Box::pin(ready(answer))
    }
}

impl SessionStore for Node {
    fn write(&self, ops: Arc<Vec<StoreOp>>) -> StoreFuture<()> {
        if self.cut.load(Ordering::SeqCst) {
            return Box::pin(std::future::pending());
        }
        if self.stalled.load(Ordering::SeqCst) {
            return Self::now(Err(StoreError::Unavailable("stalled".to_owned())));
        }
        let (world, me) = (self.world.clone(), self.incarnation);
        let (mute, late) = (Arc::clone(&self.mute), Arc::clone(&self.late));
        let write = move |world: &World| {
            let mut state = world.0.lock();
            if state.sealed.contains_key(&me) {
                return Err(StoreError::Unavailable("sealed".to_owned()));
            }
            ops.iter().for_each(|op| Self::apply(me, &mut state, op.clone()));
            Ok(())
        };
        let held = move |world: &World| world.1.hold_writes_of.load(Ordering::SeqCst) == me;
        // At once: what is killed after it has begun a write may have written it.
        let now = (!held(&world)).then(|| write(&world));
        Box::pin(async move {
            if let Some(written) = now {
                written?;
            } else {
                while_held(|| held(&world)).await;
                write(&world)?;
            }
            tokio::time::sleep(WRITE).await;
            while_held(|| late.load(Ordering::SeqCst)).await;
            if mute.load(Ordering::SeqCst) {
                return std::future::pending().await;
            }
            Ok(())
        })
    }

    fn sessions(&self) -> StoreFuture<Vec<StoredSession>> {
        let state = self.world.0.lock();
        let mine = state.sessions.iter().filter(|(_, kept)| kept.holder == self.incarnation);
        Self::now(Ok(mine.map(|(id, kept)| found(*id, kept)).collect()))
    }

    fn retained(&self) -> StoreFuture<Vec<(Arc<Message>, u64)>> {
        let (world, found) = (self.world.clone(), self.world.0.lock().retained.clone());
        world.1.reads.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move {
            while_held(|| world.1.hold_retained.load(Ordering::SeqCst)).await;
            Ok(found.into_values().collect())
        })
    }

    fn wills(&self) -> StoreFuture<Vec<StoredWill>> {
        Self::now(Ok(self.continued.wills.clone()))
    }

    fn read_queue(
        &self,
        id: SessionId,
        from: u64,
        limit: usize,
        _: usize,
    ) -> StoreFuture<Vec<QueueEntry>> {
        let state = self.world.0.lock();
        let queue = state.sessions.get(&id).map(|kept| &kept.queue);
        let page = queue.into_iter().flat_map(|queue| queue.range(from..)).take(limit);
        Self::now(Ok(page.map(|(_, entry)| entry.clone()).collect()))
    }

    fn lanes(&self) -> StoreFuture<Lanes> {
        Self::now(Ok(Vec::new()))
    }

    fn read_outbox(&self, _: u16, _: u64, _: usize, _: usize) -> StoreFuture<Vec<LogRecord>> {
        Self::now(Ok(Vec::new()))
    }

    fn dead_letters(&self, _: DeadId, _: usize, _: usize) -> StoreFuture<Vec<DeadLetter>> {
        Self::now(Ok(Vec::new()))
    }

    fn describe(&self) -> String {
        "memory".to_owned()
    }
}

impl SharedStore for Node {
    fn incarnation(&self) -> u64 {
        self.incarnation
    }

    fn continues(&self) -> Vec<SealedIncarnation> {
        self.continued.incarnations.clone()
    }

    fn lineage(&self) -> u64 {
        self.world.0.lock().starts[&self.incarnation].1
    }

    fn incarnations(&self) -> StoreFuture<Vec<KnownIncarnation>> {
        let state = self.world.0.lock();
        let others = state.starts.iter().filter(|(number, _)| **number != self.incarnation);
        let known = others.map(|(number, (node, lineage))| KnownIncarnation {
            number: *number,
            node: Arc::clone(node),
            lineage: *lineage,
            owner: state.owner(*number),
            released: state.released.contains(number),
            lease: Duration::from_millis(self.world.1.lease.load(Ordering::SeqCst)),
        });
        Self::now(Ok(known.collect()))
    }

    fn wanted(&self, lineage: u64) -> StoreFuture<Vec<Arc<str>>> {
        let state = self.world.0.lock();
        let its = |kept: &&Kept| kept.lineage == lineage;
        let filters =
            state.sessions.values().filter(its).flat_map(|kept| kept.subscriptions.keys());
        Self::now(Ok(filters.cloned().collect::<BTreeSet<_>>().into_iter().collect()))
    }

    fn stored_batches(&self) -> Vec<StoredBatch> {
        self.continued.batches.clone()
    }

    fn prepared_publishes(&self) -> Vec<PreparedPublish> {
        self.continued.prepared.clone()
    }

    fn holds_lease(&self) -> bool {
        let away = self.cut.load(Ordering::SeqCst) || self.stalled.load(Ordering::SeqCst);
        !away && !self.world.0.lock().dead.contains(&self.incarnation)
    }

    fn locate(&self, client_id: Arc<str>) -> StoreFuture<Option<Holder>> {
        let world = self.world.clone();
        world.1.locates.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move {
            while_held(|| world.1.hold_locate.load(Ordering::SeqCst)).await;
            let state = world.0.lock();
            let found = state.sessions.iter().find(|(_, kept)| kept.client_id == client_id);
            Ok(found.map(|(id, kept)| Holder { id: *id, incarnation: kept.holder }))
        })
    }

    fn take(&self, _: Arc<str>, from: Holder, until: u64) -> StoreFuture<Option<StoredSession>> {
        let (world, me) = (self.world.clone(), self.incarnation);
        let cut = Arc::clone(&self.cut);
        world.1.takes.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move {
            tokio::time::sleep(TAKE).await;
            while_held(|| {
                let faults = &world.1;
                let all = faults.hold_take.load(Ordering::SeqCst);
                all || faults.hold_take_of.load(Ordering::SeqCst) == me
            })
            .await;
            if cut.load(Ordering::SeqCst) {
                return std::future::pending().await;
            }
            world.1.takes_ended.fetch_add(1, Ordering::SeqCst);
            let mut state = world.0.lock();
            let lineage = state.starts.get(&me).map_or(me, |start| start.1);
            let kept = state.sessions.get_mut(&from.id);
            let as_said = |kept: &&mut Kept| kept.holder == from.incarnation && kept.taken <= until;
            Ok(kept.filter(as_said).map(|kept| {
                (kept.holder, kept.lineage) = (me, lineage);
                kept.taken += 1;
                found(from.id, kept)
            }))
        })
    }

    fn give_up(&self, id: SessionId) -> u64 {
        self.world.0.lock().sessions.get(&id).map_or(0, |kept| kept.taken)
    }

    fn seal(&self, incarnation: u64) -> StoreFuture<Sealing> {
        let mut state = self.world.0.lock();
        if let Some(by) = state.sealed.get(&incarnation) {
            return Self::now(Ok(Sealing::Others(*by)));
        }
        let held = self.world.1.hold_seal.load(Ordering::SeqCst);
        if held || !state.dead.contains(&incarnation) {
            return Self::now(Ok(Sealing::Alive));
        }
        let (orphaned, world) = (state.seal(incarnation, self.incarnation), self.world.clone());
        Box::pin(async move {
            while_held(|| world.1.hold_sealed.load(Ordering::SeqCst)).await;
            Ok(Sealing::Ours(Box::new(orphaned)))
        })
    }
}
