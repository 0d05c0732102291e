//! What an incarnation does before it writes: it redoes what a dead one left half done, and learns
//! where its lanes, queues and receipts stand.
//!
//! Order: seal, then the journal, then everything else is read; so nothing that is read here is
//! still being changed by the dead.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::stream::{self, StreamExt, TryStreamExt};
use hydrant_actors::ports::{StoreError, StoredWill};

use super::db::{Bound, Db};
use super::incarnation::{Incarnation, Predecessor};
use super::journal;
use super::memory::{Extent, JOURNAL_SLOTS, Lane, Memory};
use super::plan::{OUTBOX_BUCKET, WILL_SHARDS, int, long};
use super::read::{self, PARALLEL};
use super::statements::Statement;
use crate::rows::damaged;

/// Buckets at the end of a lane in which a hole may stand: batches that were under way together.
/// More than 16 batches of 4096 operations fill.
const UNSURE_BUCKETS: usize = 512;

/// Reads what is there, as the successor of `dead`, oldest first. Also the wills they left.
pub(super) async fn recover(
    db: &Db,
    me: &Incarnation,
    dead: &[Predecessor],
) -> Result<(Memory, Vec<StoredWill>), StoreError> {
    let mut memory = Memory::new(me.number);
    for predecessor in dead {
        redo(db, predecessor.number).await?;
    }
    let mut wills = BTreeMap::new();
    for predecessor in dead {
        for will in read::wills(db, predecessor.number).await? {
            let of = memory.wills.entry(will.client_id.clone()).or_default();
            of.push(predecessor.number);
            wills.insert(will.client_id.clone(), will);
        }
    }
    let mut lanes: BTreeMap<u16, Lane> = BTreeMap::new();
    let mut drained = Vec::new();
    for predecessor in dead {
        if !lanes_of(db, &mut lanes, predecessor).await? {
            drained.push(predecessor.number);
        }
    }
    for (number, mut lane) in lanes {
        lane.dropped = lane.cursor / OUTBOX_BUCKET;
        memory.found(number, lane);
    }
    load_sessions(db, &mut memory).await?;
    let with_wills: Vec<u64> = memory.wills.values().flatten().copied().collect();
    for number in drained {
        if !with_wills.contains(&number) {
            forget(db, me, &mut memory, number).await?;
        }
    }
    Ok((memory, wills.into_values().collect()))
}

/// Everything that an incarnation had in its journal, again.
async fn redo(db: &Db, number: u64) -> Result<(), StoreError> {
    for packed in read::journal(db, number, JOURNAL_SLOTS).await? {
        let bounds = journal::unpack(&packed).map_err(damaged)?;
        let writes = bounds.into_iter().map(|bound| db.write(bound));
        stream::iter(writes).buffer_unordered(PARALLEL).try_collect::<()>().await?;
    }
    Ok(())
}

/// Adds an incarnation's positions to the lanes. True: some are not acknowledged yet.
async fn lanes_of(
    db: &Db,
    lanes: &mut BTreeMap<u16, Lane>,
    predecessor: &Predecessor,
) -> Result<bool, StoreError> {
    let number = predecessor.number;
    let cursors = read::cursors(db, number).await?;
    for (lane, cursor) in &cursors {
        let lane = lanes.entry(*lane).or_default();
        lane.cursor = lane.cursor.max(*cursor);
        lane.end = lane.end.max(*cursor);
    }
    let mut more = false;
    for lane_number in cursors.into_keys().collect::<BTreeSet<_>>() {
        let buckets = read::outbox_buckets(db, number, lane_number).await?;
        if buckets.is_empty() {
            continue;
        }
        let lane = lanes.entry(lane_number).or_default();
        let Some(found) = extent(db, (number, lane_number), lane.end, &buckets).await? else {
            continue;
        };
        // A cursor that was lost with a bucket that was dropped before it was written.
        if found.start > lane.end {
            lane.cursor = lane.cursor.max(found.start);
        }
        lane.extents.push(Extent { incarnation: number, start: found.start, end: found.end });
        lane.end = lane.end.max(found.end);
        lane.cursor = lane.cursor.max(lane.extents[0].start).min(lane.end);
        if found.end > lane.cursor {
            more = true;
            let missing = found.end - lane.cursor.max(found.start);
            lane.bytes += found.bytes * missing / (found.end - found.start).max(1);
        }
    }
    Ok(more)
}

struct Found {
    start: u64,
    end: u64,
    bytes: u64,
}

/// From where to where an incarnation's positions of a lane reach without a hole. What stands
/// behind a hole was never acknowledged: StorageActor answers batches in their order.
async fn extent(
    db: &Db,
    place: (u64, u16),
    end_before: u64,
    buckets: &[u64],
) -> Result<Option<Found>, StoreError> {
    let gap = buckets.windows(2).position(|pair| pair[1] != pair[0] + 1);
    let whole = &buckets[..gap.map_or(buckets.len(), |at| at + 1)];
    let sure = whole.len().saturating_sub(UNSURE_BUCKETS);
    let mut reads = Vec::new();
    for (at, bucket) in whole.iter().enumerate() {
        if at == 0 || at >= sure {
            reads.push(read::outbox_counts(db, place, *bucket));
        }
    }
    let counts: Vec<Vec<(u64, u64, u64)>> =
        stream::iter(reads).buffered(PARALLEL).try_collect().await?;
    let Some(start) = counts.iter().flatten().map(|(position, ..)| *position).next() else {
        return Ok(None);
    };
    // The first bucket may be half full of what the incarnation before wrote.
    let start = start.max(if start <= end_before { end_before.min(start) } else { start });
    let mut end = if sure > 1 { whole[sure] * OUTBOX_BUCKET } else { start };
    let (mut bytes, mut counted) = (0, 0);
    for (position, count, cost) in counts.into_iter().flatten() {
        (bytes, counted) = (bytes + cost, counted + count);
        if position <= end {
            end = end.max(position + count);
        }
    }
    let bytes = bytes * (end - start) / counted.max(1);
    Ok(Some(Found { start, end, bytes }))
}

/// Receipts and the state of queues, so that they are overwritten with what they were.
async fn load_sessions(db: &Db, memory: &mut Memory) -> Result<(), StoreError> {
    for (id, bucket, state) in read::queue_buckets(db).await? {
        if let Some(state) = state {
            memory.queues.entry(id).or_default().buckets.insert(bucket, state);
        }
    }
    for (id, session) in read::sessions(db).await? {
        if !session.receipts.is_empty() {
            let receipts = session.receipts.iter().map(|id| id.get()).collect();
            memory.receipts.insert(id, receipts);
        }
    }
    Ok(())
}

/// A predecessor of whom nothing is left to do: its rows go, after this incarnation's own cursors
/// say where the lanes stand.
async fn forget(
    db: &Db,
    me: &Incarnation,
    memory: &mut Memory,
    number: u64,
) -> Result<(), StoreError> {
    let cursors: Vec<(u16, u64)> =
        memory.lanes().iter().map(|(lane, found)| (*lane, found.cursor)).collect();
    let mut statements = Vec::new();
    for (lane, cursor) in cursors {
        let values = vec![long(me.number), int(lane.into()), long(cursor), long(cursor)];
        statements.push((Statement::MoveCursor, values));
    }
    write_all(db, statements).await?;
    let stamp = memory.stamp();
    let mut statements = vec![(Statement::DeleteCursors, vec![long(stamp), long(number)])];
    for shard in 0..WILL_SHARDS {
        statements.push((Statement::DeleteWills, vec![long(stamp), long(number), int(shard)]));
    }
    for slot in 0..JOURNAL_SLOTS {
        statements.push((Statement::DeleteJournal, vec![long(stamp), long(number), int(slot)]));
    }
    for (lane, found) in memory.lanes() {
        let ours = found.extents.iter().filter(|extent| extent.incarnation == number);
        for extent in ours {
            for bucket in extent.start / OUTBOX_BUCKET..extent.end.div_ceil(OUTBOX_BUCKET) {
                let values = vec![long(stamp), long(number), int((*lane).into()), long(bucket)];
                statements.push((Statement::DeleteOutbox, values));
            }
            let values =
                vec![long(stamp), long(number), int((*lane).into()), long(i64::MAX as u64)];
            statements.push((Statement::DeleteOutboxBuckets, values));
        }
    }
    write_all(db, statements).await?;
    me.forget(db, number).await
}

async fn write_all(
    db: &Db,
    statements: Vec<(Statement, Vec<cdrs_tokio::types::value::Value>)>,
) -> Result<(), StoreError> {
    let writes =
        statements.into_iter().map(|(statement, values)| db.write(Bound { statement, values }));
    stream::iter(writes).buffer_unordered(PARALLEL).try_collect::<()>().await
}
