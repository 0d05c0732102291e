//! Writes of every kind: done twice, in their order, and several at once.

use std::sync::Arc;

use hydrant_actors::ports::{LogOp, OutgoingStage, QueueEntry, SessionOp, StoreOp, StoredWill};
use hydrant_protocol::QoS;

use super::dead;
use super::fixture::{
    Open, entry, message, messages, packet, put_outbox, put_session, wait, write,
};
use super::outbox::check_outbox;

pub(super) fn every_op_twice(open: &Open<'_>) {
    let store = open();
    let client_id = Arc::from("c");
    let will = StoredWill { client_id, connection: 7, message: message("w", "x", false) };
    let mut ops = vec![
        put_session(1),
        put_session(2),
        SessionOp::PutSubscription {
            id: 1,
            filter: "f".into(),
            qos: QoS::AtLeastOnce,
            owes: Some("t".into()),
        }
        .into(),
        SessionOp::PutSubscription {
            id: 1,
            filter: "g".into(),
            qos: QoS::AtLeastOnce,
            owes: Some("".into()),
        }
        .into(),
        SessionOp::DeleteSubscription { id: 1, filter: "g".into() }.into(),
        SessionOp::PutQueued { id: 1, entry: entry(1) }.into(),
        SessionOp::PutQueued { id: 1, entry: entry(2) }.into(),
        SessionOp::PutOutgoing {
            id: 1,
            sequence: 1,
            packet_id: packet(4),
            stage: OutgoingStage::Publish,
        }
        .into(),
        SessionOp::DeleteQueued { id: 1, sequence: 2 }.into(),
        SessionOp::PutReceipt { id: 1, packet_id: packet(4) }.into(),
        SessionOp::PutReceipt { id: 1, packet_id: packet(5) }.into(),
        SessionOp::DeleteReceipt { id: 1, packet_id: packet(5) }.into(),
        StoreOp::PutRetained { message: message("r", "x", true), version: 7 },
        StoreOp::PutRetained { message: message("s", "x", true), version: 8 },
        StoreOp::DeleteRetained { topic: "s".into(), version: 9 },
        StoreOp::PutWill { will: will.clone() },
        StoreOp::DeleteWill { client_id: "c".into(), connection: 8 },
        SessionOp::DeleteSession { id: 2, client_id: "client2".into() }.into(),
    ];
    ops.extend(put_outbox(0, 0..30));
    ops.push(LogOp::MoveCursor { lane: 0, position: 10 }.into());
    let (kept, dropped) = (dead::letter(1), dead::letter(2));
    ops.push(LogOp::PutDeadLetter { letter: Arc::new(kept.clone()) }.into());
    ops.push(LogOp::PutDeadLetter { letter: Arc::new(dropped.clone()) }.into());
    ops.push(LogOp::DropDeadLetter { id: dropped.id }.into());
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
pub(super) fn order_of_writes(open: &Open<'_>) {
    let store = open();
    write(&store, vec![put_session(1)]);
    let mut pending = Vec::new();
    for round in 0..200u64 {
        let retained = message("r", &round.to_string(), true);
        pending.push(store.write(Arc::new(vec![
            StoreOp::PutRetained { message: retained, version: round },
            SessionOp::PutQueued { id: 1, entry: entry(round + 1) }.into(),
        ])));
        pending.push(
            store.write(Arc::new(vec![SessionOp::DeleteQueued { id: 1, sequence: round }.into()])),
        );
    }
    for future in pending {
        wait(future);
    }
    assert_eq!(messages(&store)[0].payload, "199");
    assert_eq!(wait(store.read_queue(1, 0, 99, 99_999)), [entry(200)]);
}

/// Several writers and readers at once: each session's queue and each lane in order, whole.
pub(super) fn concurrent_access(open: &Open<'_>) {
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
                    ops.push(SessionOp::PutQueued { id, entry: entry(round + 1) }.into());
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
                        let done =
                            |sequence| StoreOp::Session(SessionOp::DeleteQueued { id, sequence });
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
