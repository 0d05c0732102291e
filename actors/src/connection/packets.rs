//! From bytes to what the session does: every whole packet of a read is handled, the rest kept.
//!
//! A publish without credit ends the read's work: what follows stays undecoded and the socket
//! unread until there is credit again. With `listener.proxy_protocol` a PROXY header is taken off
//! the front first.

use std::rc::Rc;

use hydrant_protocol::proxy::{self, Origin};
use hydrant_protocol::wire::{self, Frame, Packet};
use hydrant_protocol::{QoS, Violation};

use crate::metrics::CloseReason;
use crate::shard::{Conn, Shard};

/// So many bytes stand in the arbiter's read buffer.
pub fn read(shard: &Rc<Shard>, conn: &Rc<Conn>, bytes: usize) {
    let mut partial = conn.partial.take();
    if partial.is_empty() && !conn.header_first.get() {
        // Most reads: whole packets, decoded where they are.
        let buffer = shard.read_buffer.borrow();
        let input = &buffer[..bytes];
        let used = packets(shard, conn, input);
        if used < input.len() && conn.closing.get().is_none() {
            partial.extend_from_slice(&input[used..]);
        }
    } else {
        partial.extend_from_slice(&shard.read_buffer.borrow()[..bytes]);
        consume(shard, conn, &mut partial);
    }
    keep(conn, partial);
    shard.flush();
}

/// Bytes that came before are looked at again.
pub fn resume(shard: &Rc<Shard>, conn: &Rc<Conn>) {
    let mut partial = conn.partial.take();
    consume(shard, conn, &mut partial);
    keep(conn, partial);
    shard.flush();
}

fn consume(shard: &Rc<Shard>, conn: &Rc<Conn>, partial: &mut Vec<u8>) {
    if conn.header_first.get() && !header(shard, conn, partial) {
        return;
    }
    let used = packets(shard, conn, partial);
    partial.drain(..used);
}

/// Takes the PROXY header off the front, once: from here on the connection is its client's. False
/// when it is not whole, or the connection is to end.
fn header(shard: &Rc<Shard>, conn: &Rc<Conn>, partial: &mut Vec<u8>) -> bool {
    let shared = &shard.shared;
    let socket = conn.peer.get();
    let found = match proxy::header(partial) {
        Ok(None) => return false,
        Ok(Some(found)) => found,
        Err(error) => {
            shared.refusals.header.warn(format_args!(
                "closing the connection from {socket}: {error} (listener.proxy_protocol = \"required\")"
            ));
            shard.close(conn, CloseReason::ProxyHeader);
            return false;
        }
    };
    conn.header_first.set(false);
    partial.drain(..found.len);
    let client = match found.origin {
        Origin::Client(client) => {
            conn.peer.set(client);
            log::debug!(target: "hydrant::actors", "the connection from {socket} is that of {client}");
            client
        }
        Origin::Unknown => socket,
        // The balancer's own: that it stands in listener.proxy_from is enough.
        Origin::Local => return true,
    };
    if !shared.admits(client) {
        shard.close(conn, CloseReason::Denied);
        return false;
    }
    true
}

fn keep(conn: &Rc<Conn>, mut partial: Vec<u8>) {
    if partial.is_empty() {
        partial = Vec::new();
    } else if partial.capacity() > 2 * partial.len() + 1024 {
        partial.shrink_to_fit();
    }
    *conn.partial.borrow_mut() = partial;
}

/// Handles whole packets from the front of `input`; returns how many bytes they took.
fn packets(shard: &Rc<Shard>, conn: &Rc<Conn>, input: &[u8]) -> usize {
    let mut used = 0;
    let mut count = 0;
    while used < input.len() {
        if conn.closing.get().is_some() {
            break;
        }
        match wire::next_frame(&input[used..], shard.wire_limits.max_packet_size) {
            Ok(Frame::Incomplete) => break,
            Ok(Frame::Complete { first, body, len }) => {
                let first = if conn.v31.get() { wire::first_byte_of_v31(first) } else { first };
                match wire::decode(first, body, &shard.wire_limits) {
                    Ok(packet) if shard.must_wait(conn, &packet) => {
                        conn.set_undecoded(true);
                        break;
                    }
                    Ok(packet) => handle(shard, conn, packet),
                    Err(violation) => {
                        violate(shard, conn, violation);
                        break;
                    }
                }
                if conn.handoff.get().is_some() {
                    // The other arbiter decodes this packet again.
                    return used;
                }
                if conn.claiming.get().is_some() {
                    // So does this one, once its client may be let in.
                    conn.set_undecoded(true);
                    return used;
                }
                used += len;
                count += 1;
            }
            Err(violation) => {
                violate(shard, conn, violation);
                break;
            }
        }
        if used < input.len() && (conn.awaits_connack() || !shard.has_credit(conn)) {
            conn.set_undecoded(true);
            break;
        }
    }
    if count > 0 {
        conn.last_packet_ms.set(shard.now_ms());
        shard.metrics.packets_in.add(count);
    }
    used
}

/// Whether a whole DISCONNECT stands in `input`, which is not handled otherwise.
pub fn has_disconnect(shard: &Shard, conn: &Conn, mut input: &[u8]) -> bool {
    while let Ok(Frame::Complete { first, body, len }) =
        wire::next_frame(input, shard.wire_limits.max_packet_size)
    {
        let first = if conn.v31.get() { wire::first_byte_of_v31(first) } else { first };
        match wire::decode(first, body, &shard.wire_limits) {
            Ok(Packet::Disconnect) => return true,
            Ok(_) => input = &input[len..],
            // It would have ended the connection.
            Err(_) => return false,
        }
    }
    false
}

/// [MQTT-4.8.0-1]: a protocol error ends the connection, a bad CONNECT with its return code where
/// the standard has one.
fn violate(shard: &Rc<Shard>, conn: &Rc<Conn>, violation: Violation) {
    log::debug!(
        target: "hydrant::mqtt",
        "closing {} ({}): {violation}",
        conn.peer.get(),
        conn.client_id.borrow().as_deref().unwrap_or("no CONNECT")
    );
    match violation.connack_code() {
        Some(code) if conn.session.get().is_none() => shard.refuse_connect(conn, code),
        _ if violation.is_limit() => shard.close(conn, CloseReason::Limit),
        _ => shard.close(conn, CloseReason::Violation),
    }
}

fn judge(shard: &Rc<Shard>, conn: &Rc<Conn>, kept: Result<(), Violation>) {
    if let Err(violation) = kept {
        violate(shard, conn, violation);
    }
}

fn handle(shard: &Rc<Shard>, conn: &Rc<Conn>, packet: Packet<'_>) {
    let connected = conn.session.get().is_some();
    match packet {
        Packet::Connect(connect) if !connected => shard.connect(conn, *connect),
        Packet::Connect(_) => violate(shard, conn, Violation::SecondConnect),
        _ if !connected => violate(shard, conn, Violation::FirstPacketNotConnect),
        Packet::Publish(publish) => match (publish.qos, publish.packet_id) {
            (QoS::ExactlyOnce, Some(id)) => {
                if let Some(receipt) = shard.new_receipt(conn, id) {
                    shard.submit(conn, &publish, Some(receipt));
                }
            }
            _ => shard.submit(conn, &publish, None),
        },
        Packet::Puback(id) => judge(shard, conn, shard.delivered(conn, id, QoS::AtLeastOnce)),
        Packet::Pubrec(id) => judge(shard, conn, shard.received(conn, id)),
        Packet::Pubrel(id) => shard.release(conn, id),
        Packet::Pubcomp(id) => judge(shard, conn, shard.delivered(conn, id, QoS::ExactlyOnce)),
        Packet::Subscribe(subscribe) => shard.subscribe(conn, subscribe),
        Packet::Unsubscribe(unsubscribe) => shard.unsubscribe(conn, &unsubscribe),
        // At once: no answer that waits for the store holds it back.
        Packet::Pingreq => shard.write(conn, wire::put_pingresp),
        Packet::Disconnect => shard.close(conn, CloseReason::Disconnect),
    }
}
