//! Sessions: their records, subscriptions and receipts, and that nothing is left of one that is deleted.

use std::sync::Arc;

use hydrant_actors::ports::{OutgoingStage, SessionOp, StoreOp, StoredSession, StoredSubscription};
use hydrant_protocol::QoS;
use hydrant_protocol::session::RangeSet;

use super::fixture::{Open, entry, packet, put_session, wait, write};

pub(super) fn sessions_and_subscriptions(open: &Open<'_>) {
    let store = open();
    let long: Arc<str> = "x/".repeat(20_000).into();
    let subscription = |filter: &str, qos| {
        StoreOp::Session(SessionOp::PutSubscription {
            id: 7,
            filter: filter.into(),
            qos,
            owes: None,
        })
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
            SessionOp::DeleteSubscription { id: 7, filter: "gone".into() }.into(),
            SessionOp::DeleteSubscription { id: 8, filter: "b".into() }.into(),
            SessionOp::PutReceipt { id: 8, packet_id: packet(1) }.into(),
            SessionOp::PutReceipt { id: 8, packet_id: packet(65_535) }.into(),
            SessionOp::PutReceipt { id: 8, packet_id: packet(2) }.into(),
            SessionOp::DeleteReceipt { id: 8, packet_id: packet(2) }.into(),
            SessionOp::PutSession {
                id: 8,
                client_id: "client8".into(),
                epoch: 10,
                disconnected_ms: None,
            }
            .into(),
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

pub(super) fn deleted_session_leaves_nothing(open: &Open<'_>) {
    let store = open();
    write(&store, vec![put_session(1), put_session(2), put_session(3)]);
    let fill = |id| {
        let mut ops: Vec<_> = (1..=5000)
            .map(|s| StoreOp::Session(SessionOp::PutQueued { id, entry: entry(s) }))
            .collect();
        ops.push(
            SessionOp::PutOutgoing {
                id,
                sequence: 1,
                packet_id: packet(1),
                stage: OutgoingStage::Publish,
            }
            .into(),
        );
        ops.push(SessionOp::PutReceipt { id, packet_id: packet(9) }.into());
        ops.push(
            SessionOp::PutSubscription {
                id,
                filter: "a".into(),
                qos: QoS::AtLeastOnce,
                owes: None,
            }
            .into(),
        );
        ops
    };
    for id in [1, 2] {
        write(&store, fill(id));
    }
    // With writes of its own before it in the same batch.
    let mut ops = vec![SessionOp::PutQueued { id: 1, entry: entry(9999) }.into()];
    ops.push(
        SessionOp::PutSubscription {
            id: 1,
            filter: "late".into(),
            qos: QoS::AtLeastOnce,
            owes: None,
        }
        .into(),
    );
    ops.push(SessionOp::DeleteSession { id: 1, client_id: "client1".into() }.into());
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

/// A client's session ends and its next one begins: in one write, and the new one first.
pub(super) fn a_client_begins_anew(open: &Open<'_>) {
    let store = open();
    let begins = |id: u64| {
        let (client_id, epoch) = ("client".into(), id);
        let put = SessionOp::PutSession { id, client_id, epoch, disconnected_ms: None };
        let filter = format!("f{id}").into();
        let (qos, owes) = (QoS::AtLeastOnce, None);
        let subscribes = SessionOp::PutSubscription { id, filter, qos, owes };
        [put, subscribes, SessionOp::PutQueued { id, entry: entry(id) }].map(StoreOp::Session)
    };
    let ends = |id| StoreOp::Session(SessionOp::DeleteSession { id, client_id: "client".into() });
    write(&store, begins(1).to_vec());
    write(&store, [vec![ends(1)], begins(2).to_vec()].concat());
    write(&store, begins(3).to_vec());
    write(&store, vec![ends(2)]);
    // The end of one that is over is nobody else's.
    write(&store, vec![ends(1), ends(2)]);
    write(&store, vec![StoreOp::Session(SessionOp::PutQueued { id: 3, entry: entry(4) })]);
    drop(store);
    let store = open();
    let sessions = wait(store.sessions());
    let [session] = &sessions[..] else { panic!("{sessions:?}") };
    assert_eq!((session.id, session.epoch, session.queued), (3, 3, 2));
    assert_eq!(session.subscriptions.len(), 1);
    assert_eq!(&*session.subscriptions[0].filter, "f3");
    assert_eq!(wait(store.read_queue(3, 0, 9, 9999)), [entry(3), entry(4)]);
    assert!(wait(store.read_queue(2, 0, 9, 9999)).is_empty());
    write(&store, begins(3).to_vec());
}
