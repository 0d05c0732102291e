//! The columns of the keyspace's tables: how values stand in them, and over which partitions rows are spread. What is
//! here is in keys: a change of it is another schema.

use std::collections::BTreeSet;
use std::sync::Arc;

use cdrs_tokio::types::value::Value;
use hydrant_actors::ports::SessionId;
use hydrant_protocol::QoS;

use super::db::Bound;
use super::queue::BUCKET;
use super::statements::Statement as S;

/// Partitions over which each kind of small row is spread.
pub(super) const SHARDS: i32 = 256;
/// Partitions of a lineage's index of sessions.
pub(super) const HELD_SHARDS: i32 = 64;
/// Partitions of an incarnation's wills.
pub(super) const WILL_SHARDS: i32 = 64;
/// Positions of an outbox bucket: bounds a partition to 256 records.
pub(super) const OUTBOX_BUCKET: u64 = 256;
/// A subscription is owed all retained messages: no topic is named so ([MQTT-3.3.2-2]).
const OWES_ALL: &str = "#";

/// A big integer column. Sequences, positions and timestamps stay below 2^63.
pub(super) fn long(value: u64) -> Value {
    Value::Some(value.to_be_bytes().to_vec())
}

pub(super) fn int(value: i32) -> Value {
    Value::Some(value.to_be_bytes().to_vec())
}

/// A big integer column that may be negative.
pub(super) fn signed(value: i64) -> Value {
    Value::Some(value.to_be_bytes().to_vec())
}

pub(super) fn text(value: &str) -> Value {
    Value::Some(value.as_bytes().to_vec())
}

pub(super) fn blob(value: Vec<u8>) -> Value {
    Value::Some(value)
}

/// The partition of a session's rows.
pub(super) fn session_shard(id: SessionId) -> i32 {
    #[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "below SHARDS")]
    {
        (id % SHARDS as u64) as i32
    }
}

/// The partition of a session in the index of its lineage.
pub(super) fn held_shard(id: SessionId) -> i32 {
    session_shard(id) % HELD_SHARDS
}

/// Puts a session into the index of a lineage. `moving`: it may be held under another, and whoever
/// finds it here has to ask.
pub(super) fn held_put(
    lineage: u64,
    (id, client_id): (SessionId, &str),
    moving: bool,
    timestamp: u64,
) -> Bound {
    let key = [long(lineage), int(held_shard(id)), long(id)];
    let values = [&key[..], &[text(client_id), int(moving.into()), long(timestamp)]].concat();
    Bound { statement: S::HeldPut, values }
}

/// Removes it there.
pub(super) fn held_delete(lineage: u64, id: SessionId, timestamp: u64) -> Bound {
    let values = vec![long(timestamp), long(lineage), int(held_shard(id)), long(id)];
    Bound { statement: S::HeldDelete, values }
}

/// A subscription. What it is owed is never null, which would be a tombstone a subscription: an empty text is nothing,
/// `#` is all, anything else is the topic behind which it is.
pub(super) fn keep_subscription(
    id: SessionId,
    filter: &str,
    qos: QoS,
    owes: Option<&str>,
    timestamp: u64,
) -> Bound {
    let owes = match owes {
        None => "",
        Some("") => OWES_ALL,
        Some(topic) => topic,
    };
    let key = [int(session_shard(id)), long(id), text(filter)];
    let values = [&key[..], &[int(qos as i32), text(owes), long(timestamp)]].concat();
    Bound { statement: S::KeepSubscription, values }
}

/// What [`keep_subscription`] wrote, and null, as an older broker left it.
pub(super) fn owed(column: Option<String>) -> Option<Arc<str>> {
    match column.as_deref() {
        None | Some("") => None,
        Some(OWES_ALL) => Some("".into()),
        Some(topic) => Some(topic.into()),
    }
}

/// A list of big integers.
pub(super) fn longs(values: &[u64]) -> Value {
    let count = u32::try_from(values.len()).unwrap_or(u32::MAX);
    let mut bytes = count.to_be_bytes().to_vec();
    for value in values {
        bytes.extend_from_slice(&8_u32.to_be_bytes());
        bytes.extend_from_slice(&value.to_be_bytes());
    }
    Value::Some(bytes)
}

/// The partition of a name: stable for ever, it is in every key.
pub(super) fn name_shard(name: &str, shards: i32) -> i32 {
    #[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap, clippy::cast_sign_loss)]
    {
        (xxhash_rust::xxh3::xxh3_64(name.as_bytes()) % shards as u64) as i32
    }
}

pub(super) fn encode_receipts(receipts: &BTreeSet<u16>) -> Vec<u8> {
    receipts.iter().flat_map(|id| id.to_be_bytes()).collect()
}

/// What [`encode_receipts`] wrote.
pub(super) fn decode_receipts(bytes: &[u8]) -> BTreeSet<u16> {
    bytes.chunks_exact(2).map(|id| u16::from_be_bytes([id[0], id[1]])).collect()
}

/// First sequence of the bucket after this one.
pub(super) const fn bucket_end(bucket: u64) -> u64 {
    (bucket + 1) * BUCKET
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_a_subscription_is_owed_is_never_null() {
        for owes in [None, Some(""), Some("a/b")] {
            let bound = keep_subscription(7, "a/#", QoS::AtLeastOnce, owes, 9);
            let Value::Some(column) = &bound.values[4] else { panic!("{owes:?}: a tombstone") };
            let column = String::from_utf8(column.clone()).unwrap();
            assert_eq!(owed(Some(column)).as_deref(), owes);
        }
        assert_eq!(owed(None), None);
    }

    #[test]
    fn the_values_of_the_index() {
        assert_eq!(longs(&[]), Value::Some(vec![0; 4]));
        let Value::Some(two) = longs(&[1, 258]) else { unreachable!() };
        assert_eq!(two[..12], [0, 0, 0, 2, 0, 0, 0, 8, 0, 0, 0, 0]);
        assert_eq!(two[16..], [0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert!((0..1000).all(|id| (0..HELD_SHARDS).contains(&held_shard(id))));
    }
}
