//! What an operation of the store costs while it waits.

use super::store::{ClusterOp, LogOp, SessionOp, StoreOp};

/// What an operation counts with against `storage.max_pending_bytes`: its place in a list, and what it points to.
pub fn op_cost(op: &StoreOp) -> usize {
    let points_to = match op {
        StoreOp::Session(op) => match op {
            SessionOp::PutQueued { entry, .. } => entry.message.cost(),
            SessionOp::PutSession { client_id, .. }
            | SessionOp::DeleteSession { client_id, .. } => client_id.len(),
            SessionOp::PutSubscription { filter, owes, .. } => {
                filter.len() + owes.as_ref().map_or(0, |topic| topic.len())
            }
            SessionOp::DeleteSubscription { filter, .. } => filter.len(),
            SessionOp::PutOutgoing { .. }
            | SessionOp::DeleteQueued { .. }
            | SessionOp::PutReceipt { .. }
            | SessionOp::DeleteReceipt { .. } => 0,
        },
        StoreOp::Log(op) => match op {
            LogOp::PutOutbox { record, .. } => record.cost(),
            LogOp::PutDeadLetter { letter } => letter.record.cost(),
            LogOp::DropDeadLetter { .. } | LogOp::MoveCursor { .. } => 0,
        },
        StoreOp::Cluster(op) => match op {
            ClusterOp::Prepare(prepared) => prepared.message.cost() + prepared.publisher.len(),
            ClusterOp::ExceptPeerBatch { client_id, .. }
            | ClusterOp::CompletePeerBatch { client_id, .. } => client_id.len(),
            ClusterOp::PutPeerBatch { prepared, .. } => size_of_val(prepared.as_slice()),
            ClusterOp::ForgetPeerBatches { .. }
            | ClusterOp::Committed { .. }
            | ClusterOp::ForgetPrepared { .. } => 0,
        },
        StoreOp::PutRetained { message, .. } => message.cost(),
        StoreOp::DeleteRetained { topic, .. } => topic.len(),
        StoreOp::PutWill { will } => will.client_id.len() + will.message.cost(),
        StoreOp::DeleteWill { client_id, .. } => client_id.len(),
    };
    size_of::<StoreOp>() + points_to
}
