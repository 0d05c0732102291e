//! The embedded log on disk: topics cut into segments.
//!
//! A segment is a keyspace `segment-<number>` that takes everything appended while it is the newest:
//! packed rows under topic number (u32) and offset of the row's first record (u64), big-endian. It
//! stays in one memory table until it is full, is flushed once, and is dropped whole by retention;
//! nothing is ever compacted or deleted row by row. `topics` holds number and floor of each topic
//! (the floor is where offsets go on once retention took everything), `groups` the offsets of
//! consumer groups.
//!
//! Bounds: the newest segment in memory, and per segment and topic two offsets.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use ahash::AHashMap;
use fjall::{AbstractTree as _, Keyspace, UserKey};
use hydrant_actors::ports::{LogError, LogRecord, StoreError};
use parking_lot::RwLock;

use super::database::{Guarded, open, open_error, store_error};
use super::log_options::{LogOptions, TopicInfo};
use super::outbox::PackedReader;
use super::{OpenError, SyncPolicy};
use crate::rows::{self, ROW_MAX, RowBuilder, RowReader, damaged, number_at};

const PREFIX: &str = "segment-";

/// The open log.
pub(super) struct Segments {
    db: Guarded,
    topics: Keyspace,
    groups: Keyspace,
    index: RwLock<Index>,
}

#[derive(Default)]
struct Index {
    topics: AHashMap<Arc<str>, Topic>,
    segments: BTreeMap<u64, Segment>,
}

#[derive(Debug, Clone, Copy)]
struct Topic {
    number: u32,
    end: u64,
}

struct Segment {
    keyspace: Keyspace,
    bytes: u64,
    opened_ms: u64,
    /// Time of the last append; 0 while empty.
    last_ms: u64,
    /// First offset and end by topic number.
    ranges: AHashMap<u32, (u64, u64)>,
}

impl Segment {
    fn new(keyspace: Keyspace, now_ms: u64) -> Self {
        Self { keyspace, bytes: 0, opened_ms: now_ms, last_ms: 0, ranges: AHashMap::new() }
    }

    /// Reads ranges and times back: two seeks a topic.
    fn recover(&mut self) -> Result<(), StoreError> {
        let mut next = 0u32;
        while let Some(guard) = self.keyspace.range(row_key(next, 0)..).next() {
            let (key, value) = guard.into_inner().map_err(store_error)?;
            let (topic, first) = row_place(&key)?;
            if self.last_ms == 0 {
                self.opened_ms = RowReader::new(&value).map_err(damaged)?.header.note;
            }
            let last =
                self.keyspace.range(row_key(topic, first)..=row_key(topic, u64::MAX)).next_back();
            let Some(last) = last else { break };
            let (key, value) = last.into_inner().map_err(store_error)?;
            let header = RowReader::new(&value).map_err(damaged)?.header;
            self.last_ms = self.last_ms.max(header.note);
            self.opened_ms = self.opened_ms.min(header.note);
            self.ranges.insert(topic, (first, row_place(&key)?.1 + u64::from(header.count)));
            let Some(after) = topic.checked_add(1) else {
                break;
            };
            next = after;
        }
        self.bytes = self
            .bytes
            .max(self.keyspace.disk_space() + self.keyspace.tree.active_memtable().size());
        Ok(())
    }
}

struct Run {
    first: u64,
    row: RowBuilder,
}

impl Segments {
    pub(super) fn open(
        dir: &Path,
        node: &str,
        options: &LogOptions,
        now_ms: u64,
    ) -> Result<Self, OpenError> {
        let db = open(dir, "log", node, options.cache_size, options.journal_max_size)?;
        let table = |name: &str| db.keyspace(name, 4 << 20).map_err(|error| open_error(dir, error));
        let (topics, groups) = (table("topics")?, table("groups")?);
        let segments = Self { db, topics, groups, index: RwLock::default() };
        segments.recover(options, now_ms).map_err(|error| OpenError::reading(dir, error))?;
        Ok(segments)
    }

    fn recover(&self, options: &LogOptions, now_ms: u64) -> Result<(), StoreError> {
        let mut index = self.index.write();
        for name in self.db.db().list_keyspace_names() {
            let Some(Ok(number)) = name.strip_prefix(PREFIX).map(str::parse::<u64>) else {
                continue;
            };
            let keyspace = self.segment_keyspace(number, options).map_err(store_error)?;
            let mut segment = Segment::new(keyspace, now_ms);
            if let Some(bytes) = self.db.meta().get(bytes_key(number)).map_err(store_error)? {
                segment.bytes = number_at(&bytes, 0).map_err(damaged)?;
            }
            segment.recover()?;
            index.segments.insert(number, segment);
        }
        for guard in self.topics.iter() {
            let (name, value) = guard.into_inner().map_err(store_error)?;
            let (number, floor): (u32, u64) = rows::decode(&value).map_err(damaged)?;
            let name = std::str::from_utf8(&name)
                .map_err(|_| StoreError::Unusable("a topic name is damaged".into()))?;
            let ends = index.segments.values().filter_map(|segment| segment.ranges.get(&number));
            let end = ends.map(|(_, end)| *end).fold(floor, u64::max);
            index.topics.insert(name.into(), Topic { number, end });
        }
        drop(index);
        if self.index.read().segments.is_empty() {
            self.roll(options, now_ms)?;
        }
        Ok(())
    }

    fn segment_keyspace(&self, number: u64, options: &LogOptions) -> fjall::Result<Keyspace> {
        self.db.keyspace(&format!("{PREFIX}{number:020}"), options.segment_bytes.saturating_mul(4))
    }

    /// Begins a segment; the one before goes out of memory.
    fn roll(&self, options: &LogOptions, now_ms: u64) -> Result<(), StoreError> {
        let last = self
            .index
            .read()
            .segments
            .last_key_value()
            .map(|(n, s)| (*n, s.keyspace.clone(), s.bytes));
        let number = last.as_ref().map_or(0, |(number, ..)| number + 1);
        let keyspace = self.segment_keyspace(number, options).map_err(store_error)?;
        self.index.write().segments.insert(number, Segment::new(keyspace, now_ms));
        if let Some((number, keyspace, bytes)) = last {
            self.db.meta().insert(bytes_key(number), bytes.to_be_bytes()).map_err(store_error)?;
            keyspace.rotate_memtable().map_err(store_error)?;
        }
        Ok(())
    }

    /// Appends records as one durable batch; for each that was refused, why. After an error this
    /// log is not to be used any more.
    pub(super) fn append(
        &self,
        records: &[LogRecord],
        options: &LogOptions,
        now_ms: u64,
    ) -> Result<Vec<(usize, LogError)>, StoreError> {
        let active =
            self.index.read().segments.last_key_value().map(|(_, s)| (s.bytes, s.keyspace.clone()));
        let mut keyspace = active.as_ref().map(|(_, keyspace)| keyspace.clone());
        if active.is_none_or(|(bytes, _)| bytes >= options.segment_bytes) {
            self.roll(options, now_ms)?;
            keyspace = self.index.read().segments.last_key_value().map(|(_, s)| s.keyspace.clone());
        }
        let Some(keyspace) = keyspace else {
            return Err(StoreError::Unusable("the log has no segment".into()));
        };
        let mut refused = Vec::new();
        let mut topics = AHashMap::<Arc<str>, (Topic, Run)>::new();
        let mut batch = self.db.batch(64);
        let mut bytes = 0;
        let mut finish = |batch: &mut fjall::OwnedWriteBatch, topic: u32, run: Run| {
            bytes += (run.row.len() + 60) as u64;
            batch.insert(&keyspace, row_key(topic, run.first), run.row.finish());
        };
        let (known_count, next_number) = {
            let index = self.index.read();
            let next = index.topics.values().map(|topic| topic.number + 1).max().unwrap_or(0);
            (index.topics.len(), next)
        };
        let mut made = 0;
        for (at, record) in records.iter().enumerate() {
            let (topic, run) = match topics.get_mut(&record.topic) {
                Some(known) => known,
                None => {
                    let known = self.index.read().topics.get(&record.topic).copied();
                    let topic = match known {
                        Some(topic) => topic,
                        None if known_count + made >= options.max_topics => {
                            let reason = format!(
                                "topic {} would be one more than the {} that the embedded log may have",
                                record.topic, options.max_topics
                            );
                            refused.push((at, LogError::Refused(reason)));
                            continue;
                        }
                        None => {
                            let number = next_number + made as u32;
                            made += 1;
                            let value = rows::encode(&(number, 0u64)).map_err(damaged)?;
                            batch.insert(&self.topics, record.topic.as_bytes(), value);
                            Topic { number, end: 0 }
                        }
                    };
                    let run = Run { first: topic.end, row: RowBuilder::new(now_ms) };
                    topics.entry(Arc::clone(&record.topic)).or_insert((topic, run))
                }
            };
            if run.row.len() >= ROW_MAX {
                let next = Run { first: topic.end, row: RowBuilder::new(now_ms) };
                finish(&mut batch, topic.number, std::mem::replace(run, next));
            }
            run.row.push(record, false).map_err(damaged)?;
            topic.end += 1;
        }
        let mut ends = Vec::with_capacity(topics.len());
        for (name, (topic, run)) in topics {
            finish(&mut batch, topic.number, run);
            ends.push((name, topic));
        }
        let sealed = std::iter::once(&keyspace);
        self.db.commit(batch, options.sync, bytes, sealed).map_err(store_error)?;
        let mut index = self.index.write();
        let Index { topics, segments } = &mut *index;
        if let Some(mut segment) = segments.last_entry() {
            let segment = segment.get_mut();
            segment.bytes += bytes;
            segment.last_ms = now_ms;
            for (name, topic) in ends {
                let before = topics.insert(name, topic).map_or(0, |before| before.end);
                segment.ranges.entry(topic.number).or_insert((before, topic.end)).1 = topic.end;
            }
        }
        Ok(refused)
    }

    /// One step of retention: at most one segment is begun or dropped. True when there may be more.
    pub(super) fn sweep(&self, options: &LogOptions, now_ms: u64) -> Result<bool, StoreError> {
        let age = u64::try_from(options.retention_age.as_millis()).unwrap_or(u64::MAX);
        let old = |since: u64, parts: u64| age > 0 && now_ms.saturating_sub(since) > age / parts;
        let (roll, oldest) = {
            let index = self.index.read();
            let total: u64 = index.segments.values().map(|segment| segment.bytes).sum();
            let too_many = options.retention_bytes > 0 && total > options.retention_bytes;
            let roll = index.segments.last_key_value().is_some_and(|(_, s)| {
                s.last_ms > 0
                    && (old(s.opened_ms, 8)
                        || old(s.last_ms, 1)
                        || (too_many && index.segments.len() == 1))
            });
            let oldest = index.segments.first_key_value().filter(|(_, segment)| {
                index.segments.len() > 1 && (too_many || old(segment.last_ms, 1))
            });
            (roll, oldest.map(|(number, _)| *number))
        };
        if let Some(number) = oldest {
            self.drop_segment(number, options.sync)?;
            return Ok(true);
        }
        if roll {
            self.roll(options, now_ms)?;
        }
        Ok(roll)
    }

    fn drop_segment(&self, number: u64, sync: SyncPolicy) -> Result<(), StoreError> {
        let mut batch = self.db.batch(64);
        {
            let index = self.index.read();
            let Some(segment) = index.segments.get(&number) else {
                return Ok(());
            };
            for (name, topic) in &index.topics {
                if let Some((_, end)) = segment.ranges.get(&topic.number) {
                    let value = rows::encode(&(topic.number, *end)).map_err(damaged)?;
                    batch.insert(&self.topics, name.as_bytes(), value);
                }
            }
            batch.remove(self.db.meta(), bytes_key(number));
        }
        self.db.commit(batch, sync, 0, std::iter::empty()).map_err(store_error)?;
        let segment = self.index.write().segments.remove(&number);
        match segment {
            Some(segment) => self.db.db().delete_keyspace(segment.keyspace).map_err(store_error),
            None => Ok(()),
        }
    }

    /// Records from `from` on, or from the first there is.
    pub(super) fn read(
        &self,
        topic: &str,
        from: u64,
        limit: usize,
        max_bytes: usize,
    ) -> Result<Vec<(u64, LogRecord)>, StoreError> {
        let (name, number, segments) = {
            let index = self.index.read();
            let Some((name, topic)) = index.topics.get_key_value(topic) else {
                return Ok(Vec::new());
            };
            let holds = |segment: &&Segment| {
                segment.ranges.get(&topic.number).is_some_and(|(_, end)| *end > from)
            };
            let segments: Vec<_> =
                index.segments.values().filter(holds).map(|s| s.keyspace.clone()).collect();
            (Arc::clone(name), topic.number, segments)
        };
        let mut out = PackedReader::new(from, limit, max_bytes).topic(name);
        'all: for segment in segments {
            let start = match segment.range(row_key(number, 0)..=row_key(number, from)).next_back()
            {
                Some(row) => row.key().map_err(store_error)?,
                None => row_key(number, from),
            };
            for row in segment.range(start..=row_key(number, u64::MAX)) {
                let (key, value) = row.into_inner().map_err(store_error)?;
                if out.row(row_place(&key)?.1, value)? {
                    break 'all;
                }
            }
        }
        out.row_ends(u64::MAX)?;
        Ok(out.found)
    }

    /// Every topic, by name.
    pub(super) fn topics(&self) -> Vec<TopicInfo> {
        let index = self.index.read();
        let mut found: Vec<_> =
            index.topics.iter().map(|(name, topic)| index.info(name, *topic)).collect();
        found.sort_by(|a, b| a.name.cmp(&b.name));
        found
    }

    /// One topic.
    pub(super) fn topic(&self, name: &str) -> Option<TopicInfo> {
        let index = self.index.read();
        index.topics.get_key_value(name).map(|(name, topic)| index.info(name, *topic))
    }

    pub(super) fn committed(&self, group: &str, topic: &str) -> Result<Option<u64>, StoreError> {
        let value = self.groups.get(group_key(group, topic)).map_err(store_error)?;
        value.map(|value| number_at(&value, 0).map_err(damaged)).transpose()
    }

    pub(super) fn commit(&self, group: &str, topic: &str, offset: u64) -> Result<(), StoreError> {
        self.groups.insert(group_key(group, topic), offset.to_be_bytes()).map_err(store_error)
    }

    pub(super) fn describe(&self) -> String {
        let index = self.index.read();
        let (topics, segments) = (index.topics.len(), index.segments.len());
        let bytes: u64 = index.segments.values().map(|segment| segment.bytes).sum();
        format!("{topics} topics, {} MiB in {segments} segments", bytes >> 20)
    }
}

impl Index {
    fn info(&self, name: &Arc<str>, topic: Topic) -> TopicInfo {
        let firsts = self.segments.values().filter_map(|segment| segment.ranges.get(&topic.number));
        let first = firsts.map(|(first, _)| *first).min().unwrap_or(topic.end);
        TopicInfo { name: Arc::clone(name), first, end: topic.end }
    }
}

fn row_key(topic: u32, offset: u64) -> UserKey {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&topic.to_be_bytes());
    key[4..].copy_from_slice(&offset.to_be_bytes());
    key.into()
}

fn row_place(key: &[u8]) -> Result<(u32, u64), StoreError> {
    let topic = key
        .first_chunk()
        .map(|k| u32::from_be_bytes(*k))
        .ok_or(rows::RowError::Short)
        .map_err(damaged)?;
    Ok((topic, number_at(key, 4).map_err(damaged)?))
}

fn bytes_key(segment: u64) -> Vec<u8> {
    [b"bytes".as_slice(), &segment.to_be_bytes()].concat()
}

fn group_key(group: &str, topic: &str) -> Vec<u8> {
    [group.as_bytes(), &[0], topic.as_bytes()].concat()
}
