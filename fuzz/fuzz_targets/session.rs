//! Any order of events at the session's state machines and the subscription table, each beside a
//! plain model of what the standard says.

#![no_main]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use arbitrary::Arbitrary;
use bytes::Bytes;
use hydrant_protocol::session::{Acknowledged, Inbound, Outbound, Receipt, Release, Waiting};
use hydrant_protocol::topic::{
    Retained, SubscriptionTable, TopicFilter, filter_matches, fold_overlaps,
};
use hydrant_protocol::wire::Limits;
use hydrant_protocol::{Message, PacketId, QoS};
use libfuzzer_sys::fuzz_target;

#[derive(Debug, Arbitrary)]
enum Op {
    // Incoming QoS 2.
    Receive(u8),
    Stored(u8),
    Release(u8),
    Restore,
    // Outgoing.
    Enqueue(u8),
    Pump,
    Puback(u8),
    Pubrec(u8),
    Pubcomp(u8),
    DropOldest,
    Clear,
    // Topics.
    Subscribe(u8, Vec<u8>, u8),
    Unsubscribe(u8, Vec<u8>),
    Match(Vec<u8>),
    Retain(Vec<u8>, u8),
}

const WINDOW: u16 = 5;

fn id(n: u8) -> PacketId {
    PacketId::new(u16::from(n) + 1).expect("above 0")
}

fn qos(n: u8) -> QoS {
    QoS::from_bits(n % 3).expect("0 to 2")
}

/// A short topic or filter: few letters, so that they meet.
fn text(bytes: &[u8]) -> String {
    bytes
        .iter()
        .take(12)
        .map(|b| ['a', 'b', '/', '/', '+', '#', '$', 'ü'][usize::from(b % 8)])
        .collect()
}

fn message(text: &str, n: u8) -> Arc<Message> {
    Arc::new(Message {
        topic: text.into(),
        payload: Bytes::from(vec![n; usize::from(n % 4)]),
        qos: qos(n),
        retain: true,
        properties: None,
    })
}

/// The flights by id with their stage: 0 waits for PUBACK, 1 for PUBREC, 2 for PUBCOMP.
#[derive(Default)]
struct Model {
    held: BTreeMap<PacketId, bool>,
    flights: Vec<(PacketId, u8, u64)>,
    waiting: VecDeque<(u64, QoS)>,
    next: u64,
    subscriptions: BTreeMap<(String, u8), QoS>,
    retained: BTreeMap<String, Bytes>,
}

fuzz_target!(|ops: Vec<Op>| {
    let mut model = Model::default();
    let mut inbound = Inbound::default();
    let mut outbound = Outbound::default();
    let mut table = SubscriptionTable::<u8>::new();
    let mut retained = Retained::new();
    for op in ops {
        match op {
            Op::Receive(n) => {
                let expected = match model.held.get(&id(n)) {
                    Some(true) => Receipt::Known,
                    Some(false) => Receipt::Pending,
                    None => Receipt::New,
                };
                assert_eq!(inbound.publish(id(n)), expected);
                model.held.entry(id(n)).or_insert(false);
            }
            Op::Stored(n) => {
                let known = model.held.get_mut(&id(n)).map(|durable| *durable = true).is_some();
                assert_eq!(inbound.stored(id(n)), known);
            }
            Op::Release(n) => {
                let known = model.held.remove(&id(n)).is_some();
                assert_eq!(
                    inbound.release(id(n)),
                    if known { Release::Released } else { Release::Unknown }
                );
            }
            Op::Restore => {
                let ids: Vec<_> = model.held.keys().copied().collect();
                inbound = Inbound::restored(&ids);
                model.held.values_mut().for_each(|durable| *durable = true);
            }
            Op::Enqueue(n) => {
                model.next += 1;
                let waiting = Waiting {
                    sequence: model.next,
                    qos: qos(n),
                    retain: false,
                    message: message("t", n),
                };
                outbound.wait(waiting);
                model.waiting.push_back((model.next, qos(n)));
            }
            Op::Pump => pump(&mut outbound, &mut model),
            Op::Puback(n) => answered(outbound.puback(nth(&model, n)), &mut model, n, 0),
            Op::Pubrec(n) => {
                let wanted = nth(&model, n);
                let flight =
                    model.flights.iter_mut().find(|(id, stage, _)| *id == wanted && *stage > 0);
                let expected = flight.map(|flight| {
                    flight.1 = 2;
                    flight.2
                });
                assert_eq!(sequence(outbound.pubrec(wanted)), expected);
            }
            Op::Pubcomp(n) => answered(outbound.pubcomp(nth(&model, n)), &mut model, n, 2),
            Op::DropOldest => {
                let dropped = outbound.drop_oldest().map(|waiting| waiting.sequence);
                assert_eq!(dropped, model.waiting.pop_front().map(|(sequence, _)| sequence));
            }
            Op::Clear => {
                assert_eq!(outbound.clear(), model.waiting.len());
                model.waiting.clear();
                model.flights.clear();
            }
            Op::Subscribe(who, bytes, n) => {
                if let Ok(filter) = TopicFilter::parse(&text(&bytes), &Limits::PROTOCOL) {
                    let new =
                        model.subscriptions.insert((filter.to_string(), who), qos(n)).is_none();
                    assert_eq!(table.subscribe(&filter, who, qos(n)), new);
                }
            }
            Op::Unsubscribe(who, bytes) => {
                if let Ok(filter) = TopicFilter::parse(&text(&bytes), &Limits::PROTOCOL) {
                    let known = model.subscriptions.remove(&(filter.to_string(), who)).is_some();
                    assert_eq!(table.unsubscribe(&filter, who), known);
                }
            }
            Op::Match(bytes) => matched(&table, &retained, &model, &text(&bytes)),
            Op::Retain(bytes, n) => {
                let topic = text(&bytes).replace(['+', '#'], "");
                if !topic.is_empty() {
                    let message = message(&topic, n);
                    if message.payload.is_empty() {
                        model.retained.remove(&topic);
                    } else {
                        model.retained.insert(topic, message.payload.clone());
                    }
                    retained.insert(message);
                }
            }
        }
        assert_eq!(inbound.len(), model.held.len());
        assert_eq!(outbound.in_flight(), model.flights.len());
        assert_eq!(outbound.waiting(), model.waiting.len());
        assert_eq!(outbound.waiting() == 0, outbound.waiting_bytes() == 0);
        assert_eq!(table.len(), model.subscriptions.len());
        assert!(outbound.in_flight() <= usize::from(WINDOW));
    }
});

fn sequence(acknowledged: Acknowledged) -> Option<u64> {
    match acknowledged {
        Acknowledged::Message { sequence, .. } => Some(sequence),
        Acknowledged::Unknown => None,
    }
}

/// Mostly an id in flight, so that acknowledgements meet something.
fn nth(model: &Model, n: u8) -> PacketId {
    model.flights.get(usize::from(n)).map_or(id(n), |flight| flight.0)
}

fn answered(acknowledged: Acknowledged, model: &mut Model, n: u8, stage: u8) {
    let wanted = nth(model, n);
    let at = model.flights.iter().position(|(id, at, _)| *id == wanted && *at == stage);
    assert_eq!(sequence(acknowledged), at.map(|at| model.flights.remove(at).2));
}

/// Sends what the window takes: in order, under ids not in flight; QoS 0 needs no room.
fn pump(outbound: &mut Outbound, model: &mut Model) {
    while let Some(next) = outbound.next_waiting(WINDOW) {
        assert_eq!(model.waiting.pop_front(), Some((next.sequence, next.qos)));
        if next.qos == QoS::AtMostOnce {
            continue;
        }
        let id = outbound.send(next.qos, next.sequence, 1);
        assert!(model.flights.iter().all(|(used, ..)| *used != id), "{id} twice");
        model.flights.push((id, u8::from(next.qos == QoS::ExactlyOnce), next.sequence));
    }
    if let Some((_, qos)) = model.waiting.front() {
        assert!(*qos != QoS::AtMostOnce && model.flights.len() == usize::from(WINDOW));
    } else {
        assert_eq!(outbound.can_send(WINDOW), model.flights.len() < usize::from(WINDOW));
    }
}

/// The table and the retained messages against each filter one by one.
fn matched(table: &SubscriptionTable<u8>, retained: &Retained, model: &Model, text: &str) {
    let topic = text.replace(['+', '#'], "");
    if !topic.is_empty() {
        let mut found = Vec::new();
        table.matches(&topic, &mut found);
        fold_overlaps(&mut found);
        let mut expected = BTreeMap::new();
        for ((filter, who), qos) in &model.subscriptions {
            if filter_matches(filter, &topic) {
                let highest = expected.entry(*who).or_insert(*qos);
                *highest = (*highest).max(*qos);
            }
        }
        assert_eq!(found, expected.into_iter().collect::<Vec<_>>(), "{topic}");
    }
    if let Ok(filter) = TopicFilter::parse(text, &Limits::PROTOCOL) {
        let mut found = Vec::new();
        retained.matching(&filter, &mut found);
        let found: BTreeSet<_> = found.iter().map(|message| message.topic.to_string()).collect();
        let expected: BTreeSet<_> =
            model.retained.keys().filter(|topic| filter_matches(text, topic)).cloned().collect();
        assert_eq!(found, expected, "{text}");
    }
}
