//! What an incarnation does before it writes: it redoes what a dead one left half done, and learns
//! where its lanes, queues and receipts stand.
//!
//! Order: seal, then the journal, then everything else is read; so nothing that is read here is
//! still being changed by the dead.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::stream::{self, StreamExt, TryStreamExt};
use hydrant_actors::ports::{OpenPublish, StoreError, StoredWill};
use parking_lot::Mutex;

use super::db::{Bound, Db};
use super::held::Held;
use super::incarnation::{ALONE, Incarnation, Predecessor};
use super::memory::{Adopted, Extent, Lane, Memory};
use super::plan::{HELD_SHARDS, OUTBOX_BUCKET, WILL_SHARDS, int, long};
use super::read::{self, PARALLEL};
use super::sessions::{self, Which};
use super::stamps::Stamps;
use super::statements::Statement;
use super::{estate, journal};
use crate::rows::damaged;

/// Buckets at the end of a lane in which a hole may stand: batches that were under way together.
/// More than 16 batches of 4096 operations fill.
const UNSURE_BUCKETS: usize = 512;

/// Reads what is there, as the successor of `dead`, oldest first. Also the wills they left.
pub(super) async fn recover(
    db: &Db,
    me: &Incarnation,
    dead: &[Predecessor],
    first_lane: u16,
    open: &[OpenPublish],
) -> Result<(Memory, Vec<StoredWill>), StoreError> {
    let mut memory = Memory::new(me.number, me.stamps());
    memory.open.extend(open.iter().map(|open| open.id.incarnation));
    let wills = wills(db, dead).await?;
    // Our lanes go on where those of our line ended.
    let mut lines = by_line(dead);
    let numbers = lines.remove(&me.line()).unwrap_or_default();
    let stamp = memory.stamp();
    let lanes = lanes(db, &numbers, stamp).await?;
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
    for (line, numbers) in lines {
        let lanes = self::lanes(db, &numbers, stamp).await?;
        memory.adopt((line, numbers), lanes, first_lane);
    }
    let wills = remember_wills(&mut memory, wills);
    load_sessions(db, me, &mut memory, dead).await?;
    let with_wills: Vec<u64> = memory.wills.values().flatten().copied().collect();
    // The first of our line keeps its row: sessions are held under its number.
    let is_done = |number: &u64| !with_wills.contains(number) && !memory.open.contains(number);
    let drained: Vec<u64> = drained.into_iter().filter(is_done).collect();
    for number in drained {
        if number == me.line() {
            delete_small(db, memory.stamp(), number).await?;
        } else {
            keep_cursors(db, me, &memory).await?;
            forget(db, me, memory.stamp(), number).await?;
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
    stamps: &Stamps,
    dead: &[Predecessor],
) -> Result<(), StoreError> {
    for predecessor in dead {
        redo_and_clear(db, stamps.next(), predecessor.number).await?;
    }
    Ok(())
}

/// What the journal of a dead incarnation holds is done, once.
pub(super) async fn redo_and_clear(db: &Db, stamp: u64, number: u64) -> Result<(), StoreError> {
    let slots: Vec<i32> = (0..journal::SLOTS).collect();
    redo(db, number, &slots).await?;
    // Never a second time: the tombstones of what came after it do not last for ever.
    let key = |slot| vec![long(stamp), long(number), int(slot)];
    let clear = slots.into_iter().map(|slot| (Statement::DeleteJournal, key(slot)));
    write_all(db, clear.collect()).await
}

/// The wills that dead incarnations left, each with its incarnation, oldest first.
pub(super) async fn wills(
    db: &Db,
    dead: &[Predecessor],
) -> Result<Vec<(u64, StoredWill)>, StoreError> {
    let mut wills = Vec::new();
    for predecessor in dead {
        let left = read::wills(db, predecessor.number).await?;
        wills.extend(left.into_iter().map(|will| (predecessor.number, will)));
    }
    Ok(wills)
}

/// Batches of other nodes that dead incarnations had stored.
pub(super) async fn peer_batches(
    db: &Db,
    dead: &[Predecessor],
) -> Result<Vec<(u64, u64)>, StoreError> {
    let mut batches = Vec::new();
    for predecessor in dead {
        let values = vec![long(predecessor.number)];
        let rows = db.rows(Bound { statement: Statement::PeerBatches, values }).await?;
        for row in rows {
            batches.push((row.u64("origin")?, row.u64("number")?));
        }
    }
    Ok(batches)
}

/// QoS 2 publishes that dead incarnations had begun, and whose they are.
pub(super) async fn open_publishes(
    db: &Db,
    dead: &[Predecessor],
) -> Result<Vec<OpenPublish>, StoreError> {
    let mut open = Vec::new();
    for predecessor in dead {
        open.extend(read::open_publishes(db, predecessor.number).await?);
    }
    Ok(open)
}

/// They are ours from here on; of a client's several the last one.
pub(super) fn remember_wills(
    memory: &mut Memory,
    wills: Vec<(u64, StoredWill)>,
) -> Vec<StoredWill> {
    let mut last = BTreeMap::new();
    for (number, will) in wills {
        memory.wills.entry(will.client_id.clone()).or_default().push(number);
        last.insert(will.client_id.clone(), will);
    }
    last.into_values().collect()
}

/// Dead incarnations that followed each other.
pub(super) fn by_line(dead: &[Predecessor]) -> BTreeMap<u64, Vec<u64>> {
    let mut lines: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for predecessor in dead {
        lines.entry(predecessor.line).or_default().push(predecessor.number);
    }
    lines
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
    stamp: u64,
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
        drop_buckets(db, place, passed, stamp).await?;
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
    stamp: u64,
) -> Result<(), StoreError> {
    let Some(last) = buckets.last() else { return Ok(()) };
    let key = || vec![long(stamp), long(number), int(lane.into())];
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
    let loaded = if me.line() == ALONE {
        sessions::load(db, Which::All).await?
    } else {
        let lines: BTreeSet<u64> = dead.iter().map(|one| one.line).chain([me.line()]).collect();
        let mut entries = estate::held(db, &me.stamps(), &lines).await?;
        let loaded = estate::load(db, &me.stamps(), &mut entries).await?;
        let mut held = Held::new(me.line());
        entries.iter().for_each(|entry| held.admit(entry.id, entry.line));
        memory.held = Some(held);
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
async fn forget(db: &Db, me: &Incarnation, stamp: u64, number: u64) -> Result<(), StoreError> {
    for lane in read::cursors(db, number).await?.into_keys() {
        let buckets = read::outbox_buckets(db, number, lane).await?;
        drop_buckets(db, (number, lane), &buckets, stamp).await?;
    }
    delete_small(db, stamp, number).await?;
    // By them the lanes are found, so they go last.
    write_all(db, vec![(Statement::DeleteCursors, vec![long(stamp), long(number)])]).await?;
    me.forget(db, number).await
}

/// Its wills, its open publishes, and the batches of other nodes that it had stored.
async fn delete_small(db: &Db, stamp: u64, number: u64) -> Result<(), StoreError> {
    let wills = |shard| (Statement::DeleteWills, vec![long(stamp), long(number), int(shard)]);
    let batches = (Statement::DropPeerBatches, vec![long(stamp), long(number)]);
    let open = (Statement::DropOpen, vec![long(stamp), long(number)]);
    write_all(db, (0..WILL_SHARDS).map(wills).chain([batches, open]).collect()).await
}

/// Forgets adopted incarnations of which nothing is left to do. The first of a line stays as long as
/// a session is held under its number.
pub(super) async fn clear_up(
    db: &Db,
    me: &Incarnation,
    memory: &Mutex<Memory>,
) -> Result<(), StoreError> {
    let finished = memory.lock().finished();
    for Adopted { line, mut numbers, .. } in finished {
        let result = clear_up_line(db, me, &mut numbers, line).await;
        let mut memory = memory.lock();
        if numbers.is_empty() {
            memory.dead.remove(&line);
        } else {
            memory.unfinished(line, numbers);
        }
        result?;
    }
    Ok(())
}

/// `numbers`: what is left of it.
async fn clear_up_line(
    db: &Db,
    me: &Incarnation,
    numbers: &mut Vec<u64>,
    line: u64,
) -> Result<(), StoreError> {
    let stamps = me.stamps();
    let shared = me.line() != ALONE;
    while let Some(number) = numbers.iter().copied().find(|number| *number != line) {
        forget(db, me, stamps.next(), number).await?;
        numbers.retain(|left| *left != number);
    }
    if shared && !estate::index(db, line).await?.is_empty() {
        return Ok(());
    }
    let stamp = stamps.next();
    let index = |shard| (Statement::HeldDrop, vec![long(stamp), long(line), int(shard)]);
    write_all(db, (0..HELD_SHARDS).map(index).collect()).await?;
    forget(db, me, stamp, line).await?;
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
