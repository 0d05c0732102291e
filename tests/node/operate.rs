//! Operating a node: `/metrics`, `/health`, `/ready`, `broker tree`, `broker tail`, signals and shutdown.

use std::time::{Duration, Instant};

use crate::support::client::{Connect, Publish};
use crate::support::command::{stderr, stdout};
use crate::support::{Client, Node, Packet, SOON, eventually, says};

#[test]
fn metrics_health_and_ready_are_served() {
    let node = Node::builder().start();
    for path in ["/health", "/ready"] {
        assert_eq!(node.http(path).0, 200, "{path}");
    }
    assert_eq!(node.http("/nothing").0, 404);
    let mut client = node.client("c").subscribed("t/#", 1);
    client.publish("t/1", "payload", 1);
    client.take();
    client.publish("t/0", "", 0);
    client.take();
    for (name, value) in [
        ("hydrant_connections", 1.0),
        ("hydrant_connects_total", 1.0),
        ("hydrant_subscriptions", 1.0),
        ("hydrant_publishes_received_total{qos=\"1\"}", 1.0),
        ("hydrant_publishes_received_total{qos=\"0\"}", 1.0),
        ("hydrant_publishes_sent_total{qos=\"1\"}", 1.0),
        ("hydrant_ready", 1.0),
        ("hydrant_restarts_total", 0.0),
    ] {
        assert_eq!(node.metric(name), value, "{name}");
    }
    assert!(node.metric("hydrant_storage_batches_total") >= 0.0);
    assert!(node.http("/metrics").1.ends_with("# EOF\n"));
    let status = stdout(&node.cli(&["status"]));
    for line in ["ready          yes", "connections    1", "subscriptions  1"] {
        assert!(status.lines().any(|l| l == line), "no '{line}' in:\n{status}");
    }
}

#[test]
fn a_node_alone_has_no_nodes_to_list() {
    let node = Node::builder().start();
    let output = node.cli(&["nodes"]);
    let said = stderr(&output);
    assert!(!output.status.success() && output.stdout.is_empty());
    assert!(said.starts_with("broker: this node is not in a cluster"), "{said}");
}

#[test]
fn the_tree_shows_every_actor() {
    let node = Node::builder().set("node.workers", 2).start();
    let _clients: Vec<_> = (0..4).map(|n| node.client(&format!("client-{n}"))).collect();
    let tree = node.tree();
    let paths = [
        "node n1",
        "supervisor",
        "listener/tcp",
        "connection-manager/0",
        "connection-manager/1",
        "topic-router/0",
        "topic-router/1",
        "storage",
        "log",
    ];
    says(&tree, &paths);
    assert!(!tree.contains("client-0"), "connections are counts:\n{tree}");
    let paged = stdout(&node.cli(&["tree", "--connections"]));
    for n in 0..4 {
        assert!(paged.contains(&format!("client-{n}")), "{paged}");
    }
    node.signal("USR1");
    eventually(SOON, "the tree is in the log twice", || {
        node.log().iter().filter(|line| line.contains("the actor tree:")).count() == 2
    });
}

#[test]
fn a_hangup_ends_no_node() {
    let mut node = Node::builder().start();
    let mut client = node.client("stays");
    node.signal("USR2");
    node.signal("HUP");
    node.wait_log("SIGHUP: there is nothing to reopen");
    client.ping();
    assert!(node.is_running());
    assert_eq!(node.terminate(), Some(0));
}

#[test]
fn faults_are_refused_unless_they_are_switched_on() {
    let node = Node::builder().start();
    let output = node.cli(&["fault", "panic", "storage"]);
    assert!(!output.status.success());
    assert!(stderr(&output).contains("debug.faults"));
    assert_eq!(node.metric("hydrant_restarts_total"), 0.0);
}

#[test]
fn tail_prints_what_was_published_by_topic_and_group() {
    let node = Node::builder().start();
    let mut client = node.client("device-42");
    for n in 0..20 {
        client.publish("device/42/thermo", format!("reading {n}"), (n % 3) as u8);
    }
    let printed = node.tail("device-thermo", 20);
    let lines: Vec<_> = printed.lines().collect();
    assert_eq!(lines.len(), 20, "{printed}");
    for (n, line) in lines.iter().enumerate() {
        let fields: Vec<_> = line.split('\t').collect();
        assert_eq!(
            (fields[2], fields[3], fields[4]),
            ("42", "device/42/thermo", format!("reading {n}").as_str()),
            "{line}"
        );
    }
    // A group goes on where it was.
    let group = |count: &str| {
        let output =
            node.cli(&["tail", "device-thermo", "--group", "g", "--from-start", "--count", count]);
        stdout(&output)
            .lines()
            .map(|l| l.rsplit('\t').next().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(group("3"), ["reading 0", "reading 1", "reading 2"]);
    assert_eq!(group("2"), ["reading 3", "reading 4"]);
}

#[test]
fn without_a_node_the_commands_say_so() {
    let mut node = Node::builder().start();
    node.kill9();
    let output = node.cli(&["tree"]);
    assert!(!output.status.success());
    assert!(stderr(&output).contains("is the broker running"));
}

#[test]
fn sigterm_acknowledges_what_is_in_flight_and_exits_0() {
    let mut node = Node::builder().start();
    let mut idle = node.client("idle");
    let subscriber = node.persistent("subscriber").subscribed("t", 1);
    let mut publisher = node.client("publisher");
    publisher.burst(1..=400, |id| Publish::new("t", id.to_be_bytes()).qos(1));
    publisher.expect(Packet::Puback(1));
    node.signal("TERM");
    // Everything the node has read is answered; then the connection ends.
    let mut acknowledged = 1;
    while let Ok(Some(Packet::Puback(_))) = publisher.recv_within(SOON) {
        acknowledged += 1;
    }
    idle.expect_closed();
    assert_eq!(node.wait_exit(SOON), Some(0));
    drop(subscriber);
    let node = node.restart();
    let mut subscriber = node.persistent("subscriber");
    let mut delivered = std::collections::BTreeSet::new();
    while delivered.len() < acknowledged {
        let publish = subscriber.take();
        delivered.insert(publish.payload);
    }
    assert!(delivered.len() >= acknowledged);
}

#[test]
fn sigterm_with_idle_clients_is_quick() {
    let mut node = Node::builder().start();
    let mut clients: Vec<_> = (0..50).map(|n| node.client(&format!("idle-{n}"))).collect();
    let start = Instant::now();
    assert_eq!(node.terminate(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    for client in &mut clients {
        client.expect_closed();
    }
}

#[test]
fn a_shutdown_publishes_the_wills_of_those_it_disconnects() {
    let mut node = Node::builder().start();
    node.offline("watcher", &[("will", 1)]);
    let _client = Client::connect(node.mqtt, &Connect::new("c").will("will", "stopped", 1));
    assert_eq!(node.terminate(), Some(0));
    let node = node.restart();
    assert_eq!(node.persistent("watcher").take().text(), "stopped");
}

/// A node with something to wait for before it ends, up to this deadline: a publish with packet id 9, which its stalled
/// store does not answer.
pub fn with_a_stalled_store(deadline: &str) -> (Node, Client) {
    let node = Node::builder()
        .set("node.shutdown_deadline", deadline)
        .set("supervision.stall_timeout", "10m")
        .set("debug.faults", true)
        .start();
    node.offline("subscriber", &[("t", 1)]);
    let mut publisher = node.client("publisher");
    publisher.publish("t", "x", 1);
    node.fault("stall", "storage");
    publisher.send(&Publish::new("t", b"x").qos(1).id(9).bytes());
    publisher.ping();
    (node, publisher)
}

/// The same, and its shutdown has begun.
fn shutting_down(deadline: &str) -> (Node, Client) {
    let (node, publisher) = with_a_stalled_store(deadline);
    node.signal("TERM");
    node.wait_log("stops: no new connections");
    (node, publisher)
}

#[test]
fn a_second_signal_exits_at_once() {
    let (mut node, _publisher) = shutting_down("10m");
    let start = Instant::now();
    node.signal("TERM");
    assert_eq!(node.wait_exit(SOON), Some(130));
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[test]
fn a_shutdown_ends_at_its_deadline_and_says_that_it_was_cut_short() {
    let (mut node, mut publisher) = shutting_down("1s");
    // Nothing acknowledged is lost by it, so the node has stopped in order.
    assert_eq!(node.wait_exit(SOON), Some(0));
    node.wait_log("cut short");
    publisher.expect_closed();
    // The publisher has no PUBACK and sends it again.
    let node = node.restart();
    let mut publisher = node.client("publisher");
    publisher.send(&Publish::new("t", b"x").qos(1).id(9).dup().bytes());
    publisher.expect(Packet::Puback(9));
}
