//! The outbox on disk: lanes of packed rows, cut into buckets.
//!
//! A bucket is a keyspace `outbox-<lane>-<first position>` and reaches to the next bucket's first
//! position; a new one begins once the newest spans [`Outbox::bucket_entries`] positions. It is
//! dropped whole, after the cursor that passed it is on disk. What a crash leaves between the two
//! is dropped by [`Outbox::open`].
//!
//! Bounds: one keyspace per bucket not passed, one unfinished row per lane in a batch.

use std::collections::BTreeMap;

use fjall::Keyspace;
use hydrant_actors::ports::{LaneState, Lanes, LogRecord, StoreError};
use hydrant_actors::say;
use parking_lot::Mutex;

use super::database::{Guarded, store_error};
use super::row::Row;
use crate::rows::{ROW_MAX, RowBuilder, RowReader, damaged, number_at};

const PREFIX: &str = "outbox-";
/// Buckets are flushed when they are full; by size only should their records be huge.
const MEMTABLE: u64 = 64 << 20;

/// All lanes.
pub(super) struct Outbox {
    bucket_entries: u64,
    lanes: Mutex<BTreeMap<u16, Lane>>,
}

#[derive(Default)]
struct Lane {
    cursor: u64,
    end: u64,
    /// Cost of everything ever appended, about.
    cost: u64,
    /// By first position.
    buckets: BTreeMap<u64, Keyspace>,
}

/// What one batch does to the outbox, until it is finished.
#[derive(Default)]
pub(super) struct Changes {
    runs: BTreeMap<u16, Run>,
    moved: BTreeMap<u16, u64>,
    full: Vec<Keyspace>,
}

struct Run {
    bucket: Keyspace,
    first: u64,
    until: u64,
    row: RowBuilder,
}

impl Run {
    fn finish(self) -> Row {
        Row::put(&self.bucket, self.first.to_be_bytes().into(), self.row.finish().into())
    }
}

fn cursor_key(lane: u16) -> [u8; 8] {
    let [high, low] = lane.to_be_bytes();
    [b'c', b'u', b'r', b's', b'o', b'r', high, low]
}

impl Outbox {
    /// Finds the lanes, their ends and cursors, and drops buckets that are passed or empty.
    pub(super) fn open(db: &Guarded, bucket_entries: u64) -> Result<Self, StoreError> {
        let mut lanes = BTreeMap::<u16, Lane>::new();
        for guard in db.meta().prefix(b"cursor") {
            let (key, value) = guard.into_inner().map_err(store_error)?;
            let (Some(&[high, low]), Ok(cursor)) =
                (key.get(6..8).and_then(|k| k.first_chunk()), number_at(&value, 0))
            else {
                return Err(StoreError::Unusable("an outbox cursor is damaged".into()));
            };
            let lane = lanes.entry(u16::from_be_bytes([high, low])).or_default();
            (lane.cursor, lane.end) = (cursor, cursor);
        }
        for name in db.db().list_keyspace_names() {
            let Some((lane, first)) = name.strip_prefix(PREFIX).and_then(|n| n.split_once('-'))
            else {
                continue;
            };
            let (Ok(lane), Ok(first)) = (lane.parse(), first.parse()) else {
                continue;
            };
            let bucket = db.keyspace(&name, MEMTABLE).map_err(store_error)?;
            lanes.entry(lane).or_default().buckets.insert(first, bucket);
        }
        let outbox = Self { bucket_entries: bucket_entries.max(1), lanes: Mutex::new(lanes) };
        for lane in outbox.lanes.lock().values_mut() {
            outbox.recover(db, lane)?;
        }
        Ok(outbox)
    }

    fn recover(&self, db: &Guarded, lane: &mut Lane) -> Result<(), StoreError> {
        while let Some(entry) = lane.buckets.last_entry() {
            let Some(last) = entry.get().last_key_value() else {
                db.db().delete_keyspace(entry.remove()).map_err(store_error)?;
                continue;
            };
            let (key, value) = last.into_inner().map_err(store_error)?;
            let first = number_at(&key, 0).map_err(damaged)?;
            let mut reader = RowReader::new(&value).map_err(damaged)?;
            lane.cost = reader.header.note;
            for _ in 0..reader.header.count {
                lane.cost += reader.next(&"".into()).map_err(damaged)?.cost() as u64;
            }
            lane.end = lane.end.max(first + u64::from(reader.header.count));
            break;
        }
        // Without sync a power cut can lose a cursor whose buckets are gone.
        if let Some((&first, _)) = lane.buckets.first_key_value() {
            lane.cursor = lane.cursor.max(first);
        }
        self.drop_passed(db, lane);
        Ok(())
    }

    /// Adds a record to the batch. One below the cursor is a repetition and is left out.
    pub(super) fn put(
        &self,
        db: &Guarded,
        changes: &mut Changes,
        rows: &mut Vec<Row>,
        record: &LogRecord,
        (lane_number, position): (u16, u64),
    ) -> Result<(), StoreError> {
        let mut lanes = self.lanes.lock();
        let lane = lanes.entry(lane_number).or_default();
        if position < lane.cursor {
            return Ok(());
        }
        let cost = record.cost() as u64;
        if let Some(run) = changes.runs.get(&lane_number)
            && (run.first + u64::from(run.row.count()) != position
                || position >= run.until
                || run.row.len() >= ROW_MAX)
            && let Some(run) = changes.runs.remove(&lane_number)
        {
            rows.push(run.finish());
        }
        let run = match changes.runs.entry(lane_number) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => {
                let (bucket, until) =
                    self.bucket(db, lane, lane_number, position, &mut changes.full)?;
                entry.insert(Run {
                    bucket,
                    first: position,
                    until,
                    row: RowBuilder::new(lane.cost),
                })
            }
        };
        run.row.push(record, true).map_err(damaged)?;
        lane.cost += cost;
        lane.end = lane.end.max(position + 1);
        Ok(())
    }

    /// The bucket for a position, and where it ends.
    fn bucket(
        &self,
        db: &Guarded,
        lane: &mut Lane,
        number: u16,
        position: u64,
        full: &mut Vec<Keyspace>,
    ) -> Result<(Keyspace, u64), StoreError> {
        let next = lane.buckets.range(position + 1..).next().map(|(first, _)| *first);
        if let Some((first, bucket)) = lane.buckets.range(..=position).next_back() {
            let until = next.unwrap_or(first + self.bucket_entries);
            if position < until {
                return Ok((bucket.clone(), until));
            }
            if lane.cursor < first + self.bucket_entries / 2 {
                // The log is far behind: this bucket stays, so it goes out of memory.
                full.push(bucket.clone());
            }
        }
        let bucket =
            db.keyspace(&format!("{PREFIX}{number}-{position}"), MEMTABLE).map_err(store_error)?;
        lane.buckets.insert(position, bucket.clone());
        Ok((bucket, next.unwrap_or(position + self.bucket_entries)))
    }

    /// Moves a cursor in the batch; it never moves back.
    pub(super) fn move_cursor(&self, changes: &mut Changes, lane: u16, position: u64) {
        let moved = changes.moved.entry(lane).or_default();
        *moved = position.max(*moved);
    }

    /// Ends the batch's rows; to be called once before the commit.
    pub(super) fn finish(&self, db: &Guarded, changes: &mut Changes, rows: &mut Vec<Row>) {
        rows.extend(std::mem::take(&mut changes.runs).into_values().map(Run::finish));
        let mut lanes = self.lanes.lock();
        for (&number, &position) in &changes.moved {
            let lane = lanes.entry(number).or_default();
            lane.cursor = lane.cursor.max(position);
            lane.end = lane.end.max(position);
            rows.push(Row::put(
                db.meta(),
                cursor_key(number).into(),
                lane.cursor.to_be_bytes().into(),
            ));
        }
    }

    /// After the commit: drops what the cursors passed, flushes what stays. A failure here loses
    /// nothing: a bucket not dropped is dropped at the next open.
    pub(super) fn committed(&self, db: &Guarded, changes: Changes) {
        for bucket in changes.full {
            if let Err(error) = bucket.rotate_memtable() {
                say::warn!("outbox bucket {} not flushed: {error}", &**bucket.name());
            }
        }
        let mut lanes = self.lanes.lock();
        for number in changes.moved.keys() {
            if let Some(lane) = lanes.get_mut(number) {
                self.drop_passed(db, lane);
            }
        }
    }

    fn drop_passed(&self, db: &Guarded, lane: &mut Lane) {
        while let Some((&first, _)) = lane.buckets.first_key_value() {
            let next = lane.buckets.range(first + 1..).next().map(|(next, _)| *next);
            if lane.cursor < next.unwrap_or(first + self.bucket_entries) {
                break;
            }
            if let Some((_, bucket)) = lane.buckets.pop_first()
                && let Err(error) = db.db().delete_keyspace(bucket)
            {
                say::warn!("an outbox bucket was not dropped: {error}");
            }
        }
    }

    /// Every lane that holds or held something.
    pub(super) fn lanes(&self) -> Result<Lanes, StoreError> {
        let mut found = Vec::new();
        for (&number, lane) in &*self.lanes.lock() {
            let mut before = lane.cost;
            if lane.cursor < lane.end
                && let Some((_, bucket)) = lane.buckets.range(..=lane.cursor).next_back()
                && let Some(row) = bucket.range(..=lane.cursor.to_be_bytes()).next_back()
            {
                let value = row.value().map_err(store_error)?;
                before = RowReader::new(&value).map_err(damaged)?.header.note;
            }
            let bytes = lane.cost.saturating_sub(before);
            found.push(LaneState { lane: number, cursor: lane.cursor, end: lane.end, bytes });
        }
        Ok(found)
    }

    /// Buckets that are not dropped.
    pub(super) fn bucket_count(&self) -> usize {
        self.lanes.lock().values().map(|lane| lane.buckets.len()).sum()
    }

    /// Records of a lane from `from` on; see [`hydrant_actors::ports::SessionStore::read_outbox`].
    pub(super) fn read(
        &self,
        lane: u16,
        from: u64,
        limit: usize,
        max_bytes: usize,
    ) -> Result<Vec<LogRecord>, StoreError> {
        let buckets: Vec<(u64, Keyspace)> = {
            let lanes = self.lanes.lock();
            let Some(lane) = lanes.get(&lane) else {
                return Ok(Vec::new());
            };
            let start = lane.buckets.range(..=from).next_back().map_or(0, |(first, _)| *first);
            lane.buckets.range(start..).map(|(first, bucket)| (*first, bucket.clone())).collect()
        };
        let mut out = PackedReader::new(from, limit, max_bytes);
        'all: for (first, bucket) in buckets {
            if out.row_ends(first)? {
                break;
            }
            let from = from.to_be_bytes();
            let start = match bucket.range(..=from).next_back() {
                Some(row) => row.key().map_err(store_error)?,
                None => from.into(),
            };
            for row in bucket.range(start..) {
                let (key, value) = row.into_inner().map_err(store_error)?;
                if out.row(number_at(&key, 0).map_err(damaged)?, value)? {
                    break 'all;
                }
            }
        }
        out.row_ends(u64::MAX)?;
        let mut records = Vec::with_capacity(out.found.len());
        for (position, mut record) in out.found {
            record.id = position;
            record.outbox = Some(hydrant_actors::ports::OutboxPosition { lane, position });
            records.push(record);
        }
        Ok(records)
    }
}

/// Unpacks rows that come in order, each up to where the next one begins.
pub(super) struct PackedReader {
    next: u64,
    limit: usize,
    max_bytes: usize,
    bytes: usize,
    row: Option<(u64, fjall::Slice)>,
    topic: std::sync::Arc<str>,
    /// Position and record, in order.
    pub(super) found: Vec<(u64, LogRecord)>,
}

impl PackedReader {
    pub(super) fn new(from: u64, limit: usize, max_bytes: usize) -> Self {
        let found = Vec::new();
        Self { next: from, limit, max_bytes, bytes: 0, row: None, topic: "".into(), found }
    }

    /// The topic of records whose rows do not name it.
    pub(super) fn topic(mut self, topic: std::sync::Arc<str>) -> Self {
        self.topic = topic;
        self
    }

    /// Takes the next row; true when enough is found.
    pub(super) fn row(&mut self, first: u64, value: fjall::Slice) -> Result<bool, StoreError> {
        let enough = self.row_ends(first)?;
        self.row = Some((first, value));
        Ok(enough)
    }

    /// The row before reaches up to `until`; true when enough is found.
    pub(super) fn row_ends(&mut self, until: u64) -> Result<bool, StoreError> {
        if let Some((first, value)) = self.row.take() {
            let mut reader = RowReader::new(&value).map_err(damaged)?;
            for position in (first..until).take(reader.header.count as usize) {
                if position < self.next {
                    reader.skip().map_err(damaged)?;
                    continue;
                }
                if self.enough() {
                    break;
                }
                let record = reader.next(&self.topic).map_err(damaged)?;
                self.bytes += record.cost();
                self.next = position + 1;
                self.found.push((position, record));
            }
        }
        Ok(self.enough())
    }

    fn enough(&self) -> bool {
        self.found.len() >= self.limit || (!self.found.is_empty() && self.bytes >= self.max_bytes)
    }
}
