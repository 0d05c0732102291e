//! Nodes that stop in order and start at once, and clusters of which all nodes were down: nothing acknowledged is
//! lost, and of QoS 2 nothing comes twice (docs/decisions/0015-interest-by-incarnation.md).

use std::collections::BTreeMap;

use crate::nodes::{Cluster, read_all, sees};
use crate::support::Node;
use crate::support::client::{Client, Connect};
use crate::support::kafka::Kafka;
use crate::support::load::{Load, Subscriber};

const IDS: [&str; 3] = ["n1", "n2", "n3"];

/// A session that is offline on a node, with the load of this kind in its queue.
fn offline(node: &Node, kind: &str) {
    node.offline(&format!("offline-{kind}"), &[(&format!("{kind}/#"), 2)]);
}

/// It has everything; none of QoS 2 twice.
#[track_caller]
fn has_everything(node: &Node, kind: &str, qos: u8, acknowledged: &BTreeMap<String, u64>) {
    let connect = Connect::new(&format!("offline-{kind}")).persistent();
    let (mut client, present) = Client::connect_present(node.mqtt, &connect);
    assert!(present, "{kind}");
    let again = read_all(&mut client, acknowledged);
    assert!(qos < 2 || again == 0, "{kind}: {again} of QoS 2 came twice");
}

/// Publishers elsewhere, offline sessions on the node that starts anew, and live subscribers there.
fn restarts(change: impl Fn(crate::support::node::Builder) -> crate::support::node::Builder) {
    let cluster = Cluster::new();
    let nodes = IDS.map(|id| change(cluster.builder(id)).start());
    nodes.iter().for_each(|node| sees(node, &IDS));
    let [n1, mut n2, n3] = nodes;
    let live = Subscriber::start(n2.mqtt, "n3-qos2", 2);
    let loads = [("n1", 1, &n1), ("n1", 2, &n1), ("n3", 1, &n3), ("n3", 2, &n3)].map(
        |(name, qos, from)| {
            let kind = format!("{name}-qos{qos}");
            offline(&n2, &kind);
            (Load::start(from.mqtt, &kind, 2, qos), kind, qos)
        },
    );
    for _ in 0..2 {
        loads.iter().for_each(|(load, ..)| load.goes_on(50));
        assert_eq!(n2.terminate(), Some(0));
        n2 = n2.restart();
        live.move_to(n2.mqtt);
        sees(&n2, &IDS);
        // Its sessions are on it again, wherever they were meanwhile.
        for (.., kind, _) in &loads {
            let connect = Connect::new(&format!("offline-{kind}")).persistent();
            let (client, present) = Client::connect_present(n2.mqtt, &connect);
            assert!(present, "{kind}");
            drop(client);
        }
    }
    // All of them first: what is published while one is read would fill the queues of the others.
    let loads = loads.map(|(load, kind, qos)| (load.finish(), kind, qos));
    assert_eq!(live.finish(&loads[3].0), 0, "of QoS 2 came twice");
    for (acknowledged, kind, qos) in &loads {
        has_everything(&n2, kind, *qos, acknowledged);
    }
}

#[test]
fn an_ordered_restart_loses_nothing_acknowledged() {
    for workers in [1, 3] {
        restarts(|builder| builder.set("node.workers", workers));
    }
}

#[test]
fn an_ordered_restart_loses_nothing_that_kafka_has() {
    let kafka = Kafka::start();
    restarts(|builder| builder.kafka(&kafka).set("route_default.ack", "kafka"));
}

/// The first node up keeps for the sessions of the others, whether these come back or stay away.
#[test]
fn after_all_nodes_were_down_the_first_one_loses_nothing_acknowledged() {
    for (in_order, comes_back) in [(true, true), (false, true), (true, false), (false, false)] {
        let cluster = Cluster::new();
        let mut nodes = cluster.start(["n1", "n2"]);
        let kinds = [("near-1", 0, 1), ("near-2", 0, 2), ("far-1", 1, 1), ("far-2", 1, 2)];
        kinds.iter().for_each(|(kind, at, _)| offline(&nodes[*at], kind));
        for node in &mut nodes {
            if in_order {
                assert_eq!(node.terminate(), Some(0));
            } else {
                node.kill9();
            }
        }
        let [n1, n2] = nodes;
        let n1 = n1.restart();
        let start = |kind, qos| (Load::start(n1.mqtt, kind, 2, qos), kind, qos);
        for (kind, _, qos) in kinds.iter().filter(|(_, at, _)| *at == 0) {
            let (load, ..) = start(kind, *qos);
            load.goes_on(50);
            has_everything(&n1, kind, *qos, &load.finish());
        }
        // These wait until somebody has the sessions.
        let far = kinds.iter().filter(|(_, at, _)| *at == 1);
        let loads: Vec<_> = far.map(|(kind, _, qos)| start(kind, *qos)).collect();
        let n2 = comes_back.then(|| n2.restart());
        if let Some(n2) = &n2 {
            sees(n2, &["n1", "n2"]);
        }
        loads.iter().for_each(|(load, ..)| load.goes_on(100));
        for (load, kind, qos) in loads {
            has_everything(n2.as_ref().unwrap_or(&n1), kind, qos, &load.finish());
        }
    }
}
