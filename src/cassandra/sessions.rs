//! Reading sessions: all of the keyspace, or those with certain numbers.
//!
//! Bounds: [`PARALLEL`] reads at once, each of one partition, of at most [`IDS`] sessions where
//! these are named.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ahash::AHashMap;
use cdrs_tokio::types::value::Value;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use hydrant_actors::ports::{SessionId, StoreError, StoredSession, StoredSubscription};
use hydrant_protocol::session::RangeSet;
use hydrant_protocol::{PacketId, QoS};

use super::columns::{SHARDS, decode_receipts, int, longs, owed, session_shard};
use super::db::{Bound, Db, Row};
use super::memory::Memory;
use super::queue::{Base, BucketState};
use super::read::{self, PARALLEL, senseless};
use super::statements::Statement as S;

/// Sessions asked for in one read.
const IDS: usize = 100;

/// Which sessions are read.
#[derive(Debug, Clone, Copy)]
pub(super) enum Which<'a> {
    All,
    These(&'a [SessionId]),
}

/// What stands in Cassandra about sessions.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    pub(super) sessions: BTreeMap<SessionId, StoredSession>,
    /// Buckets of queues, with their states where something in them was delivered or sent.
    pub(super) buckets: Vec<(SessionId, u64, Option<BucketState>)>,
    pub(super) bases: AHashMap<SessionId, Base>,
    /// The write timestamps of their records.
    pub(super) written: AHashMap<SessionId, u64>,
}

/// Reads sessions, without what is in their queues.
pub(super) async fn load(db: &Db, which: Which<'_>) -> Result<Loaded, StoreError> {
    let mut loaded = Loaded::default();
    for row in rows(db, which, [S::Sessions, S::SessionsIn]).await? {
        let id = row.u64("id")?;
        let Some(client_id) = row.optional_text("client_id")? else {
            // Only its receipts are there: what a write that was cut short left of a session.
            continue;
        };
        let receipts = decode_receipts(&row.optional_blob("receipts")?.unwrap_or_default());
        let session = StoredSession {
            id,
            client_id: client_id.into(),
            epoch: row.u64("epoch")?,
            disconnected_ms: u64::try_from(row.i64("disconnected_ms")?).ok(),
            subscriptions: Vec::new(),
            receipts: receipts.into_iter().filter_map(PacketId::new).collect(),
            queued: 0,
            queued_bytes: 0,
            last_sequence: 0,
            left: RangeSet::default(),
        };
        let base = (row.optional_i64("base_stamp")?, row.optional_i64("base_sequence")?);
        if let (Some(timestamp), Some(sequence)) = base {
            let [timestamp, sequence] = [timestamp, sequence].map(i64::cast_unsigned);
            loaded.bases.insert(id, Base { timestamp, sequence });
        }
        loaded.written.insert(id, row.u64("written")?);
        loaded.sessions.insert(id, session);
    }
    for row in rows(db, which, [S::Subscriptions, S::SubscriptionsIn]).await? {
        let qos = u8::try_from(row.i32("qos")?).ok().and_then(QoS::from_bits);
        let qos = qos.ok_or_else(|| senseless("the QoS of a subscription"))?;
        if let Some(session) = loaded.sessions.get_mut(&row.u64("id")?) {
            let (filter, owes) = (row.text("filter")?.into(), owed(row.optional_text("owes")?));
            session.subscriptions.push(StoredSubscription { filter, qos, owes });
        }
    }
    for row in rows(db, which, [S::QueueBuckets, S::QueueBucketsIn]).await? {
        let id = row.u64("id")?;
        if loaded.sessions.contains_key(&id) {
            loaded.buckets.push((id, row.u64("bucket")?, read::state(&row)?));
        }
    }
    Ok(loaded)
}

/// The filters to which these sessions are subscribed with QoS 1-2, each once.
pub(super) async fn wanted(db: &Db, ids: &[SessionId]) -> Result<Vec<Arc<str>>, StoreError> {
    let mut filters = BTreeSet::new();
    for row in rows(db, Which::These(ids), [S::Subscriptions, S::SubscriptionsIn]).await? {
        if row.i32("qos")? > 0 {
            filters.insert(Arc::from(row.text("filter")?));
        }
    }
    Ok(filters.into_iter().collect())
}

/// The rows of one of two statements: of every partition, or of those sessions.
async fn rows(db: &Db, which: Which<'_>, [all, these]: [S; 2]) -> Result<Vec<Row>, StoreError> {
    let values: Vec<Vec<Value>> = match which {
        Which::All => (0..SHARDS).map(|shard| vec![int(shard)]).collect(),
        Which::These(ids) => {
            let mut shards: BTreeMap<i32, Vec<SessionId>> = BTreeMap::new();
            for id in ids {
                shards.entry(session_shard(*id)).or_default().push(*id);
            }
            let chunks = shards
                .iter()
                .flat_map(|(shard, ids)| ids.chunks(IDS).map(|ids| vec![int(*shard), longs(ids)]));
            chunks.collect()
        }
    };
    let statement = if matches!(which, Which::All) { all } else { these };
    let reads = values.into_iter().map(|values| db.rows(Bound { statement, values }));
    let found: Vec<Vec<Row>> = stream::iter(reads).buffer_unordered(PARALLEL).try_collect().await?;
    Ok(found.into_iter().flatten().collect())
}

/// Counts what is in their queues.
pub(super) async fn count(db: &Db, loaded: &mut Loaded) -> Result<(), StoreError> {
    let bases = &loaded.bases;
    let loads = loaded.buckets.iter().map(|(id, bucket, state)| async move {
        let base = bases.get(id).copied();
        let load = read::queue_load(db, (*id, *bucket), state.as_ref(), base).await?;
        Ok::<_, StoreError>((*id, *bucket, load))
    });
    let mut loads: Vec<_> =
        stream::iter(loads.collect::<Vec<_>>()).buffer_unordered(PARALLEL).try_collect().await?;
    loads.sort_unstable_by_key(|(id, bucket, _)| (*id, *bucket));
    for (id, _, load) in loads {
        if let Some(session) = loaded.sessions.get_mut(&id) {
            session.queued += load.queued;
            session.queued_bytes += load.bytes;
            session.last_sequence = session.last_sequence.max(load.last);
            session.left.append_from(&load.left, 0);
        }
    }
    Ok(())
}

impl Loaded {
    /// Receipts and the state of queues are remembered, so that they are overwritten with what they
    /// were.
    pub(super) fn remember(&self, memory: &mut Memory) {
        for (id, bucket, state) in &self.buckets {
            if let Some(state) = state {
                let queue = memory.queues.entry(*id).or_default();
                queue.buckets.insert(*bucket, state.clone());
            }
        }
        for (id, session) in &self.sessions {
            if !session.receipts.is_empty() {
                let receipts = session.receipts.iter().map(|id| id.get()).collect();
                memory.receipts.insert(*id, receipts);
            }
        }
        memory.bases.extend(&self.bases);
    }
}
