//! [`SessionStore`] on Cassandra.
//!
//! Writes are planned in the order of the calls, on the caller's thread, and done in any order by
//! the store's own runtime: write timestamps decide which of two writes to a cell is the later one. A write
//! is answered `Ok` only while this incarnation's lease runs.
//! Bounds: requests under way by `cassandra.max_requests`; what waits for them by
//! `storage.max_in_flight` batches.

use std::future::Future;
use std::sync::Arc;

use hydrant_actors::ports::{
    DeadId, DeadLetter, LaneState, Lanes, LogRecord, QueueEntry, SessionId, SessionStore,
    StoreError, StoreFuture, StoreOp, StoredSession, StoredWill,
};
use hydrant_protocol::Message;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use super::db::CassandraError;
use super::dead;
use super::inner::Inner;
use super::options::CassandraOptions;
use super::owned_sessions::OwnedSessions;
use super::plan::plan;
use super::queue::{BUCKET, EntryState, place};
use super::read::{self, OutboxPage};
use super::sessions::{self, Which};

/// See the module.
pub struct CassandraStore {
    pub(super) inner: Arc<Inner>,
    /// Carries every connection to Cassandra; `None` once dropped.
    runtime: Option<Runtime>,
}

impl CassandraStore {
    /// Connects, makes or checks the schema, begins an incarnation and takes over what dead
    /// incarnations of this node left. `instance` is this node's data directory: who holds its lock
    /// knows that an earlier incarnation of the same instance is dead.
    ///
    /// # Errors
    /// One sentence that says what to do.
    pub async fn open(
        options: &CassandraOptions,
        node_id: &str,
        instance: &str,
    ) -> Result<Arc<Self>, CassandraError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("cassandra")
            .enable_all()
            .build()
            .map_err(|error| CassandraError(format!("no thread can be started: {error}")))?;
        let (options, node_id, instance) =
            (options.clone(), node_id.to_owned(), instance.to_owned());
        // It is awaited on a thread of its own, so that it need not be `Send`.
        let handle = runtime.handle().clone();
        let opened = tokio::task::spawn_blocking(move || {
            handle.block_on(Inner::open(&options, &node_id, &instance))
        });
        let opened = opened.await.unwrap_or_else(|error| Err(CassandraError(error.to_string())));
        match opened {
            Ok(inner) => Ok(Arc::new(Self { inner: Arc::new(inner), runtime: Some(runtime) })),
            Err(error) => {
                runtime.shutdown_background();
                Err(error)
            }
        }
    }

    /// Ends the incarnation: its successor need not wait for its lease to end.
    pub async fn release(&self) {
        let inner = Arc::clone(&self.inner);
        let _ = self
            .run(async move {
                inner.incarnation.release(&inner.db).await;
                Ok(())
            })
            .await;
    }

    /// For tests: from now on it does not renew its lease, as a process that is frozen does not.
    pub fn freeze(&self) {
        self.inner.incarnation.freeze();
    }

    /// Runs a request on the store's runtime, whoever waits for it.
    pub(super) fn run<T: Send + 'static>(
        &self,
        request: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> StoreFuture<T> {
        let (answer, answered) = oneshot::channel();
        if let Some(runtime) = &self.runtime {
            runtime.spawn(async move {
                let _ = answer.send(request.await);
            });
        }
        Box::pin(async move {
            answered.await.unwrap_or_else(|_| {
                Err(StoreError::Unavailable("the request to Cassandra ended early".to_owned()))
            })
        })
    }
}

impl Drop for CassandraStore {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Inner {
    async fn sessions(&self) -> Result<Vec<StoredSession>, StoreError> {
        let ids = self.memory.lock().owned_sessions.as_ref().map(OwnedSessions::ids);
        let which = ids.as_ref().map_or(Which::All, |ids| Which::These(ids));
        let mut loaded = sessions::load(&self.db, which).await?;
        sessions::count(&self.db, &mut loaded).await?;
        Ok(loaded.sessions.into_values().collect())
    }

    async fn queue(
        &self,
        id: SessionId,
        from: u64,
        limit: usize,
        max_bytes: usize,
    ) -> Result<Vec<QueueEntry>, StoreError> {
        let (mut entries, mut bytes) = (Vec::new(), 0);
        let base = self.memory.lock().bases.get(&id).copied();
        let buckets: Vec<u64> =
            read::buckets_of(&self.db, id, from / BUCKET).await?.into_keys().collect();
        for bucket in buckets {
            let mut enough = false;
            read::queue_bucket(&self.db, (id, bucket), base, from, |mut entry| {
                match self.entry_state(id, entry.sequence) {
                    EntryState::Done => return true,
                    EntryState::Outgoing(id, stage) => entry.outgoing = Some((id, stage)),
                    EntryState::Waiting => {}
                }
                bytes += entry.message.cost();
                enough = entries.len() >= limit || (!entries.is_empty() && bytes > max_bytes);
                if !enough {
                    entries.push(entry);
                }
                !enough
            })
            .await?;
            if enough {
                break;
            }
        }
        Ok(entries)
    }

    fn entry_state(&self, id: SessionId, sequence: u64) -> EntryState {
        let (bucket, offset) = place(sequence);
        let memory = self.memory.lock();
        let state = memory.queues.get(&id).and_then(|queue| queue.buckets.get(&bucket));
        state.map_or(EntryState::Waiting, |state| state.get(offset))
    }

    fn lanes(&self) -> Lanes {
        let memory = self.memory.lock();
        let lanes = memory.lanes().iter().map(|(number, lane)| LaneState {
            lane: *number,
            cursor: lane.cursor,
            end: lane.end,
            bytes: lane.bytes,
        });
        lanes.collect()
    }
}

impl SessionStore for CassandraStore {
    fn write(&self, ops: Arc<Vec<StoreOp>>) -> StoreFuture<()> {
        let planned = {
            let mut memory = self.inner.memory.lock();
            memory.admit(&ops).and_then(|()| plan(&mut memory, &ops)).map(|plan| {
                // The end of a session is also that of its receipts.
                let in_turn = plan.atomic || !plan.receipts.is_empty() || !plan.ended.is_empty();
                let sessions = plan.sessions.iter().copied().collect();
                let place = memory.order.begins(in_turn, sessions);
                (plan, place)
            })
        };
        let (mut plan, mut place) = match planned {
            Ok(planned) => planned,
            Err(error) => return Box::pin(async move { Err(error) }),
        };
        let inner = Arc::clone(&self.inner);
        self.run(async move {
            let result = inner.write(&mut plan, &mut place).await;
            let mut memory = inner.memory.lock();
            // What failed is known before anybody can be planned without it.
            let last = memory.order.ends(place, result.is_ok());
            match &result {
                Ok(()) => memory.succeeded(&plan),
                Err(_) => memory.failed(ops, plan),
            }
            if last && result.is_ok() && memory.half_done.is_none() && memory.journal_used {
                memory.journal_used = false;
                let timestamp = memory.timestamp();
                let inner = Arc::clone(&inner);
                tokio::spawn(async move { inner.clear_journal(timestamp).await });
            }
            let adopted = !memory.adopted.is_empty();
            drop(memory);
            if adopted && result.is_ok() {
                inner.clear_up();
            }
            result
        })
    }

    fn sessions(&self) -> StoreFuture<Vec<StoredSession>> {
        let inner = Arc::clone(&self.inner);
        self.run(async move { inner.sessions().await })
    }

    fn retained(&self) -> StoreFuture<Vec<(Arc<Message>, u64)>> {
        let inner = Arc::clone(&self.inner);
        self.run(async move { read::retained(&inner.db).await })
    }

    fn wills(&self) -> StoreFuture<Vec<StoredWill>> {
        let inner = Arc::clone(&self.inner);
        self.run(async move {
            let own = read::wills(&inner.db, inner.incarnation.number).await?;
            let mut wills = inner.wills.clone();
            wills.extend(own.into_iter().map(|(_, will)| will));
            wills.sort_by_key(|will| will.connection);
            Ok(wills)
        })
    }

    fn read_queue(
        &self,
        id: SessionId,
        from: u64,
        limit: usize,
        max_bytes: usize,
    ) -> StoreFuture<Vec<QueueEntry>> {
        let inner = Arc::clone(&self.inner);
        self.run(async move { inner.queue(id, from, limit, max_bytes).await })
    }

    fn lanes(&self) -> StoreFuture<Lanes> {
        let lanes = self.inner.lanes();
        Box::pin(async move { Ok(lanes) })
    }

    fn read_outbox(
        &self,
        lane: u16,
        from: u64,
        limit: usize,
        max_bytes: usize,
    ) -> StoreFuture<Vec<LogRecord>> {
        let inner = Arc::clone(&self.inner);
        self.run(async move {
            let (extents, key) = {
                let mut memory = inner.memory.lock();
                let found = memory.lane(lane);
                (found.extents.clone(), found.home.map_or(lane, |(_, key)| key))
            };
            let page = OutboxPage { lane, key, from, limit, max_bytes };
            read::outbox(&inner.db, &extents, page).await
        })
    }

    fn dead_letters(
        &self,
        from: DeadId,
        limit: usize,
        max_bytes: usize,
    ) -> StoreFuture<Vec<DeadLetter>> {
        let inner = Arc::clone(&self.inner);
        self.run(async move {
            let incarnation = inner.incarnation.number;
            dead::page(&inner.db, incarnation, from, limit, max_bytes).await
        })
    }

    fn describe(&self) -> String {
        format!(
            "cassandra, incarnation {}; {}",
            self.inner.incarnation.number,
            self.inner.db.describe()
        )
    }
}
