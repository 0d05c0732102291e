//! A session that moves: with everything it has, to one node only, and whole whatever is cut short.

use std::sync::Arc;

use super::super::fixture::wait;
use hydrant_actors::ports::{Holder, OutgoingStage, SessionOp, StoreOp};

use super::fixture::{
    Node, Nodes, client, connect, delivered, ended, entry, filters, holder, ids, moves, open,
    packet, queued, sealed, sequences, subscription, write,
};

/// The node that it was given up to is lost before it takes it.
pub(super) fn what_was_given_up_and_taken_by_nobody_is_taken_back(nodes: &dyn Nodes) {
    let (a, b) = (open(nodes, "a"), open(nodes, "b"));
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

pub(super) fn a_session_moves_there_and_back_with_everything_it_has(nodes: &dyn Nodes) {
    let (a, b) = (open(nodes, "a"), open(nodes, "b"));
    let id = 7;
    write(&a, [vec![connect(id, 1), subscription(id, "x/#")], queued(id, 1..=300)].concat());
    let sent = |sequence, packet_id, stage| {
        StoreOp::Session(SessionOp::PutOutgoing {
            id,
            sequence,
            packet_id: packet(packet_id),
            stage,
        })
    };
    let receipt =
        |packet_id| StoreOp::Session(SessionOp::PutReceipt { id, packet_id: packet(packet_id) });
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
    let queue = |store: &Node| wait(store.read_queue(id, 0, usize::MAX, usize::MAX));
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
        SessionOp::DeleteReceipt { id, packet_id: packet(9) }.into(),
        SessionOp::DeleteSubscription { id, filter: "x/#".into() }.into(),
        subscription(id, "y"),
        SessionOp::PutQueued { id, entry: entry(301) }.into(),
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
        SessionOp::DeleteSubscription { id, filter: "y".into() }.into(),
        SessionOp::DeleteReceipt { id, packet_id: packet(500) }.into(),
        SessionOp::PutSession { id, client_id: client(id), epoch: 2, disconnected_ms: Some(77) }
            .into(),
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
    let (a, b) = (open(nodes, "a"), open(nodes, "b"));
    assert_eq!((ids(&wait(a.sessions())), ids(&wait(b.sessions()))), (vec![], vec![id]));
    assert_eq!(sequences(&b, id), rest);
    // Its end is the end of it everywhere.
    moves(&b, &a, id);
    write(&a, vec![SessionOp::DeleteSession { id, client_id: client(id) }.into()]);
    assert_eq!(holder(&b, id), None);
    assert!(wait(a.sessions()).is_empty());
    // The client begins anew elsewhere.
    let anew = StoreOp::Session(SessionOp::PutSession {
        id: 8,
        client_id: client(id),
        epoch: 3,
        disconnected_ms: None,
    });
    write(&b, vec![anew]);
    assert_eq!(holder(&a, id), Some(Holder { id: 8, incarnation: b.incarnation() }));
}

pub(super) fn of_two_that_take_a_session_one_gets_it(nodes: &dyn Nodes) {
    let (a, b, c) = (open(nodes, "a"), open(nodes, "b"), open(nodes, "c"));
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
    let (b, c) = (open(nodes, "b"), open(nodes, "c"));
    assert_eq!((ids(&wait(b.sessions())), ids(&wait(c.sessions()))), (b_has, c_has));
    // A new session of a client that has one elsewhere is not made.
    let mine = ids(&wait(b.sessions()))[0];
    let other = StoreOp::Session(SessionOp::PutSession {
        id: 99,
        client_id: client(mine),
        epoch: 1,
        disconnected_ms: None,
    });
    let ops = Arc::new(vec![other]);
    assert!(ended(c.write(Arc::clone(&ops))).is_err());
    wait(c.write(ops));
    assert_eq!(holder(&c, mine).map(|holder| holder.id), Some(mine));
}

/// Nodes that died while a session was about to move: before its row said so, and after.
pub(super) fn a_move_that_was_cut_short_leaves_a_session_with_one_holder(nodes: &dyn Nodes) {
    let (a, b) = (open(nodes, "a"), open(nodes, "b"));
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
        // Above theirs, and below those of the next start.
        nodes.mark(line, id, client_id, (at_b << 44) + 1_000_000);
    }
    let (mut a, mut b) = (a, b);
    for _ in 0..2 {
        drop((a, b));
        (a, b) = (open(nodes, "a"), open(nodes, "b"));
        assert_eq!((ids(&wait(a.sessions())), ids(&wait(b.sessions()))), (vec![1, 3], vec![2]));
    }
    // Nothing is left to ask about.
    assert!(!nodes.is_any_marked());
    assert_eq!(moves(&a, &b, 1).id, 1);
}

pub(super) fn what_a_successor_got_moves_on_with_its_queue(nodes: &dyn Nodes) {
    let (a, b, c) = (open(nodes, "a"), open(nodes, "b"), open(nodes, "c"));
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
pub(super) fn a_queue_that_moves_again_and_again_stays_whole(nodes: &dyn Nodes) {
    let (a, b) = (open(nodes, "a"), open(nodes, "b"));
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
