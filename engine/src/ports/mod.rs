//! What the outside is handed and gives back, as data. The traits are in `hydrant-actors`, where drivers call them.

mod dead;
mod log;
mod op_cost;
mod shared_store;
mod store;

pub use dead::{DeadId, DeadLetter, NoDeadId};
pub use log::{Admission, LogError, LogRecord, OutboxPosition, Report};
pub use op_cost::op_cost;
pub use shared_store::{Holder, KnownIncarnation, OrphanedState, SealedIncarnation, Sealing};
pub use store::{
    ClusterOp, LaneState, Lanes, LogOp, OutgoingStage, PreparedPublish, QueueEntry, SessionId,
    SessionOp, StoreError, StoreOp, StoredBatch, StoredSession, StoredSubscription, StoredWill,
};
