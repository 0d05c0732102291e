//! Clients that publish: a window of messages, in order, sent again with every connection until they are acknowledged.

use hydrant_protocol::wire;
use hydrant_protocol::{PacketId, QoS};

use super::packets::FromBroker;
use super::state::{Open, Payload, Publisher, Role};
use crate::clock::MS;
use crate::event::{ClientEvent, Event};
use crate::world::World;

/// The name of a topic.
pub fn topic(number: usize) -> String {
    match number.checked_sub(RETAINED) {
        Some(publisher) => format!("r/{publisher}"),
        None => format!("t/{number}"),
    }
}

/// Behind this number each publisher has a topic whose messages are retained.
const RETAINED: usize = 100;

/// How many there are.
pub const TOPICS: usize = 3;

fn put(out: &mut Vec<u8>, open: &Open, dup: bool) {
    if open.released {
        return wire::put_pubrel(out, open.id);
    }
    let id = (open.qos != QoS::AtMostOnce).then_some(open.id);
    let (topic, payload) = (topic(open.topic), open.payload.text());
    let retain = open.topic >= RETAINED;
    wire::put_publish(out, &topic, payload.as_bytes(), open.qos, dup, retain, id);
}

impl World {
    fn publisher(&mut self, client: usize) -> Option<&mut Publisher> {
        match &mut self.clients[client].role {
            Role::Publisher(publisher) => Some(publisher),
            Role::Subscriber(_) => None,
        }
    }

    /// It has something to say, now and again later.
    pub(super) fn publish(&mut self, client: usize) {
        if self.healed {
            return;
        }
        let delay = self.random.between(5 * MS, 150 * MS);
        self.clock.after(delay, Event::Client(client, ClientEvent::Publish));
        if !self.clients[client].connected {
            return;
        }
        let mut out = Vec::new();
        for _ in 0..1 + self.random.below(3) {
            let (mut number, qos) = (self.random.below(TOPICS), self.random.below(4));
            if self.kinds.retained && self.random.one_in(4) {
                number = RETAINED + client;
                self.counts.retained += 1;
            }
            let qos = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce, QoS::ExactlyOnce][qos];
            let qos = match qos {
                // Of one QoS each: only such are in order.
                _ if number >= RETAINED && client.is_multiple_of(2) => QoS::AtLeastOnce,
                _ if number >= RETAINED => QoS::ExactlyOnce,
                qos => qos,
            };
            let qos = match qos {
                QoS::ExactlyOnce if self.kinds.no_exact => QoS::AtLeastOnce,
                qos => qos,
            };
            let now = self.clock.now;
            let over = self.clients[client].link.map_or(0, |(socket, _)| socket);
            let Some(publisher) = self.publisher(client) else { return };
            if publisher.open.len() >= publisher.window {
                break;
            }
            let payload = Payload { publisher: client, number: publisher.next };
            publisher.next += 1;
            while publisher.open.iter().any(|open| open.id.get() == publisher.next_id) {
                publisher.next_id = publisher.next_id % 60_000 + 1;
            }
            let id = PacketId::new(publisher.next_id).unwrap_or(PacketId::MIN);
            publisher.next_id = publisher.next_id % 60_000 + 1;
            let open = Open { id, payload, topic: number, qos, released: false };
            if qos != QoS::AtMostOnce {
                publisher.open.push_back(open);
            }
            put(&mut out, &open, false);
            self.checks.sent(payload, topic(number), qos, over, now);
            self.note_client(client, || {
                format!("publishes {} to {} at {qos:?}", payload.text(), topic(number))
            });
        }
        self.client_sends(client, out);
    }

    /// With a new connection.
    pub(super) fn send_again(&mut self, client: usize) -> Vec<u8> {
        let mut out = Vec::new();
        let Some(publisher) = self.publisher(client) else { return out };
        publisher.open.iter().for_each(|open| put(&mut out, open, true));
        let count = publisher.open.len() as u64;
        if count > 0 {
            self.counts.sent_again += count;
            self.note_client(client, || format!("sends {count} again"));
        }
        out
    }

    pub(super) fn publisher_hears(&mut self, client: usize, packet: FromBroker) -> Vec<u8> {
        let mut out = Vec::new();
        let now = self.clock.now;
        let Some(publisher) = self.publisher(client) else { return out };
        let of = |id: PacketId| publisher.open.iter().position(|open| open.id == id);
        let done = match packet {
            FromBroker::Puback(id) => {
                of(id).and_then(|at| publisher.open.remove(at)).map(|open| open.payload)
            }
            FromBroker::Pubrec(id) => {
                wire::put_pubrel(&mut out, id);
                of(id).map(|at| {
                    publisher.open[at].released = true;
                    publisher.open[at].payload
                })
            }
            FromBroker::Pubcomp(id) => {
                of(id).and_then(|at| publisher.open.remove(at)).map(|open| open.payload)
            }
            _ => None,
        };
        if let Some(payload) = done {
            self.counts.acknowledged += 1;
            self.checks.acknowledged(payload, now);
            self.note_client(client, || {
                format!("has {} acknowledged by {packet:?}", payload.text())
            });
        }
        out
    }
}
