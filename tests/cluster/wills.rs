//! Several wills of one client on real servers: each fires when it is due, whatever dies before the one before it is
//! everywhere.

use std::time::{Duration, Instant};

use crate::nodes::Cluster;
use crate::support::Node;
use crate::support::client::{Client, Connect, Packet};
use crate::support::load::PATIENCE;

/// What comes to a queue, until all of `due` has and a moment longer.
fn comes(node: &Node, due: &[&str], qos: u8) -> Vec<String> {
    let end = Instant::now() + PATIENCE;
    let (mut queue, present) = node.persistent_present("queue");
    assert!(present);
    let mut got = Vec::new();
    let all = |got: &[String]| due.iter().all(|will| got.iter().any(|one| one == will));
    loop {
        let wait = Duration::from_millis(if all(&got) { 500 } else { 3000 });
        match queue.recv_within(wait).unwrap() {
            Some(Packet::Publish(message)) => {
                queue.acknowledge(&message);
                got.push(message.text());
            }
            Some(_) => {}
            None if all(&got) => break,
            None => {}
        }
        assert!(Instant::now() < end, "{got:?} came of {due:?}");
    }
    got.sort();
    if qos == 1 {
        got.dedup();
    }
    got
}

/// A client's first will waits for a node that is frozen. The client comes back with a second one, at its first node or
/// at another. Then its first node dies: before the frozen one goes on, or with it.
#[test]
fn no_will_is_taken_away_by_another_of_the_same_client() {
    for (qos, back_at_first, both_die) in
        [(1, true, true), (2, true, true), (1, false, true), (2, true, false), (1, true, false)]
    {
        let how = format!("QoS {qos}, at the first node: {back_at_first}, both die: {both_die}");
        let cluster = Cluster::new();
        let [mut n1, mut n2, n3] = cluster.start(["n1", "n2", "n3"]);
        let _queue = n2.persistent("queue").subscribed("will", 2);
        let connect = |node: &Node, payload: &str| {
            Client::connect(node.mqtt, &Connect::new("dying").will("will", payload, qos))
        };
        let first = connect(&n1, "one");
        n2.signal("STOP");
        drop(first);
        n1.wait_closed("eof", 1.0);
        let second = connect(if back_at_first { &n1 } else { &n3 }, "two");
        n1.kill9();
        if both_die {
            n2.kill9();
        } else {
            n2.signal("CONT");
        }
        drop(second);
        let due = ["one", "two"];
        assert_eq!(comes(&n3, &due, qos), due, "{how}");
    }
}
