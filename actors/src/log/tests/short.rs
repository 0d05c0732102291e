//! Steps on the threads of who pushes records and of who reports them, without LogActor and beside it.

use std::collections::VecDeque;
use std::thread;

use parking_lot::Condvar;

use super::*;
use crate::supervision;

const MANY: u64 = 65;

fn work(sequence: u64) -> (LogWork, usize) {
    let pending = u32::try_from(sequence).unwrap();
    let token = CompletionToken { worker: 0, source: AckSource::Log, pending, generation: 0 };
    let on_refused = OnRefused::DeadLetter;
    (LogWork { record: record(sequence), token: Some(token), on_refused }, 1)
}

/// The parts of a log actor that does not run.
fn parts(log: &Arc<impl MessageLog>) -> LogParts {
    let mut settings = crate::settings::Settings::for_tests(2);
    settings.log.retry_min = Duration::from_millis(1);
    settings.log.max_pending_bytes = 1 << 20;
    let mailboxes = Mailboxes::new(&settings, usize::MAX);
    let (settings, gate) = (Arc::new(settings), crate::log::Gate::default());
    let shared = crate::node_tables::NodeTables::for_tests(&settings, gate, crate::clock::now());
    let log = Arc::clone(log) as Arc<dyn MessageLog>;
    LogActor::parts(&shared, &mailboxes, log, Arc::<Kept>::default())
}

fn answered(parts: &LogParts) -> Vec<u32> {
    let mut taken = parts.steps.mailboxes.managers[0].take(10_000);
    let mut answered = Vec::new();
    while let Some(ManagerTask::Worker(ManagerWork::Completed(tokens))) = taken.pop() {
        answered.extend(tokens.iter().map(|token| token.pending));
    }
    answered
}

#[test]
fn few_records_and_reports_need_no_actor_and_many_are_left_to_it() {
    let log = Arc::new(Played { cheap: true, ..Played::default() });
    let parts = parts(&log);
    let inbox = &parts.steps.mailboxes.log;
    inbox.push_short((0..3).map(work));
    assert_eq!(log.took(), [0, 1, 2]);
    log.report_some(&[1], |_| Ok(()));
    assert_eq!(answered(&parts), [1]);
    log.report(|_| Ok(()));
    assert_eq!((answered(&parts), parts.steps.queue.lock().len()), (vec![0, 2], 0));
    assert_eq!(parts.steps.shared.metrics.log_acked.get(), 3);

    inbox.push_short((0..MANY).map(work));
    assert_eq!((log.took().len(), inbox.len() as u64), (0, MANY));
    // Few that come behind them do not overtake.
    inbox.push_short([work(MANY)]);
    assert_eq!((log.took().len(), inbox.len() as u64), (0, MANY + 1));
}

/// Until a step of the short way has looked at its inboxes, and stands before the lanes.
fn stands(parts: &LogParts) {
    let until = Instant::now() + Duration::from_secs(20);
    while parts.steps.queue.try_lock().is_some() {
        assert!(Instant::now() < until, "no step has begun");
        thread::yield_now();
    }
}

#[test]
fn what_comes_behind_the_look_makes_no_step_longer() {
    let log = Arc::new(Played { cheap: true, ..Played::default() });
    let parts = parts(&log);
    let (inbox, reports) = (&parts.steps.mailboxes.log, &parts.steps.reports);
    thread::scope(|scope| {
        let lanes = parts.steps.shared.lanes.lock();
        scope.spawn(|| inbox.push_short((0..3).map(work)));
        stands(&parts);
        inbox.push_all((3..3 + MANY).map(work));
        drop(lanes);
    });
    assert_eq!((log.took().len(), inbox.len()), (64, 4));
    inbox.push_short([work(3 + MANY)]);
    assert_eq!((log.took().len(), inbox.len()), (69, 0));

    let few: Vec<_> = (0..40).collect();
    thread::scope(|scope| {
        let lanes = parts.steps.shared.lanes.lock();
        scope.spawn(|| log.report_some(&few, |_| Ok(())));
        stands(&parts);
        reports.push((40..69).map(|id| Report { id, result: Ok(()) }).collect(), 29);
        drop(lanes);
    });
    assert_eq!((answered(&parts).len(), reports.len()), (40, 1));
}

#[test]
fn records_that_the_log_gives_back_are_left_to_the_actor() {
    let log = Arc::new(Played { cheap: true, ..Played::default() });
    let parts = parts(&log);
    let inbox = &parts.steps.mailboxes.log;
    log.gives_back.store(true, Ordering::SeqCst);
    inbox.push_short((0..3).map(work));
    log.gives_back.store(false, Ordering::SeqCst);
    assert_eq!(parts.steps.left.len(), 1, "the actor is told");
    inbox.push_short([work(3)]);
    assert_eq!((log.took().len(), inbox.len()), (0, 1));
    parts.steps.step(crate::clock::now(), || {}, |_, _| {});
    assert_eq!((log.took(), inbox.len()), (vec![0, 1, 2, 3], 0));
}

#[test]
fn no_worker_waits_for_a_command_that_holds_the_dead_letters() {
    let log = Arc::new(Played { cheap: true, ..Played::default() });
    let parts = parts(&log);
    let inbox = &parts.steps.mailboxes.log;
    thread::scope(|scope| {
        let book = parts.steps.shared.dead_letters.book.lock();
        let worker = scope.spawn(|| inbox.push_short((0..3).map(work)));
        let until = Instant::now() + Duration::from_secs(20);
        while !worker.is_finished() {
            assert!(Instant::now() < until, "the worker waits");
            thread::yield_now();
        }
        drop(book);
    });
    assert_eq!((log.took().len(), inbox.len()), (0, 3), "left to the actor");
    inbox.push_short([work(3)]);
    assert_eq!((log.took(), inbox.len()), (vec![0, 1, 2, 3], 0));
}

#[test]
fn a_log_whose_append_costs_something_is_called_by_the_actor_only() {
    let log = Arc::<Played>::default();
    let parts = parts(&log);
    parts.steps.mailboxes.log.push_short((0..3).map(work));
    assert_eq!((log.took().len(), parts.steps.mailboxes.log.len()), (0, 3));
}

#[test]
fn nothing_overtakes_a_reset_while_reports_are_on_the_way() {
    run(async {
        let log = Played { cheap: true, ..Played::default() };
        let node = Node::start_on(log, |_| {}).await;
        let inbox = &node.mailboxes.log;
        inbox.push_short((0..4).map(work));
        assert_eq!(node.log.took(), [0, 1, 2, 3]);
        let away = |_| Err(LogError::Unavailable("away".into()));
        node.log.report_some(&[1], away);
        until("the log is told", || node.log.resets.load(Ordering::SeqCst) == 1).await;
        // The others are on their way, and new records come.
        inbox.push_short((4..6).map(work));
        node.log.report_some(&[0, 2], |_| Ok(()));
        until("these are answered", || node.parts.steps.queue.lock().in_log() == 1).await;
        assert_eq!(node.log.took(), [3], "nothing is sent before every record is reported");
        node.log.report_some(&[3], away);
        until("all are sent again", || node.log.took().len() == 4).await;
        assert_eq!(node.log.took(), [1, 3, 4, 5]);
        assert_eq!(node.log.resets.load(Ordering::SeqCst), 1);
        // The short way is open again.
        until("the queue is plain", || {
            let outside = node.parts.steps.outside();
            node.parts.steps.queue.lock().is_plain(&outside)
        })
        .await;
        node.log.report(|_| Ok(()));
        let mut done = answered(&node.parts);
        done.sort_unstable();
        assert_eq!(done, (0..6).collect::<Vec<_>>());
    });
}

/// What the short way has said.
static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Capture;

impl log::Log for Capture {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.target() == "hydrant::log" && metadata.level() == log::Level::Error
    }
    fn log(&self, record: &log::Record<'_>) {
        let line = record.args().to_string();
        if self.enabled(record.metadata()) && line.starts_with("a step of the log queue") {
            LINES.lock().push(line);
        }
    }
    fn flush(&self) {}
}

fn capture() {
    log::set_logger(&Capture).unwrap();
    log::set_max_level(log::LevelFilter::Error);
}

#[test]
fn a_panic_on_the_short_way_spares_the_thread_and_the_actor_goes_on() {
    run(async {
        let log = Played { cheap: true, ..Played::default() };
        let node = Node::start_on(log, |_| {}).await;
        node.log.panic_next.store(true, Ordering::SeqCst);
        capture();
        // A worker's tasks are watched, too: the hook leaves the line to who catches.
        let pushed = supervision::catch(|| node.mailboxes.log.push_short((0..4).map(work)));
        assert_eq!(pushed, Ok(()));
        let lines = LINES.lock().clone();
        let line = "a step of the log queue panicked: the log panics at actors/src/log/tests.rs";
        assert!(lines.len() == 1 && lines[0].starts_with(line), "{lines:?}");
        // Two were taken before the panic: they come twice, in order.
        until("it is sent again", || node.log.took() == [0, 1, 0, 1, 2, 3]).await;
        assert_eq!((node.cell.restarts(), node.parts.steps.queue.lock().in_log()), (0, 4));
    });
}

/// A log with a thread of its own, as the embedded one: from a failure on everything fails until it is reset.
#[derive(Default)]
struct Threaded {
    state: Mutex<ThreadedState>,
    work: Condvar,
    sink: Mutex<Option<Sink>>,
}

#[derive(Default)]
struct ThreadedState {
    pending: VecDeque<(u64, u64)>,
    /// Sequences, as they were written.
    written: Vec<u64>,
    failed: bool,
    /// Reset before they were written.
    given_up: Vec<u64>,
    /// Batches written so far, and failures.
    batches: u64,
    failures: u64,
    stop: bool,
}

impl Threaded {
    fn write_loop(&self) {
        loop {
            let reports: Vec<Report> = {
                let mut state = self.state.lock();
                while state.pending.is_empty() && state.given_up.is_empty() && !state.stop {
                    self.work.wait(&mut state);
                }
                if state.stop {
                    return;
                }
                let few = if state.failed { state.pending.len() } else { 5 };
                let few = few.min(state.pending.len());
                let batch: Vec<_> = state.pending.drain(..few).collect();
                let given_up = std::mem::take(&mut state.given_up);
                let failed = state.failed;
                if !failed {
                    state.batches += 1;
                    if state.batches.is_multiple_of(20) {
                        state.failed = true;
                        state.failures += 1;
                    }
                    state.written.extend(batch.iter().map(|(_, sequence)| *sequence));
                }
                let report = |id, failed| match failed {
                    true => Report { id, result: Err(LogError::Unavailable("away".into())) },
                    false => Report { id, result: Ok(()) },
                };
                let given_up = given_up.into_iter().map(|id| report(id, true));
                given_up.chain(batch.iter().map(|(id, _)| report(*id, failed))).collect()
            };
            (self.sink.lock().as_ref().unwrap())(reports);
        }
    }
}

impl MessageLog for Threaded {
    fn append(&self, records: Vec<LogRecord>) -> Vec<LogRecord> {
        let mut state = self.state.lock();
        state.pending.extend(records.iter().map(|record| (record.id, record.sequence)));
        self.work.notify_one();
        Vec::new()
    }
    fn append_is_cheap(&self) -> bool {
        true
    }
    fn on_report(&self, sink: Sink) {
        *self.sink.lock() = Some(sink);
    }
    fn reset(&self) {
        let mut state = self.state.lock();
        state.failed = false;
        let pending = std::mem::take(&mut state.pending);
        state.given_up.extend(pending.iter().map(|(id, _)| *id));
        self.work.notify_one();
    }
    fn flush(&self, _: Duration) -> bool {
        true
    }
    fn is_up(&self) -> bool {
        true
    }
    fn describe(&self) -> String {
        "threaded".into()
    }
}

#[test]
fn records_of_two_workers_keep_their_order_over_resets_and_each_is_written_once() {
    const EACH: u64 = 2_000;
    run(async {
        let log = Arc::<Threaded>::default();
        let parts = parts(&log);
        let writer = Arc::clone(&log);
        let writer = thread::spawn(move || writer.write_loop());
        let (supervisor, ..) = supervised(&parts);
        until("the tree is whole", || supervisor.is_whole()).await;
        let workers = [0, 1].map(|worker| {
            let inbox = parts.steps.mailboxes.log.clone();
            thread::spawn(move || {
                for n in 0..EACH {
                    inbox.push_short([work(2 * n + worker)]);
                    if n.is_multiple_of(16) {
                        thread::yield_now();
                    }
                }
            })
        });
        for worker in workers {
            worker.join().unwrap();
        }
        until("all are written", || log.state.lock().written.len() as u64 >= 2 * EACH).await;
        until("all are answered", || parts.steps.queue.lock().is_empty()).await;
        log.state.lock().stop = true;
        log.work.notify_all();
        writer.join().unwrap();
        let state = log.state.lock();
        assert!(state.failures > 5, "{} failures", state.failures);
        for worker in [0, 1] {
            let of: Vec<u64> = state.written.iter().copied().filter(|n| n % 2 == worker).collect();
            assert_eq!(of, (0..EACH).map(|n| 2 * n + worker).collect::<Vec<_>>());
        }
        let mut done = answered(&parts);
        done.sort_unstable();
        assert_eq!(done.len() as u64, 2 * EACH);
    });
}
