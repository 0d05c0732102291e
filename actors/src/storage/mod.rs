//! StorageActor: writes what the arbiters ask for in group-committed batches, and answers.
//!
//! A batch is written while the next one fills: at low load a lone write waits for nothing, at
//! high load batches grow. Acknowledgements leave only after the write.

mod actor;
mod book;

pub use actor::{StorageActor, StorageParts, describe};
pub use book::StorageBook;
