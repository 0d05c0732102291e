//! Opening a fjall database in a folder that belongs to one node, and keeping it healthy.
//!
//! Owns the file `identity.json` beside fjall's own files: product part, format, node id. It is
//! written before fjall's first file, so a folder with data and without it is damaged.
//! Invariant: [`Guarded::commit`] is the only way a batch is committed.

use std::fs;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fjall::{
    AbstractTree as _, Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode,
};
use hydrant_actors::ports::StoreError;
use serde::{Deserialize, Serialize};

use super::journal::cut_torn_batch;
use super::{OpenError, SyncPolicy};

/// The newest format of a part that this code reads, and the one it writes. Of a store, format 2 keys wills by their
/// connection; the rows of format 1 are read as they are, so a store of format 1 becomes one of format 2 when it is
/// opened.
const fn format_of(part: &str) -> u32 {
    if matches!(part.as_bytes(), b"store") { 2 } else { 1 }
}
const IDENTITY: &str = "identity.json";
/// A memtable is flushed, and with it the journal turned over, after so many bytes.
const JOURNAL_TURN: u64 = 32 << 20;
/// The smallest journal bound that fjall takes.
const JOURNAL_MIN: u64 = 64 << 20;

#[derive(Serialize, Deserialize)]
struct Identity {
    part: String,
    format: u32,
    node: String,
}

/// Only what every format, also a future one, is sure to have.
#[derive(Deserialize)]
struct FormatOnly {
    format: u32,
}

/// A database with its `meta` keyspace.
pub(super) struct Guarded {
    db: Database,
    meta: Keyspace,
    written: AtomicU64,
}

/// Opens or makes the database of `part` ("store" or "log") in `dir` for `node`.
pub(super) fn open(
    dir: &Path,
    part: &str,
    node: &str,
    cache_size: u64,
    journal_max_size: u64,
) -> Result<Guarded, OpenError> {
    let not_writable = |source| not_writable(dir, source);
    fs::create_dir_all(dir).map_err(not_writable)?;
    let older = identify(dir, part, node)?;
    clear_unfinished(dir).map_err(not_writable)?;
    let opened = match open_fjall(dir, cache_size, journal_max_size) {
        Err(OpenError::Damaged { .. }) if cut_torn_batch(dir).unwrap_or(false) => {
            open_fjall(dir, cache_size, journal_max_size)
        }
        opened => opened,
    }?;
    // Only now is its lock ours, and nothing is written yet: an older broker refuses it from here on.
    if let Some(identity) = older {
        write_identity(dir, &dir.join(IDENTITY), &identity).map_err(not_writable)?;
        log::info!("the folder {} has format {} now", dir.display(), identity.format);
    }
    Ok(opened)
}

fn open_fjall(dir: &Path, cache_size: u64, journal_max_size: u64) -> Result<Guarded, OpenError> {
    // fjall asserts on some kinds of damage; a panic here is damage too.
    let opened = catch_unwind(AssertUnwindSafe(|| {
        let db = Database::builder(dir)
            .cache_size(cache_size)
            .max_journaling_size(journal_max_size.max(JOURNAL_MIN))
            // With two or more, one spins while another compacts (fjall 3.1.13, worker_pool.rs).
            .worker_threads(1)
            .open()?;
        let meta =
            db.keyspace("meta", || KeyspaceCreateOptions::default().max_memtable_size(4 << 20))?;
        Ok::<_, fjall::Error>(Guarded { db, meta, written: AtomicU64::new(0) })
    }));
    match opened {
        Ok(Ok(guarded)) => Ok(guarded),
        Ok(Err(error)) => Err(open_error(dir, error)),
        Err(_) => Err(damaged(dir, "it made the storage engine panic, see the message before")),
    }
}

fn damaged(dir: &Path, reason: impl Into<String>) -> OpenError {
    OpenError::Damaged { dir: dir.into(), reason: reason.into() }
}

fn not_writable(dir: &Path, source: std::io::Error) -> OpenError {
    match source.kind() {
        std::io::ErrorKind::StorageFull => {
            OpenError::Disk { dir: dir.into(), reason: source.to_string() }
        }
        _ => OpenError::NotWritable { dir: dir.into(), source },
    }
}

/// What a failure of the engine means at start.
pub(super) fn open_error(dir: &Path, error: fjall::Error) -> OpenError {
    use std::io::ErrorKind as Kind;
    match error {
        fjall::Error::Locked => OpenError::Locked { dir: dir.into() },
        fjall::Error::Io(source)
            if matches!(source.kind(), Kind::PermissionDenied | Kind::ReadOnlyFilesystem) =>
        {
            OpenError::NotWritable { dir: dir.into(), source }
        }
        fjall::Error::Io(source) | fjall::Error::Storage(fjall::LsmError::Io(source))
            if source.kind() != Kind::NotFound && source.kind() != Kind::UnexpectedEof =>
        {
            OpenError::Disk { dir: dir.into(), reason: source.to_string() }
        }
        fjall::Error::Poisoned => {
            OpenError::Disk { dir: dir.into(), reason: "a background write failed".into() }
        }
        error => damaged(dir, error.to_string()),
    }
}

/// Whose it is. Of an older format: what it becomes when it is opened. A new folder becomes this node's.
fn identify(dir: &Path, part: &str, node: &str) -> Result<Option<Identity>, OpenError> {
    let supported = format_of(part);
    match read_identity(dir, part, node)? {
        Some(found) if found.format < supported => {
            Ok(Some(Identity { format: supported, ..found }))
        }
        Some(_) => Ok(None),
        None => {
            let identity = Identity { part: part.into(), format: supported, node: node.into() };
            let written = write_identity(dir, &dir.join(IDENTITY), &identity);
            written.map(|()| None).map_err(|source| not_writable(dir, source))
        }
    }
}

/// Whether this node can have the folder; it need not be there.
///
/// # Errors
/// It is another node's, of a newer format, or damaged.
pub fn check_folder(dir: &Path, part: &str, node: &str) -> Result<(), OpenError> {
    read_identity(dir, part, node).map(|_| ())
}

/// The node that the folders of this data directory belong to, where one of them says so.
pub fn node_of(data_dir: &Path) -> Option<String> {
    ["store", "log"].iter().find_map(|folder| {
        let text = fs::read(data_dir.join(folder).join(IDENTITY)).ok()?;
        Some(serde_json::from_slice::<Identity>(&text).ok()?.node)
    })
}

/// `None` for a new folder.
fn read_identity(dir: &Path, part: &str, node: &str) -> Result<Option<Identity>, OpenError> {
    let supported = format_of(part);
    let text = match fs::read(dir.join(IDENTITY)) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            if dir.join("version").exists() {
                return Err(damaged(dir, format!("{IDENTITY} is missing")));
            }
            return Ok(None);
        }
        Err(error) => return Err(not_writable(dir, error)),
    };
    let bad = |error: serde_json::Error| damaged(dir, format!("{IDENTITY}: {error}"));
    let found = serde_json::from_slice::<FormatOnly>(&text).map_err(bad)?.format;
    if found > supported {
        return Err(OpenError::Newer { dir: dir.into(), found, supported });
    }
    let identity: Identity = serde_json::from_slice(&text).map_err(bad)?;
    if identity.part != part {
        return Err(damaged(dir, format!("it holds a {}, not a {part}", identity.part)));
    }
    if identity.node != node {
        let (found, wanted) = (identity.node, node.into());
        return Err(OpenError::OtherNode { dir: dir.into(), found, wanted });
    }
    Ok(Some(identity))
}

fn write_identity(dir: &Path, path: &Path, identity: &Identity) -> std::io::Result<()> {
    let temporary = dir.join("identity.new");
    let mut file = fs::File::create(&temporary)?;
    serde_json::to_writer(&mut file, identity)?;
    file.flush()?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    fs::File::open(dir)?.sync_all()
}

/// A first start that died before fjall wrote its version marker leaves files on which it would
/// stumble. Nothing was ever acknowledged from there, provided the journal is empty.
fn clear_unfinished(dir: &Path) -> std::io::Result<()> {
    let version = dir.join("version");
    if fs::metadata(&version).is_ok_and(|m| m.len() > 0) {
        return Ok(());
    }
    let journal = dir.join("0.jnl");
    let mut first = [0u8; 1];
    let used = match fs::File::open(&journal) {
        Ok(mut file) => std::io::Read::read(&mut file, &mut first)? == 1 && first[0] != 0,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
        Err(error) => return Err(error),
    };
    if !used {
        for file in [version, journal] {
            match fs::remove_file(file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}

impl Guarded {
    pub(super) const fn db(&self) -> &Database {
        &self.db
    }

    pub(super) const fn meta(&self) -> &Keyspace {
        &self.meta
    }

    /// Opens or makes a keyspace that is read in ranges (no bloom filters) with so large a
    /// memtable.
    pub(super) fn keyspace(&self, name: &str, memtable: u64) -> fjall::Result<Keyspace> {
        self.db.keyspace(name, || {
            KeyspaceCreateOptions::default()
                .max_memtable_size(memtable)
                .filter_policy(fjall::config::FilterPolicy::disabled())
        })
    }

    /// An empty batch for so many rows.
    pub(super) fn batch(&self, rows: usize) -> OwnedWriteBatch {
        OwnedWriteBatch::with_capacity(self.db.clone(), rows)
    }

    /// Commits and, as `sync` says, waits for the disk. `touched` are the keyspaces that can hold
    /// much, `bytes` about what the batch holds.
    pub(super) fn commit<'a>(
        &self,
        batch: OwnedWriteBatch,
        sync: SyncPolicy,
        bytes: u64,
        touched: impl Iterator<Item = &'a Keyspace>,
    ) -> fjall::Result<()> {
        for keyspace in touched {
            // One less than where fjall would wait inside the commit, unable to see its flush
            // thread die. An asked-for rotation adds at most one.
            while keyspace.sealed_memtable_count() >= 3 || keyspace.tree.l0_run_count() >= 28 {
                self.db.persist(PersistMode::Buffer)?;
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        batch.durability(Some(sync.mode())).commit()?;
        if self.written.fetch_add(bytes, Ordering::Relaxed) + bytes >= JOURNAL_TURN {
            self.written.store(0, Ordering::Relaxed);
            self.meta.insert("turn", "")?;
            self.meta.rotate_memtable()?;
        }
        Ok(())
    }

    /// Bytes on disk, journals (64 MiB each from the start, sparse) included.
    pub(super) fn disk_space(&self) -> u64 {
        self.db.disk_space().unwrap_or(0)
    }
}

/// What a failure of the engine means while the node runs.
pub(super) fn store_error(error: fjall::Error) -> StoreError {
    match error {
        fjall::Error::Io(_)
        | fjall::Error::Storage(fjall::LsmError::Io(_))
        | fjall::Error::Poisoned
        | fjall::Error::Locked => StoreError::Unavailable(error.to_string()),
        error => StoreError::Unusable(error.to_string()),
    }
}
