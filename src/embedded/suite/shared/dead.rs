//! Dead letters in a keyspace that several nodes share: they stay with their node over its starts,
//! and go to its successor.

use std::sync::Arc;

use hydrant_actors::ports::{DeadId, DeadLetter, LogOp, OutboxPosition, SessionStore, StoreOp};

use super::super::dead::{all, letter};
use super::super::fixture::record;
use super::fixture::{Node, Nodes, open, sealed, write};

fn put(letter: DeadLetter) -> StoreOp {
    StoreOp::Log(LogOp::PutDeadLetter { letter: letter.into() })
}

fn drops(position: u64) -> StoreOp {
    StoreOp::Log(LogOp::DropDeadLetter { id: letter(position).id })
}

fn sorted(positions: impl IntoIterator<Item = u64>) -> Vec<DeadLetter> {
    let mut letters: Vec<DeadLetter> = positions.into_iter().map(letter).collect();
    letters.sort_by_key(|letter| letter.id);
    letters
}

fn of(node: &Node) -> Vec<DeadLetter> {
    let store: Arc<dyn SessionStore> = Arc::clone(&node.store) as _;
    all(&store)
}

pub(super) fn who_seals_a_dead_node_has_its_dead_letters(nodes: &dyn Nodes) {
    let (a, b) = (open(nodes, "a"), open(nodes, "b"));
    let dead = a.incarnation();
    // With its outbox, as they are written.
    let outbox = (0..60).map(|position| {
        StoreOp::Log(LogOp::PutOutbox {
            record: record("t", position),
            position: OutboxPosition { lane: 0, position },
        })
    });
    write(&a, outbox.collect());
    let ends = (0..50).flat_map(|position| {
        [put(letter(position)), StoreOp::Log(LogOp::MoveCursor { lane: 0, position: position + 1 })]
    });
    write(&a, ends.collect());
    write(&a, vec![drops(7)]);
    write(&b, vec![put(letter(70)), put(letter(71))]);
    drop(a);
    let orphaned = sealed(&b, dead);
    let left = sorted((0..50).filter(|n| *n != 7));
    let heads: Vec<(DeadId, u64)> = left.iter().map(|one| (one.id, one.cost())).collect();
    assert_eq!(orphaned.dead_letters, heads);
    assert_eq!((orphaned.lanes[0].cursor, orphaned.lanes[0].end), (50, 60));
    let both: Vec<u64> = (0..50).filter(|n| *n != 7).chain([70, 71]).collect();
    assert_eq!(of(&b), sorted(both.iter().copied()));
    assert!(sealed(&b, dead).dead_letters.is_empty(), "once");
    // What is dropped from here on is gone, over starts and successors.
    write(&b, vec![drops(0), drops(70)]);
    let both: Vec<u64> = both.into_iter().filter(|n| ![0, 70].contains(n)).collect();
    drop(b);
    let b = open(nodes, "b");
    assert_eq!(of(&b), sorted(both.iter().copied()));
    let (c, dead) = (open(nodes, "c"), b.incarnation());
    write(&b, vec![drops(1)]);
    drop(b);
    let both: Vec<u64> = both.into_iter().filter(|n| *n != 1).collect();
    assert_eq!(sealed(&c, dead).dead_letters.len(), both.len());
    assert_eq!(of(&c), sorted(both));
    // The dead one comes back: it has none.
    assert!(of(&open(nodes, "a")).is_empty());
}
