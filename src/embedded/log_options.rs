//! What the embedded log is told, and what it says of a topic.

use std::sync::Arc;
use std::time::Duration;

use super::SyncPolicy;

/// How the log works: the embedded log's part of `[log]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogOptions {
    /// `storage.sync`, one policy for store and log: when a record is reported `Ok`.
    pub sync: SyncPolicy,
    /// `log.cache_size`: bytes of block cache (reading only).
    pub cache_size: u64,
    /// `log.journal_max_size`: bytes of journal; at least 64 MiB.
    pub journal_max_size: u64,
    /// `log.max_pending_bytes`: bytes taken and not reported, by [`LogRecord::cost`](hydrant_actors::ports::LogRecord::cost).
    pub max_pending_bytes: usize,
    /// `log.batch_max_records`: records in one batch, and so in one sync.
    pub batch_max_records: usize,
    /// `log.batch_max_bytes`: bytes in one batch.
    pub batch_max_bytes: usize,
    /// How long the writer waits for as many records as it has just synced, at most; no key. The kernel's timer slack
    /// adds 50 us.
    pub gather: Duration,
    /// `log.retention`: records older than this go, with their segment (up to an eighth later); zero keeps all.
    pub retention_age: Duration,
    /// `log.retention_bytes`: past so many bytes the oldest segment goes; 0 keeps all.
    pub retention_bytes: u64,
    /// `log.segment_size`: bytes in one segment, which is also what stays in memory; at most a quarter of
    /// `retention_bytes`.
    pub segment_bytes: u64,
    /// `log.max_topics`: a further topic is refused.
    pub max_topics: usize,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            sync: SyncPolicy::Always,
            cache_size: 8 << 20,
            journal_max_size: 128 << 20,
            max_pending_bytes: 128 << 20,
            batch_max_records: 8192,
            batch_max_bytes: 2 << 20,
            gather: Duration::from_micros(150),
            retention_age: Duration::from_secs(24 * 3600),
            retention_bytes: 1 << 30,
            segment_bytes: 32 << 20,
            max_topics: 10_000,
        }
    }
}

/// A topic as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicInfo {
    /// Its name.
    pub name: Arc<str>,
    /// The oldest offset there is; `end` when there is none.
    pub first: u64,
    /// One past the newest offset.
    pub end: u64,
}
