//! Batches of other nodes that are stored here (tables `peer_batch` and `peer_batch_exception`).

use cdrs_tokio::types::value::Value;
use hydrant_protocol::cluster::message::PublishId;

use super::super::columns::{blob, long, text};
use super::super::statements::Statement as S;
use super::draft::Draft;
use crate::rows::{RowError, encode_publish_ids};

/// The origin's incarnation, and the batch's number there.
pub(super) type Name = (u64, u64);

/// A batch is stored.
pub(super) fn put(
    draft: &mut Draft<'_>,
    name: Name,
    prepared: &[PublishId],
) -> Result<(), RowError> {
    // With its messages, or these are lost or doubled.
    draft.plan.atomic = true;
    let [number, origin, batch] = key(draft, name);
    let prepared = blob(encode_publish_ids(prepared)?);
    let values = vec![number, origin, batch, prepared, draft.timestamp()];
    draft.single(S::PutPeerBatch, values);
    Ok(())
}

/// But for the session of this client.
pub(super) fn except(draft: &mut Draft<'_>, name: Name, client_id: &str) {
    draft.plan.atomic = true;
    let [number, origin, batch] = key(draft, name);
    let values = vec![number, origin, batch, text(client_id), draft.timestamp()];
    draft.single(S::ExceptPeerBatch, values);
}

/// Now for the session of this client too.
pub(super) fn complete(draft: &mut Draft<'_>, name: Name, client_id: &str) {
    // With what was buffered.
    draft.plan.atomic = true;
    let [number, origin, batch] = key(draft, name);
    let values = vec![draft.timestamp(), number, origin, batch, text(client_id)];
    draft.single(S::CompletePeerBatch, values);
}

/// Removes the batches of an origin with a number below, here and at the dead incarnations that had stored some.
pub(super) fn forget(draft: &mut Draft<'_>, origin: u64, below: u64) {
    let below = below.min(i64::MAX as u64);
    let mut numbers = draft.memory.forget_batches(origin, below);
    numbers.push(draft.memory.number);
    for number in numbers {
        for statement in [S::ForgetPeerBatches, S::ForgetExceptions] {
            let values = vec![draft.timestamp(), long(number), long(origin), long(below)];
            draft.single(statement, values);
        }
    }
}

fn key(draft: &Draft<'_>, (origin, batch): Name) -> [Value; 3] {
    [draft.memory.number, origin, batch].map(long)
}
