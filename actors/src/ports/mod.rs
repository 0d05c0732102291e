//! What the actor tree needs from outside, as traits. `src/` implements them; nothing here knows
//! Kafka, fjall or Cassandra.

mod log;
mod membership;
mod shared_store;
mod store;

pub use log::{LogError, LogRecord, MessageLog, OutboxPosition, Report};
pub use membership::{Membership, MembershipFuture};
pub use shared_store::{Estate, Holder, Sealing, SharedStore};
pub use store::{
    LaneState, Lanes, OpenPublish, OutgoingStage, QueueEntry, SessionId, SessionStore, StoreError,
    StoreFuture, StoreOp, StoredSession, StoredSubscription, StoredWill, UNFINISHED,
    UNFINISHED_WHY,
};
