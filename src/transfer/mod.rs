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
mod error;
mod export;
mod format;
mod import;
mod progress;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use std::io::Write;
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::node::NodeStore;
pub use check::check;
pub use error::TransferError;
pub use format::Counts;
use progress::Progress;

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
