//! `session.overflow = "drop_old"` of an offline session: what is dropped is there, so that its queue keeps its bound.

use hydrant_protocol::session::RangeSet;

use super::*;
use crate::ports::{SessionOp, StoredSession};

/// The entries that a write has removed from a queue.
fn dropped(worker: &Rc<Worker>) -> Vec<u64> {
    let ops = store(worker).0;
    let gone = ops.iter().filter_map(|op| match op {
        StoreOp::Session(SessionOp::DeleteQueued { sequence, .. }) => Some(*sequence),
        _ => None,
    });
    gone.collect()
}

#[test]
fn dropping_the_oldest_steps_over_what_was_acknowledged_out_of_order() {
    let worker = worker(1);
    let first = connect(&worker, false, None);
    store(&worker);
    subscribe(&worker, &first, "t", QoS::AtLeastOnce);
    let publisher = conn(&worker);
    // 1 to 4 in flight, 2 and 3 acknowledged; 5 and 6 fill the queue.
    for _ in 0..4 {
        publish(&worker, &publisher, "t", b"x", false);
    }
    for id in [2, 3] {
        worker.handle_puback(&first, PacketId::new(id).unwrap()).unwrap();
    }
    worker.flush();
    assert_eq!(dropped(&worker), [2, 3]);
    worker.detach(&first, CloseReason::Eof);
    for _ in 0..2 {
        publish(&worker, &publisher, "t", b"x", false);
    }
    assert_eq!(dropped(&worker), [0; 0]);
    publish(&worker, &publisher, "t", b"x", false);
    assert_eq!(dropped(&worker), [1]);
    // A connection that ends before anything is read back changes nothing.
    let second = connect(&worker, false, None);
    store(&worker);
    worker.detach(&second, CloseReason::Eof);
    for expected in [4, 5, 6, 7] {
        publish(&worker, &publisher, "t", b"x", false);
        assert_eq!(dropped(&worker), [expected]);
    }
}

#[test]
fn dropping_the_oldest_after_a_start_begins_with_what_the_store_has() {
    let worker = worker(1);
    let client = connect(&worker, false, None);
    store(&worker);
    subscribe(&worker, &client, "t", QoS::AtLeastOnce);
    worker.detach(&client, CloseReason::Eof);
    let mut left = RangeSet::default();
    [2..3, 5..6, 8..10].into_iter().for_each(|run| left.push(run));
    {
        let mut sessions = worker.sessions.borrow_mut();
        let (_, session) = sessions.slots.iter_mut().next().unwrap();
        let stored = StoredSession {
            id: session.stored.as_ref().unwrap().id,
            client_id: Arc::clone(&session.client_id),
            epoch: 1,
            disconnected_ms: None,
            subscriptions: Vec::new(),
            receipts: Vec::new(),
            queued: 4,
            queued_bytes: 40,
            last_sequence: 9,
            left,
        };
        worker.fill_session(session, &stored);
    }
    let publisher = conn(&worker);
    for expected in [2, 5, 8, 9, 10] {
        publish(&worker, &publisher, "t", b"x", false);
        assert_eq!(dropped(&worker), [expected]);
    }
}
