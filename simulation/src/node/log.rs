//! The log queue's steps, as LogActor has them done.

use std::collections::VecDeque;

use hydrant_actors::mailboxes::Mailboxes;
use hydrant_engine::log::queue::{LogOrder, LogQueue, Outside, Push, ReadId};
use hydrant_engine::log::{DeadBook, OutboxProgress};
use hydrant_engine::messages::{CompletionToken, ManagerWork, StorageWork};
use hydrant_engine::node_tables::NodeTables;
use hydrant_engine::now::Now;
use hydrant_engine::ports::{DeadLetter, LogRecord, Report, StoreError, StoreOp};

use super::{Ask, Effect, Node};

struct Tables<'a>(&'a NodeTables);

impl Outside for Tables<'_> {
    fn lanes<R>(&self, act: impl FnOnce(&mut OutboxProgress) -> R) -> R {
        act(&mut self.0.lanes.lock())
    }

    fn book<R>(&self, act: impl FnOnce(&mut DeadBook) -> R) -> R {
        act(&mut self.0.dead_letters.book.lock())
    }

    fn takes(&self, _: &str) -> bool {
        true
    }
}

struct Inboxes<'a>(&'a Mailboxes);

impl Push for Inboxes<'_> {
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

impl Node {
    pub(super) fn log_has_work(&self) -> bool {
        let mailboxes = &self.mailboxes;
        let records = !mailboxes.log.is_empty() && self.log_queue.has_room();
        records || !self.reports.is_empty() || !mailboxes.dead_letters.is_empty()
    }

    fn with_log(&mut self, act: impl FnOnce(&mut LogQueue, Now, &Tables<'_>)) {
        let (tables, now) = (Tables(&self.tables), self.now);
        let queue = &mut self.log_queue;
        act(queue, now, &tables);
        queue.handle_turn(now, &tables);
        queue.hand_out(&tables, &mut Inboxes(&self.mailboxes));
        queue.poll_happened();
        while queue.poll_notice().is_some() {}
        let mut taken = self.mailboxes.log.take(if queue.has_room() { 4096 } else { 0 });
        while !taken.is_empty() && queue.has_room() {
            if let Some(work) = taken.pop() {
                queue.handle_work(&tables, work);
            }
        }
        drop(taken);
        while let Some(records) = queue.poll_append(now) {
            self.effects.push(Effect::Append(records));
        }
        while let Some(order) = queue.poll_order(&tables) {
            self.effects.push(match order {
                LogOrder::Reset => Effect::ResetLog,
                LogOrder::ReadOutbox { id, lane, from, records, .. } => {
                    Effect::Ask(Ask::Outbox { id, lane, from, records })
                }
                LogOrder::ReadLetters { id, from, letters, .. } => {
                    Effect::Ask(Ask::Letters { id, from, letters })
                }
            });
        }
    }

    pub(super) fn step_log(&mut self) {
        let reports = std::mem::take(&mut self.reports);
        let mut letters = self.mailboxes.dead_letters.take(4096);
        self.with_log(|queue, now, tables| {
            for report in reports {
                queue.handle_report(now, report);
            }
            while let Some(work) = letters.pop() {
                queue.handle_dead_work(tables, work);
            }
        });
    }

    /// The log reports on records.
    pub fn reported(&mut self, reports: Vec<Report>) {
        self.reports.extend(reports);
    }

    /// Lanes fall behind without a message.
    pub fn tick_log(&mut self) {
        if self.log_queue.waits() || self.tables.lanes.lock().any_behind() {
            self.with_log(|_, _, _| ());
        }
    }

    pub(super) fn log_deadline(&mut self) {
        self.with_log(|queue, now, _| queue.handle_deadline(now));
    }

    pub(super) fn outbox_page(&mut self, id: ReadId, page: Result<Vec<LogRecord>, StoreError>) {
        self.with_log(|queue, now, tables| queue.handle_outbox_page(now, tables, id, page));
    }

    pub(super) fn letters(&mut self, id: ReadId, page: Result<Vec<DeadLetter>, StoreError>) {
        self.with_log(|queue, now, tables| queue.handle_letters(now, tables, id, page));
    }
}
