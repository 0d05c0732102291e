//! What one write has to do, as data.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hydrant_engine::ports::SessionId;

use super::tables::{Change, WillName};

/// A session whose holder has to be confirmed before anything else of the plan is written.
#[derive(Debug, Clone)]
pub(super) struct Epoch {
    pub(super) client_id: Arc<str>,
    pub(super) id: SessionId,
    pub(super) epoch: u64,
    pub(super) fence: u64,
    pub(super) lineage: u64,
    /// It is new: it has to be put into the lineage's index.
    pub(super) index: bool,
}

/// Changes of one session's receipts, in order: packet id, and whether it is held.
#[derive(Debug, Clone, Default)]
pub(super) struct Receipts {
    pub(super) changes: Vec<(u16, bool)>,
    pub(super) stamp: u64,
}

/// See the module. Its fields as in `src/cassandra/planned.rs`.
#[derive(Debug, Clone, Default)]
pub(super) struct Plan {
    pub(super) epochs: Vec<Epoch>,
    /// Sessions that are deleted, whose queue's buckets have to be found first.
    pub(super) deleted: Vec<(SessionId, u64)>,
    /// Their holders are removed last.
    pub(super) ended: Vec<(Arc<str>, SessionId, u64)>,
    /// All or nothing, also when this node dies in between.
    pub(super) atomic: bool,
    /// The slot of the journal in which it stands whole.
    pub(super) journaled: Option<u8>,
    pub(super) single: Vec<Change>,
    /// Each is one mutation.
    pub(super) batches: Vec<Vec<Change>>,
    /// Beside these, one after another.
    pub(super) prepared: Vec<Vec<Change>>,
    /// After these, one after another; each may be done in any order.
    pub(super) then: Vec<Vec<Change>>,
    /// After all of these.
    pub(super) last: Vec<Vec<Change>>,
    pub(super) receipts: BTreeMap<SessionId, Receipts>,
    /// To whose queues it adds, and whose publishes it prepares.
    pub(super) sessions: BTreeSet<SessionId>,
    pub(super) cursors: Vec<(u16, u64)>,
    pub(super) discharged: Vec<WillName>,
    pub(super) closed: Vec<u64>,
    pub(super) outbox_marks: Vec<(u16, u64)>,
    pub(super) queue_marks: Vec<(SessionId, u64)>,
    pub(super) dropped: Vec<(u16, u64)>,
}
