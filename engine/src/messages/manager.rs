//! Work for the worker of a ConnectionManager.

use std::collections::VecDeque;
use std::sync::Arc;

use hydrant_protocol::cluster::dedup::Visit;

use super::CompletionToken;
use crate::ports::{PreparedPublish, QueueEntry, StoredBatch, StoredSession, StoredWill};

/// Work for a worker, which its manager hands to it.
#[derive(Debug)]
pub enum ManagerWork {
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
}

impl ManagerWork {
    /// Whether it is done again when the first attempt has panicked; the rest is lost with such an attempt.
    pub fn is_repeated(&self) -> bool {
        matches!(self, Self::Completed(_) | Self::Refused(_) | Self::QueuePage { .. })
    }
}
