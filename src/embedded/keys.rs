//! The keys of the session store's rows.
//!
//! They begin with the session's number (big-endian), so that all of a session lies together:
//! `subscriptions` id+filter, `receipts` id+packet id, `queue` and `outgoing` id+sequence.
//! `sessions` is by id, `retained` by topic, `wills` by client id and connection, `dead_letters` by their id.

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

/// Client id, NUL, connection; no client id holds a NUL. Connection 0 is of a will that format 1 has left: the client
/// id alone, or NUL for an empty one.
pub(super) fn will_key(client_id: &str, connection: u64) -> UserKey {
    let mut key = client_id.as_bytes().to_vec();
    if connection != 0 || key.is_empty() {
        key.push(0);
    }
    if connection != 0 {
        key.extend_from_slice(&connection.to_be_bytes());
    }
    key.into()
}

/// Client id and connection, of such a key.
pub(super) fn will_place(key: &[u8]) -> Result<(&str, u64), StoreError> {
    let end = key.iter().position(|byte| *byte == 0).unwrap_or(key.len());
    let client_id = std::str::from_utf8(&key[..end]).map_err(|_| damaged(RowError::Short))?;
    let connection = match key.get(end + 1..) {
        None | Some([]) => 0,
        Some(_) => number_at(key, end + 1).map_err(damaged)?,
    };
    Ok((client_id, connection))
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_a_will_says_whose_it_is() {
        for client_id in ["", "c", "client"] {
            for connection in [0, 1, 256, u64::MAX] {
                let key = will_key(client_id, connection);
                assert_eq!(will_place(&key).unwrap(), (client_id, connection));
            }
        }
        // As format 1 has written them.
        assert_eq!((&*will_key("c", 0), &*will_key("", 0)), (&b"c"[..], &[0][..]));
        assert!(will_place(b"c\0short").is_err());
    }
}
