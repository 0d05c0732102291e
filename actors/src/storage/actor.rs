//! See the module above.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::vec::Drain;

use actix::{
    Actor, ActorContext, ActorFutureExt, AsyncContext, Context, Handler, SpawnHandle,
    StreamHandler, WrapFuture,
};
use parking_lot::Mutex;

use super::write_queue::{Outbox, Push, Read, WriteId, WriteQueue};
use crate::inbox::Work;
use crate::log::OutboxProgress;
use crate::mailboxes::Mailboxes;
use crate::messages::{DeadWork, LogWork, ManagerWork, SMALL};
use crate::node_tables::NodeTables;
use crate::now::{Boot, Now};
use crate::ports::{SessionStore, StoreError, StoreOp};
use crate::say;
use crate::supervision::{ActorCell, Ping, Running, on_ping};

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests;

/// What StorageActor is made of; clones share everything.
#[derive(Clone)]
pub struct StorageParts {
    /// What the actors share.
    pub shared: Arc<NodeTables>,
    /// The inboxes of the node's actors.
    pub mailboxes: Arc<Mailboxes>,
    /// The session store.
    pub store: Arc<dyn SessionStore>,
    /// What is under way.
    pub queue: Arc<Mutex<WriteQueue>>,
}

/// See the module.
pub struct StorageActor {
    parts: StorageParts,
    cell: Arc<ActorCell>,
    /// Calls the queue's `handle_deadline`, and when.
    deadline: Option<(Boot, SpawnHandle)>,
}

impl StorageActor {
    /// Prepares the actor; on its worker.
    pub fn build(parts: &StorageParts, cell: &Arc<ActorCell>) -> Running {
        let work = parts.mailboxes.storage.stream();
        let actor = Self::new(parts, cell);
        Running::new(actor, |ctx| {
            StorageActor::add_stream(work, ctx);
        })
    }

    fn new(parts: &StorageParts, cell: &Arc<ActorCell>) -> Self {
        Self { parts: parts.clone(), cell: Arc::clone(cell), deadline: None }
    }

    /// Hands the queue what it takes, and does what it says.
    fn drive(&mut self, now: Now, ctx: &mut Context<Self>) {
        loop {
            self.admit();
            if !self.write(now, ctx) {
                break;
            }
        }
        let inbox = &self.parts.mailboxes.storage;
        let (takes, reads, deadline) = {
            let mut queue = self.parts.queue.lock();
            (queue.takes(), queue.poll_reads(), queue.poll_deadline())
        };
        if takes {
            inbox.release();
        } else {
            // The next batch fills in the inbox, where its bytes count.
            inbox.hold();
        }
        self.begin_reads(reads, ctx);
        self.set_deadline(deadline, now, ctx);
        let pending = self.parts.mailboxes.storage.bytes() as u64;
        self.parts.shared.metrics.storage_pending_bytes.set(pending);
    }

    /// Hands the queue requests out of the inbox.
    fn admit(&self) {
        let (shared, inbox) = (&self.parts.shared, &self.parts.mailboxes.storage);
        let settings = &shared.settings.storage;
        let outbox_full = shared.lanes.lock().is_full();
        let mut queue = self.parts.queue.lock();
        queue.handle_room(outbox_full);
        if queue.takes() {
            // A turn takes what one full batch has. What is gathered already counts, and what is taken and held back.
            let before = inbox.bytes() + queue.gathered_bytes();
            let mut taken = inbox.take(settings.batch_max_ops);
            while queue.takes() && before.saturating_sub(inbox.bytes()) < settings.batch_max_bytes {
                self.cell.fault_point();
                let Some(work) = taken.pop() else { break };
                queue.handle_request(work);
            }
        }
        shared.metrics.outbox_full.add(queue.take_times_parked());
        shared.parked_bytes.store(queue.parked_bytes(), Ordering::Relaxed);
    }

    /// Has the queue's next deadline kept.
    fn set_deadline(&mut self, next: Option<Boot>, now: Now, ctx: &mut Context<Self>) {
        if self.deadline.map(|(at, _)| at) == next {
            return;
        }
        if let Some((_, timer)) = self.deadline.take() {
            ctx.cancel_future(timer);
        }
        self.deadline = next.map(|at| {
            let timer = ctx.run_later(at.since(now.boot), |actor, ctx| {
                actor.deadline = None;
                let now = crate::clock::now();
                actor.parts.queue.lock().handle_deadline(now);
                actor.drive(now, ctx);
            });
            (at, timer)
        });
    }

    /// Begins the next write; false when there is none.
    fn write(&self, now: Now, ctx: &mut Context<Self>) -> bool {
        let Some((id, ops)) = self.next_write(now) else { return false };
        let write = self.parts.store.write(ops).into_actor(self);
        ctx.spawn(write.map(move |result, actor, ctx| actor.written(id, result, ctx)));
        true
    }

    fn next_write(&self, now: Now) -> Option<(WriteId, Arc<Vec<StoreOp>>)> {
        let shared = &self.parts.shared;
        let mut queue = self.parts.queue.lock();
        let mut lanes = shared.lanes.lock();
        let next = queue.poll_write(now, &mut lanes)?;
        let (records, bytes) = lanes.backlog();
        shared.metrics.outbox_records.set(records);
        shared.metrics.outbox_bytes.set(bytes);
        Some(next)
    }

    fn written(&mut self, id: WriteId, result: Result<(), StoreError>, ctx: &mut Context<Self>) {
        let cell = Arc::clone(&self.cell);
        let _entered = cell.enter(1);
        let shared = Arc::clone(&self.parts.shared);
        if let Err(StoreError::Unusable(why)) = result {
            cell.fail(format!("the session store cannot be used: {why}"));
            shared.set_ready("storage", Some(why));
            ctx.stop();
            return;
        }
        let now = crate::clock::now();
        let (again, has_failed) = {
            let mut queue = self.parts.queue.lock();
            (queue.handle_written(now, id, result.is_ok()), queue.has_failed())
        };
        let mut why = String::new();
        match result {
            Ok(()) => {
                self.hand_out(now);
                if !has_failed {
                    shared.set_ready("storage", None);
                }
            }
            Err(error) => {
                shared.metrics.storage_retries.inc();
                shared.set_ready("storage", Some(error.to_string()));
                why = format!(": {error}");
            }
        }
        if let Some(wait) = again {
            // Once for all that failed together; those of a lone failure are the usual case.
            say::warn!(target: "hydrant::storage", "writing again in {wait:?}{why}");
        }
        self.drive(now, ctx);
    }

    /// Answers the batches whose turn has come.
    fn hand_out(&self, now: Now) {
        let (shared, mailboxes) = (&self.parts.shared, &self.parts.mailboxes);
        let answer = || {
            let mut queue = self.parts.queue.lock();
            let log_has_room = mailboxes.log.has_room();
            queue.hand_out(now, &Locked(&shared.lanes), log_has_room, &mut Inboxes(mailboxes))
        };
        while let Some(answered) = answer() {
            shared.metrics.storage_batches.inc();
            shared.metrics.storage_ops.add(answered.ops as u64);
            shared.metrics.storage_latency.record(answered.took);
        }
    }

    fn begin_reads(&self, reads: Vec<Read>, ctx: &mut Context<Self>) {
        for read in reads {
            let (id, limit, max_bytes) = (read.id, read.limit, read.max_bytes);
            let page = self.parts.store.read_queue(read.session, read.from, limit, max_bytes);
            ctx.spawn(page.into_actor(self).map(move |result, actor, ctx| match result {
                Ok(entries) => {
                    actor.parts.queue.lock().handle_page(id, entries);
                    actor.hand_out_pages();
                }
                Err(error) => {
                    say::warn!(target: "hydrant::storage", "reading a session's queue again: {error}");
                    let now = crate::clock::now();
                    let deadline = {
                        let mut queue = actor.parts.queue.lock();
                        queue.handle_read_failed(now, id);
                        queue.poll_deadline()
                    };
                    actor.set_deadline(deadline, now, ctx);
                }
            }));
        }
    }

    fn hand_out_pages(&self) {
        let next = || self.parts.queue.lock().poll_page();
        while let Some((worker, page)) = next() {
            Inboxes(&self.parts.mailboxes).worker(worker, page);
        }
    }
}

/// The outbox's lanes behind their lock.
struct Locked<'a>(&'a Mutex<OutboxProgress>);

impl Outbox for Locked<'_> {
    fn lanes<R>(&self, act: impl FnOnce(&mut OutboxProgress) -> R) -> R {
        act(&mut self.0.lock())
    }
}

/// Where the queue hands out.
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

impl Actor for StorageActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        // What a predecessor had under way is written again, in order.
        self.parts.queue.lock().handle_restart();
        self.hand_out_pages();
        self.drive(crate::clock::now(), ctx);
    }
}

impl StreamHandler<Work> for StorageActor {
    fn handle(&mut self, _: Work, ctx: &mut Self::Context) {
        let cell = Arc::clone(&self.cell);
        let _entered = cell.enter(1);
        self.drive(crate::clock::now(), ctx);
    }

    fn finished(&mut self, ctx: &mut Self::Context) {
        ctx.stop();
    }
}

impl Handler<Ping> for StorageActor {
    type Result = ();
    fn handle(&mut self, _: Ping, ctx: &mut Self::Context) {
        on_ping(&self.cell, ctx);
    }
}

/// One line for `broker tree`. Percentiles are since the start, as bounds of the histogram.
pub fn describe(parts: &StorageParts) -> String {
    let (in_flight, parked) = {
        let queue = parts.queue.lock();
        (queue.in_flight(), queue.parked())
    };
    let metrics = &parts.shared.metrics;
    let average = metrics.storage_ops.get() / metrics.storage_batches.get().max(1);
    let at_most = |q| match metrics.storage_latency.quantile(q) {
        None => "-".to_owned(),
        Some(Duration::MAX) => "> 10s".to_owned(),
        Some(bound) => format!("<= {bound:?}"),
    };
    format!(
        "{}; {in_flight} batches in flight, {average} operations a batch, write p50 {} p99 {}, {} retries, {parked} parked",
        parts.store.describe(),
        at_most(0.5),
        at_most(0.99),
        metrics.storage_retries.get(),
    )
}
