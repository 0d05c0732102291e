//! Sessions: their rows, and what raises their epochs and ends them (tables `session` and `session_epoch`).

use std::sync::Arc;

use hydrant_actors::ports::SessionId;

use super::super::columns::{held_put, int, long, session_shard, signed, text};
use super::super::db::Bound;
use super::super::planned::Epoch;
use super::super::statements::Statement as S;
use super::draft::Draft;

/// Makes or replaces a session's row. At its CONNECT, and where it is new, its epoch is raised before.
pub(super) fn put(
    draft: &mut Draft<'_>,
    id: SessionId,
    client_id: &Arc<str>,
    epoch: u64,
    disconnected_ms: Option<u64>,
) {
    let shard = session_shard(id);
    let fence = draft.memory.timestamp();
    let since = disconnected_ms.map_or(-1, |ms| i64::try_from(ms).unwrap_or(i64::MAX));
    let values =
        vec![int(shard), long(id), text(client_id), long(epoch), signed(since), long(fence)];
    draft.group(S::PutSession, shard, Bound { statement: S::PutSession, values });
    let holding = draft.memory.owned_sessions.as_ref().and_then(|owned| owned.get(id));
    let new = holding.is_some_and(|holding| !holding.indexed);
    // At CONNECT; what a disconnect says changes nobody's ownership.
    if disconnected_ms.is_none() || new {
        let client_id = Arc::clone(client_id);
        let holder = holding.map_or(draft.memory.number, |holding| holding.lineage);
        let index = new.then(|| held_put(holder, (id, &client_id), false, fence));
        draft.plan.epochs.push(Epoch { client_id, id, epoch, fence, holder, index });
    }
}

/// Removes a session's row, after all that it leads to.
pub(super) fn delete(draft: &mut Draft<'_>, id: SessionId, client_id: &Arc<str>, timestamp: u64) {
    let shard = session_shard(id);
    let values = vec![long(timestamp), int(shard), long(id)];
    draft.group_last(S::PutSession, shard, Bound { statement: S::DeleteSession, values });
    draft.plan.deleted.push((id, timestamp));
    draft.plan.ended.push((Arc::clone(client_id), id, timestamp));
    draft.plan.epochs.retain(|epoch| epoch.id != id);
}
