//! See the module above.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use actix::{
    Actor, ActorContext, ActorFutureExt, AsyncContext, Context, Handler, SpawnHandle,
    StreamHandler, WrapFuture,
};
use parking_lot::Mutex;

use super::book::{Batch, Read, StorageBook};
use crate::every::every;
use crate::inbox::Work;
use crate::ports::{SessionStore, StoreError, StoreOp};
use crate::shared::{LogWork, ManagerWork, Shared, Token};
use crate::supervision::{ActorCell, Ping, Running, on_ping};

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests;

/// Bytes of one page of a queue, about.
const PAGE_BYTES: usize = 4 * 1024 * 1024;
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
    pub shared: Arc<Shared>,
    /// The session store.
    pub store: Arc<dyn SessionStore>,
    /// What is under way.
    pub book: Arc<Mutex<StorageBook>>,
}

/// See the module.
pub struct StorageActor {
    parts: StorageParts,
    cell: Arc<ActorCell>,
    retry: Duration,
    /// Ends the wait of what is gathered; present while it runs.
    timer: Option<SpawnHandle>,
    /// What is gathered has waited long enough.
    waited: bool,
    /// What is gathered adds to the queue of a session to which a batch under way adds, too.
    follows: bool,
    /// [`GATHER`], but for tests.
    company: Duration,
}

impl StorageActor {
    /// Prepares the actor; on its arbiter.
    pub fn build(parts: &StorageParts, cell: &Arc<ActorCell>) -> Running {
        let retry = parts.shared.settings.storage.retry_min;
        let work = parts.shared.storage.stream();
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

    /// Takes requests up until the batch is full, writes it if there is room under way, begins
    /// reads.
    fn drive(&mut self, ctx: &mut Context<Self>) {
        let shared = Arc::clone(&self.parts.shared);
        let settings = &shared.settings.storage;
        loop {
            let batch = {
                let mut book = self.parts.book.lock();
                if book.in_flight.len() >= settings.max_in_flight || book.has_failed() {
                    // The next batch fills in the inbox, where its bytes count.
                    shared.storage.hold();
                    break;
                }
                self.gather(&mut book);
                let follows = book.follows();
                if std::mem::replace(&mut self.follows, follows) != follows {
                    // It waits for something else now, or for nothing any more.
                    self.waited = !follows;
                    if let Some(timer) = self.timer.take() {
                        ctx.cancel_future(timer);
                    }
                }
                if let Some(wait) = self.must_wait(&book) {
                    if self.timer.is_none() {
                        self.timer = Some(ctx.run_later(wait, |actor, ctx| {
                            actor.timer = None;
                            actor.waited = true;
                            actor.drive(ctx);
                        }));
                    }
                    shared.storage.release();
                    break;
                }
                if let Some(timer) = self.timer.take() {
                    ctx.cancel_future(timer);
                }
                self.waited = false;
                book.form(|ops| assign_positions(&shared, ops))
            };
            match batch {
                Some(batch) => self.write(batch, ctx),
                None => {
                    shared.storage.release();
                    break;
                }
            }
        }
        self.begin_reads(ctx);
        let pending = shared.storage.bytes() as u64;
        shared.metrics.storage_pending_bytes.set(pending);
    }

    /// How long what is gathered may wait for company from its first operation on; `None`: it is
    /// written now.
    fn must_wait(&self, book: &StorageBook) -> Option<Duration> {
        let settings = &self.parts.shared.settings.storage;
        let (wait, part) = match book.in_flight.is_empty() {
            true => (settings.batch_delay, 1),
            false if self.follows => (FOLLOW, WORTH),
            false => (self.company, WORTH),
        };
        let worth = book.gathered() >= (settings.batch_max_ops / part).max(1)
            || book.gathered_bytes() >= (settings.batch_max_bytes / part).max(1);
        let waits = book.has_next() && !worth && !self.waited && !wait.is_zero();
        waits.then_some(wait)
    }

    fn gather(&self, book: &mut StorageBook) {
        let shared = &self.parts.shared;
        let settings = &shared.settings.storage;
        while book.gathered() < settings.batch_max_ops
            && book.gathered_bytes() < settings.batch_max_bytes
            && !shared.lanes.lock().is_full()
            && book.unpark()
        {}
        // What is gathered already counts, and what is taken up and held back.
        let before = shared.storage.bytes() + book.gathered_bytes();
        let mut taken = shared.storage.take(settings.batch_max_ops);
        while book.gathered() < settings.batch_max_ops
            && book.gathered_bytes() < settings.batch_max_bytes
        {
            let full = shared.lanes.lock().is_full();
            let parked = book.parked();
            // What stands in a line came before what is in the inbox.
            if !book.advance(full) {
                if before.saturating_sub(shared.storage.bytes()) >= settings.batch_max_bytes {
                    break;
                }
                self.cell.fault_point();
                let Some(work) = taken.pop() else { break };
                book.take_up(work, full);
            }
            if book.parked() > parked {
                shared.metrics.outbox_full.inc();
            }
        }
        shared.parked_bytes.store(book.parked_bytes(), Ordering::Relaxed);
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
                self.parts.book.lock().answered(id, true);
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
                self.parts.book.lock().answered(id, false);
                failed = Some(error);
            }
        }
        // Batches behind the one that failed wait with it, so that none overtakes it.
        if self.parts.book.lock().must_write_again() {
            let wait = self.retry;
            // Once for all that failed together; those of a lone failure are the usual case.
            let why = failed.map_or_else(String::new, |error| format!(": {error}"));
            log::warn!(target: "hydrant::storage", "writing again in {wait:?}{why}");
            self.retry = (self.retry * 2).min(shared.settings.storage.retry_max);
            ctx.run_later(wait, |actor, ctx| actor.write_again(ctx));
        }
        self.drive(ctx);
    }

    fn write_again(&self, ctx: &mut Context<Self>) {
        let again = self.parts.book.lock().write_again();
        for batch in again {
            self.write(batch, ctx);
        }
    }

    /// Answers the batches whose turn has come.
    fn finish(&mut self) {
        let shared = Arc::clone(&self.parts.shared);
        while let Some(batch) = { self.parts.book.lock().oldest_written() } {
            self.answer(&batch);
            // Only now: a panic in between answers again, which changes nothing.
            self.parts.book.lock().forget_oldest();
            self.retry = shared.settings.storage.retry_min;
            shared.metrics.storage_batches.inc();
            shared.metrics.storage_ops.add(batch.ops.len() as u64);
            shared.metrics.storage_latency.record(batch.since.elapsed());
        }
        if !self.parts.book.lock().has_failed() {
            shared.set_ready("storage", None);
        }
    }

    /// Those who waited, one message an arbiter; and the outbox entries to the log actor.
    fn answer(&self, batch: &Batch) {
        let shared = &self.parts.shared;
        hand_to_log(shared, &batch.ops);
        let mut answers: Vec<VecDeque<Token>> =
            shared.managers.iter().map(|_| VecDeque::new()).collect();
        for token in batch.tokens.iter().copied() {
            if let Some(answers) = answers.get_mut(usize::from(token.shard)) {
                answers.push_back(token);
            }
        }
        for (manager, tokens) in shared.managers.iter().zip(answers) {
            if !tokens.is_empty() {
                manager.push(ManagerWork::Completed(tokens), 0);
            }
        }
    }

    fn begin_reads(&self, ctx: &mut Context<Self>) {
        let ready = self.parts.book.lock().ready_reads();
        for read in ready {
            let page = self.parts.store.read_queue(read.session, read.from, read.limit, PAGE_BYTES);
            ctx.spawn(page.into_actor(self).map(move |result, actor, ctx| match result {
                Ok(entries) => actor.page(&read, entries),
                Err(error) => {
                    log::warn!(target: "hydrant::storage", "reading a session's queue again: {error}");
                    actor.parts.book.lock().read_again(Some(read.id));
                    ctx.run_later(actor.retry, |actor, ctx| actor.drive(ctx));
                }
            }));
        }
    }

    fn page(&self, read: &Read, entries: Vec<crate::ports::QueueEntry>) {
        self.parts.book.lock().read_done(read.id);
        let work = ManagerWork::QueuePage { slot: read.slot, stamp: read.stamp, entries };
        self.parts.shared.managers[usize::from(read.shard)].push(work, 0);
    }
}

/// Gives the outbox entries of a batch their positions; a batch written again keeps them.
fn assign_positions(shared: &Shared, ops: &mut [StoreOp]) {
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

/// Durable outbox entries go to the log actor while it has room; else it reads them later.
fn hand_to_log(shared: &Shared, ops: &[StoreOp]) {
    /// Pushed also when something behind it panics: the lane says that it is handed over.
    struct Handed<'a>(&'a Shared, Vec<(LogWork, usize)>);
    impl Drop for Handed<'_> {
        fn drop(&mut self) {
            self.0.log.push_all(self.1.drain(..));
        }
    }
    let mut lanes = None;
    // Dropped before the lanes' lock: two batches cannot overtake each other.
    let mut handed = Handed(shared, Vec::new());
    for op in ops {
        if let StoreOp::PutOutbox { record, position } = op {
            // Made first, so that nothing stands between the lane's word and the record.
            let work = (LogWork { record: record.clone(), token: None }, record.cost());
            let lanes = lanes.get_or_insert_with(|| shared.lanes.lock());
            if lanes.durable(position.lane, position.position, shared.log.has_room()) {
                handed.1.push(work);
            }
        }
    }
}

impl Actor for StorageActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        // What a predecessor had under way is written again, in order.
        let again: Vec<Batch> = {
            let mut book = self.parts.book.lock();
            book.read_again(None);
            book.write_again()
        };
        for batch in again {
            self.write(batch, ctx);
        }
        self.drive(ctx);
        // Room in the outbox comes without a message to this actor when nothing else is written.
        every(ctx, Duration::from_millis(50), |actor, ctx| {
            if actor.parts.book.lock().parked() > 0 {
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
        let book = parts.book.lock();
        (book.in_flight.len(), book.parked())
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
