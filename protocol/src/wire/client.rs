//! Packets a client sends, for tests, fuzzers and the load generator. The broker itself uses none
//! of them. What a client may not send (a password without user name, an empty filter) can be
//! written: tests need it.

use super::encode::put_head;
use super::{Connect, Version, kind};
use crate::topic::TopicFilter;
use crate::{PacketId, QoS};

/// CONNECT. Strings longer than 65,535 bytes are cut there.
pub fn put_connect(out: &mut Vec<u8>, connect: &Connect) {
    let (name, level): (&[u8], u8) = match connect.version {
        Version::V31 => (b"MQIsdp", 3),
        Version::V311 => (b"MQTT", 4),
    };
    let mut flags = u8::from(connect.clean_session) << 1;
    let mut body = Vec::with_capacity(64);
    put_binary(&mut body, name);
    body.push(level);
    let flags_at = body.len();
    body.push(0);
    body.extend_from_slice(&connect.keep_alive.to_be_bytes());
    put_binary(&mut body, connect.client_id.as_bytes());
    if let Some(will) = &connect.will {
        flags |= 0b0000_0100 | (will.qos as u8) << 3 | u8::from(will.retain) << 5;
        put_binary(&mut body, will.topic.as_bytes());
        put_binary(&mut body, &will.payload);
    }
    if let Some(username) = &connect.username {
        flags |= 0b1000_0000;
        put_binary(&mut body, username.as_bytes());
    }
    if let Some(password) = &connect.password {
        flags |= 0b0100_0000;
        put_binary(&mut body, password);
    }
    body[flags_at] = flags;
    put_packet(out, kind::CONNECT << 4, &body);
}

/// SUBSCRIBE.
pub fn put_subscribe(out: &mut Vec<u8>, id: PacketId, filters: &[(TopicFilter, QoS)]) {
    let mut body = id.get().to_be_bytes().to_vec();
    for (filter, qos) in filters {
        put_binary(&mut body, filter.as_str().as_bytes());
        body.push(*qos as u8);
    }
    put_packet(out, kind::SUBSCRIBE << 4 | 0b0010, &body);
}

/// UNSUBSCRIBE.
pub fn put_unsubscribe(out: &mut Vec<u8>, id: PacketId, filters: &[TopicFilter]) {
    let mut body = id.get().to_be_bytes().to_vec();
    for filter in filters {
        put_binary(&mut body, filter.as_str().as_bytes());
    }
    put_packet(out, kind::UNSUBSCRIBE << 4 | 0b0010, &body);
}

/// PINGREQ.
pub fn put_pingreq(out: &mut Vec<u8>) {
    out.extend_from_slice(&[kind::PINGREQ << 4, 0]);
}

/// DISCONNECT.
pub fn put_disconnect(out: &mut Vec<u8>) {
    out.extend_from_slice(&[kind::DISCONNECT << 4, 0]);
}

fn put_packet(out: &mut Vec<u8>, first: u8, body: &[u8]) {
    if put_head(out, first, body.len()) {
        out.extend_from_slice(body);
    }
}

fn put_binary(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&bytes[..usize::from(length)]);
}
