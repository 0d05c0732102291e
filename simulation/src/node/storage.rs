//! The write queue's steps, as StorageActor has them done.

use std::sync::atomic::Ordering;
use std::vec::Drain;

use hydrant_actors::mailboxes::Mailboxes;
use hydrant_engine::log::OutboxProgress;
use hydrant_engine::messages::{DeadWork, LogWork, ManagerWork};
use hydrant_engine::node_tables::NodeTables;
use hydrant_engine::ports::QueueEntry;
use hydrant_engine::storage::write_queue::{Outbox, Push, ReadId, WriteId};

use super::{Ask, Effect, Node};

/// What a message counts in an inbox that is bounded by bytes.
const SMALL: usize = 64;

struct Lanes<'a>(&'a NodeTables);

impl Outbox for Lanes<'_> {
    fn lanes<R>(&self, act: impl FnOnce(&mut OutboxProgress) -> R) -> R {
        act(&mut self.0.lanes.lock())
    }
}

struct Inboxes<'a>(&'a Mailboxes);

impl Push for Inboxes<'_> {
    fn log(&mut self, work: Drain<'_, (LogWork, usize)>) {
        self.0.log.push_all(work);
    }

    fn dead_letter(&mut self, work: DeadWork) {
        self.0.dead_letters.push(work, SMALL);
    }

    fn worker(&mut self, to: u16, work: ManagerWork) {
        if let Some(manager) = self.0.managers.get(usize::from(to)) {
            manager.push(work.into(), 0);
        }
    }
}

impl Node {
    /// Hands the queue what it takes, and does what it says.
    pub(super) fn store(&mut self) {
        loop {
            self.admit();
            let write = {
                let mut lanes = self.tables.lanes.lock();
                self.write_queue.poll_write(self.now, &mut lanes)
            };
            let Some((id, ops)) = write else { break };
            self.effects.push(Effect::Ask(Ask::Write(id, ops)));
        }
        for read in self.write_queue.poll_reads() {
            self.effects.push(Effect::Ask(Ask::Page(read)));
        }
    }

    fn admit(&mut self) {
        let (inbox, settings) = (&self.mailboxes.storage, &self.tables.settings.storage);
        let outbox_full = self.tables.lanes.lock().is_full();
        let queue = &mut self.write_queue;
        queue.handle_room(outbox_full);
        if queue.takes() {
            let before = inbox.bytes() + queue.gathered_bytes();
            let mut taken = inbox.take(settings.batch_max_ops);
            while queue.takes() && before.saturating_sub(inbox.bytes()) < settings.batch_max_bytes {
                let Some(work) = taken.pop() else { break };
                queue.handle_request(work);
            }
        }
        self.tables.parked_bytes.store(queue.parked_bytes(), Ordering::Relaxed);
    }

    /// A write has ended.
    pub(super) fn written(&mut self, id: WriteId, durable: bool) {
        // When all is written again is a deadline of the queue's.
        let _ = self.write_queue.handle_written(self.now, id, durable);
        if durable {
            loop {
                let (lanes, room) = (Lanes(&self.tables), self.mailboxes.log.has_room());
                let mut to = Inboxes(&self.mailboxes);
                if self.write_queue.hand_out(self.now, &lanes, room, &mut to).is_none() {
                    break;
                }
            }
        }
        self.store();
    }

    /// A page is read.
    pub(super) fn page(&mut self, id: ReadId, page: Option<Vec<QueueEntry>>) {
        match page {
            Some(entries) => {
                self.write_queue.handle_page(id, entries);
                while let Some((worker, page)) = self.write_queue.poll_page() {
                    Inboxes(&self.mailboxes).worker(worker, page);
                }
            }
            None => self.write_queue.handle_read_failed(self.now, id),
        }
    }

    pub(super) fn storage_deadline(&mut self) {
        self.write_queue.handle_deadline(self.now);
        self.store();
    }
}
