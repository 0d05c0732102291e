//! What nodes know of each other by the store: incarnations, their lineages, and what sessions want.

use std::sync::Arc;

use hydrant_actors::ports::{KnownIncarnation, Sealing, SessionOp, StoreOp};
use hydrant_protocol::QoS;

use super::super::fixture::wait;
use super::fixture::{Node, Nodes, client, connect, moves, open, sealed, subscription, write};

/// Number, node, lineage, owner and whether it ended in order.
fn known(node: &Node) -> Vec<(u64, Arc<str>, u64, u64, bool)> {
    let row = |it: KnownIncarnation| (it.number, it.node, it.lineage, it.owner, it.released);
    let mut known: Vec<_> = wait(node.incarnations()).into_iter().map(row).collect();
    known.sort_unstable();
    known
}

pub(super) fn every_other_incarnation_is_known_with_its_owner(nodes: &dyn Nodes) {
    let (a, b) = (open(nodes, "a"), open(nodes, "b"));
    let [first, other] = [&a, &b].map(|node| node.incarnation());
    assert_eq!((a.lineage(), b.lineage()), (first, other));
    let of = |node: &str, number, lineage, owner, released| {
        (number, Arc::from(node), lineage, owner, released)
    };
    assert_eq!(known(&b), [of("a", first, first, first, false)]);
    assert_eq!(known(&a), [of("b", other, other, other, false)]);
    write(&a, vec![connect(1, 1)]);
    // The next start of the node goes on with its lineage.
    (a.release)();
    assert_eq!(known(&b), [of("a", first, first, first, true)]);
    drop(a);
    let a = open(nodes, "a");
    let second = a.incarnation();
    assert_eq!(a.lineage(), first);
    assert!(a.continues().iter().any(|it| (it.number, it.lineage) == (first, first)));
    let left = [of("a", first, first, second, true), of("a", second, first, second, false)];
    assert_eq!(known(&b), left);
    assert_eq!(known(&a).last(), Some(&of("b", other, other, other, false)));
    // It is sealed: whoever follows the owners ends at its successor.
    drop(a);
    let orphaned = sealed(&b, second);
    let mut numbers: Vec<u64> = orphaned.incarnations.iter().map(|it| it.number).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [first, second]);
    assert!(orphaned.incarnations.iter().all(|it| it.lineage == first));
    let c = open(nodes, "c");
    for (number, node, lineage, owner, _) in known(&c) {
        assert_eq!(owner, other, "{number} of {node}");
        assert!([(first, "a"), (second, "a"), (other, "b")].iter().any(|it| it.1 == &*node));
        assert_eq!(lineage, if &*node == "a" { first } else { other });
    }
    // The node that comes back begins a lineage of its own: its sessions are elsewhere.
    let a = open(nodes, "a");
    assert_eq!(a.lineage(), a.incarnation());
    assert!(a.continues().is_empty() && wait(a.sessions()).is_empty());
}

pub(super) fn nobody_seals_itself_or_one_that_never_was(nodes: &dyn Nodes) {
    let (a, b) = (open(nodes, "a"), open(nodes, "b"));
    assert!(matches!(wait(a.seal(a.incarnation())), Sealing::Alive));
    assert!(matches!(wait(a.seal(b.incarnation() + 7)), Sealing::Others(0)));
    assert!(matches!(wait(a.seal(b.incarnation())), Sealing::Alive));
    // A node id is in use only once, and who was refused disturbs nobody.
    let why = nodes.open("a", "elsewhere", None).err().unwrap();
    assert!(why.contains("\"a\" is in use by another running broker"), "{why}");
    write(&a, vec![connect(1, 1)]);
    assert!(a.holds_lease() && b.holds_lease());
}

pub(super) fn what_the_sessions_of_a_lineage_want_is_known_to_all(nodes: &dyn Nodes) {
    let (a, b) = (open(nodes, "a"), open(nodes, "b"));
    let wanted = |node: &Node, lineage| {
        let mut wanted = wait(node.wanted(lineage));
        wanted.sort_unstable();
        wanted.iter().map(|filter| filter.to_string()).collect::<Vec<_>>()
    };
    let none: [&str; 0] = [];
    assert_eq!(wanted(&b, a.lineage()), none);
    let at_most_once = StoreOp::Session(SessionOp::PutSubscription {
        id: 1,
        filter: "none".into(),
        qos: QoS::AtMostOnce,
        owes: None,
    });
    write(&a, vec![connect(1, 1), subscription(1, "x"), subscription(1, "y"), at_most_once]);
    write(&a, vec![connect(2, 1), subscription(2, "x"), subscription(2, "z")]);
    write(&b, vec![connect(3, 1), subscription(3, "b")]);
    for node in [&a, &b] {
        assert_eq!(wanted(node, a.lineage()), ["x", "y", "z"]);
        assert_eq!(wanted(node, b.lineage()), ["b"]);
    }
    write(&a, vec![StoreOp::Session(SessionOp::DeleteSubscription { id: 1, filter: "y".into() })]);
    assert_eq!(wanted(&b, a.lineage()), ["x", "z"]);
    // With a session goes what it wants.
    moves(&a, &b, 2);
    assert_eq!(wanted(&a, a.lineage()), ["x"]);
    assert_eq!(wanted(&a, b.lineage()), ["b", "x", "z"]);
    // Of a dead one it is known under its lineage, also to its successor, and until nothing is left.
    let (lineage, gone) = (a.lineage(), a.incarnation());
    drop(a);
    assert_eq!(wanted(&b, lineage), ["x"]);
    sealed(&b, gone);
    assert_eq!(wanted(&b, lineage), ["x"]);
    write(&b, vec![StoreOp::Session(SessionOp::DeleteSession { id: 1, client_id: client(1) })]);
    assert_eq!(wanted(&b, lineage), none);
}
