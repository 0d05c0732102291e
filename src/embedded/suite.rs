//! What every session store must do, written once: the embedded store passes it, and any other
//! adapter (Cassandra) passes the same.
//!
//! Each of [`CASES`] gets a function that opens an empty store of its own and, called again, opens
//! the same store as a restarted node would. A case drops what it opened before it opens again.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a test suite"
)]

pub mod dead;
mod owed;

use std::sync::Arc;

use bytes::Bytes;
use hydrant_actors::ports::{
    DeadId, DeadLetter, LogRecord, OutboxPosition, OutgoingStage, QueueEntry, SessionStore,
    StoreFuture, StoreOp, StoredSession, StoredSubscription, StoredWill,
};
use hydrant_protocol::session::RangeSet;
use hydrant_protocol::{Message, PacketId, Properties, QoS};

/// Opens a case's store.
pub type Open<'a> = dyn Fn() -> Arc<dyn SessionStore> + 'a;

/// What a case does with its store.
pub type Case = fn(&Open<'_>);

/// Every case with its name.
pub const CASES: &[(&str, Case)] = &[
    ("sessions_and_subscriptions", sessions_and_subscriptions),
    ("what_subscriptions_are_owed", owed::what_subscriptions_are_owed),
    ("queue_order_and_paging", queue_order_and_paging),
    ("qos2_state", qos2_state),
    ("deleted_session_leaves_nothing", deleted_session_leaves_nothing),
    ("retained_and_wills", retained_and_wills),
    ("outbox_lanes_and_cursors", outbox_lanes_and_cursors),
    ("outbox_written_again", outbox_written_again),
    ("dead_letters", dead::dead_letters),
    ("every_op_twice", every_op_twice),
    ("order_of_writes", order_of_writes),
    ("concurrent_access", concurrent_access),
    ("large_and_many", large_and_many),
];

/// Waits for a store's answer.
pub fn wait<T>(future: StoreFuture<T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future).unwrap()
}

/// Writes and waits.
pub fn write(store: &Arc<dyn SessionStore>, ops: Vec<StoreOp>) {
    wait(store.write(Arc::new(ops)));
}

fn messages(store: &Arc<dyn SessionStore>) -> Vec<Arc<Message>> {
    wait(store.retained()).into_iter().map(|(message, _)| message).collect()
}

/// A message with every MQTT 5 property.
pub fn message(topic: &str, payload: &str, retain: bool) -> Arc<Message> {
    Arc::new(Message {
        topic: topic.into(),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        qos: QoS::ExactlyOnce,
        retain,
        properties: Some(Arc::new(Properties {
            payload_format: Some(1),
            message_expiry: Some(60),
            content_type: Some("text/plain".into()),
            response_topic: Some("answer".into()),
            correlation_data: Some(Bytes::from_static(&[0, 255])),
            user: vec![("a".into(), "1".into()), ("a".into(), "2".into())],
        })),
    })
}

/// The record at a position of an outbox.
pub fn record(topic: &str, position: u64) -> LogRecord {
    LogRecord {
        id: position,
        topic: topic.into(),
        key: position.is_multiple_of(2).then(|| Bytes::from(format!("key{position}"))),
        payload: Bytes::from(format!("payload {position}")),
        mqtt_topic: "device/1/x".into(),
        qos: QoS::AtLeastOnce,
        retain: false,
        client_id: "device".into(),
        epoch: 3,
        sequence: position + 10,
        outbox: None,
        received_ms: 1_700_000_000_000,
        properties: position.is_multiple_of(3).then(|| Arc::new(Properties::default())),
    }
}

fn entry(sequence: u64) -> QueueEntry {
    let message = message("q/topic", &format!("message {sequence}"), false);
    QueueEntry { sequence, qos: QoS::AtLeastOnce, retain: sequence == 2, message, outgoing: None }
}

fn put_session(id: u64) -> StoreOp {
    StoreOp::PutSession {
        id,
        client_id: format!("client{id}").into(),
        epoch: id + 1,
        disconnected_ms: Some(5),
    }
}

fn put_outbox(lane: u16, positions: std::ops::Range<u64>) -> Vec<StoreOp> {
    positions
        .map(|position| StoreOp::PutOutbox {
            record: record("t", position),
            position: OutboxPosition { lane, position },
        })
        .collect()
}

fn packet(id: u16) -> PacketId {
    PacketId::new(id).unwrap()
}

fn sessions_and_subscriptions(open: &Open<'_>) {
    let store = open();
    let long: Arc<str> = "x/".repeat(20_000).into();
    let subscription = |filter: &str, qos| StoreOp::PutSubscription {
        id: 7,
        filter: filter.into(),
        qos,
        owes: None,
    };
    write(&store, vec![put_session(7), put_session(8), put_session(300)]);
    write(
        &store,
        vec![
            subscription("a/#", QoS::AtMostOnce),
            subscription("b", QoS::ExactlyOnce),
            subscription("a/#", QoS::AtLeastOnce),
            subscription(&long, QoS::AtLeastOnce),
            subscription("gone", QoS::AtLeastOnce),
            StoreOp::DeleteSubscription { id: 7, filter: "gone".into() },
            StoreOp::DeleteSubscription { id: 8, filter: "b".into() },
            StoreOp::PutReceipt { id: 8, packet_id: packet(1) },
            StoreOp::PutReceipt { id: 8, packet_id: packet(65_535) },
            StoreOp::PutReceipt { id: 8, packet_id: packet(2) },
            StoreOp::DeleteReceipt { id: 8, packet_id: packet(2) },
            StoreOp::PutSession {
                id: 8,
                client_id: "client8".into(),
                epoch: 10,
                disconnected_ms: None,
            },
        ],
    );
    drop(store);
    let mut found = wait(open().sessions());
    found.sort_by_key(|session| session.id);
    assert_eq!(found.iter().map(|s| s.id).collect::<Vec<_>>(), [7, 8, 300]);
    found[0].subscriptions.sort_by_key(|s| s.filter.len());
    let expected = [("b", QoS::ExactlyOnce), ("a/#", QoS::AtLeastOnce), (&long, QoS::AtLeastOnce)]
        .map(|(filter, qos)| StoredSubscription { filter: filter.into(), qos, owes: None });
    assert_eq!(found[0].subscriptions, expected);
    assert_eq!(
        found[1],
        StoredSession {
            id: 8,
            client_id: "client8".into(),
            epoch: 10,
            disconnected_ms: None,
            subscriptions: vec![],
            receipts: vec![packet(1), packet(65_535)],
            queued: 0,
            queued_bytes: 0,
            last_sequence: 0,
            left: RangeSet::default(),
        }
    );
    assert_eq!(found[2].disconnected_ms, Some(5));
}

fn queue_order_and_paging(open: &Open<'_>) {
    let store = open();
    write(&store, vec![put_session(1), put_session(2)]);
    // Written in an order of its own, with a neighbour's entries between.
    for sequence in [3, 1, 2, 300, 5] {
        let entry = entry(sequence);
        write(
            &store,
            vec![
                StoreOp::PutQueued { id: 1, entry: entry.clone() },
                StoreOp::PutQueued { id: 2, entry },
            ],
        );
    }
    write(&store, vec![StoreOp::DeleteQueued { id: 1, sequence: 3 }]);
    let read = |store: &Arc<dyn SessionStore>, from, limit, bytes| -> Vec<u64> {
        wait(store.read_queue(1, from, limit, bytes)).iter().map(|e| e.sequence).collect()
    };
    for round in 0..2 {
        assert_eq!(read(&store, 0, 10, usize::MAX), [1, 2, 5, 300], "round {round}");
    }
    drop(store);
    let store = open();
    assert_eq!(wait(store.read_queue(1, 1, 2, usize::MAX)), [entry(1), entry(2)]);
    assert_eq!(read(&store, 3, 10, usize::MAX), [5, 300]);
    assert_eq!(read(&store, 2, 10, 1), [2], "at least one");
    assert_eq!(read(&store, 0, 10, 2 * entry(1).message.cost()), [1, 2], "bounded in bytes");
    assert_eq!(read(&store, 301, 10, 1000), [0; 0]);
    assert!(wait(store.read_queue(9, 0, 10, 1000)).is_empty());
    let sessions = wait(store.sessions());
    let first = sessions.iter().find(|s| s.id == 1).unwrap();
    let bytes: usize = [1, 2, 5, 300].map(|s| entry(s).message.cost()).iter().sum();
    assert_eq!((first.queued, first.queued_bytes, first.last_sequence), (4, bytes as u64, 300));
    let mut left = first.left.clone();
    let left: Vec<_> = std::iter::from_fn(|| left.pop_first()).collect();
    assert_eq!(left, [1, 2, 5, 300]);
}

fn qos2_state(open: &Open<'_>) {
    let store = open();
    write(&store, vec![put_session(1)]);
    let put = (1..=3).map(|s| StoreOp::PutQueued { id: 1, entry: entry(s) }).collect();
    write(&store, put);
    let outgoing = |sequence, id, stage| StoreOp::PutOutgoing {
        id: 1,
        sequence,
        packet_id: packet(id),
        stage,
    };
    write(
        &store,
        vec![outgoing(1, 500, OutgoingStage::Publish), outgoing(3, 7, OutgoingStage::Publish)],
    );
    write(&store, vec![outgoing(1, 500, OutgoingStage::Release)]);
    drop(store);
    let store = open();
    let state = |from| -> Vec<_> {
        wait(store.read_queue(1, from, 9, 9999)).iter().map(|e| e.outgoing).collect()
    };
    let third = Some((packet(7), OutgoingStage::Publish));
    assert_eq!(state(0), [Some((packet(500), OutgoingStage::Release)), None, third]);
    assert_eq!(state(2), [None, third]);
    // The packet id goes with its entry, also after a restart and when the sequence comes again.
    write(&store, vec![StoreOp::DeleteQueued { id: 1, sequence: 1 }]);
    write(&store, vec![StoreOp::PutQueued { id: 1, entry: entry(1) }]);
    assert_eq!(state(0), [None, None, third]);
}

fn deleted_session_leaves_nothing(open: &Open<'_>) {
    let store = open();
    write(&store, vec![put_session(1), put_session(2), put_session(3)]);
    let fill = |id| {
        let mut ops: Vec<_> =
            (1..=5000).map(|s| StoreOp::PutQueued { id, entry: entry(s) }).collect();
        ops.push(StoreOp::PutOutgoing {
            id,
            sequence: 1,
            packet_id: packet(1),
            stage: OutgoingStage::Publish,
        });
        ops.push(StoreOp::PutReceipt { id, packet_id: packet(9) });
        ops.push(StoreOp::PutSubscription {
            id,
            filter: "a".into(),
            qos: QoS::AtLeastOnce,
            owes: None,
        });
        ops
    };
    for id in [1, 2] {
        write(&store, fill(id));
    }
    // With writes of its own before it in the same batch.
    let mut ops = vec![StoreOp::PutQueued { id: 1, entry: entry(9999) }];
    ops.push(StoreOp::PutSubscription {
        id: 1,
        filter: "late".into(),
        qos: QoS::AtLeastOnce,
        owes: None,
    });
    ops.push(StoreOp::DeleteSession { id: 1, client_id: "client1".into() });
    write(&store, ops);
    assert!(wait(store.read_queue(1, 0, 10, 9999)).is_empty());
    drop(store);
    let store = open();
    for _ in 0..2 {
        let sessions = wait(store.sessions());
        assert_eq!(sessions.iter().map(|s| s.id).collect::<Vec<_>>(), [2, 3]);
        assert_eq!((sessions[0].queued, sessions[0].subscriptions.len()), (5000, 1));
        assert!(wait(store.read_queue(1, 0, 10, 9999)).is_empty());
    }
    assert_eq!(wait(store.read_queue(2, 5000, 10, 9999)), [entry(5000)]);
}

fn retained_and_wills(open: &Open<'_>) {
    let store = open();
    let will = |id: &str, connection, payload| StoredWill {
        client_id: id.into(),
        connection,
        message: message("will", payload, true),
    };
    let end = |id: &str, connection| StoreOp::DeleteWill { client_id: id.into(), connection };
    write(
        &store,
        vec![
            StoreOp::PutRetained { message: message("b", "old", true), version: 1 },
            StoreOp::PutRetained { message: message("b", "new", true), version: 2 },
            StoreOp::PutRetained { message: message("a/b", "x", true), version: 3 },
            StoreOp::PutRetained { message: message("gone", "x", true), version: 4 },
            StoreOp::DeleteRetained { topic: "gone".into(), version: 5 },
            StoreOp::DeleteRetained { topic: "never".into(), version: 6 },
            // One client's side by side; the end of one is not that of another.
            StoreOp::PutWill { will: will("one", 1, "first") },
            StoreOp::PutWill { will: will("one", 2, "second") },
            StoreOp::PutWill { will: will("one", 1 << 40, "third") },
            StoreOp::PutWill { will: will("", 3, "no name") },
            StoreOp::PutWill { will: will("two", 4, "x") },
            end("two", 4),
            end("two", 5),
            end("one", 4),
        ],
    );
    write(&store, vec![end("one", 1)]);
    // In the place of one that has ended there is room for another.
    write(&store, vec![StoreOp::PutWill { will: will("one", 6, "fourth") }]);
    drop(store);
    let store = open();
    let mut retained = messages(&store);
    retained.sort_by(|a, b| a.topic.cmp(&b.topic));
    assert_eq!(retained, [message("a/b", "x", true), message("b", "new", true)]);
    let all = [
        will("one", 2, "second"),
        will("", 3, "no name"),
        will("one", 6, "fourth"),
        will("one", 1 << 40, "third"),
    ];
    assert_eq!(wait(store.wills()), all);
    // They end the same after a restart.
    write(&store, vec![end("one", 2), end("one", 1 << 40)]);
    drop(store);
    assert_eq!(wait(open().wills()), [all[1].clone(), all[2].clone()]);
}

fn check_outbox(store: &Arc<dyn SessionStore>, lane: u16, from: u64, end: u64) {
    let mut next = from;
    while next < end {
        let page = wait(store.read_outbox(lane, next, 70, usize::MAX));
        assert!(!page.is_empty() && page.len() <= 70, "lane {lane} at {next}");
        for found in page {
            let outbox = Some(OutboxPosition { lane, position: next });
            assert_eq!(found, LogRecord { id: found.id, outbox, ..record("t", next) });
            next += 1;
        }
    }
    assert_eq!(next, end);
    assert!(wait(store.read_outbox(lane, end, 10, usize::MAX)).is_empty());
}

fn outbox_lanes_and_cursors(open: &Open<'_>) {
    let mut store = open();
    assert!(wait(store.lanes()).iter().all(|lane| lane.cursor == lane.end));
    for start in (0..1000).step_by(50) {
        let mut ops = put_outbox(0, start..start + 50);
        ops.extend(put_outbox(65_535, start..start + 50));
        write(&store, ops);
    }
    check_outbox(&store, 0, 0, 1000);
    let lane = |store: &Arc<dyn SessionStore>, number| {
        *wait(store.lanes()).iter().find(|lane| lane.lane == number).unwrap()
    };
    let whole = lane(&store, 0).bytes;
    let true_cost: usize = (0..1000).map(|p| record("t", p).cost()).sum();
    assert!(whole.abs_diff(true_cost as u64) < true_cost as u64 / 5, "{whole} for {true_cost}");
    write(&store, vec![StoreOp::MoveCursor { lane: 0, position: 500 }]);
    for _ in 0..2 {
        let found = lane(&store, 0);
        assert_eq!((found.cursor, found.end), (500, 1000));
        assert!(
            found.bytes < whole * 3 / 4 && found.bytes > whole / 4,
            "{} of {whole}",
            found.bytes
        );
        check_outbox(&store, 0, 500, 1000);
        check_outbox(&store, 65_535, 0, 1000);
        drop(store);
        store = open();
    }
    assert_eq!(wait(store.read_outbox(0, 600, 10, 1)).len(), 1, "at least one");
    // Emptied, the lane goes on where it was, also after a restart.
    write(&store, vec![StoreOp::MoveCursor { lane: 0, position: 1000 }]);
    drop(store);
    let store = open();
    let found = lane(&store, 0);
    assert_eq!((found.cursor, found.end), (1000, 1000));
    write(&store, put_outbox(0, 1000..1003));
    check_outbox(&store, 0, 1000, 1003);
    assert_eq!(lane(&store, 0).end, 1003);
}

/// After a failed write the same positions come again, cut into other batches.
fn outbox_written_again(open: &Open<'_>) {
    let mut store = open();
    write(&store, put_outbox(3, 0..100));
    write(&store, put_outbox(3, 40..70));
    write(&store, put_outbox(3, 70..75));
    write(&store, put_outbox(3, 75..200));
    write(&store, vec![StoreOp::MoveCursor { lane: 3, position: 150 }]);
    write(&store, put_outbox(3, 140..160));
    write(&store, put_outbox(3, 160..250));
    write(&store, vec![StoreOp::MoveCursor { lane: 3, position: 120 }]);
    for _ in 0..2 {
        let lane = wait(store.lanes())[0];
        assert_eq!((lane.lane, lane.cursor, lane.end), (3, 150, 250), "a cursor never moves back");
        check_outbox(&store, 3, 150, 250);
        drop(store);
        store = open();
    }
}

fn every_op_twice(open: &Open<'_>) {
    let store = open();
    let client_id = Arc::from("c");
    let will = StoredWill { client_id, connection: 7, message: message("w", "x", false) };
    let mut ops = vec![
        put_session(1),
        put_session(2),
        StoreOp::PutSubscription {
            id: 1,
            filter: "f".into(),
            qos: QoS::AtLeastOnce,
            owes: Some("t".into()),
        },
        StoreOp::PutSubscription {
            id: 1,
            filter: "g".into(),
            qos: QoS::AtLeastOnce,
            owes: Some("".into()),
        },
        StoreOp::DeleteSubscription { id: 1, filter: "g".into() },
        StoreOp::PutQueued { id: 1, entry: entry(1) },
        StoreOp::PutQueued { id: 1, entry: entry(2) },
        StoreOp::PutOutgoing {
            id: 1,
            sequence: 1,
            packet_id: packet(4),
            stage: OutgoingStage::Publish,
        },
        StoreOp::DeleteQueued { id: 1, sequence: 2 },
        StoreOp::PutReceipt { id: 1, packet_id: packet(4) },
        StoreOp::PutReceipt { id: 1, packet_id: packet(5) },
        StoreOp::DeleteReceipt { id: 1, packet_id: packet(5) },
        StoreOp::PutRetained { message: message("r", "x", true), version: 7 },
        StoreOp::PutRetained { message: message("s", "x", true), version: 8 },
        StoreOp::DeleteRetained { topic: "s".into(), version: 9 },
        StoreOp::PutWill { will: will.clone() },
        StoreOp::DeleteWill { client_id: "c".into(), connection: 8 },
        StoreOp::DeleteSession { id: 2, client_id: "client2".into() },
    ];
    ops.extend(put_outbox(0, 0..30));
    ops.push(StoreOp::MoveCursor { lane: 0, position: 10 });
    let (kept, dropped) = (dead::letter(1), dead::letter(2));
    ops.push(StoreOp::PutDeadLetter { letter: Arc::new(kept.clone()) });
    ops.push(StoreOp::PutDeadLetter { letter: Arc::new(dropped.clone()) });
    ops.push(StoreOp::DropDeadLetter { id: dropped.id });
    write(&store, ops.clone());
    for op in ops.clone() {
        write(&store, vec![op.clone()]);
        write(&store, vec![op.clone(), op]);
    }
    write(&store, ops);
    drop(store);
    let store = open();
    let sessions = wait(store.sessions());
    assert_eq!(sessions.len(), 1);
    assert_eq!(sessions[0].queued, 1);
    assert_eq!(dead::all(&store), [kept]);
    // At least the highest that is queued, at most the highest that ever was.
    assert!((1..=2).contains(&sessions[0].last_sequence));
    assert_eq!((sessions[0].subscriptions.len(), &sessions[0].receipts[..]), (1, &[packet(4)][..]));
    let outgoing = Some((packet(4), OutgoingStage::Publish));
    assert_eq!(wait(store.read_queue(1, 0, 9, 9999)), [QueueEntry { outgoing, ..entry(1) }]);
    assert_eq!((wait(store.retained()).len(), wait(store.wills())), (1, vec![will]));
    check_outbox(&store, 0, 10, 30);
}

/// Writes not waited for are done in the order of the calls.
fn order_of_writes(open: &Open<'_>) {
    let store = open();
    write(&store, vec![put_session(1)]);
    let mut pending = Vec::new();
    for round in 0..200u64 {
        let retained = message("r", &round.to_string(), true);
        pending.push(store.write(Arc::new(vec![
            StoreOp::PutRetained { message: retained, version: round },
            StoreOp::PutQueued { id: 1, entry: entry(round + 1) },
        ])));
        pending.push(store.write(Arc::new(vec![StoreOp::DeleteQueued { id: 1, sequence: round }])));
    }
    for future in pending {
        wait(future);
    }
    assert_eq!(messages(&store)[0].payload, "199");
    assert_eq!(wait(store.read_queue(1, 0, 99, 99_999)), [entry(200)]);
}

/// Several writers and readers at once: each session's queue and each lane in order, whole.
fn concurrent_access(open: &Open<'_>) {
    const WRITERS: u16 = 4;
    const ROUNDS: u64 = 100;
    let store = open();
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let store = &store;
            scope.spawn(move || {
                let id = u64::from(writer) + 1;
                write(store, vec![put_session(id)]);
                let mut read = 0;
                for round in 0..ROUNDS {
                    let mut ops = put_outbox(writer, round..round + 1);
                    ops.push(StoreOp::PutQueued { id, entry: entry(round + 1) });
                    let topic: Arc<str> = format!("r/{writer}").into();
                    ops.push(StoreOp::PutRetained {
                        message: message(&topic, "x", true),
                        version: 11,
                    });
                    write(store, ops);
                    if round % 10 == 9 {
                        let page = wait(store.read_queue(id, read + 1, 10, 1 << 20));
                        let sequences: Vec<u64> = page.iter().map(|e| e.sequence).collect();
                        assert_eq!(sequences, (read + 1..=read + 10).collect::<Vec<_>>());
                        read += 10;
                        let done = |sequence| StoreOp::DeleteQueued { id, sequence };
                        write(store, (read - 4..=read).map(done).collect());
                    }
                }
            });
        }
    });
    drop(store);
    let store = open();
    let sessions = wait(store.sessions());
    assert_eq!(sessions.len(), usize::from(WRITERS));
    assert!(sessions.iter().all(|session| session.queued == ROUNDS / 2), "{sessions:?}");
    assert_eq!(wait(store.retained()).len(), usize::from(WRITERS));
    for writer in 0..WRITERS {
        check_outbox(&store, writer, 0, ROUNDS);
        let left = wait(store.read_queue(u64::from(writer) + 1, 0, 1000, 1 << 20));
        let left: Vec<u64> = left.iter().map(|entry| entry.sequence).collect();
        let expected: Vec<u64> = (1..=ROUNDS).filter(|s| (s - 1) % 10 < 5).collect();
        assert_eq!(left, expected);
    }
}

/// A message near what a node may be configured to take beside many small ones, a full queue, and
/// pages that are cut by count and by bytes.
fn large_and_many(open: &Open<'_>) {
    let mut store = open();
    let large = "x".repeat(4_000_000);
    let of = |sequence: u64, payload: &str| StoreOp::PutQueued {
        id: 1,
        entry: QueueEntry { message: message("q", payload, false), ..entry(sequence) },
    };
    write(&store, vec![put_session(1), of(1, &large)]);
    for first in (2..10_000).step_by(2_500) {
        let ops = (first..(first + 2_500).min(10_001)).map(|sequence| of(sequence, "small"));
        write(&store, ops.collect());
    }
    write(
        &store,
        vec![StoreOp::PutRetained { message: message("large", &large, true), version: 12 }],
    );
    for _ in 0..2 {
        let session = wait(store.sessions()).remove(0);
        assert_eq!((session.queued, session.last_sequence), (10_000, 10_000));
        assert!(session.queued_bytes > 4_000_000);
        assert_eq!(wait(store.read_queue(1, 1, 100, 1_000)).len(), 1, "at least one");
        let page = wait(store.read_queue(1, 2, 1_000, usize::MAX));
        assert_eq!((page.len(), page[0].sequence, page[999].sequence), (1_000, 2, 1_001));
        let page = wait(store.read_queue(1, 9_990, 1_000, usize::MAX));
        assert_eq!((page.len(), page[10].sequence), (11, 10_000));
        assert_eq!(wait(store.read_queue(1, 1, 1, usize::MAX))[0].message.payload, large);
        assert_eq!(messages(&store)[0].payload, large);
        drop(store);
        store = open();
    }
}
