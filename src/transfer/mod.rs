//! `broker storage`: looks over the configured session store, moves what it holds to a file and
//! back, from the embedded store to Cassandra or the other way.
//!
//! Written against [`hydrant_actors::ports::SessionStore`], so it knows neither store. The node does not run meanwhile:
//! the lock of its data directory is taken, and Cassandra knows of an incarnation like any other.
//!
//! - `format`: the file.
//! - `export`, `import`: from a store to a file, from a file into a store.
//! - `check`: `broker storage check`.

mod check;
mod export;
mod format;
mod import;
mod progress;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use std::io::Write;
use std::path::{Path, PathBuf};

use hydrant_actors::ports::StoreError;

use crate::config::Config;
use crate::node::{NodeError, NodeStore};
pub use check::check;
pub use format::Counts;
use format::FormatError;
use progress::Progress;

/// Why a store was not moved. Each is one sentence that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The store cannot be opened.
    #[error(transparent)]
    Open(#[from] NodeError),
    /// It cannot be read.
    #[error("{0}: see `broker storage check`")]
    Store(#[from] StoreError),
    /// It cannot be written, and has been in part.
    #[error(
        "{0}: part of the import is written; empty the store (drop the keyspace, or remove store/ in the data directory) and import again"
    )]
    HalfDone(StoreError),
    /// An embedded store that is not there.
    #[error("there is no store in {}: set --data-dir to that of the node", .0.display())]
    NoStore(PathBuf),
    /// An import into a store that is used already.
    #[error(
        "the store holds {0} already, and an import needs an empty one: choose another keyspace or data directory"
    )]
    NotEmpty(&'static str),
    /// An export does not overwrite.
    #[error("{} is there already: choose another name, or remove it", .0.display())]
    Exists(PathBuf),
    /// The file cannot be read or written, or is not an export.
    #[error("{}: {why}", file.display())]
    File {
        /// Which.
        file: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

impl TransferError {
    fn file(file: &Path, why: FormatError) -> Self {
        Self::File { file: file.to_owned(), why: why.to_string() }
    }
}

/// `broker storage export FILE`: writes what the configured store holds into a new file. Progress
/// goes to `err`.
///
/// # Errors
/// [`TransferError`]; there is no file then.
pub async fn export(
    config: &Config,
    file: &Path,
    err: &mut dyn Write,
) -> Result<(), TransferError> {
    if file.exists() {
        return Err(TransferError::Exists(file.to_owned()));
    }
    if config.cassandra.is_none() && !store_folder(config).exists() {
        return Err(TransferError::NoStore(config.data_dir.clone()));
    }
    let mut config = config.clone();
    if let Some(options) = &mut config.cassandra {
        // What is not there is not made.
        options.create_schema = false;
    }
    let mut progress = Progress::new(err, "exported");
    let opened = NodeStore::open(&config).await?;
    let node_id = &config.settings.node_id;
    let result = export::export(&*opened.store, node_id, file, &mut progress).await;
    opened.release().await;
    progress.line(&format!("exported {} to {}", result?, file.display()));
    Ok(())
}

/// `broker storage import FILE`: writes what the file holds into the configured store, which is
/// made where it is not there, and must be empty.
///
/// # Errors
/// [`TransferError`]; but for [`TransferError::HalfDone`] the store is as it was.
pub async fn import(
    config: &Config,
    file: &Path,
    err: &mut dyn Write,
) -> Result<(), TransferError> {
    // Before a store is made for it.
    import::reader(file)?;
    let mut progress = Progress::new(err, "imported");
    let opened = NodeStore::open(config).await?;
    let max_message = config.cassandra.as_ref().map(|_| config.settings.limits.max_packet_size);
    let result = import::import(&*opened.store, file, max_message, &mut progress).await;
    opened.release().await;
    progress.line(&format!("imported {} from {}", result?, file.display()));
    Ok(())
}

fn store_folder(config: &Config) -> PathBuf {
    config.data_dir.join(crate::node::STORE_FOLDER)
}
