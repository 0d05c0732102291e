//! What one call of `write` has to do, as data: [`Plan`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hydrant_actors::ports::SessionId;

use super::db::Bound;
use super::wills;

/// A session whose epoch has to be raised before anything else of the plan is written.
#[derive(Debug, Clone)]
pub(super) struct Epoch {
    pub(super) client_id: Arc<str>,
    pub(super) id: SessionId,
    pub(super) epoch: u64,
    /// The higher wins.
    pub(super) fence: u64,
    /// The lineage under which it is held; this incarnation where the keyspace is its own.
    pub(super) holder: u64,
    /// It has to be put into the lineage's index.
    pub(super) index: Option<Bound>,
}

/// What one call of `write` has to do, in this order: epochs and queues, the journal, the rest.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) epochs: Vec<Epoch>,
    /// Sessions that are deleted, whose queue's buckets have to be found first: id, timestamp.
    pub(super) deleted: Vec<(SessionId, u64)>,
    /// Their rows in `session_epoch`, where nobody has raised the fence above the timestamp.
    pub(super) ended: Vec<(Arc<str>, SessionId, u64)>,
    /// All or nothing, also when this node dies in between.
    pub(super) atomic: bool,
    /// The slot of the journal in which it stands whole.
    pub(super) journaled: Option<i32>,
    /// One statement each.
    pub(super) single: Vec<Bound>,
    /// Of one partition each.
    pub(super) batches: Vec<Vec<Bound>>,
    /// Beside these, one after another: prepared publishes of one partition each, so that none of a
    /// publisher's is ever there without those before it.
    pub(super) prepared: Vec<Vec<Bound>>,
    /// After these, one after another: what a session gets in more than one row, so that none of
    /// them is ever there without those before it.
    pub(super) then: Vec<Vec<Bound>>,
    /// After all of these: removes what leads to what they remove, so that nothing is left that
    /// nobody can find.
    pub(super) last: Vec<Vec<Bound>>,
    /// What changes in the receipts of sessions; see [`receipts`](super::plan::receipts::bind).
    pub(super) receipts: BTreeMap<SessionId, Receipts>,
    /// To whose queues it adds, and whose publishes it prepares.
    pub(super) sessions: BTreeSet<SessionId>,
    /// Cursors that will be written.
    pub(super) cursors: Vec<(u16, u64)>,
    /// Wills that have ended: their places are empty.
    pub(super) discharged: Vec<wills::Name>,
    /// Dead incarnations whose prepared publishes are everywhere.
    pub(super) closed: Vec<u64>,
    /// Buckets that will be in their directory: for [`Memory::succeeded`](super::memory::Memory::succeeded).
    pub(super) outbox_marks: Vec<(u16, u64)>,
    pub(super) queue_marks: Vec<(SessionId, u64)>,
    /// Buckets below are dropped.
    pub(super) dropped: Vec<(u16, u64)>,
}

/// Changes of one session's receipts, in order: packet id, and whether it is held.
#[derive(Debug, Default)]
pub(super) struct Receipts {
    pub(super) changes: Vec<(u16, bool)>,
    /// Above every statement of earlier plans.
    pub(super) timestamp: u64,
}
