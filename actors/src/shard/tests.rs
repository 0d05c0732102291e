//! The shard's own steps, with the store and the log played by the test: what races on real
//! threads happens here in the order that hurts.

use std::rc::Rc;
use std::sync::Arc;
use std::task::{Wake, Waker};
use std::time::Duration;

use bytes::Bytes;
use hydrant_protocol::mapping::Mapping;
use hydrant_protocol::topic::TopicFilter;
use hydrant_protocol::wire::{self, Connect, Publish, Subscribe, Version, Will};
use hydrant_protocol::{Message, PacketId, QoS};

use super::batch::Phase;
use super::{Conn, RemoteBatch, Shard};
use crate::metrics::CloseReason;
use crate::ports::{QueueEntry, StoreOp};
use crate::settings::{
    Limits, LogKind, LogSettings, Overflow, SessionSettings, Settings, StorageSettings,
    SupervisionSettings,
};
use crate::shared::{RouterWork, StorageWork, Transaction};

const SECOND: Duration = Duration::from_secs(1);

/// Small bounds, of everything.
pub(crate) fn settings(workers: usize) -> Settings {
    Settings {
        node_id: "n1".into(),
        workers,
        shutdown_deadline: SECOND,
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

fn shard_with(settings: Settings) -> Rc<Shard> {
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

fn connect_as(
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
fn what_is_queued_while_an_empty_page_is_on_its_way_is_read_next() {
    let shard = shard(1);
    let first = connect(&shard, false, None);
    store(&shard);
    subscribe(&shard, &first, "t", QoS::AtLeastOnce);
    shard.detach(&first, CloseReason::Eof);
    let second = connect(&shard, false, None);
    store(&shard);
    let (_, reads) = store(&shard);
    let [(slot, stamp, 0)] = reads[..] else { panic!("{reads:?}") };
    publish(&shard, &conn(&shard), "t", b"meanwhile", false);
    let entries = queued(&store(&shard).0);
    assert_eq!(entries.len(), 1);
    shard.queue_page(slot, stamp, &[]);
    let (_, reads) = store(&shard);
    let [(slot, stamp, from)] = reads[..] else { panic!("the entry is forgotten: {reads:?}") };
    assert!(from <= entries[0].sequence);
    shard.queue_page(slot, stamp, &entries);
    assert!(contains(&second, b"meanwhile"));
    assert!(store(&shard).1.is_empty(), "nothing is left to be read");
}

#[test]
fn a_page_that_a_connection_before_asked_for_is_not_taken_for_the_new_ones() {
    let shard = shard(1);
    let first = connect(&shard, false, None);
    store(&shard);
    subscribe(&shard, &first, "t", QoS::AtLeastOnce);
    shard.detach(&first, CloseReason::Eof);
    let _second = connect(&shard, false, None);
    store(&shard);
    let stale = store(&shard).1[0];
    publish(&shard, &conn(&shard), "t", b"x", false);
    let entries = queued(&store(&shard).0);
    let third = connect(&shard, false, None);
    store(&shard);
    let fresh = store(&shard).1[0];
    assert_ne!(stale.1, fresh.1);
    shard.queue_page(stale.0, stale.1, &entries);
    assert!(!contains(&third, b"\x01tx"), "taken for the new one's");
    shard.queue_page(fresh.0, fresh.1, &entries);
    assert!(third.out.borrow().ends_with(b"x"));
}

#[test]
fn a_page_that_shows_more_than_was_asked_for_hides_nothing() {
    let shard = shard(1);
    let first = connect(&shard, false, None);
    store(&shard);
    subscribe(&shard, &first, "t", QoS::AtLeastOnce);
    shard.detach(&first, CloseReason::Eof);
    publish(&shard, &conn(&shard), "t", b"one", false);
    let mut entries = queued(&store(&shard).0);
    let second = connect(&shard, false, None);
    store(&shard);
    let (slot, stamp, _) = store(&shard).1[0];
    publish(&shard, &conn(&shard), "t", b"two", false);
    publish(&shard, &conn(&shard), "t", b"three", false);
    let later = queued(&store(&shard).0);
    // Two batches are under way and the store shows the second first.
    entries.push(later[1].clone());
    shard.queue_page(slot, stamp, &entries);
    assert!(contains(&second, b"one") && !contains(&second, b"three"));
    let (slot, stamp, from) = store(&shard).1[0];
    assert_eq!(from, later[0].sequence);
    // Nothing of what was asked for, and something that came since.
    publish(&shard, &conn(&shard), "t", b"four", false);
    let since = queued(&store(&shard).0);
    shard.queue_page(slot, stamp, &since);
    assert!(!contains(&second, b"four"));
    let (slot, stamp, from) = store(&shard).1[0];
    assert_eq!(from, since[0].sequence, "its own page was empty below what it saw");
    shard.queue_page(slot, stamp, &since);
    assert!(contains(&second, b"four"));
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
        matches!(ops.last(), Some(StoreOp::DeleteRetained { topic }) if &**topic == "a"),
        "{ops:?}"
    );
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
fn a_qos_2_message_that_finds_no_window_comes_back_from_the_store() {
    let mut settings = settings(1);
    settings.session.max_inflight = 1;
    let shard = shard_with(settings);
    let subscriber = connect(&shard, false, None);
    store(&shard);
    subscribe(&shard, &subscriber, "t", QoS::ExactlyOnce);
    let publisher = conn(&shard);
    publish(&shard, &publisher, "t", b"one", false);
    store(&shard);
    // Its entry is handed to the store, which holds it back: nothing is answered.
    publish_at(QoS::ExactlyOnce, &shard, &publisher, "t", b"two", false);
    let mut taken = shard.shared.storage.take(10);
    let Some(StorageWork::Write { ops, tokens, .. }) = taken.pop() else { panic!() };
    assert!(taken.pop().is_none());
    drop(taken);
    let entries = queued(&ops);
    assert_eq!(entries.len(), 1);
    // The window is free: no packet id is given to what is not stored.
    shard.delivered(&subscriber, PacketId::MIN, QoS::AtLeastOnce).unwrap();
    shard.flush();
    let (ops, reads) = store(&shard);
    assert!(!ops.iter().any(|op| matches!(op, StoreOp::PutOutgoing { .. })), "{ops:?}");
    assert!(!contains(&subscriber, b"two"));
    let [(slot, stamp, from)] = reads[..] else { panic!("{reads:?}") };
    assert_eq!(from, entries[0].sequence);
    tokens.into_iter().for_each(|token| shard.complete(token));
    shard.queue_page(slot, stamp, &entries);
    shard.flush();
    store(&shard);
    assert!(contains(&subscriber, b"two"));
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
        batch.push(topic, b"x", QoS::AtLeastOnce, true, Phase::All);
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
