//! A node that takes nothing: what waits for it has its bytes, `cluster.max_link_bytes`.

use super::*;
use crate::metrics::DropReason;

#[test]
fn what_nobody_waits_for_is_dropped_for_a_node_that_takes_nothing() {
    let _turn = ONE_AT_A_TIME.lock();
    let cluster = Cluster::new(&["n1", "n2"]);
    let mut far = cluster.connect(1, "far", true);
    far.subscribe("t", 0);
    let mut near = cluster.connect(0, "near", true);
    near.subscribe("t", 0);
    let mut publisher = cluster.connect(0, "publisher", true);
    publisher.publish("t", b"first", 0);
    assert_eq!(
        (near.receive(1), far.receive(1)),
        (vec![b"first".to_vec()], vec![b"first".to_vec()])
    );
    let shared = Arc::clone(&cluster.nodes[0].shared);
    let max = shared.cluster.as_ref().unwrap().settings.max_link_bytes;
    cluster.nodes[1].gate.hold(true);
    // 40 times the bound; the subscriber beside the publisher gets all.
    let (count, payload) = (400, vec![b'x'; max / 10]);
    for _ in 0..count {
        publisher.publish("t", &payload, 0);
        near.receive(1);
    }
    let dropped = || shared.metrics.sum(|shard| &shard.dropped[DropReason::PeerSlow as usize]);
    until("the last one is dropped", || dropped() + 12 >= count);
    cluster.nodes[1].gate.hold(false);
    let mut came = 0;
    until("the rest comes, and nothing else is missing", || {
        came += far.drain().len() as u64;
        came + dropped() == count
    });
    // One more than fits, and what the socket of the link had taken.
    assert!((1..=12).contains(&came), "{came} came of {count}");
    until("it goes on", || {
        publisher.publish("t", b"last", 0);
        far.drain().contains(&b"last".to_vec())
    });
}
