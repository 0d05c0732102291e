//! The log actor under faults, with a log played by the test: every answer and cursor arrives.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::future::{Future, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use actix_rt::{Arbiter, System};
use hydrant_protocol::{Message, OnRefused, QoS};
use parking_lot::Mutex;

mod dead;
mod late;
mod short;

use super::*;
use crate::mailboxes::Mailboxes;
use crate::messages::{AckSource, CompletionToken, LogWork, ManagerTask, ManagerWork, StorageWork};
use crate::node_tables::NodeTables;
use crate::ports::{
    DeadId, DeadLetter, Lanes, LogError, LogOp, LogRecord, MessageLog, OutboxPosition, QueueEntry,
    Report, SessionId, SessionStore, StoreFuture, StoreOp, StoredSession, StoredWill,
};
use crate::supervision::{
    ActorCell, Child, Fault, Supervisor, SupervisorHandle, install_panic_hook,
};

type Sink = Box<dyn Fn(Vec<Report>) + Send + Sync>;

/// A log whose reports the test makes.
#[derive(Default)]
struct Played {
    /// Sequences of the records it took.
    took: Mutex<Vec<(u64, u64)>>,
    sink: Mutex<Option<Sink>>,
    panic_next: AtomicBool,
    /// It takes nothing.
    gives_back: AtomicBool,
    resets: AtomicUsize,
    /// Of these topics it takes no more.
    full: Mutex<Vec<&'static str>>,
    /// Steps are taken on the threads that push and report.
    cheap: bool,
}

impl Played {
    fn report(&self, result: impl Fn(u64) -> Result<(), LogError>) {
        let took = std::mem::take(&mut *self.took.lock());
        let reports = took
            .iter()
            .map(|(id, sequence)| Report { id: *id, result: result(*sequence) })
            .collect();
        (self.sink.lock().as_ref().unwrap())(reports);
    }

    /// Only those of these sequences; the others are still under way.
    fn report_some(&self, some: &[u64], result: impl Fn(u64) -> Result<(), LogError>) {
        let its = |(_, sequence): &mut (u64, u64)| some.contains(sequence);
        let took: Vec<_> = self.took.lock().extract_if(.., its).collect();
        let reports =
            took.iter().map(|(id, sequence)| Report { id: *id, result: result(*sequence) });
        (self.sink.lock().as_ref().unwrap())(reports.collect());
    }

    fn took(&self) -> Vec<u64> {
        self.took.lock().iter().map(|(_, sequence)| *sequence).collect()
    }
}

impl MessageLog for Played {
    fn append(&self, records: Vec<LogRecord>) -> Vec<LogRecord> {
        if self.gives_back.load(Ordering::SeqCst) {
            return records;
        }
        for (n, record) in records.iter().enumerate() {
            assert!(n < 2 || !self.panic_next.swap(false, Ordering::SeqCst), "the log panics");
            self.took.lock().push((record.id, record.sequence));
        }
        Vec::new()
    }
    fn takes(&self, topic: &str) -> bool {
        !self.full.lock().contains(&topic)
    }
    fn append_is_cheap(&self) -> bool {
        self.cheap
    }
    fn on_report(&self, sink: Sink) {
        *self.sink.lock() = Some(sink);
    }
    fn reset(&self) {
        self.resets.fetch_add(1, Ordering::SeqCst);
    }
    fn flush(&self, _: Duration) -> bool {
        true
    }
    fn is_up(&self) -> bool {
        true
    }
    fn describe(&self) -> String {
        "played".into()
    }
}

/// A store of an outbox and dead letters, in memory. The test does the writes.
#[derive(Default)]
struct Kept {
    outbox: Mutex<BTreeMap<OutboxPosition, LogRecord>>,
    letters: Mutex<BTreeMap<DeadId, DeadLetter>>,
}

impl SessionStore for Kept {
    fn write(&self, _: Arc<Vec<StoreOp>>) -> StoreFuture<()> {
        Box::pin(ready(Ok(())))
    }
    fn sessions(&self) -> StoreFuture<Vec<StoredSession>> {
        Box::pin(ready(Ok(Vec::new())))
    }
    fn retained(&self) -> StoreFuture<Vec<(Arc<Message>, u64)>> {
        Box::pin(ready(Ok(Vec::new())))
    }
    fn wills(&self) -> StoreFuture<Vec<StoredWill>> {
        Box::pin(ready(Ok(Vec::new())))
    }
    fn read_queue(&self, _: SessionId, _: u64, _: usize, _: usize) -> StoreFuture<Vec<QueueEntry>> {
        Box::pin(ready(Ok(Vec::new())))
    }
    fn lanes(&self) -> StoreFuture<Lanes> {
        Box::pin(ready(Ok(Vec::new())))
    }
    fn read_outbox(
        &self,
        lane: u16,
        position: u64,
        limit: usize,
        _: usize,
    ) -> StoreFuture<Vec<LogRecord>> {
        let from = OutboxPosition { lane, position };
        let until = OutboxPosition { lane, position: u64::MAX };
        let outbox = self.outbox.lock();
        let found = outbox.range(from..until).map(|(_, record)| record.clone());
        Box::pin(ready(Ok(found.take(limit).collect())))
    }
    fn dead_letters(&self, from: DeadId, limit: usize, _: usize) -> StoreFuture<Vec<DeadLetter>> {
        let letters = self.letters.lock();
        let found = letters.range(from..).map(|(_, letter)| letter.clone());
        Box::pin(ready(Ok(found.take(limit).collect())))
    }
    fn describe(&self) -> String {
        "kept".into()
    }
}

struct Node {
    shared: Arc<NodeTables>,
    mailboxes: Arc<Mailboxes>,
    log: Arc<Played>,
    store: Arc<Kept>,
    parts: LogParts,
    cell: Arc<ActorCell>,
    supervisor: SupervisorHandle,
    /// Lives to come that panic.
    panics: Arc<AtomicUsize>,
    _arbiter: Arbiter,
}

impl Node {
    async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    async fn start_with(change: impl FnOnce(&mut crate::settings::Settings)) -> Self {
        Self::start_on(Played::default(), change).await
    }

    async fn start_on(log: Played, change: impl FnOnce(&mut crate::settings::Settings)) -> Self {
        install_panic_hook();
        let mut settings = crate::settings::Settings::for_tests(2);
        settings.supervision.restart_min = Duration::from_millis(50);
        settings.supervision.restart_max = Duration::from_millis(50);
        settings.supervision.max_restarts = 20;
        settings.supervision.stall_timeout = Duration::from_secs(60);
        settings.log.retry_min = Duration::from_millis(1);
        change(&mut settings);
        let mailboxes = Mailboxes::new(&settings, usize::MAX);
        let shared = crate::node_tables::NodeTables::for_tests(
            &Arc::new(settings),
            crate::log::Gate::default(),
            crate::clock::now(),
        );
        let log = Arc::new(log);
        let store = Arc::<Kept>::default();
        let parts = LogActor::parts(
            &shared,
            &mailboxes,
            Arc::clone(&log) as Arc<dyn MessageLog>,
            Arc::clone(&store) as Arc<dyn SessionStore>,
        );
        let (supervisor, cell, panics, arbiter) = supervised(&parts);
        let node = Self {
            shared,
            mailboxes,
            log,
            store,
            parts,
            cell,
            supervisor,
            panics,
            _arbiter: arbiter,
        };
        until("the tree is whole", || node.supervisor.is_whole()).await;
        node
    }

    /// Hands `count` records with tokens and places in lane 0 to the log.
    async fn push(&self, count: u64) {
        for n in 0..count {
            let mut record = record(n);
            {
                let mut lanes = self.shared.lanes.lock();
                let position = lanes.assign(0, 10);
                assert!(lanes.durable(0, position, true));
                record.outbox = Some(OutboxPosition { lane: 0, position });
            }
            let worker = u16::try_from(n % 2).unwrap();
            let wait = u32::try_from(n).unwrap();
            let token = Some(CompletionToken {
                worker,
                source: AckSource::Log,
                pending: wait,
                generation: 0,
            });
            self.mailboxes
                .log
                .push(LogWork { record, token, on_refused: OnRefused::DeadLetter }, 1);
        }
        until("the log has all", || self.log.took().len() as u64 >= count).await;
    }

    /// Who was answered and where lane 0's cursor was moved to, once nothing is under way.
    async fn settled(&self) -> (Vec<u32>, u64) {
        let state = &self.parts.steps.queue;
        until("nothing is under way", || {
            state.lock().is_empty() && self.parts.steps.reports.is_empty()
        })
        .await;
        until("all cursors moved", || self.shared.lanes.lock().backlog() == (0, 0)).await;
        // Two statements: both guards of one expression would live to its end.
        let in_log = state.lock().in_log();
        assert_eq!((in_log, state.lock().bytes()), (0, 0));
        let mut answered = Vec::new();
        until("all are answered", || !state.lock().owes_answers()).await;
        for (n, manager) in self.mailboxes.managers.iter().enumerate() {
            let mut taken = manager.take(1000);
            while let Some(work) = taken.pop() {
                let ManagerTask::Worker(ManagerWork::Completed(tokens)) = work else {
                    panic!("{work:?}")
                };
                assert!(tokens.iter().all(|token| usize::from(token.worker) == n));
                answered.extend(tokens.iter().map(|token| token.pending));
            }
        }
        answered.sort_unstable();
        let cursor = Mutex::new(0);
        until("the cursors are in the store's inbox", || {
            let mut taken = self.mailboxes.storage.take(1000);
            while let Some(StorageWork::Write { ops, .. }) = taken.pop() {
                for op in ops {
                    let StoreOp::Log(LogOp::MoveCursor { lane: 0, position }) = op else {
                        panic!("{op:?}")
                    };
                    *cursor.lock() = position;
                }
            }
            *cursor.lock() > 0
        })
        .await;
        let cursor = *cursor.lock();
        (answered, cursor)
    }

    /// Makes the actor panic `times` times, once in each life, the first time at its next fault
    /// point; the factory arms the fault for the lives after.
    fn arm(&self, times: usize) {
        self.panics.store(times - 1, Ordering::SeqCst);
        self.cell.arm(Fault::Panic);
    }
}

/// Runs the log actor; the number is of lives to come that panic.
fn supervised(parts: &LogParts) -> (SupervisorHandle, Arc<ActorCell>, Arc<AtomicUsize>, Arbiter) {
    let shared = &parts.steps.shared;
    let supervisor = Supervisor::start(
        ActorCell::new("supervisor", "Supervisor").shared(),
        shared.settings.supervision.clone(),
        Arc::clone(&shared.metrics),
        Box::new(|why| panic!("{why}")),
    );
    let cell = ActorCell::new("log", "LogActor").shared();
    let arbiter = Arbiter::new();
    let built = parts.clone();
    let panics = Arc::<AtomicUsize>::default();
    let armed = Arc::clone(&panics);
    supervisor.add(Child {
        cell: Arc::clone(&cell),
        arbiter: arbiter.handle(),
        factory: Arc::new(move |cell| {
            let left = armed.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
            if left.is_ok() {
                cell.arm(Fault::Panic);
            }
            LogActor::build(&built, cell)
        }),
    });
    (supervisor, cell, panics, arbiter)
}

fn record(sequence: u64) -> LogRecord {
    LogRecord::for_tests(sequence)
}

/// Polls a condition; the sleep only yields.
async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "waited too long until {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn run(test: impl Future<Output = ()>) {
    System::new().block_on(test);
}

#[test]
fn panics_among_the_reports_lose_no_answer_and_no_cursor() {
    run(async {
        let node = Node::start().await;
        node.push(10).await;
        node.arm(5);
        // One batch: each life gets one report further.
        node.log.report(|_| Ok(()));
        let (answered, cursor) = node.settled().await;
        assert_eq!((answered, cursor), ((0..10).collect(), 10));
        assert_eq!(node.shared.metrics.log_acked.get(), 10);
        assert_eq!(node.cell.restarts(), 5);
    });
}

#[test]
fn a_panic_after_a_failure_was_seen_still_sends_everything_again() {
    run(async {
        let node = Node::start().await;
        node.push(6).await;
        let away = || Err(LogError::Unavailable("away".into()));
        node.arm(1);
        // 0 fails, and the panic comes right behind it.
        node.log.report(|sequence| if sequence % 2 == 0 { away() } else { Ok(()) });
        until("the rest is sent again", || node.log.took() == [0, 2, 4]).await;
        assert_eq!(node.cell.restarts(), 1);
        assert_eq!(node.log.resets.load(Ordering::SeqCst), 1);
        node.log.report(|_| Ok(()));
        let (answered, cursor) = node.settled().await;
        assert_eq!((answered, cursor), ((0..6).collect(), 6));
    });
}

#[test]
fn a_log_that_panics_is_given_everything_again() {
    run(async {
        let node = Node::start().await;
        node.log.panic_next.store(true, Ordering::SeqCst);
        // In one batch: the actor sees them together.
        let records = (0..4).map(|n| {
            (LogWork { record: record(n), token: None, on_refused: OnRefused::DeadLetter }, 1)
        });
        node.mailboxes.log.push_all(records);
        // Two were taken before the panic: they come twice, in order.
        until("it is sent again", || node.log.took() == [0, 1, 0, 1, 2, 3]).await;
        assert_eq!((node.cell.restarts(), node.parts.steps.queue.lock().in_log()), (1, 4));
        node.log.report(|_| Ok(()));
        let state = &node.parts.steps.queue;
        until("nothing is under way", || state.lock().is_empty() && state.lock().in_log() == 0)
            .await;
    });
}
