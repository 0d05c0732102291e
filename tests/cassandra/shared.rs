//! Several stores at once in one keyspace, as the living nodes of a cluster have it: whose a session
//! is, how it moves, and what becomes of what a dead node held.

#[path = "dead.rs"]
mod dead;
#[path = "shared/moves.rs"]
mod moves;
#[path = "shared/peers.rs"]
mod peers;
#[path = "shared/seals.rs"]
mod seals;

use std::sync::Arc;
use std::time::Duration;

use hydrant::cassandra::{CassandraOptions, CassandraStore};
use hydrant::embedded::suite::{message, record, wait};
use hydrant_actors::ports::{
    Holder, LogOp, OrphanedState, OutboxPosition, QueueEntry, Sealing, SessionId, SessionOp,
    SessionStore, SharedStore, StoreError, StoreFuture, StoreOp, StoredSession, StoredWill,
};
use hydrant_protocol::{PacketId, QoS};

use crate::store;
use crate::support::cassandra::{Cassandra, shared};

const LEASE: Duration = Duration::from_secs(2);

fn options(node: &Cassandra) -> CassandraOptions {
    CassandraOptions { shared: true, lease: LEASE, outbox_lanes: 4, ..store::options(node) }
}

fn try_open(options: &CassandraOptions, node_id: &str) -> Result<Arc<CassandraStore>, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let instance = format!("data directory of {node_id}");
    let opened = runtime.block_on(CassandraStore::open(options, node_id, &instance));
    opened.map_err(|error| error.to_string())
}

fn open(options: &CassandraOptions, node_id: &str) -> Arc<CassandraStore> {
    try_open(options, node_id).unwrap()
}

fn ended<T>(future: StoreFuture<T>) -> Result<T, StoreError> {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn write(store: &CassandraStore, ops: Vec<StoreOp>) {
    wait(store.write(Arc::new(ops)));
}

fn packet(id: u16) -> PacketId {
    PacketId::new(id).unwrap()
}

fn client(id: SessionId) -> Arc<str> {
    format!("client{id}").into()
}

fn connect(id: SessionId, epoch: u64) -> StoreOp {
    StoreOp::Session(SessionOp::PutSession {
        id,
        client_id: client(id),
        epoch,
        disconnected_ms: None,
    })
}

fn entry(sequence: u64) -> QueueEntry {
    let message = message("q/topic", &format!("message {sequence}"), false);
    QueueEntry { sequence, qos: QoS::AtLeastOnce, retain: false, message, outgoing: None }
}

fn queued(id: SessionId, sequences: std::ops::RangeInclusive<u64>) -> Vec<StoreOp> {
    sequences
        .map(|sequence| StoreOp::Session(SessionOp::PutQueued { id, entry: entry(sequence) }))
        .collect()
}

fn delivered(id: SessionId, sequence: u64) -> StoreOp {
    StoreOp::Session(SessionOp::DeleteQueued { id, sequence })
}

/// It is owed retained messages behind the topic that is named as its filter.
fn subscription(id: SessionId, filter: &str) -> StoreOp {
    let owes = Some(filter.into());
    StoreOp::Session(SessionOp::PutSubscription {
        id,
        filter: filter.into(),
        qos: QoS::AtLeastOnce,
        owes,
    })
}

fn sequences(store: &CassandraStore, id: SessionId) -> Vec<u64> {
    let queue = wait(store.read_queue(id, 0, usize::MAX, usize::MAX));
    queue.into_iter().map(|entry| entry.sequence).collect()
}

fn ids(sessions: &[StoredSession]) -> Vec<SessionId> {
    let mut ids: Vec<SessionId> = sessions.iter().map(|session| session.id).collect();
    ids.sort_unstable();
    ids
}

fn filters(session: &StoredSession) -> Vec<&str> {
    for known in &session.subscriptions {
        assert_eq!(known.owes.as_ref(), Some(&known.filter));
    }
    session.subscriptions.iter().map(|subscription| &*subscription.filter).collect()
}

fn holder(store: &CassandraStore, id: SessionId) -> Option<Holder> {
    wait(store.locate(client(id)))
}

/// Gives a session of one to the other.
fn moves(from: &CassandraStore, to: &CassandraStore, id: SessionId) -> StoredSession {
    let until = from.give_up(id);
    let before = Holder { id, incarnation: from.incarnation() };
    assert_eq!(holder(to, id), Some(before));
    let session = wait(to.take(client(id), before, until)).expect("it is taken");
    assert_eq!(holder(from, id), Some(Holder { id, incarnation: to.incarnation() }));
    session
}

/// The orphaned state of an incarnation whose store was just dropped.
fn sealed(store: &CassandraStore, incarnation: u64) -> OrphanedState {
    // One renewal that was still on its way counts as a sign of life.
    for _ in 0..3 {
        match wait(store.seal(incarnation)) {
            Sealing::Ours(state) => return *state,
            Sealing::Alive => {}
            other => panic!("{other:?}"),
        }
    }
    panic!("it is alive")
}

fn outbox(lane: u16, positions: std::ops::Range<u64>) -> Vec<StoreOp> {
    let put = |position| {
        StoreOp::Log(LogOp::PutOutbox {
            record: record("t", position),
            position: OutboxPosition { lane, position },
        })
    };
    positions.map(put).collect()
}

fn will(id: SessionId) -> StoredWill {
    nth_will(id, 1)
}

/// Of a client's wills the one that this connection has left.
fn nth_will(id: SessionId, connection: u64) -> StoredWill {
    let message = message("w", &format!("gone {connection}"), false);
    StoredWill { client_id: client(id), connection, message }
}

fn end(id: SessionId, connection: u64) -> StoreOp {
    StoreOp::DeleteWill { client_id: client(id), connection }
}

#[test]
fn living_nodes_share_a_keyspace_and_one_that_wants_it_for_itself_is_refused() {
    let node = shared();
    let options = options(&node);
    let (a, b) = (open(&options, "a"), open(&options, "b"));
    assert!(a.incarnation() < b.incarnation() && a.holds_lease() && b.holds_lease());
    let alone = CassandraOptions { shared: false, ..options.clone() };
    let why = try_open(&alone, "c").err().unwrap();
    assert!(why.contains("is in use by the running node \""), "{why}");
    // A node id is in use only once.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let twice = runtime.block_on(CassandraStore::open(&options, "a", "elsewhere"));
    let why = twice.err().unwrap().to_string();
    assert!(why.contains("node id \"a\" is in use by another running broker"), "{why}");
    assert!(a.holds_lease() && b.holds_lease());
}

#[test]
fn who_has_a_keyspace_for_itself_is_left_alone() {
    let node = shared();
    let options = options(&node);
    let alone = CassandraOptions { shared: false, ..options.clone() };
    let first = open(&alone, "a");
    let why = try_open(&options, "b").err().unwrap();
    assert!(why.contains("running node \"a\", which is in no cluster and has it for"), "{why}");
    write(&first, vec![connect(1, 1)]);
}

#[test]
fn at_start_a_node_finds_its_own_sessions() {
    let node = shared();
    let options = options(&node);
    let (a, b) = (open(&options, "a"), open(&options, "b"));
    write(&a, [vec![connect(1, 1), subscription(1, "a/#")], queued(1, 1..=3)].concat());
    write(&a, vec![connect(3, 1), connect(5, 1)]);
    write(&b, vec![connect(2, 1)]);
    write(&a, vec![SessionOp::DeleteSession { id: 5, client_id: client(5) }.into()]);
    assert!(wait(a.sessions()).len() == 2 && wait(b.sessions()).len() == 1);
    let mut store = a;
    for round in 2..4 {
        drop(store);
        store = open(&options, "a");
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

#[test]
fn of_two_retained_messages_the_later_version_wins() {
    let node = shared();
    let options = options(&node);
    let (a, b) = (open(&options, "a"), open(&options, "b"));
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

#[test]
fn a_node_without_a_cluster_becomes_one_of_a_cluster_and_back() {
    let node = shared();
    let options = options(&node);
    let alone = CassandraOptions { shared: false, ..options.clone() };
    let store = open(&alone, "a");
    write(&store, [vec![connect(1, 1), subscription(1, "s")], queued(1, 1..=3)].concat());
    let offline = StoreOp::Session(SessionOp::PutSession {
        id: 2,
        client_id: client(2),
        epoch: 1,
        disconnected_ms: Some(5),
    });
    write(&store, [vec![offline, StoreOp::PutWill { will: will(1) }], outbox(0, 0..3)].concat());
    drop(store);
    // Another member is the first to come.
    let b = open(&options, "b");
    let a = open(&options, "a");
    let sessions = wait(b.sessions());
    assert_eq!(ids(&sessions), [1, 2]);
    assert!(wait(a.sessions()).is_empty());
    assert_eq!((wait(b.wills()), wait(b.lanes())[0].end), (vec![will(1)], 3));
    for id in [1, 2] {
        assert_eq!(holder(&a, id), Some(Holder { id, incarnation: b.incarnation() }));
    }
    write(&b, outbox(0, 0..2));
    moves(&b, &a, 1);
    write(&a, [vec![connect(1, 2)], queued(1, 4..=4)].concat());
    drop((a, b));
    let (a, b) = (open(&options, "a"), open(&options, "b"));
    assert_eq!((ids(&wait(a.sessions())), ids(&wait(b.sessions()))), (vec![1], vec![2]));
    let mut ends: Vec<u64> = wait(b.lanes()).iter().map(|lane| lane.end).collect();
    ends.sort_unstable();
    assert_eq!(ends, [2, 3]);
    // Back: everything is one node's again.
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        a.release().await;
        b.release().await;
    });
    drop((a, b));
    let store = open(&alone, "a");
    let sessions = wait(store.sessions());
    assert_eq!((ids(&sessions), sessions[0].queued), (vec![1, 2], 4));
    assert_eq!(sequences(&store, 1), [1, 2, 3, 4]);
    let mut ends: Vec<u64> = wait(store.lanes()).iter().map(|lane| lane.end).collect();
    ends.sort_unstable();
    assert_eq!(ends, [2, 3]);
    write(&store, vec![connect(1, 3), connect(2, 3), delivered(1, 1)]);
    drop(store);
    let a = open(&options, "a");
    assert_eq!((ids(&wait(a.sessions())), sequences(&a, 1)), (vec![1, 2], vec![2, 3, 4]));
}
