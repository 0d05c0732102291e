//! What an incarnation knows without asking: which sessions it holds, their receipts and delivered entries, its lanes
//! and those it has taken over, the order of its writes. It dies with its process.
//!
//! It is what `src/cassandra` keeps in `memory.rs`, `order.rs`, `owned_sessions.rs` and `timestamps.rs`; places of
//! wills are not given again here, and nothing that is settled is forgotten.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hydrant_engine::now::Boot;
use hydrant_engine::ports::{
    PreparedPublish, SealedIncarnation, SessionId, StoreError, StoreOp, StoredBatch, StoredWill,
};

use super::planned::Plan;
use super::tables::{Base, States, WillName};

/// Stamps below an incarnation's number.
pub(super) const COUNTER_BITS: u32 = 44;
/// Stamps that are reserved at once.
pub(super) const RESERVE: u64 = 1 << 30;
/// After so many plans an adopted lineage of which something is left is looked at again.
const SETTLED: u64 = 4096;
/// Slots of a journal.
pub(super) const SLOTS: u8 = 2;

/// How a session is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Holding {
    pub(super) lineage: u64,
    /// It is known to stand in the lineage's index.
    pub(super) indexed: bool,
}

/// A session's queue.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// The bucket that was last put into the directory.
    pub(super) marked: Option<u64>,
    /// The first bucket of a plan since the start, and the highest.
    pub(super) lowest: Option<u64>,
    pub(super) planned: Option<u64>,
    pub(super) buckets: BTreeMap<u64, States>,
}

/// Positions of a lane that one incarnation wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) incarnation: u64,
    pub(super) start: u64,
    /// One past the last; `u64::MAX` in this incarnation's own.
    pub(super) end: u64,
}

/// A lane goes on over incarnations.
#[derive(Debug, Clone, Default)]
pub(super) struct Lane {
    pub(super) cursor: u64,
    /// The cursor that is known to be written.
    pub(super) durable: u64,
    pub(super) end: u64,
    pub(super) bytes: u64,
    /// The bucket that was last put into this incarnation's directory.
    pub(super) marked: Option<u64>,
    /// Buckets below are dropped.
    pub(super) dropped: u64,
    pub(super) extents: Vec<Extent>,
    /// Of a lane that does not go on here: the incarnation that has its cursor, and its number there.
    pub(super) home: Option<(u64, u16)>,
}

/// Dead incarnations that followed each other, as far as something is left of them.
#[derive(Debug, Clone)]
pub(super) struct Adopted {
    pub(super) lineage: u64,
    pub(super) numbers: Vec<u64>,
    pub(super) lanes: Vec<u16>,
    /// Not looked at again before this plan.
    pub(super) not_before: u64,
}

/// What an incarnation goes on with from its start.
#[derive(Debug, Default)]
pub(super) struct Continued {
    pub(super) incarnations: Vec<SealedIncarnation>,
    pub(super) batches: Vec<StoredBatch>,
    pub(super) prepared: Vec<PreparedPublish>,
    pub(super) wills: Vec<StoredWill>,
}

/// Which writes wait for which.
#[derive(Debug, Default)]
struct Order {
    planned: u64,
    /// How those ended that are over.
    over: BTreeMap<u64, bool>,
    last_in_turn: Option<u64>,
    last_of: BTreeMap<SessionId, u64>,
}

/// The place of a write among others.
#[derive(Debug, Clone, Default)]
pub(super) struct Place {
    pub(super) number: u64,
    pub(super) in_turn: bool,
    follows: BTreeSet<u64>,
    sessions: Vec<SessionId>,
}

/// Where a will stands.
#[derive(Debug)]
struct KnownWill {
    incarnation: u64,
    ended: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Memory {
    pub(super) number: u64,
    pub(super) lineage: u64,
    pub(super) node: Arc<str>,
    /// The stamp that was given last, and the highest that may be given.
    pub(super) last: u64,
    pub(super) until: u64,
    /// End of the lease.
    pub(super) lease_until: Boot,
    pub(super) released: bool,
    /// Why it is over for good.
    pub(super) lost: Option<String>,
    pub(super) continued: Continued,
    owned: BTreeMap<SessionId, Holding>,
    dropped: BTreeSet<SessionId>,
    pub(super) bases: BTreeMap<SessionId, Base>,
    pub(super) receipts: BTreeMap<SessionId, BTreeSet<u16>>,
    pub(super) queues: BTreeMap<SessionId, Queue>,
    pub(super) lanes: BTreeMap<u16, Lane>,
    wills: BTreeMap<WillName, KnownWill>,
    pub(super) adopted: Vec<Adopted>,
    pub(super) dead: BTreeSet<u64>,
    /// Dead incarnations with prepared publishes.
    pub(super) prepared: BTreeSet<u64>,
    /// Batches that dead incarnations had stored: the highest number, by the dead one and the origin.
    pub(super) batches: BTreeMap<(u64, u64), u64>,
    order: Order,
    failed: Vec<Arc<Vec<StoreOp>>>,
    /// It takes over what a sealed incarnation had.
    pub(super) seals: bool,
    pub(super) last_slot: u8,
    pub(super) half_done: Option<Plan>,
    pub(super) journal_used: bool,
    plans: u64,
}

impl Memory {
    /// Of an incarnation that begins.
    pub(super) fn new(number: u64, node: Arc<str>, until: u64, lease_until: Boot) -> Self {
        let last = number << COUNTER_BITS;
        Self { number, lineage: number, node, last, until, lease_until, ..Self::default() }
    }

    /// The next stamp.
    pub(super) fn stamp(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// Whether what is done now may be acknowledged.
    pub(super) fn holds_lease(&self, now: Boot) -> bool {
        now < self.lease_until && !self.released
    }

    /// As [`Self::holds_lease`], as an error.
    pub(super) fn check(&self, now: Boot) -> Result<(), StoreError> {
        if let Some(why) = &self.lost {
            return Err(StoreError::Unusable(why.clone()));
        }
        if self.holds_lease(now) {
            return Ok(());
        }
        Err(StoreError::Unavailable("the lease has ended and is not renewed yet".to_owned()))
    }

    /// Another has sealed it.
    pub(super) fn sealed(&mut self, by: Option<u64>) {
        if by != Some(self.number) {
            self.lease_until = Boot::default();
            let number = self.number;
            self.lost.get_or_insert_with(|| format!("incarnation {number} was sealed by {by:?}"));
        }
    }

    pub(super) fn holds(&self, id: SessionId) -> bool {
        self.owned.contains_key(&id)
    }

    pub(super) fn holding(&self, id: SessionId) -> Option<Holding> {
        self.owned.get(&id).copied()
    }

    /// The sessions that it holds.
    pub(super) fn owned(&self) -> Vec<SessionId> {
        self.owned.keys().copied().collect()
    }

    /// Lineages under which it holds something, and its own.
    pub(super) fn lineages(&self) -> BTreeSet<u64> {
        self.owned.values().map(|holding| holding.lineage).chain([self.lineage]).collect()
    }

    /// A record is written: the session is new where it is not here. False: it was given up.
    pub(super) fn put(&mut self, id: SessionId) -> bool {
        if self.dropped.contains(&id) {
            return false;
        }
        let new = Holding { lineage: self.lineage, indexed: false };
        self.owned.entry(id).or_insert(new);
        true
    }

    /// Found or taken.
    pub(super) fn admit(&mut self, id: SessionId, lineage: u64) {
        self.owned.insert(id, Holding { lineage, indexed: true });
        self.dropped.remove(&id);
    }

    /// It is another's: everything that is known of it is forgotten.
    pub(super) fn give_up(&mut self, id: SessionId) {
        self.owned.remove(&id);
        self.dropped.insert(id);
        self.receipts.remove(&id);
        self.bases.remove(&id);
        self.queues.remove(&id);
    }

    pub(super) fn lane(&mut self, number: u16) -> &mut Lane {
        let incarnation = self.number;
        self.lanes.entry(number).or_insert_with(|| Lane {
            extents: vec![Extent { incarnation, start: 0, end: u64::MAX }],
            ..Lane::default()
        })
    }

    /// A lane as it was found at start; this incarnation goes on behind it.
    pub(super) fn found(&mut self, number: u16, mut lane: Lane) {
        let (incarnation, start) = (self.number, lane.end);
        lane.extents.push(Extent { incarnation, start, end: u64::MAX });
        self.lanes.insert(number, lane);
    }

    /// Lanes that do not go on here get the next numbers from `first` on.
    pub(super) fn adopt(
        &mut self,
        (lineage, numbers): (u64, Vec<u64>),
        lanes: BTreeMap<u16, Lane>,
        first: u16,
    ) -> Vec<u16> {
        let home = numbers.last().copied().unwrap_or_default();
        let mut fresh = Vec::new();
        for (number, mut lane) in lanes.into_iter().filter(|(_, lane)| lane.end > lane.cursor) {
            let above = self.lanes.last_key_value().map_or(0, |(highest, _)| highest + 1);
            lane.home = Some((home, number));
            fresh.push(above.max(first));
            self.lanes.insert(above.max(first), lane);
        }
        self.dead.extend(&numbers);
        self.adopted.push(Adopted { lineage, numbers, lanes: fresh.clone(), not_before: 0 });
        fresh
    }

    /// Adopted incarnations of which something can be forgotten: taken out.
    pub(super) fn finished(&mut self) -> Vec<Adopted> {
        let adopted = std::mem::take(&mut self.adopted);
        let (finished, left) = adopted.into_iter().partition(|adopted| {
            let is_drained =
                |lane| self.lanes.get(lane).is_none_or(|lane| lane.durable >= lane.end);
            let holds = || self.owned.values().any(|held| held.lineage == adopted.lineage);
            adopted.not_before <= self.plans
                && adopted.lanes.iter().all(is_drained)
                && adopted.numbers.iter().all(|number| self.is_done_with(*number))
                && (adopted.numbers != [adopted.lineage] || !holds())
        });
        self.adopted = left;
        finished
    }

    /// Of an adopted lineage these are left, and looked at again later.
    pub(super) fn unfinished(&mut self, lineage: u64, numbers: Vec<u64>) {
        let not_before = self.plans + SETTLED;
        self.adopted.push(Adopted { lineage, numbers, lanes: Vec::new(), not_before });
    }

    /// Nothing but its lanes is left of a dead incarnation.
    pub(super) fn is_done_with(&self, number: u64) -> bool {
        let has_will = self.wills.values().any(|will| will.incarnation == number && !will.ended);
        let has_batch = self.batches.keys().any(|(of, _)| *of == number);
        !has_will && !has_batch && !self.prepared.contains(&number)
    }

    /// Batches of an origin are not sent again: the dead incarnations that had stored some.
    pub(super) fn forget_batches(&mut self, origin: u64, below: u64) -> Vec<u64> {
        let its = self.batches.keys().filter(|(_, of)| *of == origin);
        let numbers = its.map(|(number, _)| *number).collect();
        self.batches.retain(|(_, of), highest| *of != origin || *highest >= below);
        numbers
    }

    /// Where a will is to stand; `None`: it has ended, and this is an earlier write that is made again.
    pub(super) fn put_will(&mut self, name: &WillName) -> Option<u64> {
        let new = KnownWill { incarnation: self.number, ended: false };
        let known = self.wills.entry(name.clone()).or_insert(new);
        (!known.ended).then_some(known.incarnation)
    }

    /// Where a will stands. `None`: nowhere.
    pub(super) fn will(&self, name: &WillName) -> Option<u64> {
        self.wills.get(name).filter(|known| !known.ended).map(|known| known.incarnation)
    }

    /// A dead incarnation has left it.
    pub(super) fn found_will(&mut self, incarnation: u64, will: &StoredWill) {
        let name = (Arc::clone(&will.client_id), will.connection);
        self.wills.insert(name, KnownWill { incarnation, ended: false });
    }

    /// A batch is handed over: refused while one before it has failed and did not come again.
    pub(super) fn accept(&mut self, ops: &Arc<Vec<StoreOp>>) -> Result<(), StoreError> {
        if self.failed.is_empty() {
            return Ok(());
        }
        if self.failed.iter().any(|failed| Arc::ptr_eq(failed, ops)) {
            self.failed.clear();
            return Ok(());
        }
        self.failed.push(Arc::clone(ops));
        Err(StoreError::Unavailable("a write before this one has failed".to_owned()))
    }

    /// A plan begins.
    pub(super) fn begins(&mut self) {
        self.plans += 1;
    }

    /// The place of the write that was planned last.
    pub(super) fn place(&mut self, in_turn: bool, sessions: Vec<SessionId>) -> Place {
        let order = &mut self.order;
        order.planned += 1;
        let number = order.planned;
        let mut follows: BTreeSet<u64> =
            sessions.iter().filter_map(|session| order.last_of.insert(*session, number)).collect();
        if in_turn {
            follows.extend(order.last_in_turn.replace(number));
        }
        follows.retain(|number| !order.over.contains_key(number));
        Place { number, in_turn, follows, sessions }
    }

    /// `None`: a write that this one follows is not over. False: one of them has failed.
    pub(super) fn comes(&self, place: &Place) -> Option<bool> {
        let over = place.follows.iter().map(|number| self.order.over.get(number).copied());
        over.collect::<Option<Vec<bool>>>().map(|over| over.into_iter().all(|done| done))
    }

    /// A write is over. True: it was one that comes in turn, and none is behind it.
    fn ends(&mut self, place: &Place, done: bool) -> bool {
        let order = &mut self.order;
        order.over.insert(place.number, done);
        for session in &place.sessions {
            if order.last_of.get(session) == Some(&place.number) {
                order.last_of.remove(session);
            }
        }
        let last = order.last_in_turn == Some(place.number);
        if last {
            order.last_in_turn = None;
        }
        last
    }

    /// A write failed, or nobody knows.
    pub(super) fn write_failed(&mut self, place: &Place, ops: &Arc<Vec<StoreOp>>, plan: Plan) {
        self.ends(place, false);
        self.failed.push(Arc::clone(ops));
        if plan.journaled.is_some() {
            self.half_done = Some(plan);
        }
    }

    /// A write is durable. True: nothing is left that the journal is for.
    pub(super) fn write_done(&mut self, place: &Place, plan: &Plan) -> bool {
        let last = self.ends(place, true);
        self.succeeded(plan);
        last && self.half_done.is_none() && std::mem::take(&mut self.journal_used)
    }

    /// A session's receipts with changes that are not durable yet.
    pub(super) fn receipts_with(&self, id: SessionId, changes: &[(u16, bool)]) -> BTreeSet<u16> {
        let mut receipts = self.receipts.get(&id).cloned().unwrap_or_default();
        for (packet_id, held) in changes {
            if *held {
                receipts.insert(*packet_id);
            } else {
                receipts.remove(packet_id);
            }
        }
        receipts
    }

    /// A plan is durable: what later plans may take for granted.
    pub(super) fn succeeded(&mut self, plan: &Plan) {
        for (lane, bucket) in &plan.outbox_marks {
            let lane = self.lane(*lane);
            lane.marked = lane.marked.max(Some(*bucket));
        }
        for (lane, bucket) in &plan.dropped {
            let lane = self.lane(*lane);
            lane.dropped = lane.dropped.max(*bucket);
        }
        for (lane, position) in &plan.cursors {
            let lane = self.lane(*lane);
            lane.durable = lane.durable.max(*position);
        }
        for (id, receipts) in &plan.receipts {
            let held = self.receipts_with(*id, &receipts.changes);
            if held.is_empty() {
                self.receipts.remove(id);
            } else {
                self.receipts.insert(*id, held);
            }
        }
        for (_, id, _) in &plan.ended {
            self.receipts.remove(id);
            self.bases.remove(id);
        }
        for epoch in &plan.epochs {
            if let Some(holding) = self.owned.get_mut(&epoch.id) {
                holding.indexed = true;
            }
        }
        plan.ended.iter().for_each(|(_, id, _)| _ = self.owned.remove(id));
        plan.closed.iter().for_each(|number| _ = self.prepared.remove(number));
        for name in &plan.discharged {
            if let Some(known) = self.wills.get_mut(name) {
                known.ended = true;
            }
        }
        for (id, bucket) in &plan.queue_marks {
            if let Some(queue) = self.queues.get_mut(id) {
                queue.marked = queue.marked.max(Some(*bucket));
            }
        }
    }
}
