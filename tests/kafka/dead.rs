//! Records that a real Kafka refuses for good: acknowledged once they are dead letters, kept over a
//! kill, delivered once by a replay, and no acknowledgement when there is no room for them.

use crate::support::client::{Client, Packet, Publish};
use crate::support::kafka::{Kafka, shared};
use crate::support::load::PATIENCE;
use crate::support::node::Builder;
use crate::support::{Node, eventually, says};

/// Above what the topics of these tests take.
const LARGE: usize = 30_000;

fn small_topic(kafka: &Kafka, name: &str) {
    kafka.create_topic(name, 1, &[("max.message.bytes", "20000")]);
}

fn node(kafka: &Kafka, ack: &str) -> Builder {
    Node::builder()
        .kafka(kafka)
        .set("kafka.partitions", 1)
        .set("kafka.compression", "none")
        .set("route_default.ack", ack)
}

fn large(name: &str) -> String {
    format!("{name} {}", "x".repeat(LARGE))
}

/// Returns when Kafka has said of each what it does.
fn replay(node: &Node, which: &str) {
    node.dead(&["replay", which]);
    eventually(PATIENCE, "the replay is over", || {
        !node.dead(&["list"]).1.contains("(on its way again)")
    });
}

/// Dead letters leave a node ready; what came before them may have made it unready for a while.
fn ready(node: &Node) {
    eventually(PATIENCE, "the node is ready", || node.http("/ready").0 == 200);
}

fn wait_letters(node: &Node, count: f64) {
    eventually(PATIENCE, "the dead letters are there", || {
        node.metric("hydrant_dead_letters") == count && node.metric("hydrant_outbox_records") == 0.0
    });
}

fn texts(kafka: &Kafka, topic: &str) -> Vec<String> {
    let records = kafka.read_all(topic);
    records.iter().map(|record| record.text().chars().take_while(|c| *c != ' ').collect()).collect()
}

fn survives_a_kill_and_is_replayed(ack: &str) {
    let kafka = shared();
    let (topic, mqtt) = (format!("dead-{ack}"), format!("dead/k/{ack}"));
    small_topic(kafka, &topic);
    let mut node = node(kafka, ack).start();
    let mut client = node.client("sender");
    client.publish(&mqtt, "before", 1);
    client.publish(&mqtt, large("one"), 1);
    client.publish(&mqtt, large("two"), 2);
    client.publish(&mqtt, "after", 1);
    wait_letters(&node, 2.0);
    ready(&node);
    assert_eq!(node.dropped("log_refused"), 0.0);
    let listed = node.dead_ids();
    assert_eq!(listed.len(), 2);
    let (_, shown) = node.dead(&["list"]);
    says(&shown, &["sender", &mqtt, &topic, &LARGE.to_string()[..3], "Kafka topic"]);
    node.kill9();
    let node = node.restart();
    assert_eq!(node.dead_ids(), listed, "the same after a kill");
    // Nothing has changed: refused again, and kept.
    replay(&node, &listed[0]);
    assert_eq!(
        (node.dead_ids(), node.metric("hydrant_dead_letters_written_total")),
        (listed.clone(), 1.0)
    );
    kafka.alter_topic(&topic, &[("max.message.bytes", "1000000")]);
    eventually(PATIENCE, "Kafka takes it now", || {
        replay(&node, &listed[0]);
        node.dead_ids() == listed[1..]
    });
    replay(&node, "--all");
    assert!(node.dead_ids().is_empty());
    assert_eq!(texts(kafka, &topic), ["before", "after", "one", "two"], "each once");
    let (ok, said) = node.dead(&["drop", &listed[0]]);
    assert!(!ok && said.contains("no such dead letters"), "{said}");
}

#[test]
fn at_level_stored_a_refused_record_survives_a_kill_and_is_replayed() {
    survives_a_kill_and_is_replayed("stored");
}

#[test]
fn at_level_kafka_a_refused_record_survives_a_kill_and_is_replayed() {
    survives_a_kill_and_is_replayed("kafka");
}

/// Sends without waiting for the acknowledgement.
fn send(client: &mut Client, topic: &str, payload: &str, qos: u8) -> u16 {
    let id = client.id();
    client.send(&Publish::new(topic, payload).qos(qos).id(id).bytes());
    id
}

#[test]
fn at_level_kafka_full_is_no_acknowledgement() {
    let kafka = shared();
    small_topic(kafka, "dead-full");
    let node = node(kafka, "kafka").set("log.dead_letter_max_bytes", 40_000).start();
    let mut client = node.client("first");
    client.publish("dead/k/full", large("one"), 1);
    wait_letters(&node, 1.0);
    let mut second = node.client("second");
    send(&mut second, "dead/k/full", &large("two"), 1);
    second.expect_closed();
    assert_eq!(node.metric("hydrant_dead_letters_full_total"), 1.0);
    // Others go on.
    client.publish("dead/k/full", "small", 1);
    assert!(node.dead(&["drop", "--all"]).0);
    let mut third = node.client("third");
    third.publish("dead/k/full", large("three"), 1);
    wait_letters(&node, 1.0);
    assert_eq!(texts(kafka, "dead-full"), ["small"]);
    ready(&node);
}

#[test]
fn at_level_stored_full_keeps_records_in_the_outbox() {
    let kafka = shared();
    small_topic(kafka, "dead-outbox");
    let mut node = node(kafka, "stored")
        .set("log.dead_letter_max_bytes", 40_000)
        .set("storage.outbox_lanes", 1)
        .start();
    let mut client = node.client("sender");
    for name in ["one", "two", "three"] {
        client.publish("dead/k/outbox", large(name), 1);
    }
    client.publish("dead/k/outbox", "small", 1);
    eventually(PATIENCE, "the small one is in Kafka", || {
        texts(kafka, "dead-outbox").contains(&"small".to_owned())
    });
    let waiting = || node.metric("hydrant_outbox_records");
    eventually(PATIENCE, "two stay in the outbox", || waiting() == 3.0);
    assert_eq!(node.metric("hydrant_dead_letters"), 1.0);
    ready(&node);
    node.kill9();
    let node = node.restart();
    let left = || node.metric("hydrant_outbox_records");
    eventually(PATIENCE, "they are tried again", || {
        node.metric("hydrant_dead_letters_full_total") >= 2.0
    });
    assert_eq!((left(), node.dead_ids().len()), (3.0, 1));
    kafka.alter_topic("dead-outbox", &[("max.message.bytes", "1000000")]);
    eventually(PATIENCE, "all are delivered", || {
        replay(&node, "--all");
        left() == 0.0 && node.metric("hydrant_dead_letters") == 0.0
    });
    let mut found = texts(kafka, "dead-outbox");
    found.sort();
    found.dedup();
    assert_eq!(found, ["one", "small", "three", "two"]);
}

#[test]
fn with_disconnect_the_publisher_learns_it_and_nothing_is_kept() {
    let kafka = shared();
    small_topic(kafka, "dead-disconnect");
    let node = node(kafka, "kafka").set("route_default.on_refused", "disconnect").start();
    let mut client = node.client("sender");
    send(&mut client, "dead/k/disconnect", &large("one"), 1);
    client.expect_closed();
    assert_eq!((node.metric("hydrant_dead_letters"), node.dropped("log_refused")), (0.0, 1.0));
}

/// A publisher that comes again with what is not acknowledged is let go on.
#[test]
fn a_publisher_does_not_come_again_with_the_same_record_for_ever() {
    let kafka = shared();
    small_topic(kafka, "dead-loop");
    let node = node(kafka, "kafka").start();
    let mut client = node.client("sender");
    let sent: Vec<u16> =
        (0..10).map(|n| send(&mut client, "dead/k/loop", &large(&n.to_string()), 1)).collect();
    for id in sent {
        let answer = client.recv_within(PATIENCE).unwrap();
        assert_eq!(answer, Some(Packet::Puback(id)));
    }
    wait_letters(&node, 10.0);
    let lines = node.log();
    let about = lines.iter().filter(|line| line.contains("the log refuses a record")).count();
    assert!((1..8).contains(&about), "{about}: {lines:?}");
}
