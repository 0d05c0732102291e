//! Clients, which speak MQTT 3.1.1 over simulated sockets: what they send are bytes, and what they know of the broker is
//! what comes back.
//!
//! - `publisher`: publishes with a window, and sends again what was not acknowledged.
//! - `subscriber`: a session that takes what is for it, and is changed now and then.
//! - [`state`]: what a client knows.
//! - `packets`: bytes to packets of a broker.

mod packets;
mod publisher;
pub mod state;
mod subscriber;

use std::sync::Arc;

use hydrant_protocol::QoS;
use hydrant_protocol::wire::{self, Connect, Version, Will};

use crate::clock::{MS, SECOND};
use crate::event::{ClientEvent, Event, NodeEvent};
use crate::network::{Chunk, End, Process};
use crate::world::World;
use packets::{FromBroker, next_packet};
use state::{Payload, Role};

/// How long one waits for CONNACK.
const PATIENCE: u64 = 30 * SECOND;
/// The numbers of wills are above those of messages.
const WILLS: u32 = 1_000_000;

impl World {
    /// Something happens to a client.
    pub fn client_event(&mut self, client: usize, event: ClientEvent) {
        match event {
            ClientEvent::Connect => self.connect(client),
            ClientEvent::Publish => self.publish(client),
            ClientEvent::Roam => self.roam(client),
            ClientEvent::Churn => self.churn(client),
            ClientEvent::Impatient(socket) => {
                let waits = self.clients[client].link.is_some_and(|(now, _)| now == socket);
                if waits && !self.clients[client].connected {
                    self.note_client(client, || "waits no longer".to_owned());
                    self.hang_up(client, false);
                    self.again(client);
                }
            }
        }
    }

    /// A line about one.
    pub fn note_client(&mut self, client: usize, what: impl FnOnce() -> String) {
        let name = Arc::clone(&self.clients[client].name);
        self.note(|| format!("{name} {}", what()));
    }

    /// It connects again, soon.
    pub fn again(&mut self, client: usize) {
        let delay = self.random.between(MS, 200 * MS);
        self.clock.after(delay, Event::Client(client, ClientEvent::Connect));
    }

    /// One that lets clients in, as far as they can see.
    fn some_node(&mut self) -> Option<Process> {
        let open = |slot: &crate::world::Slot| {
            let ready = slot.node.as_ref().is_some_and(|node| node.listens());
            ready && !slot.paused && !slot.isolated
        };
        let open: Vec<usize> = (0..self.nodes.len()).filter(|n| open(&self.nodes[*n])).collect();
        let index = *open.get(self.random.below(open.len()))?;
        Some(self.process(index))
    }

    fn connect(&mut self, client: usize) {
        if self.clients[client].link.is_some() {
            return;
        }
        let Some(process) = self.some_node() else { return self.again(client) };
        let socket = self.network.connect(End::Client(client), process);
        let name = Arc::clone(&self.clients[client].name);
        self.note(|| format!("{name} connects to n{} by {socket}", process.0 + 1));
        let delay = self.random.between(50, 500);
        self.later(delay, process, NodeEvent::Accept(socket));
        let at = self.clock.now + delay;
        if let Some(connection) = self.network.connections.get_mut(&socket) {
            connection.last[1] = at;
        }
        let this = &mut self.clients[client];
        (this.link, this.connected) = (Some((socket, process)), false);
        this.input.clear();
        let connect = Connect {
            version: Version::V311,
            client_id: name,
            clean_session: this.clean,
            keep_alive: 0,
            will: None,
            username: None,
            password: None,
        };
        let mut connect = connect;
        if self.kinds.wills {
            let (payload, topic) = self.next_will(client);
            let payload = payload.text().into_bytes().into();
            let qos = QoS::AtLeastOnce;
            connect.will = Some(Will { topic: topic.into(), payload, qos, retain: false });
        }
        let mut out = Vec::new();
        wire::put_connect(&mut out, &connect);
        self.client_sends(client, out);
        self.clock.after(PATIENCE, Event::Client(client, ClientEvent::Impatient(socket)));
    }

    /// The will of the next connection, and its topic.
    fn next_will(&mut self, client: usize) -> (Payload, String) {
        let this = &mut self.clients[client];
        this.wills += 1;
        let payload = Payload { publisher: client, number: WILLS + this.wills };
        let topic = format!("w/{}/{}", this.name, this.wills);
        self.checks.sent(payload, topic.clone(), QoS::AtLeastOnce, 0, self.clock.now);
        (payload, topic)
    }

    /// A connection ends: its will is due, or must not come.
    fn will_of_end(&mut self, client: usize, in_order: bool) {
        let Some(will) = self.clients[client].will.take() else { return };
        self.counts.wills += 1;
        if in_order {
            self.checks.must_not_come(will);
        } else {
            self.checks.acknowledged(will, self.clock.now);
        }
        self.note_client(client, || format!("has will {}, left in order: {in_order}", will.text()));
    }

    /// It sends bytes.
    fn client_sends(&mut self, client: usize, bytes: Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        if let Some((socket, _)) = self.clients[client].link {
            self.send_chunk(socket, 1, Chunk::Bytes(bytes));
        }
    }

    /// It ends its connection, with or without DISCONNECT.
    pub fn hang_up(&mut self, client: usize, in_order: bool) {
        if in_order && self.clients[client].connected {
            let mut out = Vec::new();
            wire::put_disconnect(&mut out);
            self.client_sends(client, out);
        }
        self.will_of_end(client, in_order);
        let this = &mut self.clients[client];
        this.connected = false;
        if let Some((socket, _)) = this.link.take() {
            self.note_client(client, || "hangs up".to_owned());
            self.send_chunk(socket, 1, Chunk::End);
        }
    }

    /// Something comes to a client over one of its connections.
    pub fn client_hears(&mut self, client: usize, socket: u64, chunk: Chunk) {
        if self.clients[client].link.is_none_or(|(now, _)| now != socket) {
            return;
        }
        match chunk {
            Chunk::End => {
                self.note_client(client, || "is disconnected".to_owned());
                self.will_of_end(client, false);
                self.clients[client].link = None;
                self.clients[client].connected = false;
                self.send_chunk(socket, 1, Chunk::End);
                self.again(client);
            }
            Chunk::Bytes(bytes) => {
                self.clients[client].input.extend(bytes);
                while let Some((packet, len)) = next_packet(&self.clients[client].input) {
                    self.clients[client].input.drain(..len);
                    let answer = self.heard(client, packet);
                    self.client_sends(client, answer);
                    if self.clients[client].link.is_none() {
                        return;
                    }
                }
            }
        }
    }

    fn heard(&mut self, client: usize, packet: FromBroker) -> Vec<u8> {
        if let FromBroker::Connack { present, code } = packet {
            return self.connack(client, present, code);
        }
        match self.clients[client].role {
            Role::Publisher(_) => self.publisher_hears(client, packet),
            Role::Subscriber(_) => self.subscriber_hears(client, packet),
        }
    }

    fn connack(&mut self, client: usize, present: bool, code: u8) -> Vec<u8> {
        self.note_client(client, || format!("gets CONNACK {code}, session present: {present}"));
        if code != 0 {
            self.hang_up(client, false);
            self.again(client);
            return Vec::new();
        }
        let this = &mut self.clients[client];
        this.connected = true;
        if self.kinds.wills {
            this.will = Some(Payload { publisher: client, number: WILLS + this.wills });
        }
        let lost = this.had_session && !present && !this.clean;
        this.had_session = true;
        if lost {
            let name = Arc::clone(&this.name);
            self.fail(format!("{name} has lost its session"));
        }
        match self.clients[client].role {
            Role::Publisher(_) => self.send_again(client),
            Role::Subscriber(_) => self.subscribe_first(client, present),
        }
    }

    /// It goes elsewhere, with or without a pause.
    fn roam(&mut self, client: usize) {
        if self.healed {
            return;
        }
        let delay = self.random.between(100 * MS, 1500 * MS);
        self.clock.after(delay, Event::Client(client, ClientEvent::Roam));
        if self.clients[client].connected || self.random.one_in(4) {
            let in_order = self.random.one_in(3);
            self.counts.roams += 1;
            self.hang_up(client, in_order);
            let away = if self.random.one_in(4) { SECOND } else { MS };
            // A DISCONNECT that has not come yet discards no will.
            let at_least = if in_order { 50 * MS } else { 0 };
            let delay = self.random.between(at_least, at_least + away);
            self.clock.after(delay, Event::Client(client, ClientEvent::Connect));
        }
    }
}
