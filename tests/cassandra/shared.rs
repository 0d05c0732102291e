//! Several stores at once in one keyspace, as the living nodes of a cluster have it: whose a session
//! is, how it moves, and what becomes of what a dead node held.

use std::sync::Arc;
use std::time::Duration;

use hydrant::cassandra::{CassandraOptions, CassandraStore};
use hydrant::embedded::suite::shared::{self as suite, Node, Nodes};
use hydrant::embedded::suite::{message, record, wait};
use hydrant_actors::ports::{
    Holder, LogOp, OutboxPosition, QueueEntry, SessionId, SessionOp, SessionStore, SharedStore,
    StoreOp, StoredSession, StoredWill,
};
use hydrant_protocol::QoS;

use crate::store;
use crate::support::cassandra::{Cassandra, Shared, shared};

const LEASE: Duration = Duration::from_secs(2);

/// A keyspace that nodes share.
struct Keyspace {
    node: Shared,
    options: CassandraOptions,
}

impl Keyspace {
    /// Whether a statement finds anything. `nothing`: the same where there is nothing.
    fn finds(&self, statement: &str, nothing: &str) -> bool {
        let [found, nothing] = [statement, nothing].map(|s| self.node.execute(s).unwrap());
        found != nothing
    }
}

impl Nodes for Keyspace {
    fn open(&self, node: &str, instance: &str, lease: Option<Duration>) -> Result<Node, String> {
        let lease = lease.unwrap_or(LEASE);
        let options = CassandraOptions { lease, ..self.options.clone() };
        let store = opened(&options, node, instance)?;
        let (released, frozen) = (Arc::clone(&store), Arc::clone(&store));
        Ok(Node {
            store,
            release: Box::new(move || release(&released)),
            freeze: Box::new(move || frozen.freeze()),
        })
    }

    fn lanes(&self) -> u16 {
        self.options.outbox_lanes
    }

    fn pass(&self) {
        std::thread::sleep(Duration::from_millis(10));
    }

    fn is_forgotten(&self, incarnation: u64) -> bool {
        let keyspace = &self.options.keyspace;
        let row = format!("SELECT owner FROM {keyspace}.incarnation WHERE number = {incarnation}");
        !self.finds(&row, &format!("{row} AND owner = 0 ALLOW FILTERING"))
    }

    fn are_fenced_above(&self, stamp: u64) -> bool {
        let fences =
            format!("SELECT id FROM {}.session_epoch WHERE fence > ", self.options.keyspace);
        let above = |stamp: u64| {
            self.node.execute(&format!("{fences}{stamp} ALLOW FILTERING")).unwrap().len()
        };
        above(stamp) == above(0)
    }

    fn mark(&self, lineage: u64, id: SessionId, client_id: &str, stamp: u64) {
        self.node
            .execute(&format!(
                "INSERT INTO {}.session_held (line, shard, id, client_id, moving) VALUES \
                 ({lineage}, {id}, {id}, '{client_id}', 1) USING TIMESTAMP {stamp}",
                self.options.keyspace,
            ))
            .unwrap();
    }

    fn is_any_marked(&self) -> bool {
        let keyspace = &self.options.keyspace;
        let marked = |moving| {
            let marked = format!("SELECT id FROM {keyspace}.session_held WHERE moving = {moving}");
            format!("{marked} ALLOW FILTERING")
        };
        self.finds(&marked(1), &marked(2))
    }

    /// As schema version 4 has left one: by client id, and nothing else.
    fn leave_old_will(&self, incarnation: u64, of: &str) -> Option<StoredWill> {
        let keyspace = &self.options.keyspace;
        let whose = format!("incarnation = {incarnation} AND name = '{of}'");
        let row = format!("FROM {keyspace}.will WHERE {whose} ALLOW FILTERING");
        let found = self.node.execute(&format!("SELECT JSON will {row}")).unwrap();
        let found = String::from_utf8_lossy(&found).into_owned();
        let blob = found[found.find("0x").unwrap()..].split('"').next().unwrap().to_owned();
        self.node
            .execute(&format!(
                "INSERT INTO {keyspace}.will (incarnation, shard, client_id, will) \
                 VALUES ({incarnation}, 5, 'old', {blob}) USING TIMESTAMP 1"
            ))
            .unwrap();
        let message = message("w", "gone 1", false);
        Some(StoredWill { client_id: "old".into(), connection: incarnation << 40, message })
    }
}

fn case(name: &str) {
    let node = shared();
    let options = options(&node);
    let (_, case) = suite::CASES.iter().find(|(known, _)| *known == name).unwrap();
    case(&Keyspace { node, options });
}

macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        $(
            #[test]
            fn $name() {
                case(stringify!($name));
            }
        )*

        #[test]
        fn no_case_is_left_out() {
            let here = [$(stringify!($name)),*];
            assert!(suite::CASES.iter().all(|(name, _)| here.contains(name)));
        }
    };
}

cases!(
    at_start_a_node_finds_its_own_sessions,
    of_two_retained_messages_the_later_version_wins,
    what_was_given_up_and_taken_by_nobody_is_taken_back,
    a_session_moves_there_and_back_with_everything_it_has,
    of_two_that_take_a_session_one_gets_it,
    a_move_that_was_cut_short_leaves_a_session_with_one_holder,
    what_a_successor_got_moves_on_with_its_queue,
    a_queue_that_moves_again_and_again_stays_whole,
    who_seals_a_dead_node_has_all_that_it_held,
    who_stopped_cleanly_is_sealed_at_once_and_who_is_sealed_is_anothers,
    what_a_frozen_node_writes_late_is_not_acknowledged_and_not_seen,
    what_is_sealed_and_not_drained_goes_on_to_who_seals_the_successor,
    wills_that_several_lost_nodes_have_left_are_all_due,
    batches_of_other_nodes_are_known_to_who_seals_the_one_that_stored_them,
    open_publishes_are_known_until_they_are_everywhere,
    who_seals_a_dead_node_has_its_dead_letters,
    every_other_incarnation_is_known_with_its_owner,
    nobody_seals_itself_or_one_that_never_was,
    what_the_sessions_of_a_lineage_want_is_known_to_all,
    of_two_that_seal_a_dead_node_one_has_all_of_it,
    of_a_start_and_a_seal_at_once_one_has_all_of_it,
    of_a_take_and_a_seal_at_once_one_has_the_session,
    what_ends_behind_the_lease_is_not_acknowledged,
    who_dies_at_work_leaves_no_hole,
);

fn release(store: &CassandraStore) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(store.release());
}

fn options(node: &Cassandra) -> CassandraOptions {
    CassandraOptions { shared: true, lease: LEASE, outbox_lanes: 4, ..store::options(node) }
}

fn opened(
    options: &CassandraOptions,
    node_id: &str,
    instance: &str,
) -> Result<Arc<CassandraStore>, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let opened = runtime.block_on(CassandraStore::open(options, node_id, instance));
    opened.map_err(|error| error.to_string())
}

fn try_open(options: &CassandraOptions, node_id: &str) -> Result<Arc<CassandraStore>, String> {
    opened(options, node_id, &format!("data directory of {node_id}"))
}

fn open(options: &CassandraOptions, node_id: &str) -> Arc<CassandraStore> {
    try_open(options, node_id).unwrap()
}

fn write(store: &CassandraStore, ops: Vec<StoreOp>) {
    wait(store.write(Arc::new(ops)));
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

fn queued(id: SessionId, sequences: std::ops::RangeInclusive<u64>) -> Vec<StoreOp> {
    let entry = |sequence| {
        let message = message("q/topic", &format!("message {sequence}"), false);
        QueueEntry { sequence, qos: QoS::AtLeastOnce, retain: false, message, outgoing: None }
    };
    sequences
        .map(|sequence| StoreOp::Session(SessionOp::PutQueued { id, entry: entry(sequence) }))
        .collect()
}

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

fn holder(store: &CassandraStore, id: SessionId) -> Option<Holder> {
    wait(store.locate(client(id)))
}

/// Gives a session of one to the other.
fn moves(from: &CassandraStore, to: &CassandraStore, id: SessionId) {
    let until = from.give_up(id);
    let before = Holder { id, incarnation: from.incarnation() };
    wait(to.take(client(id), before, until)).expect("it is taken");
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
    StoredWill { client_id: client(id), connection: 1, message: message("w", "gone 1", false) }
}

fn delivered(id: SessionId, sequence: u64) -> StoreOp {
    StoreOp::Session(SessionOp::DeleteQueued { id, sequence })
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
    let why = opened(&options, "a", "elsewhere").err().unwrap();
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
    release(&a);
    release(&b);
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
