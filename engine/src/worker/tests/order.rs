//! In which order QoS 2 messages reach live subscribers, when what they wait for ends in another one.

use super::panics::{panics, subscribe_nowhere};
use super::*;
use crate::messages::CompletionToken;
use crate::ports::PreparedPublish;
use hydrant_protocol::cluster::message::PublishId;

/// A persistent subscriber on another worker that is on its way between two nodes, or is there.
fn moves(worker: &Rc<Worker>, is: bool) {
    let mut handover = worker.shared.in_handover.write();
    if is {
        handover.insert((1, 0))
    } else {
        handover.remove(&(1, 0))
    };
    worker.shared.generations.all_changed();
}

fn send(worker: &Rc<Worker>, conn: &Rc<Conn>, topic: &str, id: u16, retain: bool) {
    let packet_id = PacketId::new(id).unwrap();
    let payload = format!("<{id}>");
    let publish = Publish {
        dup: false,
        qos: QoS::ExactlyOnce,
        retain,
        topic,
        packet_id: Some(packet_id),
        payload: payload.as_bytes(),
    };
    let receipt = worker.handle_qos2_publish(conn, packet_id);
    assert!(receipt.is_some(), "known");
    worker.submit(conn, &publish, receipt);
    worker.route_all(|| ());
}

/// One that waits for the session on its way, then others that do not; what the first waits for.
fn first_waits(
    worker: &Rc<Worker>,
    conn: &Rc<Conn>,
    topic: &str,
    others: u16,
) -> Vec<CompletionToken> {
    subscribe_elsewhere(worker, topic);
    moves(worker, true);
    send(worker, conn, topic, 1, false);
    moves(worker, false);
    for id in 2..2 + others {
        send(worker, conn, topic, id, false);
    }
    late(worker)
}

/// What waits for the session on its way.
fn late(worker: &Rc<Worker>) -> Vec<CompletionToken> {
    let mut late = Vec::new();
    let mut taken = worker.take_router(1, 100);
    while let Some(work) = taken.pop_front() {
        if let RouterWork::Deliver(mut batch) = work {
            late.append(&mut batch.late);
        }
    }
    assert_eq!(late.len(), 1);
    late
}

/// What was written to a connection as `<…>`.
fn got(conn: &Conn) -> String {
    let out = conn.out.borrow();
    let marked = out.split(|byte| *byte == b'<').skip(1);
    let parts = marked.filter_map(|part| part.split(|byte| *byte == b'>').next());
    parts.map(|part| String::from_utf8_lossy(part) + " ").collect()
}

/// Their ids.
fn pubrecs(conn: &Conn) -> Vec<u8> {
    let out = conn.out.borrow();
    out.windows(4).filter(|w| w.starts_with(b"\x50\x02\x00")).map(|w| w[3]).collect()
}

fn live(worker: &Rc<Worker>, filter: &str) -> Rc<Conn> {
    let subscriber = connect_as("live", worker, true, None);
    store(worker);
    subscribe(worker, &subscriber, filter, QoS::ExactlyOnce);
    subscriber
}

fn complete(worker: &Rc<Worker>, tokens: Vec<CompletionToken>) {
    tokens.into_iter().for_each(|token| worker.complete(token));
    worker.flush();
}

fn nothing_is_left(worker: &Rc<Worker>) {
    assert_eq!(worker.waiting(), 0);
    let order = format!("{:?}", worker.order.borrow());
    assert!(order.contains("len: 0,") && order.ends_with("last: {}, ready: [] }"), "{order}");
}

#[test]
fn what_waits_longer_is_not_overtaken() {
    for clean in [false, true] {
        let worker = worker(2);
        let subscriber = live(&worker, "#");
        let publisher = connect(&worker, clean, None);
        store(&worker);
        let late = first_waits(&worker, &publisher, "t", 2);
        send(&worker, &publisher, "other", 9, false);
        store(&worker);
        assert_eq!(got(&subscriber), "9 ", "another topic is held back");
        assert!(pubrecs(&publisher).is_empty(), "the answers are in order");
        complete(&worker, late);
        assert_eq!(got(&subscriber), "9 1 2 3 ");
        assert_eq!(pubrecs(&publisher), [1, 2, 3, 9]);
        nothing_is_left(&worker);
    }
}

/// The earlier connection's message waits for the store, where its retained message goes.
#[test]
fn a_new_connection_overtakes_nothing_of_the_one_before() {
    for retains in [false, true] {
        let worker = worker(1);
        let subscriber = live(&worker, "t");
        let before = connect_as("publisher", &worker, true, None);
        store(&worker);
        send(&worker, &before, "t", 1, true);
        worker.detach(&before, CloseReason::Disconnect);
        let publisher = connect_as("publisher", &worker, true, None);
        send(&worker, &publisher, "t", 1, retains);
        send(&worker, &publisher, "t", 2, false);
        assert_eq!(got(&subscriber), "");
        store(&worker);
        assert_eq!(got(&subscriber), "1 1 2 ");
        assert_eq!(pubrecs(&publisher), [1, 2]);
        // Nothing waits any more.
        send(&worker, &publisher, "t", 3, false);
        assert_eq!(got(&subscriber), "1 1 2 3 ");
        nothing_is_left(&worker);
    }
}

/// It wants nothing of the store, and one before it does.
#[test]
fn what_waits_for_nothing_does_not_overtake_what_waits() {
    let worker = worker(1);
    let subscriber = live(&worker, "t");
    let publisher = connect(&worker, true, None);
    store(&worker);
    send(&worker, &publisher, "t", 1, true);
    send(&worker, &publisher, "t", 2, false);
    store(&worker);
    assert_eq!(got(&subscriber), "1 2 ");
    assert_eq!(pubrecs(&publisher), [1, 2]);
    send(&worker, &publisher, "t", 3, false);
    assert_eq!(got(&subscriber), "1 2 3 ", "alone it waits for nothing");
    nothing_is_left(&worker);
}

#[test]
fn what_is_durable_comes_in_order_when_its_connection_has_ended() {
    let worker = worker(2);
    let subscriber = live(&worker, "t");
    let publisher = connect(&worker, false, None);
    store(&worker);
    let late = first_waits(&worker, &publisher, "t", 1);
    store(&worker);
    worker.detach(&publisher, CloseReason::Eof);
    let again = connect(&worker, false, None);
    store(&worker);
    // Sent again, neither is routed again; what is new comes behind them.
    for id in [1, 2] {
        assert_eq!(worker.handle_qos2_publish(&again, PacketId::new(id).unwrap()), None);
    }
    send(&worker, &again, "t", 3, false);
    store(&worker);
    assert_eq!(got(&subscriber), "");
    complete(&worker, late);
    assert_eq!(got(&subscriber), "1 2 3 ");
    let mut answered = pubrecs(&again);
    answered.sort_unstable();
    assert_eq!(answered, [1, 2, 3]);
    nothing_is_left(&worker);
}

#[test]
fn what_is_refused_gives_its_place_up() {
    let worker = worker(2);
    let subscriber = live(&worker, "t");
    let publisher = connect(&worker, false, None);
    store(&worker);
    let late = first_waits(&worker, &publisher, "t", 2);
    let mut stored = Vec::new();
    let mut taken = worker.take_storage(100);
    while let Some(work) = taken.pop_front() {
        if let StorageWork::Write { tokens, .. } = work {
            stored.extend(tokens);
        }
    }
    assert_eq!(stored.len(), 3);
    worker.refuse(stored.remove(1));
    complete(&worker, stored);
    assert_eq!(got(&subscriber), "");
    complete(&worker, late);
    assert_eq!(got(&subscriber), "1 3 ");
    nothing_is_left(&worker);
}

#[test]
fn the_first_that_is_refused_gives_its_place_up() {
    let worker = worker(2);
    let subscriber = live(&worker, "t");
    let publisher = connect(&worker, false, None);
    store(&worker);
    let late = first_waits(&worker, &publisher, "t", 2);
    store(&worker);
    worker.refuse(late[0]);
    assert_eq!(got(&subscriber), "2 3 ");
    nothing_is_left(&worker);
}

#[test]
fn what_panics_gives_its_place_up() {
    let worker = worker(2);
    let subscriber = live(&worker, "t");
    let publisher = connect(&worker, false, None);
    store(&worker);
    let late = first_waits(&worker, &publisher, "t", 2);
    store(&worker);
    let filter = subscribe_nowhere(&worker, "t", false);
    assert!(panics(|| complete(&worker, late)));
    assert!(worker.has_router_work(), "nobody goes on");
    assert!(panics(|| _ = worker.route_all(|| ())));
    let nowhere = crate::subscriptions::Subscriber { worker: 77, persistent: false, slot: 0 };
    worker.remove_subscription(&filter, nowhere);
    worker.route_all(|| ());
    assert!(got(&subscriber).ends_with("3 "), "{}", got(&subscriber));
    assert_eq!(publisher.phase().closing(), Some(CloseReason::Limit));
    nothing_is_left(&worker);
}

fn prepared(publisher: &Conn, topic: &str, payload: &'static [u8]) -> PreparedPublish {
    PreparedPublish {
        id: PublishId { incarnation: 1, router: 0, number: 1 },
        publisher: publisher.client_id.borrow().clone().unwrap(),
        session: None,
        packet_id: PacketId::MIN,
        record: None,
        message: Arc::new(Message {
            topic: topic.into(),
            payload: Bytes::from_static(payload),
            qos: QoS::ExactlyOnce,
            retain: false,
            properties: None,
        }),
        retain: false,
        queued: false,
    }
}

#[test]
fn what_a_lost_node_had_prepared_comes_before_what_its_client_publishes_here() {
    for kind in [LogKind::None, LogKind::Embedded] {
        let mut settings = settings(1);
        settings.log.kind = kind;
        let worker = worker_with(settings);
        let subscriber = live(&worker, "#");
        let queue = connect_as("queue", &worker, false, None);
        store(&worker);
        subscribe(&worker, &queue, "t", QoS::ExactlyOnce);
        let publisher = connect(&worker, true, None);
        store(&worker);
        worker.hold_prepared(&[prepared(&publisher, "t", b"<prepared>")]);
        let written = || {
            let mut all = Vec::new();
            for _ in 0..3 {
                let mut taken = worker.take_log(10);
                while let Some(work) = taken.pop_front() {
                    work.token.into_iter().for_each(|token| worker.complete(token));
                }
                worker.route_all(|| ());
                all.append(&mut queued(&store(&worker).0));
            }
            all
        };
        send(&worker, &publisher, "other", 2, false);
        send(&worker, &publisher, "t", 3, false);
        assert!(written().is_empty());
        assert_eq!(got(&subscriber), "2 ");
        worker.finish_prepared();
        let queued: Vec<_> = written().iter().map(|e| e.message.payload.clone()).collect();
        assert_eq!(queued, ["<prepared>", "<3>"]);
        assert_eq!(got(&subscriber), "2 prepared 3 ");
        assert_eq!(pubrecs(&publisher), [2, 3]);
        nothing_is_left(&worker);
    }
}

/// Who subscribes between the routing and the delivery of a retained message gets it once, at its time.
#[test]
fn no_older_message_follows_a_retained_one() {
    let worker = worker(2);
    let before = live(&worker, "t");
    let (new, queues) =
        (connect_as("new", &worker, true, None), connect_as("q", &worker, false, None));
    let publisher = connect(&worker, true, None);
    store(&worker);
    send(&worker, &publisher, "t", 1, true);
    store(&worker);
    subscribe_elsewhere(&worker, "t");
    moves(&worker, true);
    send(&worker, &publisher, "t", 2, true);
    moves(&worker, false);
    send(&worker, &publisher, "t", 3, true);
    store(&worker);
    let late = late(&worker);
    for conn in [&new, &queues] {
        subscribe(&worker, conn, "t", QoS::ExactlyOnce);
        store(&worker);
    }
    assert_eq!(got(&new), "1 ");
    // What was routed before it is in no queue of its.
    assert_eq!(got(&queues), "3 ");
    complete(&worker, late);
    assert_eq!(got(&before), "1 2 3 ");
    assert_eq!(got(&new), "1 2 3 ");
    assert_eq!(got(&queues), "3 ");
    let newest = connect_as("newest", &worker, true, None);
    subscribe(&worker, &newest, "t", QoS::AtMostOnce);
    assert_eq!(got(&newest), "3 ");
}

#[test]
fn a_retained_message_is_ahead_until_each_worker_has_it() {
    let worker = worker(2);
    let elsewhere = crate::subscriptions::Subscriber { worker: 1, persistent: false, slot: 0 };
    let filter = TopicFilter::parse("t", &wire::Limits::PROTOCOL).unwrap();
    worker.set_subscription(&filter, elsewhere, QoS::ExactlyOnce);
    let publisher = connect(&worker, true, None);
    store(&worker);
    send(&worker, &publisher, "t", 1, true);
    store(&worker);
    let seen = |place| {
        let mut found = Vec::new();
        worker.shared.retained.read().matching_live(place, &filter, &mut found);
        found.len()
    };
    assert_eq!((seen(0), seen(1)), (1, 0));
    let shared = Arc::clone(&worker.shared);
    let other = worker_of(1, Arc::clone(&shared), &Inboxes::new(&shared.settings));
    let mut taken = worker.take_router(1, 10);
    let Some(RouterWork::Deliver(batch)) = taken.front_mut() else { panic!() };
    other.route_remote(batch, || ());
    assert_eq!((seen(0), seen(1)), (1, 1));
}

#[test]
fn a_retained_message_whose_delivery_panics_is_not_ahead() {
    let worker = worker(2);
    let publisher = connect(&worker, true, None);
    store(&worker);
    send(&worker, &publisher, "t", 1, true);
    subscribe_nowhere(&worker, "t", false);
    assert!(panics(|| drop(store(&worker))));
    let retained = format!("{:?}", worker.shared.retained.read());
    assert!(retained.contains("ahead: {}") && retained.contains("<1>"), "{retained}");
}
