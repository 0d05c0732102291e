//! Queues: their order, their pages, and how far an entry has come.

use std::sync::Arc;

use hydrant_actors::ports::{OutgoingStage, QueueEntry, SessionOp, SessionStore, StoreOp};

use super::fixture::{Open, entry, message, messages, packet, put_session, wait, write};

pub(super) fn queue_order_and_paging(open: &Open<'_>) {
    let store = open();
    write(&store, vec![put_session(1), put_session(2)]);
    // Written in an order of its own, with a neighbour's entries between.
    for sequence in [3, 1, 2, 300, 5] {
        let entry = entry(sequence);
        write(
            &store,
            vec![
                SessionOp::PutQueued { id: 1, entry: entry.clone() }.into(),
                SessionOp::PutQueued { id: 2, entry }.into(),
            ],
        );
    }
    write(&store, vec![SessionOp::DeleteQueued { id: 1, sequence: 3 }.into()]);
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

pub(super) fn qos2_state(open: &Open<'_>) {
    let store = open();
    write(&store, vec![put_session(1)]);
    let put = (1..=3)
        .map(|s| StoreOp::Session(SessionOp::PutQueued { id: 1, entry: entry(s) }))
        .collect();
    write(&store, put);
    let outgoing = |sequence, id, stage| {
        StoreOp::Session(SessionOp::PutOutgoing { id: 1, sequence, packet_id: packet(id), stage })
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
    write(&store, vec![SessionOp::DeleteQueued { id: 1, sequence: 1 }.into()]);
    write(&store, vec![SessionOp::PutQueued { id: 1, entry: entry(1) }.into()]);
    assert_eq!(state(0), [None, None, third]);
}

/// A message near what a node may be configured to take beside many small ones, a full queue, and
/// pages that are cut by count and by bytes.
pub(super) fn large_and_many(open: &Open<'_>) {
    let mut store = open();
    let large = "x".repeat(4_000_000);
    let of = |sequence: u64, payload: &str| {
        StoreOp::Session(SessionOp::PutQueued {
            id: 1,
            entry: QueueEntry { message: message("q", payload, false), ..entry(sequence) },
        })
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
