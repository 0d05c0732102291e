//! Packets the broker sends, appended to the caller's buffer; the buffer's growth is the only
//! allocation. A packet is appended whole or not at all.

use super::kind;
use crate::{PacketId, QoS};

/// SUBACK's return code for a subscription that is refused.
pub const SUBACK_FAILURE: u8 = 0x80;

/// Largest Remaining Length (MQTT 3.1.1 section 2.2.3).
const MAX_REMAINING: usize = 268_435_455;

/// CONNACK. `session_present` counts only with code 0 ([MQTT-3.2.2-4]).
pub fn put_connack(out: &mut Vec<u8>, session_present: bool, code: u8) {
    let present = u8::from(session_present && code == 0);
    out.extend_from_slice(&[kind::CONNACK << 4, 2, present, code]);
}

/// Bytes of a PUBLISH with its fixed header.
#[inline]
pub fn publish_len(topic_len: usize, payload_len: usize, qos: QoS) -> usize {
    let id = if qos == QoS::AtMostOnce { 0 } else { 2 };
    let remaining = 2 + topic_len + id + payload_len;
    1 + remaining_len_bytes(remaining) + remaining
}

/// PUBLISH; the hottest function of the broker. `packet_id` is present exactly when `qos` is above
/// 0, and `topic` is a checked topic name. A message that no PUBLISH can carry (topic over 65,535
/// bytes, 256 MB in all) is not appended.
#[inline]
pub fn put_publish(
    out: &mut Vec<u8>,
    topic: &str,
    payload: &[u8],
    qos: QoS,
    dup: bool,
    retain: bool,
    packet_id: Option<PacketId>,
) {
    debug_assert_eq!(packet_id.is_some(), qos != QoS::AtMostOnce);
    let remaining = 2 + topic.len() + 2 * usize::from(packet_id.is_some()) + payload.len();
    let topic_length = match u16::try_from(topic.len()) {
        Ok(length) if remaining <= MAX_REMAINING => length.to_be_bytes(),
        _ => {
            debug_assert!(false, "a message too large for PUBLISH");
            return;
        }
    };
    // Type and flags, at most four bytes of length, the topic's length: one copy.
    let mut head = [0u8; 7];
    head[0] = kind::PUBLISH << 4 | u8::from(dup) << 3 | (qos as u8) << 1 | u8::from(retain);
    let at = 1 + write_remaining(&mut head, remaining);
    head[at] = topic_length[0];
    head[at + 1] = topic_length[1];

    out.reserve(at + remaining);
    out.extend_from_slice(&head[..at + 2]);
    out.extend_from_slice(topic.as_bytes());
    if let Some(id) = packet_id {
        out.extend_from_slice(&id.get().to_be_bytes());
    }
    out.extend_from_slice(payload);
}

/// PUBACK.
#[inline]
pub fn put_puback(out: &mut Vec<u8>, id: PacketId) {
    put_id(out, kind::PUBACK << 4, id);
}

/// PUBREC.
#[inline]
pub fn put_pubrec(out: &mut Vec<u8>, id: PacketId) {
    put_id(out, kind::PUBREC << 4, id);
}

/// PUBREL.
#[inline]
pub fn put_pubrel(out: &mut Vec<u8>, id: PacketId) {
    put_id(out, kind::PUBREL << 4 | 0b0010, id);
}

/// PUBCOMP.
#[inline]
pub fn put_pubcomp(out: &mut Vec<u8>, id: PacketId) {
    put_id(out, kind::PUBCOMP << 4, id);
}

/// SUBACK: one code a filter, the granted QoS or [`SUBACK_FAILURE`] ([MQTT-3.8.4-5]).
pub fn put_suback(out: &mut Vec<u8>, id: PacketId, codes: &[u8]) {
    if put_head(out, kind::SUBACK << 4, 2 + codes.len()) {
        out.extend_from_slice(&id.get().to_be_bytes());
        out.extend_from_slice(codes);
    }
}

/// UNSUBACK.
pub fn put_unsuback(out: &mut Vec<u8>, id: PacketId) {
    put_id(out, kind::UNSUBACK << 4, id);
}

/// PINGRESP.
pub fn put_pingresp(out: &mut Vec<u8>) {
    out.extend_from_slice(&[kind::PINGRESP << 4, 0]);
}

#[inline]
fn put_id(out: &mut Vec<u8>, first: u8, id: PacketId) {
    let [high, low] = id.get().to_be_bytes();
    out.extend_from_slice(&[first, 2, high, low]);
}

/// Fixed header and room for the body. False, and nothing appended, where no packet is so long.
pub(super) fn put_head(out: &mut Vec<u8>, first: u8, remaining: usize) -> bool {
    if remaining > MAX_REMAINING {
        debug_assert!(false, "a packet too large for MQTT");
        return false;
    }
    let mut head = [0u8; 7];
    head[0] = first;
    let at = 1 + write_remaining(&mut head, remaining);
    out.reserve(at + remaining);
    out.extend_from_slice(&head[..at]);
    true
}

/// Writes the Remaining Length from `head[1]` on; how many bytes it took. At most four for what
/// is within [`MAX_REMAINING`].
#[inline]
fn write_remaining(head: &mut [u8; 7], mut remaining: usize) -> usize {
    let mut at = 1;
    while remaining > 0x7f && at < 4 {
        head[at] = remaining as u8 | 0x80;
        remaining >>= 7;
        at += 1;
    }
    head[at] = remaining as u8;
    at
}

#[inline]
const fn remaining_len_bytes(remaining: usize) -> usize {
    match remaining {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        _ => 4,
    }
}
