//! What a step asks of the store that the nodes share and is answered at once, without waiting.
//!
//! Everything else that is asked of the store is a request, and its answer is a message. What a start has found in the
//! store is [`Beginning`].

use crate::ports::{PreparedPublish, SealedIncarnation, SessionId, StoredBatch};

/// The right to act, which the store grants for a time.
pub trait Lease: Send + Sync {
    /// False once the lease is over, until it is renewed: another node may have taken over what this one held, so
    /// nothing may leave it. Cheap: asked before every read of a socket. It is not compared with the time of the step,
    /// since a step may be interrupted for seconds.
    fn holds(&self) -> bool;
}

/// Giving sessions up.
pub trait GiveUp: Send + Sync {
    /// Forgets a session that another node will take, once every write of it has ended: when that is, as the store
    /// counts.
    fn give_up(&self, session: SessionId) -> u64;
}

/// What a start is and goes on with, as the store has told it.
#[derive(Debug, Clone, Default)]
pub struct Beginning {
    /// The number of this start.
    pub incarnation: u64,
    /// The lineage of this start.
    pub lineage: u64,
    /// Incarnations that were over before this start and whose sessions it has had from the beginning.
    pub continued: Vec<SealedIncarnation>,
    /// Batches of other nodes that these had stored.
    pub batches: Vec<StoredBatch>,
    /// QoS 2 publishes that these had begun.
    pub prepared: Vec<PreparedPublish>,
}
