//! Two nodes at once, and a node whose lease ends while it is at work.

use std::sync::{Arc, Barrier};
use std::thread;

use hydrant_actors::ports::{Holder, Sealing, SessionId, SessionOp, StoreOp};

use super::super::fixture::wait;
use super::fixture::{
    Node, Nodes, client, connect, ended, eventually, filters, holder, ids, moves, open, outbox,
    packet, queued, sealed, sequences, subscription, will, write,
};

/// What both do at the same time.
fn at_once<T: Send>(one: impl FnOnce() -> T + Send, other: impl FnOnce() -> T + Send) -> [T; 2] {
    let begin = Barrier::new(2);
    thread::scope(|scope| {
        let other = scope.spawn(|| {
            begin.wait();
            other()
        });
        begin.wait();
        [one(), other.join().unwrap()]
    })
}

/// A node that is dead, and whose lease is not over: it has a session with a queue, a will and an outbox.
fn dead(nodes: &dyn Nodes, name: &str) -> u64 {
    let node = open(nodes, name);
    let ops = [vec![connect(1, 1), subscription(1, "s")], queued(1, 1..=5), outbox(0, 0..9)];
    write(&node, ops.concat());
    write(&node, vec![connect(2, 1), StoreOp::PutWill { will: will(2) }]);
    node.incarnation()
}

/// What a seal has come to, tried again while it is alive: a renewal may have been on its way.
fn seals(node: &Node, incarnation: u64) -> Option<Vec<SessionId>> {
    for _ in 0..3 {
        match wait(node.seal(incarnation)) {
            Sealing::Ours(state) => {
                let all = !state.sessions.is_empty();
                assert_eq!(
                    (state.wills.len(), state.lanes.len()),
                    (usize::from(all), usize::from(all))
                );
                return Some(ids(&state.sessions));
            }
            Sealing::Others(_) => return None,
            Sealing::Alive => {}
        }
    }
    panic!("it is alive");
}

pub(super) fn of_two_that_seal_a_dead_node_one_has_all_of_it(nodes: &dyn Nodes) {
    let (b, c) = (open(nodes, "b"), open(nodes, "c"));
    let dead = dead(nodes, "a");
    let found = at_once(|| seals(&b, dead), || seals(&c, dead));
    let (winner, loser) = match &found {
        [Some(sessions), None] if *sessions == [1, 2] => (&b, &c),
        [None, Some(sessions)] if *sessions == [1, 2] => (&c, &b),
        other => panic!("{other:?}"),
    };
    assert_eq!(ids(&wait(winner.sessions())), [1, 2]);
    assert!(wait(loser.sessions()).is_empty());
    for id in [1, 2] {
        let now = Some(Holder { id, incarnation: winner.incarnation() });
        assert_eq!([holder(winner, id), holder(loser, id)], [now; 2]);
    }
    // The other one is told whose it is, and takes nothing of it.
    assert!(matches!(wait(loser.seal(dead)), Sealing::Others(by) if by == winner.incarnation()));
    let before = Holder { id: 1, incarnation: dead };
    assert_eq!(wait(loser.take(client(1), before, u64::MAX)), None);
    write(winner, queued(1, 6..=7));
    moves(winner, loser, 1);
    assert_eq!(sequences(loser, 1), (1..=7).collect::<Vec<_>>());
}

/// The next start of a node and its successor: one of them has all of it.
pub(super) fn of_a_start_and_a_seal_at_once_one_has_all_of_it(nodes: &dyn Nodes) {
    for round in 0..4 {
        let b = open(nodes, "b");
        let before = ids(&wait(b.sessions()));
        let (id, a) = (10 + round, open(nodes, "a"));
        write(&a, [vec![connect(id, 1)], queued(id, 1..=3)].concat());
        // So that the seal waits for nothing.
        (a.release)();
        let gone = a.incarnation();
        drop(a);
        let (sealed, started) = thread::scope(|scope| {
            let start = scope.spawn(|| open(nodes, "a"));
            (wait(b.seal(gone)), start.join().unwrap())
        });
        let at_b = match &sealed {
            Sealing::Ours(state) => ids(&state.sessions),
            Sealing::Others(by) => {
                // Zero: it is drained and forgotten already.
                assert!([0, started.incarnation()].contains(by), "{by}");
                Vec::new()
            }
            Sealing::Alive => panic!("it has ended in order"),
        };
        let at_a: Vec<SessionId> =
            ids(&wait(started.sessions())).into_iter().filter(|at| *at == id).collect();
        let [it, none] = if at_a.is_empty() { [at_b, at_a] } else { [at_a, at_b] };
        assert!(it.contains(&id) && none.is_empty(), "{it:?} {none:?} {before:?}");
        let has =
            if none.is_empty() && ids(&wait(b.sessions())).contains(&id) { &b } else { &started };
        assert_eq!(holder(&b, id), Some(Holder { id, incarnation: has.incarnation() }));
        assert_eq!(sequences(has, id), [1, 2, 3]);
        // The other one goes on, with what it has of its own.
        write(&started, vec![connect(100 + round, 1)]);
        write(&b, vec![connect(200 + round, 1)]);
    }
}

/// While a node is sealed another takes a session that it had given up: both may want it, and one has it.
pub(super) fn of_a_take_and_a_seal_at_once_one_has_the_session(nodes: &dyn Nodes) {
    let (b, c) = (open(nodes, "b"), open(nodes, "c"));
    for round in 0..4 {
        let id = 10 + round;
        let a = open(nodes, "a");
        write(&a, [vec![connect(id, 1), subscription(id, "s")], queued(id, 1..=3)].concat());
        let (until, gone) = (a.give_up(id), a.incarnation());
        (a.release)();
        drop(a);
        let before = Holder { id, incarnation: gone };
        let (taken, sealed) = thread::scope(|scope| {
            let take = scope.spawn(|| wait(b.take(client(id), before, until)));
            let sealed = wait(c.seal(gone));
            (take.join().unwrap(), sealed)
        });
        let Sealing::Ours(state) = sealed else { panic!("{sealed:?}") };
        let at_c = state.sessions.into_iter().find(|session| session.id == id);
        let (session, has) = match (taken, at_c) {
            (Some(session), None) => (session, &b),
            (None, Some(session)) => (session, &c),
            other => panic!("{other:?}"),
        };
        assert_eq!((session.queued, filters(&session)), (3, vec!["s"]), "round {round}");
        for node in [&b, &c] {
            let now = Some(Holder { id, incarnation: has.incarnation() });
            assert_eq!(holder(node, id), now);
            assert_eq!(ids(&wait(node.sessions())).contains(&id), std::ptr::eq(node, has));
        }
        write(has, vec![connect(id, 2)]);
    }
}

pub(super) fn what_ends_behind_the_lease_is_not_acknowledged(nodes: &dyn Nodes) {
    let (a, b) = (open(nodes, "a"), open(nodes, "b"));
    write(&a, [vec![connect(1, 1), subscription(1, "s")], queued(1, 1..=3)].concat());
    (a.freeze)();
    eventually(nodes, "the lease ends", || {
        // So that time goes on.
        drop(b.sessions());
        !a.holds_lease()
    });
    // It had begun before, and is done behind the end: nobody has taken over, and nobody is told that it is done.
    let late = Arc::new(
        [
            queued(1, 4..=5),
            vec![StoreOp::Session(SessionOp::PutReceipt { id: 1, packet_id: packet(7) })],
        ]
        .concat(),
    );
    assert!(ended(a.write(late)).is_err());
    let orphaned = sealed(&b, a.incarnation());
    let session = &orphaned.sessions[0];
    // All of it or nothing, and that for good.
    let found = (session.queued, session.receipts.len(), session.last_sequence);
    assert!([(3, 0, 3), (5, 1, 5)].contains(&found), "{found:?}");
    let left = sequences(&b, 1);
    assert_eq!(left, (1..=session.queued).collect::<Vec<_>>());
    drop(ended(a.write(Arc::new(queued(1, 6..=9)))));
    drop(ended(a.write(Arc::new(vec![StoreOp::Session(SessionOp::DeleteSession {
        id: 1,
        client_id: client(1),
    })]))));
    assert_eq!(sequences(&b, 1), left);
    drop(b);
    let b = open(nodes, "b");
    let again = &wait(b.sessions())[0];
    assert_eq!((again.queued, again.receipts.len(), again.last_sequence), found);
    assert_eq!(filters(again), ["s"]);
}

/// A node that dies leaves of each session's messages and of each lane no later one without those before it, and a
/// receipt only with the message that it is of.
pub(super) fn who_dies_at_work_leaves_no_hole(nodes: &dyn Nodes) {
    let b = open(nodes, "b");
    for round in 0..4_u64 {
        let a = open(nodes, "a");
        let [first, second] = [10 + 2 * round, 11 + 2 * round];
        write(&a, vec![connect(first, 1), connect(second, 1)]);
        let under_way: Vec<_> = (1..=40_u16)
            .map(|n| {
                let at = u64::from(n);
                let mut ops = [queued(first, at..=at), outbox(0, at - 1..at)].concat();
                if n.is_multiple_of(2) {
                    ops.push(StoreOp::Session(SessionOp::PutReceipt {
                        id: second,
                        packet_id: packet(n),
                    }));
                    ops.extend(queued(second, at / 2..=at / 2));
                }
                a.write(Arc::new(ops))
            })
            .collect();
        let gone = a.incarnation();
        // Some of them are done, and this one hears of it.
        let done = under_way.into_iter().take(usize::try_from(round).unwrap() * 5);
        let done = done.map(wait).count() as u64;
        drop(a);
        let orphaned = sealed(&b, gone);
        let of = |id| orphaned.sessions.iter().find(|session| session.id == id).unwrap();
        let [one, two] = [of(first), of(second)];
        assert_eq!(sequences(&b, first), (1..=one.queued).collect::<Vec<_>>());
        assert_eq!(sequences(&b, second), (1..=two.queued).collect::<Vec<_>>());
        assert!(one.queued >= done && two.queued >= done / 2, "{done}: {one:?} {two:?}");
        let receipts: Vec<u64> = two.receipts.iter().map(|id| u64::from(id.get()) / 2).collect();
        assert_eq!(receipts, (1..=two.queued).collect::<Vec<_>>());
        let end = orphaned.lanes.iter().map(|lane| lane.end).max().unwrap_or_default();
        assert!(end >= done && end <= 40, "{end} of {done}");
        write(&b, vec![connect(first, 2)]);
    }
}
