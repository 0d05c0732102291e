//! A node that dies, freezes or leaves, and a ZooKeeper that is away: nothing acknowledged is lost.

use std::time::Duration;

use crate::nodes::{Cluster, read_all, sees};
use crate::support::client::{Client, Connect, Publish};
use crate::support::command::stdout;
use crate::support::eventually;
use crate::support::kafka::Kafka;
use crate::support::load::{Load, PATIENCE, Seen, Subscriber};
use crate::support::zookeeper::Zookeeper;

#[test]
fn a_node_that_is_killed_has_a_successor_and_loses_nothing_acknowledged() {
    let cluster = Cluster::new();
    let [n1, mut n2, n3] = cluster.start(["n1", "n2", "n3"]);
    let mut watcher = n1.client("watcher").subscribed("will/#", 1);
    let will = Connect::new("dying").will("will/dying", "dead", 1);
    let _dying = Client::connect(n2.mqtt, &will);
    n2.offline("offline", &[("from1-qos1/#", 1)]);
    // Subscribers on the node that dies, publishers there and elsewhere.
    let subscribers = [1, 2].map(|qos| {
        let kind = format!("from1-qos{qos}");
        let subscriber = Subscriber::start(n2.mqtt, &kind, qos);
        (Load::start_stubborn(n1.mqtt, &kind, 2, qos), subscriber)
    });
    let moved = [1, 2].map(|qos| {
        let kind = format!("from2-qos{qos}");
        let subscriber = Subscriber::start(n3.mqtt, &kind, qos);
        (Load::start_stubborn(n2.mqtt, &kind, 2, qos), subscriber)
    });
    subscribers[0].0.goes_on(100);
    moved.iter().for_each(|(load, _)| load.goes_on(100));
    n2.kill9();
    for (_, subscriber) in &subscribers {
        subscriber.move_to(n3.mqtt);
    }
    moved.iter().for_each(|(load, _)| load.move_to(n1.mqtt));
    subscribers[0].0.goes_on(200);
    subscribers[1].0.goes_on(100);
    moved.iter().for_each(|(load, _)| load.goes_on(100));
    assert_eq!(watcher.take().text(), "dead");
    let finish = |(load, subscriber): (Load, Subscriber)| {
        let acknowledged = load.finish();
        let again = subscriber.finish(&acknowledged);
        (acknowledged, again)
    };
    let [(expected, _), (_, of_subscribers)] = subscribers.map(finish);
    let [_, (_, of_publishers)] = moved.map(finish);
    assert_eq!((of_subscribers, of_publishers), (0, 0), "of QoS 2 came twice");
    // Offline all the time: all of it waits, at the successor.
    let (mut offline, present) = n1.persistent_present("offline");
    assert!(present);
    read_all(&mut offline, &expected);
    assert_eq!(watcher.recv_within(Duration::from_millis(200)).unwrap(), None, "the will once");
}

/// Killed and started again before anybody has taken over from it: it goes on with what it had begun.
#[test]
fn a_node_that_is_killed_and_back_at_once_doubles_nothing() {
    let cluster = Cluster::new();
    let [n1, mut n2] = cluster.start(["n1", "n2"]);
    // Published there, for subscribers there and elsewhere.
    let loads = [("there", n2.mqtt), ("elsewhere", n1.mqtt)].map(|(kind, at)| {
        let subscriber = Subscriber::start(at, kind, 2);
        (Load::start_stubborn(n2.mqtt, kind, 2, 2), subscriber)
    });
    for _ in 0..3 {
        loads.iter().for_each(|(load, _)| load.goes_on(30));
        n2.kill9();
        n2 = n2.restart();
        sees(&n2, &["n1", "n2"]);
        loads.iter().for_each(|(load, _)| load.move_to(n2.mqtt));
        loads[0].1.move_to(n2.mqtt);
    }
    let again = loads.map(|(load, subscriber)| subscriber.finish(&load.finish()));
    assert_eq!(again, [0, 0], "of QoS 2 came twice");
}

#[test]
fn a_frozen_node_acknowledges_and_delivers_nothing_once_its_session_is_elsewhere() {
    let cluster = Cluster::new();
    let [n1, mut n2] = cluster.start(["n1", "n2"]);
    let connect = Connect::new("device").persistent();
    let mut old = Client::connect(n2.mqtt, &connect);
    old.subscribe("to/device", 1);
    n2.signal("STOP");
    let (mut new, present) = Client::connect_present(n1.mqtt, &connect);
    assert!(present, "taken over from the frozen node");
    // The old socket is still open, and its client publishes on it.
    let mut bytes = Vec::new();
    for id in 1..20 {
        bytes.extend(Publish::new("from/device", b"late").qos(1).id(id).bytes());
        bytes.extend(Publish::new("to/device", b"late").bytes());
    }
    old.send(&bytes);
    n2.signal("CONT");
    let deadline = std::time::Instant::now() + Duration::from_secs(5);
    while std::time::Instant::now() < deadline {
        match old.recv_within(Duration::from_millis(200)) {
            Ok(None) => {}
            Ok(Some(packet)) => panic!("{packet:?} of a node that was fenced"),
            Err(_) => break,
        }
    }
    let mut publisher = n1.client("publisher");
    publisher.publish("to/device", "after", 1);
    assert_eq!(new.take().text(), "after");
    // It ends, and says why.
    assert_ne!(n2.wait_exit(PATIENCE), Some(0));
}

#[test]
fn a_rolling_restart_loses_nothing_acknowledged() {
    let cluster = Cluster::new();
    let [mut n1, mut n2] = cluster.start(["n1", "n2"]);
    let subscriber = Subscriber::start(n1.mqtt, "load", 2);
    let load = Load::start_stubborn(n2.mqtt, "load", 2, 2);
    load.goes_on(50);
    subscriber.move_to(n2.mqtt);
    n1.terminate();
    load.goes_on(50);
    n1 = n1.restart();
    sees(&n1, &["n1", "n2"]);
    load.goes_on(50);
    subscriber.move_to(n1.mqtt);
    load.move_to(n1.mqtt);
    n2.terminate();
    load.goes_on(50);
    n2 = n2.restart();
    sees(&n2, &["n1", "n2"]);
    let acknowledged = load.finish();
    subscriber.finish(&acknowledged);
}

#[test]
fn without_zookeeper_the_cluster_goes_on() {
    let mut zookeeper = Zookeeper::start();
    let cluster = Cluster::beside(&zookeeper);
    let nodes = cluster.start(["n1", "n2"]);
    let subscriber = Subscriber::start(nodes[0].mqtt, "load", 1);
    let load = Load::start(nodes[1].mqtt, "load", 2, 1);
    load.goes_on(50);
    zookeeper.kill9();
    load.goes_on(100);
    // Longer than the session time-out: nobody is taken for dead.
    eventually(PATIENCE, "the nodes say that ZooKeeper is away", || {
        let shown = stdout(&nodes[0].cli(&["nodes"]));
        shown.contains("away")
    });
    let mut client = nodes[0].client("new").subscribed("new/#", 1);
    let mut publisher = nodes[1].client("publisher");
    publisher.publish("new/topic", "still", 1);
    assert_eq!(client.take().text(), "still");
    zookeeper.restart();
    load.goes_on(100);
    eventually(PATIENCE, "ZooKeeper is back", || {
        let shown = stdout(&nodes[0].cli(&["nodes"]));
        shown.contains("current") && shown.contains("n2")
    });
    load.goes_on(50);
    subscriber.finish(&load.finish());
}

/// With Kafka away the lost node's outbox is full of what was acknowledged; its successor brings it to Kafka.
#[test]
fn the_successor_brings_a_lost_nodes_outbox_to_kafka() {
    let mut kafka = Kafka::start();
    let cluster = Cluster::new();
    let with_kafka =
        |id: &str| cluster.builder(id).kafka(&kafka).set("route_default.ack", "stored").start();
    let (n1, mut n2) = (with_kafka("n1"), with_kafka("n2"));
    sees(&n1, &["n1", "n2"]);
    let load = Load::start(n2.mqtt, "lost", 2, 1);
    load.goes_on(50);
    kafka.stop();
    load.goes_on(500);
    let topic = load.topic();
    let acknowledged = load.finish();
    n2.kill9();
    kafka.restart();
    n1.wait_log("is lost");
    let mut seen = Seen::default();
    eventually(PATIENCE, "everything acknowledged is in Kafka", || {
        seen = Seen::default();
        for record in kafka.read_all(&topic) {
            let key = String::from_utf8(record.key.clone().unwrap()).unwrap();
            seen.take(&key, record.text().parse().unwrap());
        }
        acknowledged.keys().all(|key| seen.next(key) >= acknowledged[key])
    });
    seen.check(&acknowledged);
}
