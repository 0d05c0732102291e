//! Supervision with the whole node: each kind of actor panics, stalls or fails under load. No
//! message acknowledged as stored is lost, no socket but a victim connection's is closed, every
//! outstanding publish is acknowledged without a reconnect, and the tree is whole again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::support::client::Publish;
use crate::support::{Client, Node, Packet, SOON, eventually, unique};

fn node(log: &str) -> Node {
    Node::builder()
        .set("node.workers", 2)
        .set("log.kind", log)
        .set("debug.faults", true)
        .set("supervision.stall_timeout", "500ms")
        .set("supervision.max_restarts", 100)
        // The subscriber may be slower than the publishers: nothing of its queue is dropped.
        .set("session.max_queued_messages", 10_000_000)
        .set("session.max_queued_bytes", "\"1TiB\"")
        .start()
}

/// Publishers with up to 50 publishes outstanding each, a persistent subscriber that reads
/// everything. [`Load::finish`] checks that nothing is missing.
struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    publishers: Vec<std::thread::JoinHandle<(Client, Vec<String>)>>,
    subscriber: std::thread::JoinHandle<(Client, BTreeSet<String>)>,
    subscriber_stop: Arc<AtomicBool>,
}

const WINDOW: usize = 50;

impl Load {
    fn start(node: &Node, publishers: usize) -> Self {
        let topic = unique("load/x");
        let subscriber = node.persistent(&unique("load-subscriber")).subscribed(&topic, 1);
        let stop = Arc::new(AtomicBool::new(false));
        let subscriber_stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(AtomicU64::new(0));
        let publishers = (0..publishers)
            .map(|_| {
                let client = node.client(&unique("load-publisher"));
                let (stop, acknowledged, topic) =
                    (Arc::clone(&stop), Arc::clone(&acknowledged), topic.clone());
                std::thread::spawn(move || publish_on(client, &topic, &stop, &acknowledged))
            })
            .collect();
        let ended = Arc::clone(&subscriber_stop);
        let subscriber = std::thread::spawn(move || read_on(subscriber, &ended));
        Self { stop, acknowledged, publishers, subscriber, subscriber_stop }
    }

    /// Waits until more was acknowledged: the load is going on.
    #[track_caller]
    fn goes_on(&self) {
        let now = self.acknowledged.load(Ordering::Relaxed);
        eventually(SOON, "more is acknowledged", || {
            self.acknowledged.load(Ordering::Relaxed) > now + 200
        });
    }

    /// Every publish is acknowledged on the connection it was sent on, and delivered.
    #[track_caller]
    fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        let mut sent = BTreeSet::new();
        for publisher in self.publishers {
            let (mut client, payloads) = publisher.join().unwrap();
            client.ping();
            sent.extend(payloads);
        }
        self.subscriber_stop.store(true, Ordering::Relaxed);
        let (_client, came) = self.subscriber.join().unwrap();
        let lost: Vec<_> = sent.difference(&came).take(10).collect();
        assert!(
            lost.is_empty(),
            "acknowledged and not delivered: {lost:?}, {} of {} came",
            came.len(),
            sent.len()
        );
    }
}

fn publish_on(
    mut client: Client,
    topic: &str,
    stop: &AtomicBool,
    acknowledged: &AtomicU64,
) -> (Client, Vec<String>) {
    let name = unique("m");
    let mut sent = Vec::new();
    let mut outstanding = BTreeSet::new();
    loop {
        while outstanding.len() < WINDOW && !stop.load(Ordering::Relaxed) {
            let id = client.id();
            let payload = format!("{name}-{}", sent.len());
            client.send(&Publish::new(topic, &payload).qos(1).id(id).bytes());
            outstanding.insert(id);
            sent.push(payload);
        }
        if outstanding.is_empty() {
            return (client, sent);
        }
        match client.recv() {
            Packet::Puback(id) => assert!(outstanding.remove(&id), "PUBACK {id} twice"),
            other => panic!("{other:?}"),
        }
        acknowledged.fetch_add(1, Ordering::Relaxed);
    }
}

/// Reads and acknowledges until told, and then until nothing comes for two seconds.
fn read_on(mut client: Client, stop: &AtomicBool) -> (Client, BTreeSet<String>) {
    let mut came = BTreeSet::new();
    loop {
        let stopping = stop.load(Ordering::Relaxed);
        match client.recv_within(Duration::from_secs(2)) {
            Ok(Some(Packet::Publish(publish))) => {
                client.acknowledge(&publish);
                came.insert(publish.text());
            }
            Ok(Some(other)) => panic!("{other:?}"),
            Ok(None) if stopping => return (client, came),
            Ok(None) => {}
            Err(error) => panic!("the subscriber was disconnected: {error}"),
        }
    }
}

/// The row of the tree for this path, in words.
#[track_caller]
fn row(node: &Node, path: &str) -> Vec<String> {
    let tree = node.tree();
    let row = tree.lines().find(|line| line.split_whitespace().any(|word| word == path));
    row.unwrap_or_else(|| panic!("no {path} in:\n{tree}"))
        .split_whitespace()
        .map(str::to_owned)
        .collect()
}

#[track_caller]
fn is_whole(node: &Node) -> bool {
    let (status, body) = node.http("/metrics");
    assert_eq!(status, 200);
    body.contains("\nhydrant_ready 1\n") && !node.tree().contains("backing-off")
}

/// Makes the actor fail in each way, under load.
#[track_caller]
fn survives(node: &Node, path: &str) {
    let bystanders: Vec<_> = (0..20).map(|_| node.client(&unique("bystander"))).collect();
    let load = Load::start(node, 4);
    for action in ["panic", "fail", "stall", "panic"] {
        load.goes_on();
        let restarts = node.metric("hydrant_restarts_total");
        node.fault(action, path);
        eventually(SOON, &format!("{path} is rebuilt after {action}"), || {
            node.metric("hydrant_restarts_total") > restarts
        });
        eventually(SOON, "the tree is whole", || is_whole(node));
        load.goes_on();
    }
    load.finish();
    for mut client in bystanders {
        client.ping();
    }
    assert!(row(node, path).contains(&"running".to_owned()));
    // One line for each restart, with path and reason.
    let lines = node.log();
    for reason in ["panicked", "failed", "was killed"] {
        assert!(
            lines.iter().any(|line| line.contains(path) && line.contains(reason)),
            "no line of {path} with '{reason}'"
        );
    }
    assert_eq!(node.closed("actor_died"), 0.0);
}

#[test]
fn storage_panics_stalls_and_fails_under_load() {
    survives(&node("none"), "storage");
}

#[test]
fn log_panics_stalls_and_fails_under_load() {
    survives(&node("embedded"), "log");
}

#[test]
fn topic_router_panics_stalls_and_fails_under_load() {
    survives(&node("none"), "topic-router/0");
    survives(&node("embedded"), "topic-router/1");
}

#[test]
fn connection_manager_panics_stalls_and_fails_under_load() {
    survives(&node("none"), "connection-manager/0");
}

#[test]
fn the_listener_panics_stalls_and_fails_under_load() {
    let node = node("none");
    let path = format!("listener/tcp/{}", node.mqtt);
    survives(&node, &path);
    node.client("late").ping();
}

#[test]
fn a_connection_that_panics_stalls_or_fails_closes_its_own_socket_only() {
    let node = node("embedded");
    let load = Load::start(&node, 3);
    for action in ["panic", "fail", "stall"] {
        let (id, topic) = (unique("victim"), unique("victim"));
        let mut victim = node.persistent(&id).subscribed(&topic, 1);
        let mut watcher = node.client(&unique("watcher")).subscribed("wills", 1);
        load.goes_on();
        node.fault(action, &format!("connection/{id}"));
        // Work for it: that a stalled one does not take it is how the stall shows. Again, because
        // it may take what comes before the fault reaches it.
        eventually(SOON, &format!("its socket is closed after {action}"), || {
            watcher.publish(&topic, "work", 1);
            victim.recv_within(Duration::from_millis(100)).is_err()
        });
        load.goes_on();
        // Its session is intact.
        let (mut again, present) = Client::connect_present(
            node.mqtt,
            &crate::support::client::Connect::new(&id).persistent(),
        );
        assert!(present, "{action}");
        again.ping();
        watcher.ping();
    }
    load.finish();
    assert_eq!(node.metric("hydrant_restarts_total"), 0.0, "connections are never restarted");
    node.wait_closed("actor_died", 3.0);
}

#[test]
fn a_stalled_connection_ends_by_its_keep_alive_and_by_takeover() {
    let node = node("none");
    let connect = crate::support::client::Connect::new("alive").keep_alive(1);
    let mut alive = Client::connect(node.mqtt, &connect);
    let mut twin = node.persistent("twin");
    node.fault("stall", "connection/alive");
    node.fault("stall", "connection/twin");
    alive.expect_end();
    let mut second = node.persistent("twin");
    twin.expect_end();
    second.ping();
    eventually(SOON, "both are gone", || node.metric("hydrant_connections") == 1.0);
}

#[test]
fn the_will_of_a_connection_that_panics_is_published() {
    let node = node("none");
    let mut watcher = node.client("watcher").subscribed("will", 1);
    let connect = crate::support::client::Connect::new("victim").will("will", "gone", 1);
    let mut victim = Client::connect(node.mqtt, &connect);
    node.fault("panic", "connection/victim");
    victim.expect_end();
    assert_eq!(watcher.take().text(), "gone");
}

#[test]
fn faults_all_over_the_tree_at_once_lose_nothing() {
    let node = node("embedded");
    let load = Load::start(&node, 4);
    for round in 0..5 {
        load.goes_on();
        for path in [
            "storage",
            "log",
            "topic-router/0",
            "topic-router/1",
            "connection-manager/0",
            "connection-manager/1",
        ] {
            node.fault(if round % 2 == 0 { "panic" } else { "fail" }, path);
        }
        eventually(SOON, "the tree is whole", || is_whole(&node));
    }
    load.finish();
    assert!(node.metric("hydrant_restarts_total") >= 20.0);
    assert_eq!(node.closed("actor_died"), 0.0);
}

#[test]
fn past_the_restart_limit_the_node_says_why_and_exits_non_zero() {
    let mut node =
        Node::builder().set("debug.faults", true).set("supervision.max_restarts", 2).start();
    for _ in 0..3 {
        let restarts = node.metric("hydrant_restarts_total");
        node.fault("panic", "topic-router/0");
        if restarts < 2.0 {
            eventually(SOON, "it is rebuilt", || {
                node.metric("hydrant_restarts_total") > restarts && is_whole(&node)
            });
        }
    }
    let code = node.wait_exit(SOON);
    assert!(code.is_some_and(|code| code != 0), "{code:?}");
    assert!(
        node.log().iter().any(|line| line.contains("topic-router/0") && line.contains("panicked"))
    );
    assert!(node.log().iter().any(|line| line.contains("restart")), "it says why");
}
