//! What a session store that nodes share tells of a session's hands: whose it is, and what one who is lost had.
//!
//! A session is *held* by one incarnation, which alone writes it. It changes hands in one of two
//! ways: its holder gives it up and another takes it, or its holder is sealed and the one who sealed
//! it takes all that it held.

use std::sync::Arc;
use std::time::Duration;

use super::dead::DeadId;
use super::store::{Lanes, PreparedPublish, SessionId, StoredBatch, StoredSession, StoredWill};

/// Who holds a persistent session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder {
    /// The session.
    pub id: SessionId,
    /// The incarnation that writes it.
    pub incarnation: u64,
}

/// An incarnation that is over. Incarnations of a node that followed each other are one *lineage*, under whose
/// number their sessions are held: that of the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealedIncarnation {
    /// Its number.
    pub number: u64,
    /// Its lineage.
    pub lineage: u64,
}

/// An incarnation as it stands in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownIncarnation {
    /// Its number.
    pub number: u64,
    /// Node id.
    pub node: Arc<str>,
    /// As in [`SealedIncarnation::lineage`].
    pub lineage: u64,
    /// The end of its chain of owners, which nobody has sealed: itself while it holds its own sessions.
    pub owner: u64,
    /// It ended in order, so a seal does not wait for its lease.
    pub released: bool,
    /// How long it acknowledges after a renewal.
    pub lease: Duration,
}

/// What a sealed incarnation held, now ours.
#[derive(Debug, Clone, Default)]
pub struct OrphanedState {
    /// The sealed one, and those before it that it had sealed itself.
    pub incarnations: Vec<SealedIncarnation>,
    /// Its sessions, as after `SharedStore::take`: already this incarnation's.
    pub sessions: Vec<StoredSession>,
    /// Wills of connections that it did not see end.
    pub wills: Vec<StoredWill>,
    /// Batches of other nodes that it had stored.
    pub batches: Vec<StoredBatch>,
    /// QoS 2 publishes that it had begun, and those before it; not over before
    /// [`ClusterOp::ForgetPrepared`](super::store::ClusterOp::ForgetPrepared).
    pub prepared: Vec<PreparedPublish>,
    /// Its outbox and what it had left to drain of others, under lane numbers that this store uses
    /// for nothing else; `read_outbox` and `MoveCursor` take them from now on.
    pub lanes: Lanes,
    /// Its dead letters, which are this incarnation's from now on, each with its cost.
    pub dead_letters: Vec<(DeadId, u64)>,
}

/// How an attempt to seal an incarnation ended.
#[derive(Debug, Clone)]
pub enum Sealing {
    /// It is over and nobody else has what it held.
    Ours(Box<OrphanedState>),
    /// Another incarnation has sealed it (or it was sealed before and is drained).
    Others(u64),
    /// It renews its lease.
    Alive,
}
