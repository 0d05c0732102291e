//! What the actor tree needs from outside, as traits. `src/` implements them; nothing here knows
//! Kafka, fjall or Cassandra.

mod log;
mod membership;
mod shared_store;
mod store;

pub use hydrant_engine::ports::{
    Admission, DeadId, DeadLetter, LogError, LogRecord, NoDeadId, OutboxPosition, Report,
};
pub use log::MessageLog;
pub use membership::{Membership, MembershipFuture};
pub use shared_store::{
    Holder, KnownIncarnation, OrphanedState, SealedIncarnation, Sealing, SharedStore,
};
pub use store::{
    ClusterOp, LaneState, Lanes, LogOp, OutgoingStage, PreparedPublish, QueueEntry, SessionId,
    SessionOp, SessionStore, StoreError, StoreFuture, StoreOp, StoredBatch, StoredSession,
    StoredSubscription, StoredWill, UNFINISHED, UNFINISHED_WHY,
};
