//! The shard's own steps, with the store and the log played by the test: what races on real
//! threads happens here in the order that hurts.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Wake, Waker};
use std::time::Duration;

use bytes::Bytes;
use hydrant_protocol::mapping::Mapping;
use hydrant_protocol::topic::TopicFilter;
use hydrant_protocol::wire::{self, Connect, Publish, Subscribe, Version, Will};
use hydrant_protocol::{Message, PacketId, QoS};

use super::{Conn, Shard};
use crate::metrics::CloseReason;
use crate::ports::{QueueEntry, StoreOp};
use crate::settings::{
    Access, Limits, LogKind, LogSettings, Overflow, SessionSettings, Settings, StorageSettings,
    SupervisionSettings,
};
use crate::shared::{RouterWork, StorageWork};

mod pages;
mod panics;

const SECOND: Duration = Duration::from_secs(1);

/// Small bounds, of everything.
pub(crate) fn settings(workers: usize) -> Settings {
    Settings {
        node_id: "n1".into(),
        workers,
        shutdown_deadline: SECOND,
        drain_rate: 10,
        access: Access::default(),
        limits: Limits {
            max_connections: 100,
            connect_rate: 100,
            connect_timeout: SECOND,
            max_packet_size: 10_000,
            max_topic_length: 100,
            max_topic_levels: 10,
            max_filters_per_subscribe: 10,
            max_subscriptions: 10,
            max_client_id_length: 100,
            allow_empty_client_id: true,
            max_keep_alive: 0,
            max_unacknowledged: 10,
            max_output_bytes: 1000,
            write_timeout: SECOND,
            max_retained_messages: 2,
            max_retained_bytes: 1000,
            route_cache_entries: 10,
            max_router_bytes: 2000,
        },
        session: SessionSettings {
            max_inflight: 4,
            max_queued_messages: 4,
            max_queued_bytes: 1000,
            max_queued_in_memory: 2,
            overflow: Overflow::DropOld,
            queue_qos0: false,
            expiry: SECOND,
            max_sessions: 10,
        },
        storage: StorageSettings {
            batch_max_ops: 100,
            batch_max_bytes: 10_000,
            batch_delay: Duration::ZERO,
            max_in_flight: 1,
            max_pending_bytes: 10_000,
            outbox_max_bytes: 10_000,
            outbox_lanes: 1,
            retry_min: SECOND,
            retry_max: SECOND,
        },
        log: LogSettings {
            kind: LogKind::None,
            max_pending_messages: 100,
            max_pending_bytes: 10_000,
            retry_min: SECOND,
            retry_max: SECOND,
        },
        supervision: SupervisionSettings {
            restart_min: SECOND,
            restart_max: SECOND,
            max_restarts: 1,
            restart_window: SECOND,
            stall_timeout: SECOND,
            watchdog_warn: SECOND,
            watchdog_exit: SECOND,
        },
        mapping: Arc::new(Mapping::default()),
        sys_interval: Duration::ZERO,
        faults: false,
    }
}

pub(crate) fn shard(workers: usize) -> Rc<Shard> {
    shard_with(settings(workers))
}

pub(crate) fn shard_with(settings: Settings) -> Rc<Shard> {
    Shard::new(0, crate::system::shared_for_tests(&Arc::new(settings)))
}

pub(crate) fn conn(shard: &Rc<Shard>) -> Rc<Conn> {
    let mut conns = shard.conns.borrow_mut();
    let slot = conns.vacant_entry();
    let conn =
        Rc::new(Conn::new(slot.key(), ([127, 0, 0, 1], 1).into(), shard.now_ms(), Vec::new()));
    slot.insert(Rc::clone(&conn));
    conn
}

pub(crate) fn connect(shard: &Rc<Shard>, clean_session: bool, will: Option<&str>) -> Rc<Conn> {
    connect_as("c", shard, clean_session, will)
}

pub(crate) fn connect_as(
    client_id: &str,
    shard: &Rc<Shard>,
    clean_session: bool,
    will: Option<&str>,
) -> Rc<Conn> {
    let conn = conn(shard);
    let will = will.map(|payload| Will {
        topic: "will".into(),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        qos: QoS::AtLeastOnce,
        retain: false,
    });
    // One whose home is here.
    let mut client_id = client_id.to_owned();
    while shard.shared.home(&client_id) != shard.index {
        client_id.push('x');
    }
    let client_id = client_id.into();
    let (username, password) = (None, None);
    let version = Version::V311;
    let packet =
        Connect { version, client_id, clean_session, keep_alive: 0, will, username, password };
    shard.connect(&conn, packet);
    shard.flush();
    conn
}

/// Everything handed to the store so far: its operations, with all tokens answered; its reads.
pub(crate) fn store(shard: &Rc<Shard>) -> (Vec<StoreOp>, Vec<(u32, u32, u64)>) {
    let (mut written, mut reads) = (Vec::new(), Vec::new());
    let mut taken = shard.shared.storage.take(1000);
    while let Some(work) = taken.pop() {
        match work {
            StorageWork::Write { ops, tokens, .. } => {
                written.extend(ops);
                tokens.into_iter().for_each(|token| shard.complete(token));
            }
            StorageWork::ReadQueue { slot, stamp, from, .. } => reads.push((slot, stamp, from)),
        }
    }
    drop(taken);
    shard.flush();
    (written, reads)
}

pub(crate) fn subscribe(shard: &Rc<Shard>, conn: &Rc<Conn>, filter: &str, qos: QoS) {
    let filter = TopicFilter::parse(filter, &wire::Limits::PROTOCOL).unwrap();
    shard.subscribe(conn, Subscribe { packet_id: PacketId::MIN, filters: vec![(filter, qos)] });
    shard.flush();
    store(shard);
}

pub(crate) fn publish(
    shard: &Rc<Shard>,
    conn: &Rc<Conn>,
    topic: &str,
    payload: &[u8],
    retain: bool,
) {
    publish_at(QoS::AtLeastOnce, shard, conn, topic, payload, retain);
}

fn publish_at(
    qos: QoS,
    shard: &Rc<Shard>,
    conn: &Rc<Conn>,
    topic: &str,
    payload: &[u8],
    retain: bool,
) {
    let publish =
        Publish { dup: false, qos, retain, topic, packet_id: Some(PacketId::MIN), payload };
    shard.submit(conn, &publish, None);
    shard.route_all(|| ());
}

pub(crate) fn queued(ops: &[StoreOp]) -> Vec<QueueEntry> {
    let entries = ops.iter().filter_map(|op| match op {
        StoreOp::PutQueued { entry, .. } => Some(entry.clone()),
        _ => None,
    });
    entries.collect()
}

pub(crate) fn contains(conn: &Conn, text: &[u8]) -> bool {
    conn.out.borrow().windows(text.len()).any(|part| part == text)
}

#[test]
fn pubrec_waits_until_what_was_in_flight_is_read_back() {
    let shard = shard(1);
    let first = connect(&shard, false, None);
    store(&shard);
    subscribe(&shard, &first, "t", QoS::AtLeastOnce);
    publish(&shard, &conn(&shard), "t", b"x", false);
    let entries = queued(&store(&shard).0);
    assert!(entries[0].outgoing.is_some());
    shard.detach(&first, CloseReason::Eof);
    let second = connect(&shard, false, None);
    store(&shard);
    let (slot, stamp, _) = store(&shard).1[0];
    assert!(!shard.must_wait(&second, &wire::Packet::Puback(PacketId::MIN)));
    assert!(shard.has_credit(&second));
    assert!(shard.must_wait(&second, &wire::Packet::Pubrec(PacketId::MIN)));
    assert!(!shard.has_credit(&second), "it is read on all the same");
    shard.pause(&second);
    shard.resume_paused();
    assert_eq!(shard.paused_count(), 1);
    shard.queue_page(slot, stamp, &entries);
    shard.resume_paused();
    assert_eq!(shard.paused_count(), 0);
    assert!(shard.has_credit(&second));
    assert!(!shard.must_wait(&second, &wire::Packet::Pubrec(PacketId::MIN)));
}

#[test]
fn a_receipt_stored_after_a_reconnect_is_told_to_who_sent_it_again() {
    for again in [false, true] {
        let shard = shard(1);
        let first = connect(&shard, false, None);
        store(&shard);
        let publish = Publish {
            dup: false,
            qos: QoS::ExactlyOnce,
            retain: false,
            topic: "t",
            packet_id: Some(PacketId::MIN),
            payload: b"x",
        };
        let receipt = shard.new_receipt(&first, PacketId::MIN);
        shard.submit(&first, &publish, receipt);
        shard.route_all(|| ());
        let mut late = Vec::new();
        let mut taken = shard.shared.storage.take(10);
        while let Some(work) = taken.pop() {
            if let StorageWork::Write { tokens, .. } = work {
                late.extend(tokens);
            }
        }
        drop(taken);
        assert_eq!(late.len(), 1);
        shard.detach(&first, CloseReason::Eof);
        let second = connect(&shard, false, None);
        store(&shard);
        assert!(second.open.get());
        if again {
            assert_eq!(shard.new_receipt(&second, PacketId::MIN), None);
        }
        late.into_iter().for_each(|token| shard.complete(token));
        assert_eq!(contains(&second, b"\x50\x02\x00\x01"), again);
    }
}

#[test]
fn the_end_of_an_old_will_leaves_the_new_one_in_the_store() {
    let shard = shard(1);
    let _old = connect(&shard, true, Some("old"));
    store(&shard);
    let new = connect(&shard, true, Some("new"));
    shard.route_all(|| ());
    let wills: Vec<_> = (store(&shard).0.into_iter())
        .filter(|op| matches!(op, StoreOp::PutWill { .. } | StoreOp::DeleteWill { .. }))
        .collect();
    assert!(matches!(wills[..], [StoreOp::PutWill { .. }]), "{wills:?}");
    shard.detach(&new, CloseReason::Eof);
    shard.route_all(|| ());
    assert!(store(&shard).0.iter().any(|op| matches!(op, StoreOp::DeleteWill { .. })));
}

#[test]
fn disconnect_before_a_takeover_discards_the_will() {
    let shard = shard(1);
    let old = connect(&shard, true, Some("old"));
    store(&shard);
    shard.close(&old, CloseReason::Disconnect);
    connect(&shard, true, None);
    assert!(!shard.has_router_work(), "the will is published");
    assert!(store(&shard).0.iter().any(|op| matches!(op, StoreOp::DeleteWill { .. })));
}

#[test]
fn a_client_that_reads_no_answers_is_not_read_either() {
    let shard = shard(1);
    let conn = connect(&shard, true, None);
    for _ in 0..999 {
        shard.write(&conn, wire::put_pingresp);
    }
    assert!(!shard.has_credit(&conn) || conn.out.borrow().len() < 2000);
    shard.write(&conn, wire::put_pingresp);
    assert!(!shard.has_credit(&conn));
    conn.out.borrow_mut().clear();
    assert!(shard.has_credit(&conn));
}

#[test]
fn a_full_router_elsewhere_stops_reading_here_until_it_has_room() {
    struct Nobody;
    impl Wake for Nobody {
        fn wake(self: Arc<Self>) {}
    }
    let waker = Waker::from(Arc::new(Nobody));
    let shard = shard(2);
    let elsewhere = crate::shared::Subscriber { shard: 1, persistent: false, slot: 0 };
    let filter = TopicFilter::parse("t", &wire::Limits::PROTOCOL).unwrap();
    shard.shared.subscribe(&filter, elsewhere, QoS::AtMostOnce);
    let publisher = conn(&shard);
    publish(&shard, &publisher, "t", &[b'x'; 1500], false);
    assert!(shard.has_credit(&publisher) && !shard.poll_remote_room(&waker));
    publish(&shard, &publisher, "t", &[b'x'; 1500], false);
    assert!(!shard.has_credit(&publisher) && !shard.poll_remote_room(&waker));
    let mut taken = shard.shared.routers[1].take(10);
    while let Some(RouterWork::Deliver(_)) = taken.pop() {}
    drop(taken);
    assert!(shard.poll_remote_room(&waker));
    assert!(shard.has_credit(&publisher));
}

#[test]
fn a_retained_message_without_room_replaces_none_by_an_old_one() {
    let shard = shard(1);
    let publisher = conn(&shard);
    publish(&shard, &publisher, "a", b"small", true);
    publish(&shard, &publisher, "b", b"small", true);
    publish(&shard, &publisher, "a", &[b'x'; 900], true);
    let retained = shard.shared.retained.read();
    assert!(retained.bytes() <= 1000, "{}", retained.bytes());
    assert!(retained.get("a").is_none(), "the one before it is no longer the last");
    assert!(retained.get("b").is_some());
    drop(retained);
    let ops = store(&shard).0;
    assert!(
        matches!(ops.last(), Some(StoreOp::DeleteRetained { topic, .. }) if &**topic == "a"),
        "{ops:?}"
    );
}

#[test]
fn versions_of_retained_messages_rise_whatever_the_clock_says() {
    let shared = &shard(1).shared;
    let first = shared.retained_version();
    assert!(first.abs_diff(super::unix_ns()) < 60_000_000_000);
    // Another node's clock goes before.
    shared.retained_clock.store(first + (1 << 50), Ordering::Relaxed);
    assert_eq!(shared.retained_version(), first + (1 << 50) + 1);
    assert_eq!(shared.retained_version(), first + (1 << 50) + 2);
}

#[test]
fn dropping_the_oldest_makes_room_for_the_whole_message() {
    let shard = shard(1);
    let subscriber = connect(&shard, true, None);
    subscribe(&shard, &subscriber, "t", QoS::AtLeastOnce);
    let publisher = conn(&shard);
    for payload in [10, 10, 10, 10, 100, 100, 100, 100, 700, 2000] {
        publish(&shard, &publisher, "t", &vec![b'x'; payload], false);
    }
    let sessions = shard.sessions.borrow();
    let out = &sessions.slots[subscriber.session.get().unwrap() as usize].outbound;
    assert_eq!((out.in_flight(), out.waiting()), (4, 2));
    assert!(out.waiting_bytes() <= 1000);
}

#[test]
fn a_message_of_the_nodes_own_is_never_stored() {
    let shard = shard(1);
    let message = Message {
        topic: "$SYS/x".into(),
        payload: Bytes::from_static(b"1"),
        qos: QoS::AtMostOnce,
        retain: true,
        properties: None,
    };
    shard.publish_internal(super::Origin::Node, Arc::new(message), Vec::new());
    shard.route_all(|| ());
    assert!(store(&shard).0.is_empty());
    assert!(shard.shared.retained.read().get("$SYS/x").is_some());
}

/// Subscribes a persistent session of another arbiter.
fn subscribe_elsewhere(shard: &Rc<Shard>, topic: &str) {
    let elsewhere = crate::shared::Subscriber { shard: 1, persistent: true, slot: 0 };
    let filter = TopicFilter::parse(topic, &wire::Limits::PROTOCOL).unwrap();
    shard.shared.subscribe(&filter, elsewhere, QoS::AtLeastOnce);
}

/// Transaction and origin of each write handed to the store; nothing is answered.
fn origins(shard: &Rc<Shard>) -> Vec<(Option<u64>, Option<u16>)> {
    let mut origins = Vec::new();
    let mut taken = shard.shared.storage.take(1000);
    while let Some(work) = taken.pop() {
        if let StorageWork::Write { transaction, origin, .. } = work {
            origins.push((transaction.map(|transaction| transaction.id), origin));
        }
    }
    origins
}

#[test]
fn a_part_of_another_arbiters_transaction_has_no_origin() {
    let shard = shard(2);
    subscribe_elsewhere(&shard, "t");
    let publisher = conn(&shard);
    publish(&shard, &publisher, "t", b"x", false);
    publish(&shard, &publisher, "own", b"x", true);
    assert_eq!(origins(&shard), [(Some(1), Some(0)), (None, Some(0))]);
    // What went to the other arbiter, as if it had come from there.
    let mut taken = shard.shared.routers[1].take(10);
    let Some(RouterWork::Deliver(batch)) = taken.front_mut() else { panic!() };
    shard.route_remote(batch, || ());
    assert_eq!(origins(&shard), [(Some(1), None)]);
}

#[test]
fn dropping_the_oldest_begins_at_what_is_left_after_acknowledgements_out_of_order() {
    let shard = shard(1);
    let first = connect(&shard, false, None);
    store(&shard);
    subscribe(&shard, &first, "t", QoS::AtLeastOnce);
    let publisher = conn(&shard);
    let dropped = |shard: &Rc<Shard>| -> Vec<u64> {
        let ops = store(shard).0;
        let gone = ops.iter().filter_map(|op| match op {
            StoreOp::DeleteQueued { sequence, .. } => Some(*sequence),
            _ => None,
        });
        gone.collect()
    };
    // 1 to 4 in flight, acknowledged as 2, 1, 3: 4 is left.
    for _ in 0..4 {
        publish(&shard, &publisher, "t", b"x", false);
    }
    for id in [2, 1, 3] {
        shard.delivered(&first, PacketId::new(id).unwrap(), QoS::AtLeastOnce).unwrap();
    }
    shard.flush();
    assert_eq!(dropped(&shard), [2, 1, 3]);
    shard.detach(&first, CloseReason::Eof);
    // 5 to 7 fill it, 8 takes the place of 4.
    for _ in 0..4 {
        publish(&shard, &publisher, "t", b"x", false);
    }
    assert_eq!(dropped(&shard), [4]);
    // Nothing was read back: what is left begins at 5 all the same.
    let second = connect(&shard, false, None);
    store(&shard);
    shard.detach(&second, CloseReason::Eof);
    publish(&shard, &publisher, "t", b"x", false);
    assert_eq!(dropped(&shard), [5]);
}
