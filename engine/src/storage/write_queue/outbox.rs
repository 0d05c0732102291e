//! Outbox entries on their way through a batch: each gets its position in its lane when the batch is formed, and keeps
//! it when the batch is written again.

use crate::log::OutboxProgress;
use crate::ports::{LogOp, StoreOp};

/// Gives the outbox entries of a batch their positions.
pub fn assign_positions(outbox: &mut OutboxProgress, ops: &mut [StoreOp]) {
    for op in ops {
        if let StoreOp::Log(LogOp::PutOutbox { record, position }) = op {
            position.position = outbox.assign(position.lane, record.cost() as u64);
            record.outbox = Some(*position);
        }
    }
}
