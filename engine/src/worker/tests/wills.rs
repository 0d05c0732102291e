//! A will's row: whose it is, and what it waits for before it ends.

use hydrant_protocol::AckLevel;

use super::*;
use crate::messages::{AckSource, CompletionToken};
use crate::ports::{LogOp, StoredWill};

/// What was written of wills: what was put and what has ended, by connection.
fn written(worker: &Rc<Worker>) -> (Vec<u64>, Vec<u64>) {
    let (mut put, mut ended) = (Vec::new(), Vec::new());
    for op in store(worker).0 {
        match op {
            StoreOp::PutWill { will } => put.push(will.connection),
            StoreOp::DeleteWill { connection, .. } => ended.push(connection),
            _ => {}
        }
    }
    (put, ended)
}

#[test]
fn the_end_of_an_old_will_leaves_the_new_one_in_the_store() {
    for clean in [true, false] {
        let worker = worker(1);
        let _old = connect(&worker, clean, Some("old"));
        let (first, ended) = written(&worker);
        assert_eq!((first.len(), &ended[..]), (1, &[][..]));
        let new = connect(&worker, clean, Some("new"));
        worker.route_all(|| ());
        let (second, ended) = written(&worker);
        assert_ne!(first, second);
        assert_eq!((second.len(), ended), (1, first), "the old one's row ends, and no other");
        worker.detach(&new, CloseReason::Eof);
        worker.route_all(|| ());
        assert_eq!(written(&worker), (vec![], second));
    }
}

#[test]
fn disconnect_before_a_takeover_discards_the_will() {
    let worker = worker(1);
    let old = connect(&worker, true, Some("old"));
    let (first, _) = written(&worker);
    worker.close(&old, CloseReason::Disconnect);
    connect(&worker, true, Some("new"));
    assert!(!worker.has_router_work(), "the will is published");
    let (second, ended) = written(&worker);
    assert_eq!((second.len(), ended), (1, first));
}

/// With Kafka away and a crash, its record would be lost.
#[test]
fn a_will_stands_in_the_store_until_the_log_has_its_record() {
    for (qos, kind, ack) in [
        (QoS::AtMostOnce, LogKind::Kafka, AckLevel::Kafka),
        (QoS::AtLeastOnce, LogKind::Kafka, AckLevel::Kafka),
        (QoS::AtMostOnce, LogKind::Embedded, AckLevel::Stored),
        (QoS::AtLeastOnce, LogKind::Embedded, AckLevel::Stored),
    ] {
        for refused in [false, true] {
            let worker = logging(kind, ack);
            let conn = connect_with("c", &worker, true, Some(will_at(qos, "gone")));
            let (put, _) = written(&worker);
            worker.detach(&conn, CloseReason::Eof);
            worker.route_all(|| ());
            assert_eq!(written(&worker), (vec![], vec![]), "{qos:?}, {kind:?}: it ends at once");
            let token = logged(&worker).unwrap();
            assert!(token.source == AckSource::Log && worker.waiting() == 1);
            // Refused once, its record would be refused after every start.
            if refused {
                worker.refuse(token)
            } else {
                worker.complete(token)
            }
            worker.flush();
            assert_eq!((written(&worker), worker.waiting()), ((vec![], put), 0), "{qos:?}");
        }
    }
}

#[test]
fn a_will_ends_with_the_outbox_entry_that_it_becomes() {
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
        let worker = logging(LogKind::Kafka, AckLevel::Stored);
        let conn = connect_with("c", &worker, true, Some(will_at(qos, "gone")));
        store(&worker);
        worker.detach(&conn, CloseReason::Eof);
        worker.route_all(|| ());
        let mut taken = worker.take_storage(10);
        let Some(StorageWork::Write { ops, .. }) = taken.pop_front() else { panic!("a write") };
        let of = |wanted: fn(&StoreOp) -> bool| ops.iter().filter(|op| wanted(op)).count();
        let both = (
            of(|op| matches!(op, StoreOp::Log(LogOp::PutOutbox { .. }))),
            of(|op| matches!(op, StoreOp::DeleteWill { .. })),
        );
        assert_eq!(both, (1, 1), "{qos:?}: {ops:?}");
    }
}

#[test]
fn a_will_whose_route_accepts_only_waits_for_nothing() {
    let worker = logging(LogKind::Kafka, AckLevel::Accepted);
    let conn = connect(&worker, true, Some("gone"));
    let (put, _) = written(&worker);
    worker.detach(&conn, CloseReason::Eof);
    worker.route_all(|| ());
    assert_eq!((written(&worker), worker.waiting()), ((vec![], put), 0));
}

fn logging(kind: LogKind, ack: AckLevel) -> Rc<Worker> {
    let mut settings = settings(1);
    settings.log.kind = kind;
    settings.mapping = Arc::new(Mapping::new(&[], ack).unwrap());
    worker_with(settings)
}

/// The token of the one record that was handed to the log.
fn logged(worker: &Rc<Worker>) -> Option<CompletionToken> {
    let mut taken = worker.take_log(10);
    let token = taken.pop_front().unwrap().token;
    assert!(taken.pop_front().is_none(), "one record");
    token
}

/// Found at a start, or after a cut network: connections have their turn in between, and nothing overtakes.
#[test]
fn very_many_wills_are_published_turn_by_turn() {
    let mut settings = settings(1);
    settings.limits.max_output_bytes = 1 << 20;
    let worker = worker_with(settings);
    let subscriber = connect_as("reader", &worker, true, None);
    subscribe(&worker, &subscriber, "will", QoS::AtMostOnce);
    let publisher = conn(&worker);
    for n in 0..600 {
        let message = Message {
            topic: "will".into(),
            payload: format!("<{n}>").into(),
            qos: QoS::AtMostOnce,
            retain: false,
            properties: None,
        };
        let client_id = format!("c{n}").into();
        worker.restore_will(&StoredWill { client_id, connection: n, message: Arc::new(message) });
    }
    let mut turns = Vec::new();
    let mut seen = String::new();
    while worker.has_router_work() {
        turns.push(worker.route_all(|| ()));
        seen.push_str(&String::from_utf8_lossy(&std::mem::take(&mut *subscriber.out.borrow_mut())));
        if turns.len() == 1 {
            let late = Publish {
                dup: false,
                qos: QoS::AtMostOnce,
                retain: false,
                topic: "will",
                packet_id: None,
                payload: b"<late>",
            };
            worker.submit(&publisher, &late, None);
        }
    }
    assert!(turns.iter().all(|routed| *routed <= 257), "{turns:?}");
    let order: Vec<&str> =
        seen.split('<').filter_map(|part| Some(part.split_once('>')?.0)).collect();
    let expected: Vec<String> =
        (0..600).map(|n| n.to_string()).chain(["late".to_owned()]).collect();
    assert_eq!(order, expected);
}
