//! A store and a membership that the nodes of a test share, in memory: as Cassandra and ZooKeeper
//! would answer, at once.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hydrant_protocol::Message;
use hydrant_protocol::cluster::message::PublishId;
use hydrant_protocol::cluster::{Load, Member, View};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::ports::{
    Estate, Holder, Lanes, LogRecord, Membership, MembershipFuture, OpenPublish, QueueEntry,
    Sealing, SessionId, SessionStore, SharedStore, StoreError, StoreFuture, StoreOp, StoredSession,
    StoredSubscription, StoredWill,
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
    wills: HashMap<(u64, Arc<str>), StoredWill>,
    /// Batches of other nodes, by the incarnation that has stored them.
    batches: HashMap<u64, BTreeSet<(u64, u64)>>,
    open: BTreeMap<PublishId, OpenPublish>,
    /// Incarnations whose lease has ended, and those that were sealed.
    dead: BTreeSet<u64>,
    sealed: BTreeMap<u64, u64>,
    members: BTreeMap<Arc<str>, Member>,
    views: Vec<(Arc<str>, watch::Sender<View>)>,
    generation: u64,
    /// Where a node reaches another, unless where that says.
    ways: HashMap<(Arc<str>, Arc<str>), String>,
}

/// What all nodes share.
#[derive(Debug, Default, Clone)]
pub struct World(Arc<Mutex<State>>, pub Arc<Faults>);

impl World {
    /// One start of a node.
    pub fn node(&self, incarnation: u64) -> Arc<Node> {
        Arc::new(Node {
            world: self.clone(),
            incarnation,
            cut: Arc::default(),
            mute: Arc::default(),
        })
    }

    fn tell(state: &mut State) {
        state.generation += 1;
        for (observer, sender) in &state.views {
            let shown = |member: &Member| {
                let way = (Arc::clone(observer), Arc::clone(&member.node_id));
                let peer = state.ways.get(&way).unwrap_or(&member.peer).clone();
                Member { peer, ..member.clone() }
            };
            let members = state.members.values().map(shown).collect();
            sender.send_replace(View { generation: state.generation, members, current: true });
        }
    }

    /// From here on a node reaches another there.
    pub fn way(&self, from: &str, to: &str, peer: String) {
        self.0.lock().ways.insert((from.into(), to.into()), peer);
    }

    /// The node is dead: it is no member any more and its lease has ended.
    pub fn bury(&self, node_id: &str, incarnation: u64) {
        let mut state = self.0.lock();
        state.members.remove(node_id);
        state.dead.insert(incarnation);
        state.views.retain(|(id, _)| **id != *node_id);
        Self::tell(&mut state);
    }

    /// A node that the membership has lost and that lives: it stands there no longer.
    pub fn hide(&self, node_id: &str) -> Option<Member> {
        let mut state = self.0.lock();
        let member = state.members.remove(node_id);
        Self::tell(&mut state);
        member
    }

    /// It is back, in the same start.
    pub fn show(&self, member: Member) {
        let mut state = self.0.lock();
        state.members.insert(Arc::clone(&member.node_id), member);
        Self::tell(&mut state);
    }

    /// How often a client's session was taken.
    pub fn taken(&self, client: &str) -> u64 {
        let state = self.0.lock();
        let its = state.sessions.values().find(|kept| *kept.client_id == *client);
        its.map_or(0, |kept| kept.taken)
    }

    /// QoS 2 publishes that are kept because they may not be everywhere.
    pub fn open(&self) -> usize {
        self.0.lock().open.len()
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

/// One start of a node, as its store and membership.
#[derive(Debug)]
pub struct Node {
    world: World,
    incarnation: u64,
    /// It is frozen or cut off: nothing of it is written any more.
    pub cut: Arc<AtomicBool>,
    /// What it writes is written, and it never hears so.
    pub mute: Arc<AtomicBool>,
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
    }
}

impl Node {
    fn apply(&self, state: &mut State, op: StoreOp) {
        let me = self.incarnation;
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
            StoreOp::PutSubscription { id, filter, qos } => kept(state, id, &|kept| {
                let filter = Arc::clone(&filter);
                kept.subscriptions.insert(Arc::clone(&filter), StoredSubscription { filter, qos });
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
                state.wills.insert((me, Arc::clone(&will.client_id)), will);
            }
            StoreOp::DeleteWill { client_id } => drop(state.wills.remove(&(me, client_id))),
            StoreOp::PutPeerBatch { origin, batch } => {
                state.batches.entry(me).or_default().insert((origin, batch));
            }
            StoreOp::ForgetPeerBatches { origin, below } => {
                let batches = state.batches.entry(me).or_default();
                batches.retain(|(of, batch)| *of != origin || *batch >= below);
            }
            StoreOp::PutOpen(open) => drop(state.open.insert(open.id, *open)),
            StoreOp::OpenQueued { id } => {
                if let Some(open) = state.open.get_mut(&id) {
                    open.queued = true;
                }
            }
            StoreOp::ForgetOpen { incarnation, lane, below } => {
                let its = |id: &PublishId| {
                    id.incarnation == incarnation
                        && lane.is_none_or(|lane| id.lane == lane)
                        && id.number < below
                };
                state.open.retain(|id, _| !its(id));
            }
            StoreOp::PutOutbox { .. } | StoreOp::MoveCursor { .. } => {}
        }
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
        let mut state = self.world.0.lock();
        if state.sealed.contains_key(&self.incarnation) {
            return Self::now(Err(StoreError::Unavailable("sealed".to_owned())));
        }
        for op in ops.iter() {
            self.apply(&mut state, op.clone());
        }
        let mute = Arc::clone(&self.mute);
        Box::pin(async move {
            tokio::time::sleep(WRITE).await;
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
        Self::now(Ok(Vec::new()))
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

    fn describe(&self) -> String {
        "memory".to_owned()
    }
}

impl SharedStore for Node {
    fn incarnation(&self) -> u64 {
        self.incarnation
    }

    fn continues(&self) -> Vec<u64> {
        Vec::new()
    }

    fn stored_batches(&self) -> Vec<(u64, u64)> {
        Vec::new()
    }

    fn open_publishes(&self) -> Vec<OpenPublish> {
        Vec::new()
    }

    fn holds_lease(&self) -> bool {
        !self.cut.load(Ordering::SeqCst) && !self.world.0.lock().dead.contains(&self.incarnation)
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
            let kept = state.sessions.get_mut(&from.id);
            let as_said = |kept: &&mut Kept| kept.holder == from.incarnation && kept.taken <= until;
            Ok(kept.filter(as_said).map(|kept| {
                kept.holder = me;
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
        state.sealed.insert(incarnation, self.incarnation);
        let mut estate = Estate { incarnations: vec![incarnation], ..Estate::default() };
        for (id, kept) in &mut state.sessions {
            if kept.holder == incarnation {
                kept.holder = self.incarnation;
                estate.sessions.push(found(*id, kept));
            }
        }
        estate.batches = state.batches.remove(&incarnation).into_iter().flatten().collect();
        let open = state.open.values().filter(|open| open.id.incarnation == incarnation);
        estate.open = open.cloned().collect();
        let theirs: Vec<_> =
            state.wills.keys().filter(|(of, _)| *of == incarnation).cloned().collect();
        estate.wills = theirs.iter().filter_map(|key| state.wills.remove(key)).collect();
        Self::now(Ok(Sealing::Ours(Box::new(estate))))
    }
}

impl Membership for Node {
    fn join(&self, me: Member) -> MembershipFuture<watch::Receiver<View>> {
        let mut state = self.world.0.lock();
        let (sender, receiver) = watch::channel(View::default());
        state.views.push((Arc::clone(&me.node_id), sender));
        // Whoever was started anew is dead.
        let before = state.members.insert(Arc::clone(&me.node_id), me);
        state.dead.extend(before.map(|before| before.incarnation));
        World::tell(&mut state);
        Box::pin(ready(Ok(receiver)))
    }

    fn update(&self, _: Load, _: bool) {}

    fn leave(&self) -> MembershipFuture<()> {
        Box::pin(ready(Ok(())))
    }

    fn describe(&self) -> String {
        "memory".to_owned()
    }
}
