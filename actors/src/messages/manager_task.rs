//! What stands in the inbox of a ConnectionManager: work for its worker, and tasks of its own.

use std::net::SocketAddr;

use tokio::sync::oneshot;

use super::ManagerWork;
/// What a test can make a connection actor do: the same as any other actor.
pub use crate::supervision::Fault as ConnectionFault;

/// A new socket on its way to the worker that will own it.
#[derive(Debug)]
pub struct NewSocket {
    /// Non-blocking, accepted.
    pub stream: std::net::TcpStream,
    /// The client as far as it is known.
    pub peer: SocketAddr,
    /// Bytes already read from it, without a PROXY header.
    pub read: Vec<u8>,
    /// A PROXY header comes before the client's bytes.
    pub header_first: bool,
}

/// One row of `broker tree --connections`.
#[derive(Debug, Clone)]
pub struct ConnectionInfo {
    /// Client id; empty before CONNECT.
    pub client_id: String,
    /// Index of its manager.
    pub manager: usize,
    /// Peer address.
    pub address: String,
    /// CleanSession.
    pub clean: bool,
    /// Milliseconds since the socket was accepted.
    pub connected_ms: u64,
    /// Outgoing QoS 1-2 messages in flight.
    pub inflight: usize,
    /// Messages waiting for it.
    pub queued: usize,
    /// Bytes waiting in its outgoing buffer.
    pub output_bytes: usize,
}

/// See the module.
#[derive(Debug)]
pub enum ManagerTask {
    /// For the worker.
    Worker(ManagerWork),
    /// For the worker, and who is told when it is done.
    Told {
        /// For the worker.
        work: ManagerWork,
        /// Told when it is done.
        done: oneshot::Sender<()>,
    },
    /// Start a connection actor for this socket.
    Accept(NewSocket),
    /// List connections.
    List {
        /// Skip so many.
        skip: usize,
        /// Give so many at most.
        limit: usize,
        /// The answer.
        reply: oneshot::Sender<Vec<ConnectionInfo>>,
    },
    /// How many connections are past their CONNECT.
    Connected {
        /// The answer.
        reply: oneshot::Sender<usize>,
    },
    /// Make a client's connection actor misbehave.
    Fault {
        /// Whose.
        client_id: String,
        /// How.
        fault: ConnectionFault,
    },
    /// Stop reading, finish what is in flight, close. Answered when no connection is left.
    Drain {
        /// Sent when the last connection is gone.
        done: oneshot::Sender<()>,
    },
}

impl From<ManagerWork> for ManagerTask {
    fn from(work: ManagerWork) -> Self {
        Self::Worker(work)
    }
}
