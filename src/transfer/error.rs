//! Why a store was not moved.

use std::path::{Path, PathBuf};

use hydrant_actors::ports::StoreError;

use super::format::FormatError;
use crate::node::NodeError;

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
    pub(super) fn file(file: &Path, why: FormatError) -> Self {
        Self::File { file: file.to_owned(), why: why.to_string() }
    }
}
