//! [`SessionStore`] on Cassandra.
//!
//! Writes are planned in the order of the calls, on the caller's thread, and done in any order by
//! the store's own runtime: write timestamps decide which of two writes to a cell is the later one. A write
//! is answered `Ok` only while this incarnation's lease runs.
//! Bounds: requests under way by `cassandra.max_requests`; what waits for them by
//! `storage.max_in_flight` batches.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable as _};
use futures_util::future::{try_join, try_join_all};
use futures_util::stream::{FuturesUnordered, TryStreamExt};
use hydrant_actors::ports::{
    DeadId, DeadLetter, LaneState, Lanes, LogRecord, QueueEntry, SessionId, SessionStore,
    StoreError, StoreFuture, StoreOp, StoredSession, StoredWill,
};
use hydrant_actors::say;
use hydrant_protocol::Message;
use parking_lot::Mutex;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use super::columns::{held_delete, long, text};
use super::db::{Applied, Bound, CassandraError, Db};
use super::incarnation::{ALONE, Incarnation, Predecessor};
use super::inner::{Continued, Inner};
use super::memory::Memory;
use super::options::CassandraOptions;
use super::order::Place;
use super::owned_sessions::{Holding, OwnedSessions};
use super::plan::{plan, receipts};
use super::planned::Plan;
use super::queue::{BUCKET, EntryState, place};
use super::read::{self, OutboxPage};
use super::sessions::{self, Which};
use super::statements::Statement as S;
use super::{dead, holder, orphaned, recover, schema};

/// How often a start begins again that Cassandra did not answer.
const AGAIN: usize = 4;

/// See the module.
pub struct CassandraStore {
    pub(super) inner: Arc<Inner>,
    /// Carries every connection to Cassandra; `None` once dropped.
    runtime: Option<Runtime>,
}

/// Why an incarnation has not begun.
#[derive(Debug, Clone)]
enum NotBegun {
    /// Cassandra did not answer while it was read.
    Unanswered(String),
    Refused(CassandraError),
}

impl From<CassandraError> for NotBegun {
    fn from(error: CassandraError) -> Self {
        Self::Refused(error)
    }
}

impl From<NotBegun> for CassandraError {
    fn from(error: NotBegun) -> Self {
        match error {
            NotBegun::Unanswered(why) => unread(&why),
            NotBegun::Refused(error) => error,
        }
    }
}

fn unread(why: &str) -> CassandraError {
    CassandraError(format!("what stands in Cassandra cannot be read: {why}"))
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
    async fn open(
        options: &CassandraOptions,
        node_id: &str,
        instance: &str,
    ) -> Result<Self, CassandraError> {
        let db = Db::connect(options).await?;
        schema::ensure(&db, options).await?;
        db.prepare().await?;
        // As the next start of this node would do; a Cassandra with too much to do need not end this one.
        let again = ExponentialBuilder::new().with_min_delay(Duration::from_secs(1));
        let begins = || Self::begin(&db, options, node_id, instance);
        begins
            .retry(again.with_max_times(AGAIN))
            .when(|error| matches!(error, NotBegun::Unanswered(_)))
            .notify(|error, pause| {
                let error = CassandraError::from(error.clone());
                say::warn!("{error}; this start tries it again in {pause:?}");
            })
            .await
            .map_err(CassandraError::from)
    }

    /// Begins an incarnation, and takes over what dead ones left.
    async fn begin(
        db: &Db,
        options: &CassandraOptions,
        node_id: &str,
        instance: &str,
    ) -> Result<Self, NotBegun> {
        let (lanes, lease) = (options.outbox_lanes, options.lease);
        let incarnation =
            Incarnation::begin(db, node_id, instance, lanes, lease, options.shared).await?;
        incarnation.spawn_renewal(db.clone());
        let dead = if options.shared {
            incarnation.claim_shared(db).await?
        } else {
            incarnation.claim_alone(db).await?
        };
        let (memory, wills, continued) = match Self::succeed(db, &incarnation, dead, lanes).await {
            Ok(recovered) => recovered,
            Err(error) => {
                incarnation.release(db).await;
                return Err(match error {
                    StoreError::Unavailable(why) => NotBegun::Unanswered(why),
                    StoreError::Unusable(why) => NotBegun::Refused(unread(&why)),
                });
            }
        };
        let (memory, sealing) = (Mutex::new(memory), tokio::sync::Mutex::new(()));
        let db = db.clone();
        Ok(Self { db, incarnation, continued, memory, sealing, first_lane: lanes, wills })
    }

    /// Goes on where the dead ended.
    async fn succeed(
        db: &Db,
        incarnation: &Incarnation,
        mut dead: Vec<Predecessor>,
        first_lane: u16,
    ) -> Result<(Memory, Vec<StoredWill>, Continued), StoreError> {
        let highest = dead.iter().map(|one| one.timestamps).max().unwrap_or_default();
        incarnation.raise(db, highest).await?;
        if incarnation.lineage() != ALONE {
            incarnation.join_lineage(db, &dead).await?;
            orphaned::convert(db, incarnation, &mut dead).await?;
        }
        // First what they were about to write: it may be of these.
        let timestamps = incarnation.timestamps();
        recover::redo_all(db, &timestamps, &dead).await?;
        dead::take_over(db, incarnation.number, &timestamps, &dead, &dead::Heads::default())
            .await?;
        let (batches, highest) = recover::peer_batches(db, &dead).await?;
        let continued = Continued {
            incarnations: dead.iter().map(Predecessor::sealed).collect(),
            batches,
            prepared: recover::prepared_publishes(db, &dead).await?,
        };
        let prepared = &continued.prepared;
        let (memory, wills) =
            recover::recover(db, incarnation, &dead, first_lane, prepared, highest).await?;
        Ok((memory, wills, continued))
    }

    /// Does what a plan says, once those are done that it follows.
    async fn write(&self, plan: &mut Plan, place: &mut Place) -> Result<(), StoreError> {
        self.may_begin()?;
        for (id, timestamp) in std::mem::take(&mut plan.deleted) {
            for bucket in read::buckets_of(&self.db, id, 0).await?.into_keys() {
                let values = vec![long(timestamp), long(id), long(bucket)];
                plan.single.push(Bound { statement: S::DeleteQueue, values });
            }
        }
        let index = plan.epochs.iter().filter_map(|epoch| epoch.index.clone());
        let index = try_join_all(index.map(|bound| self.db.write(bound)));
        try_join(try_join_all(plan.epochs.iter().map(|epoch| self.raise(epoch))), index).await?;
        if !place.comes().await {
            let why = "a write that this one has to follow was not done";
            return Err(StoreError::Unavailable(why.to_owned()));
        }
        if place.in_turn {
            self.finish_half_done().await?;
        }
        receipts::bind(&self.memory.lock(), plan);
        if plan.atomic {
            plan.journaled = Some(self.journal(plan).await?);
        }
        let writes = FuturesUnordered::new();
        for bound in std::mem::take(&mut plan.single) {
            writes.push(self.request(vec![bound]));
        }
        for batch in std::mem::take(&mut plan.batches) {
            writes.push(self.request(batch));
        }
        let prepared = std::mem::take(&mut plan.prepared);
        let prepared = async {
            for batch in prepared {
                self.request(batch).await?;
            }
            Ok(())
        };
        try_join(writes.try_collect::<()>(), prepared).await?;
        for stage in std::mem::take(&mut plan.then) {
            try_join_all(stage.into_iter().map(|bound| self.db.write(bound))).await?;
        }
        let last = std::mem::take(&mut plan.last);
        try_join_all(last.into_iter().map(|batch| self.request(batch))).await?;
        for (client_id, id, timestamp) in &plan.ended {
            self.may_begin()?;
            let values = vec![text(client_id), long(*id), long(*timestamp)];
            let dropped = self.db.conditional(Bound { statement: S::DropHeld, values }).await?;
            if let Applied::No(Some(row)) = dropped
                && row.optional_i64("id")?.map(i64::cast_unsigned) == Some(*id)
            {
                return Err(holder::taken_over(client_id));
            }
            let holding =
                self.memory.lock().owned_sessions.as_ref().and_then(|owned| owned.get(*id));
            if let Some(Holding { lineage, .. }) = holding {
                self.db.write(held_delete(lineage, *id, *timestamp)).await?;
            }
        }
        self.check()
    }

    /// What stands in the journal and failed after that is done first: its receipts belong into
    /// what is written next, and its slot is not needed any more.
    async fn finish_half_done(&self) -> Result<(), StoreError> {
        let Some(half) = self.memory.lock().half_done.take() else { return Ok(()) };
        let slot = half.journaled.unwrap_or_default();
        let redone = recover::redo(&self.db, self.incarnation.number, &[slot]).await;
        let mut memory = self.memory.lock();
        match redone {
            Ok(()) => memory.succeeded(&half),
            Err(_) => memory.half_done = Some(half),
        }
        redone
    }

    async fn request(&self, mut bounds: Vec<Bound>) -> Result<(), StoreError> {
        match (bounds.len(), bounds.pop()) {
            (1, Some(bound)) => self.db.write(bound).await,
            (_, Some(last)) => {
                bounds.push(last);
                self.db.batch(bounds).await
            }
            (_, None) => Ok(()),
        }
    }

    /// Whoever wakes after its lease has ended begins nothing: what it would remove now may be
    /// another's.
    pub(super) fn may_begin(&self) -> Result<(), StoreError> {
        // In tests: frozen just behind this.
        if self.incarnation.is_frozen() { Ok(()) } else { self.check() }
    }

    /// A write that was done after the lease ended may have been overwritten by a successor.
    fn check(&self) -> Result<(), StoreError> {
        if let Some(why) = self.incarnation.lost() {
            return Err(StoreError::Unusable(why));
        }
        if self.incarnation.may_acknowledge() {
            return Ok(());
        }
        Err(StoreError::Unavailable(
            "this node's lease in Cassandra has ended and is not renewed yet".to_owned(),
        ))
    }

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
