//! Topics beyond a cap, and the largest records: what a device is told arrives, whatever its topics.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::support::client::{Client, Connect, Packet, Publish};
use crate::support::kafka::{Kafka, Record, shared};
use crate::support::node::Builder;
use crate::support::{Node, eventually};

const PATIENCE: Duration = Duration::from_secs(60);
const OVERFLOW: &str = "mqtt.overflow";

fn node(kafka: &Kafka, ack: &str) -> Builder {
    Node::builder().kafka(kafka).set("kafka.partitions", 1).set("route_default.ack", ack)
}

/// The Kafka topic of a Home Assistant entity's discovery, by the default rule.
fn kafka_topic(mqtt: &str) -> String {
    hydrant_protocol::mapping::Mapping::default().map(mqtt).topic.to_string()
}

fn entity(ack: &str, n: usize) -> String {
    format!("homeassistant/sensor/{ack}{n}/temperature/config")
}

/// All records of these MQTT topics, in their own Kafka topics and in the overflow topic.
fn everywhere(kafka: &Kafka, mqtt: &[String]) -> Vec<Record> {
    let topics: BTreeSet<String> = mqtt.iter().map(|topic| kafka_topic(topic)).collect();
    let own = topics.iter().filter(|topic| kafka.partitions(topic) > 0);
    let own = own.flat_map(|topic| kafka.read_all(topic));
    own.chain(kafka.read_all(OVERFLOW)).collect()
}

fn drained(node: &Node) {
    eventually(PATIENCE, "the outbox is empty", || node.metric("hydrant_outbox_records") == 0.0);
}

#[test]
fn a_hundred_topics_of_one_client_are_all_in_kafka_once_at_the_defaults() {
    let kafka = Kafka::start();
    for ack in ["stored", "kafka"] {
        let node = node(&kafka, ack).start();
        let mut gateway = node.client(&format!("gateway-{ack}"));
        let topics: Vec<String> = (0..100).map(|n| entity(ack, n)).collect();
        for (n, topic) in topics.iter().enumerate() {
            gateway.publish(topic, n.to_string(), 1 + (n % 2) as u8);
        }
        drained(&node);
        let mut seen: BTreeMap<String, Vec<Record>> = BTreeMap::new();
        for record in everywhere(&kafka, &topics) {
            seen.entry(record.header("mqtt.topic").expect("the MQTT topic"))
                .or_default()
                .push(record);
        }
        let mut beyond = 0;
        for (n, topic) in topics.iter().enumerate() {
            let [record] = seen.get(topic).map(Vec::as_slice).unwrap_or_default() else {
                panic!("{ack}: {topic} came {} times", seen.get(topic).map_or(0, Vec::len));
            };
            assert_eq!(record.text(), n.to_string());
            if record.topic == OVERFLOW {
                assert_eq!(record.key.as_deref(), Some(topic.as_bytes()));
                beyond += 1;
            } else {
                assert_eq!(record.topic, kafka_topic(topic));
            }
        }
        assert_eq!(beyond, 80, "kafka.max_topics_per_client = 20");
        assert_eq!(node.metric("hydrant_overflow_records_total"), 80.0);
        assert_eq!(node.dropped("log_refused"), 0.0);
        node.wait_log("is beyond kafka.max_topics_per_client: its records go to mqtt.overflow");
    }
}

/// The outbox holds where each record goes, so that fresh caps and another configuration change
/// nothing for it.
#[test]
fn what_stands_in_the_outbox_keeps_its_topic_over_a_restart() {
    let mut kafka = Kafka::prepare();
    let mut node = node(&kafka, "stored").set("kafka.max_topics_per_client", 3).start();
    let topics: Vec<String> = (0..10).map(|n| entity("restart", n)).collect();
    let mut gateway = node.client("gateway");
    for topic in &topics {
        gateway.publish(topic, "x", 1);
    }
    node.kill9();
    kafka.restart();
    let node = node.restart_with(|builder| builder.set("kafka.max_topics_per_client", 0));
    drained(&node);
    let mut found: Vec<(String, String)> = everywhere(&kafka, &topics)
        .into_iter()
        .map(|record| (record.header("mqtt.topic").expect("the MQTT topic"), record.topic))
        .collect();
    found.sort();
    let mut expected: Vec<(String, String)> = topics
        .iter()
        .enumerate()
        .map(|(n, topic)| {
            (topic.clone(), if n < 3 { kafka_topic(topic) } else { OVERFLOW.to_owned() })
        })
        .collect();
    expected.sort();
    assert_eq!(found, expected);
    assert_eq!(node.dropped("log_refused"), 0.0);
}

/// A start in front of a Kafka that answers knows its topics before the first publish.
#[test]
fn topics_that_exist_count_for_no_cap_after_a_restart() {
    let kafka = Kafka::start();
    for n in 0..30 {
        kafka.create_topic(&kafka_topic(&entity("there", n)), 1, &[]);
    }
    let mut node = node(&kafka, "stored").set("kafka.max_topics_per_client", 1).start();
    for _ in 0..3 {
        let mut gateway = node.client("gateway");
        for n in 0..30 {
            gateway.publish(&entity("there", n), "x", 1);
        }
        drained(&node);
        assert_eq!(node.metric("hydrant_overflow_records_total"), 0.0);
        node.kill9();
        node = node.restart();
    }
}

#[test]
fn without_an_overflow_topic_nothing_acknowledged_is_missing() {
    let kafka = shared();
    for ack in ["stored", "kafka"] {
        let node = node(kafka, ack)
            .set("kafka.overflow_topic", "\"\"")
            .set("kafka.max_topics_per_client", 5)
            .start();
        let topics: Vec<String> = (0..9).map(|n| entity(&format!("off{ack}"), n)).collect();
        let mut acknowledged = Vec::new();
        for (n, topic) in topics.iter().enumerate() {
            // Each on a connection of its own, by one client.
            let mut client = Client::connect(node.mqtt, &Connect::new(&format!("capped-{ack}")));
            client.send(&Publish::new(topic, b"x").qos(1 + (n % 2) as u8).id(1).bytes());
            if n < 5 {
                client.expect(if n % 2 == 0 { Packet::Puback(1) } else { Packet::Pubrec(1) });
                acknowledged.push(topic.clone());
            } else {
                client.expect_closed();
            }
        }
        drained(&node);
        for topic in &acknowledged {
            assert_eq!(kafka.read_all(&kafka_topic(topic)).len(), 1, "{topic}");
        }
        for topic in &topics[5..] {
            assert_eq!(kafka.partitions(&kafka_topic(topic)), 0, "{topic}");
        }
        assert_eq!(node.dropped("topic_cap"), 4.0);
        assert_eq!(node.dropped("log_refused"), 0.0);
        // QoS 0 is dropped and ends nobody.
        let mut client = node.client(&format!("capped-{ack}"));
        client.publish(&topics[8], "x", 0);
        client.ping();
        // The router counts it, which may be after the ping.
        eventually(PATIENCE, "QoS 0 is dropped", || node.dropped("topic_cap") >= 5.0);
        node.wait_log("its publishes are refused");
    }
}

/// The largest packet with the longest topic, and what cannot be compressed, at the defaults of both.
#[test]
fn the_largest_packets_fit_into_kafka_at_its_defaults() {
    let kafka = shared();
    let node = node(kafka, "stored").set("kafka.compression", "none").start();
    let long = format!("largest/{}", "k".repeat(65_535 - 8));
    let defaults = hydrant::config::load(&hydrant::config::Sources::default()).unwrap();
    let packet = defaults.config.settings.limits.max_packet_size;
    for (at, topic) in ["largest/1/x", &long].into_iter().enumerate() {
        // Fixed header, topic's length, packet id.
        let payload = vec![b'0' + at as u8; packet - 4 - 2 - topic.len() - 2];
        let mut client = node.client(&"c".repeat(1024));
        client.publish(topic, payload, 1);
    }
    drained(&node);
    assert_eq!(node.dropped("log_refused"), 0.0);
    assert_eq!(kafka.read_all("largest-x").len(), 1);
    let records = kafka.read_all("largest");
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].key.as_ref().map(Vec::len), Some(65_535 - 8));
}
