//! What the actor tree needs from outside, as traits. `src/` implements them; nothing here knows
//! Kafka, fjall or Cassandra.

mod log;
mod membership;
mod shared_store;
mod store;

pub use hydrant_engine::ports::{
    Admission, ClusterOp, DeadId, DeadLetter, Holder, KnownIncarnation, LaneState, Lanes, LogError,
    LogOp, LogRecord, NoDeadId, OrphanedState, OutboxPosition, OutgoingStage, PreparedPublish,
    QueueEntry, Report, SealedIncarnation, Sealing, SessionId, SessionOp, StoreError, StoreOp,
    StoredBatch, StoredSession, StoredSubscription, StoredWill,
};
pub use log::MessageLog;
pub use membership::{Membership, MembershipFuture};
pub use shared_store::SharedStore;
pub use store::{SessionStore, StoreFuture, UNFINISHED, UNFINISHED_WHY};
