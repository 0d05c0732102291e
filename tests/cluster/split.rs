//! Two of three nodes cannot reach each other, and both reach the third and the servers.

use std::sync::Arc;

use hydrant_protocol::cluster::ring::{Key, Ring};

use crate::nodes::{Cluster, sees};
use crate::support::client::{Client, Connect};
use crate::support::forwarder::{Forwarder, Way};
use crate::support::load::{Load, PATIENCE, Subscriber};
use crate::support::server::free_port;
use crate::support::{Node, eventually, unique};

const IDS: [&str; 3] = ["n1", "n2", "n3"];

/// Three nodes; what the first two have of each other goes through the forwarder.
fn nodes(cluster: &Cluster) -> ([Node; 3], Forwarder) {
    let [n1, n3] = [IDS[0], IDS[2]].map(|id| cluster.builder(id).start());
    let port = free_port();
    let forwarder = Forwarder::start(([127, 0, 0, 1], port).into());
    // Of two nodes the one with the lower id dials: only n1 comes to n2 this way.
    let n2 = cluster
        .builder(IDS[1])
        .set("cluster.listen", format!("127.0.0.1:{port}"))
        .set("cluster.advertise", forwarder.address)
        .start();
    let nodes = [n1, n2, n3];
    nodes.iter().for_each(|node| sees(node, &IDS));
    (nodes, forwarder)
}

/// A load at one node for a subscriber at another.
struct Path {
    load: Load,
    subscriber: Subscriber,
    qos: u8,
}

impl Path {
    fn start(nodes: &[Node; 3], from: usize, to: usize, qos: u8) -> Self {
        let kind = format!("from{from}-to{to}-qos{qos}");
        let subscriber = Subscriber::start(nodes[to].mqtt, &kind, qos);
        Self { load: Load::start(nodes[from].mqtt, &kind, 1, qos), subscriber, qos }
    }

    /// Publishes are acknowledged, and come.
    #[track_caller]
    fn goes_on(&self, more: u64) {
        let came = self.subscriber.came();
        self.load.goes_on(more);
        eventually(PATIENCE, "publishes come", || self.subscriber.came() >= came + more);
    }

    #[track_caller]
    fn finish(self) {
        let again = self.subscriber.finish(&self.load.finish());
        assert!(self.qos < 2 || again == 0, "{again} of QoS 2 came twice");
    }
}

/// Waits until two nodes know that they cannot reach each other, and reach the third.
#[track_caller]
fn apart(nodes: &[Node; 3]) {
    for (node, other) in [(&nodes[0], "n2"), (&nodes[1], "n1")] {
        eventually(PATIENCE, "the link between the two is down", || {
            let tree = node.tree();
            tree.contains(&format!("{other} down")) && tree.contains("n3 up")
        });
    }
}

/// A client id that belongs to this node.
fn owned_by(node: &str) -> String {
    let ring = Ring::new(IDS.map(Arc::from));
    let mut ids = std::iter::repeat_with(|| unique("client"));
    ids.find(|id| ring.owns(node, Key::Client(id))).unwrap()
}

#[test]
fn two_nodes_that_cannot_reach_each_other_lose_nothing_and_hold_up_nobody_else() {
    let cluster = Cluster::new();
    let (nodes, forwarder) = nodes(&cluster);
    let across = [(0, 1, 1), (0, 1, 2), (1, 0, 2)];
    let across = across.map(|(from, to, qos)| Path::start(&nodes, from, to, qos));
    let beside = [(0, 2, 2), (1, 2, 1), (2, 0, 1), (2, 1, 2)];
    let beside = beside.map(|(from, to, qos)| Path::start(&nodes, from, to, qos));
    for split in [Way::Refused, Way::Silent] {
        across.iter().chain(&beside).for_each(|path| path.goes_on(50));
        forwarder.set(split);
        apart(&nodes);
        beside.iter().for_each(|path| path.goes_on(50));
        let held = || across.each_ref().map(|path| path.load.acknowledged());
        let before = held();
        // Claims at the third.
        for node in &nodes {
            let mut client = node.persistent(&owned_by("n3"));
            client.publish("nobody/wants/it", "x", 2);
        }
        let connect = Connect::new(&owned_by("n3"));
        let mut first = Client::connect(nodes[0].mqtt, &connect);
        Client::connect(nodes[1].mqtt, &connect).ping();
        first.expect_end();
        beside.iter().for_each(|path| path.goes_on(100));
        assert_eq!(held(), before, "acknowledged with the other node away");
        forwarder.set(Way::Open);
        [&nodes[0], &nodes[1]].into_iter().for_each(|node| sees(node, &IDS));
    }
    // Links that end in the middle of it.
    for _ in 0..5 {
        across.iter().for_each(|path| path.goes_on(50));
        forwarder.cut();
    }
    across.iter().for_each(|path| path.goes_on(50));
    across.into_iter().chain(beside).for_each(Path::finish);
}
