//! Work for StorageActor.

use super::{CompletionToken, Transaction};
use crate::ports::{SessionId, StoreOp};

/// Work for StorageActor.
#[derive(Debug)]
pub enum StorageWork {
    /// Writes `ops` atomically, then answers each token.
    Write {
        /// In order.
        ops: Vec<StoreOp>,
        /// Answered together, after the write.
        tokens: Vec<CompletionToken>,
        /// Written only together with its other parts.
        transaction: Option<Transaction>,
        /// The worker whose order it keeps: nothing it pushes later is done before. `None`: a part
        /// of another worker's transaction, or not a worker's.
        origin: Option<u16>,
    },
    /// Reads a page of a session's queue; sees every write that `worker` has pushed before it.
    ReadQueue {
        /// Where the answer goes.
        worker: u16,
        /// The session's slot there.
        slot: u32,
        /// Number of this request; the answer repeats it.
        request: u32,
        /// The session.
        session: SessionId,
        /// First sequence wanted.
        from: u64,
        /// One past the last that is wanted: the entries below are pushed before this.
        until: u64,
        /// Entries at most.
        limit: usize,
        /// Their bytes at most, about; one entry in any case.
        max_bytes: usize,
    },
}
