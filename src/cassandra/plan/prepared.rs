//! Prepared publishes (table `open_publish`; docs/decisions/0014-prepared-publishes.md).

use cdrs_tokio::types::value::Value;
use hydrant_actors::ports::PreparedPublish;
use hydrant_protocol::cluster::message::PublishId;

use super::super::columns::{blob, int, long};
use super::super::db::Bound;
use super::super::planned::Plan;
use super::super::statements::Statement as S;
use super::batches::{PREPARED, cut_at};
use super::draft::Draft;
use crate::rows::{RowError, encode_prepared};

/// The publishes that a plan prepares, in order.
#[derive(Default)]
pub(super) struct Prepared(Vec<Bound>);

impl Prepared {
    /// A publish is prepared.
    pub(super) fn put(
        &mut self,
        draft: &mut Draft<'_>,
        prepared: &PreparedPublish,
    ) -> Result<(), RowError> {
        draft.writes_message = true;
        let [incarnation, lane, number] = key(prepared.id);
        let publish = blob(encode_prepared(prepared)?);
        let values = vec![incarnation, lane, number, publish, draft.timestamp()];
        self.0.push(Bound { statement: S::Prepare, values });
        // A node that dies must leave no prepared publish without the session's earlier ones: the
        // successor finishes prepared publishes before the client resends the others.
        draft.plan.sessions.extend(prepared.session);
        Ok(())
    }

    /// Adds them to the plan: among the others where all are written whole, else one batch after another.
    pub(super) fn finish(self, plan: &mut Plan) {
        let batches = cut_at(self.0, PREPARED);
        if plan.atomic {
            plan.batches.extend(batches);
        } else {
            plan.prepared = batches;
        }
    }
}

/// What a prepared publish causes here is stored.
pub(super) fn committed(draft: &mut Draft<'_>, id: PublishId) {
    // With what it causes, or that is lost or doubled.
    draft.plan.atomic = true;
    let [incarnation, lane, number] = key(id);
    let values = vec![incarnation, lane, number, draft.timestamp()];
    draft.single(S::Committed, values);
}

/// Removes those of an incarnation's router with a number below.
pub(super) fn forget(draft: &mut Draft<'_>, incarnation: u64, router: u16, below: u64) {
    let below = below.min(i64::MAX as u64);
    let router = int(i32::from(router));
    let values = vec![draft.timestamp(), long(incarnation), router, long(below)];
    draft.single(S::ForgetPrepared, values);
}

/// Removes all of an incarnation.
pub(super) fn forget_all(draft: &mut Draft<'_>, incarnation: u64) {
    let values = vec![draft.timestamp(), long(incarnation)];
    draft.single(S::DropPrepared, values);
    draft.plan.closed.push(incarnation);
}

fn key(id: PublishId) -> [Value; 3] {
    [long(id.incarnation), int(i32::from(id.router)), long(id.number)]
}
