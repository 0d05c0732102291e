//! [`EmbeddedStore`]: the session store of a single node.
//!
//! Owns the engine (one fjall database), a writer thread and a reader thread. Nobody else touches
//! either; callers get futures that are resolved from the threads.
//!
//! Invariants:
//! - Writes are committed in the order of the calls. What waits while a commit syncs is committed
//!   together by the next one, each write whole.
//! - After a failed write, every write that its caller handed over before he saw that failure fails
//!   too, so that nothing overtakes what has to be repeated ([`Gate`]).
//! - After a failed commit the database is closed and opened again by a later write, at most every
//!   [`REOPEN_PAUSE`].
//!
//! Bounds: [`QUEUE`] writes and as many reads wait; further ones fail with `Unavailable`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hydrant_actors::ports::{
    DeadId, DeadLetter, Lanes, LogRecord, QueueEntry, SessionId, SessionStore, StoreError,
    StoreFuture, StoreOp, StoredSession, StoredWill,
};
use hydrant_actors::say;
use hydrant_protocol::Message;
use parking_lot::{Mutex, RwLock};
use tokio::sync::oneshot;

use super::OpenError;
use super::store_options::StoreOptions;
use super::tables::{Committed, Engine};

/// Writes, and reads, that may wait for their thread.
const QUEUE: usize = 1024;
/// Operations committed together; one write may hold more.
const GROUP_OPS: usize = 16 * 1024;
/// Time between two attempts to open the database again.
const REOPEN_PAUSE: Duration = Duration::from_millis(250);
/// An idle writer looks for garbage so often.
const IDLE: Duration = Duration::from_millis(500);

struct EmbeddedStoreState {
    dir: PathBuf,
    node: String,
    options: StoreOptions,
    /// `None` between a failure and the reopening.
    engine: RwLock<Option<Engine>>,
    /// What keeps it closed.
    closed: Mutex<Option<StoreError>>,
    gate: Gate,
    last: Mutex<Committed>,
    batches: AtomicU64,
}

/// Keeps the order over failures: counts those that their callers have not seen.
#[derive(Default)]
struct Gate {
    unseen: AtomicUsize,
    failures: AtomicU64,
}

struct Write {
    ops: Arc<Vec<StoreOp>>,
    /// [`Gate::failures`] when it was handed over.
    failures: u64,
    reply: oneshot::Sender<Result<(), StoreError>>,
}

type Read = Box<dyn FnOnce(Result<&Engine, StoreError>) + Send>;

/// The session store on fjall. Dropping it waits for what was handed over.
pub struct EmbeddedStore {
    shared: Arc<EmbeddedStoreState>,
    writes: Option<SyncSender<Write>>,
    reads: Option<SyncSender<Read>>,
    threads: Vec<JoinHandle<()>>,
}

impl EmbeddedStore {
    /// Opens or makes the store of `node_id` in `dir`, a folder of its own. Blocks while the
    /// journal is replayed (about a second per 100 MiB).
    ///
    /// # Errors
    /// [`OpenError`], one sentence each.
    pub fn open(dir: &Path, node_id: &str, options: StoreOptions) -> Result<Arc<Self>, OpenError> {
        let engine = Engine::open(dir, node_id, &options)?;
        let shared = Arc::new(EmbeddedStoreState {
            dir: dir.into(),
            node: node_id.into(),
            options,
            engine: RwLock::new(Some(engine)),
            closed: Mutex::new(None),
            gate: Gate::default(),
            last: Mutex::default(),
            batches: AtomicU64::new(0),
        });
        let (writes, write_queue) = sync_channel(QUEUE);
        let (reads, read_queue) = sync_channel::<Read>(QUEUE);
        let (writer, reader) = (Arc::clone(&shared), Arc::clone(&shared));
        let disk =
            |error: std::io::Error| OpenError::Disk { dir: dir.into(), reason: error.to_string() };
        let threads = vec![
            spawn("store-write", move || writer.write_loop(&write_queue)).map_err(disk)?,
            spawn("store-read", move || reader.read_loop(&read_queue)).map_err(disk)?,
        ];
        Ok(Arc::new(Self { shared, writes: Some(writes), reads: Some(reads), threads }))
    }

    fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Engine) -> Result<T, StoreError> + Send + 'static,
    ) -> StoreFuture<T> {
        let (reply, answer) = oneshot::channel();
        let job: Read = Box::new(move |engine| {
            // Nobody waits any more: fine.
            let _ = reply.send(engine.and_then(read));
        });
        let queued = self.reads.as_ref().is_some_and(|reads| reads.try_send(job).is_ok());
        Box::pin(async move {
            if !queued {
                return Err(StoreError::Unavailable("too many reads wait for the store".into()));
            }
            answer.await.unwrap_or_else(|_| {
                Err(StoreError::Unavailable("the read failed, see the log".into()))
            })
        })
    }
}

pub(super) fn spawn(
    name: &str,
    run: impl FnOnce() + Send + 'static,
) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.into()).spawn(run)
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        self.writes = None;
        self.reads = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                say::error!("a thread of the embedded store panicked");
            }
        }
    }
}

impl EmbeddedStoreState {
    fn write_loop(&self, queue: &Receiver<Write>) {
        let mut next_attempt = Instant::now();
        let mut group = Vec::new();
        let mut sweeping = true;
        loop {
            let write = match queue.recv_timeout(if sweeping { Duration::ZERO } else { IDLE }) {
                Ok(write) => write,
                Err(RecvTimeoutError::Timeout) => {
                    sweeping = self.sweep(&mut next_attempt);
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => return,
            };
            sweeping = false;
            let mut ops = write.ops.len();
            group.push(write);
            while ops < GROUP_OPS
                && let Ok(write) = queue.try_recv()
            {
                ops += write.ops.len();
                group.push(write);
            }
            let failures = self.gate.failures.load(Ordering::Acquire);
            let (stale, current): (Vec<_>, Vec<_>) =
                group.drain(..).partition(|write| write.failures < failures);
            for write in stale {
                self.gate.fail(
                    write.reply,
                    StoreError::Unavailable("a write before this one failed".into()),
                );
            }
            if current.is_empty() {
                continue;
            }
            match self.commit(&current, &mut next_attempt) {
                Ok(()) => {
                    for write in current {
                        // Nobody waits any more: it is written all the same.
                        let _ = write.reply.send(Ok(()));
                    }
                }
                Err(error) => {
                    self.gate.failed(current.len());
                    for write in current {
                        self.gate.answer(write.reply, error.clone());
                    }
                }
            }
        }
    }

    fn commit(&self, group: &[Write], next_attempt: &mut Instant) -> Result<(), StoreError> {
        self.reopen(next_attempt)?;
        let ops = group.iter().map(|write| write.ops.as_slice());
        let result = self.guarded(|engine| engine.commit(ops, self.options.sync), next_attempt)?;
        *self.last.lock() = result;
        self.batches.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// True while there may be more to sweep.
    fn sweep(&self, next_attempt: &mut Instant) -> bool {
        if self.engine.read().is_none() {
            return false;
        }
        self.guarded(Engine::sweep, next_attempt).unwrap_or(false)
    }

    /// Runs something that writes; after a failure or a panic the database is closed.
    fn guarded<T>(
        &self,
        run: impl FnOnce(&Engine) -> Result<T, StoreError>,
        next_attempt: &mut Instant,
    ) -> Result<T, StoreError> {
        let error = {
            let engine = self.engine.read();
            let Some(engine) = engine.as_ref() else {
                return Err(StoreError::Unavailable("the store is closed".into()));
            };
            match catch_unwind(AssertUnwindSafe(|| run(engine))) {
                Ok(Ok(done)) => return Ok(done),
                Ok(Err(error)) => error,
                Err(_) => {
                    StoreError::Unavailable("the storage engine panicked, see the log".into())
                }
            }
        };
        say::error!("embedded store in {} closed: {error}", self.dir.display());
        *self.closed.lock() = Some(error.clone());
        *self.engine.write() = None;
        *next_attempt = Instant::now() + REOPEN_PAUSE;
        Err(error)
    }

    fn reopen(&self, next_attempt: &mut Instant) -> Result<(), StoreError> {
        if self.engine.read().is_some() {
            return Ok(());
        }
        let closed = self.closed.lock().clone();
        match closed {
            Some(error @ StoreError::Unusable(_)) => return Err(error),
            Some(error) if Instant::now() < *next_attempt => return Err(error),
            _ => {}
        }
        *next_attempt = Instant::now() + REOPEN_PAUSE;
        match Engine::open(&self.dir, &self.node, &self.options) {
            Ok(engine) => {
                say::info!("embedded store in {} open again", self.dir.display());
                *self.engine.write() = Some(engine);
                *self.closed.lock() = None;
                Ok(())
            }
            Err(error) => {
                let error = match error {
                    OpenError::Damaged { .. }
                    | OpenError::Newer { .. }
                    | OpenError::OtherNode { .. } => StoreError::Unusable(error.to_string()),
                    _ => StoreError::Unavailable(error.to_string()),
                };
                *self.closed.lock() = Some(error.clone());
                Err(error)
            }
        }
    }

    fn read_loop(&self, queue: &Receiver<Read>) {
        while let Ok(read) = queue.recv() {
            let engine = self.engine.read();
            let closed = || self.closed.lock().clone();
            let engine = engine.as_ref().ok_or_else(|| {
                closed().unwrap_or_else(|| StoreError::Unavailable("the store is closed".into()))
            });
            if catch_unwind(AssertUnwindSafe(|| read(engine))).is_err() {
                say::error!("a read of the embedded store panicked");
            }
        }
    }
}

impl Gate {
    /// Counts failures before anybody can learn of them. The order matters: who reads the new
    /// `failures` also finds them unseen.
    fn failed(&self, writes: usize) {
        self.unseen.fetch_add(writes, Ordering::AcqRel);
        self.failures.fetch_add(1, Ordering::AcqRel);
    }

    /// Answers a write already counted by [`Gate::failed`].
    fn answer(&self, reply: oneshot::Sender<Result<(), StoreError>>, error: StoreError) {
        if reply.send(Err(error)).is_err() {
            self.seen();
        }
    }

    fn fail(&self, reply: oneshot::Sender<Result<(), StoreError>>, error: StoreError) {
        self.unseen.fetch_add(1, Ordering::AcqRel);
        self.answer(reply, error);
    }

    fn seen(&self) {
        self.unseen.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A write's answer; polled to its end or dropped, its failure counts as seen.
struct Pending {
    shared: Arc<EmbeddedStoreState>,
    answer: oneshot::Receiver<Result<(), StoreError>>,
    done: bool,
}

impl Pending {
    async fn wait(mut self) -> Result<(), StoreError> {
        let answer = (&mut self.answer).await;
        self.done = true;
        match answer {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                self.shared.gate.seen();
                Err(error)
            }
            Err(_) => {
                Err(StoreError::Unusable("the store's writer thread has ended, see the log".into()))
            }
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if !self.done {
            self.answer.close();
            if let Ok(Err(_)) = self.answer.try_recv() {
                self.shared.gate.seen();
            }
        }
    }
}

impl SessionStore for EmbeddedStore {
    fn write(&self, ops: Arc<Vec<StoreOp>>) -> StoreFuture<()> {
        let (reply, answer) = oneshot::channel();
        let gate = &self.shared.gate;
        let failures = gate.failures.load(Ordering::Acquire);
        if gate.unseen.load(Ordering::Acquire) > 0 {
            gate.fail(reply, StoreError::Unavailable("a write before this one failed".into()));
        } else if let Some(writes) = &self.writes
            && let Err(refused) = writes.try_send(Write { ops, failures, reply })
        {
            let (std::sync::mpsc::TrySendError::Full(write)
            | std::sync::mpsc::TrySendError::Disconnected(write)) = refused;
            gate.fail(
                write.reply,
                StoreError::Unavailable("too many writes wait for the store".into()),
            );
        }
        let pending = Pending { shared: Arc::clone(&self.shared), answer, done: false };
        Box::pin(pending.wait())
    }

    fn sessions(&self) -> StoreFuture<Vec<StoredSession>> {
        self.read(Engine::sessions)
    }

    fn retained(&self) -> StoreFuture<Vec<(Arc<Message>, u64)>> {
        self.read(Engine::retained)
    }

    fn wills(&self) -> StoreFuture<Vec<StoredWill>> {
        self.read(Engine::wills)
    }

    fn read_queue(
        &self,
        id: SessionId,
        from: u64,
        limit: usize,
        max_bytes: usize,
    ) -> StoreFuture<Vec<QueueEntry>> {
        self.read(move |engine| engine.read_queue(id, from, limit, max_bytes))
    }

    fn lanes(&self) -> StoreFuture<Lanes> {
        self.read(|engine| engine.outbox.lanes())
    }

    fn read_outbox(
        &self,
        lane: u16,
        from: u64,
        limit: usize,
        max_bytes: usize,
    ) -> StoreFuture<Vec<LogRecord>> {
        self.read(move |engine| engine.outbox.read(lane, from, limit, max_bytes))
    }

    fn dead_letters(
        &self,
        from: DeadId,
        limit: usize,
        max_bytes: usize,
    ) -> StoreFuture<Vec<DeadLetter>> {
        self.read(move |engine| engine.dead_letters(from, limit, max_bytes))
    }

    fn describe(&self) -> String {
        let last = *self.shared.last.lock();
        let state = match self.shared.engine.read().as_ref() {
            Some(engine) => format!(
                "{} MiB on disk with its journal, {} outbox buckets",
                engine.db.disk_space() >> 20,
                engine.outbox.bucket_count()
            ),
            None => "closed after a failure, opened again by the next write".into(),
        };
        let batches = self.shared.batches.load(Ordering::Relaxed);
        format!(
            "embedded store: {state}, {batches} batches, the last of {} operations in {} rows",
            last.ops, last.rows
        )
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
