//! StorageActor: writes what the workers ask for in group-committed batches, and answers.
//!
//! How batches form: what is asked for is gathered, and written as one batch as soon as
//! - nothing is in flight (a lone request at low load waits for nothing; `storage.batch_delay`, where
//!   it is not zero, is waited for here), or
//! - what is gathered is an eighth of a full batch (`storage.batch_max_ops`,
//!   `storage.batch_max_bytes`): worth a write of its own beside those in flight, or
//! - a millisecond at most has passed since the first operation was gathered, and it adds to no queue to
//!   which a batch in flight adds: a store would have it wait for that one, where it could gather more.
//!
//! With `storage.max_in_flight` batches in flight nothing is gathered: requests stay in the inbox,
//! where their bytes hold publishers back, and the next batch takes all of it up to a full one. So
//! batches grow with the load. With `max_in_flight` 1 (the embedded store: one writer, one sync at
//! a time) this is all there is: a batch fills while the one before it is written.
//!
//! Acknowledgements leave only after the write, in the order of the batches.

mod actor;
#[cfg(test)]
mod tests;

pub use actor::{StorageActor, StorageParts, describe};
use hydrant_engine::storage::write_queue;
pub use write_queue::WriteQueue;
