//! Two of three nodes cannot reach each other, and both reach the third and the servers.

use std::time::{Duration, Instant};

use hydrant_protocol::cluster::link::Config;

use crate::nodes::{Cluster, sees};
use crate::paths::{IDS, Path, Pauses, owned_by};
use crate::support::client::{Client, Connect};
use crate::support::forwarder::{Forwarder, Way};
use crate::support::load::PATIENCE;
use crate::support::server::free_port;
use crate::support::{Node, eventually};

/// Three nodes; what the first has of the second goes through the forwarder.
fn nodes(cluster: &Cluster) -> ([Node; 3], Forwarder) {
    let [n1, n3] = [IDS[0], IDS[2]].map(|id| cluster.builder(id).start());
    let port = free_port();
    // Of two nodes the one with the lower id dials, so nothing else is between the two.
    let forwarder = Forwarder::start(n1.pid(), ([127, 0, 0, 1], port).into());
    let n2 = cluster
        .builder(IDS[1])
        .set("cluster.listen", format!("127.0.0.1:{port}"))
        .set("cluster.advertise", forwarder.address)
        .start();
    let nodes = [n1, n2, n3];
    nodes.iter().for_each(|node| sees(node, &IDS));
    (nodes, forwarder)
}

/// Waits until the first node has the second without the third, over a connection later than so many;
/// how many there were.
#[track_caller]
fn directly(forwarder: &Forwarder, later_than: u64) -> u64 {
    let newest =
        || Some(forwarder.answered()).filter(|(open, ever)| *open == 1 && *ever > later_than);
    eventually(PATIENCE, "it is reached itself", || newest().is_some());
    forwarder.answered().1
}

/// How often a way to the second node was looked for by the third.
fn detours(nodes: &[Node; 3]) -> usize {
    nodes[0].log().iter().filter(|line| line.contains("node n2 is asked for by way of")).count()
}

/// Sessions that move between the two, their owner the third or one of them.
#[track_caller]
fn sessions_move(nodes: &[Node; 3]) {
    for owner in IDS {
        for (from, to) in [(0, 1), (1, 0), (2, 1)] {
            let clean = Connect::new(&owned_by(owner));
            let persistent = Connect::new(&owned_by(owner)).persistent();
            for connect in [clean, persistent] {
                let mut first = Client::connect(nodes[from].mqtt, &connect);
                Client::connect(nodes[to].mqtt, &connect).ping();
                first.expect_end();
            }
        }
    }
}

#[test]
fn two_nodes_that_cannot_reach_each_other_lose_nothing_and_hold_up_nobody_else() {
    let cluster = Cluster::new();
    let (nodes, forwarder) = nodes(&cluster);
    let across = [(0, 1, 1), (0, 1, 2), (1, 0, 2)];
    let across = across.map(|(from, to, qos)| Path::steady(&nodes, from, to, qos));
    let beside = [(0, 2, 2), (1, 2, 1), (2, 0, 1), (2, 1, 2)];
    let beside = beside.map(|(from, to, qos)| Path::steady(&nodes, from, to, qos));
    let mut answered = 0;
    for split in [Way::Refused, Way::Silent] {
        across.iter().chain(&beside).for_each(|path| path.goes_on(50));
        answered = directly(&forwarder, answered);
        let before = detours(&nodes);
        let clock = Instant::now();
        forwarder.set(split);
        let mut pauses = Pauses::new();
        eventually(PATIENCE, "there is a way through the third", || {
            pauses.look(&beside);
            detours(&nodes) > before
        });
        let outage = clock.elapsed();
        across.iter().chain(&beside).for_each(|path| path.goes_on(50));
        // A refusal is noticed at once: nothing to compare with.
        let paused = pauses.longest();
        assert!(split == Way::Refused || 2 * paused < outage, "paused {paused:?} of {outage:?}");
        sessions_move(&nodes);
        assert_eq!(forwarder.answered().1, answered, "none of it went straight there");
        forwarder.set(Way::Open);
    }
    directly(&forwarder, answered);
    // Links that end in the middle of it.
    for _ in 0..5 {
        across.iter().for_each(|path| path.goes_on(50));
        forwarder.cut();
    }
    across.iter().for_each(|path| path.goes_on(50));
    across.into_iter().chain(beside).for_each(Path::finish_once);
}

/// What it says of itself are pings alone, from the first moment on.
#[test]
fn a_link_that_was_cut_and_has_nothing_to_send_stays_up() {
    let cluster = Cluster::new();
    let (nodes, forwarder) = nodes(&cluster);
    let before = directly(&forwarder, 0);
    forwarder.cut();
    directly(&forwarder, before);
    nodes.iter().for_each(|node| sees(node, &IDS));
    let (answered, watched) = (forwarder.answered(), Instant::now());
    let dead_after = Duration::from_millis(Config::default().dead_after);
    eventually(PATIENCE, "either end would have missed the other", || {
        assert_eq!(forwarder.answered(), answered, "after {:?}", watched.elapsed());
        watched.elapsed() > dead_after + dead_after / 3
    });
}
