//! Clients: publishers, which send again until it is acknowledged, at another node when theirs is lost; and
//! subscribers with persistent sessions, which connect here and there and take what is queued for them.
//! And what has to hold of all they see.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::clock::{MS, SECOND};
use super::event::{Event, NodeEvent};
use super::network::Process;
use super::store::Message;
use super::world::World;

/// Numbers of one publisher's messages.
const EACH: u32 = 10_000;

/// Where one is that waits for a node.
const NOWHERE: Process = (usize::MAX, 0);

#[derive(Default)]
pub struct Publisher {
    process: Option<Process>,
    sent: u32,
    open: BTreeMap<u32, Message>,
    acknowledged: Vec<Message>,
}

pub struct Subscriber {
    pub client: Arc<str>,
    process: Option<Process>,
    connection: u64,
    connected: bool,
    /// Its session is there.
    pub subscribed: bool,
    /// Sequences that it knows, which stand for packet ids.
    known: BTreeSet<u64>,
    /// How often each message came.
    got: BTreeMap<u32, u32>,
}

impl Subscriber {
    pub fn new(number: usize) -> Self {
        Self {
            client: format!("c{number}").into(),
            process: None,
            connection: 0,
            connected: false,
            subscribed: false,
            known: BTreeSet::new(),
            got: BTreeMap::new(),
        }
    }
}

impl World {
    pub fn client_event(&mut self, event: Event) {
        match event {
            Event::Publish(publisher) => self.publish(publisher),
            Event::Acknowledged { process, message } => self.acknowledged(process, message),
            Event::Connected { client, connection, present } => {
                let subscriber = &mut self.subscribers[client];
                if subscriber.connection != connection {
                    return;
                }
                subscriber.connected = true;
                let lost = subscriber.subscribed && !present;
                subscriber.subscribed = true;
                self.note(|| format!("c{client} is connected ({connection}), session: {present}"));
                if lost {
                    self.fail(format!("c{client} has lost its session"));
                }
            }
            Event::Deliver { process, client, connection, sequence, message } => {
                self.deliver(process, client, connection, sequence, message);
            }
            Event::Closed { client, connection } => {
                if self.subscribers[client].connection == connection {
                    self.leave(client);
                    self.clock.after(50 * MS, Event::Reconnect(client));
                }
            }
            Event::PublisherLost { publisher, process } => {
                if self.publishers[publisher].process == Some(process) {
                    self.publishers[publisher].process = None;
                    self.send_again(publisher);
                }
            }
            Event::SubscriberLost { client, process } => {
                if self.subscribers[client].process == Some(process) {
                    self.leave(client);
                    let delay = self.random.between(MS, 300 * MS);
                    self.clock.after(delay, Event::Reconnect(client));
                }
            }
            Event::Reconnect(client) => self.connect(client),
            Event::Roam(client) => self.roam(client),
            _ => {}
        }
    }

    pub fn clients_lose(&mut self, process: Process, after: u64) {
        for publisher in 0..self.publishers.len() {
            let delay = after + self.random.between(MS, 100 * MS);
            self.clock.after(delay, Event::PublisherLost { publisher, process });
        }
        for client in 0..self.subscribers.len() {
            let delay = after + self.random.between(MS, 100 * MS);
            self.clock.after(delay, Event::SubscriberLost { client, process });
        }
    }

    /// One that lets clients in, as far as they can see.
    fn some_node(&mut self) -> Option<Process> {
        let open = |slot: &super::world::Slot| {
            let ready = slot.node.as_ref().is_some_and(|node| node.synced && node.may_act());
            ready && !slot.paused && !slot.isolated
        };
        let open: Vec<usize> = (0..self.nodes.len()).filter(|n| open(&self.nodes[*n])).collect();
        let index = *open.get(self.random.below(open.len().max(1)))?;
        Some(self.process(index))
    }

    fn publish(&mut self, publisher: usize) {
        let id = publisher as u32 * EACH + self.publishers[publisher].sent;
        if self.healed {
            return;
        }
        let delay = self.random.between(10 * MS, 250 * MS);
        self.clock.after(delay, Event::Publish(publisher));
        if self.publishers[publisher].process.is_none() {
            self.publishers[publisher].process = self.some_node();
        }
        let Some(process) = self.publishers[publisher].process else { return };
        if self.publishers[publisher].open.len() > 10 {
            return;
        }
        let at = self.random.below(40) as u64 * 10;
        for id in id..id + 1 + self.random.below(3) as u32 {
            let (topic, exactly_once) = (self.random.below(3) as u8, !self.random.one_in(4));
            let message = Message { id, attempt: 0, topic, exactly_once };
            self.publishers[publisher].open.insert(id, message);
            self.publishers[publisher].sent += 1;
            self.send(publisher, process, at, message);
        }
    }

    fn send(&mut self, publisher: usize, process: Process, after: u64, message: Message) {
        if process == NOWHERE {
            return;
        }
        self.note(|| format!("publisher {publisher} to n{}: {message:?}", process.0 + 1));
        let worker = publisher as u16;
        self.later(after, process, NodeEvent::Publish { worker, message });
    }

    /// At another node.
    fn send_again(&mut self, publisher: usize) {
        let Some(process) = self.some_node() else {
            let process = NOWHERE;
            self.publishers[publisher].process = Some(process);
            let event = Event::PublisherLost { publisher, process };
            return self.clock.after(100 * MS, event);
        };
        self.publishers[publisher].process = Some(process);
        self.publishers[publisher].open.values_mut().for_each(|message| message.attempt += 1);
        let open: Vec<Message> = self.publishers[publisher].open.values().copied().collect();
        self.counts.attempts += open.len() as u64;
        for message in open {
            self.send(publisher, process, MS, message);
        }
    }

    fn acknowledged(&mut self, process: Process, message: Message) {
        let publisher = &mut self.publishers[(message.id / EACH) as usize];
        if publisher.process == Some(process) && publisher.open.get(&message.id) == Some(&message) {
            publisher.open.remove(&message.id);
            publisher.acknowledged.push(message);
            self.counts.acknowledged += 1;
            self.note(|| format!("acknowledged: {message:?}"));
        }
    }

    fn deliver(
        &mut self,
        process: Process,
        client: usize,
        connection: u64,
        sequence: u64,
        message: Message,
    ) {
        let subscriber = &mut self.subscribers[client];
        if subscriber.connection != connection {
            return;
        }
        let again = !subscriber.known.insert(sequence);
        if !(again && message.exactly_once) {
            *subscriber.got.entry(message.id).or_default() += 1;
        }
        let twice = message.exactly_once && subscriber.got.get(&message.id).is_some_and(|n| *n > 1);
        let client_id = Arc::clone(&subscriber.client);
        self.note(|| format!("c{client} gets {message:?} as {sequence}"));
        if twice {
            self.fail(format!("c{client} got QoS 2 message {} twice", message.id));
        }
        let delay = self.random.between(50, 2000);
        let got = NodeEvent::Got { client: client_id, connection, sequence };
        self.later(delay, process, got);
    }

    fn leave(&mut self, client: usize) {
        let subscriber = &mut self.subscribers[client];
        subscriber.connected = false;
        let connection = std::mem::take(&mut subscriber.connection);
        let client = Arc::clone(&subscriber.client);
        if let Some(process) = subscriber.process.take() {
            let delay = self.random.between(50, 5 * MS);
            self.later(delay, process, NodeEvent::Disconnected { client, connection });
        }
    }

    fn connect(&mut self, client: usize) {
        if self.subscribers[client].process.is_some() {
            return;
        }
        let Some(process) = self.some_node() else {
            return self.clock.after(100 * MS, Event::Reconnect(client));
        };
        self.connections += 1;
        let connection = self.connections;
        let subscriber = &mut self.subscribers[client];
        (subscriber.process, subscriber.connection) = (Some(process), connection);
        let name = Arc::clone(&subscriber.client);
        self.note(|| format!("c{client} connects to n{} ({connection})", process.0 + 1));
        let delay = self.random.between(50, 500);
        self.later(delay, process, NodeEvent::Connect { client: name, connection });
    }

    /// It goes elsewhere, with or without a pause.
    fn roam(&mut self, client: usize) {
        if self.healed {
            return;
        }
        let delay = self.random.between(100 * MS, 1500 * MS);
        self.clock.after(delay, Event::Roam(client));
        if self.subscribers[client].connected || self.random.one_in(4) {
            self.leave(client);
            let away = if self.random.one_in(4) { SECOND } else { MS };
            let delay = self.random.between(0, away);
            self.clock.after(delay, Event::Reconnect(client));
        }
    }

    /// From time to time: whether the faults can begin, and whether all has come to its end.
    pub fn check(&mut self) -> bool {
        self.clock.after(100 * MS, Event::Check);
        if !self.begun && self.subscribers.iter().all(|subscriber| subscriber.subscribed) {
            self.begun = true;
            self.begin();
            for publisher in 0..self.publishers.len() {
                self.clock.after(0, Event::Publish(publisher));
            }
            for client in 0..self.subscribers.len() {
                let delay = self.random.between(0, 1500 * MS);
                self.clock.after(delay, Event::Roam(client));
            }
        }
        self.healed && self.unfinished().is_none()
    }

    /// What is not at its end; `None`: nothing.
    pub fn unfinished(&self) -> Option<String> {
        let mut open: Vec<String> = Vec::new();
        for (number, publisher) in self.publishers.iter().enumerate() {
            if let Some((_, first)) = publisher.open.first_key_value() {
                let count = publisher.open.len();
                open.push(format!("publisher {number} waits for {count}, first {first:?}"));
            }
        }
        for subscriber in &self.subscribers {
            let queued = self.store.of(&subscriber.client).map_or(0, |stored| stored.queue.len());
            if !subscriber.connected || queued > 0 {
                let (client, connected) = (&subscriber.client, subscriber.connected);
                open.push(format!("{client}: connected {connected}, {queued} queued"));
            }
        }
        open.extend(self.nodes.iter().filter_map(|slot| slot.node.as_ref()?.unfinished()));
        (!open.is_empty()).then(|| open.join("; "))
    }

    /// At the end: what was acknowledged has come.
    pub fn check_all(&mut self) {
        let mut lost = Vec::new();
        for subscriber in &self.subscribers {
            let filters = super::filters(&subscriber.client);
            let topics: Vec<u8> = filters.iter().map(|f| f[1..].parse().unwrap()).collect();
            let all = self.publishers.iter().flat_map(|publisher| &publisher.acknowledged);
            for message in all.filter(|message| topics.contains(&message.topic)) {
                if !subscriber.got.contains_key(&message.id) {
                    lost.push(format!("{message:?} has not come to {}", subscriber.client));
                }
            }
        }
        if !lost.is_empty() {
            self.fail(lost.join("; "));
        }
    }
}
