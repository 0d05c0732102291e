//! What the log queue shares with others and asks outside, and where it hands its decisions to. Drivers implement both.

use std::collections::VecDeque;

use crate::log::dead::DeadBook;
use crate::log::outbox_progress::OutboxProgress;
use crate::messages::CompletionToken;
use crate::ports::StoreOp;

/// What a step reaches beside the queue. A table is lent for one call, so that a lock around it is held for no longer.
pub trait Outside {
    /// Lends the outbox's lanes, which the write queue changes, too.
    fn lanes<R>(&self, act: impl FnOnce(&mut OutboxProgress) -> R) -> R;

    /// Lends what is known of the dead letters, which the admin's commands change, too.
    fn book<R>(&self, act: impl FnOnce(&mut DeadBook) -> R) -> R;

    /// See `MessageLog::takes`. An immediate answer: it decides about the record at
    /// hand, and never waits.
    fn takes(&self, topic: &str) -> bool;
}

/// Takes what a step has decided. None of it may fail or wait.
pub trait Push {
    /// A write of the session store. The tokens are answered once it is durable.
    fn storage(&mut self, ops: Vec<StoreOp>, tokens: Vec<CompletionToken>, cost: usize);

    /// The log has the records for which these of one worker have waited.
    fn completed(&mut self, worker: usize, tokens: VecDeque<CompletionToken>);

    /// The log refuses the record, and it is kept nowhere.
    fn refused(&mut self, token: CompletionToken);
}
