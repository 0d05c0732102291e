//! See the module above.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use actix::{
    Actor, ActorContext, ActorFutureExt, AsyncContext, Context, Handler, SpawnHandle,
    StreamHandler, WrapFuture,
};
use hydrant_protocol::OnRefused;
use parking_lot::Mutex;

use super::write_queue::{Batch, Read, WriteQueue};
use crate::every::every;
use crate::inbox::{Inbox, Work};
use crate::log::DeadWork;
use crate::mailboxes::Mailboxes;
use crate::messages::{CompletionToken, LogWork, ManagerWork};
use crate::node_tables::NodeTables;
use crate::ports::{SessionStore, StoreError, StoreOp};
use crate::say;
use crate::supervision::{ActorCell, Ping, Running, on_ping};

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests;

/// How long what is gathered waits for company while another batch is under way: until the next
/// tick of tokio's timer, which counts in milliseconds and rounds up. So one millisecond at most.
const GATHER: Duration = Duration::from_micros(1);
/// How long what adds to the same queue as a batch that is under way waits for that one, at most.
const FOLLOW: Duration = Duration::from_millis(50);
/// This part of a full batch is worth a write of its own while another is under way.
const WORTH: usize = 8;

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
    retry: Duration,
    /// Ends the pending ack of what is gathered; present while it runs.
    timer: Option<SpawnHandle>,
    /// What is gathered has waited long enough.
    waited: bool,
    /// What is gathered adds to the queue of a session to which a batch under way adds, too.
    follows: bool,
    /// [`GATHER`], but for tests.
    company: Duration,
}

impl StorageActor {
    /// Prepares the actor; on its worker.
    pub fn build(parts: &StorageParts, cell: &Arc<ActorCell>) -> Running {
        let retry = parts.shared.settings.storage.retry_min;
        let work = parts.mailboxes.storage.stream();
        let actor = Self::new(parts, cell, retry);
        Running::new(actor, |ctx| {
            StorageActor::add_stream(work, ctx);
        })
    }

    fn new(parts: &StorageParts, cell: &Arc<ActorCell>, retry: Duration) -> Self {
        Self {
            parts: parts.clone(),
            cell: Arc::clone(cell),
            retry,
            timer: None,
            waited: false,
            follows: false,
            company: GATHER,
        }
    }

    /// Admits requests until the batch is full, writes it if there is room under way, begins
    /// reads.
    fn drive(&mut self, ctx: &mut Context<Self>) {
        let shared = Arc::clone(&self.parts.shared);
        let mailboxes = Arc::clone(&self.parts.mailboxes);
        let settings = &shared.settings.storage;
        loop {
            let batch = {
                let mut queue = self.parts.queue.lock();
                if queue.in_flight.len() >= settings.max_in_flight || queue.has_failed() {
                    // The next batch fills in the inbox, where its bytes count.
                    mailboxes.storage.hold();
                    break;
                }
                self.gather(&mut queue);
                let follows = queue.follows();
                if std::mem::replace(&mut self.follows, follows) != follows {
                    // It waits for something else now, or for nothing any more.
                    self.waited = !follows;
                    if let Some(timer) = self.timer.take() {
                        ctx.cancel_future(timer);
                    }
                }
                if let Some(wait) = self.must_wait(&queue) {
                    if self.timer.is_none() {
                        self.timer = Some(ctx.run_later(wait, |actor, ctx| {
                            actor.timer = None;
                            actor.waited = true;
                            actor.drive(ctx);
                        }));
                    }
                    mailboxes.storage.release();
                    break;
                }
                if let Some(timer) = self.timer.take() {
                    ctx.cancel_future(timer);
                }
                self.waited = false;
                queue.form(|ops| assign_positions(&shared, ops))
            };
            match batch {
                Some(batch) => self.write(batch, ctx),
                None => {
                    mailboxes.storage.release();
                    break;
                }
            }
        }
        self.begin_reads(ctx);
        let pending = mailboxes.storage.bytes() as u64;
        shared.metrics.storage_pending_bytes.set(pending);
    }

    /// How long what is gathered may wait for company from its first operation on; `None`: it is
    /// written now.
    fn must_wait(&self, queue: &WriteQueue) -> Option<Duration> {
        let settings = &self.parts.shared.settings.storage;
        let (wait, part) = match queue.in_flight.is_empty() {
            true => (settings.batch_delay, 1),
            false if self.follows => (FOLLOW, WORTH),
            false => (self.company, WORTH),
        };
        let worth = queue.gathered() >= (settings.batch_max_ops / part).max(1)
            || queue.gathered_bytes() >= (settings.batch_max_bytes / part).max(1);
        let waits = queue.has_next() && !worth && !self.waited && !wait.is_zero();
        waits.then_some(wait)
    }

    fn gather(&self, queue: &mut WriteQueue) {
        let (shared, mailboxes) = (&self.parts.shared, &self.parts.mailboxes);
        let settings = &shared.settings.storage;
        while queue.gathered() < settings.batch_max_ops
            && queue.gathered_bytes() < settings.batch_max_bytes
            && !shared.lanes.lock().is_full()
            && queue.resume()
        {}
        // What is gathered already counts, and what is admitted and held back.
        let before = mailboxes.storage.bytes() + queue.gathered_bytes();
        let mut taken = mailboxes.storage.take(settings.batch_max_ops);
        while queue.gathered() < settings.batch_max_ops
            && queue.gathered_bytes() < settings.batch_max_bytes
        {
            let full = shared.lanes.lock().is_full();
            let parked = queue.parked();
            // What stands in a line came before what is in the inbox.
            if !queue.advance(full) {
                if before.saturating_sub(mailboxes.storage.bytes()) >= settings.batch_max_bytes {
                    break;
                }
                self.cell.fault_point();
                let Some(work) = taken.pop() else { break };
                queue.admit(work, full);
            }
            if queue.parked() > parked {
                shared.metrics.outbox_full.inc();
            }
        }
        shared.parked_bytes.store(queue.parked_bytes(), Ordering::Relaxed);
    }

    fn write(&self, batch: Batch, ctx: &mut Context<Self>) {
        let id = batch.id;
        let write = self.parts.store.write(Arc::clone(&batch.ops));
        ctx.spawn(
            write.into_actor(self).map(move |result, actor, ctx| actor.written(id, result, ctx)),
        );
    }

    fn written(&mut self, id: u64, result: Result<(), StoreError>, ctx: &mut Context<Self>) {
        let cell = Arc::clone(&self.cell);
        let _entered = cell.enter(1);
        let shared = Arc::clone(&self.parts.shared);
        let mut failed = None;
        match result {
            Ok(()) => {
                self.parts.queue.lock().answered(id, true);
                self.finish();
            }
            Err(StoreError::Unusable(why)) => {
                cell.fail(format!("the session store cannot be used: {why}"));
                shared.set_ready("storage", Some(why));
                ctx.stop();
                return;
            }
            Err(error) => {
                // Unknown whether it was written: every operation is idempotent, so again.
                shared.metrics.storage_retries.inc();
                shared.set_ready("storage", Some(error.to_string()));
                self.parts.queue.lock().answered(id, false);
                failed = Some(error);
            }
        }
        // Batches behind the one that failed wait with it, so that none overtakes it.
        if self.parts.queue.lock().must_write_again() {
            let wait = self.retry;
            // Once for all that failed together; those of a lone failure are the usual case.
            let why = failed.map_or_else(String::new, |error| format!(": {error}"));
            say::warn!(target: "hydrant::storage", "writing again in {wait:?}{why}");
            self.retry = (self.retry * 2).min(shared.settings.storage.retry_max);
            ctx.run_later(wait, |actor, ctx| actor.write_again(ctx));
        }
        self.drive(ctx);
    }

    fn write_again(&self, ctx: &mut Context<Self>) {
        let again = self.parts.queue.lock().write_again();
        for batch in again {
            self.write(batch, ctx);
        }
    }

    /// Answers the batches whose turn has come.
    fn finish(&mut self) {
        let shared = Arc::clone(&self.parts.shared);
        while let Some(batch) = { self.parts.queue.lock().oldest_written() } {
            self.answer(&batch);
            // Only now: a panic in between answers again, which changes nothing.
            self.parts.queue.lock().forget_oldest();
            self.retry = shared.settings.storage.retry_min;
            shared.metrics.storage_batches.inc();
            shared.metrics.storage_ops.add(batch.ops.len() as u64);
            shared.metrics.storage_latency.record(batch.since.elapsed());
        }
        if !self.parts.queue.lock().has_failed() {
            shared.set_ready("storage", None);
        }
    }

    /// Those who waited, one message a worker; and the outbox entries to the log actor.
    fn answer(&self, batch: &Batch) {
        let (shared, mailboxes) = (&self.parts.shared, &self.parts.mailboxes);
        hand_to_log(shared, mailboxes, &batch.ops);
        let mut answers: Vec<VecDeque<CompletionToken>> =
            mailboxes.managers.iter().map(|_| VecDeque::new()).collect();
        for token in batch.tokens.iter().copied() {
            if let Some(answers) = answers.get_mut(usize::from(token.worker)) {
                answers.push_back(token);
            }
        }
        for (manager, tokens) in mailboxes.managers.iter().zip(answers) {
            if !tokens.is_empty() {
                manager.push(ManagerWork::Completed(tokens), 0);
            }
        }
    }

    fn begin_reads(&self, ctx: &mut Context<Self>) {
        let ready = self.parts.queue.lock().ready_reads();
        for read in ready {
            let (limit, max_bytes) = (read.limit, read.max_bytes);
            let page = self.parts.store.read_queue(read.session, read.from, limit, max_bytes);
            ctx.spawn(page.into_actor(self).map(move |result, actor, ctx| match result {
                Ok(entries) => actor.page(&read, entries),
                Err(error) => {
                    say::warn!(target: "hydrant::storage", "reading a session's queue again: {error}");
                    actor.parts.queue.lock().read_again(Some(read.id));
                    ctx.run_later(actor.retry, |actor, ctx| actor.drive(ctx));
                }
            }));
        }
    }

    fn page(&self, read: &Read, entries: Vec<crate::ports::QueueEntry>) {
        self.parts.queue.lock().read_done(read.id);
        let work = ManagerWork::QueuePage { slot: read.slot, request: read.request, entries };
        self.parts.mailboxes.managers[usize::from(read.worker)].push(work, 0);
    }
}

/// Gives the outbox entries of a batch their positions; a batch written again keeps them.
fn assign_positions(shared: &NodeTables, ops: &mut [StoreOp]) {
    let mut lanes = None;
    for op in ops {
        if let StoreOp::PutOutbox { record, position } = op {
            let lanes = lanes.get_or_insert_with(|| shared.lanes.lock());
            position.position = lanes.assign(position.lane, record.cost() as u64);
            record.outbox = Some(*position);
        }
    }
    if let Some(lanes) = lanes {
        let (records, bytes) = lanes.backlog();
        shared.metrics.outbox_records.set(records);
        shared.metrics.outbox_bytes.set(bytes);
    }
}

/// Durable outbox entries go to the log actor while it has room; else it reads them later. It hears
/// of dead letters, too.
fn hand_to_log(shared: &NodeTables, mailboxes: &Mailboxes, ops: &[StoreOp]) {
    /// Pushed also when something behind it panics: the lane says that it is handed over.
    struct Handed<'a>(&'a Inbox<LogWork>, Vec<(LogWork, usize)>);
    impl Drop for Handed<'_> {
        fn drop(&mut self) {
            self.0.push_all(self.1.drain(..));
        }
    }
    let mut lanes = None;
    // Dropped before the lanes' lock: two batches cannot overtake each other.
    let mut handed = Handed(&mailboxes.log, Vec::new());
    for op in ops {
        match op {
            StoreOp::PutOutbox { record, position } => {
                // Made first, so that nothing stands between the lane's word and the record.
                let on_refused = OnRefused::DeadLetter;
                let work = LogWork { record: record.clone(), token: None, on_refused };
                let work = (work, record.cost());
                let lanes = lanes.get_or_insert_with(|| shared.lanes.lock());
                if lanes.durable(position.lane, position.position, mailboxes.log.has_room()) {
                    handed.1.push(work);
                }
            }
            StoreOp::PutDeadLetter { letter } => {
                let (id, outbox) = (letter.id, letter.record.outbox);
                mailboxes.dead_letters.push(DeadWork::Written { id, outbox }, 64);
            }
            StoreOp::DropDeadLetter { id } => {
                mailboxes.dead_letters.push(DeadWork::Dropped { id: *id }, 64);
            }
            _ => {}
        }
    }
}

impl Actor for StorageActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        // What a predecessor had under way is written again, in order.
        let again: Vec<Batch> = {
            let mut queue = self.parts.queue.lock();
            queue.read_again(None);
            queue.write_again()
        };
        for batch in again {
            self.write(batch, ctx);
        }
        self.drive(ctx);
        // Room in the outbox comes without a message to this actor when nothing else is written.
        every(ctx, Duration::from_millis(50), |actor, ctx| {
            if actor.parts.queue.lock().parked() > 0 {
                actor.drive(ctx);
            }
        });
    }
}

impl StreamHandler<Work> for StorageActor {
    fn handle(&mut self, _: Work, ctx: &mut Self::Context) {
        let cell = Arc::clone(&self.cell);
        let _entered = cell.enter(1);
        self.drive(ctx);
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
        (queue.in_flight.len(), queue.parked())
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
