//! What machines and their drivers give each other to do, as plain data.
//!
//! Each message stands in a leaf: it knows the ports' data and the messages that it is made of, and no machine.

pub mod arena;
mod completion;
mod log;
mod manager;
mod peer_batch;
mod peers;
mod remote_batch;
mod router;
mod storage;
mod stream_marker;

pub use self::log::{DeadWork, LogWork};
pub use completion::{AckSource, CompletionToken, Transaction};
pub use manager::ManagerWork;
pub use peer_batch::InboundPeerBatch;
pub use peers::{Answer, PeerWork};
pub use remote_batch::RemoteBatch;
pub use router::RouterWork;
pub use storage::StorageWork;
pub use stream_marker::{MarkerReason, StreamMarker};

/// Cost of a small message, in an inbox that is bounded by bytes.
pub const SMALL: usize = 64;
