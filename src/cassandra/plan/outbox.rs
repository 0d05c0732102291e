//! The outbox: records of its lanes in rows, their buckets' directory and the cursors (tables `outbox`,
//! `outbox_bucket` and `outbox_cursor`).
//!
//! Records that follow each other within a bucket stand in one row, a *run*, which is written when it ends.
//! Invariants: no bucket is dropped that is not below a cursor known to be written; a cursor never moves back.
//! Bounds: a row by [`ROW_MAX`] and by its bucket; one run a lane under way.

use std::collections::BTreeMap;

use hydrant_actors::ports::LogRecord;

use super::super::columns::{OUTBOX_BUCKET, blob, int, long};
use super::super::db::Bound;
use super::super::memory::Lane;
use super::super::statements::Statement as S;
use super::draft::Draft;
use crate::rows::{ROW_MAX, RowBuilder, RowError};

#[derive(Debug)]
struct Run {
    first: u64,
    bytes: u64,
    row: RowBuilder,
}

/// What a plan does to the outbox and is not in the [`Draft`] yet.
#[derive(Default)]
pub(super) struct Outbox {
    runs: BTreeMap<u16, Run>,
    /// Where cursors go, by lane.
    moved: BTreeMap<u16, u64>,
}

impl Outbox {
    /// Appends a record to a lane.
    pub(super) fn put(
        &mut self,
        draft: &mut Draft<'_>,
        lane: u16,
        position: u64,
        record: &LogRecord,
    ) -> Result<(), RowError> {
        draft.writes_message = true;
        if position < draft.memory.lane(lane).cursor {
            // A repetition.
            return Ok(());
        }
        let fits = self.runs.get(&lane).is_some_and(|run| {
            run.first + u64::from(run.row.count()) == position
                && run.first / OUTBOX_BUCKET == position / OUTBOX_BUCKET
                && run.row.len() < ROW_MAX
        });
        if !fits {
            if let Some(run) = self.runs.remove(&lane) {
                end_run(draft, lane, run);
            }
            let run = Run { first: position, bytes: 0, row: RowBuilder::new(0) };
            self.runs.insert(lane, run);
        }
        if let Some(run) = self.runs.get_mut(&lane) {
            run.row.push(record, true)?;
            run.bytes += record.cost() as u64;
        }
        Ok(())
    }

    /// The log has acknowledged all of a lane below `position`.
    pub(super) fn move_cursor(&mut self, lane: u16, position: u64) {
        let moved = self.moved.entry(lane).or_default();
        *moved = position.max(*moved);
    }

    /// Writes the rows that are under way, then the cursors.
    pub(super) fn finish(self, draft: &mut Draft<'_>) {
        for (lane, run) in self.runs {
            end_run(draft, lane, run);
        }
        for (lane, position) in self.moved {
            write_cursor(draft, lane, position);
        }
    }
}

fn end_run(draft: &mut Draft<'_>, number: u16, run: Run) {
    let bucket = run.first / OUTBOX_BUCKET;
    let me = draft.memory.number;
    let until = run.first + u64::from(run.row.count());
    let lane = draft.memory.lane(number);
    if until > lane.end {
        lane.end = until;
        lane.bytes += run.bytes;
    }
    let (marked, cursor) = (lane.marked, lane.cursor);
    if marked.is_none() {
        // From its cursors a successor learns what lanes there are.
        let values = vec![long(me), int(number.into()), long(cursor), long(cursor)];
        draft.single(S::MoveCursor, values);
    }
    if marked != Some(bucket) && draft.plan.outbox_marks.last() != Some(&(number, bucket)) {
        let values = vec![long(me), int(number.into()), long(bucket), draft.timestamp()];
        draft.single(S::PutOutboxBucket, values);
        draft.plan.outbox_marks.push((number, bucket));
    }
    let values = vec![
        long(me),
        int(number.into()),
        long(bucket),
        long(run.first),
        int(i32::try_from(run.row.count()).unwrap_or(i32::MAX)),
        long(run.bytes),
        blob(run.row.finish()),
        draft.timestamp(),
    ];
    draft.single(S::PutOutbox, values);
}

fn write_cursor(draft: &mut Draft<'_>, number: u16, position: u64) {
    let (me, timestamp) = (draft.memory.number, draft.memory.timestamp());
    let lane = draft.memory.lane(number);
    let (incarnation, key) = lane.home.unwrap_or((me, number));
    if position < lane.cursor {
        return;
    }
    let (moved, before) = (position - lane.cursor, lane.end.saturating_sub(lane.cursor));
    let gone = u128::from(lane.bytes) * u128::from(moved.min(before)) / u128::from(before.max(1));
    lane.bytes -= u64::try_from(gone).unwrap_or(lane.bytes);
    lane.cursor = position;
    // Timestamped with the position itself: it can never move back.
    let values = vec![long(incarnation), int(key.into()), long(position), long(position)];
    // Only below a cursor that is written: none is ever behind a bucket that is gone.
    let (from, until) = (lane.dropped, lane.durable.min(position) / OUTBOX_BUCKET);
    let (dropped, directories) = passed(lane, key, (from, until), timestamp);
    draft.single(S::MoveCursor, values);
    draft.plan.cursors.push((number, position));
    draft.plan.single.extend(dropped);
    draft.plan.last.extend(directories.into_iter().map(|bound| vec![bound]));
    if until > from {
        draft.plan.dropped.push((number, until));
    }
}

/// Deletes of the buckets `from..until` of a lane, in the partitions of every incarnation that wrote
/// there; and then from their directories.
fn passed(
    lane: &Lane,
    number: u16,
    (from, until): (u64, u64),
    timestamp: u64,
) -> (Vec<Bound>, Vec<Bound>) {
    let (mut partitions, mut directories) = (Vec::new(), Vec::new());
    for extent in lane.extents.iter().filter(|_| until > from) {
        let key = || vec![long(timestamp), long(extent.incarnation), int(number.into())];
        let first = from.max(extent.start / OUTBOX_BUCKET);
        let end = until.min(extent.end.div_ceil(OUTBOX_BUCKET));
        for bucket in first..end {
            let values = [key(), vec![long(bucket)]].concat();
            partitions.push(Bound { statement: S::DeleteOutbox, values });
        }
        // What stands behind a hole is in no extent: the next start finds it by the directory.
        let values = [key(), vec![long(end)]].concat();
        directories.push(Bound { statement: S::DeleteOutboxBuckets, values });
    }
    (partitions, directories)
}
