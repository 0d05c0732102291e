//! What the embedded store is told.

use super::SyncPolicy;

/// How the store works: the embedded store's part of `[storage]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreOptions {
    /// `storage.sync`: when a write is answered.
    pub sync: SyncPolicy,
    /// `storage.cache_size`: bytes of block cache.
    pub cache_size: u64,
    /// `storage.journal_max_size`: bytes of journal (and so, about, of memory tables) before tables
    /// are flushed; at least 64 MiB.
    pub journal_max_size: u64,
    /// Not a key: positions of an outbox lane in one bucket, which is dropped whole.
    pub bucket_entries: u64,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            sync: SyncPolicy::Always,
            cache_size: 64 << 20,
            journal_max_size: 512 << 20,
            bucket_entries: 65_536,
        }
    }
}
