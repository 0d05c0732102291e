//! What the actors of a node give each other to do, as plain data.
//!
//! Each message stands in a leaf: it knows the ports' data and the messages that it is made of, and no actor.

mod manager;
mod manager_task;
mod peers;
mod remote_batch;
mod router;
mod storage;

pub(crate) use hydrant_engine::messages::arena;
pub use hydrant_engine::messages::{
    AckSource, CompletionToken, DeadWork, InboundPeerBatch, LogWork, MarkerReason, StreamMarker,
    Transaction,
};
pub use manager::ManagerWork;
pub use manager_task::{ConnectionFault, ConnectionInfo, ManagerTask, NewSocket};
pub use peers::{Answer, PeerWork};
pub use remote_batch::RemoteBatch;
pub use router::RouterWork;
pub use storage::StorageWork;

/// Cost of a small message, in an inbox that is bounded by bytes.
pub const SMALL: usize = 64;
