//! [`EmbeddedLog`]: the message log where there is no Kafka.
//!
//! Owns one fjall database (see [`super::segments`]) and a writer thread that takes what is
//! pending, writes it as one batch with one sync, and reports it.
//!
//! A sync of few records is followed by a wait for as many, for [`LogOptions::gather`] at most, and the thread is woken
//! once for them. So publishers that wait for their acknowledgements meet in one sync, and none waits for longer than
//! they take to come back. No wait follows a sync alone, a batch that failed, or one that was not synced.
//!
//! Invariants: records of a topic get their offsets in the order of `append`. After a failed batch
//! everything pending and everything appended later is reported `Unavailable` until `reset`, so
//! that nothing overtakes what has to be sent again. Each record taken is reported exactly once.
//!
//! Bounds: [`LogOptions::max_pending_bytes`] not reported, by [`LogRecord::cost`]; at least one
//! record is always taken.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hydrant_actors::clock::{self, Clock, ReadClock as _, unix_ms};
use hydrant_actors::ports::{LogError, LogRecord, MessageLog, Report, StoreError};
use hydrant_actors::say;
use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};
use tokio::sync::watch;

use super::log_options::{LogOptions, TopicInfo};
use super::segments::Segments;
use super::store::spawn;
use super::{OpenError, SyncPolicy};

/// Retention is looked at so often.
const SWEEP: Duration = Duration::from_secs(1);
/// A batch of so many records is worth a sync of its own.
const WORTH: usize = 64;
/// A group's name ends here, in bytes.
const GROUP_MAX: usize = 255;

type Sink = Box<dyn Fn(Vec<Report>) + Send + Sync>;

#[derive(Default)]
struct Queue {
    records: VecDeque<LogRecord>,
    /// The writer is woken once there are so many.
    wanted: usize,
    /// Given up by a reset: id and cost.
    given_up: Vec<(u64, usize)>,
    /// Cost of everything not reported.
    bytes: usize,
    /// Records not reported.
    outstanding: usize,
    /// Set by a failure, cleared by a reset.
    failed: Option<String>,
    resets: u64,
    stop: bool,
}

struct EmbeddedLogState {
    dir: PathBuf,
    node: String,
    clock: Clock,
    options: LogOptions,
    queue: Mutex<Queue>,
    work: Condvar,
    reported: Condvar,
    sink: OnceLock<Sink>,
    /// `None` between a failure and the next batch after a reset.
    segments: RwLock<Option<Segments>>,
    appended: watch::Sender<u64>,
}

/// The message log on fjall. Dropping it waits for what was taken. Where the log's own thread is the last to let go, in
/// the sink, the drop does not wait: the thread ends by itself once everything is written and reported.
pub struct EmbeddedLog {
    shared: Arc<EmbeddedLogState>,
    writer: Option<JoinHandle<()>>,
}

impl EmbeddedLog {
    /// Opens or makes the log of `node_id` in `dir`, a folder of its own.
    ///
    /// # Errors
    /// [`OpenError`], one sentence each.
    pub fn open(
        dir: &Path,
        node_id: &str,
        mut options: LogOptions,
    ) -> Result<Arc<Self>, OpenError> {
        if options.retention_bytes > 0 {
            options.segment_bytes = options.segment_bytes.min(options.retention_bytes / 4).max(1);
        }
        let segments = Segments::open(dir, node_id, &options, unix_ms())?;
        let shared = Arc::new(EmbeddedLogState {
            dir: dir.into(),
            node: node_id.into(),
            clock: Clock::new(clock::now()),
            options,
            queue: Mutex::default(),
            work: Condvar::new(),
            reported: Condvar::new(),
            sink: OnceLock::new(),
            segments: RwLock::new(Some(segments)),
            appended: watch::Sender::new(0),
        });
        let run = Arc::clone(&shared);
        let writer = spawn("log-write", move || run.write_loop())
            .map_err(|error| OpenError::Disk { dir: dir.into(), reason: error.to_string() })?;
        Ok(Arc::new(Self { shared, writer: Some(writer) }))
    }

    /// Up to `limit` records of a topic from offset `from` on (or from the first there is), in
    /// order, at most about `max_bytes` (at least one when there is one). Reads the disk: not for
    /// an arbiter thread.
    ///
    /// # Errors
    /// [`LogError::Unavailable`] while the log is closed after a failure.
    pub fn read(
        &self,
        topic: &str,
        from: u64,
        limit: usize,
        max_bytes: usize,
    ) -> Result<Vec<(u64, LogRecord)>, LogError> {
        self.with(|segments| segments.read(topic, from, limit, max_bytes))
    }

    /// One past the newest offset of a topic; `None` when there is no such topic.
    ///
    /// # Errors
    /// See [`EmbeddedLog::read`].
    pub fn end_offset(&self, topic: &str) -> Result<Option<u64>, LogError> {
        self.with(|segments| Ok(segments.topic(topic).map(|topic| topic.end)))
    }

    /// The oldest offset of a topic that retention has left.
    ///
    /// # Errors
    /// See [`EmbeddedLog::read`].
    pub fn first_offset(&self, topic: &str) -> Result<Option<u64>, LogError> {
        self.with(|segments| Ok(segments.topic(topic).map(|topic| topic.first)))
    }

    /// Every topic, by name.
    ///
    /// # Errors
    /// See [`EmbeddedLog::read`].
    pub fn topics(&self) -> Result<Vec<TopicInfo>, LogError> {
        self.with(|segments| Ok(segments.topics()))
    }

    /// The next offset that a group wants of a topic, if it ever committed one.
    ///
    /// # Errors
    /// See [`EmbeddedLog::read`].
    pub fn committed(&self, group: &str, topic: &str) -> Result<Option<u64>, LogError> {
        self.with(|segments| segments.committed(group, topic))
    }

    /// Remembers the next offset that a group wants of a topic. Not synced: after a power cut a
    /// group may see records again.
    ///
    /// # Errors
    /// [`LogError::Refused`] for a name that is empty, longer than 255 bytes or holds NUL; else see
    /// [`EmbeddedLog::read`].
    pub fn commit(&self, group: &str, topic: &str, offset: u64) -> Result<(), LogError> {
        if group.is_empty()
            || group.len() > GROUP_MAX
            || group.contains('\0')
            || topic.len() > GROUP_MAX
        {
            return Err(LogError::Refused("a group's name has 1 to 255 bytes and no NUL".into()));
        }
        self.with(|segments| segments.commit(group, topic, offset))
    }

    /// Changes whenever something was appended.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.shared.appended.subscribe()
    }

    fn with<T>(&self, run: impl FnOnce(&Segments) -> Result<T, StoreError>) -> Result<T, LogError> {
        match self.shared.segments.read().as_ref() {
            Some(segments) => run(segments).map_err(|error| LogError::Unavailable(reason(error))),
            None => Err(LogError::Unavailable("it is closed after a failure".into())),
        }
    }
}

/// The engine's reason alone: a [`StoreError`]'s own sentence speaks of the session store.
fn reason(error: StoreError) -> String {
    match error {
        StoreError::Unavailable(reason) | StoreError::Unusable(reason) => reason,
    }
}

impl Drop for EmbeddedLog {
    fn drop(&mut self) {
        self.shared.queue.lock().stop = true;
        self.shared.work.notify_all();
        let Some(writer) = self.writer.take() else { return };
        // Whoever takes the reports may be the last to let go: on the writer's own thread.
        if writer.thread().id() != std::thread::current().id() && writer.join().is_err() {
            say::error!("the embedded log's thread panicked");
        }
    }
}

impl EmbeddedLogState {
    fn write_loop(&self) {
        let mut swept = Instant::now();
        let mut batch = Vec::new();
        let mut company = 0;
        loop {
            let mut queue = self.queue.lock();
            if (2..WORTH).contains(&company) {
                self.wait(&mut queue, company, self.options.gather);
            }
            self.wait(&mut queue, 1, SWEEP);
            if queue.stop && queue.records.is_empty() && queue.given_up.is_empty() {
                return;
            }
            let given_up = std::mem::take(&mut queue.given_up);
            let (failed, resets) = (queue.failed.clone(), queue.resets);
            let mut bytes = 0;
            while batch.len() < self.options.batch_max_records
                && bytes < self.options.batch_max_bytes
                && let Some(record) = queue.records.pop_front()
            {
                bytes += record.cost();
                batch.push(record);
            }
            drop(queue);
            company = 0;
            if !given_up.is_empty() {
                let error = LogError::Unavailable("given up by a reset".into());
                let reports = given_up
                    .iter()
                    .map(|(id, _)| Report { id: *id, result: Err(error.clone()) })
                    .collect();
                self.report(reports, given_up.iter().map(|(_, cost)| cost).sum());
            }
            if !batch.is_empty() {
                let result = match failed {
                    Some(reason) => Err(reason),
                    None => self.write(&batch).inspect_err(|reason| {
                        let mut queue = self.queue.lock();
                        if queue.resets == resets {
                            queue.failed = Some(reason.clone());
                        }
                    }),
                };
                if result.is_ok() && self.options.sync == SyncPolicy::Always {
                    company = batch.len();
                }
                let mut reports: Vec<_> = batch
                    .drain(..)
                    .map(|record| Report {
                        id: record.id,
                        result: match &result {
                            Ok(_) => Ok(()),
                            Err(reason) => Err(LogError::Unavailable(reason.clone())),
                        },
                    })
                    .collect();
                for (at, error) in result.into_iter().flatten() {
                    reports[at].result = Err(error);
                }
                let count = reports.iter().filter(|report| report.result.is_ok()).count();
                self.report(reports, bytes);
                if count > 0 {
                    self.appended.send_modify(|appended| *appended += count as u64);
                }
            }
            if swept.elapsed() >= SWEEP {
                swept = Instant::now();
                self.sweep();
            }
        }
    }

    /// Until there are so many records, or something else to do; at most so long.
    fn wait(&self, queue: &mut MutexGuard<'_, Queue>, records: usize, time: Duration) {
        let until = Instant::now() + time;
        queue.wanted = records;
        while queue.records.len() < records && queue.given_up.is_empty() && !queue.stop {
            if self.work.wait_until(queue, until).timed_out() {
                break;
            }
        }
        queue.wanted = usize::MAX;
    }

    /// Room is made first, so that whoever is told finds it; `flush` waits for the sink's return.
    fn report(&self, reports: Vec<Report>, bytes: usize) {
        let count = reports.len();
        self.queue.lock().bytes -= bytes;
        if let Some(sink) = self.sink.get()
            && catch_unwind(AssertUnwindSafe(|| sink(reports))).is_err()
        {
            say::error!("whoever takes the embedded log's reports panicked");
        }
        let mut queue = self.queue.lock();
        queue.outstanding -= count;
        if queue.outstanding == 0 {
            self.reported.notify_all();
        }
    }

    fn write(&self, batch: &[LogRecord]) -> Result<Vec<(usize, LogError)>, String> {
        if self.segments.read().is_none() {
            let segments = Segments::open(&self.dir, &self.node, &self.options, unix_ms());
            *self.segments.write() = Some(segments.map_err(|error| error.to_string())?);
            say::info!("embedded log in {} open again", self.dir.display());
        }
        self.guarded(|segments| segments.append(batch, &self.options, unix_ms()))
    }

    /// Bounded: what one look does not finish, the next does.
    fn sweep(&self) {
        // A wall clock that was set forward makes nothing old; what was written by it leaves later.
        let now_ms = self.clock.now_ms().min(unix_ms());
        for _ in 0..16 {
            if self.segments.read().is_none()
                || !self.guarded(|segments| segments.sweep(&self.options, now_ms)).unwrap_or(false)
            {
                return;
            }
        }
    }

    /// Runs something that writes; after a failure or a panic the database is closed.
    fn guarded<T>(
        &self,
        run: impl FnOnce(&Segments) -> Result<T, StoreError>,
    ) -> Result<T, String> {
        let error = {
            let segments = self.segments.read();
            let Some(segments) = segments.as_ref() else {
                return Err("it is closed".into());
            };
            match catch_unwind(AssertUnwindSafe(|| run(segments))) {
                Ok(Ok(done)) => return Ok(done),
                Ok(Err(error)) => reason(error),
                Err(_) => "the storage engine panicked, see the log".into(),
            }
        };
        say::error!("embedded log in {} closed: {error}", self.dir.display());
        *self.segments.write() = None;
        // The engine's threads let go of its files shortly after it is dropped.
        std::thread::sleep(Duration::from_millis(50));
        Err(error)
    }
}

impl MessageLog for EmbeddedLog {
    fn append(&self, mut records: Vec<LogRecord>) -> Vec<LogRecord> {
        let mut queue = self.shared.queue.lock();
        let mut taken = 0;
        for record in &records {
            let cost = record.cost();
            // By bytes: whoever appends from within the sink finds the records that it is told of counted, but no cost.
            if queue.bytes > 0 && queue.bytes + cost > self.shared.options.max_pending_bytes {
                break;
            }
            queue.bytes += cost;
            queue.outstanding += 1;
            taken += 1;
        }
        let rest = records.split_off(taken);
        queue.records.extend(records);
        let enough = queue.records.len() >= queue.wanted;
        drop(queue);
        if enough {
            self.shared.work.notify_one();
        }
        rest
    }

    fn append_is_cheap(&self) -> bool {
        true
    }

    fn on_report(&self, sink: Sink) {
        if self.shared.sink.set(sink).is_err() {
            say::error!("the embedded log's reports already go somewhere");
        }
    }

    fn reset(&self) {
        let mut queue = self.shared.queue.lock();
        let given_up: Vec<_> =
            queue.records.drain(..).map(|record| (record.id, record.cost())).collect();
        queue.given_up.extend(given_up);
        queue.failed = None;
        queue.resets += 1;
        drop(queue);
        self.shared.work.notify_one();
    }

    fn flush(&self, deadline: Duration) -> bool {
        let until = Instant::now() + deadline;
        let mut queue = self.shared.queue.lock();
        while queue.outstanding > 0 {
            if self.shared.reported.wait_until(&mut queue, until).timed_out() {
                return queue.outstanding == 0;
            }
        }
        true
    }

    fn is_up(&self) -> bool {
        self.shared.queue.lock().failed.is_none()
    }

    fn describe(&self) -> String {
        let (outstanding, failed) = {
            let queue = self.shared.queue.lock();
            (queue.outstanding, queue.failed.clone())
        };
        let state = match (failed, self.shared.segments.read().as_ref()) {
            (Some(reason), _) => format!("failed ({reason}), waits for a reset"),
            (None, Some(segments)) => segments.describe(),
            (None, None) => "closed".into(),
        };
        format!("embedded log: {state}, {outstanding} records outstanding")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
