//! Retained messages that a session is owed come to it at another node, and at the next start of its own.

use std::collections::BTreeMap;

use super::faults::everything;
use super::restarts::hold_seals;
use super::*;

/// More than a window.
const MANY: usize = 300;

/// How a session gets to another connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Its client connects to another node.
    Moves,
    /// Its node is lost, and another one takes over.
    Lost,
    /// Its node is killed and started again.
    Starts,
}

/// Sets every topic to this value.
fn retain_all(publisher: &mut Client, value: usize) {
    for n in 0..MANY {
        publisher.retain_at(&format!("t/{n:03}"), format!("{n}:{value}").as_bytes(), 2);
        if n % 50 == 49 {
            publisher.await_acks();
        }
    }
}

/// Of a payload: the topic, and its value.
fn split(payload: &[u8]) -> (usize, usize) {
    let (topic, value) = std::str::from_utf8(payload).unwrap().split_once(':').unwrap();
    (topic.parse().unwrap(), value.parse().unwrap())
}

/// The last value of each topic; none is older than the one before it.
fn last(got: &[Vec<u8>], case: &str) -> BTreeMap<usize, usize> {
    let mut last = BTreeMap::new();
    for (topic, value) in got.iter().map(|payload| split(payload)) {
        let before = last.insert(topic, value).unwrap_or(0);
        assert!(before <= value, "{case}: {value} behind {before} of {topic}");
    }
    last
}

#[test]
fn what_a_session_is_owed_comes_at_its_next_node() {
    let _turn = ONE_AT_A_TIME.lock();
    for way in [Way::Moves, Way::Lost, Way::Starts] {
        for changes in [false, true] {
            let case = format!("{way:?}, values change: {changes}");
            let mut cluster = Cluster::new(&["n1", "n2", "n3"]);
            let mut publisher = cluster.connect(2, "publisher", true);
            retain_all(&mut publisher, 1);
            until("all of it is everywhere", || {
                cluster.nodes.iter().all(|node| node.shared.retained.read().len() == MANY)
            });
            let mut device = cluster.connect(0, "device", false);
            device.subscribe("t/#", 2);
            let mut got = device.receive(20);
            assert!(got.len() < MANY / 2, "{case}: {}", got.len());
            let next = match way {
                Way::Moves => 1,
                Way::Lost => {
                    hold_seals(&cluster, changes);
                    cluster.kill(0);
                    0
                }
                Way::Starts => {
                    cluster.world.1.goes_on.store(true, Ordering::SeqCst);
                    hold_seals(&cluster, true);
                    cluster.kill(0);
                    cluster.start("n1");
                    2
                }
            };
            if changes {
                // The last of them is not everywhere when the client is back.
                publisher.retain_at("t/299", b"299:2", 2);
                publisher.retain_at("t/299", b"299:3", 2);
            }
            hold_seals(&cluster, way == Way::Starts);
            let mut device = cluster.connect(next, "device", false).goes_on(device);
            assert!(device.session_present, "{case}");
            if changes {
                publisher.await_acks();
                retain_all(&mut publisher, 4);
            }
            got.append(&mut everything(&cluster, "device", &mut device));
            let last = last(&got, &case);
            assert_eq!(last.len(), MANY, "{case}");
            let value = if changes { 4 } else { 1 };
            assert!(last.values().all(|last| *last == value), "{case}: {last:?}");
        }
    }
}
