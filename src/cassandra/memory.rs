//! What the adapter knows without asking: the stamps it gives, the sessions' receipts and delivered
//! entries, the lanes of the outbox and whose they are.
//!
//! Bounds: an entry a session with something in flight, received or partly delivered
//! (`session.max_sessions`); an entry a lane; an entry a will that a dead incarnation left.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ahash::AHashMap;
use hydrant_actors::ports::{SessionId, StoreError};

use super::plan::Plan;
use super::queue::BucketState;

/// Bits of a stamp below the incarnation's number: 6.8e10 statements an incarnation.
const COUNTER_BITS: u32 = 36;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// This incarnation.
    pub(super) number: u64,
    counter: u64,
    pub(super) receipts: AHashMap<SessionId, BTreeSet<u16>>,
    pub(super) queues: AHashMap<SessionId, Queue>,
    lanes: BTreeMap<u16, Lane>,
    /// Wills of dead incarnations: client id, their numbers.
    pub(super) wills: AHashMap<Arc<str>, Vec<u64>>,
    journal: Slots,
}

/// One session's queue.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// The bucket that was last put into the directory.
    pub(super) marked: Option<u64>,
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

/// Places in the journal.
#[derive(Debug, Default)]
struct Slots {
    free: Vec<i32>,
    /// Of writes that failed; free once everything that was written again is written.
    stale: Vec<i32>,
    used: i32,
    under_way: usize,
}

/// Places in an incarnation's journal; each holds one write's statements.
pub(super) const JOURNAL_SLOTS: i32 = 128;

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

    /// A write begins, with a place in the journal where it is atomic.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn begins(&mut self, atomic: bool) -> Result<Option<i32>, StoreError> {
        let slots = &mut self.journal;
        let free = if atomic { slots.free.pop() } else { None };
        let slot = match free {
            Some(slot) => Some(slot),
            None if !atomic => None,
            None if slots.used < JOURNAL_SLOTS => {
                slots.used += 1;
                Some(slots.used - 1)
            }
            None => {
                let why = "every place in the journal belongs to a write that failed";
                return Err(StoreError::Unavailable(why.to_owned()));
            }
        };
        slots.under_way += 1;
        Ok(slot)
    }

    /// A write is over.
    pub(super) fn ends(&mut self, slot: Option<i32>, succeeded: bool) {
        let slots = &mut self.journal;
        slots.under_way -= 1;
        match (slot, succeeded) {
            (Some(slot), true) => slots.free.push(slot),
            // Its statements may be half done: whoever comes after us has to find them, until
            // StorageActor has written all of them again.
            (Some(slot), false) => slots.stale.push(slot),
            _ => {}
        }
        if succeeded && slots.under_way == 0 {
            slots.free.append(&mut slots.stale);
        }
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
        for (id, bucket) in &plan.queue_marks {
            if let Some(queue) = self.queues.get_mut(id) {
                queue.marked = queue.marked.max(Some(*bucket));
            }
        }
    }
}
