//! Records that the log has refused (table `dead_letter`); their rows are those of [`dead`](super::super::dead).

use hydrant_actors::ports::{DeadId, DeadLetter};

use super::super::dead;
use super::draft::Draft;
use crate::rows::RowError;

/// Keeps a record that the log has refused.
pub(super) fn put(draft: &mut Draft<'_>, letter: &DeadLetter) -> Result<(), RowError> {
    // With the cursor that passes its record, or that is lost or doubled.
    draft.plan.atomic = true;
    let (me, timestamp) = (draft.memory.number, draft.memory.timestamp());
    draft.plan.single.push(dead::put(me, letter, timestamp)?);
    Ok(())
}

/// Removes it.
pub(super) fn delete(draft: &mut Draft<'_>, id: DeadId) {
    let (me, timestamp) = (draft.memory.number, draft.memory.timestamp());
    draft.plan.single.push(dead::remove(me, id, timestamp));
}
