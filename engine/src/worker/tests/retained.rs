//! Retained messages for new subscriptions: whole sets, by any reader, in bounded memory.

use std::collections::BTreeMap;

use hydrant_protocol::wire::{Frame, Packet};

use super::panics::panics;
use super::*;
use crate::metrics::DropReason;
use crate::ports::{SessionOp, StoredSubscription};

/// More than buffer, window and queue have room for together.
pub(super) const MANY: usize = 300;

fn roomy() -> Settings {
    let mut settings = settings(1);
    settings.limits.max_retained_messages = 2 * MANY;
    settings.limits.max_retained_bytes = 1 << 20;
    settings.limits.max_buffer_bytes = 1 << 30;
    settings.session.max_queued_messages = 50;
    settings.session.max_queued_bytes = 10_000;
    settings
}

pub(super) fn retain(worker: &Rc<Worker>, topic: &str, payload: &str, qos: QoS) {
    let message = Message {
        topic: topic.into(),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        qos,
        retain: false,
        properties: None,
    };
    worker.shared.retained.write().insert(Arc::new(message));
}

pub(super) fn worker_that_retains(qos: QoS) -> Rc<Worker> {
    let worker = worker_with(roomy());
    for n in 0..MANY {
        retain(&worker, &format!("t/{n:03}"), "0", qos);
    }
    worker
}

/// What a client has got: topic, payload, RETAIN.
pub(super) type Got = Vec<(String, String, bool)>;

/// The queue of the one session there is, as its store has it, and its subscriptions.
#[derive(Default)]
pub(super) struct Queue(
    pub(super) BTreeMap<u64, QueueEntry>,
    pub(super) BTreeMap<Arc<str>, StoredSubscription>,
);

impl Queue {
    /// The store has its turn.
    pub(super) fn answer(&mut self, worker: &Rc<Worker>) {
        loop {
            let (ops, reads) = store(worker);
            if ops.is_empty() && reads.is_empty() {
                return;
            }
            ops.into_iter().for_each(|op| self.apply(op));
            for (slot, request, from) in reads {
                let page: Vec<_> =
                    self.0.range(from..).take(50).map(|(_, entry)| entry.clone()).collect();
                worker.queue_page(slot, request, &page);
                worker.flush();
            }
        }
    }
}

impl Queue {
    pub(super) fn apply(&mut self, op: StoreOp) {
        match op {
            StoreOp::Session(SessionOp::PutQueued { entry, .. }) => {
                drop(self.0.insert(entry.sequence, entry))
            }
            StoreOp::Session(SessionOp::DeleteQueued { sequence, .. }) => {
                drop(self.0.remove(&sequence))
            }
            StoreOp::Session(SessionOp::PutOutgoing { sequence, packet_id, stage, .. }) => {
                self.0.get_mut(&sequence).unwrap().outgoing = Some((packet_id, stage));
            }
            StoreOp::Session(SessionOp::PutSubscription { filter, qos, owes, .. }) => {
                self.1.insert(Arc::clone(&filter), StoredSubscription { filter, qos, owes });
            }
            _ => {}
        }
    }
}

/// A client reads all that is there and acknowledges it; the actors have their turn.
pub(super) fn read(worker: &Rc<Worker>, conn: &Rc<Conn>, queue: &mut Queue) -> Got {
    let got = read_before_store(worker, conn);
    queue.answer(worker);
    got
}

/// The same up to the store's turn.
pub(super) fn read_before_store(worker: &Rc<Worker>, conn: &Rc<Conn>) -> Got {
    let mut got = Vec::new();
    let bytes = conn.out.take();
    // Those of QoS 2 that wait for the store, at most a window, come on top of limits.max_output_bytes.
    assert!(bytes.len() < 2000, "{} bytes wait for a socket", bytes.len());
    let mut input = &bytes[..];
    while let Frame::Complete { first, body, len } = wire::next_frame(input, 10_000).unwrap() {
        // CONNACK, SUBACK and UNSUBACK are none that a node takes.
        let packet = match first >> 4 {
            3 | 6 => Some(wire::decode(first, body, &worker.wire_limits).unwrap()),
            _ => None,
        };
        match packet {
            Some(Packet::Publish(publish)) => {
                let payload = String::from_utf8(publish.payload.to_vec()).unwrap();
                got.push((publish.topic.to_owned(), payload, publish.retain));
                match (publish.qos, publish.packet_id) {
                    (QoS::AtLeastOnce, Some(id)) => {
                        worker.handle_puback(conn, id).unwrap();
                    }
                    (QoS::ExactlyOnce, Some(id)) => worker.handle_pubrec(conn, id).unwrap(),
                    _ => {}
                }
            }
            Some(Packet::Pubrel(id)) => worker.handle_pubcomp(conn, id).unwrap(),
            _ => {}
        }
        input = &input[len..];
    }
    if conn.wants_pump.replace(false) {
        worker.pump(conn);
    }
    worker.flush();
    worker.send_retained();
    got
}

/// The same until nothing more comes.
pub(super) fn read_all(worker: &Rc<Worker>, conn: &Rc<Conn>, queue: &mut Queue) -> Got {
    let mut all = Vec::new();
    while !conn.out.borrow().is_empty() || worker.has_retained_to_send() {
        all.extend(read(worker, conn, queue));
    }
    all
}

/// [`subscribe`], to a store that keeps the queue.
pub(super) fn subscribe_to(
    worker: &Rc<Worker>,
    conn: &Rc<Conn>,
    filter: &str,
    qos: QoS,
    queue: &mut Queue,
) {
    ask_for(worker, conn, filter, qos);
    worker.flush();
    queue.answer(worker);
}

fn dropped(worker: &Worker) -> u64 {
    let reasons = [DropReason::SlowSubscriber, DropReason::QueueFull];
    reasons.iter().map(|reason| worker.metrics.dropped[*reason as usize].get()).sum()
}

const LEVELS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

#[test]
fn a_set_past_every_bound_comes_whole() {
    for published in LEVELS {
        for granted in LEVELS {
            for clean in [true, false] {
                let worker = worker_that_retains(published);
                let conn = connect(&worker, clean, None);
                let queue = &mut Queue::default();
                store(&worker);
                subscribe_to(&worker, &conn, "t/#", granted, queue);
                let case = format!("{published:?} at {granted:?}, clean: {clean}");
                let (_, queued, _) = worker.session_load(&conn);
                assert!(queued <= 4, "{case}: {queued} wait");
                let got = read_all(&worker, &conn, queue);
                assert_eq!(got.len(), MANY, "{case}");
                assert!(got.iter().enumerate().all(|(n, m)| m.0 == format!("t/{n:03}") && m.2));
                assert_eq!(dropped(&worker), 0, "{case}");
                assert_eq!(worker.session_load(&conn), (0, 0, clean), "{case}");
            }
        }
    }
}

#[test]
fn what_stands_then_is_sent_and_nothing_older_behind_a_newer_one() {
    for qos in LEVELS {
        for clean in [true, false] {
            let worker = worker_that_retains(qos);
            let (conn, publisher) = (connect(&worker, clean, None), conn(&worker));
            let queue = &mut Queue::default();
            store(&worker);
            subscribe_to(&worker, &conn, "t/#", qos, queue);
            let (mut got, mut round) = (Vec::new(), 0);
            let mut stands = BTreeMap::new();
            while round < 200 || worker.has_retained_to_send() || !conn.out.borrow().is_empty() {
                round += 1;
                // Two topics, before and behind where the cursor is, or at it.
                for n in [round * 37 % MANY, got.len() % MANY].into_iter().filter(|_| round < 200) {
                    let (topic, payload) = (format!("t/{n:03}"), format!("{round}"));
                    publish_at(qos, &worker, &publisher, &topic, payload.as_bytes(), true);
                    worker.flush();
                    stands.insert(topic, round);
                }
                queue.answer(&worker);
                got.extend(read(&worker, &conn, queue));
            }
            let mut last = BTreeMap::new();
            for (topic, payload, _) in got {
                let new: usize = payload.parse().unwrap();
                let old = last.insert(topic.clone(), new).unwrap_or(0);
                assert!(new >= old, "{new} behind {old} of {topic} at {qos:?}, clean: {clean}");
            }
            assert_eq!(last.len(), MANY, "{qos:?}, clean: {clean}");
            let stale: Vec<_> = stands.iter().filter(|(t, n)| last.get(*t) != Some(n)).collect();
            assert!(stale.is_empty(), "{qos:?}, clean: {clean}: {stale:?}");
            assert_eq!(dropped(&worker), 0);
        }
    }
}

#[test]
fn unsubscribe_ends_a_cursor_and_subscribe_begins_it_anew() {
    let worker = worker_that_retains(QoS::AtMostOnce);
    let conn = connect(&worker, true, None);
    let queue = &mut Queue::default();
    subscribe_to(&worker, &conn, "t/#", QoS::AtMostOnce, queue);
    let mut got = read(&worker, &conn, queue);
    assert!(!got.is_empty() && got.len() < MANY);
    let body = [&[0, 1, 0, 3][..], b"t/#"].concat();
    let decoded = wire::decode(0xA2, &body, &wire::Limits::PROTOCOL).unwrap();
    let wire::Packet::Unsubscribe(unsubscribe) = decoded else { panic!("UNSUBSCRIBE") };
    worker.unsubscribe(&conn, unsubscribe);
    got.extend(read_all(&worker, &conn, queue));
    assert!(got.len() < MANY, "{}", got.len());
    // [MQTT-3.8.4-3]
    subscribe_to(&worker, &conn, "t/#", QoS::AtMostOnce, queue);
    read(&worker, &conn, queue);
    subscribe_to(&worker, &conn, "t/#", QoS::AtMostOnce, queue);
    let before = conn.out.borrow().len();
    let got = read_all(&worker, &conn, queue);
    assert!(got.len() >= MANY && got.len() < MANY + before, "{}", got.len());
    let whole = got.iter().rposition(|m| m.0 == "t/000").unwrap();
    assert_eq!(got.len() - whole, MANY);
}

#[test]
fn a_persistent_session_gets_the_rest_at_its_next_connection() {
    for granted in LEVELS {
        let worker = worker_that_retains(QoS::AtLeastOnce);
        let first = connect(&worker, false, None);
        let queue = &mut Queue::default();
        store(&worker);
        subscribe_to(&worker, &first, "t/#", granted, queue);
        let mut got = read(&worker, &first, queue);
        // It leaves with some unread: those of QoS 1 come back from its queue.
        let unread = if granted == QoS::AtMostOnce { publishes_in(&worker, &first) } else { 0 };
        worker.detach(&first, CloseReason::Disconnect);
        worker.send_retained();
        let second = connect(&worker, false, None);
        queue.answer(&worker);
        got.extend(read_all(&worker, &second, queue));
        assert_eq!(got.len() + unread, MANY, "{granted:?}");
        assert_eq!(got.last().unwrap().0, format!("t/{:03}", MANY - 1));
    }
}

/// PUBLISH packets that wait for the socket.
fn publishes_in(worker: &Worker, conn: &Conn) -> usize {
    let (out, mut input, mut count) = (conn.out.borrow(), 0, 0);
    while let Frame::Complete { first, len, .. } =
        wire::next_frame(&out[input..], worker.wire_limits.max_packet_size).unwrap()
    {
        count += usize::from(first >> 4 == 3);
        input += len;
    }
    count
}

#[test]
fn a_turn_is_bounded_for_all_connections_together() {
    let mut settings = roomy();
    settings.limits.max_retained_messages = 100_000;
    settings.limits.max_retained_bytes = 1 << 30;
    settings.limits.max_output_bytes = 1 << 20;
    let worker = worker_with(settings);
    for n in 0..5_000 {
        retain(&worker, &format!("{n}"), &"x".repeat(20), QoS::AtMostOnce);
    }
    let connect = |n: usize| connect_as(&format!("c{n}"), &worker, true, None);
    let conns: Vec<_> = (0..50).map(connect).collect();
    let written = || conns.iter().map(|conn| conn.out.borrow().len()).sum::<usize>();
    for conn in &conns {
        let before = written();
        subscribe(&worker, conn, "#", QoS::AtMostOnce);
        assert!(written() - before < 8 * 1024, "at once: {}", written() - before);
    }
    let mut turns = 0;
    while worker.has_retained_to_send() {
        let before = written();
        worker.send_retained();
        assert!(written() - before <= 64 * 1024, "in a turn: {}", written() - before);
        turns += 1;
    }
    assert!(turns > 10);
    for conn in &conns {
        let len = conn.out.borrow().len();
        assert!((32 * 1024..33 * 1024).contains(&len), "{len} bytes wait for a socket");
        // What is left of the buffer is for live messages.
        assert!(conn.wants_pump.get());
    }
}

#[test]
fn a_turn_that_panics_ends_one_connection_and_holds_up_no_other() {
    let worker = worker_that_retains(QoS::AtMostOnce);
    let queue = &mut Queue::default();
    let first = connect_as("first", &worker, false, None);
    let second = connect_as("second", &worker, true, None);
    queue.answer(&worker);
    for conn in [&first, &second] {
        subscribe_to(&worker, conn, "t/#", QoS::AtMostOnce, queue);
        assert!(publishes_in(&worker, conn) > 0);
        conn.out.take();
        worker.pump(conn);
    }
    assert!(panics(|| {
        let _in_use = first.out.borrow_mut();
        worker.send_retained();
    }));
    assert_eq!(first.phase().closing(), Some(CloseReason::Limit));
    assert!(worker.has_retained_to_send());
    assert!(read_all(&worker, &second, queue).len() > MANY / 2);
    worker.detach(&first, CloseReason::Limit);
    let again = connect_as("first", &worker, false, None);
    queue.answer(&worker);
    assert!(read_all(&worker, &again, queue).is_empty(), "it would panic for ever");
}
