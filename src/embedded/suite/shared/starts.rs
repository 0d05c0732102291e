//! Starts of nodes that share a store, and what every one of them writes.

use hydrant_actors::ports::{Holder, SessionOp, StoreOp};

use super::super::fixture::{message, wait};
use super::fixture::{
    Nodes, client, connect, filters, holder, ids, open, queued, subscription, write,
};

pub(super) fn at_start_a_node_finds_its_own_sessions(nodes: &dyn Nodes) {
    let (a, b) = (open(nodes, "a"), open(nodes, "b"));
    write(&a, [vec![connect(1, 1), subscription(1, "a/#")], queued(1, 1..=3)].concat());
    write(&a, vec![connect(3, 1), connect(5, 1)]);
    write(&b, vec![connect(2, 1)]);
    write(&a, vec![StoreOp::Session(SessionOp::DeleteSession { id: 5, client_id: client(5) })]);
    assert!(wait(a.sessions()).len() == 2 && wait(b.sessions()).len() == 1);
    let mut store = a;
    for round in 2..4 {
        drop(store);
        store = open(nodes, "a");
        let sessions = wait(store.sessions());
        assert_eq!(ids(&sessions), [1, 3]);
        assert_eq!((sessions[0].queued, filters(&sessions[0])), (3, vec!["a/#"]));
        for (id, incarnation) in [(1, store.incarnation()), (2, b.incarnation())] {
            assert_eq!(holder(&store, id), Some(Holder { id, incarnation }));
        }
        assert_eq!(holder(&b, 5), None);
        // It goes on as before.
        write(&store, vec![connect(1, round), connect(3, round)]);
    }
    // What one has is not for the other to take, nor its own to the world.
    for incarnation in [store.incarnation(), b.incarnation()] {
        assert_eq!(wait(b.take(client(1), Holder { id: 9, incarnation }, u64::MAX)), None);
    }
    assert_eq!(
        wait(b.take(client(1), Holder { id: 1, incarnation: b.incarnation() }, u64::MAX)),
        None
    );
}

pub(super) fn of_two_retained_messages_the_later_version_wins(nodes: &dyn Nodes) {
    let (a, b) = (open(nodes, "a"), open(nodes, "b"));
    let put = |text: &str, version| {
        vec![StoreOp::PutRetained { message: message("t", text, true), version }]
    };
    let found = || {
        let retained = wait(a.retained());
        retained.iter().map(|(m, v)| (m.payload.clone(), *v)).collect::<Vec<_>>()
    };
    write(&a, put("later", 2_000));
    write(&b, put("earlier", 1_999));
    assert_eq!(found(), [("later".into(), 2_000)]);
    write(&b, put("latest", 2_001));
    write(&a, put("between", 2_000));
    assert_eq!(found(), [("latest".into(), 2_001)]);
    write(&a, vec![StoreOp::DeleteRetained { topic: "t".into(), version: 2_002 }]);
    write(&b, put("too late", 2_001));
    assert_eq!(found(), []);
}
