//! Last Wills (table `will`). [`Wills`](super::super::wills::Wills) knows where each of them stands.

use std::sync::Arc;

use hydrant_actors::ports::StoredWill;

use super::super::columns::{blob, int, long, text};
use super::super::db::Bound;
use super::super::statements::Statement as S;
use super::super::wills::{Name, Place};
use super::draft::Draft;
use crate::rows::{RowError, encode_message};

/// Keeps a will, unless it has ended and this is an earlier plan that is made again.
pub(super) fn put(draft: &mut Draft<'_>, will: &StoredWill) -> Result<(), RowError> {
    let message = &will.message;
    let bytes = encode_message(message, message.qos, message.retain)?;
    let name = (Arc::clone(&will.client_id), will.connection);
    let me = draft.memory.number;
    let Some(place) = draft.memory.wills.put(me, &name) else { return Ok(()) };
    let values = vec![
        long(place.incarnation),
        int(place.shard),
        text(&place.key),
        text(&name.0),
        long(name.1),
        blob(bytes),
        draft.timestamp(),
    ];
    write(draft, &place, Bound { statement: S::KeepWill, values });
    Ok(())
}

/// Ends this will only; also where a dead incarnation has left it.
pub(super) fn end(draft: &mut Draft<'_>, name: Name) {
    draft.ends_will = true;
    let Some(place) = draft.memory.wills.end(&name) else { return };
    draft.plan.discharged.push(name);
    let values = vec![
        long(place.incarnation),
        int(place.shard),
        text(&place.key),
        blob(Vec::new()),
        draft.timestamp(),
    ];
    write(draft, &place, Bound { statement: S::PutWill, values });
}

/// With others of its partition where that is this incarnation's.
fn write(draft: &mut Draft<'_>, place: &Place, bound: Bound) {
    if place.incarnation == draft.memory.number {
        draft.group(S::PutWill, place.shard, bound);
    } else {
        draft.plan.single.push(bound);
    }
}
