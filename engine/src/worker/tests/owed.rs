//! Retained messages that a persistent session is owed when its node ends, in order or not.

use std::collections::BTreeSet;

use hydrant_protocol::cluster::stream_marker::MarkedStreams;
use hydrant_protocol::session::RangeSet;

use super::retained::{
    Got, MANY, Queue, read, read_all, read_before_store, retain, subscribe_to, worker_that_retains,
};
use super::*;
use crate::cluster::EARLIER_STARTS;
use crate::ports::{SessionOp, StoredSession, StoredSubscription};
use crate::worker::state::handover::Handover;

/// How a node ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Its connections end, and the store has all that follows.
    Ordered,
    /// What the store was asked for last is lost.
    Killed,
    /// It had answered.
    KilledThen,
}

const ENDS: [End; 3] = [End::Ordered, End::Killed, End::KilledThen];

/// The session as the next start finds it.
fn found(queue: &Queue) -> StoredSession {
    let mut left = RangeSet::default();
    queue.0.keys().for_each(|sequence| left.push(*sequence..sequence + 1));
    StoredSession {
        id: 1,
        client_id: "c".into(),
        epoch: 1,
        disconnected_ms: None,
        subscriptions: queue.1.values().cloned().collect(),
        receipts: Vec::new(),
        queued: queue.0.len() as u64,
        queued_bytes: queue.0.values().map(|entry| entry.message.cost() as u64).sum(),
        last_sequence: queue.0.keys().last().copied().unwrap_or(0),
        left,
    }
}

/// The client is back at the next start, and reads all there is.
fn next_start(worker: &Rc<Worker>, queue: &mut Queue) -> Got {
    worker.restore_session(&found(queue), EARLIER_STARTS);
    let conn = connect(worker, false, None);
    queue.answer(worker);
    read_all(worker, &conn, queue)
}

fn topics(got: &Got) -> BTreeSet<&str> {
    got.iter().map(|(topic, ..)| &**topic).collect()
}

#[test]
fn the_rest_comes_after_a_restart() {
    for granted in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        for end in ENDS {
            for rounds in 0..25 {
                let worker = worker_that_retains(QoS::ExactlyOnce);
                let (conn, queue) = (connect(&worker, false, None), &mut Queue::default());
                queue.answer(&worker);
                subscribe_to(&worker, &conn, "t/#", granted, queue);
                let mut got = Got::new();
                for _ in 0..rounds {
                    got.extend(read(&worker, &conn, queue));
                }
                match end {
                    End::Ordered => {
                        worker.detach(&conn, CloseReason::Shutdown);
                        queue.answer(&worker);
                    }
                    End::Killed => got.extend(read_before_store(&worker, &conn)),
                    End::KilledThen => got.extend(read(&worker, &conn, queue)),
                }
                let case = format!("{granted:?}, {end:?}, {rounds} rounds");
                assert!(got.len() < MANY, "{case}");
                assert!(queue.1.values().all(|known| known.owes.is_some()), "{case}");
                let next = worker_that_retains(QoS::ExactlyOnce);
                // What is retained meanwhile comes as it stands then.
                retain(&next, &format!("t/{:03}", MANY - 1), "new", QoS::ExactlyOnce);
                let after = next_start(&next, queue);
                let all: BTreeSet<_> = topics(&got).union(&topics(&after)).copied().collect();
                assert_eq!(all.len(), MANY, "{case}");
                assert_eq!(after.last().unwrap().1, "new", "{case}");
                if end == End::Ordered {
                    assert_eq!(got.len() + after.len(), MANY, "{case}: some came twice");
                } else {
                    // From its beginning, and beside that what was in flight.
                    assert!(after.len() <= MANY + 4, "{case}: {}", after.len());
                }
                assert!(queue.1.values().all(|known| known.owes.is_none()), "{case}");
                // It is over.
                let last = worker_that_retains(QoS::ExactlyOnce);
                assert!(next_start(&last, queue).is_empty(), "{case}");
            }
        }
    }
}

#[test]
fn a_message_that_the_store_has_not_got_when_the_suback_is_sent_comes_after_a_restart() {
    let worker = worker_that_retains(QoS::AtLeastOnce);
    retain(&worker, "one", "x", QoS::AtLeastOnce);
    let (conn, queue) = (connect(&worker, false, None), &mut Queue::default());
    queue.answer(&worker);
    ask_for(&worker, &conn, "one", QoS::ExactlyOnce);
    worker.flush();
    let before = conn.out.borrow().len();
    store(&worker).0.into_iter().for_each(|op| queue.apply(op));
    assert!(conn.out.borrow().len() > before, "SUBACK");
    assert!(queue.0.is_empty());
    let next = worker_that_retains(QoS::AtLeastOnce);
    retain(&next, "one", "x", QoS::AtLeastOnce);
    assert_eq!(topics(&next_start(&next, queue)), BTreeSet::from(["one"]));
}

#[test]
fn what_is_subscribed_again_or_no_more_is_owed_as_the_last_one_says() {
    let queue = &mut Queue::default();
    let worker = worker_that_retains(QoS::AtLeastOnce);
    let conn = connect(&worker, false, None);
    queue.answer(&worker);
    subscribe_to(&worker, &conn, "t/#", QoS::AtLeastOnce, queue);
    read(&worker, &conn, queue);
    // While a step of the one before is not stored yet.
    read_before_store(&worker, &conn);
    subscribe_to(&worker, &conn, "t/#", QoS::ExactlyOnce, queue);
    worker.detach(&conn, CloseReason::Shutdown);
    queue.answer(&worker);
    let known = queue.1.values().next().unwrap();
    assert_eq!(known.qos, QoS::ExactlyOnce);
    let after = next_start(&worker_that_retains(QoS::AtLeastOnce), queue);
    assert_eq!(topics(&after).len(), MANY);
    // QoS 0 is owed nothing once its node has ended.
    subscribe_to(&worker, &connect(&worker, false, None), "t/#", QoS::AtMostOnce, queue);
    assert!(queue.1.values().all(|known| known.owes.is_none()));
}

#[test]
fn a_subscription_that_matches_nothing_is_written_once() {
    let worker = worker_that_retains(QoS::AtMostOnce);
    let conn = connect(&worker, false, None);
    store(&worker);
    // The second has one message, of QoS 0.
    for (filter, qos) in [("none/#", QoS::AtLeastOnce), ("t/299", QoS::ExactlyOnce)] {
        ask_for(&worker, &conn, filter, qos);
        worker.flush();
        let mut written = Vec::new();
        while worker.outside.storage_bytes() > 0 {
            written.extend(store(&worker).0);
        }
        assert!(
            matches!(
                &written[..],
                [StoreOp::Session(SessionOp::PutSubscription { owes: None, .. })]
            ),
            "{filter}"
        );
    }
}

#[test]
fn a_connection_that_ends_before_its_suback_leaves_the_messages_to_the_next() {
    let worker = worker_that_retains(QoS::AtLeastOnce);
    let (conn, queue) = (connect(&worker, false, None), &mut Queue::default());
    queue.answer(&worker);
    ask_for(&worker, &conn, "t/#", QoS::AtLeastOnce);
    worker.detach(&conn, CloseReason::Eof);
    queue.answer(&worker);
    let again = connect(&worker, false, None);
    queue.answer(&worker);
    assert_eq!(read_all(&worker, &again, queue).len(), MANY);
}

#[test]
fn nothing_counts_as_stored_before_it_is() {
    let worker = worker_that_retains(QoS::AtLeastOnce);
    let (conn, queue) = (connect(&worker, false, None), &mut Queue::default());
    queue.answer(&worker);
    ask_for(&worker, &conn, "t/#", QoS::AtLeastOnce);
    worker.flush();
    store(&worker);
    // The SUBACK is out, with a window of messages that the store is asked for.
    let mut held = Vec::new();
    let mut asked = || {
        let (mut ops, mut taken) = (Vec::new(), worker.take_storage(1000));
        while let Some(StorageWork::Write { ops: some, tokens, .. }) = taken.pop_front() {
            ops.extend(some);
            held.extend(tokens);
        }
        ops
    };
    let row = |ops: &[StoreOp]| {
        let rows = ops.iter().filter_map(|op| match op {
            StoreOp::Session(SessionOp::PutSubscription { owes, .. }) => Some(owes.clone()),
            _ => None,
        });
        rows.collect::<Vec<_>>()
    };
    let ops = asked();
    assert_eq!((queued(&ops).len(), row(&ops)), (4, vec![]));
    worker.detach(&conn, CloseReason::Eof);
    assert_eq!(row(&asked()), [], "it is written behind what is not stored");
    held.into_iter().for_each(|token| worker.complete(token));
    worker.flush();
    assert_eq!(row(&store(&worker).0), [Some("t/003".into())]);
}

/// Older messages may come to a session that has come from elsewhere: nothing newer is sent as retained before them.
#[test]
fn what_a_session_brings_along_waits_for_what_was_published_before() {
    for lost in [false, true] {
        let (worker, queue) = (worker_that_retains(QoS::AtLeastOnce), &mut Queue::default());
        let (id, client, orphan) = (5, "c".into(), if lost { 7 } else { 0 });
        let owes = Some("t/100".into());
        let known = StoredSubscription { filter: "t/#".into(), qos: QoS::AtLeastOnce, owes };
        queue.1.insert("t/#".into(), known);
        worker.restore_session(&found(queue), orphan);
        if lost {
            worker.await_markers(orphan);
        } else {
            let mut handover = Handover::default();
            handover.transit.arrive = Some(MarkedStreams::new(id));
            let mut sessions = worker.sessions.borrow_mut();
            let (_, session) = sessions.slots.iter_mut().next().unwrap();
            session.handover = Some(Box::new(handover));
        }
        let conn = connect(&worker, false, None);
        queue.answer(&worker);
        assert!(read_all(&worker, &conn, queue).is_empty());
        // What is subscribed to now does not wait.
        subscribe_to(&worker, &conn, "t/299", QoS::AtLeastOnce, queue);
        assert_eq!(topics(&read_all(&worker, &conn, queue)), BTreeSet::from(["t/299"]));
        match lost {
            true => worker.settled(orphan),
            false => worker.all_marked(id, &client),
        }
        let got = read_all(&worker, &conn, queue);
        assert_eq!((got.len(), &*got[0].0), (MANY - 101, "t/101"), "lost: {lost}");
    }
}
