//! What the requests that are held back would write, so that none of them undoes what was written
//! meanwhile and no page of a queue is read around them.
//!
//! Invariants: each request is held once, and what it holds is gone from here when it is let go.
//! An operation that something newer has made untrue is dropped then: an entry that was delivered,
//! the end of a will that has been replaced.
//! Bounds: an entry for each operation that is held back, whose bytes count ([`Held::bytes`]); a
//! will replaced meanwhile for each client that connected while something was held back.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use super::Request;
use crate::ports::{SessionId, StoreOp};
use crate::shard::op_cost;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Held {
    requests: usize,
    bytes: usize,
    /// Queue entries; true: the subscriber has it already.
    entries: HashMap<(SessionId, u64), bool>,
    /// How many entries of a session's queue; none: no row.
    sessions: HashMap<SessionId, usize>,
    /// Clients whose will was replaced meanwhile, by which request.
    new_wills: HashMap<Arc<str>, u64>,
}

pub(super) fn cost(ops: &[StoreOp]) -> usize {
    ops.iter().map(op_cost).sum()
}

impl Held {
    /// Bytes of all that is held back.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Entries of this session's queue are held back.
    pub(super) fn has_session(&self, id: SessionId) -> bool {
        self.sessions.contains_key(&id)
    }

    /// The request is held back from now on.
    pub(super) fn hold(&mut self, request: &mut Request) {
        request.bytes = cost(&request.ops);
        self.bytes += request.bytes;
        self.requests += 1;
        for op in &request.ops {
            if let StoreOp::PutQueued { id, entry } = op {
                self.entries.insert((*id, entry.sequence), false);
                *self.sessions.entry(*id).or_default() += 1;
            }
        }
    }

    /// The request is held back no longer: without what is no longer true.
    pub(super) fn let_go(&mut self, request: &mut Request) {
        self.bytes -= request.bytes;
        self.requests -= 1;
        for session in request.queues() {
            if let Entry::Occupied(mut held) = self.sessions.entry(session) {
                *held.get_mut() -= 1;
                if *held.get() == 0 {
                    held.remove();
                }
            }
        }
        let (entries, wills, number) = (&mut self.entries, &self.new_wills, request.number);
        request.ops.retain(|op| match op {
            StoreOp::PutQueued { id, entry } => {
                entries.remove(&(*id, entry.sequence)) != Some(true)
            }
            StoreOp::DeleteWill { client_id } => {
                wills.get(client_id).is_none_or(|new| *new < number)
            }
            _ => true,
        });
        if self.requests == 0 {
            self.new_wills.clear();
        }
    }

    /// What these operations, of request `number`, do to those that are held back: they are written
    /// before them.
    pub(super) fn written_before(&mut self, ops: &[StoreOp], number: u64) {
        if self.requests == 0 {
            return;
        }
        for op in ops {
            match op {
                StoreOp::DeleteQueued { id, sequence } => {
                    if let Some(gone) = self.entries.get_mut(&(*id, *sequence)) {
                        *gone = true;
                    }
                }
                StoreOp::PutWill { will } => {
                    let newest = self.new_wills.entry(Arc::clone(&will.client_id)).or_default();
                    *newest = number.max(*newest);
                }
                _ => {}
            }
        }
    }
}
