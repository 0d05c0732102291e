//! Receipts of incoming QoS 2 messages: one cell a session, which holds all of its receipts (column `receipts` of the
//! table `session`).

use std::collections::BTreeMap;

use hydrant_actors::ports::SessionId;
use hydrant_protocol::PacketId;

use super::super::columns::{blob, encode_receipts, int, long, session_shard};
use super::super::db::Bound;
use super::super::memory::Memory;
use super::super::planned::Plan;
use super::super::statements::Statement as S;
use super::batches::cut;
use super::draft::Draft;

/// A message is received under this packet id.
pub(super) fn put(draft: &mut Draft<'_>, id: SessionId, packet_id: PacketId) {
    // Receipt and message come to be together, or the message is lost or doubled.
    draft.plan.atomic = true;
    change(draft, id, packet_id, true);
}

/// It is released.
pub(super) fn delete(draft: &mut Draft<'_>, id: SessionId, packet_id: PacketId) {
    change(draft, id, packet_id, false);
}

fn change(draft: &mut Draft<'_>, id: SessionId, packet_id: PacketId, held: bool) {
    draft.plan.receipts.entry(id).or_default().changes.push((packet_id.get(), held));
}

/// A session that ends has none.
pub(super) fn delete_all(draft: &mut Draft<'_>, id: SessionId) {
    // They stand in the session's row.
    draft.plan.receipts.remove(&id);
}

/// Gives each row that changes its write timestamp.
pub(super) fn finish(draft: &mut Draft<'_>) {
    let Draft { plan, memory, .. } = draft;
    for receipts in plan.receipts.values_mut() {
        receipts.timestamp = memory.timestamp();
    }
}

/// The statements that write receipts: made when every plan before this one is durable, because
/// they hold all of a session's, and what is not durable yet must not stand in them.
pub(in super::super) fn bind(memory: &Memory, plan: &mut Plan) {
    let mut shards: BTreeMap<i32, Vec<Bound>> = BTreeMap::new();
    for (id, receipts) in &plan.receipts {
        let held = encode_receipts(&memory.receipts_with(*id, &receipts.changes));
        let shard = session_shard(*id);
        let values = vec![long(receipts.timestamp), blob(held), int(shard), long(*id)];
        shards.entry(shard).or_default().push(Bound { statement: S::PutReceipts, values });
    }
    plan.batches.extend(shards.into_values().flat_map(cut));
}
