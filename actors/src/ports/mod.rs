//! What the actor tree needs from outside, as traits. `src/` implements them; nothing here knows
//! Kafka, fjall or Cassandra.

mod dead;
mod log;
mod membership;
mod shared_store;
mod store;

pub use dead::{DeadId, DeadLetter, NoDeadId};
pub use log::{Admission, LogError, LogRecord, MessageLog, OutboxPosition, Report};
pub use membership::{Membership, MembershipFuture};
pub use shared_store::{
    Holder, KnownIncarnation, OrphanedState, SealedIncarnation, Sealing, SharedStore,
};
pub use store::{
    LaneState, Lanes, OutgoingStage, PreparedPublish, QueueEntry, SessionId, SessionStore,
    StoreError, StoreFuture, StoreOp, StoredBatch, StoredSession, StoredSubscription, StoredWill,
    UNFINISHED, UNFINISHED_WHY,
};
