//! Subscriptions of persistent sessions (table `subscription`).

use hydrant_actors::ports::SessionId;
use hydrant_protocol::QoS;

use super::super::columns::{int, keep_subscription, long, session_shard, text};
use super::super::db::Bound;
use super::super::statements::Statement as S;
use super::draft::Draft;

/// Adds or replaces a subscription.
pub(super) fn put(
    draft: &mut Draft<'_>,
    id: SessionId,
    filter: &str,
    qos: QoS,
    owes: Option<&str>,
) {
    let timestamp = draft.memory.timestamp();
    let bound = keep_subscription(id, filter, qos, owes, timestamp);
    draft.group(S::PutSubscription, session_shard(id), bound);
}

/// Removes a subscription.
pub(super) fn delete(draft: &mut Draft<'_>, id: SessionId, filter: &str) {
    let shard = session_shard(id);
    let values = vec![draft.timestamp(), int(shard), long(id), text(filter)];
    draft.group(S::PutSubscription, shard, Bound { statement: S::DeleteSubscription, values });
}

/// Removes all subscriptions of a session that ends.
pub(super) fn delete_all(draft: &mut Draft<'_>, id: SessionId, timestamp: u64) {
    let shard = session_shard(id);
    let values = vec![long(timestamp), int(shard), long(id)];
    draft.group(S::PutSubscription, shard, Bound { statement: S::DeleteSubscriptions, values });
}
