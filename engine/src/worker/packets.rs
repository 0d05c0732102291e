//! From bytes to what the session does: every whole packet of a read is handled, the rest kept.
//!
//! A publish without credit ends the read's work: what follows stays undecoded and the socket
//! unread until there is credit again. With `listener.proxy_protocol` a PROXY header is taken off
//! the front first.
//!
//! Bounds: the beginning of a packet by `limits.max_packet_size`; those of all connections are buffers
//! ([`Worker::is_past_incoming_share`]), and a connection past its share is closed.

use std::rc::Rc;

use hydrant_protocol::proxy::{self, Origin};
use hydrant_protocol::wire::{self, Arriving, Frame, Packet};
use hydrant_protocol::{QoS, Violation};

use super::{Conn, Event, Phase, Worker, refused};
use crate::metrics::CloseReason;
use crate::say;

impl Worker {
    /// These bytes have come on a connection.
    pub fn handle_bytes(self: &Rc<Self>, conn: &Rc<Conn>, input: &[u8]) {
        read(self, conn, input);
        self.flush();
    }

    /// Bytes that came before are looked at again: there is credit for them, or they have come with the socket.
    pub fn handle_credit(self: &Rc<Self>, conn: &Rc<Conn>) {
        let mut partial = conn.partial.take();
        consume(self, conn, &mut partial);
        keep(self, conn, partial, true);
        self.flush();
    }

    /// The socket has taken all that waited, and something waits for that.
    pub fn handle_drained(&self, conn: &Rc<Conn>) {
        self.pump(conn);
        self.flush();
    }

    /// Whether something stands behind the CONNECT of a client that waits to be let in, or that is no CONNECT.
    pub fn has_more_than_connect(&self, conn: &Conn) -> bool {
        conn.partial(|read| {
            let first = wire::next_frame(read, self.wire_limits.max_packet_size);
            !matches!(first, Ok(Frame::Complete { len, .. }) if len == read.len())
        })
    }
}

fn read(worker: &Rc<Worker>, conn: &Rc<Conn>, input: &[u8]) {
    let mut partial = conn.partial.take();
    let before = partial.len();
    if partial.is_empty() && conn.phase() != Phase::ProxyHeader {
        // Most reads: whole packets, decoded where they are.
        let used = packets(worker, conn, input);
        if used < input.len() && conn.phase().closing().is_none() {
            partial.extend_from_slice(&input[used..]);
        }
    } else {
        partial.extend_from_slice(input);
        consume(worker, conn, &mut partial);
    }
    let begins = before == 0 || partial.len() != before + input.len();
    keep(worker, conn, partial, begins);
}

fn consume(worker: &Rc<Worker>, conn: &Rc<Conn>, partial: &mut Vec<u8>) {
    if conn.phase() == Phase::ProxyHeader && !header(worker, conn, partial) {
        return;
    }
    let used = packets(worker, conn, partial);
    partial.drain(..used);
}

/// Takes the PROXY header off the front, once: from here on the connection is its client's. False
/// when it is not whole, or the connection is to end.
fn header(worker: &Rc<Worker>, conn: &Rc<Conn>, partial: &mut Vec<u8>) -> bool {
    let shared = &worker.shared;
    let socket = conn.peer.get();
    let found = match proxy::header(partial) {
        Ok(None) => return false,
        Ok(Some(found)) => found,
        Err(error) => {
            say::warn!(
                target: "hydrant::actors",
                "closing the connection from {socket}: {error} (listener.proxy_protocol = \"required\")"
            );
            worker.close(conn, CloseReason::ProxyHeader);
            return false;
        }
    };
    conn.enter(Event::HeaderRead);
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
        worker.close(conn, CloseReason::Denied);
        return false;
    }
    true
}

/// Keeps what is not decoded. `begins`: its first byte is new there.
fn keep(worker: &Rc<Worker>, conn: &Rc<Conn>, mut partial: Vec<u8>, begins: bool) {
    let arriving = match conn.arriving.take() {
        _ if partial.is_empty() || conn.has_undecoded() => None,
        Some(mut arriving) if !begins => {
            arriving.read(worker.now_ms());
            Some(arriving)
        }
        _ => Some(Box::new(Arriving::new(worker.now_ms(), partial.len()))),
    };
    conn.arriving.set(arriving);
    if partial.is_empty() {
        partial = Vec::new();
    } else if partial.capacity() > 2 * partial.len() + 1024 {
        partial.shrink_to_fit();
    }
    worker.recount_partial(conn, partial.len());
    // What waits for credit was read with credit. The rest of a packet comes when its client likes.
    if !conn.has_undecoded() && worker.is_past_incoming_share(partial.len()) {
        worker.close(conn, CloseReason::BuffersFull);
    }
    conn.partial.set(partial);
}

/// Handles whole packets from the front of `input`; returns how many bytes they took.
fn packets(worker: &Rc<Worker>, conn: &Rc<Conn>, input: &[u8]) -> usize {
    let mut used = 0;
    let mut count = 0;
    let mut room = None;
    while used < input.len() {
        if conn.phase().closing().is_some() {
            break;
        }
        match wire::next_frame(&input[used..], worker.wire_limits.max_packet_size) {
            // What cannot become a CONNECT is not waited for: it may be HTTP, whose end does not come.
            Ok(Frame::Incomplete)
                if !conn.phase().is_connected() && !refused::may_be_connect(&input[used..]) =>
            {
                violate_by(worker, conn, Violation::FirstPacketNotConnect, &input[used..]);
                break;
            }
            Ok(Frame::Incomplete) => break,
            Ok(Frame::Complete { first, body, len }) => {
                let first = if conn.v31.get() { wire::first_byte_of_v31(first) } else { first };
                match wire::decode(first, body, &worker.wire_limits) {
                    Ok(packet) if worker.must_wait(conn, &packet) => {
                        conn.set_undecoded(true);
                        break;
                    }
                    Ok(packet) => handle(worker, conn, packet, &input[used..]),
                    Err(violation) => {
                        violate_by(worker, conn, violation, &input[used..]);
                        break;
                    }
                }
                match conn.phase() {
                    // The other worker decodes this packet again.
                    Phase::Moving(_) => return used,
                    // So does this one, once its client may be let in.
                    Phase::Claiming(_) => {
                        conn.set_undecoded(true);
                        return used;
                    }
                    _ => {}
                }
                used += len;
                count += 1;
            }
            Err(violation) => {
                violate_by(worker, conn, violation, &input[used..]);
                break;
            }
        }
        if used < input.len()
            && (conn.phase().awaits_connack()
                || !worker.has_credit_within_read(conn)
                || !*room.get_or_insert_with(|| worker.others_have_room(conn)))
        {
            conn.set_undecoded(true);
            break;
        }
    }
    if count > 0 {
        conn.last_packet_ms.set(worker.now_ms());
        worker.metrics.packets_in.add(count);
    }
    used
}

/// [MQTT-4.8.0-1]: a protocol error ends the connection, a bad CONNECT with its return code where
/// the standard has one.
fn violate(worker: &Rc<Worker>, conn: &Rc<Conn>, violation: Violation) {
    violate_by(worker, conn, violation, &[]);
}

/// The same; `input` begins with what the violation was found in.
fn violate_by(worker: &Rc<Worker>, conn: &Rc<Conn>, violation: Violation, input: &[u8]) {
    refused::say(conn, violation, input);
    match violation.connack_code() {
        Some(code) if !conn.phase().is_connected() => worker.refuse_connect(conn, code),
        _ if violation.is_limit() => worker.close(conn, CloseReason::Limit),
        _ => worker.close(conn, CloseReason::Violation),
    }
}

fn judge(worker: &Rc<Worker>, conn: &Rc<Conn>, kept: Result<(), Violation>) {
    if let Err(violation) = kept {
        violate(worker, conn, violation);
    }
}

fn handle(worker: &Rc<Worker>, conn: &Rc<Conn>, packet: Packet<'_>, input: &[u8]) {
    let connected = conn.phase().is_connected();
    match packet {
        Packet::Connect(connect) if !connected => worker.connect(conn, *connect),
        Packet::Connect(_) => violate(worker, conn, Violation::SecondConnect),
        _ if !connected => violate_by(worker, conn, Violation::FirstPacketNotConnect, input),
        Packet::Publish(publish) => match (publish.qos, publish.packet_id) {
            (QoS::ExactlyOnce, Some(id)) => {
                if let Some(receipt) = worker.handle_qos2_publish(conn, id) {
                    worker.submit(conn, &publish, Some(receipt));
                }
            }
            _ => worker.submit(conn, &publish, None),
        },
        Packet::Puback(id) => judge(worker, conn, worker.handle_puback(conn, id)),
        Packet::Pubrec(id) => judge(worker, conn, worker.handle_pubrec(conn, id)),
        Packet::Pubrel(id) => worker.handle_pubrel(conn, id),
        Packet::Pubcomp(id) => judge(worker, conn, worker.handle_pubcomp(conn, id)),
        Packet::Subscribe(subscribe) => worker.subscribe(conn, subscribe),
        Packet::Unsubscribe(unsubscribe) => worker.unsubscribe(conn, unsubscribe),
        // At once: no answer that waits for the store holds it back.
        Packet::Pingreq => worker.write(conn, wire::put_pingresp),
        Packet::Disconnect => worker.close(conn, CloseReason::Disconnect),
    }
}
