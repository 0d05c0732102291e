//! What an incarnation does before it writes: it redoes what a dead one left half done, and learns
//! where its lanes, queues and receipts stand.
//!
//! Order: seal, then the journal, then everything else is read; so nothing that is read here is
//! still being changed by the dead.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use hydrant_actors::ports::{PreparedPublish, StoreError, StoredBatch, StoredWill};
use parking_lot::Mutex;

use super::columns::{HELD_SHARDS, OUTBOX_BUCKET, WILL_SHARDS, int, long};
use super::db::{Bound, Db};
use super::incarnation::{ALONE, Incarnation, Predecessor};
use super::memory::{Adopted, Extent, Lane, Memory};
use super::owned_sessions::OwnedSessions;
use super::read::{self, PARALLEL};
use super::sessions::{self, Which};
use super::statements::Statement;
use super::timestamps::Timestamps;
use super::wills::Place;
use super::{dead, journal, session_index};
use crate::rows::{damaged, decode_publish_ids};

/// Buckets at the end of a lane in which a hole may stand: batches that were under way together.
/// More than 16 batches of 4096 operations fill.
const UNSURE_BUCKETS: usize = 512;

/// Reads what is there, as the successor of `dead`, oldest first. Also the wills they left.
pub(super) async fn recover(
    db: &Db,
    me: &Incarnation,
    dead: &[Predecessor],
    first_lane: u16,
    prepared: &[PreparedPublish],
    batches: Highest,
) -> Result<(Memory, Vec<StoredWill>), StoreError> {
    let mut memory = Memory::new(me.number, me.timestamps());
    memory.prepared.extend(prepared.iter().map(|prepared| prepared.id.incarnation));
    memory.batches = batches;
    let wills = wills(db, dead).await?;
    // Our lanes go on where those of our lineage ended.
    let mut lineages = by_lineage(dead);
    let numbers = lineages.remove(&me.lineage()).unwrap_or_default();
    let timestamp = memory.timestamp();
    let lanes = lanes(db, &numbers, timestamp).await?;
    let holds = |number: &u64| {
        lanes.values().any(|lane| {
            lane.extents.iter().any(|e| e.incarnation == *number && e.end > lane.cursor)
        })
    };
    let drained: Vec<u64> = numbers.iter().copied().filter(|number| !holds(number)).collect();
    for (number, lane) in lanes {
        memory.found(number, lane);
    }
    memory.dead.extend(numbers);
    for (lineage, numbers) in lineages {
        let lanes = self::lanes(db, &numbers, timestamp).await?;
        memory.adopt((lineage, numbers), lanes, first_lane);
    }
    let wills = remember_wills(&mut memory, wills);
    load_sessions(db, me, &mut memory, dead).await?;
    // The first of our lineage keeps its row: sessions are held under its number.
    let is_done = |number: &u64| {
        let prepared = memory.prepared.contains(number) || memory.keeps_batches(*number);
        !memory.wills.has(*number) && !prepared
    };
    let drained: Vec<u64> = drained.into_iter().filter(is_done).collect();
    for number in drained {
        if number == me.lineage() {
            delete_small(db, memory.timestamp(), number).await?;
        } else {
            keep_cursors(db, me, &memory).await?;
            forget(db, me, memory.timestamp(), number).await?;
            memory.dead.remove(&number);
        }
    }
    let memory = Mutex::new(memory);
    clear_up(db, me, &memory).await?;
    Ok((memory.into_inner(), wills))
}

/// What their journals hold is done.
pub(super) async fn redo_all(
    db: &Db,
    timestamps: &Timestamps,
    dead: &[Predecessor],
) -> Result<(), StoreError> {
    for predecessor in dead {
        redo_and_clear(db, timestamps.next(), predecessor.number).await?;
    }
    Ok(())
}

/// What the journal of a dead incarnation holds is done, once.
pub(super) async fn redo_and_clear(db: &Db, timestamp: u64, number: u64) -> Result<(), StoreError> {
    let slots: Vec<i32> = (0..journal::SLOTS).collect();
    redo(db, number, &slots).await?;
    // Never a second time: the tombstones of what came after it do not last for ever.
    let key = |slot| vec![long(timestamp), long(number), int(slot)];
    let clear = slots.into_iter().map(|slot| (Statement::DeleteJournal, key(slot)));
    write_all(db, clear.collect()).await
}

/// The wills that dead incarnations left, each with its place. Only who has sealed them reads them: [`super::wills`].
pub(super) async fn wills(
    db: &Db,
    dead: &[Predecessor],
) -> Result<Vec<(Place, StoredWill)>, StoreError> {
    let mut wills = Vec::new();
    for predecessor in dead {
        wills.extend(read::wills(db, predecessor.number).await?);
    }
    Ok(wills)
}

/// The highest number of the batches that a dead incarnation had stored, by it and the origin.
pub(super) type Highest = BTreeMap<(u64, u64), u64>;

/// Batches of other nodes that dead incarnations had stored. One that several have was sent again for those of its
/// sessions that lacked it.
pub(super) async fn peer_batches(
    db: &Db,
    dead: &[Predecessor],
) -> Result<(Vec<StoredBatch>, Highest), StoreError> {
    let mut batches: BTreeMap<(u64, u64), StoredBatch> = BTreeMap::new();
    let mut highest = Highest::new();
    for predecessor in dead {
        let rows = |statement| {
            let values = vec![long(predecessor.number)];
            db.rows(Bound { statement, values })
        };
        let mut except: BTreeMap<(u64, u64), Vec<Arc<str>>> = BTreeMap::new();
        for row in rows(Statement::PeerBatchExceptions).await? {
            let key = (row.u64("origin")?, row.u64("number")?);
            except.entry(key).or_default().push(row.text("client_id")?.into());
        }
        for row in rows(Statement::PeerBatches).await? {
            let (origin, number) = (row.u64("origin")?, row.u64("number")?);
            // Null before schema version 5.
            let prepared = row.optional_blob("prepared")?;
            let prepared = prepared.map(|bytes| decode_publish_ids(&bytes)).transpose();
            let prepared = prepared.map_err(damaged)?.unwrap_or_default();
            let except = except.remove(&(origin, number)).unwrap_or_default();
            let of = highest.entry((predecessor.number, origin)).or_default();
            *of = number.max(*of);
            match batches.entry((origin, number)) {
                Entry::Occupied(mut known) => {
                    known.get_mut().except.retain(|client| except.contains(client));
                }
                Entry::Vacant(new) => {
                    new.insert(StoredBatch { origin, number, prepared, except });
                }
            }
        }
    }
    Ok((batches.into_values().collect(), highest))
}

/// QoS 2 publishes that dead incarnations had begun, and whose they are.
pub(super) async fn prepared_publishes(
    db: &Db,
    dead: &[Predecessor],
) -> Result<Vec<PreparedPublish>, StoreError> {
    let mut prepared = Vec::new();
    for predecessor in dead {
        prepared.extend(read::prepared_publishes(db, predecessor.number).await?);
    }
    Ok(prepared)
}

/// They are ours from here on, and due: all of a client's, in the order of its connections.
pub(super) fn remember_wills(
    memory: &mut Memory,
    wills: Vec<(Place, StoredWill)>,
) -> Vec<StoredWill> {
    let mut due = Vec::new();
    for (place, will) in wills {
        memory.wills.found(place, &will);
        due.push(will);
    }
    due.sort_by_key(|will| will.connection);
    due
}

/// Dead incarnations that followed each other.
pub(super) fn by_lineage(dead: &[Predecessor]) -> BTreeMap<u64, Vec<u64>> {
    let mut lineages: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for predecessor in dead {
        lineages.entry(predecessor.lineage).or_default().push(predecessor.number);
    }
    lineages
}

/// What stands whole in these slots of an incarnation's journal, again.
pub(super) async fn redo(db: &Db, number: u64, slots: &[i32]) -> Result<(), StoreError> {
    let mut entries = Vec::new();
    for slot in slots {
        let rows = read::journal(db, number, *slot).await?;
        entries.extend(journal::unpack(&rows).map_err(damaged)?);
    }
    entries.sort_unstable_by_key(|(entry, _)| *entry);
    for (_, bounds) in entries {
        let writes = bounds.into_iter().map(|bound| db.write(bound));
        stream::iter(writes).buffer_unordered(PARALLEL).try_collect::<()>().await?;
    }
    Ok(())
}

/// The lanes as these incarnations, oldest first, have left them.
pub(super) async fn lanes(
    db: &Db,
    numbers: &[u64],
    timestamp: u64,
) -> Result<BTreeMap<u16, Lane>, StoreError> {
    let mut lanes: BTreeMap<u16, Lane> = BTreeMap::new();
    let mut wrote = Vec::new();
    for number in numbers {
        // Whoever of them moved it last: a lane goes on where the one before stood.
        for (lane_number, cursor) in read::cursors(db, *number).await? {
            let lane = lanes.entry(lane_number).or_default();
            lane.cursor = lane.cursor.max(cursor);
            wrote.push((*number, lane_number));
        }
    }
    for lane in lanes.values_mut() {
        (lane.durable, lane.end) = (lane.cursor, lane.cursor);
        lane.dropped = lane.cursor / OUTBOX_BUCKET;
    }
    for place in wrote {
        let Some(lane) = lanes.get_mut(&place.1) else { continue };
        let buckets = read::outbox_buckets(db, place.0, place.1).await?;
        let kept = buckets.partition_point(|bucket| *bucket < lane.dropped);
        let (passed, kept) = buckets.split_at(kept);
        drop_buckets(db, place, passed, timestamp).await?;
        if let Some(found) = extent(db, place, lane.end, kept).await? {
            append(lane, place.0, &found);
        }
    }
    Ok(lanes)
}

/// What an incarnation wrote goes behind what those before it wrote. Where they reach beyond its
/// beginning, it is by writes that nobody was told of and that came late: this one began where it
/// saw their end.
fn append(lane: &mut Lane, incarnation: u64, found: &Found) {
    for before in &mut lane.extents {
        before.end = before.end.min(found.start);
    }
    lane.extents.retain(|extent| extent.start < extent.end);
    lane.extents.push(Extent { incarnation, start: found.start, end: found.end });
    // What is missing below the cursor is acknowledged.
    lane.end = found.end.max(lane.cursor);
    let missing = found.end.saturating_sub(lane.cursor.max(found.start));
    let part = u128::from(found.bytes) * u128::from(missing)
        / u128::from((found.end - found.start).max(1));
    lane.bytes += u64::try_from(part).unwrap_or(found.bytes);
}

/// Buckets that the cursor has passed and that nobody has dropped yet.
async fn drop_buckets(
    db: &Db,
    (number, lane): (u64, u16),
    buckets: &[u64],
    timestamp: u64,
) -> Result<(), StoreError> {
    let Some(last) = buckets.last() else { return Ok(()) };
    let key = || vec![long(timestamp), long(number), int(lane.into())];
    let delete = |bucket: &u64| (Statement::DeleteOutbox, [key(), vec![long(*bucket)]].concat());
    write_all(db, buckets.iter().map(delete).collect()).await?;
    // Only now: a bucket that is not in the directory is found by nobody.
    let values = [key(), vec![long(last + 1)]].concat();
    write_all(db, vec![(Statement::DeleteOutboxBuckets, values)]).await
}

#[derive(Debug)]
struct Found {
    start: u64,
    end: u64,
    bytes: u64,
}

/// From where to where an incarnation's positions of a lane reach without a hole. It began at
/// `expected` or before. What stands behind a hole was never acknowledged, because StorageActor
/// answers batches in their order.
async fn extent(
    db: &Db,
    place: (u64, u16),
    expected: u64,
    buckets: &[u64],
) -> Result<Option<Found>, StoreError> {
    let gap = buckets.windows(2).position(|pair| pair[1] != pair[0] + 1);
    let whole = &buckets[..gap.map_or(buckets.len(), |at| at + 1)];
    let sure = whole.len().saturating_sub(UNSURE_BUCKETS);
    let reads = whole.iter().enumerate().filter(|(at, _)| *at == 0 || *at >= sure);
    let reads: Vec<_> = reads.map(|(_, bucket)| read::outbox_counts(db, place, *bucket)).collect();
    let counts: Vec<Vec<(u64, u64, u64)>> =
        stream::iter(reads).buffered(PARALLEL).try_collect().await?;
    let sure = if sure > 0 { Some(whole[sure] * OUTBOX_BUCKET) } else { None };
    Ok(reach(&counts.concat(), expected, sure))
}

/// Rows are position, count and bytes, in order; up to `sure`, where there is such a position,
/// there is no hole.
fn reach(rows: &[(u64, u64, u64)], expected: u64, sure: Option<u64>) -> Option<Found> {
    let start = rows.first().map(|(position, ..)| *position)?;
    if start > expected {
        return None;
    }
    let mut end = sure.unwrap_or(start).max(start);
    let (mut bytes, mut counted) = (0, 0);
    for (position, count, cost) in rows {
        (bytes, counted) = (bytes + cost, counted + count);
        if *position <= end {
            end = end.max(position + count);
        }
    }
    let bytes = u128::from(bytes) * u128::from(end - start) / u128::from(counted.max(1));
    Some(Found { start, end, bytes: u64::try_from(bytes).unwrap_or(u64::MAX) })
}

/// Receipts and the state of queues, so that they are overwritten with what they were; in a keyspace
/// that is shared also which sessions are ours.
async fn load_sessions(
    db: &Db,
    me: &Incarnation,
    memory: &mut Memory,
    dead: &[Predecessor],
) -> Result<(), StoreError> {
    let loaded = if me.lineage() == ALONE {
        sessions::load(db, Which::All).await?
    } else {
        let lineages: BTreeSet<u64> =
            dead.iter().map(|one| one.lineage).chain([me.lineage()]).collect();
        let mut entries = session_index::held(db, &me.timestamps(), &lineages).await?;
        let loaded = session_index::load(db, &me.timestamps(), &mut entries).await?;
        let mut owned = OwnedSessions::new(me.lineage());
        entries.iter().for_each(|entry| owned.admit(entry.id, entry.lineage));
        memory.owned_sessions = Some(owned);
        loaded
    };
    loaded.remember(memory);
    Ok(())
}

/// This incarnation's own cursors say where the lanes stand that go on here.
async fn keep_cursors(db: &Db, me: &Incarnation, memory: &Memory) -> Result<(), StoreError> {
    let own = memory.lanes().iter().filter(|(_, lane)| lane.home.is_none());
    let statements = own.map(|(number, lane)| {
        let position = long(lane.cursor);
        let values = vec![long(me.number), int((*number).into()), position.clone(), position];
        (Statement::MoveCursor, values)
    });
    write_all(db, statements.collect()).await
}

/// A dead incarnation of whom nothing is left to do: its rows go.
async fn forget(db: &Db, me: &Incarnation, timestamp: u64, number: u64) -> Result<(), StoreError> {
    for lane in read::cursors(db, number).await?.into_keys() {
        let buckets = read::outbox_buckets(db, number, lane).await?;
        drop_buckets(db, (number, lane), &buckets, timestamp).await?;
    }
    delete_small(db, timestamp, number).await?;
    // By them the lanes are found, so they go last.
    write_all(db, vec![(Statement::DeleteCursors, vec![long(timestamp), long(number)])]).await?;
    me.forget(db, number).await
}

/// Its wills, its prepared publishes, and the batches of other nodes that it had stored.
async fn delete_small(db: &Db, timestamp: u64, number: u64) -> Result<(), StoreError> {
    let wills = |shard| (Statement::DeleteWills, vec![long(timestamp), long(number), int(shard)]);
    let batches = (Statement::DropPeerBatches, vec![long(timestamp), long(number)]);
    let exceptions = (Statement::DropExceptions, vec![long(timestamp), long(number)]);
    let prepared = (Statement::DropPrepared, vec![long(timestamp), long(number)]);
    // They are taken over; what came late of them goes.
    let letters =
        |shard| (Statement::DropDeadLetters, vec![long(timestamp), long(number), int(shard)]);
    let letters = (0..dead::SHARDS).map(letters);
    let all = (0..WILL_SHARDS).map(wills).chain([batches, exceptions, prepared]).chain(letters);
    write_all(db, all.collect()).await
}

/// Forgets adopted incarnations of which nothing is left to do. The first of a lineage stays as long as
/// a session is held under its number.
pub(super) async fn clear_up(
    db: &Db,
    me: &Incarnation,
    memory: &Mutex<Memory>,
) -> Result<(), StoreError> {
    let finished = memory.lock().finished();
    for Adopted { lineage, mut numbers, .. } in finished {
        let result = clear_up_lineage(db, me, &mut numbers, lineage).await;
        let mut memory = memory.lock();
        if numbers.is_empty() {
            memory.dead.remove(&lineage);
        } else {
            memory.unfinished(lineage, numbers);
        }
        result?;
    }
    Ok(())
}

/// `numbers`: what is left of it.
async fn clear_up_lineage(
    db: &Db,
    me: &Incarnation,
    numbers: &mut Vec<u64>,
    lineage: u64,
) -> Result<(), StoreError> {
    let timestamps = me.timestamps();
    let shared = me.lineage() != ALONE;
    while let Some(number) = numbers.iter().copied().find(|number| *number != lineage) {
        forget(db, me, timestamps.next(), number).await?;
        numbers.retain(|left| *left != number);
    }
    if shared && !session_index::index(db, lineage).await?.is_empty() {
        return Ok(());
    }
    let timestamp = timestamps.next();
    let index = |shard| (Statement::HeldDrop, vec![long(timestamp), long(lineage), int(shard)]);
    write_all(db, (0..HELD_SHARDS).map(index).collect()).await?;
    forget(db, me, timestamp, lineage).await?;
    numbers.clear();
    Ok(())
}

async fn write_all(
    db: &Db,
    statements: Vec<(Statement, Vec<cdrs_tokio::types::value::Value>)>,
) -> Result<(), StoreError> {
    let writes =
        statements.into_iter().map(|(statement, values)| db.write(Bound { statement, values }));
    stream::iter(writes).buffer_unordered(PARALLEL).try_collect::<()>().await
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn reached(rows: &[(u64, u64)], expected: u64, sure: Option<u64>) -> Option<(u64, u64)> {
        let rows: Vec<_> = rows.iter().map(|(at, count)| (*at, *count, 10 * count)).collect();
        reach(&rows, expected, sure).map(|found| (found.start, found.end))
    }

    #[test]
    fn an_incarnation_reaches_to_its_first_hole() {
        assert_eq!(reached(&[(5, 3), (8, 2)], 5, None), Some((5, 10)));
        assert_eq!(reached(&[(5, 3), (9, 2)], 5, None), Some((5, 8)));
        assert_eq!(reached(&[(5, 10), (7, 2)], 9, None), Some((5, 15)), "written again");
        assert_eq!(reached(&[], 5, None), None);
        // Whole buckets between the first and the last ones were not looked at.
        assert_eq!(reached(&[(5, 3), (512, 2)], 5, Some(512)), Some((5, 514)));
        assert_eq!(reached(&[(5, 3)], 5, Some(512)), Some((5, 512)));
    }

    /// A hole at its very beginning: nothing of it was acknowledged, and what those before it left
    /// has still to be sent.
    #[test]
    fn what_begins_behind_the_end_of_those_before_is_not_there() {
        assert_eq!(reached(&[(310, 10)], 300, None), None);
        let mut lane = Lane { cursor: 100, end: 100, ..Lane::default() };
        append(&mut lane, 1, &Found { start: 90, end: 300, bytes: 2100 });
        assert_eq!((lane.cursor, lane.end, lane.bytes), (100, 300, 2000));
    }

    /// What the dead one before had under way came late: it hides nothing of its successor's.
    #[test]
    fn who_came_later_saw_where_the_one_before_ended() {
        let mut lane = Lane { cursor: 100, end: 100, ..Lane::default() };
        append(&mut lane, 1, &Found { start: 100, end: 320, bytes: 0 });
        append(&mut lane, 2, &Found { start: 300, end: 310, bytes: 0 });
        let extents: Vec<_> =
            lane.extents.iter().map(|e| (e.incarnation, e.start, e.end)).collect();
        assert_eq!(extents, [(1, 100, 300), (2, 300, 310)]);
        assert_eq!(lane.end, 310);
        // One that was drained, and whose successor is forgotten: the cursor is the end.
        let mut behind = Lane { cursor: 1000, end: 1000, ..Lane::default() };
        append(&mut behind, 1, &Found { start: 768, end: 900, bytes: 100 });
        assert_eq!((behind.end, behind.bytes), (1000, 0));
        append(&mut behind, 3, &Found { start: 1000, end: 1050, bytes: 50 });
        assert_eq!((behind.end, behind.bytes), (1050, 50));
        append(&mut lane, 3, &Found { start: 100, end: 150, bytes: 0 });
        assert_eq!((lane.extents.len(), lane.end), (1, 150));
    }
}
