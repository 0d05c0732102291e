//! What the log queue reaches on a node: the tables behind their locks, the log's answer, the others' inboxes.

use std::collections::VecDeque;

use super::dead::DeadBook;
use super::outbox_progress::OutboxProgress;
use super::queue::{Outside, Push};
use crate::mailboxes::Mailboxes;
use crate::messages::{CompletionToken, ManagerWork, StorageWork};
use crate::node_tables::NodeTables;
use crate::ports::{MessageLog, StoreOp};

/// One step's view. Each lock is held for one call.
pub(super) struct OfNode<'a> {
    /// What the actors share.
    pub(super) shared: &'a NodeTables,
    /// The message log.
    pub(super) log: &'a dyn MessageLog,
}

impl Outside for OfNode<'_> {
    fn lanes<R>(&self, act: impl FnOnce(&mut OutboxProgress) -> R) -> R {
        act(&mut self.shared.lanes.lock())
    }

    fn book<R>(&self, act: impl FnOnce(&mut DeadBook) -> R) -> R {
        act(&mut self.shared.dead_letters.book.lock())
    }

    fn takes(&self, topic: &str) -> bool {
        self.log.takes(topic)
    }
}

/// The inboxes of StorageActor and of the ConnectionManagers.
pub(super) struct ToInboxes<'a>(pub(super) &'a Mailboxes);

impl Push for ToInboxes<'_> {
    fn storage(&mut self, ops: Vec<StoreOp>, tokens: Vec<CompletionToken>, cost: usize) {
        let (transaction, origin) = (None, None);
        self.0.storage.push(StorageWork::Write { ops, tokens, transaction, origin }, cost);
    }

    fn completed(&mut self, worker: usize, tokens: VecDeque<CompletionToken>) {
        if let Some(manager) = self.0.managers.get(worker) {
            manager.push(ManagerWork::Completed(tokens).into(), 0);
        }
    }

    fn refused(&mut self, token: CompletionToken) {
        if let Some(manager) = self.0.managers.get(usize::from(token.worker)) {
            manager.push(ManagerWork::Refused(token).into(), 0);
        }
    }
}
