//! The embedded session store and the embedded message log, both on fjall, each in a folder of its
//! own and with a journal of its own.
//!
//! Each owns one writer thread: whoever writes hands his work over and is answered after the sync,
//! so that no arbiter thread ever waits for a disk. What arrives while a sync runs is committed
//! together by the next one (group commit).
//!
//! What was found in fjall 3.1 and shapes this module:
//! - After a failed journal write (a full disk, an I/O error) a `Database` refuses every further
//!   write for good ("poisoned"). Reopening it truncates the half-written batch and goes on; so a
//!   failure here closes the database, answers `Unavailable`, and the next write opens it again.
//! - A sealed journal is only made when a memtable is flushed. A store whose memtables stay small
//!   (buckets dropped before they are full) would grow its journal for ever, so `database`
//!   forces a flush after every 32 MiB written.
//! - Backpressure inside a commit waits without end once the flush thread has died; commits are
//!   therefore held back before they reach that point.
//! - A batch torn by a power cut makes it refuse the database; `journal` cuts it off.
//! - Making a keyspace costs about 5 ms, dropping one 2 ms (syncs of its catalogue): fine for
//!   buckets and segments, too slow for anything smaller.

mod database;
mod dead;
mod journal;
mod keys;
mod log;
mod log_options;
mod outbox;
#[cfg(test)]
mod power_cut;
mod row;
mod segments;
mod store;
mod store_options;
#[cfg(any(test, feature = "servers"))]
#[doc(hidden)]
pub mod suite;
mod tables;

use std::path::{Path, PathBuf};

use hydrant_actors::ports::StoreError;

pub use database::{check_folder, node_of};
pub use log::EmbeddedLog;
pub use log_options::{LogOptions, TopicInfo};
pub use store::EmbeddedStore;
pub use store_options::StoreOptions;

/// `storage.sync`: when a write is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SyncPolicy {
    /// After fdatasync: it survives a power cut.
    #[default]
    Always,
    /// After the operating system has it: it survives the process, not the machine.
    Never,
}

impl SyncPolicy {
    const fn mode(self) -> fjall::PersistMode {
        match self {
            Self::Always => fjall::PersistMode::SyncData,
            Self::Never => fjall::PersistMode::Buffer,
        }
    }
}

/// Why a store or log did not open. Each is one sentence that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder cannot be made or written.
    #[error("the folder {} cannot be written ({source}): make it writable for this user or choose another with --data-dir", dir.display())]
    NotWritable {
        /// The folder.
        dir: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// Another process has it open.
    #[error("the folder {} is in use by another broker: stop that one or choose another folder with --data-dir", dir.display())]
    Locked {
        /// The folder.
        dir: PathBuf,
    },
    /// It was made by a node of another name.
    #[error("the folder {} belongs to node {found}, not to {wanted}: start with --node-id {found} or choose another folder with --data-dir", dir.display())]
    OtherNode {
        /// The folder.
        dir: PathBuf,
        /// Whose it is.
        found: String,
        /// Who asks.
        wanted: String,
    },
    /// It was written by a newer broker.
    #[error("the folder {} has format {found}, this broker reads up to {supported}: start the newer broker or choose another folder with --data-dir", dir.display())]
    Newer {
        /// The folder.
        dir: PathBuf,
        /// Its format.
        found: u32,
        /// The newest format known here.
        supported: u32,
    },
    /// Its content contradicts itself.
    #[error("the data in {} is damaged ({reason}): restore it from a backup, or move it away to start empty", dir.display())]
    Damaged {
        /// The folder.
        dir: PathBuf,
        /// What was found.
        reason: String,
    },
    /// The disk does not work now; it can be tried again.
    #[error("the data in {} cannot be read or written now ({reason}): check the disk and its free space", dir.display())]
    Disk {
        /// The folder.
        dir: PathBuf,
        /// What was found.
        reason: String,
    },
}

impl OpenError {
    /// What a failure while reading means at start.
    fn reading(dir: &Path, error: StoreError) -> Self {
        let dir = dir.into();
        match error {
            StoreError::Unavailable(reason) => Self::Disk { dir, reason },
            StoreError::Unusable(reason) => Self::Damaged { dir, reason },
        }
    }
}
