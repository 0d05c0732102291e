//! The worker's own steps, with the store and the log played by the test: what races on real
//! threads happens here in the order that hurts.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use hydrant_protocol::mapping::Mapping;
use hydrant_protocol::topic::TopicFilter;
use hydrant_protocol::wire::{self, Publish};
use hydrant_protocol::{Message, PacketId, QoS};

use super::testing::*;
use super::{Conn, Worker};
use crate::messages::{RouterWork, StorageWork};
use crate::metrics::{CloseReason, DropReason};
use crate::ports::{QueueEntry, SessionOp, StoreOp};
use crate::settings::{LogKind, Overflow, Settings};

mod bounds;
mod expiry;
mod order;
mod overflow;
mod owed;
mod pages;
mod panics;
mod places;
mod retained;
mod wills;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn pubrec_waits_until_what_was_in_flight_is_read_back() {
    let worker = worker(1);
    let first = connect(&worker, false, None);
    store(&worker);
    subscribe(&worker, &first, "t", QoS::AtLeastOnce);
    publish(&worker, &conn(&worker), "t", b"x", false);
    let entries = queued(&store(&worker).0);
    assert!(entries[0].outgoing.is_some());
    worker.detach(&first, CloseReason::Eof);
    let second = connect(&worker, false, None);
    store(&worker);
    let (slot, request, _) = store(&worker).1[0];
    assert!(!worker.must_wait(&second, &wire::Packet::Puback(PacketId::MIN)));
    assert!(worker.has_credit(&second));
    assert!(worker.must_wait(&second, &wire::Packet::Pubrec(PacketId::MIN)));
    assert!(!worker.has_credit(&second), "it is read on all the same");
    worker.pause(&second);
    worker.resume_paused();
    assert_eq!(worker.paused_count(), 1);
    worker.queue_page(slot, request, &entries);
    worker.resume_paused();
    assert_eq!(worker.paused_count(), 0);
    assert!(worker.has_credit(&second));
    assert!(!worker.must_wait(&second, &wire::Packet::Pubrec(PacketId::MIN)));
}

#[test]
fn a_receipt_stored_after_a_reconnect_is_told_to_who_sent_it_again() {
    for again in [false, true] {
        let worker = worker(1);
        let first = connect(&worker, false, None);
        store(&worker);
        let publish = Publish {
            dup: false,
            qos: QoS::ExactlyOnce,
            retain: false,
            topic: "t",
            packet_id: Some(PacketId::MIN),
            payload: b"x",
        };
        let receipt = worker.handle_qos2_publish(&first, PacketId::MIN);
        worker.submit(&first, &publish, receipt);
        worker.route_all(|| ());
        let mut late = Vec::new();
        let mut taken = worker.take_storage(10);
        while let Some(work) = taken.pop_front() {
            if let StorageWork::Write { tokens, .. } = work {
                late.extend(tokens);
            }
        }
        assert_eq!(late.len(), 1);
        worker.detach(&first, CloseReason::Eof);
        let second = connect(&worker, false, None);
        store(&worker);
        assert!(second.phase().is_established());
        if again {
            assert_eq!(worker.handle_qos2_publish(&second, PacketId::MIN), None);
        }
        late.into_iter().for_each(|token| worker.complete(token));
        assert_eq!(contains(&second, b"\x50\x02\x00\x01"), again);
    }
}

#[test]
fn a_client_that_reads_no_answers_is_not_read_either() {
    let worker = worker(1);
    let conn = connect(&worker, true, None);
    for _ in 0..999 {
        worker.write(&conn, wire::put_pingresp);
    }
    assert!(!worker.has_credit(&conn) || conn.out.borrow().len() < 2000);
    worker.write(&conn, wire::put_pingresp);
    assert!(!worker.has_credit(&conn));
    conn.out.borrow_mut().clear();
    assert!(worker.has_credit(&conn));
}

#[test]
fn a_full_router_elsewhere_stops_reading_here_until_it_has_room() {
    let worker = worker(2);
    let elsewhere = crate::subscriptions::Subscriber { worker: 1, persistent: false, slot: 0 };
    let filter = TopicFilter::parse("t", &wire::Limits::PROTOCOL).unwrap();
    worker.set_subscription(&filter, elsewhere, QoS::AtMostOnce);
    let publisher = conn(&worker);
    publish(&worker, &publisher, "t", &[b'x'; 1500], false);
    assert!(worker.has_credit(&publisher) && !worker.poll_remote_room(|_| ()));
    publish(&worker, &publisher, "t", &[b'x'; 1500], false);
    assert!(!worker.has_credit(&publisher) && !worker.poll_remote_room(|_| ()));
    let mut taken = worker.take_router(1, 10);
    while let Some(RouterWork::Deliver(_)) = taken.pop_front() {}
    assert!(worker.poll_remote_room(|_| ()));
    assert!(worker.has_credit(&publisher));
}

#[test]
fn a_retained_message_without_room_replaces_none_by_an_old_one() {
    let worker = worker(1);
    let publisher = conn(&worker);
    publish(&worker, &publisher, "a", b"small", true);
    publish(&worker, &publisher, "b", b"small", true);
    publish(&worker, &publisher, "a", &[b'x'; 900], true);
    let retained = worker.shared.retained.read();
    assert!(retained.bytes() <= 1000, "{}", retained.bytes());
    assert!(retained.get("a").is_none(), "the one before it is no longer the last");
    assert!(retained.get("b").is_some());
    drop(retained);
    let ops = store(&worker).0;
    assert!(
        matches!(ops.last(), Some(StoreOp::DeleteRetained { topic, .. }) if &**topic == "a"),
        "{ops:?}"
    );
}

#[test]
fn versions_of_retained_messages_rise_whatever_the_clock_says() {
    let shared = &worker(1).shared;
    let now = shared.clock.shifted(BEGIN).wall;
    let first = shared.retained_version(now);
    assert!(first.abs_diff(BEGIN.wall.0) < 60_000_000_000);
    // Another node's clock goes before.
    shared.retained_clock.store(first + (1 << 50), Ordering::Relaxed);
    assert_eq!(shared.retained_version(now), first + (1 << 50) + 1);
    assert_eq!(shared.retained_version(now), first + (1 << 50) + 2);
}

#[test]
fn dropping_the_oldest_makes_room_for_the_whole_message() {
    let worker = worker(1);
    let subscriber = connect(&worker, true, None);
    subscribe(&worker, &subscriber, "t", QoS::AtLeastOnce);
    let publisher = conn(&worker);
    for payload in [10, 10, 10, 10, 100, 100, 100, 100, 700, 2000] {
        publish(&worker, &publisher, "t", &vec![b'x'; payload], false);
    }
    let sessions = worker.sessions.borrow();
    let out = &sessions.slots[subscriber.session.get().unwrap() as usize].outbound;
    assert_eq!((out.in_flight(), out.waiting()), (4, 2));
    assert!(out.waiting_bytes() <= 1000);
}

#[test]
fn a_message_of_the_nodes_own_is_never_stored() {
    let worker = worker(1);
    let message = Message {
        topic: "$SYS/x".into(),
        payload: Bytes::from_static(b"1"),
        qos: QoS::AtMostOnce,
        retain: true,
        properties: None,
    };
    worker.publish_internal(super::Origin::Node, Arc::new(message), Vec::new());
    worker.route_all(|| ());
    assert!(store(&worker).0.is_empty());
    assert!(worker.shared.retained.read().get("$SYS/x").is_some());
}

/// Subscribes a persistent session of another worker.
fn subscribe_elsewhere(worker: &Rc<Worker>, topic: &str) {
    let elsewhere = crate::subscriptions::Subscriber { worker: 1, persistent: true, slot: 0 };
    let filter = TopicFilter::parse(topic, &wire::Limits::PROTOCOL).unwrap();
    worker.set_subscription(&filter, elsewhere, QoS::AtLeastOnce);
}

/// Transaction and origin of each write handed to the store; nothing is answered.
fn origins(worker: &Rc<Worker>) -> Vec<(Option<u64>, Option<u16>)> {
    let mut origins = Vec::new();
    let mut taken = worker.take_storage(1000);
    while let Some(work) = taken.pop_front() {
        if let StorageWork::Write { transaction, origin, .. } = work {
            origins.push((transaction.map(|transaction| transaction.id), origin));
        }
    }
    origins
}

#[test]
fn a_part_of_another_workers_transaction_has_no_origin() {
    let worker = worker(2);
    subscribe_elsewhere(&worker, "t");
    let publisher = conn(&worker);
    publish(&worker, &publisher, "t", b"x", false);
    publish(&worker, &publisher, "own", b"x", true);
    assert_eq!(origins(&worker), [(Some(1), Some(0)), (None, Some(0))]);
    // What went to the other worker, as if it had come from there.
    let mut taken = worker.take_router(1, 10);
    let Some(RouterWork::Deliver(batch)) = taken.front_mut() else { panic!() };
    worker.route_remote(batch, || ());
    assert_eq!(origins(&worker), [(Some(1), None)]);
}

#[test]
fn dropping_the_oldest_begins_at_what_is_left_after_acknowledgements_out_of_order() {
    let worker = worker(1);
    let first = connect(&worker, false, None);
    store(&worker);
    subscribe(&worker, &first, "t", QoS::AtLeastOnce);
    let publisher = conn(&worker);
    let dropped = |worker: &Rc<Worker>| -> Vec<u64> {
        let ops = store(worker).0;
        let gone = ops.iter().filter_map(|op| match op {
            StoreOp::Session(SessionOp::DeleteQueued { sequence, .. }) => Some(*sequence),
            _ => None,
        });
        gone.collect()
    };
    // 1 to 4 in flight, acknowledged as 2, 1, 3: 4 is left.
    for _ in 0..4 {
        publish(&worker, &publisher, "t", b"x", false);
    }
    for id in [2, 1, 3] {
        worker.handle_puback(&first, PacketId::new(id).unwrap()).unwrap();
    }
    worker.flush();
    assert_eq!(dropped(&worker), [2, 1, 3]);
    worker.detach(&first, CloseReason::Eof);
    // 5 to 7 fill it, 8 takes the place of 4.
    for _ in 0..4 {
        publish(&worker, &publisher, "t", b"x", false);
    }
    assert_eq!(dropped(&worker), [4]);
    // Nothing was read back: what is left begins at 5 all the same.
    let second = connect(&worker, false, None);
    store(&worker);
    worker.detach(&second, CloseReason::Eof);
    publish(&worker, &publisher, "t", b"x", false);
    assert_eq!(dropped(&worker), [5]);
}
