//! What the adapter knows without asking: the stamps it gives, the sessions' receipts and delivered
//! entries, the lanes of the outbox and whose they are.
//!
//! Bounds: an entry a session with something in flight, received or partly delivered
//! (`session.max_sessions`); an entry a lane; an entry a will that a dead incarnation left; the
//! buckets that [`SETTLED`] plans completed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use ahash::AHashMap;
use hydrant_actors::ports::{SessionId, StoreError, StoreOp};

use super::order::Order;
use super::plan::Plan;
use super::queue::BucketState;

/// Bits of a stamp below the incarnation's number. Half of what they count is given out: 8.8e12
/// stamps, 100 days of a million a second.
const COUNTER_BITS: u32 = 44;
/// Bits of an incarnation's number: half a million starts in a keyspace. A stamp is positive.
pub(super) const NUMBER_BITS: u32 = 63 - COUNTER_BITS;
/// After so many plans nothing of a plan is written again: more than `storage.max_in_flight` can be,
/// twice.
const SETTLED: u64 = 4096;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// This incarnation.
    pub(super) number: u64,
    counter: u64,
    /// Those that are durable.
    pub(super) receipts: AHashMap<SessionId, BTreeSet<u16>>,
    pub(super) queues: AHashMap<SessionId, Queue>,
    lanes: BTreeMap<u16, Lane>,
    /// Wills of dead incarnations: client id, their numbers.
    pub(super) wills: AHashMap<Arc<str>, Vec<u64>>,
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
}

impl Memory {
    pub(super) fn new(number: u64) -> Self {
        Self { number, ..Self::default() }
    }

    /// The next stamp: above every one that this and every earlier incarnation gave.
    pub(super) fn stamp(&mut self) -> u64 {
        self.counter += 1;
        self.number << COUNTER_BITS | self.counter
    }

    /// The incarnation that gave a stamp.
    pub(super) const fn owner(stamp: u64) -> u64 {
        stamp >> COUNTER_BITS
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
    /// There are no stamps left.
    pub(super) fn begins(&mut self) -> Result<(), StoreError> {
        if self.counter >> (COUNTER_BITS - 1) != 0 {
            let why = "this start of the node has used up its stamps: start it again";
            return Err(StoreError::Unusable(why.to_owned()));
        }
        self.plans += 1;
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
        for (_, id) in &plan.ended {
            self.receipts.remove(id);
        }
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
    use super::*;

    fn batch() -> Arc<Vec<StoreOp>> {
        Arc::new(Vec::new())
    }

    /// StorageActor has handed C over before it heard that A failed.
    #[test]
    fn after_a_failure_nothing_is_planned_before_what_failed() {
        let mut memory = Memory::new(1);
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
        let mut memory = Memory::new(1);
        memory.failed(batch(), Plan::default());
        assert!(memory.half_done.is_none());
        memory.failed(batch(), Plan { journaled: Some(1), ..Plan::default() });
        assert!(memory.half_done.is_some());
    }

    #[test]
    fn a_complete_bucket_is_known_until_no_plan_of_it_can_come_again() {
        let mut memory = Memory::new(1);
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
        memory.counter = 1 << (COUNTER_BITS - 1);
        assert!(memory.begins().unwrap_err().to_string().contains("start it again"));
    }
}
