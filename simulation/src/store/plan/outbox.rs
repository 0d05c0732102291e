//! The outbox: records of its lanes in rows, their buckets' directory and the cursors.
//!
//! Invariants: no bucket is dropped that is not below a cursor known to be written; a cursor never moves back.

use hydrant_engine::ports::LogRecord;

use super::super::memory::{Extent, Lane};
use super::super::shape::Shape;
use super::super::tables::Change;
use super::{Planner, Run};

impl Planner<'_> {
    pub(super) fn put_outbox(&mut self, lane: u16, position: u64, record: &LogRecord) {
        self.writes_message = true;
        if position < self.memory.lane(lane).cursor {
            // A repetition.
            return;
        }
        let shape = self.shape;
        if !self.outbox.get(&lane).is_some_and(|run| run.fits(position, shape)) {
            if let Some(run) = self.outbox.remove(&lane) {
                self.end_outbox(lane, run);
            }
            self.outbox.insert(lane, Run { first: position, items: Vec::new() });
        }
        if let Some(run) = self.outbox.get_mut(&lane) {
            run.items.push(record.clone());
        }
    }

    pub(super) fn end_outbox(&mut self, number: u16, run: Run<LogRecord>) {
        let (bucket, place) = (run.first / self.shape.bucket, (self.memory.number, number));
        let until = run.first + run.items.len() as u64;
        let lane = self.memory.lane(number);
        if until > lane.end {
            lane.end = until;
            lane.bytes += run.items.iter().map(|record| record.cost() as u64).sum::<u64>();
        }
        let (marked, cursor) = (lane.marked, lane.cursor);
        if marked.is_none() {
            // From its cursors a successor learns what lanes there are.
            self.plan.single.push(Change::MoveCursor { place, position: cursor });
        }
        if marked != Some(bucket) && self.plan.outbox_marks.last() != Some(&(number, bucket)) {
            let stamp = self.memory.stamp();
            self.plan.single.push(Change::MarkOutbox { place, bucket, stamp });
            self.plan.outbox_marks.push((number, bucket));
        }
        let (first, records, stamp) = (run.first, run.items, self.memory.stamp());
        self.plan.single.push(Change::PutOutbox { place, first, records, stamp });
    }

    pub(super) fn write_cursor(&mut self, number: u16, position: u64) {
        let (me, stamp, shape) = (self.memory.number, self.memory.stamp(), self.shape);
        let lane = self.memory.lane(number);
        let (incarnation, key) = lane.home.unwrap_or((me, number));
        if position < lane.cursor {
            return;
        }
        let (moved, before) = (position - lane.cursor, lane.end.saturating_sub(lane.cursor));
        let gone =
            u128::from(lane.bytes) * u128::from(moved.min(before)) / u128::from(before.max(1));
        lane.bytes = lane.bytes.saturating_sub(u64::try_from(gone).unwrap_or(u64::MAX));
        lane.cursor = position;
        // Only below a cursor that is written: none is ever behind a bucket that is gone.
        let (from, until) = (lane.dropped, lane.durable.min(position) / shape.bucket);
        let (dropped, directories) = passed(lane, (key, shape), (from, until), stamp);
        self.plan.single.push(Change::MoveCursor { place: (incarnation, key), position });
        self.plan.cursors.push((number, position));
        self.plan.single.extend(dropped);
        self.plan.last.extend(directories.into_iter().map(|change| vec![change]));
        if until > from {
            self.plan.dropped.push((number, until));
        }
    }
}

/// Deletes of the buckets `from..until` of a lane, in the partitions of every incarnation that wrote there; and then
/// from their directories.
fn passed(
    lane: &Lane,
    (number, shape): (u16, Shape),
    (from, until): (u64, u64),
    stamp: u64,
) -> (Vec<Change>, Vec<Change>) {
    let (mut partitions, mut directories) = (Vec::new(), Vec::new());
    for Extent { incarnation, start, end } in lane.extents.iter().filter(|_| until > from) {
        let place = (*incarnation, number);
        let first = from.max(start / shape.bucket);
        let end = until.min(end.div_ceil(shape.bucket));
        for bucket in first..end {
            let positions = (bucket * shape.bucket, (bucket + 1) * shape.bucket);
            partitions.push(Change::DeleteOutbox { place, positions, stamp });
        }
        directories.push(Change::UnmarkOutbox { place, below: end, stamp });
    }
    (partitions, directories)
}
