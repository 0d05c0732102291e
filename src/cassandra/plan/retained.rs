//! Retained messages (table `retained`). The write timestamp is the version: every node of a cluster writes here.

use hydrant_protocol::Message;

use super::super::columns::{SHARDS, blob, int, long, name_shard, text};
use super::super::db::Bound;
use super::super::statements::Statement as S;
use super::draft::Draft;
use crate::rows::{RowError, encode_message};

/// Sets a topic's retained message.
pub(super) fn put(draft: &mut Draft<'_>, message: &Message, version: u64) -> Result<(), RowError> {
    draft.writes_message = true;
    let shard = name_shard(&message.topic, SHARDS);
    let bytes = encode_message(message, message.qos, message.retain)?;
    let values = vec![int(shard), text(&message.topic), blob(bytes), long(version)];
    draft.group(S::PutRetained, shard, Bound { statement: S::PutRetained, values });
    Ok(())
}

/// Removes it.
pub(super) fn delete(draft: &mut Draft<'_>, topic: &str, version: u64) {
    draft.writes_message = true;
    let shard = name_shard(topic, SHARDS);
    let values = vec![long(version), int(shard), text(topic)];
    draft.group(S::PutRetained, shard, Bound { statement: S::DeleteRetained, values });
}
