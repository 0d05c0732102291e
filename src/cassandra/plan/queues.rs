//! Queues of persistent sessions: their entries in rows, their buckets' directory and states (tables `queue` and
//! `queue_bucket`; see [`super::super::queue`]).
//!
//! Entries that follow each other within a bucket stand in one row, a *run*, which is written when it ends.
//! Invariants: of a session's rows none is there without those before it.
//! Bounds: a row by [`ROW_MAX`] and by its bucket; one run a session under way.

use std::collections::BTreeSet;

use ahash::AHashMap;
use hydrant_actors::ports::{QueueEntry, SessionId};

use super::super::columns::{blob, int, long, session_shard};
use super::super::db::Bound;
use super::super::planned::Plan;
use super::super::queue::{BucketState, EntryState, place};
use super::super::statements::Statement as S;
use super::draft::Draft;
use crate::rows::{ROW_MAX, RowError, encode_message};

#[derive(Debug)]
struct Run {
    bucket: u64,
    first: u64,
    next: u64,
    entries: Vec<u8>,
    costs: Vec<u8>,
}

/// What a plan does to queues and is not in the [`Draft`] yet.
#[derive(Default)]
pub(super) struct Queues {
    runs: AHashMap<SessionId, Run>,
    /// Buckets whose state changes.
    touched: BTreeSet<(SessionId, u64)>,
    /// Rows of a session's queue so far.
    rows: AHashMap<SessionId, usize>,
}

impl Queues {
    /// Adds an entry to a session's queue.
    pub(super) fn put(
        &mut self,
        draft: &mut Draft<'_>,
        id: SessionId,
        entry: &QueueEntry,
    ) -> Result<(), RowError> {
        draft.writes_message = true;
        let (bucket, offset) = place(entry.sequence);
        let bytes = encode_message(&entry.message, entry.qos, entry.retain)?;
        let fits = self.runs.get(&id).is_some_and(|run| {
            run.bucket == bucket && run.next == entry.sequence && run.entries.len() < ROW_MAX
        });
        if !fits {
            if let Some(run) = self.runs.remove(&id) {
                self.end_run(draft, id, run);
            }
            let run = Run {
                bucket,
                first: entry.sequence,
                next: entry.sequence,
                entries: Vec::with_capacity(bytes.len() + 4),
                costs: Vec::new(),
            };
            self.runs.insert(id, run);
        }
        if let Some(run) = self.runs.get_mut(&id) {
            run.next += 1;
            #[allow(clippy::cast_possible_truncation, reason = "a packet is at most 256 MiB")]
            {
                run.entries.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
                run.costs.extend_from_slice(&(entry.message.cost() as u32).to_be_bytes());
            }
            run.entries.extend_from_slice(&bytes);
        }
        // A sequence that comes again is new.
        let queue = draft.memory.queues.entry(id).or_default();
        if let Some(state) = queue.buckets.get_mut(&bucket)
            && state.get(offset) != EntryState::Waiting
        {
            state.set(offset, EntryState::Waiting);
            draft.memory.reopened(id, bucket);
            self.touched.insert((id, bucket));
        }
        if let Some((packet_id, stage)) = entry.outgoing {
            self.set(draft, id, entry.sequence, EntryState::Outgoing(packet_id, stage));
        }
        Ok(())
    }

    /// An entry is in flight or delivered.
    pub(super) fn set(
        &mut self,
        draft: &mut Draft<'_>,
        id: SessionId,
        sequence: u64,
        to: EntryState,
    ) {
        let (bucket, offset) = place(sequence);
        let queue = draft.memory.queues.entry(id).or_default();
        let state = queue.buckets.entry(bucket).or_insert_with(|| BucketState::new(bucket));
        state.set(offset, to);
        self.touched.insert((id, bucket));
    }

    /// Removes the queue of a session that ends; its directory after the buckets.
    pub(super) fn delete(&mut self, draft: &mut Draft<'_>, id: SessionId, timestamp: u64) {
        // What this plan wrote of the queue stands in buckets that the directory may not show yet.
        let mut written: BTreeSet<u64> = draft
            .plan
            .queue_marks
            .iter()
            .filter(|(of, _)| *of == id)
            .map(|(_, bucket)| *bucket)
            .collect();
        written.extend(self.runs.remove(&id).map(|run| run.bucket));
        if let Some(queue) = draft.memory.queues.remove(&id) {
            let first = queue.marked.or(queue.lowest);
            written.extend(first.into_iter().flat_map(|b| b..=queue.planned.unwrap_or(b).max(b)));
        }
        self.touched.retain(|(of, _)| *of != id);
        for bucket in written {
            draft.single(S::DeleteQueue, vec![long(timestamp), long(id), long(bucket)]);
        }
        let shard = session_shard(id);
        let values = vec![long(timestamp), int(shard), long(id)];
        let bound = Bound { statement: S::DeleteQueueBuckets, values };
        draft.group_last(S::PutQueueBucket, shard, bound);
    }

    /// Writes the rows that are under way.
    pub(super) fn end_runs(&mut self, draft: &mut Draft<'_>) {
        for (id, run) in std::mem::take(&mut self.runs) {
            self.end_run(draft, id, run);
        }
    }

    fn end_run(&mut self, draft: &mut Draft<'_>, id: SessionId, run: Run) {
        let marked = draft.memory.queues.get(&id).and_then(|queue| queue.marked);
        if marked != Some(run.bucket) && draft.plan.queue_marks.last() != Some(&(id, run.bucket)) {
            let shard = session_shard(id);
            let values = vec![int(shard), long(id), long(run.bucket), draft.timestamp()];
            let bound = Bound { statement: S::PutQueueBucket, values };
            draft.group(S::PutQueueBucket, shard, bound);
            draft.plan.queue_marks.push((id, run.bucket));
        }
        let queue = draft.memory.queues.entry(id).or_default();
        queue.planned = queue.planned.max(Some(run.bucket));
        queue.lowest.get_or_insert(run.bucket);
        // The write timestamp is in the key: a sequence that is written again in another run replaces nothing.
        let timestamp = draft.memory.timestamp();
        let values = vec![
            long(id),
            long(run.bucket),
            long(run.first),
            long(timestamp),
            blob(run.entries),
            blob(run.costs),
            long(timestamp),
        ];
        draft.plan.sessions.insert(id);
        let rows = self.rows.entry(id).or_default();
        *rows += 1;
        match rows.checked_sub(2) {
            None => draft.single(S::PutQueue, values),
            Some(stage) => {
                if draft.plan.then.len() <= stage {
                    draft.plan.then.resize_with(stage + 1, Vec::new);
                }
                draft.plan.then[stage].push(Bound { statement: S::PutQueue, values });
            }
        }
    }

    /// Writes the states of the buckets that changed. One that is complete is dropped whole.
    pub(super) fn end_buckets(&mut self, draft: &mut Draft<'_>) {
        for (id, bucket) in std::mem::take(&mut self.touched) {
            end_bucket(draft, id, bucket);
        }
    }
}

fn end_bucket(draft: &mut Draft<'_>, id: SessionId, bucket: u64) {
    let shard = session_shard(id);
    let Some(queue) = draft.memory.queues.get_mut(&id) else { return };
    let Some(state) = queue.buckets.get(&bucket) else { return };
    if state.is_complete() {
        draft.memory.completed(id, bucket);
        let timestamp = draft.memory.timestamp();
        draft.single(S::DeleteQueue, vec![long(timestamp), long(id), long(bucket)]);
        let values = vec![long(timestamp), int(shard), long(id), long(bucket)];
        let bound = Bound { statement: S::DeleteQueueBucket, values };
        draft.group_last(S::PutQueueBucket, shard, bound);
        return;
    }
    let state = state.encode();
    let values = vec![int(shard), long(id), long(bucket), blob(state), draft.timestamp()];
    draft.group(S::PutQueueBucket, shard, Bound { statement: S::PutQueueState, values });
}

/// In a plan that is written whole a session's rows need not wait for each other.
pub(super) fn finish(plan: &mut Plan) {
    if plan.atomic {
        let then = std::mem::take(&mut plan.then);
        plan.single.extend(then.into_iter().flatten());
    }
}
