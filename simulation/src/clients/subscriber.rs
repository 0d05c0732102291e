//! Clients that are subscribed: with a session that outlives the connection, or without.

use hydrant_protocol::wire;
use hydrant_protocol::{PacketId, QoS};

use super::packets::FromBroker;
use super::state::{Payload, Role, Subscriber};
use crate::clock::MS;
use crate::event::{ClientEvent, Event};
use crate::world::World;

impl World {
    fn subscriber(&mut self, client: usize) -> Option<&mut Subscriber> {
        match &mut self.clients[client].role {
            Role::Subscriber(subscriber) => Some(subscriber),
            Role::Publisher(_) => None,
        }
    }

    /// With a new connection.
    pub(super) fn subscribe_first(&mut self, client: usize, present: bool) -> Vec<u8> {
        let mut out = Vec::new();
        let (now, clean) = (self.clock.now, self.clients[client].clean);
        if !present {
            self.checks.ends(client, now);
        }
        let Some(subscriber) = self.subscriber(client) else { return out };
        // Nobody answers what was asked over another connection.
        let asked = std::mem::take(&mut subscriber.asked);
        if !present {
            subscriber.received.clear();
        }
        if !present || !subscriber.subscribed {
            let filters = subscriber.filters.clone();
            subscriber.ask(&mut out, true, &filters);
        }
        for (subscribe, filters) in asked.into_values() {
            let its = !subscriber.filters.iter().any(|one| filters.contains(one));
            if its && !clean {
                subscriber.ask(&mut out, subscribe, &filters);
            }
        }
        out
    }

    /// It subscribes to something more, or to something less.
    pub(super) fn churn(&mut self, client: usize) {
        if self.healed {
            return;
        }
        let delay = self.random.between(50 * MS, 800 * MS);
        self.clock.after(delay, Event::Client(client, ClientEvent::Churn));
        let pick = self.random.below(100);
        let (now, connected) = (self.clock.now, self.clients[client].connected);
        let Some(subscriber) = self.subscriber(client) else { return };
        if !connected || subscriber.churns.is_empty() || !subscriber.asked.is_empty() {
            return;
        }
        let one = subscriber.churns[pick % subscriber.churns.len()].clone();
        let mut out = Vec::new();
        let subscribe = pick >= 50;
        subscriber.ask(&mut out, subscribe, std::slice::from_ref(&one));
        if !subscribe {
            self.checks.unsubscribes(client, &one.0, now);
        }
        self.counts.churns += 1;
        let what = if subscribe { "subscribes to" } else { "unsubscribes from" };
        self.note_client(client, || format!("{what} {}", one.0));
        self.client_sends(client, out);
    }

    pub(super) fn subscriber_hears(&mut self, client: usize, packet: FromBroker) -> Vec<u8> {
        let mut out = Vec::new();
        let now = self.clock.now;
        match packet {
            FromBroker::Publish { qos, dup, retain, id, topic, payload } => {
                self.has_come(client, qos, dup, retain, id, topic, &payload);
                match (qos, id) {
                    (QoS::AtLeastOnce, Some(id)) => wire::put_puback(&mut out, id),
                    (QoS::ExactlyOnce, Some(id)) => wire::put_pubrec(&mut out, id),
                    _ => {}
                }
            }
            FromBroker::Pubrel(id) => {
                if let Some(subscriber) = self.subscriber(client) {
                    subscriber.received.remove(&id);
                }
                wire::put_pubcomp(&mut out, id);
            }
            FromBroker::Suback(id, codes) => {
                let Some(subscriber) = self.subscriber(client) else { return out };
                let Some((_, filters)) = subscriber.asked.remove(&id) else { return out };
                subscriber.subscribed = true;
                for ((filter, _), code) in filters.into_iter().zip(codes) {
                    self.checks.subscribed(client, &filter, code, now);
                    self.note_client(client, || format!("is subscribed to {filter} with {code}"));
                }
            }
            FromBroker::Unsuback(id) => {
                let subscriber = self.subscriber(client);
                let asked = subscriber.and_then(|it| it.asked.remove(&id));
                for (filter, _) in asked.map(|(_, filters)| filters).unwrap_or_default() {
                    self.note_client(client, || format!("is not subscribed to {filter} any more"));
                }
            }
            _ => {}
        }
        out
    }

    #[allow(clippy::too_many_arguments, reason = "the fields of one packet")]
    fn has_come(
        &mut self,
        client: usize,
        qos: QoS,
        dup: bool,
        retain: bool,
        id: Option<PacketId>,
        topic: String,
        payload: &[u8],
    ) {
        let text = String::from_utf8_lossy(payload).into_owned();
        self.note_client(client, || {
            format!("gets {text} of {topic} at {qos:?} as {id:?}, dup {dup}")
        });
        let Some(subscriber) = self.subscriber(client) else { return };
        if qos == QoS::ExactlyOnce && id.is_some_and(|id| !subscriber.received.insert(id)) {
            // The same message again.
            return;
        }
        let Some(payload) = Payload::parse(payload) else { return };
        self.counts.delivered += 1;
        let name = self.clients[client].name.clone();
        let persistent = !self.clients[client].clean;
        if let Err(why) = self.checks.came(client, payload, qos, retain, persistent) {
            self.fail(format!("{name}: {why}"));
        }
    }
}
