//! A dead node: who seals it has all that it held, and what it still writes is nobody's.

use std::sync::Arc;
use std::time::Duration;

use super::super::fixture::wait;
use hydrant_actors::ports::{
    Holder, LogOp, OutboxPosition, Sealing, SessionOp, StoreOp, StoredWill,
};

use super::fixture::{
    Nodes, client, connect, delivered, end, ended, eventually, filters, holder, ids, moves,
    nth_will, open, outbox, packet, queued, sealed, sequences, subscription, will, write,
};

/// Longer than a test may take.
const LONG: Duration = Duration::from_secs(300);

pub(super) fn who_seals_a_dead_node_has_all_that_it_held(nodes: &dyn Nodes) {
    let (a, b) = (open(nodes, "a"), open(nodes, "b"));
    let dead = a.incarnation();
    write(&a, [vec![connect(1, 1), subscription(1, "s")], queued(1, 1..=5)].concat());
    write(&a, vec![connect(2, 1), StoreOp::PutWill { will: will(2) }]);
    write(&a, [outbox(0, 0..300), outbox(3, 0..2)].concat());
    write(&a, vec![LogOp::MoveCursor { lane: 0, position: 10 }.into()]);
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
    assert!(lanes.iter().all(|lane| lane.lane >= nodes.lanes()));
    let [short, long] = [lanes[0].lane, lanes[1].lane];
    let records = wait(b.read_outbox(long, 10, 1000, usize::MAX));
    assert_eq!((records.len(), &records[0].payload[..]), (290, &b"payload 10"[..]));
    assert_eq!(records[5].outbox, Some(OutboxPosition { lane: long, position: 15 }));
    // Its own lane of that number is another.
    assert_eq!(wait(b.read_outbox(0, 0, 1000, usize::MAX)).len(), 3);
    write(&b, vec![StoreOp::Log(LogOp::MoveCursor { lane: long, position: 280 })]);
    write(&b, vec![StoreOp::Log(LogOp::MoveCursor { lane: long, position: 300 })]);
    write(&b, vec![StoreOp::Log(LogOp::MoveCursor { lane: short, position: 2 })]);
    write(&b, vec![end(2, 1)]);
    assert!(!nodes.is_forgotten(dead), "sessions are held under its number");
    // The next start finds them still, and the drained lanes no more.
    drop(b);
    let b = open(nodes, "b");
    assert_eq!(ids(&wait(b.sessions())), [1, 2, 4]);
    assert!(wait(b.wills()).is_empty());
    assert_eq!(wait(b.lanes()).iter().map(|lane| lane.end).collect::<Vec<_>>(), [3]);
    let c = open(nodes, "c");
    moves(&b, &c, 1);
    write(&b, vec![StoreOp::Session(SessionOp::DeleteSession { id: 2, client_id: client(2) })]);
    eventually(nodes, "the dead one is forgotten", || {
        write(&b, vec![connect(4, 2)]);
        nodes.is_forgotten(dead)
    });
    assert!(matches!(wait(b.seal(dead)), Sealing::Others(0)));
    assert_eq!(ids(&wait(c.sessions())), [1]);
}

pub(super) fn who_stopped_cleanly_is_sealed_at_once_and_who_is_sealed_is_anothers(
    nodes: &dyn Nodes,
) {
    let open =
        |node: &str| nodes.open(node, &format!("data directory of {node}"), Some(LONG)).unwrap();
    let (a, b, c) = (open("a"), open("b"), open("c"));
    write(&a, vec![connect(1, 1)]);
    (a.release)();
    assert!(!a.holds_lease());
    let dead = a.incarnation();
    assert_eq!(holder(&b, 1), Some(Holder { id: 1, incarnation: dead }));
    assert_eq!(ids(&sealed(&b, dead).sessions), [1]);
    assert!(matches!(wait(c.seal(dead)), Sealing::Others(by) if by == b.incarnation()));
    assert_eq!(wait(c.take(client(1), Holder { id: 1, incarnation: dead }, u64::MAX)), None);
    // The node that comes back has nothing of it.
    drop(a);
    let a = open("a");
    assert!(wait(a.sessions()).is_empty());
    moves(&b, &a, 1);
    assert_eq!(ids(&wait(a.sessions())), [1]);
}

pub(super) fn what_a_frozen_node_writes_late_is_not_acknowledged_and_not_seen(nodes: &dyn Nodes) {
    // The frozen one has the higher number: its stamps are above until its successor jumps.
    let (b, a) = (open(nodes, "b"), open(nodes, "a"));
    let id = 1;
    write(&a, [vec![connect(id, 1), subscription(id, "s")], queued(id, 1..=5)].concat());
    write(&a, vec![connect(2, 1), subscription(2, "s"), connect(3, 1)]);
    (a.freeze)();
    let orphaned = sealed(&b, a.incarnation());
    assert_eq!((ids(&orphaned.sessions), orphaned.sessions[0].last_sequence), (vec![id, 2, 3], 5));
    // What the successor does nothing with is fenced in the background.
    let last = (a.incarnation() << 44) + (1 << 43);
    eventually(nodes, "its sessions are fenced", || nodes.are_fenced_above(last));
    write(&b, [vec![connect(id, 2), delivered(id, 1)], queued(id, 6..=7)].concat());
    // Everything that it can still send.
    let late = [
        [vec![subscription(id, "late")], queued(id, 6..=600)].concat(),
        vec![SessionOp::PutReceipt { id, packet_id: packet(3) }.into()],
        vec![delivered(id, 2), delivered(id, 3)],
        vec![
            SessionOp::PutSession { id, client_id: client(id), epoch: 9, disconnected_ms: Some(5) }
                .into(),
        ],
        vec![SessionOp::DeleteSession { id: 2, client_id: client(2) }.into()],
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
    let b = open(nodes, "b");
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
    let c = open(nodes, "c");
    let moved = moves(&b, &c, id);
    assert_eq!((filters(&moved), moved.queued, moved.last_sequence), (vec!["s"], 6, 7));
    assert_eq!(sequences(&c, id), [2, 3, 4, 5, 6, 7]);
}

pub(super) fn what_is_sealed_and_not_drained_goes_on_to_who_seals_the_successor(nodes: &dyn Nodes) {
    let (a, b, c) = (open(nodes, "a"), open(nodes, "b"), open(nodes, "c"));
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
    let c = open(nodes, "c");
    assert_eq!(ids(&wait(c.sessions())), [1, 2]);
    assert_eq!((wait(c.wills()), wait(c.lanes()).len()), (vec![will(1)], 2));
}

/// Of several starts, and while the client is back: all that is due fires, and the end of one is not that of another.
pub(super) fn wills_that_several_lost_nodes_have_left_are_all_due(nodes: &dyn Nodes) {
    let (a, b, c) = (open(nodes, "a"), open(nodes, "b"), open(nodes, "c"));
    let (first, second) = (a.incarnation(), b.incarnation());
    let put = |connection| StoreOp::PutWill { will: nth_will(1, connection) };
    write(&a, vec![put(1), put(2), put(3), end(1, 2)]);
    write(&b, vec![put(4), StoreOp::PutWill { will: will(9) }]);
    let old = nodes.leave_old_will(second, "client9");
    write(&b, vec![end(9, 1)]);
    drop(a);
    assert_eq!(sealed(&b, first).wills, [nth_will(1, 1), nth_will(1, 3)]);
    // The client is back, which ends none of them; the end of its new will neither.
    write(&b, vec![put(5)]);
    write(&b, vec![put(6), end(1, 1), end(1, 5)]);
    drop(b);
    let mut due = vec![nth_will(1, 3), nth_will(1, 4), nth_will(1, 6)];
    due.extend(old.clone());
    let orphaned = sealed(&c, second);
    assert_eq!(orphaned.wills, due);
    // Nobody else has them, who comes later and who was late.
    let d = open(nodes, "d");
    for incarnation in [first, second] {
        assert!(matches!(wait(d.seal(incarnation)), Sealing::Others(_)));
    }
    write(&c, vec![end(1, 3), end(1, 6)]);
    if let Some(StoredWill { client_id, connection, .. }) = old {
        write(&c, vec![StoreOp::DeleteWill { client_id, connection }]);
    }
    drop(c);
    let c = open(nodes, "c");
    assert_eq!(wait(c.wills()), [nth_will(1, 4)]);
    write(&c, vec![end(1, 4)]);
    drop(c);
    assert_eq!(wait(open(nodes, "c").wills()), []);
}
