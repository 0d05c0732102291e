//! Work for a ConnectionManager.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use hydrant_protocol::cluster::dedup::Visit;
use tokio::sync::oneshot;

use super::CompletionToken;
use crate::ports::{PreparedPublish, QueueEntry, StoredBatch, StoredSession, StoredWill};
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

/// Work for a ConnectionManager.
#[derive(Debug)]
pub enum ManagerWork {
    /// Start a connection actor for this socket.
    Accept(NewSocket),
    /// Store or log have answered.
    Completed(VecDeque<CompletionToken>),
    /// A publish that the log refused for good: its publisher is disconnected, never acknowledged.
    Refused(CompletionToken),
    /// A page of a session's queue.
    QueuePage {
        /// The session's slot.
        slot: u32,
        /// Number of the request: an answer to an earlier connection's is not taken for this one's.
        request: u32,
        /// Entries in order; fewer than asked for: there are no more.
        entries: Vec<QueueEntry>,
    },
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
    /// A client may be let in: no other node has its session any more.
    Granted {
        /// Its connection and the number of the claim.
        conn: (usize, u32),
        /// Client id.
        client: Arc<str>,
        /// Its persistent session, taken over from another node.
        taken: Option<Box<StoredSession>>,
        /// Rises from one to the next.
        admission: u64,
    },
    /// Another node lets a client of ours in: its connection ends and its session is given up.
    Release {
        /// Who asks, and its ticket.
        owner: Arc<str>,
        /// See `owner`.
        ticket: u64,
        /// Client id.
        client: Arc<str>,
        /// The node that gets it.
        to: Arc<str>,
    },
    /// Every origin has marked a handover.
    AllMarked {
        /// Its number.
        id: u64,
        /// Whose session it is.
        client: Arc<str>,
    },
    /// The node that should have got a session is lost.
    KeepSession {
        /// Number of the handover.
        id: u64,
        /// Whose session it is.
        client: Arc<str>,
    },
    /// The node that gets a session has it.
    HandedOver {
        /// Number of the handover.
        id: u64,
        /// Whose session it is.
        client: Arc<str>,
    },
    /// The store has answered whose a session is that was given up to a node that is lost.
    Recovered {
        /// Number of the handover.
        id: u64,
        /// Whose session it is.
        client: Arc<str>,
        /// The session, this node's again; `None`: another node has it.
        taken: Option<Box<StoredSession>>,
    },
    /// Every node has sent again what a lost incarnation had not stored.
    Settled {
        /// The incarnation.
        incarnation: u64,
    },
    /// What a lost node held and is ours now.
    TakeOver {
        /// Sessions whose home is this worker.
        sessions: Vec<StoredSession>,
        /// Wills whose connections the lost node did not see end.
        wills: Vec<StoredWill>,
        /// QoS 2 publishes of theirs that the lost node had begun.
        prepared: Vec<PreparedPublish>,
        /// The lost incarnation.
        incarnation: u64,
        /// Batches of other nodes that it had stored.
        batches: Arc<[StoredBatch]>,
        /// Told when their subscriptions are in force.
        done: oneshot::Sender<()>,
    },
    /// Where a session was that has come, or is on its way.
    Visited {
        /// Whose session it is.
        client: Arc<str>,
        /// Where.
        visits: Vec<Visit>,
    },
    /// It is known who wants what earlier starts of this node had begun.
    FinishOpen,
    /// Stop reading, finish what is in flight, close. Answered when no connection is left.
    Drain {
        /// Sent when the last connection is gone.
        done: oneshot::Sender<()>,
    },
}
