//! What is published on one node, for subscribers on others.

use crate::nodes::Cluster;
use crate::support::client::{Client, Connect};
use crate::support::command::stdout;
use crate::support::load::{Load, PATIENCE, Subscriber};
use crate::support::{eventually, says};

#[test]
fn a_publish_reaches_every_node_and_a_retained_message_stays_on_all() {
    let cluster = Cluster::new();
    let nodes = cluster.start(["n1", "n2", "n3"]);
    let mut subscribers: Vec<Client> = Vec::new();
    for (at, node) in nodes.iter().enumerate() {
        for filter in ["a/b", "a/+"] {
            let client = node.client(&format!("subscriber-{at}-{filter}"));
            subscribers.push(client.subscribed(filter, 2));
        }
        let stored = node.persistent(&format!("stored-{at}"));
        subscribers.push(stored.subscribed("a/#", 2));
    }
    for (at, node) in nodes.iter().enumerate() {
        let mut publisher = node.client(&format!("publisher-{at}"));
        for qos in 0..3 {
            publisher.publish("a/b", format!("{at}-{qos}"), qos);
        }
        publisher.ping();
    }
    for subscriber in &mut subscribers {
        let mut got: Vec<String> = (0..9).map(|_| subscriber.take().text()).collect();
        got.sort();
        let all = (0..3).flat_map(|at| (0..3).map(move |qos| format!("{at}-{qos}")));
        assert_eq!(got, all.collect::<Vec<_>>());
    }
    let mut publisher = nodes[0].client("retains");
    publisher.retain("kept/topic", "kept", 1);
    for node in &nodes {
        let mut client = node.client("late");
        eventually(PATIENCE, "the retained message is on every node", || {
            client.subscribe("kept/#", 1);
            client.recv_within(std::time::Duration::from_millis(100)).unwrap().is_some()
        });
    }
    says(&stdout(&nodes[0].cli(&["nodes"])), &["n1", "n2", "n3"]);
}

#[test]
fn a_session_that_moves_under_load_loses_and_doubles_nothing() {
    let cluster = Cluster::new();
    let nodes = cluster.start(["n1", "n2", "n3"]);
    let loads = [(0, 1), (1, 2), (2, 2)].map(|(at, qos)| {
        let kind = format!("kind{at}");
        // Stored for another session on each node as well.
        let other =
            nodes[at].persistent(&format!("other-{at}")).subscribed(&format!("{kind}/#"), 1);
        let subscriber = Subscriber::start(nodes[0].mqtt, &kind, qos);
        (Load::start(nodes[at].mqtt, &kind, 2, qos), subscriber, other)
    });
    for round in 0..6 {
        loads[round % 3].0.goes_on(50);
        for (_, subscriber, _) in &loads {
            subscriber.hop(nodes[(round + 1) % 3].mqtt);
        }
    }
    for (load, subscriber, _) in loads {
        let acknowledged = load.finish();
        subscriber.finish(&acknowledged);
    }
}

#[test]
fn one_client_is_connected_once_in_the_whole_cluster() {
    let cluster = Cluster::new();
    let nodes = cluster.start(["n1", "n2"]);
    for connect in Connect::new("device").clean_and_persistent() {
        let mut here = Client::connect(nodes[0].mqtt, &connect);
        let mut there = Client::connect(nodes[1].mqtt, &connect);
        here.expect_end();
        let mut back = Client::connect(nodes[0].mqtt, &connect);
        there.expect_end();
        back.ping();
        back.disconnect();
    }
    // A clean session ends what was kept elsewhere.
    let clean = Client::connect_present(nodes[1].mqtt, &Connect::new("device"));
    assert!(!clean.1);
    drop(clean);
    let again = nodes[0].persistent_present("device");
    assert!(!again.1, "the clean session has ended it");
}
