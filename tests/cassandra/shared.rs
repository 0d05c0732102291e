//! Several stores at once in one keyspace, as the living nodes of a cluster have it: whose a session
//! is, how it moves, and what becomes of what a dead node held.

#[path = "dead.rs"]
mod dead;

use std::sync::Arc;
use std::time::Duration;

use hydrant::cassandra::{CassandraOptions, CassandraStore};
use hydrant::embedded::suite::{message, record, wait};
use hydrant_actors::ports::{
    Holder, OrphanedState, OutboxPosition, OutgoingStage, PreparedPublish, QueueEntry, Sealing,
    SessionId, SessionStore, SharedStore, StoreError, StoreFuture, StoreOp, StoredBatch,
    StoredSession, StoredWill,
};
use hydrant_protocol::cluster::message::PublishId;
use hydrant_protocol::{PacketId, QoS};

use crate::store;
use crate::support::cassandra::{Cassandra, shared};
use crate::support::{SOON, eventually};

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
    StoreOp::PutSession { id, client_id: client(id), epoch, disconnected_ms: None }
}

fn entry(sequence: u64) -> QueueEntry {
    let message = message("q/topic", &format!("message {sequence}"), false);
    QueueEntry { sequence, qos: QoS::AtLeastOnce, retain: false, message, outgoing: None }
}

fn queued(id: SessionId, sequences: std::ops::RangeInclusive<u64>) -> Vec<StoreOp> {
    sequences.map(|sequence| StoreOp::PutQueued { id, entry: entry(sequence) }).collect()
}

fn delivered(id: SessionId, sequence: u64) -> StoreOp {
    StoreOp::DeleteQueued { id, sequence }
}

/// It is owed retained messages behind the topic that is named as its filter.
fn subscription(id: SessionId, filter: &str) -> StoreOp {
    let owes = Some(filter.into());
    StoreOp::PutSubscription { id, filter: filter.into(), qos: QoS::AtLeastOnce, owes }
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
    let put = |position| StoreOp::PutOutbox {
        record: record("t", position),
        position: OutboxPosition { lane, position },
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
    write(&a, vec![StoreOp::DeleteSession { id: 5, client_id: client(5) }]);
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

/// The node that it was given up to is lost before it takes it.
#[test]
fn what_was_given_up_and_taken_by_nobody_is_taken_back() {
    let node = shared();
    let options = options(&node);
    let (a, b) = (open(&options, "a"), open(&options, "b"));
    write(&a, [vec![connect(1, 1), subscription(1, "a/#")], queued(1, 1..=3)].concat());
    let until = a.give_up(1);
    let given_up = Holder { id: 1, incarnation: a.incarnation() };
    let back = wait(a.take(client(1), given_up, u64::MAX)).expect("it is nobody else's");
    assert_eq!((back.queued, filters(&back)), (3, vec!["a/#"]));
    assert_eq!(wait(b.locate(client(1))), Some(given_up));
    assert_eq!(wait(b.take(client(1), given_up, until)), None, "it was out of sight, and is late");
    write(&a, queued(1, 4..=5));
    assert_eq!(sequences(&a, 1), [1, 2, 3, 4, 5]);
    // Or that one has it after all.
    let until = a.give_up(1);
    wait(b.take(client(1), given_up, until)).expect("it was given up");
    assert_eq!(wait(a.take(client(1), given_up, u64::MAX)), None);
}

#[test]
fn batches_of_other_nodes_are_known_to_who_seals_the_one_that_stored_them() {
    let node = shared();
    let options = options(&node);
    let (a, b) = (open(&options, "a"), open(&options, "b"));
    let id = |number| PublishId { incarnation: 77, router: 1, number };
    let put = |origin, batch| StoreOp::PutPeerBatch { origin, batch, prepared: vec![id(batch)] };
    let except = |number, n| {
        let (origin, batch, client_id) = (77, number, client(n));
        StoreOp::ExceptPeerBatch { origin, batch, client_id }
    };
    let stored = |number, except| {
        let prepared = vec![id(number)];
        StoredBatch { origin: 77, number, prepared, except }
    };
    write(&a, vec![connect(1, 1)]);
    for batch in 1..=4 {
        write(&a, [queued(1, batch..=batch), vec![put(77, batch), put(78, batch)]].concat());
    }
    // Of the third one a part is buffered for two sessions, and stored for one of them.
    write(&a, vec![put(77, 3), except(3, 1), except(3, 2)]);
    let (origin, batch, client_id) = (77, 3, client(2));
    write(&a, vec![StoreOp::CompletePeerBatch { origin, batch, client_id }]);
    write(&a, vec![except(2, 1)]);
    write(&a, vec![StoreOp::ForgetPeerBatches { origin: 77, below: 3 }]);
    write(&a, vec![StoreOp::ForgetPeerBatches { origin: 78, below: u64::MAX }]);
    // Its next start goes on with what it had.
    let first = a.incarnation();
    drop(a);
    let a = open(&options, "a");
    assert!(a.continues().iter().any(|it| it.number == first) && b.continues().is_empty());
    assert_eq!(a.stored_batches(), [stored(3, vec![client(1)]), stored(4, vec![])]);
    write(&a, vec![put(77, 5)]);
    let second = a.incarnation();
    drop(a);
    let orphaned = sealed(&b, second);
    assert!(orphaned.incarnations.iter().any(|it| it.number == second));
    let kept = [stored(3, vec![client(1)]), stored(4, vec![]), stored(5, vec![])];
    assert_eq!(orphaned.batches, kept);
    assert_eq!(ids(&orphaned.sessions), [1]);
    // Also to who seals that one, though nothing else is left of the first, until they are not sent again.
    for n in 1..=5 {
        write(&b, queued(1, 10 + n..=10 + n));
    }
    let (third, c) = (b.incarnation(), open(&options, "c"));
    drop(b);
    assert_eq!(sealed(&c, third).batches, kept);
    write(&c, vec![StoreOp::ForgetPeerBatches { origin: 77, below: 6 }]);
    let (fourth, d) = (c.incarnation(), open(&options, "d"));
    drop(c);
    assert_eq!(sealed(&d, fourth).batches, []);
}

#[test]
fn open_publishes_are_known_until_they_are_everywhere() {
    let node = shared();
    let options = options(&node);
    let (a, b) = (open(&options, "a"), open(&options, "b"));
    let publish = |incarnation, router, number| PreparedPublish {
        id: PublishId { incarnation, router, number },
        publisher: "device".into(),
        session: (router == 0).then_some(1),
        packet_id: packet(7),
        record: Some((3, u64::MAX)),
        message: message("a/b", &number.to_string(), false),
        retain: router == 1,
        queued: false,
    };
    let put = |publish: &PreparedPublish| StoreOp::Prepare(Box::new(publish.clone()));
    let first = a.incarnation();
    let [one, two, other] = [(0, 1), (0, 2), (1, 1)].map(|(router, n)| publish(first, router, n));
    write(&a, [&one, &two, &other].map(put).to_vec());
    write(&a, [queued(1, 1..=1), vec![StoreOp::Committed { id: two.id }]].concat());
    let (incarnation, router, below) = (first, Some(0), 2);
    write(&a, vec![StoreOp::ForgetPrepared { incarnation, router, below }]);
    // Its next start goes on with them.
    drop(a);
    let a = open(&options, "a");
    let two = PreparedPublish { queued: true, ..two };
    assert_eq!(a.prepared_publishes(), [two.clone(), other.clone()]);
    assert_eq!(b.prepared_publishes(), []);
    // Not finished: so does who seals it then, and the start after that.
    let second = a.incarnation();
    let third = publish(second, 0, 1);
    write(&a, vec![put(&third)]);
    drop(a);
    assert_eq!(sealed(&b, second).prepared, [two, other, third.clone()]);
    let router = None;
    write(&b, vec![StoreOp::ForgetPrepared { incarnation: first, router, below: u64::MAX }]);
    drop(b);
    let b = open(&options, "b");
    assert_eq!(b.prepared_publishes(), [third]);
}

#[test]
fn a_session_moves_there_and_back_with_everything_it_has() {
    let node = shared();
    let options = options(&node);
    let (a, b) = (open(&options, "a"), open(&options, "b"));
    let id = 7;
    write(&a, [vec![connect(id, 1), subscription(id, "x/#")], queued(id, 1..=300)].concat());
    let sent = |sequence, packet_id, stage| StoreOp::PutOutgoing {
        id,
        sequence,
        packet_id: packet(packet_id),
        stage,
    };
    let receipt = |packet_id| StoreOp::PutReceipt { id, packet_id: packet(packet_id) };
    let ops = vec![
        receipt(9),
        receipt(500),
        sent(2, 11, OutgoingStage::Publish),
        sent(3, 12, OutgoingStage::Release),
        delivered(id, 1),
        delivered(id, 299),
    ];
    write(&a, ops);
    let before = wait(a.sessions());
    let queue = |store: &CassandraStore| wait(store.read_queue(id, 0, usize::MAX, usize::MAX));
    let waiting = queue(&a);
    assert_eq!((waiting.len(), before[0].queued, before[0].last_sequence), (298, 298, 300));

    // Up to the later incarnation.
    assert_eq!(moves(&a, &b, id), before[0]);
    assert_eq!(queue(&b), waiting);
    assert!(wait(a.sessions()).is_empty());
    // What the first one still writes is dropped.
    write(&a, [vec![connect(id, 9), subscription(id, "no")], queued(id, 301..=302)].concat());
    let ops = vec![
        connect(id, 2),
        delivered(id, 2),
        delivered(id, 150),
        StoreOp::DeleteReceipt { id, packet_id: packet(9) },
        StoreOp::DeleteSubscription { id, filter: "x/#".into() },
        subscription(id, "y"),
        StoreOp::PutQueued { id, entry: entry(301) },
    ];
    write(&b, ops);

    // Down to the earlier one, whose own stamps are lower.
    let back = moves(&b, &a, id);
    assert_eq!((back.epoch, back.queued, back.last_sequence), (2, 297, 301));
    assert_eq!((filters(&back), &back.receipts[..]), (vec!["y"], &[packet(500)][..]));
    let waiting = queue(&a);
    assert_eq!(waiting[0].outgoing, Some((packet(12), OutgoingStage::Release)));
    let ops = vec![
        delivered(id, 3),
        StoreOp::DeleteSubscription { id, filter: "y".into() },
        StoreOp::DeleteReceipt { id, packet_id: packet(500) },
        StoreOp::PutSession { id, client_id: client(id), epoch: 2, disconnected_ms: Some(77) },
    ];
    write(&a, ops);
    write(&a, (4..=255).map(|sequence| delivered(id, sequence)).collect());

    // And there again: what each deleted stays deleted.
    let third = moves(&a, &b, id);
    assert_eq!((third.disconnected_ms, third.queued), (Some(77), 45));
    assert!(third.subscriptions.is_empty() && third.receipts.is_empty());
    let rest: Vec<u64> = (256..=301).filter(|sequence| *sequence != 299).collect();
    assert_eq!(sequences(&b, id), rest);
    // Both at their next start.
    drop((a, b));
    let (a, b) = (open(&options, "a"), open(&options, "b"));
    assert_eq!((ids(&wait(a.sessions())), ids(&wait(b.sessions()))), (vec![], vec![id]));
    assert_eq!(sequences(&b, id), rest);
    // Its end is the end of it everywhere.
    moves(&b, &a, id);
    write(&a, vec![StoreOp::DeleteSession { id, client_id: client(id) }]);
    assert_eq!(holder(&b, id), None);
    assert!(wait(a.sessions()).is_empty());
    // The client begins anew elsewhere.
    let anew =
        StoreOp::PutSession { id: 8, client_id: client(id), epoch: 3, disconnected_ms: None };
    write(&b, vec![anew]);
    assert_eq!(holder(&a, id), Some(Holder { id: 8, incarnation: b.incarnation() }));
}

#[test]
fn of_two_that_take_a_session_one_gets_it() {
    let node = shared();
    let options = options(&node);
    let (a, b, c) = (open(&options, "a"), open(&options, "b"), open(&options, "c"));
    write(&a, (1..=20).map(|id| connect(id, 1)).collect());
    for id in 1..=20 {
        a.give_up(id);
        let from = Holder { id, incarnation: a.incarnation() };
        let takes = [&b, &c].map(|store| store.take(client(id), from, u64::MAX));
        let taken = takes.map(|take| wait(take).is_some());
        assert_eq!(taken.iter().filter(|taken| **taken).count(), 1, "{id}: {taken:?}");
        let winner = if taken[0] { &b } else { &c };
        assert_eq!(holder(&a, id), Some(Holder { id, incarnation: winner.incarnation() }));
    }
    let (b_has, c_has) = (ids(&wait(b.sessions())), ids(&wait(c.sessions())));
    assert_eq!(b_has.len() + c_has.len(), 20);
    drop((b, c));
    let (b, c) = (open(&options, "b"), open(&options, "c"));
    assert_eq!((ids(&wait(b.sessions())), ids(&wait(c.sessions()))), (b_has, c_has));
    // A new session of a client that has one elsewhere is not made.
    let mine = ids(&wait(b.sessions()))[0];
    let other =
        StoreOp::PutSession { id: 99, client_id: client(mine), epoch: 1, disconnected_ms: None };
    let ops = Arc::new(vec![other]);
    assert!(ended(c.write(Arc::clone(&ops))).is_err());
    wait(c.write(ops));
    assert_eq!(holder(&c, mine).map(|holder| holder.id), Some(mine));
}

/// Nodes that died while a session was about to move: before its row said so, and after.
#[test]
fn a_move_that_was_cut_short_leaves_a_session_with_one_holder() {
    let node = shared();
    let options = options(&node);
    let (a, b) = (open(&options, "a"), open(&options, "b"));
    write(&a, vec![connect(1, 1), connect(2, 1), connect(3, 1)]);
    moves(&a, &b, 2);
    let [at_a, at_b] = [&a, &b].map(|store| store.incarnation());
    for (line, id, client_id) in [
        (at_a, 1, "client1"),
        (at_b, 1, "client1"),
        (at_a, 2, "client2"),
        (at_b, 2, "client2"),
        // Of a session that was never begun.
        (at_a, 4, "client4"),
    ] {
        node.execute(&format!(
            "INSERT INTO {}.session_held (line, shard, id, client_id, moving) VALUES ({line}, {id}, \
             {id}, '{client_id}', 1) USING TIMESTAMP {}",
            options.keyspace,
            // Above theirs, and below those of the next start.
            (at_b << 44) + 1_000_000
        ))
        .unwrap();
    }
    let (mut a, mut b) = (a, b);
    for _ in 0..2 {
        drop((a, b));
        (a, b) = (open(&options, "a"), open(&options, "b"));
        assert_eq!((ids(&wait(a.sessions())), ids(&wait(b.sessions()))), (vec![1, 3], vec![2]));
    }
    // Nothing is left to ask about.
    let marked = format!("SELECT id FROM {}.session_held WHERE moving = ", options.keyspace);
    let [none, marked] =
        [2, 1].map(|moving| node.execute(&format!("{marked}{moving} ALLOW FILTERING")).unwrap());
    assert_eq!(marked, none);
    assert_eq!(moves(&a, &b, 1).id, 1);
}

#[test]
fn who_seals_a_dead_node_has_all_that_it_held() {
    let node = shared();
    let options = options(&node);
    let (a, b) = (open(&options, "a"), open(&options, "b"));
    let dead = a.incarnation();
    write(&a, [vec![connect(1, 1), subscription(1, "s")], queued(1, 1..=5)].concat());
    write(&a, vec![connect(2, 1), StoreOp::PutWill { will: will(2) }]);
    write(&a, [outbox(0, 0..300), outbox(3, 0..2)].concat());
    write(&a, vec![StoreOp::MoveCursor { lane: 0, position: 10 }]);
    write(&b, [vec![connect(4, 1)], outbox(0, 0..3)].concat());
    assert!(matches!(wait(b.seal(dead)), Sealing::Alive));
    drop(a);
    let orphaned = sealed(&b, dead);
    assert_eq!(ids(&orphaned.sessions), [1, 2]);
    let session = orphaned.sessions.iter().find(|session| session.id == 1).unwrap();
    assert_eq!((session.queued, filters(session)), (5, vec!["s"]));
    assert_eq!(orphaned.wills, [will(2)]);
    assert_eq!(holder(&b, 1), Some(Holder { id: 1, incarnation: b.incarnation() }));
    // A second time nothing more.
    assert_eq!(sealed(&b, dead).sessions.len(), 0);
    // It is ours, with all that can be done to it.
    write(&b, vec![delivered(1, 1), connect(1, 2)]);
    assert_eq!(sequences(&b, 1), [2, 3, 4, 5]);
    let mut lanes = orphaned.lanes;
    lanes.sort_unstable_by_key(|lane| lane.end);
    let found: Vec<_> = lanes.iter().map(|lane| (lane.cursor, lane.end)).collect();
    assert_eq!(found, [(0, 2), (10, 300)]);
    assert!(lanes.iter().all(|lane| lane.lane >= options.outbox_lanes));
    let [short, long] = [lanes[0].lane, lanes[1].lane];
    let records = wait(b.read_outbox(long, 10, 1000, usize::MAX));
    assert_eq!((records.len(), &records[0].payload[..]), (290, &b"payload 10"[..]));
    assert_eq!(records[5].outbox, Some(OutboxPosition { lane: long, position: 15 }));
    // Its own lane of that number is another.
    assert_eq!(wait(b.read_outbox(0, 0, 1000, usize::MAX)).len(), 3);
    write(&b, vec![StoreOp::MoveCursor { lane: long, position: 280 }]);
    write(&b, vec![StoreOp::MoveCursor { lane: long, position: 300 }]);
    let row = format!("SELECT owner FROM {}.incarnation WHERE number = {dead}", options.keyspace);
    let empty = node.execute(&format!("{} AND owner = 0 ALLOW FILTERING", row)).unwrap();
    let is_gone = || node.execute(&row).unwrap() == empty;
    write(&b, vec![StoreOp::MoveCursor { lane: short, position: 2 }]);
    write(&b, vec![end(2, 1)]);
    assert!(!is_gone(), "sessions are held under its number");
    // The next start finds them still, and the drained lanes no more.
    drop(b);
    let b = open(&options, "b");
    assert_eq!(ids(&wait(b.sessions())), [1, 2, 4]);
    assert!(wait(b.wills()).is_empty());
    assert_eq!(wait(b.lanes()).iter().map(|lane| lane.end).collect::<Vec<_>>(), [3]);
    let c = open(&options, "c");
    moves(&b, &c, 1);
    write(&b, vec![StoreOp::DeleteSession { id: 2, client_id: client(2) }]);
    eventually(SOON, "the dead one is forgotten", || {
        write(&b, vec![connect(4, 2)]);
        is_gone()
    });
    assert!(matches!(wait(b.seal(dead)), Sealing::Others(0)));
    assert_eq!(ids(&wait(c.sessions())), [1]);
}

#[test]
fn who_stopped_cleanly_is_sealed_at_once_and_who_is_sealed_is_anothers() {
    let node = shared();
    let options = CassandraOptions { lease: Duration::from_secs(300), ..options(&node) };
    let (a, b, c) = (open(&options, "a"), open(&options, "b"), open(&options, "c"));
    write(&a, vec![connect(1, 1)]);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(a.release());
    assert!(!a.holds_lease());
    let dead = a.incarnation();
    assert_eq!(holder(&b, 1), Some(Holder { id: 1, incarnation: dead }));
    assert_eq!(ids(&sealed(&b, dead).sessions), [1]);
    assert!(matches!(wait(c.seal(dead)), Sealing::Others(by) if by == b.incarnation()));
    assert_eq!(wait(c.take(client(1), Holder { id: 1, incarnation: dead }, u64::MAX)), None);
    // The node that comes back has nothing of it.
    drop(a);
    let a = open(&options, "a");
    assert!(wait(a.sessions()).is_empty());
    moves(&b, &a, 1);
    assert_eq!(ids(&wait(a.sessions())), [1]);
}

#[test]
fn what_a_frozen_node_writes_late_is_not_acknowledged_and_not_seen() {
    let node = shared();
    let options = options(&node);
    // The frozen one has the higher number: its stamps are above until its successor jumps.
    let (b, a) = (open(&options, "b"), open(&options, "a"));
    let id = 1;
    write(&a, [vec![connect(id, 1), subscription(id, "s")], queued(id, 1..=5)].concat());
    write(&a, vec![connect(2, 1), subscription(2, "s"), connect(3, 1)]);
    a.freeze();
    let orphaned = sealed(&b, a.incarnation());
    assert_eq!((ids(&orphaned.sessions), orphaned.sessions[0].last_sequence), (vec![id, 2, 3], 5));
    // What the successor does nothing with is fenced in the background.
    let fences = format!("SELECT id FROM {}.session_epoch WHERE fence > ", options.keyspace);
    let above = |stamp: u64| node.execute(&format!("{fences}{stamp} ALLOW FILTERING")).unwrap();
    let all = above(0).len();
    let last = (a.incarnation() << 44) + (1 << 43);
    eventually(SOON, "its sessions are fenced", || above(last).len() == all);
    write(&b, [vec![connect(id, 2), delivered(id, 1)], queued(id, 6..=7)].concat());
    // Everything that it can still send.
    let late = [
        [vec![subscription(id, "late")], queued(id, 6..=600)].concat(),
        vec![StoreOp::PutReceipt { id, packet_id: packet(3) }],
        vec![delivered(id, 2), delivered(id, 3)],
        vec![StoreOp::PutSession { id, client_id: client(id), epoch: 9, disconnected_ms: Some(5) }],
        vec![StoreOp::DeleteSession { id: 2, client_id: client(2) }],
        vec![connect(3, 9)],
        vec![connect(id, 9)],
    ];
    for ops in late {
        let ops = Arc::new(ops);
        assert!(ended(a.write(Arc::clone(&ops))).is_err());
        // StorageActor would write it again; here the next one has to come through.
        let _ = ended(a.write(ops));
    }
    assert!(!a.holds_lease());
    for _ in 0..2 {
        assert_eq!(sequences(&b, id), [2, 3, 4, 5, 6, 7]);
    }
    // Nor by who reads the session next: at a start, and when it moves.
    drop(b);
    let b = open(&options, "b");
    let sessions = wait(b.sessions());
    assert_eq!((ids(&sessions), filters(&sessions[0])), (vec![id, 2, 3], vec!["s"]));
    assert_eq!((filters(&sessions[1]), sessions[2].epoch), (vec!["s"], 1));
    for id in [2, 3] {
        assert_eq!(holder(&b, id), Some(Holder { id, incarnation: b.incarnation() }));
        write(&b, vec![connect(id, 2)]);
    }
    let session = &sessions[0];
    assert_eq!((session.epoch, session.disconnected_ms, session.queued), (2, None, 6));
    assert_eq!((session.last_sequence, session.receipts.len()), (7, 0));
    let c = open(&options, "c");
    let moved = moves(&b, &c, id);
    assert_eq!((filters(&moved), moved.queued, moved.last_sequence), (vec!["s"], 6, 7));
    assert_eq!(sequences(&c, id), [2, 3, 4, 5, 6, 7]);
}

#[test]
fn what_is_sealed_and_not_drained_goes_on_to_who_seals_the_successor() {
    let node = shared();
    let options = options(&node);
    let (a, b, c) = (open(&options, "a"), open(&options, "b"), open(&options, "c"));
    let (first, second) = (a.incarnation(), b.incarnation());
    write(&a, [vec![connect(1, 1), StoreOp::PutWill { will: will(1) }], outbox(0, 0..3)].concat());
    write(&b, [vec![connect(2, 1)], outbox(0, 0..5)].concat());
    drop(a);
    assert_eq!(sealed(&b, first).lanes.len(), 1);
    write(&b, queued(1, 1..=2));
    drop(b);
    assert_eq!(holder(&c, 1), Some(Holder { id: 1, incarnation: second }));
    let orphaned = sealed(&c, second);
    assert_eq!(ids(&orphaned.sessions), [1, 2]);
    assert_eq!(orphaned.wills, [will(1)]);
    let mut ends: Vec<u64> = orphaned.lanes.iter().map(|lane| lane.end).collect();
    ends.sort_unstable();
    assert_eq!(ends, [3, 5]);
    for lane in &orphaned.lanes {
        assert_eq!(wait(c.read_outbox(lane.lane, 0, 9, usize::MAX)).len() as u64, lane.end);
    }
    assert_eq!(sequences(&c, 1), [1, 2]);
    assert_eq!(holder(&c, 1), Some(Holder { id: 1, incarnation: c.incarnation() }));
    // A start of the same node instead of a seal.
    drop(c);
    let c = open(&options, "c");
    assert_eq!(ids(&wait(c.sessions())), [1, 2]);
    assert_eq!((wait(c.wills()), wait(c.lanes()).len()), (vec![will(1)], 2));
}

/// Of several starts, and while the client is back: all that is due fires, and the end of one is not that of another.
#[test]
fn wills_that_several_lost_nodes_have_left_are_all_due() {
    let node = shared();
    let options = options(&node);
    let (a, b, c) = (open(&options, "a"), open(&options, "b"), open(&options, "c"));
    let (first, second) = (a.incarnation(), b.incarnation());
    let put = |connection| StoreOp::PutWill { will: nth_will(1, connection) };
    write(&a, vec![put(1), put(2), put(3), end(1, 2)]);
    write(&b, vec![put(4), StoreOp::PutWill { will: will(9) }]);
    // As schema version 4 has left one: by client id, and nothing else.
    let keyspace = &options.keyspace;
    let whose = format!("incarnation = {second} AND name = 'client9'");
    let row = format!("FROM {keyspace}.will WHERE {whose} ALLOW FILTERING");
    let found = node.execute(&format!("SELECT JSON will {row}")).unwrap();
    let found = String::from_utf8_lossy(&found).into_owned();
    let blob = found[found.find("0x").unwrap()..].split('"').next().unwrap().to_owned();
    node.execute(&format!(
        "INSERT INTO {keyspace}.will (incarnation, shard, client_id, will) \
         VALUES ({second}, 5, 'old', {blob}) USING TIMESTAMP 1"
    ))
    .unwrap();
    write(&b, vec![end(9, 1)]);
    drop(a);
    assert_eq!(sealed(&b, first).wills, [nth_will(1, 1), nth_will(1, 3)]);
    // The client is back, which ends none of them; the end of its new will neither.
    write(&b, vec![put(5)]);
    write(&b, vec![put(6), end(1, 1), end(1, 5)]);
    drop(b);
    let mut old = will(9);
    (old.client_id, old.connection) = ("old".into(), second << 40);
    let due = [nth_will(1, 3), nth_will(1, 4), nth_will(1, 6), old];
    let orphaned = sealed(&c, second);
    assert_eq!(orphaned.wills, due);
    // Nobody else has them, who comes later and who was late.
    let d = open(&options, "d");
    for incarnation in [first, second] {
        assert!(matches!(wait(d.seal(incarnation)), Sealing::Others(_)));
    }
    write(&c, vec![end(1, 3), end(1, 6)]);
    write(&c, vec![StoreOp::DeleteWill { client_id: "old".into(), connection: second << 40 }]);
    drop(c);
    let c = open(&options, "c");
    assert_eq!(wait(c.wills()), [nth_will(1, 4)]);
    write(&c, vec![end(1, 4)]);
    drop(c);
    assert_eq!(wait(open(&options, "c").wills()), []);
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
    let offline =
        StoreOp::PutSession { id: 2, client_id: client(2), epoch: 1, disconnected_ms: Some(5) };
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

#[test]
fn what_a_successor_got_moves_on_with_its_queue() {
    let node = shared();
    let options = options(&node);
    let (a, b, c) = (open(&options, "a"), open(&options, "b"), open(&options, "c"));
    let dead = a.incarnation();
    write(&a, [vec![connect(1, 1), subscription(1, "s")], queued(1, 1..=3)].concat());
    write(&a, queued(1, 4..=300));
    drop(a);
    let orphaned = sealed(&b, dead);
    assert_eq!((orphaned.sessions[0].queued, orphaned.sessions[0].last_sequence), (300, 300));
    write(&b, queued(1, 301..=310));
    assert_eq!(sequences(&b, 1), (1..=310).collect::<Vec<_>>());
    let taken = moves(&b, &c, 1);
    assert_eq!((taken.queued, taken.last_sequence), (310, 310));
    write(&c, queued(1, 311..=320));
    assert_eq!(sequences(&c, 1), (1..=320).collect::<Vec<_>>());
}

/// Back and forth, with writes of all sizes just before each move and deliveries in between.
#[test]
fn a_queue_that_moves_again_and_again_stays_whole() {
    let node = shared();
    let options = options(&node);
    let (a, b) = (open(&options, "a"), open(&options, "b"));
    write(&a, vec![connect(1, 1), subscription(1, "s")]);
    let (mut here, mut there) = (a, b);
    let (mut next, mut oldest, mut seed) = (1_u64, 1_u64, 7_u64);
    for turn in 0..120 {
        let mut random = |bound: u64| {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % bound
        };
        // Several under way at once, as StorageActor has them.
        let mut under_way = Vec::new();
        for _ in 0..=random(3) {
            let count = random(60);
            let ops = queued(1, next..=next + count);
            next += count + 1;
            under_way.push(here.write(Arc::new(ops)));
        }
        let delivered: Vec<StoreOp> =
            (0..random(next - oldest)).map(|n| delivered(1, oldest + n)).collect();
        oldest += delivered.len() as u64;
        under_way.push(here.write(Arc::new(delivered)));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            for write in under_way {
                write.await.unwrap();
            }
        });
        let taken = moves(&here, &there, 1);
        assert_eq!((taken.last_sequence, taken.queued), (next - 1, next - oldest), "turn {turn}");
        assert_eq!(sequences(&there, 1), (oldest..next).collect::<Vec<_>>(), "turn {turn}");
        std::mem::swap(&mut here, &mut there);
    }
}
