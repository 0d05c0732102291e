//! What the adapter knows without asking: which sessions it holds, their receipts and delivered
//! entries, the lanes of the outbox and whose they are.
//!
//! Bounds: an entry a session with something in flight, received or partly delivered, and one a
//! session that is held (`session.max_sessions`); an entry a lane; the wills ([`Wills`]); one a dead
//! incarnation that is not drained; the buckets that [`SETTLED`] plans completed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use ahash::AHashMap;
use hydrant_actors::ports::{SessionId, StoreError, StoreOp};

use super::order::Order;
use super::owned_sessions::OwnedSessions;
use super::planned::Plan;
use super::queue::{Base, BucketState};
use super::timestamps::Timestamps;
use super::wills::Wills;

/// A plan is not begun with fewer write timestamps left: more than it can need.
const PLAN_TIMESTAMPS: u64 = 1 << 24;
/// After so many plans nothing of a plan is written again: more than `storage.max_in_flight` can be,
/// twice.
const SETTLED: u64 = 4096;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// This incarnation.
    pub(super) number: u64,
    timestamps: Arc<Timestamps>,
    /// `None`: every session of the keyspace is ours.
    pub(super) owned_sessions: Option<OwnedSessions>,
    /// What counts of the queues of sessions that were taken from a dead incarnation.
    pub(super) bases: AHashMap<SessionId, Base>,
    /// Dead incarnations whose lanes do not go on here.
    pub(super) adopted: Vec<Adopted>,
    /// Every dead incarnation that is ours.
    pub(super) dead: BTreeSet<u64>,
    /// Those that are durable.
    pub(super) receipts: AHashMap<SessionId, BTreeSet<u16>>,
    pub(super) queues: AHashMap<SessionId, Queue>,
    lanes: BTreeMap<u16, Lane>,
    /// Where wills stand.
    pub(super) wills: Wills,
    /// Dead incarnations with prepared publishes.
    pub(super) prepared: BTreeSet<u64>,
    /// Batches of other nodes that dead incarnations had stored and that may be sent again: the highest number, by
    /// the dead one and the origin. Their rows stay.
    pub(super) batches: BTreeMap<(u64, u64), u64>,
    pub(super) order: Order,
    /// Writes that failed, and that nothing may overtake until they are planned again.
    failed: Vec<Arc<Vec<StoreOp>>>,
    /// The slot of the journal that was used last.
    pub(super) last_slot: i32,
    /// A write that failed when it stood in the journal: done before another of its kind is begun.
    pub(super) half_done: Option<Plan>,
    /// The journal holds something.
    pub(super) journal_used: bool,
    /// Plans made.
    plans: u64,
    /// Complete buckets, and the plan that last found them so.
    complete: AHashMap<(SessionId, u64), u64>,
    /// The same in their order; a bucket may stand here more than once.
    settling: VecDeque<(u64, SessionId, u64)>,
}

/// One session's queue.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// The bucket that was last put into the directory.
    pub(super) marked: Option<u64>,
    /// The first bucket of a plan since the start, and the highest: they may be written.
    pub(super) lowest: Option<u64>,
    pub(super) planned: Option<u64>,
    /// Buckets in which something is delivered or in flight.
    pub(super) buckets: BTreeMap<u64, BucketState>,
}

/// Positions of a lane that one incarnation wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) incarnation: u64,
    pub(super) start: u64,
    /// One past the last; `u64::MAX` in this incarnation's own.
    pub(super) end: u64,
}

/// A lane goes on over incarnations: its positions are cut into extents.
#[derive(Debug, Default)]
pub(super) struct Lane {
    pub(super) cursor: u64,
    /// The cursor that is known to be written: what is below may be dropped.
    pub(super) durable: u64,
    pub(super) end: u64,
    /// Of what stands between the two, about.
    pub(super) bytes: u64,
    /// The bucket that was last put into this incarnation's directory.
    pub(super) marked: Option<u64>,
    /// Buckets below are dropped.
    pub(super) dropped: u64,
    /// By position; the last is this incarnation's.
    pub(super) extents: Vec<Extent>,
    /// Of a lane that does not go on here: the incarnation whose cursor it has, and its number there.
    pub(super) home: Option<(u64, u16)>,
}

impl Lane {
    /// Everything in it is acknowledged, and that is known to be written.
    fn is_drained(&self) -> bool {
        self.durable >= self.end
    }
}

/// Dead incarnations that followed each other, as far as something is left of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Adopted {
    /// Under it their sessions are held.
    pub(super) lineage: u64,
    /// Oldest first.
    pub(super) numbers: Vec<u64>,
    /// Their lanes, as they are numbered here.
    pub(super) lanes: Vec<u16>,
    /// Not looked at again before this plan.
    pub(super) not_before: u64,
}

/// Whether a dead incarnation has an entry.
fn keeps(batches: &BTreeMap<(u64, u64), u64>, number: u64) -> bool {
    batches.range((number, 0)..=(number, u64::MAX)).next().is_some()
}

impl Memory {
    pub(super) fn new(number: u64, timestamps: Arc<Timestamps>) -> Self {
        Self { number, timestamps, ..Self::default() }
    }

    /// The next write timestamp: above every one that was given for anything that is ours.
    pub(super) fn timestamp(&mut self) -> u64 {
        self.timestamps.next()
    }

    /// Whether anything may be written for a session.
    pub(super) fn holds(&self, id: SessionId) -> bool {
        self.owned_sessions.as_ref().is_none_or(|owned| owned.get(id).is_some())
    }

    /// Everything known about a session is forgotten.
    pub(super) fn give_up(&mut self, id: SessionId) {
        if let Some(owned) = &mut self.owned_sessions {
            owned.give_up(id);
        }
        self.receipts.remove(&id);
        self.bases.remove(&id);
        if let Some(queue) = self.queues.remove(&id) {
            for bucket in queue.buckets.into_keys() {
                self.complete.remove(&(id, bucket));
            }
        }
    }

    /// Lanes that do not go on here, as far as something is left in them, get the next numbers from `first` on. `home`: the incarnation in
    /// whose partition their cursors stand.
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
        let is_finished = |adopted: &Adopted| {
            let is_drained = |lane| self.lanes.get(lane).is_none_or(Lane::is_drained);
            let holds =
                || self.owned_sessions.as_ref().is_some_and(|owned| owned.holds(adopted.lineage));
            adopted.not_before <= self.plans
                && adopted.lanes.iter().all(is_drained)
                && !adopted.numbers.iter().any(|number| self.wills.has(*number))
                && !adopted.numbers.iter().any(|number| self.prepared.contains(number))
                && !adopted.numbers.iter().any(|number| keeps(&self.batches, *number))
                && (adopted.numbers != [adopted.lineage] || !holds())
        };
        let (finished, adopted) =
            std::mem::take(&mut self.adopted).into_iter().partition(is_finished);
        self.adopted = adopted;
        finished
    }

    /// Whether a dead incarnation had stored batches that may be sent again.
    pub(super) fn keeps_batches(&self, number: u64) -> bool {
        keeps(&self.batches, number)
    }

    /// Batches of an origin are not sent again: the dead incarnations that had stored some of it.
    pub(super) fn forget_batches(&mut self, origin: u64, below: u64) -> Vec<u64> {
        let its = self.batches.keys().filter(|(_, of)| *of == origin);
        let numbers = its.map(|(number, _)| *number).collect();
        self.batches.retain(|(_, of), highest| *of != origin || *highest >= below);
        numbers
    }

    /// Of an adopted lineage these are left, and looked at again later.
    pub(super) fn unfinished(&mut self, lineage: u64, numbers: Vec<u64>) {
        let not_before = self.plans + SETTLED;
        self.adopted.push(Adopted { lineage, numbers, lanes: Vec::new(), not_before });
    }

    pub(super) fn lane(&mut self, number: u16) -> &mut Lane {
        let incarnation = self.number;
        self.lanes.entry(number).or_insert_with(|| Lane {
            extents: vec![Extent { incarnation, start: 0, end: u64::MAX }],
            ..Lane::default()
        })
    }

    pub(super) fn lanes(&self) -> &BTreeMap<u16, Lane> {
        &self.lanes
    }

    /// A lane as it was found at start; this incarnation goes on behind it.
    pub(super) fn found(&mut self, number: u16, mut lane: Lane) {
        let (incarnation, start) = (self.number, lane.end);
        lane.extents.push(Extent { incarnation, start, end: u64::MAX });
        self.lanes.insert(number, lane);
    }

    /// A batch is handed over. StorageActor hears of a failure later than this: what it has handed
    /// over meanwhile is refused, so that it comes again behind what failed.
    ///
    /// # Errors
    /// A batch before it has failed and is not planned again yet.
    pub(super) fn admit(&mut self, ops: &Arc<Vec<StoreOp>>) -> Result<(), StoreError> {
        if self.failed.is_empty() {
            return Ok(());
        }
        if self.failed.iter().any(|failed| Arc::ptr_eq(failed, ops)) {
            // The oldest that is not durable; all behind it follow.
            self.failed.clear();
            return Ok(());
        }
        self.failed.push(Arc::clone(ops));
        let why = "a write before this one has failed";
        Err(StoreError::Unavailable(why.to_owned()))
    }

    /// It was not done, or nobody knows.
    pub(super) fn failed(&mut self, ops: Arc<Vec<StoreOp>>, plan: Plan) {
        self.failed.push(ops);
        if plan.journaled.is_some() {
            self.half_done = Some(plan);
        }
    }

    /// A plan begins. Buckets that are complete are forgotten once no batch that touches them can
    /// be planned again.
    ///
    /// # Errors
    /// There are no write timestamps left for now.
    pub(super) fn begins(&mut self) -> Result<(), StoreError> {
        if self.timestamps.left() < PLAN_TIMESTAMPS {
            let why = "no write timestamps are left until the lease in Cassandra is renewed";
            return Err(StoreError::Unavailable(why.to_owned()));
        }
        self.plans += 1;
        self.wills.settled(self.plans.saturating_sub(SETTLED));
        while let Some((plan, id, bucket)) = self.settling.front().copied()
            && plan + SETTLED < self.plans
        {
            self.settling.pop_front();
            if self.complete.get(&(id, bucket)) == Some(&plan) {
                self.complete.remove(&(id, bucket));
                if let Some(queue) = self.queues.get_mut(&id) {
                    queue.buckets.remove(&bucket);
                }
            }
        }
        Ok(())
    }

    /// Every entry of a bucket is delivered, by the present plan.
    pub(super) fn completed(&mut self, id: SessionId, bucket: u64) {
        self.complete.insert((id, bucket), self.plans);
        self.settling.push_back((self.plans, id, bucket));
    }

    /// It is not, after all: an entry of it is written again.
    pub(super) fn reopened(&mut self, id: SessionId, bucket: u64) {
        self.complete.remove(&(id, bucket));
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
        if let Some(owned) = &mut self.owned_sessions {
            plan.epochs.iter().for_each(|epoch| owned.indexed(epoch.id));
            plan.ended.iter().for_each(|(_, id, _)| owned.ended(*id));
        }
        plan.closed.iter().for_each(|number| _ = self.prepared.remove(number));
        plan.discharged.iter().for_each(|name| self.wills.ended(name, self.plans));
        for (id, bucket) in &plan.queue_marks {
            if let Some(queue) = self.queues.get_mut(id) {
                queue.marked = queue.marked.max(Some(*bucket));
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use hydrant_actors::ports::StoredWill;

    use super::super::wills::Place;
    use super::*;

    fn memory(number: u64) -> Memory {
        Memory::new(number, Arc::new(Timestamps::new(number)))
    }

    fn batch() -> Arc<Vec<StoreOp>> {
        Arc::new(Vec::new())
    }

    /// StorageActor has handed C over before it heard that A failed.
    #[test]
    fn after_a_failure_nothing_is_planned_before_what_failed() {
        let mut memory = memory(1);
        let (a, b, c) = (batch(), batch(), batch());
        memory.admit(&a).unwrap();
        memory.admit(&b).unwrap();
        memory.failed(Arc::clone(&a), Plan::default());
        assert!(memory.admit(&c).is_err());
        // All again, from the oldest on.
        for again in [&a, &b, &c] {
            memory.admit(again).unwrap();
        }
        // A rebuilt actor begins with one that has not failed.
        memory.failed(Arc::clone(&c), Plan::default());
        assert!(memory.admit(&b).is_err());
        memory.admit(&b).unwrap();
        memory.admit(&c).unwrap();
    }

    #[test]
    fn what_failed_in_the_journal_is_kept_until_it_is_done() {
        let mut memory = memory(1);
        memory.failed(batch(), Plan::default());
        assert!(memory.half_done.is_none());
        memory.failed(batch(), Plan { journaled: Some(1), ..Plan::default() });
        assert!(memory.half_done.is_some());
    }

    #[test]
    fn a_complete_bucket_is_known_until_no_plan_of_it_can_come_again() {
        let mut memory = memory(1);
        memory.queues.entry(7).or_default().buckets.insert(0, BucketState::new(0));
        memory.begins().unwrap();
        memory.completed(7, 0);
        memory.begins().unwrap();
        memory.completed(7, 0);
        for _ in 0..SETTLED {
            memory.begins().unwrap();
            assert!(memory.queues[&7].buckets.contains_key(&0));
        }
        memory.begins().unwrap();
        assert!(memory.queues[&7].buckets.is_empty() && memory.complete.is_empty());
        memory.timestamps.jump(memory.timestamps.until());
        let why = memory.begins().unwrap_err().to_string();
        assert!(why.contains("until the lease in Cassandra is renewed"), "{why}");
    }

    #[test]
    fn an_adopted_line_is_finished_when_its_lanes_wills_and_sessions_are() {
        let mut memory = memory(9);
        memory.owned_sessions = Some(OwnedSessions::new(9));
        memory.lane(3);
        let lane = Lane { cursor: 5, durable: 5, end: 7, ..Lane::default() };
        let lanes = BTreeMap::from([(0, Lane::default()), (1, lane)]);
        assert_eq!(memory.adopt((2, vec![2, 4]), lanes, 2), [4]);
        assert_eq!(memory.lanes()[&4].home, Some((4, 1)));
        let place = Place { incarnation: 4, shard: 0, key: "c".into() };
        let name = place.holds(None, None);
        let message = hydrant_protocol::Message {
            topic: "t".into(),
            payload: Vec::new().into(),
            qos: hydrant_protocol::QoS::AtMostOnce,
            retain: false,
            properties: None,
        };
        let (client_id, connection) = name.clone();
        memory.wills.found(place, &StoredWill { client_id, connection, message: message.into() });
        memory.owned_sessions.as_mut().unwrap().admit(1, 2);
        assert!(memory.finished().is_empty());
        memory.lane(4).durable = 7;
        assert!(memory.finished().is_empty());
        let discharged = vec![name];
        memory.succeeded(&Plan { discharged, ..Plan::default() });
        // What it had stored of others may be sent again.
        memory.batches.insert((4, 8), 30);
        assert!(memory.finished().is_empty());
        assert_eq!((memory.forget_batches(7, 99), memory.forget_batches(8, 30)), (vec![], vec![4]));
        assert!(memory.finished().is_empty());
        assert_eq!(memory.forget_batches(8, 31), [4]);
        // The first of the lineage stays while a session is held under it.
        assert_eq!(memory.finished().len(), 1);
        memory.unfinished(2, vec![2]);
        memory.plans += SETTLED;
        assert!(memory.finished().is_empty());
        memory.give_up(1);
        assert_eq!(memory.finished()[0].numbers, [2]);
    }
}
