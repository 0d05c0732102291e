//! Batches that were handed to the store and are not answered, oldest first.
//!
//! Invariants: batches are answered in their order. After a failure everything from the oldest on is written again, in
//! order and before anything new, once the store has answered about each of them. Only the store's answer to the last
//! write of a batch counts, and it counts once.
//! Bounds: `storage.max_in_flight`, which whoever forms batches keeps.

use std::collections::VecDeque;
use std::sync::Arc;

use super::request::Request;
use crate::messages::CompletionToken;
use crate::now::Boot;
use crate::ports::{SessionId, SessionOp, StoreOp};

/// One write of a batch. A batch that is written again has another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriteId(pub(super) u64);

/// One atomic write.
#[derive(Debug)]
pub(super) struct Batch {
    /// Rises from batch to batch.
    id: u64,
    /// What is written.
    pub(super) ops: Arc<Vec<StoreOp>>,
    /// Who waits for it.
    pub(super) tokens: Vec<CompletionToken>,
    /// When it was handed to the store, last.
    pub(super) since: Boot,
    /// Sessions to whose queues it adds, in order.
    queues: Vec<SessionId>,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It is handed to the store next.
    Due,
    /// In the store's hands.
    Writing(WriteId),
    /// Durable; not answered while one before it is not.
    Written,
    /// Unknown whether it was written.
    Failed,
}

impl Batch {
    /// The store has not answered about it.
    fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Due | Stage::Writing(_))
    }
}

/// The session to whose queue an operation adds.
fn queue_of(op: &StoreOp) -> Option<SessionId> {
    match op {
        StoreOp::Session(SessionOp::PutQueued { id, .. }) => Some(*id),
        _ => None,
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    pub(super) batches: VecDeque<Batch>,
    last: u64,
    last_write: u64,
    /// One has failed, and none has been written since.
    failed: bool,
}

impl InFlight {
    pub(super) fn len(&self) -> usize {
        self.batches.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// The id of the newest batch that there ever was.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// The id of the oldest batch.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.batches.front().map(|batch| batch.id)
    }

    /// Whether one that the store has not answered adds to a queue to which these operations add, too.
    pub(super) fn add_to_queues_of(&self, ops: &[StoreOp]) -> bool {
        let added = ops.iter().filter_map(queue_of);
        let mut last = None;
        added.filter(|id| last.replace(*id) != Some(*id)).any(|id| {
            let writing = self.batches.iter().filter(|batch| batch.is_open());
            writing.rev().any(|batch| batch.queues.binary_search(&id).is_ok())
        })
    }

    /// What was gathered becomes a batch, which is due.
    pub(super) fn form(&mut self, now: Boot, request: Request) {
        self.last += 1;
        let mut queues: Vec<SessionId> = request.ops.iter().filter_map(queue_of).collect();
        queues.sort_unstable();
        queues.dedup();
        self.batches.push_back(Batch {
            queues,
            id: self.last,
            ops: Arc::new(request.ops),
            tokens: request.tokens,
            since: now,
            stage: Stage::Due,
        });
    }

    /// The next that is due, for the store.
    pub(super) fn write(&mut self, now: Boot) -> Option<(WriteId, Arc<Vec<StoreOp>>)> {
        let batch = self.batches.iter_mut().find(|batch| batch.stage == Stage::Due)?;
        self.last_write += 1;
        let write = WriteId(self.last_write);
        batch.stage = Stage::Writing(write);
        batch.since = now;
        Some((write, Arc::clone(&batch.ops)))
    }

    /// The store has answered about a write: it is durable, or nobody knows. False: nobody waits for this answer.
    pub(super) fn answered(&mut self, write: WriteId, durable: bool) -> bool {
        let stage = Stage::Writing(write);
        let Some(batch) = self.batches.iter_mut().find(|batch| batch.stage == stage) else {
            return false;
        };
        batch.stage = if durable { Stage::Written } else { Stage::Failed };
        self.failed |= !durable;
        if durable && self.failed {
            self.failed = self.batches.iter().any(|batch| batch.stage == Stage::Failed);
        }
        true
    }

    /// The oldest batch, when it is durable.
    pub(super) fn oldest_written(&self) -> Option<&Batch> {
        self.batches.front().filter(|batch| batch.stage == Stage::Written)
    }

    /// The oldest batch is over.
    pub(super) fn forget_oldest(&mut self) {
        self.batches.pop_front();
    }

    /// A batch failed, and none was written since: nothing new is written.
    pub(super) fn has_failed(&self) -> bool {
        self.failed
    }

    /// A batch failed and the store has answered about every other: all are written again.
    pub(super) fn must_write_again(&self) -> bool {
        self.failed && !self.batches.iter().any(Batch::is_open)
    }

    /// Every batch is due again.
    pub(super) fn write_again(&mut self) {
        for batch in &mut self.batches {
            batch.stage = Stage::Due;
        }
    }

    /// A new driver: no failure is known of.
    pub(super) fn restart(&mut self) {
        self.failed = false;
        self.write_again();
    }
}
