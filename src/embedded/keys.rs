//! The keys of the session store's rows.
//!
//! They begin with the session's number (big-endian), so that all of a session lies together:
//! `subscriptions` id+filter, `receipts` id+packet id, `queue` and `outgoing` id+sequence.
//! `sessions` is by id, `retained` by topic, `wills` by client id.

use fjall::UserKey;
use hydrant_actors::ports::{OutgoingStage, SessionId, StoreError};
use hydrant_protocol::PacketId;

use crate::rows::{RowError, damaged, number_at};

/// Filters longer than this are keyed by a hash (keys end at 65,535 bytes).
const LONG_FILTER: usize = 1024;

pub(super) fn queue_key(id: SessionId, sequence: u64) -> UserKey {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&id.to_be_bytes());
    key[8..].copy_from_slice(&sequence.to_be_bytes());
    key.into()
}

pub(super) fn queue_place(key: &[u8]) -> Result<(SessionId, u64), StoreError> {
    Ok((number_at(key, 0).map_err(damaged)?, number_at(key, 8).map_err(damaged)?))
}

pub(super) fn receipt_key(id: SessionId, packet_id: PacketId) -> UserKey {
    let mut key = [0; 10];
    key[..8].copy_from_slice(&id.to_be_bytes());
    key[8..].copy_from_slice(&packet_id.get().to_be_bytes());
    key.into()
}

pub(super) fn subscription_key(id: SessionId, filter: &str) -> UserKey {
    let mut key = id.to_be_bytes().to_vec();
    if filter.len() <= LONG_FILTER {
        key.extend_from_slice(filter.as_bytes());
    } else {
        // No filter begins with NUL.
        key.push(0);
        key.extend_from_slice(&xxhash_rust::xxh3::xxh3_128(filter.as_bytes()).to_be_bytes());
    }
    key.into()
}

/// A client id may be empty, a key may not; no client id holds a NUL.
pub(super) fn will_key(client_id: &str) -> UserKey {
    if client_id.is_empty() { [0].into() } else { client_id.as_bytes().into() }
}

pub(super) fn outgoing_value(value: &[u8]) -> Result<(PacketId, OutgoingStage), StoreError> {
    let &[_, stage, high, low] = value else {
        return Err(damaged(RowError::Short));
    };
    let packet_id =
        PacketId::new(u16::from_be_bytes([high, low])).ok_or_else(|| damaged(RowError::Short))?;
    let stage = if stage == 0 { OutgoingStage::Publish } else { OutgoingStage::Release };
    Ok((packet_id, stage))
}
