//! The adapter [`hydrant::kafka::KafkaLog`] against a real Kafka and a real consumer.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hydrant::kafka::KafkaOptions;
use hydrant_actors::ports::{Admission, MessageLog, OutboxPosition};

use crate::driver::{Driver, assert_complete_and_in_order, numbered, options, record};
use crate::support::eventually;
use crate::support::kafka::{Kafka, shared};

const PATIENCE: Duration = Duration::from_secs(60);
const NOW: Duration = Duration::from_millis(20);

#[test]
fn records_arrive_whole_in_order_and_co_partitioned() {
    let kafka = shared();
    let mut driver = Driver::new(options(&kafka.address()));
    driver.push(numbered("whole", 50, 0..5_000));
    let mut last = record(5_000, "whole", None, "", "c");
    last.outbox = Some(OutboxPosition { lane: 3, position: 9 });
    last.retain = true;
    driver.push([last]);
    driver.finish(PATIENCE);
    assert!(driver.largest_batch > 1, "reports come in batches");
    assert!(driver.log.flush(PATIENCE));

    let mut records = kafka.read_all("whole");
    assert_eq!(records.len(), 5_001);
    let at = records.iter().position(|record| record.key.is_none()).expect("the null key");
    let null = records.remove(at);
    assert_eq!(null.payload, Some(Vec::new()), "an empty payload is no tombstone");
    assert_eq!(null.header("hydrant.outbox").as_deref(), Some("3/9"));
    assert_eq!(null.header("mqtt.retain").as_deref(), Some("1"));
    assert_eq!(assert_complete_and_in_order(&records, 50, 5_000), 0);
    for record in &records {
        let key = record.key.as_deref().expect("a key");
        assert_eq!(
            record.partition as u32,
            hydrant_protocol::mapping::partition(key, 3),
            "{key:?}"
        );
    }
    let some = &records[0];
    let id: u64 =
        some.header("hydrant.id").expect("hydrant.id").rsplit('/').next().unwrap().parse().unwrap();
    assert_eq!(some.timestamp, 1_700_000_000_000 + id as i64);
    assert_eq!(some.header("hydrant.id"), Some(format!("n1/7/{id}")));
    assert_eq!(some.header("mqtt.client").as_deref(), Some("c"));
    assert_eq!(some.header("mqtt.qos").as_deref(), Some("1"));
    assert_eq!(some.header("mqtt.topic"), Some(format!("device/k{}/whole", id % 50)));
}

#[test]
fn a_consumer_group_of_two_splits_the_partitions() {
    let kafka = shared();
    kafka.create_topic("split", 4, &[]);
    let mut driver = Driver::new(options(&kafka.address()));
    let readers = [kafka.consumer("pair", &["split"]), kafka.consumer("pair", &["split"])];
    let mut read = [Vec::new(), Vec::new()];
    eventually(PATIENCE, "both members have two partitions", || {
        for (reader, read) in readers.iter().zip(&mut read) {
            read.extend(reader.read(1, Duration::from_millis(50)));
        }
        readers.iter().all(|reader| reader.assigned() == 2)
    });
    driver.push(numbered("split", 100, 0..2_000));
    driver.finish(PATIENCE);
    eventually(PATIENCE, "both have read everything together", || {
        for (reader, read) in readers.iter().zip(&mut read) {
            read.extend(reader.read(2_000, Duration::from_millis(100)));
        }
        read.iter().map(Vec::len).sum::<usize>() >= 2_000
    });
    let partitions: Vec<BTreeSet<i32>> = read
        .iter()
        .map(|records| records.iter().map(|record| record.partition).collect())
        .collect();
    assert!(partitions[0].is_disjoint(&partitions[1]), "{partitions:?}");
    assert_eq!(partitions[0].len() + partitions[1].len(), 4);
    let all: Vec<_> = read.into_iter().flatten().collect();
    assert_eq!(assert_complete_and_in_order(&all, 100, 2_000), 0);
}

#[test]
fn topics_are_admitted_up_to_the_caps_and_what_is_admitted_is_made() {
    let kafka = shared();
    kafka.create_topic("cap-there", 1, &[]);
    let mut driver = Driver::new(KafkaOptions {
        max_topics_created: 3,
        max_topics_per_client: 2,
        ..options(&kafka.address())
    });
    let log = driver.log.clone();
    let admit = |topic: &str, client: &str| match log.admit(&topic.into(), &client.into()) {
        Admission::Own => "",
        Admission::Beyond { cap, .. } => cap,
    };
    let per_client = "kafka.max_topics_per_client";
    // Before Kafka has told what it has.
    assert_eq!((admit("cap-there", "a"), admit("cap-a1", "a")), ("", ""));
    eventually(PATIENCE, "what is there has given its place back", || {
        admit("cap-a2", "a").is_empty()
    });
    assert_eq!(admit("cap-a3", "a"), per_client);
    // Another client may have the same topic made; then the first may write to it.
    assert_eq!((admit("cap-a3", "b"), admit("cap-a3", "a")), ("", ""));
    assert_eq!(admit("cap-c1", "c"), "kafka.max_topics_created");
    let mut id = 0;
    let mut publish = |driver: &mut Driver, topic: &str, client: &str| {
        driver.push([record(id, topic, Some("k"), "x", client)]);
        id += 1;
        driver.finish(PATIENCE);
    };
    for topic in ["cap-a1", "cap-a2", "cap-a3", "cap-there", "mqtt.overflow"] {
        publish(&mut driver, topic, "a");
    }
    assert_eq!((driver.acknowledged, driver.refused.len()), (5, 0), "admitted, or beyond no cap");
    assert_eq!((admit("cap-there", "d"), admit("cap-a1", "d")), ("", ""));
    assert_eq!((kafka.partitions("cap-a1"), kafka.partitions("cap-c1")), (3, 0));
    // From the outbox of an earlier start, which had admitted it.
    publish(&mut driver, "cap-stored", "a");
    assert_eq!((driver.acknowledged, driver.refused.len()), (6, 0));
    // Somebody else makes a topic that is beyond a cap.
    assert_eq!(admit("cap-later", "a"), "kafka.max_topics_created");
    let generation = log.admissions();
    kafka.create_topic("cap-later", 1, &[]);
    eventually(PATIENCE, "it is found, in a new generation", || {
        admit("cap-later", "a").is_empty() && log.admissions() > generation
    });
}

#[test]
fn a_topic_that_has_to_exist_is_refused_until_it_does() {
    let kafka = shared();
    kafka.create_topic("must-other", 1, &[]);
    let mut driver = Driver::new(KafkaOptions {
        create_topics: false,
        park_time: Duration::from_secs(3),
        ..options(&kafka.address())
    });
    driver
        .push([record(0, "must-missing", None, "x", "c"), record(1, "must-other", None, "x", "c")]);
    driver.until("the other topic is served", PATIENCE, |driver| driver.acknowledged == 1);
    driver.finish(PATIENCE);
    let (id, why) = driver.refused.pop().expect("a refusal");
    assert_eq!(id, 0);
    assert!(why.contains("must-missing") && why.contains("kafka.create_topics = true"), "{why}");
    kafka.create_topic("must-missing", 1, &[]);
    let mut id = 2;
    eventually(PATIENCE, "the refusal is forgotten", || {
        driver.push([record(id, "must-missing", None, "x", "c")]);
        id += 1;
        driver.finish(PATIENCE);
        driver.acknowledged > 1
    });
}

#[test]
fn what_is_too_large_is_refused_and_nothing_else() {
    let kafka = shared();
    kafka.create_topic("large", 1, &[("max.message.bytes", "20000")]);
    let mut driver =
        Driver::new(KafkaOptions { compression: "none".into(), ..options(&kafka.address()) });
    // Each fits by itself, the batch does not.
    let text = "x".repeat(1_000);
    driver.push((0..200).map(|id| record(id, "large", Some("k"), &text, "c")));
    driver.push([record(200, "large", Some("k"), &"y".repeat(30_000), "c")]);
    driver.push([record(201, "large", Some("k"), &"z".repeat(2_000_000), "c")]);
    driver.push((202..210).map(|id| record(id, "large", Some("k"), &text, "c")));
    driver.finish(PATIENCE);
    let refused: BTreeSet<u64> = driver.refused.iter().map(|(id, _)| *id).collect();
    assert_eq!(refused, BTreeSet::from([200, 201]), "{:?}", driver.refused);
    assert_eq!(driver.acknowledged, 208);
}

#[test]
fn added_partitions_are_used() {
    let kafka = shared();
    kafka.create_topic("grow", 2, &[]);
    let mut fast = options(&kafka.address());
    fast.properties.insert("topic.metadata.refresh.interval.ms".into(), "500".into());
    let mut driver = Driver::new(fast);
    driver.push(numbered("grow", 40, 0..400));
    driver.finish(PATIENCE);
    kafka.add_partitions("grow", 5);
    let mut next = 400;
    eventually(PATIENCE, "records reach a new partition", || {
        driver.push(numbered("grow", 40, next..next + 400));
        next += 400;
        driver.finish(PATIENCE);
        kafka.read_all("grow").iter().any(|record| record.partition >= 2)
    });
    driver.push(numbered("grow", 40, next..next + 400));
    driver.finish(PATIENCE);
    let records = kafka.read_all("grow");
    assert_eq!(records.len() as u64, next + 400);
    let newest: Vec<_> = records
        .iter()
        .filter(|record| record.timestamp >= 1_700_000_000_000 + next as i64)
        .collect();
    assert_eq!(newest.len(), 400);
    for record in newest {
        let key = record.key.as_deref().expect("a key");
        assert_eq!(record.partition as u32, hydrant_protocol::mapping::partition(key, 5));
    }
    assert_eq!(driver.resets, 0);
}

#[test]
fn kafka_absent_at_the_start_is_waited_for_within_the_bound() {
    let mut kafka = Kafka::prepare();
    let mut driver =
        Driver::new(KafkaOptions { queue_max_messages: 1_000, ..options(&kafka.address()) });
    driver.push(numbered("absent", 10, 0..3_000));
    driver.until("the queue is full", PATIENCE, |driver| driver.outstanding() == 1_000);
    driver.step(Duration::from_secs(2));
    assert_eq!((driver.outstanding(), driver.acknowledged, driver.left()), (1_000, 0, 3_000));
    assert!(
        driver.log.describe().contains("1000 waiting for a topic"),
        "{}",
        driver.log.describe()
    );
    kafka.restart();
    driver.finish(PATIENCE);
    assert_eq!((driver.acknowledged, driver.resets), (3_000, 0));
    assert_eq!(assert_complete_and_in_order(&kafka.read_all("absent"), 10, 3_000), 0);
}

/// Length of an outage: 15 s, or HYDRANT_OUTAGE seconds.
fn outage() -> Duration {
    let seconds = std::env::var("HYDRANT_OUTAGE").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(15))
}

/// Publishes steadily, `rate` records each 20 ms, while `time` lasts; returns the next id.
fn publish_through(driver: &mut Driver, topic: &str, mut next: u64, time: Duration) -> u64 {
    let end = std::time::Instant::now() + time;
    while std::time::Instant::now() < end {
        driver.push(numbered(topic, 20, next..next + 20));
        next += 20;
        let tick = std::time::Instant::now() + NOW;
        while std::time::Instant::now() < tick {
            driver.step(Duration::from_millis(5));
        }
    }
    next
}

#[test]
fn outages_lose_nothing_and_keep_the_order() {
    let mut kafka = Kafka::start();
    let mut driver = Driver::new(options(&kafka.address()));
    let mut next = publish_through(&mut driver, "outage", 0, Duration::from_secs(1));

    // Stopped and started again; nothing has to be reset.
    kafka.stop();
    next = publish_through(&mut driver, "outage", next, outage());
    assert!(!driver.log.is_up(), "{}", driver.log.describe());
    kafka.restart();
    driver.finish(PATIENCE);
    assert_eq!(driver.resets, 0, "librdkafka did not decide");

    // Frozen, with a reset in between: what hangs in its sockets comes twice at most.
    kafka.pause();
    next = publish_through(&mut driver, "outage", next, Duration::from_secs(2));
    driver.log.reset();
    next = publish_through(&mut driver, "outage", next, Duration::from_secs(1));
    kafka.resume();
    driver.finish(PATIENCE);

    // Killed.
    kafka.kill9();
    next = publish_through(&mut driver, "outage", next, Duration::from_secs(2));
    kafka.restart();
    next = publish_through(&mut driver, "outage", next, Duration::from_secs(1));
    driver.finish(PATIENCE);
    assert_eq!(driver.acknowledged, next);
    assert_complete_and_in_order(&kafka.read_all("outage"), 20, next);
}

#[test]
fn an_outage_longer_than_the_message_time_out_is_survived() {
    let mut kafka = Kafka::start();
    let mut driver = Driver::new(KafkaOptions {
        message_timeout: Duration::from_secs(2),
        ..options(&kafka.address())
    });
    let mut next = publish_through(&mut driver, "expired", 0, Duration::from_secs(1));
    kafka.stop();
    next = publish_through(&mut driver, "expired", next, Duration::from_secs(8));
    assert!(driver.resets > 0, "the time-out struck");
    kafka.restart();
    next = publish_through(&mut driver, "expired", next, Duration::from_secs(1));
    driver.finish(PATIENCE);
    assert_eq!(driver.acknowledged, next);
    assert_complete_and_in_order(&kafka.read_all("expired"), 20, next);
}

#[test]
fn a_fatal_error_replaces_the_producer() {
    let kafka = shared();
    let mut driver = Driver::new(options(&kafka.address()));
    let mut next = publish_through(&mut driver, "fatal", 0, Duration::from_millis(500));
    for round in 1..=3 {
        driver.log.raise_fatal_error();
        next = publish_through(&mut driver, "fatal", next, Duration::from_millis(500));
        driver.finish(PATIENCE);
        assert!(driver.resets >= round, "{}", driver.log.describe());
    }
    assert_eq!(driver.acknowledged, next);
    assert_complete_and_in_order(&kafka.read_all("fatal"), 20, next);
}

#[test]
fn nothing_is_sent_after_a_failure_until_the_reset() {
    let kafka = shared();
    let mut driver = Driver::new(options(&kafka.address()));
    driver.push(numbered("halt", 5, 0..100));
    driver.finish(PATIENCE);
    driver.resets_itself = false;
    driver.log.raise_fatal_error();
    for id in 100..110 {
        let back = driver.log.append(vec![record(id, "halt", Some("k0"), "k0:999", "c")]);
        assert!(back.is_empty());
    }
    assert!(driver.log.flush(PATIENCE), "all are reported");
    assert_eq!(kafka.read_all("halt").len(), 100);
    let counters = driver.log.counters();
    assert_eq!((counters.acknowledged, counters.unavailable, counters.outstanding), (100, 10, 0));
    assert!(driver.log.describe().contains("broken until reset"));
}

#[test]
fn a_topic_deleted_while_running_is_made_again() {
    let kafka = shared();
    let mut driver = Driver::new(options(&kafka.address()));
    driver.push(numbered("gone", 5, 0..100));
    driver.finish(PATIENCE);
    kafka.delete_topic("gone");
    driver.push(numbered("gone", 5, 100..200));
    driver.finish(Duration::from_secs(120));
    assert_eq!(driver.acknowledged, 200);
    let mut per_key: BTreeMap<Option<Vec<u8>>, usize> = BTreeMap::new();
    for record in kafka.read_all("gone") {
        *per_key.entry(record.key).or_default() += 1;
    }
    assert!(per_key.len() == 5 && per_key.values().all(|count| *count >= 20), "{per_key:?}");
}

#[test]
fn many_topics_at_once_are_made() {
    let kafka = shared();
    let mut driver = Driver::new(KafkaOptions {
        partitions: 1,
        max_topics_per_client: 100,
        ..options(&kafka.address())
    });
    driver.push((0..60).map(|id| record(id, &format!("many-{}", id % 30), Some("k"), "x", "c")));
    driver.finish(PATIENCE);
    assert_eq!((driver.acknowledged, driver.log.counters().topics_created), (60, 30));
}
