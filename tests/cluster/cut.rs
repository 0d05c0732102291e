//! A node of three that is cut off from Cassandra and from nothing else.

use crate::nodes::{Cluster, sees};
use crate::paths::{IDS, Path};
use crate::support::forwarder::{Forwarder, Way};
use crate::support::load::PATIENCE;
use crate::support::{Node, eventually};

/// Three nodes; what the second has of Cassandra goes through the forwarder. `lease` in seconds.
fn nodes(cluster: &Cluster, lease: u64) -> ([Node; 3], Forwarder) {
    let forwarder = Forwarder::before(cluster.cassandra().parse().unwrap());
    let nodes = IDS.map(|id| {
        let builder = cluster.builder(id).set("cassandra.lease", format!("{lease}s"));
        match id {
            "n2" => builder.set("cassandra.contact_points", forwarder.address).start(),
            _ => builder.start(),
        }
    });
    nodes.iter().for_each(|node| sees(node, &IDS));
    (nodes, forwarder)
}

fn paths(nodes: &[Node; 3]) -> [Path; 6] {
    let paths = [(0, 1, 1), (2, 1, 2), (1, 2, 1), (1, 0, 2), (0, 2, 2), (2, 0, 1)];
    paths.map(|(from, to, qos)| Path::stubborn(nodes, from, to, qos))
}

#[track_caller]
fn logs(node: &Node, what: &str) {
    eventually(PATIENCE, what, || node.log().iter().any(|line| line.contains(what)));
}

#[test]
fn a_node_without_cassandra_is_taken_over_and_ends_when_it_is_back() {
    let cluster = Cluster::new();
    let (mut nodes, forwarder) = nodes(&cluster, 3);
    let paths = paths(&nodes);
    paths.iter().for_each(|path| path.goes_on(50));
    forwarder.set(Way::Silent);
    // Its clients go elsewhere. Their old connections stay open.
    paths[..2].iter().for_each(|path| path.subscriber.leave(nodes[0].mqtt));
    paths[2..4].iter().for_each(|path| path.load.leave(nodes[0].mqtt));
    logs(&nodes[1], "this node is no member until it is renewed");
    for node in [0, 2] {
        logs(&nodes[node], "member n2 left");
    }
    paths.iter().for_each(|path| path.goes_on(50));
    forwarder.set(Way::Open);
    assert_ne!(nodes[1].wait_exit(PATIENCE), Some(0));
    // By whom is known for as long as the one that took over is not done with it.
    logs(&nodes[1], "was sealed");
    nodes = nodes.map(|mut node| if node.is_running() { node } else { node.restart() });
    nodes.iter().for_each(|node| sees(node, &IDS));
    paths.iter().for_each(|path| path.goes_on(50));
    paths.into_iter().for_each(Path::finish_once);
}

#[test]
fn a_node_that_has_cassandra_again_in_time_goes_on() {
    let cluster = Cluster::new();
    let (mut nodes, forwarder) = nodes(&cluster, 8);
    let paths = paths(&nodes);
    paths.iter().for_each(|path| path.goes_on(50));
    forwarder.set(Way::Refused);
    logs(&nodes[0], "member n2 left");
    forwarder.set(Way::Open);
    logs(&nodes[1], "this node is a member again");
    paths.iter().for_each(|path| path.goes_on(50));
    assert!(nodes[1].is_running());
    let lost = nodes[0].log().iter().chain(&nodes[2].log()).any(|line| line.contains("is lost:"));
    assert!(!lost, "nobody has sealed it");
    paths.into_iter().for_each(Path::finish_once);
}
