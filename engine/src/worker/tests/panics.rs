//! What a panic in the middle of a step leaves behind.

use super::*;
use hydrant_protocol::cluster::message::Recipients;

use crate::messages::RemoteBatch;
use crate::messages::Transaction;
use crate::worker::state::publication::Publication;

/// A subscriber that makes every route to it panic.
pub(super) fn subscribe_nowhere(worker: &Rc<Worker>, topic: &str, persistent: bool) -> TopicFilter {
    let filter = TopicFilter::parse(topic, &wire::Limits::PROTOCOL).unwrap();
    let nowhere = crate::subscriptions::Subscriber { worker: 77, persistent, slot: 0 };
    worker.set_subscription(&filter, nowhere, QoS::ExactlyOnce);
    filter
}

pub(super) fn panics(action: impl FnOnce()) -> bool {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(action)).is_err()
}

fn publish_exactly_once(worker: &Rc<Worker>, conn: &Rc<Conn>, topic: &str) {
    let publish = Publish {
        dup: false,
        qos: QoS::ExactlyOnce,
        retain: false,
        topic,
        packet_id: Some(PacketId::MIN),
        payload: b"x",
    };
    let receipt = worker.handle_qos2_publish(conn, PacketId::MIN);
    assert!(receipt.is_some(), "known");
    worker.submit(conn, &publish, receipt);
}

#[test]
fn a_panic_while_a_client_comes_back_leaves_nothing_behind_for_the_next() {
    let worker = worker(1);
    assert!(panics(|| {
        let _reconnecting = worker.reconnecting();
        panic!("in the middle");
    }));
    assert!(
        !worker.reconnecting.get(),
        "the end of every session after it would be told to nobody"
    );
}

const PUBREC: &[u8] = b"\x50\x02\x00\x01";

#[test]
fn a_panic_behind_what_is_durable_ends_the_connection_and_keeps_the_receipt() {
    let worker = worker(2);
    let publisher = connect(&worker, false, None);
    store(&worker);
    publish_exactly_once(&worker, &publisher, "t");
    worker.route_all(|| ());
    subscribe_elsewhere(&worker, "t");
    subscribe_nowhere(&worker, "t", false);
    assert!(panics(|| drop(store(&worker))));
    assert_eq!(publisher.phase().closing(), Some(CloseReason::Limit));
    assert_eq!(worker.waiting(), 0);
    worker.flush();
    assert!(worker.take_router(1, 1).is_empty(), "half of it goes on");
    worker.detach(&publisher, CloseReason::Limit);
    let again = connect(&worker, false, None);
    store(&worker);
    // Its queue entries and its receipt are in the store: it is answered, not routed again.
    assert_eq!(worker.handle_qos2_publish(&again, PacketId::MIN), None);
    assert!(contains(&again, PUBREC));
}

#[test]
fn a_panic_before_anything_is_stored_frees_the_receipt_and_takes_back_what_it_decided() {
    let mut settings = settings(2);
    settings.log.kind = LogKind::Embedded;
    let worker = worker_with(settings);
    let subscriber = connect_as("d", &worker, false, None);
    store(&worker);
    subscribe(&worker, &subscriber, "t", QoS::ExactlyOnce);
    subscribe_nowhere(&worker, "t", true);
    let publisher = connect(&worker, false, None);
    store(&worker);
    publish_exactly_once(&worker, &publisher, "t");
    worker.route_all(|| ());
    let mut taken = worker.take_log(10);
    let token = taken.pop_front().unwrap().token.unwrap();
    assert!(panics(|| worker.complete(token)));
    assert_eq!(publisher.phase().closing(), Some(CloseReason::Limit));
    worker.flush();
    assert!(queued(&store(&worker).0).is_empty(), "written without its receipt");
    worker.detach(&publisher, CloseReason::Limit);
    let again = connect(&worker, false, None);
    store(&worker);
    publish_exactly_once(&worker, &again, "t");
}

#[test]
fn an_answer_that_cannot_be_written_ends_its_connection() {
    let worker = worker(1);
    let conn = connect(&worker, false, None);
    let held = conn.out.borrow_mut();
    assert!(panics(|| drop(store(&worker))));
    assert_eq!(conn.phase().closing(), Some(CloseReason::Limit));
    drop(held);
}

#[test]
fn a_publish_that_is_routed_again_is_owed_one_pubrec() {
    let worker = worker(1);
    let publisher = connect(&worker, true, None);
    // The first one of a connection waits for the store.
    publisher.has_routed_exact.set(true);
    let filter = subscribe_nowhere(&worker, "t", false);
    publish_exactly_once(&worker, &publisher, "t");
    assert!(panics(|| _ = worker.route_all(|| ())));
    assert_eq!(publisher.acks_outstanding(), 0);
    let nowhere = crate::subscriptions::Subscriber { worker: 77, persistent: false, slot: 0 };
    worker.remove_subscription(&filter, nowhere);
    worker.route_all(|| ());
    assert_eq!(publisher.acks_outstanding(), 0);
    assert!(contains(&publisher, PUBREC));
}

#[test]
fn a_router_that_dies_in_a_batch_leaves_its_part_whole() {
    let worker = worker(2);
    let subscriber = connect(&worker, false, None);
    store(&worker);
    subscribe(&worker, &subscriber, "+", QoS::AtLeastOnce);
    worker.detach(&subscriber, CloseReason::Eof);
    store(&worker);
    let mut batch = RemoteBatch::default();
    for topic in ["a", "b", "c"] {
        batch.push(&Publication::new(topic, b"x", QoS::AtLeastOnce, true), true, Recipients::All);
    }
    batch.transaction = Some(Transaction { id: 9, parts: 2 });
    let left = std::cell::Cell::new(2);
    let fault = || {
        assert_ne!(left.replace(left.get() - 1), 0, "injected");
    };
    assert!(panics(|| _ = worker.route_remote(&mut batch, fault)));
    assert_eq!(batch.done, 2);
    // Something else is written, and a connection wants the queue, before its successor comes.
    let again = connect(&worker, false, None);
    let (ops, reads) = store(&worker);
    assert!(queued(&ops).is_empty(), "without the rest of the transaction: {ops:?}");
    assert!(again.phase().is_established() && reads.is_empty());
    assert!(store(&worker).1.is_empty(), "it would be read past them");
    worker.route_remote(&mut batch, || ());
    let mut taken = worker.take_storage(10);
    let Some(StorageWork::Write { ops, transaction, .. }) = taken.pop_front() else { panic!() };
    assert!(taken.pop_front().is_none());
    assert_eq!(queued(&ops).len(), 3);
    assert_eq!(transaction.map(|transaction| transaction.id), Some(9));
    assert!(again.wants_pump.get(), "nobody reads the queue");
    worker.pump(&again);
    assert_eq!(store(&worker).1.len(), 1);
}
