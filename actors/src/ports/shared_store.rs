//! What a cluster needs of a session store that its nodes share: whose a session is, and how it
//! changes hands.
//!
//! A session is *held* by one incarnation, which alone writes it. It changes hands in one of two
//! ways: its holder gives it up and another takes it, or its holder is sealed and the one who sealed
//! it takes all that it held.

use std::sync::Arc;

use hydrant_engine::ports::{
    Holder, KnownIncarnation, PreparedPublish, SealedIncarnation, Sealing, SessionId, StoredBatch,
    StoredSession,
};

use super::store::{SessionStore, StoreFuture};

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
