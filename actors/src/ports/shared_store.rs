//! What a cluster needs of a session store that its nodes share: whose a session is, and how it
//! changes hands.
//!
//! A session is *held* by one incarnation, which alone writes it. It changes hands in one of two
//! ways: its holder gives it up and another takes it, or its holder is sealed and the one who sealed
//! it takes all that it held.

use std::sync::Arc;
use std::time::Duration;

use super::store::{
    Lanes, PreparedPublish, SessionId, SessionStore, StoreFuture, StoredBatch, StoredSession,
    StoredWill,
};
use hydrant_engine::ports::DeadId;

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
    /// Its sessions, as after [`SharedStore::take`]: already this incarnation's.
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

/// See the module.
pub trait SharedStore: SessionStore {
    /// This start's number. Greater than that of every start before it.
    fn incarnation(&self) -> u64;
    /// Incarnations that were over before this start and whose sessions it has had from the beginning.
    fn continues(&self) -> Vec<SealedIncarnation>;
    /// The lineage of this start.
    fn lineage(&self) -> u64;
    /// Every other incarnation that shares the store, also one that is sealed and drained while sessions are held
    /// under its number. Sees every start that had begun before the call.
    fn incarnations(&self) -> StoreFuture<Vec<KnownIncarnation>>;
    /// The filters to which the persistent sessions of a lineage are subscribed with QoS 1-2, each once.
    fn wanted(&self, lineage: u64) -> StoreFuture<Vec<Arc<str>>>;
    /// Batches of other nodes that these had stored.
    fn stored_batches(&self) -> Vec<StoredBatch>;
    /// QoS 2 publishes that these had begun.
    fn prepared_publishes(&self) -> Vec<PreparedPublish>;
    /// False once the lease is over by the boot-time clock, until it is renewed: another may have
    /// taken over what this node held, so nothing may leave it. Cheap: asked before every read of
    /// a socket.
    fn holds_lease(&self) -> bool;
    /// Who holds a client's session; `None`: it has none. Sees every handover that ended
    /// before the call.
    fn locate(&self, client_id: Arc<str>) -> StoreFuture<Option<Holder>>;
    /// Takes a session from `from`, whose holder has given it up or is sealed by this incarnation.
    /// `None`: it is not as in `from` (any more), or was taken by anybody after `until` (as
    /// [`SharedStore::give_up`] says it; [`u64::MAX`]: whenever), nothing was changed. From its success on no write of
    /// the earlier holder has an effect, whatever comes late.
    fn take(
        &self,
        client_id: Arc<str>,
        from: Holder,
        until: u64,
    ) -> StoreFuture<Option<StoredSession>>;
    /// Forgets a session that another will take: nothing is written for it from here any more.
    /// Called when every write of it has ended, successfully. When that is, as the store counts: whoever takes
    /// it, its holder included, does so later.
    fn give_up(&self, id: SessionId) -> u64;
    /// Watches an incarnation until its lease is over, seals it and takes all that it held. At
    /// most a little longer than its lease when it is dead; at once when it ended cleanly.
    fn seal(&self, incarnation: u64) -> StoreFuture<Sealing>;
}
