//! What StorageActor was asked to write in one go.

use std::collections::HashSet;

use crate::messages::CompletionToken;
use crate::ports::op_cost;
use crate::ports::{LogOp, SessionId, SessionOp, StoreOp};

pub(super) fn cost(ops: &[StoreOp]) -> usize {
    ops.iter().map(op_cost).sum()
}

#[derive(Debug, Default)]
pub(super) struct Request {
    pub(super) ops: Vec<StoreOp>,
    pub(super) tokens: Vec<CompletionToken>,
    /// Its place among all requests.
    pub(super) number: u64,
    /// Of what is gathered, and while it is held back.
    pub(super) bytes: usize,
}

impl Request {
    pub(super) fn has_outbox(&self) -> bool {
        self.ops.iter().any(|op| matches!(op, StoreOp::Log(LogOp::PutOutbox { .. })))
    }

    /// The queue entries that it adds: session and sequence.
    pub(super) fn queued(&self) -> impl Iterator<Item = (SessionId, u64)> {
        self.ops.iter().filter_map(|op| match op {
            StoreOp::Session(SessionOp::PutQueued { id, entry }) => Some((*id, entry.sequence)),
            _ => None,
        })
    }

    /// Takes out what belongs to no publish, in its order: it does not wait for the outbox. An
    /// entry that is added and removed again is neither.
    pub(super) fn split_off(&mut self) -> Vec<StoreOp> {
        let ops = &mut self.ops;
        let mut added = HashSet::new();
        let mut gone = HashSet::new();
        let mut receipts = HashSet::new();
        for op in &*ops {
            match op {
                StoreOp::Session(SessionOp::PutQueued { id, entry }) => {
                    _ = added.insert((*id, entry.sequence))
                }
                StoreOp::Session(SessionOp::DeleteQueued { id, sequence })
                    if added.contains(&(*id, *sequence)) =>
                {
                    gone.insert((*id, *sequence));
                }
                StoreOp::Session(SessionOp::PutReceipt { id, packet_id }) => {
                    _ = receipts.insert((*id, *packet_id))
                }
                _ => {}
            }
        }
        let of_no_publish = |op: &StoreOp| match op {
            StoreOp::Session(SessionOp::PutSession { .. })
            | StoreOp::Session(SessionOp::DeleteSession { .. })
            | StoreOp::Session(SessionOp::PutSubscription { .. })
            | StoreOp::Session(SessionOp::DeleteSubscription { .. }) => true,
            // Not before the receipt that it ends.
            StoreOp::Session(SessionOp::DeleteReceipt { id, packet_id }) => {
                !receipts.contains(&(*id, *packet_id))
            }
            StoreOp::Session(SessionOp::DeleteQueued { id, sequence })
            | StoreOp::Session(SessionOp::PutOutgoing { id, sequence, .. }) => {
                !added.contains(&(*id, *sequence))
            }
            _ => false,
        };
        let now = ops.extract_if(.., |op| of_no_publish(op)).collect();
        ops.retain(|op| match op {
            StoreOp::Session(SessionOp::PutQueued { id, entry }) => {
                !gone.contains(&(*id, entry.sequence))
            }
            StoreOp::Session(SessionOp::DeleteQueued { id, sequence })
            | StoreOp::Session(SessionOp::PutOutgoing { id, sequence, .. }) => {
                !gone.contains(&(*id, *sequence))
            }
            _ => true,
        });
        now
    }
}
