//! What the actors of a node give each other to do, as plain data.
//!
//! Each message stands in a leaf: it knows the ports' data and the messages that it is made of, and no actor.

mod manager_task;

pub use hydrant_engine::messages::{
    AckSource, Answer, CompletionToken, DeadWork, InboundPeerBatch, LogWork, ManagerWork,
    MarkerReason, PeerWork, RemoteBatch, RouterWork, SMALL, StorageWork, StreamMarker, Transaction,
};
pub use manager_task::{ConnectionFault, ConnectionInfo, ManagerTask, NewSocket};
