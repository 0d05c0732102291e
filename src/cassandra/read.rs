//! Reads: whole tables at start, pages of queues and of the outbox while running.
//!
//! No table is scanned: what is read as a whole stands in a known number of partitions, each of
//! which is asked for by its key. Bounds: [`PARALLEL`] partitions at once; a page by its limits and
//! one bucket.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use cdrs_tokio::types::value::Value;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use hydrant_actors::ports::{
    LogRecord, OutboxPosition, PreparedPublish, QueueEntry, SessionId, StoreError, StoredWill,
};
use hydrant_protocol::Message;
use hydrant_protocol::cluster::message::PublishId;
use hydrant_protocol::session::RangeSet;

use super::columns::{OUTBOX_BUCKET, SHARDS, WILL_SHARDS, bucket_end, int, long, session_shard};
use super::db::{Bound, Db, Pages, Row};
use super::memory::Extent;
use super::queue::{Base, BucketState, EntryState, place};
use super::statements::Statement;
use super::wills::Place;
use crate::rows::{RowReader, damaged, decode_message, decode_prepared};

/// Partitions asked for at once.
pub(super) const PARALLEL: usize = 64;
/// Rows of the first page of rows that may be large: 16 of 8 MiB each still are an answer that the
/// protocol allows (256 MiB).
const FIRST_PAGE: i32 = 16;
/// About what later pages carry.
const PAGE_BYTES: usize = 4 << 20;

/// A stored value that makes no sense.
pub(super) fn senseless(what: &str) -> StoreError {
    StoreError::Unusable(format!("{what} in Cassandra is damaged"))
}

/// The rows of a statement for every one of `shards`, each with its shard.
pub(super) async fn all_shards(
    db: &Db,
    statement: Statement,
    shards: i32,
    values: impl Fn(i32) -> Vec<Value>,
) -> Result<Vec<Row>, StoreError> {
    let reads = (0..shards).map(|shard| db.rows(Bound { statement, values: values(shard) }));
    let found: Vec<Vec<Row>> = stream::iter(reads).buffer_unordered(PARALLEL).try_collect().await?;
    Ok(found.into_iter().flatten().collect())
}

/// The state in a row of a queue's directory.
pub(super) fn state(row: &Row) -> Result<Option<BucketState>, StoreError> {
    let decode = |bytes: Vec<u8>| {
        BucketState::decode(&bytes).ok_or_else(|| senseless("the state of a queue"))
    };
    row.optional_blob("state")?.map(decode).transpose()
}

/// What stands in one bucket of a queue.
#[derive(Debug, Default, Clone)]
pub(super) struct QueueLoad {
    pub(super) queued: u64,
    pub(super) bytes: u64,
    pub(super) last: u64,
    pub(super) left: RangeSet,
}

/// Entries of a bucket that are not delivered, without reading them.
pub(super) async fn queue_load(
    db: &Db,
    (id, bucket): (SessionId, u64),
    state: Option<&BucketState>,
    base: Option<Base>,
) -> Result<QueueLoad, StoreError> {
    let values = vec![long(id), long(bucket)];
    let rows = db.rows(Bound { statement: Statement::QueueSizes, values }).await?;
    let mut entries: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    for row in rows {
        let (first, timestamp) = (row.u64("sequence")?, row.u64("stamp")?);
        let costs = row.blob("costs")?;
        for (sequence, cost) in (first..).zip(costs.chunks_exact(4)) {
            let cost = u32::from_be_bytes([cost[0], cost[1], cost[2], cost[3]]);
            if base.is_some_and(|base| base.hides(sequence, timestamp)) {
                continue;
            }
            let known = entries.entry(sequence).or_default();
            if timestamp > known.0 {
                *known = (timestamp, u64::from(cost));
            }
        }
    }
    let mut load = QueueLoad::default();
    for (sequence, (_, cost)) in entries {
        load.last = load.last.max(sequence);
        let delivered = state.is_some_and(|state| state.get(place(sequence).1) == EntryState::Done);
        if !delivered {
            load.queued += 1;
            load.bytes += cost;
            load.left.push(sequence..sequence + 1);
        }
    }
    Ok(load)
}

/// The buckets of a session's queue from one on, in order, with their stored states.
pub(super) async fn buckets_of(
    db: &Db,
    id: SessionId,
    from: u64,
) -> Result<BTreeMap<u64, Option<BucketState>>, StoreError> {
    let values = vec![int(session_shard(id)), long(id), long(from)];
    let rows = db.rows(Bound { statement: Statement::QueueBucketsOf, values }).await?;
    rows.iter().map(|row| Ok((row.u64("bucket")?, state(row)?))).collect()
}

/// Rows of any size, page by page: as many a page as make about [`PAGE_BYTES`].
struct PackedRows<'a> {
    pages: Pages<'a>,
    ready: VecDeque<Packed>,
}

/// A row of a queue or the outbox.
struct Packed {
    first: u64,
    bytes: Vec<u8>,
    /// Of a queue's row.
    timestamp: u64,
}

impl<'a> PackedRows<'a> {
    fn new(db: &'a Db, statement: Statement, values: Vec<Value>) -> Self {
        let pages = db.pages(Bound { statement, values }, FIRST_PAGE);
        Self { pages, ready: VecDeque::new() }
    }

    /// The next row, and where the one behind it begins.
    async fn next(
        &mut self,
        [first, bytes]: [&str; 2],
    ) -> Result<Option<(Packed, u64)>, StoreError> {
        while self.ready.len() < 2 {
            let Some(page) = self.pages.next().await? else { break };
            let mut size = 0;
            for row in &page {
                let timestamp = row.optional_i64("stamp")?.map_or(0, i64::cast_unsigned);
                let row = Packed { first: row.u64(first)?, bytes: row.blob(bytes)?, timestamp };
                size += row.bytes.len();
                self.ready.push_back(row);
            }
            let rows = PAGE_BYTES * page.len().max(1) / size.max(1);
            self.pages.set_size(i32::try_from(rows.min(1000)).unwrap_or(1000).max(FIRST_PAGE));
        }
        let Some(row) = self.ready.pop_front() else { return Ok(None) };
        Ok(Some((row, self.ready.front().map_or(u64::MAX, |row| row.first))))
    }
}

/// Entries of a bucket from a sequence on, until `take` says that it is enough. Of two rows that
/// hold one sequence, the later incarnation's counts: what a dead one wrote may come late (a
/// mutation that waited, a hint), and is then nothing but a message that nobody was told of.
pub(super) async fn queue_bucket(
    db: &Db,
    (id, bucket): (SessionId, u64),
    base: Option<Base>,
    from: u64,
    mut take: impl FnMut(QueueEntry) -> bool,
) -> Result<(), StoreError> {
    let mut rows = PackedRows::new(db, Statement::Queue, vec![long(id), long(bucket)]);
    let mut settling: BTreeMap<u64, (u64, Vec<u8>)> = BTreeMap::new();
    loop {
        let row = rows.next(["sequence", "messages"]).await?;
        let settled = match &row {
            Some((row, _)) => {
                let rest = settling.split_off(&row.first);
                std::mem::replace(&mut settling, rest)
            }
            None => std::mem::take(&mut settling),
        };
        for (sequence, (_, bytes)) in settled {
            let (message, qos, retain) = decode_message(&bytes).map_err(damaged)?;
            if !take(QueueEntry { sequence, qos, retain, message, outgoing: None }) {
                return Ok(());
            }
        }
        let Some((row, _)) = row else { return Ok(()) };
        let mut rest = &row.bytes[..];
        for sequence in row.first..bucket_end(bucket) {
            let Some((length, more)) = rest.split_first_chunk::<4>() else { break };
            let length = u32::from_be_bytes(*length) as usize;
            let (bytes, more) =
                more.split_at_checked(length).ok_or_else(|| senseless("a queue entry"))?;
            rest = more;
            let newer =
                settling.get(&sequence).is_none_or(|(timestamp, _)| row.timestamp > *timestamp);
            let hidden = base.is_some_and(|base| base.hides(sequence, row.timestamp));
            if sequence >= from && newer && !hidden {
                settling.insert(sequence, (row.timestamp, bytes.to_vec()));
            }
        }
    }
}

/// Every retained message and its version.
pub(super) async fn retained(db: &Db) -> Result<Vec<(Arc<Message>, u64)>, StoreError> {
    let rows = all_shards(db, Statement::Retained, SHARDS, |shard| vec![int(shard)]).await?;
    rows.iter()
        .map(|row| {
            let message = decode_message(&row.blob("message")?).map_err(damaged)?.0;
            Ok((message, row.u64("version")?))
        })
        .collect()
}

/// The wills that an incarnation left and nobody discharged.
pub(super) async fn wills(
    db: &Db,
    incarnation: u64,
) -> Result<Vec<(Place, StoredWill)>, StoreError> {
    let values = |shard| vec![long(incarnation), int(shard)];
    let rows = all_shards(db, Statement::Wills, WILL_SHARDS, values).await?;
    let mut wills = Vec::new();
    for row in rows {
        if let Some(bytes) = row.optional_blob("will")? {
            let connection = row.optional_i64("connection")?.map(i64::cast_unsigned);
            let (shard, key) = (row.i32("shard")?, row.text("client_id")?);
            let place = Place { incarnation, shard, key };
            let (client_id, connection) = place.holds(row.optional_text("name")?, connection);
            let message = decode_message(&bytes).map_err(damaged)?.0;
            wills.push((place, StoredWill { client_id, connection, message }));
        }
    }
    Ok(wills)
}

/// The QoS 2 publishes that an incarnation had begun and that are not known to be everywhere.
pub(super) async fn prepared_publishes(
    db: &Db,
    incarnation: u64,
) -> Result<Vec<PreparedPublish>, StoreError> {
    let values = vec![long(incarnation)];
    let rows = db.rows(Bound { statement: Statement::PreparedPublishes, values }).await?;
    let mut prepared = Vec::new();
    for row in rows {
        let (lane, number) = (lane_number(&row)?, row.u64("number")?);
        let queued = row.optional_i32("queued")?.is_some();
        if let Some(bytes) = row.optional_blob("publish")? {
            let id = PublishId { incarnation, router: lane, number };
            prepared.push(decode_prepared(id, queued, &bytes).map_err(damaged)?);
        }
    }
    Ok(prepared)
}

/// How far an incarnation's lanes were acknowledged.
pub(super) async fn cursors(db: &Db, incarnation: u64) -> Result<HashMap<u16, u64>, StoreError> {
    let values = vec![long(incarnation)];
    let rows = db.rows(Bound { statement: Statement::Cursors, values }).await?;
    rows.iter().map(|row| Ok((lane_number(row)?, row.u64("position")?))).collect()
}

fn lane_number(row: &Row) -> Result<u16, StoreError> {
    u16::try_from(row.i32("lane")?).map_err(|_| senseless("a lane's number"))
}

/// The buckets that an incarnation wrote of a lane, in order.
pub(super) async fn outbox_buckets(
    db: &Db,
    incarnation: u64,
    lane: u16,
) -> Result<Vec<u64>, StoreError> {
    let values = vec![long(incarnation), int(lane.into())];
    let rows = db.rows(Bound { statement: Statement::OutboxBuckets, values }).await?;
    rows.iter().map(|row| row.u64("bucket")).collect()
}

/// The rows of a bucket of the outbox, without the records: position, count, bytes.
pub(super) async fn outbox_counts(
    db: &Db,
    (incarnation, lane): (u64, u16),
    bucket: u64,
) -> Result<Vec<(u64, u64, u64)>, StoreError> {
    let values = vec![long(incarnation), int(lane.into()), long(bucket)];
    let rows = db.rows(Bound { statement: Statement::OutboxCounts, values }).await?;
    rows.iter()
        .map(|row| {
            let count = u64::try_from(row.i32("count")?).unwrap_or(0);
            Ok((row.u64("position")?, count, row.u64("bytes")?))
        })
        .collect()
}

/// A page of a lane.
#[derive(Debug, Clone, Copy)]
pub(super) struct OutboxPage {
    pub(super) lane: u16,
    /// Its number in the partitions.
    pub(super) key: u16,
    pub(super) from: u64,
    pub(super) limit: usize,
    pub(super) max_bytes: usize,
}

/// Records of a lane, in order, up to the first hole.
pub(super) async fn outbox(
    db: &Db,
    extents: &[Extent],
    page: OutboxPage,
) -> Result<Vec<LogRecord>, StoreError> {
    let mut records: Vec<LogRecord> = Vec::new();
    let (mut next, mut bytes) = (page.from, 0);
    while let Some(extent) = extents.iter().find(|e| e.start <= next && next < e.end) {
        let bucket = next / OUTBOX_BUCKET;
        let values = vec![long(extent.incarnation), int(page.key.into()), long(bucket)];
        let mut rows = PackedRows::new(db, Statement::Outbox, values);
        let before = next;
        while let Some((Packed { first, bytes: packed, .. }, behind)) =
            rows.next(["position", "records"]).await?
        {
            if first > next {
                break;
            }
            // A row reaches at most to the next one: see crate::rows.
            let until = behind.min(extent.end);
            let mut reader = RowReader::new(&packed).map_err(damaged)?;
            let last = (first + u64::from(reader.header.count)).min(until);
            let topic: Arc<str> = Arc::from("");
            for position in first..last {
                if position < next {
                    reader.skip().map_err(damaged)?;
                    continue;
                }
                let mut record = reader.next(&topic).map_err(damaged)?;
                bytes += record.cost();
                if records.len() >= page.limit || (!records.is_empty() && bytes > page.max_bytes) {
                    return Ok(records);
                }
                record.outbox = Some(OutboxPosition { lane: page.lane, position });
                records.push(record);
                next = position + 1;
            }
        }
        let whole = next == (bucket + 1) * OUTBOX_BUCKET || next == extent.end;
        if next == before || !whole || records.len() >= page.limit {
            break;
        }
    }
    Ok(records)
}

/// The rows of one slot of an incarnation's journal, in order.
pub(super) async fn journal(
    db: &Db,
    incarnation: u64,
    slot: i32,
) -> Result<Vec<Vec<u8>>, StoreError> {
    let values = vec![long(incarnation), int(slot)];
    let mut pages = db.pages(Bound { statement: Statement::Journal, values }, FIRST_PAGE);
    let mut rows = Vec::new();
    while let Some(page) = pages.next().await? {
        for row in page {
            rows.push(row.blob("statements")?);
        }
    }
    Ok(rows)
}
