//! A whole node on a real Cassandra that is stopped, killed, frozen and too slow, and the node
//! killed itself, under load. Publishers wait and lose nothing that was acknowledged; sessions get
//! everything in order; nobody does anything by hand.

use std::time::{Duration, Instant};

use crate::support::cassandra::{Cassandra, CassandraCluster, Options, new_keyspace};
use crate::support::kafka::Kafka;
use crate::support::load::{Load, PATIENCE, Seen, Subscriber};
use crate::support::node::Builder;
use crate::support::{Node, eventually, wait_out};

/// A node whose sessions are in a keyspace of its own, without a log.
pub fn node(contact_points: &str) -> Builder {
    Node::builder()
        .set("storage.kind", "cassandra")
        .set("cassandra.contact_points", contact_points)
        .set("cassandra.keyspace", new_keyspace("node"))
        .set("log.kind", "none")
        // A load goes as fast as the machine lets it.
        .set("session.max_queued_messages", 1_000_000)
        .set("session.max_queued_bytes", "\"1TiB\"")
}

fn is_ready(node: &Node) -> bool {
    node.http("/ready").0 == 200
}

/// Waits until the node says that its store is away.
#[track_caller]
fn misses_its_store(node: &Node) {
    eventually(PATIENCE, "the node says that its store is away", || !is_ready(node));
}

#[test]
fn with_cassandra_stopped_killed_and_frozen_sessions_lose_and_disorder_nothing() {
    let mut cassandra = Cassandra::start();
    let node = node(&cassandra.address()).set("cassandra.request_timeout", "2s").start();
    let [once, exactly] = [1, 2].map(|qos| {
        let kind = format!("qos{qos}");
        let subscriber = Subscriber::start(node.mqtt, &kind, qos);
        (Load::start(node.mqtt, &kind, 3, qos), subscriber)
    });
    once.0.goes_on(500);
    cassandra.stop();
    misses_its_store(&node);
    cassandra.restart();
    once.0.goes_on(500);
    exactly.0.goes_on(500);
    cassandra.kill9();
    misses_its_store(&node);
    cassandra.restart();
    once.0.goes_on(500);
    // Frozen for 20 s: connections stay open, nothing answers.
    cassandra.pause();
    let end = Instant::now() + Duration::from_secs(20);
    misses_its_store(&node);
    eventually(PATIENCE, "20 s are over", || Instant::now() >= end);
    cassandra.resume();
    once.0.goes_on(500);
    exactly.0.goes_on(500);
    eventually(PATIENCE, "the node is ready again", || is_ready(&node));
    for (load, subscriber) in [once, exactly] {
        let sent = load.finish();
        let repeated = subscriber.finish(&sent);
        assert_eq!(repeated, 0, "no connection ended: nothing is sent twice");
    }
    let retries = node.metric("hydrant_storage_retries_total");
    assert!(retries > 0.0, "writes were repeated");
}

#[test]
fn a_killed_node_goes_on_where_it_was() {
    let (cassandra, kafka) = (Cassandra::start(), Kafka::start());
    let mut node = node(&cassandra.address()).kafka(&kafka).start();
    let flows = [("once", 1), ("exactly", 2)].map(|(kind, qos)| {
        let subscriber = Subscriber::start(node.mqtt, kind, qos);
        (Load::start_stubborn(node.mqtt, kind, 3, qos), subscriber, qos)
    });
    for _ in 0..4 {
        flows.iter().for_each(|(load, ..)| load.goes_on(700));
        node.kill9();
        node = node.restart();
        for (load, subscriber, _) in &flows {
            load.move_to(node.mqtt);
            subscriber.move_to(node.mqtt);
        }
    }
    flows.iter().for_each(|(load, ..)| load.goes_on(700));
    let mut expected = Vec::new();
    for (load, subscriber, qos) in flows {
        let topic = load.topic();
        let sent = load.finish();
        let repeated = subscriber.finish(&sent);
        assert!(qos < 2 || repeated == 0, "{repeated} messages came twice at QoS 2");
        expected.push((topic, sent));
    }
    eventually(PATIENCE, "the outbox is empty", || node.metric("hydrant_outbox_records") == 0.0);
    for (topic, sent) in expected {
        let mut seen = Seen::default();
        for record in kafka.read_all(&topic) {
            let key = String::from_utf8(record.key.clone().expect("a key")).expect("text");
            seen.take(&key, record.text().parse().expect("a sequence"));
        }
        seen.check(&sent);
    }
}

/// Every batch holds receipts, and is refused again and again.
#[test]
fn an_outage_of_many_retries_leaves_qos2_whole() {
    let mut cassandra = Cassandra::start();
    let node = node(&cassandra.address())
        .set("storage.retry_max", "20ms")
        .set("cassandra.request_timeout", "500ms")
        .set("storage.batch_max_ops", 8)
        .start();
    let subscriber = Subscriber::start(node.mqtt, "retried", 2);
    let load = Load::start(node.mqtt, "retried", 6, 2);
    load.goes_on(500);
    cassandra.kill9();
    let retries = || node.metric("hydrant_storage_retries_total");
    eventually(PATIENCE, "more attempts than there ever were places", || retries() > 300.0);
    cassandra.restart();
    load.goes_on(500);
    let sent = load.finish();
    assert_eq!(subscriber.finish(&sent), 0);
}

#[test]
fn writes_that_time_out_are_repeated() {
    // Slower than its own patience again and again: what became of a write is then unknown.
    let mut cassandra = Cassandra::start();
    let node = node(&cassandra.address()).start();
    let subscriber = Subscriber::start(node.mqtt, "slow", 2);
    // Not before the schema is made: on a busy machine nothing is that quick.
    cassandra.set("write_request_timeout", "20ms");
    cassandra.stop();
    cassandra.restart();
    let load = Load::start(node.mqtt, "slow", 3, 2);
    for _ in 0..10 {
        load.goes_on(50);
        cassandra.pause();
        wait_out(Duration::from_millis(300));
        cassandra.resume();
    }
    load.goes_on(100);
    let sent = load.finish();
    assert_eq!(subscriber.finish(&sent), 0);
}

#[test]
fn while_cassandra_is_overloaded_publishers_wait() {
    // Past its limits it leaves requests unread, as it does for a driver that does not ask for
    // OVERLOADED (Cassandra's own choice for protocol v4).
    let settings = [
        ("native_transport_max_request_data_in_flight", "64KiB"),
        ("native_transport_max_request_data_in_flight_per_ip", "64KiB"),
        ("native_transport_max_requests_per_second", "300"),
        ("native_transport_rate_limiting_enabled", "true"),
    ];
    let settings = settings.map(|(key, value)| (key, value.to_owned())).to_vec();
    let cassandra = Cassandra::start_with(&Options { settings, ..Options::default() });
    let node = node(&cassandra.address()).start();
    let subscriber = Subscriber::start(node.mqtt, "overload", 1);
    let load = Load::start(node.mqtt, "overload", 3, 1);
    load.goes_on(3000);
    let sent = load.finish();
    assert_eq!(subscriber.finish(&sent), 0);
}

#[test]
fn a_replica_of_three_is_not_missed_and_two_are() {
    let mut cluster = CassandraCluster::start(3);
    let node = node(&cluster.addresses().join(","))
        .set("cassandra.replication_factor", 3)
        .set("cassandra.request_timeout", "3s")
        .start();
    let subscriber = Subscriber::start(node.mqtt, "quorum", 1);
    let load = Load::start(node.mqtt, "quorum", 3, 1);
    load.goes_on(500);
    cluster.nodes[2].kill9();
    load.goes_on(500);
    cluster.nodes[1].kill9();
    misses_its_store(&node);
    let acknowledged = load.acknowledged();
    cluster.nodes[2].restart();
    load.goes_on(500);
    cluster.nodes[1].restart();
    load.goes_on(500);
    assert!(load.acknowledged() > acknowledged);
    let sent = load.finish();
    assert_eq!(subscriber.finish(&sent), 0);
}
