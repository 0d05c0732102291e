//! What a panic in the middle of a step leaves behind.

use super::*;
use crate::shard::RemoteBatch;
use crate::shard::batch::Phase;
use crate::shard::deliver::View;
use crate::shared::Transaction;

/// A subscriber that makes every route to it panic.
fn subscribe_nowhere(shard: &Rc<Shard>, topic: &str, persistent: bool) -> TopicFilter {
    let filter = TopicFilter::parse(topic, &wire::Limits::PROTOCOL).unwrap();
    let nowhere = crate::shared::Subscriber { shard: 77, persistent, slot: 0 };
    shard.shared.subscribe(&filter, nowhere, QoS::ExactlyOnce);
    filter
}

fn panics(action: impl FnOnce()) -> bool {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(action)).is_err()
}

fn publish_exactly_once(shard: &Rc<Shard>, conn: &Rc<Conn>, topic: &str) {
    let publish = Publish {
        dup: false,
        qos: QoS::ExactlyOnce,
        retain: false,
        topic,
        packet_id: Some(PacketId::MIN),
        payload: b"x",
    };
    let receipt = shard.new_receipt(conn, PacketId::MIN);
    assert!(receipt.is_some(), "known");
    shard.submit(conn, &publish, receipt);
}

#[test]
fn a_panic_while_a_client_comes_back_leaves_nothing_behind_for_the_next() {
    let shard = shard(1);
    assert!(panics(|| {
        let _reconnecting = shard.reconnecting();
        panic!("in the middle");
    }));
    assert!(!shard.reconnecting.get(), "the end of every session after it would be told to nobody");
}

const PUBREC: &[u8] = b"\x50\x02\x00\x01";

#[test]
fn a_panic_behind_what_is_durable_ends_the_connection_and_keeps_the_receipt() {
    let shard = shard(2);
    let publisher = connect(&shard, false, None);
    store(&shard);
    publish_exactly_once(&shard, &publisher, "t");
    shard.route_all(|| ());
    subscribe_elsewhere(&shard, "t");
    subscribe_nowhere(&shard, "t", false);
    assert!(panics(|| drop(store(&shard))));
    assert_eq!(publisher.closing.get(), Some(CloseReason::Limit));
    assert_eq!(shard.waiting(), 0);
    shard.flush();
    assert!(shard.shared.routers[1].is_empty(), "half of it goes on");
    shard.detach(&publisher, CloseReason::Limit);
    let again = connect(&shard, false, None);
    store(&shard);
    // Its queue entries and its receipt are in the store: it is answered, not routed again.
    assert_eq!(shard.new_receipt(&again, PacketId::MIN), None);
    assert!(contains(&again, PUBREC));
}

#[test]
fn a_panic_before_anything_is_stored_frees_the_receipt_and_takes_back_what_it_decided() {
    let mut settings = settings(2);
    settings.log.kind = LogKind::Embedded;
    let shard = shard_with(settings);
    let subscriber = connect_as("d", &shard, false, None);
    store(&shard);
    subscribe(&shard, &subscriber, "t", QoS::ExactlyOnce);
    subscribe_nowhere(&shard, "t", true);
    let publisher = connect(&shard, false, None);
    store(&shard);
    publish_exactly_once(&shard, &publisher, "t");
    shard.route_all(|| ());
    let mut taken = shard.shared.log.take(10);
    let token = taken.pop().unwrap().token.unwrap();
    drop(taken);
    assert!(panics(|| shard.complete(token)));
    assert_eq!(publisher.closing.get(), Some(CloseReason::Limit));
    shard.flush();
    assert!(queued(&store(&shard).0).is_empty(), "written without its receipt");
    shard.detach(&publisher, CloseReason::Limit);
    let again = connect(&shard, false, None);
    store(&shard);
    publish_exactly_once(&shard, &again, "t");
}

#[test]
fn an_answer_that_cannot_be_written_ends_its_connection() {
    let shard = shard(1);
    let conn = connect(&shard, false, None);
    let held = conn.out.borrow_mut();
    assert!(panics(|| drop(store(&shard))));
    assert_eq!(conn.closing.get(), Some(CloseReason::Limit));
    drop(held);
}

#[test]
fn a_publish_that_is_routed_again_is_owed_one_pubrec() {
    let shard = shard(1);
    let publisher = connect(&shard, true, None);
    let filter = subscribe_nowhere(&shard, "t", false);
    publish_exactly_once(&shard, &publisher, "t");
    assert!(panics(|| _ = shard.route_all(|| ())));
    assert_eq!(publisher.acks_outstanding(), 0);
    let nowhere = crate::shared::Subscriber { shard: 77, persistent: false, slot: 0 };
    shard.shared.unsubscribe(&filter, nowhere);
    shard.route_all(|| ());
    assert_eq!(publisher.acks_outstanding(), 0);
    assert!(contains(&publisher, PUBREC));
}

#[test]
fn a_router_that_dies_in_a_batch_leaves_its_part_whole() {
    let shard = shard(2);
    let subscriber = connect(&shard, false, None);
    store(&shard);
    subscribe(&shard, &subscriber, "+", QoS::AtLeastOnce);
    shard.detach(&subscriber, CloseReason::Eof);
    store(&shard);
    let mut batch = RemoteBatch::default();
    for topic in ["a", "b", "c"] {
        batch.push(&View::new(topic, b"x", QoS::AtLeastOnce, true), true, Phase::All);
    }
    batch.transaction = Some(Transaction { id: 9, parts: 2 });
    let left = std::cell::Cell::new(2);
    let fault = || {
        assert_ne!(left.replace(left.get() - 1), 0, "injected");
    };
    assert!(panics(|| _ = shard.route_remote(&mut batch, fault)));
    assert_eq!(batch.done, 2);
    // Something else is written, and a connection wants the queue, before its successor comes.
    let again = connect(&shard, false, None);
    let (ops, reads) = store(&shard);
    assert!(queued(&ops).is_empty(), "without the rest of the transaction: {ops:?}");
    assert!(again.open.get() && reads.is_empty());
    assert!(store(&shard).1.is_empty(), "it would be read past them");
    shard.route_remote(&mut batch, || ());
    let mut taken = shard.shared.storage.take(10);
    let Some(StorageWork::Write { ops, transaction, .. }) = taken.pop() else { panic!() };
    assert!(taken.pop().is_none());
    drop(taken);
    assert_eq!(queued(&ops).len(), 3);
    assert_eq!(transaction.map(|transaction| transaction.id), Some(9));
    assert!(again.wants_pump.get(), "nobody reads the queue");
    shard.pump(&again);
    assert_eq!(store(&shard).1.len(), 1);
}
