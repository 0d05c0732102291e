//! From a device to a real consumer: a whole node in front of a real Kafka, with Kafka absent,
//! stopped, killed, and the node killed, under load. What was acknowledged is in Kafka, and the
//! first occurrences of each key are in order.
//!
//! Outages last 15 s; `HYDRANT_OUTAGE_SECONDS` makes them longer.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::support::client::{Client, Connect, Publish};
use crate::support::kafka::{Kafka, Record, shared};
use crate::support::load::{Load, PATIENCE, Seen};
use crate::support::node::Builder;
use crate::support::{Node, eventually, wait_out};

fn outage() -> Duration {
    let seconds = std::env::var("HYDRANT_OUTAGE_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(15))
}

fn node(kafka: &Kafka, ack: &str) -> Builder {
    Node::builder()
        .kafka(kafka)
        .set("kafka.partitions", 3)
        .set("route_default.ack", ack)
        .set("debug.faults", true)
}

/// Every acknowledged sequence is there, and the first occurrences of each key are in order.
fn assert_all_there(records: &[Record], sent: &BTreeMap<String, u64>) -> u64 {
    let mut seen = Seen::default();
    for record in records {
        let key = String::from_utf8(record.key.clone().expect("a key")).expect("text");
        seen.take(&key, record.text().parse().expect("a sequence"));
    }
    seen.check(sent)
}

/// Reads the topic until everything acknowledged is there.
fn assert_arrives(kafka: &Kafka, node: &Node, topic: &str, sent: &BTreeMap<String, u64>) -> u64 {
    eventually(PATIENCE, "the outbox is empty", || node.metric("hydrant_outbox_records") == 0.0);
    assert_all_there(&kafka.read_all(topic), sent)
}

fn total(sent: &BTreeMap<String, u64>) -> u64 {
    sent.values().sum()
}

/// Waits until the load has had this many more acknowledgements at this level.
fn acknowledged_more(node: &Node, level: &str, more: f64) {
    let name = format!("hydrant_acknowledged_total{{level=\"{level}\"}}");
    let before = node.metric(&name);
    eventually(PATIENCE, "publishes are acknowledged", || node.metric(&name) >= before + more);
}

#[test]
fn a_publish_becomes_a_record_with_topic_key_and_headers() {
    let kafka = shared();
    let node = node(kafka, "kafka").start();
    let mut client = node.client("meter-42");
    client.publish("gauge/42/thermo", "21.5", 1);
    client.publish("gauge/42/thermo", "21.6", 2);
    let records = kafka.read_all("gauge-thermo");
    assert_eq!(records.len(), 2);
    let record = &records[0];
    assert_eq!(record.key.as_deref(), Some(&b"42"[..]));
    assert_eq!(record.text(), "21.5");
    assert_eq!(record.header("mqtt.topic").as_deref(), Some("gauge/42/thermo"));
    assert_eq!(record.header("mqtt.client").as_deref(), Some("meter-42"));
    assert_eq!(record.header("mqtt.qos").as_deref(), Some("1"));
    let partition = hydrant_protocol::mapping::partition(b"42", 3);
    assert!(records.iter().all(|record| record.partition as u32 == partition), "Java's murmur2");
}

#[test]
fn two_members_of_a_group_split_the_partitions_and_see_every_record_once() {
    let kafka = shared();
    let node = node(kafka, "kafka").start();
    let mut client = node.client("grouped");
    client.publish("grouped/first/load", "0", 1);
    let readers: Vec<_> = (0..2).map(|_| kafka.consumer("two", &["grouped-load"])).collect();
    let mut seen: Vec<BTreeMap<String, u32>> = vec![BTreeMap::new(), BTreeMap::new()];
    let poll = |seen: &mut Vec<BTreeMap<String, u32>>| {
        for (reader, seen) in readers.iter().zip(seen) {
            for record in reader.read(1000, Duration::from_millis(50)) {
                *seen.entry(record.text()).or_default() += 1;
            }
        }
    };
    eventually(PATIENCE, "both members have partitions", || {
        poll(&mut seen);
        readers.iter().all(|reader| reader.assigned() > 0)
    });
    for n in 1..=600 {
        client.publish(&format!("grouped/{}/load", n % 40), n.to_string(), 1);
    }
    eventually(PATIENCE, "the group has seen every record", || {
        poll(&mut seen);
        seen.iter().map(BTreeMap::len).sum::<usize>() >= 601
    });
    assert!(seen.iter().all(|member| !member.is_empty()), "both had records");
    assert!(seen.iter().flat_map(BTreeMap::values).all(|times| *times == 1), "each record once");
}

#[test]
fn with_kafka_stopped_and_started_stored_publishes_go_on_and_none_is_lost() {
    let mut kafka = Kafka::start();
    let node = node(&kafka, "stored").set("log.max_pending_messages", 2000).start();
    let load = Load::start(node.mqtt, "outage", 8, 1);
    let exact = Load::start(node.mqtt, "exact", 2, 2);
    acknowledged_more(&node, "stored", 2000.0);
    kafka.stop();
    // The outbox takes over: acknowledgements go on while Kafka is away.
    acknowledged_more(&node, "stored", 5000.0);
    let mut chatter = node.client("chatter");
    eventually(PATIENCE, "QoS 0 is dropped and counted once the log is full", || {
        for n in 0..100 {
            chatter.publish("chatter/1/load", n.to_string(), 0);
        }
        node.dropped("log_full_qos0") > 0.0
    });
    wait_out(outage());
    kafka.restart();
    acknowledged_more(&node, "stored", 2000.0);
    let (topic, exact_topic) = (load.topic(), exact.topic());
    let (sent, exact) = (load.finish(), exact.finish());
    assert_arrives(&kafka, &node, &topic, &sent);
    assert_arrives(&kafka, &node, &exact_topic, &exact);
    assert!(total(&sent) > 9000);
}

#[test]
fn with_kafka_stopped_and_started_kafka_publishes_wait_on_their_connections() {
    let mut kafka = Kafka::start();
    let node = node(&kafka, "kafka").start();
    let load = Load::start(node.mqtt, "waiting", 8, 1);
    acknowledged_more(&node, "kafka", 2000.0);
    kafka.kill9();
    wait_out(outage());
    kafka.restart();
    acknowledged_more(&node, "kafka", 2000.0);
    let topic = load.topic();
    let sent = load.finish();
    assert_arrives(&kafka, &node, &topic, &sent);
    assert_eq!(
        node.metric("hydrant_storage_batches_total"),
        0.0,
        "nothing is stored for Kafka's sake"
    );
}

#[test]
fn with_kafka_absent_at_start_the_outbox_fills_to_its_bound_and_drains_when_kafka_comes() {
    let mut kafka = Kafka::prepare();
    let node = node(&kafka, "stored").set("storage.outbox_max_bytes", "1MiB").start();
    let load = Load::start(node.mqtt, "absent", 4, 1);
    eventually(PATIENCE, "the outbox is full", || node.metric("hydrant_outbox_full_total") > 0.0);
    let bytes = node.metric("hydrant_outbox_bytes");
    assert!((900_000.0..2_000_000.0).contains(&bytes), "{bytes} bytes in an outbox of 1 MiB");
    // Full means no acknowledgement; others go on.
    let mut other = node.client("other").subscribed("plain/#", 0);
    other.publish("plain/1/x", "still here", 0);
    assert_eq!(other.publish_in().text(), "still here");
    kafka.restart();
    acknowledged_more(&node, "stored", 2000.0);
    let topic = load.topic();
    let sent = load.finish();
    assert_arrives(&kafka, &node, &topic, &sent);
}

#[test]
fn a_killed_node_drains_its_outbox_after_its_restart() {
    let mut kafka = Kafka::prepare();
    let mut node = node(&kafka, "stored").start();
    let mut client = node.client("before");
    for n in 0..500 {
        client.publish(&format!("killed/{}/load", n % 5), (n / 5).to_string(), 1);
    }
    node.kill9();
    kafka.restart();
    let node = node.restart();
    let sent = (0..5).map(|key| (key.to_string(), 100)).collect();
    assert_arrives(&kafka, &node, "killed-load", &sent);
    // And the lanes go on behind what was there.
    let mut client = node.client("after");
    client.publish("killed/0/load", "100", 1);
    eventually(PATIENCE, "the new record is there", || {
        kafka.read_all("killed-load").iter().any(|record| record.text() == "100")
    });
}

/// A will's row stays until Kafka has its record, at QoS 0 as well.
#[test]
fn a_will_that_kafka_does_not_have_yet_outlives_its_node() {
    for (kind, ack) in [("waits", "kafka"), ("stored", "stored")] {
        let mut kafka = Kafka::prepare();
        let mut node = node(&kafka, ack).start();
        for qos in 0..3 {
            let (client, topic) = (format!("{kind}-{qos}"), format!("will-{kind}/{qos}/load"));
            let will = Connect::new(&client).will(&topic, &qos.to_string(), qos);
            let dying = Client::connect(node.mqtt, &will);
            // Dies without DISCONNECT.
            drop(dying);
            node.wait_closed("eof", f64::from(qos) + 1.0);
        }
        node.kill9();
        kafka.restart();
        let _node = node.restart();
        let mut found = BTreeSet::new();
        eventually(PATIENCE, &format!("{ack}: the records of all wills"), || {
            let records = kafka.read_all(&format!("will_2D{kind}-load"));
            found.extend(records.iter().map(Record::text));
            found.len() == 3
        });
    }
}

#[test]
fn log_and_storage_actors_that_die_under_load_lose_and_disorder_nothing() {
    let kafka = shared();
    for ack in ["stored", "kafka"] {
        let node = node(kafka, ack).set("supervision.max_restarts", 50).start();
        let load = Load::start(node.mqtt, &format!("dying-{ack}"), 6, 1);
        for path in ["log", "storage", "topic-router/0", "connection-manager/0"] {
            for action in ["panic", "fail", "panic"] {
                acknowledged_more(&node, ack, 300.0);
                node.fault(action, path);
            }
        }
        acknowledged_more(&node, ack, 300.0);
        let topic = format!("dying_2D{ack}-load");
        let sent = load.finish();
        assert_arrives(kafka, &node, &topic, &sent);
    }
}

#[test]
fn a_node_stopped_in_order_has_everything_in_kafka() {
    let kafka = shared();
    let mut node = node(kafka, "stored").start();
    let mut client = node.client("last words");
    for n in 0..2000 {
        client.publish("stopping/1/load", n.to_string(), 1);
    }
    assert_eq!(node.terminate(), Some(0));
    let sent = BTreeMap::from([("1".to_owned(), 2000)]);
    assert_eq!(assert_all_there(&kafka.read_all("stopping-load"), &sent), 0);
}

#[test]
fn a_topic_that_may_not_be_made_ends_the_publisher_and_says_what_to_do() {
    let kafka = shared();
    let node = node(kafka, "kafka")
        .set("kafka.create_topics", false)
        .set("kafka.park_time", "2s")
        .set("route_default.on_refused", "disconnect")
        .start();
    let mut client = node.client("nobody");
    client.send(&Publish::new("missing/1/load", b"x").qos(1).id(1).bytes());
    client.expect_closed();
    node.wait_log("kafka.create_topics");
    assert_eq!(node.dropped("log_refused"), 1.0);
}
