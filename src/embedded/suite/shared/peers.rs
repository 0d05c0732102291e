//! What a node has stored for other nodes, and what it has prepared for them.

use hydrant_actors::ports::{ClusterOp, PreparedPublish, StoreOp, StoredBatch};
use hydrant_protocol::cluster::message::PublishId;

use super::super::fixture::message;
use super::fixture::{Nodes, client, connect, ids, open, packet, queued, sealed, write};

pub(super) fn batches_of_other_nodes_are_known_to_who_seals_the_one_that_stored_them(
    nodes: &dyn Nodes,
) {
    let (a, b) = (open(nodes, "a"), open(nodes, "b"));
    let id = |number| PublishId { incarnation: 77, router: 1, number };
    let put = |origin, batch| {
        StoreOp::Cluster(ClusterOp::PutPeerBatch { origin, batch, prepared: vec![id(batch)] })
    };
    let except = |number, n| {
        let (origin, batch, client_id) = (77, number, client(n));
        StoreOp::Cluster(ClusterOp::ExceptPeerBatch { origin, batch, client_id })
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
    write(&a, vec![ClusterOp::CompletePeerBatch { origin, batch, client_id }.into()]);
    write(&a, vec![except(2, 1)]);
    write(&a, vec![ClusterOp::ForgetPeerBatches { origin: 77, below: 3 }.into()]);
    write(&a, vec![ClusterOp::ForgetPeerBatches { origin: 78, below: u64::MAX }.into()]);
    // Its next start goes on with what it had.
    let first = a.incarnation();
    drop(a);
    let a = open(nodes, "a");
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
    let (third, c) = (b.incarnation(), open(nodes, "c"));
    drop(b);
    assert_eq!(sealed(&c, third).batches, kept);
    write(&c, vec![StoreOp::Cluster(ClusterOp::ForgetPeerBatches { origin: 77, below: 6 })]);
    let (fourth, d) = (c.incarnation(), open(nodes, "d"));
    drop(c);
    assert_eq!(sealed(&d, fourth).batches, []);
}

pub(super) fn open_publishes_are_known_until_they_are_everywhere(nodes: &dyn Nodes) {
    let (a, b) = (open(nodes, "a"), open(nodes, "b"));
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
    let put =
        |publish: &PreparedPublish| StoreOp::Cluster(ClusterOp::Prepare(Box::new(publish.clone())));
    let first = a.incarnation();
    let [one, two, other] = [(0, 1), (0, 2), (1, 1)].map(|(router, n)| publish(first, router, n));
    write(&a, [&one, &two, &other].map(put).to_vec());
    write(&a, [queued(1, 1..=1), vec![ClusterOp::Committed { id: two.id }.into()]].concat());
    let (incarnation, router, below) = (first, Some(0), 2);
    write(&a, vec![ClusterOp::ForgetPrepared { incarnation, router, below }.into()]);
    // Its next start goes on with them.
    drop(a);
    let a = open(nodes, "a");
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
    write(
        &b,
        vec![ClusterOp::ForgetPrepared { incarnation: first, router, below: u64::MAX }.into()],
    );
    drop(b);
    let b = open(nodes, "b");
    assert_eq!(b.prepared_publishes(), [third]);
}
