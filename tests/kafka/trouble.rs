//! One topic's trouble is that topic's alone: others' records come once and as fast as before, the
//! log is never reset for it, and the topic's own order holds.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use hydrant::kafka::KafkaOptions;
use hydrant_actors::ports::{LogRecord, MessageLog as _};

use crate::driver::{Driver, assert_complete_and_in_order, numbered, options, record};
use crate::support::kafka::{Kafka, shared};
use crate::support::{Node, eventually};

const PATIENCE: Duration = Duration::from_secs(60);
/// Ids of the topic in trouble.
const BAD: u64 = 1 << 32;

/// Like [`numbered`], with payloads of about `size` bytes and ids from [`BAD`] on.
fn padded(
    topic: &str,
    keys: u64,
    ids: std::ops::Range<u64>,
    size: usize,
) -> impl Iterator<Item = LogRecord> {
    ids.map(move |id| {
        let key = format!("k{}", id % keys);
        let text = format!("{key}:{:0size$}", id / keys);
        record(BAD + id, topic, Some(&key), &text, "c")
    })
}

/// Hands records of `good` over, 20 every 5 ms, from `next` on; returns the next one.
fn go_on(driver: &mut Driver, good: &str, mut next: u64, time: Duration) -> u64 {
    let end = Instant::now() + time;
    while Instant::now() < end {
        driver.push(numbered(good, 20, next..next + 20));
        next += 20;
        let tick = Instant::now() + Duration::from_millis(5);
        while Instant::now() < tick {
            driver.step(Duration::from_millis(2));
        }
    }
    next
}

#[test]
fn a_record_its_topic_can_never_take_is_refused_and_no_other_comes_twice() {
    let kafka = shared();
    kafka.create_topic("pill-good", 3, &[]);
    kafka.create_topic("pill-segment", 1, &[("segment.bytes", "4000")]);
    kafka.create_topic("pill-message", 1, &[("max.message.bytes", "2000")]);
    let mut driver =
        Driver::new(KafkaOptions { compression: "none".into(), ..options(&kafka.address()) });
    let mut next = go_on(&mut driver, "pill-good", 0, Duration::from_millis(500));
    for (at, topic) in ["pill-segment", "pill-message"].into_iter().enumerate() {
        let pill = BAD + 1_000 * (at as u64 + 1);
        driver.push(padded(topic, 5, 0..50, 10).map(move |mut record| {
            record.id += 2 * 1_000_000 * (at as u64 + 1);
            record
        }));
        driver.push([record(pill, topic, Some("k0"), &"x".repeat(9_000), "c")]);
        next = go_on(&mut driver, "pill-good", next, Duration::from_secs(2));
    }
    driver.finish(PATIENCE);
    let refused: BTreeSet<u64> = driver.refused.iter().map(|(id, _)| *id).collect();
    assert_eq!(refused, BTreeSet::from([BAD + 1_000, BAD + 2_000]), "{:?}", driver.refused);
    assert!(driver.refused[0].1.contains("segment.bytes"), "{:?}", driver.refused);
    assert!(driver.refused[1].1.contains("max.message.bytes"), "{:?}", driver.refused);
    assert_eq!(driver.acknowledged, next + 100);
    assert_eq!((driver.resets, driver.log.counters().unavailable), (0, 0));
    let good = kafka.read_all("pill-good");
    assert_eq!(assert_complete_and_in_order(&good, 20, next), 0, "records came twice");
    for topic in ["pill-segment", "pill-message"] {
        assert_eq!(assert_complete_and_in_order(&kafka.read_all(topic), 5, 50), 0);
    }
}

#[test]
fn a_batch_that_is_too_large_is_split_in_order_and_others_do_not_notice() {
    let kafka = shared();
    kafka.create_topic("split-good", 3, &[]);
    kafka.create_topic("split-known", 2, &[("max.message.bytes", "20000")]);
    kafka.create_topic("split-bad", 2, &[]);
    kafka.create_topic("split-tiny", 2, &[]);
    let mut driver =
        Driver::new(KafkaOptions { compression: "none".into(), ..options(&kafka.address()) });
    let mut next = go_on(&mut driver, "split-good", 0, Duration::from_millis(300));
    // Of the first the limit is known before anything is sent, of the others it changes.
    for (topic, at, limit) in [
        ("split-known", 1, None),
        ("split-bad", 2, Some("200000")),
        ("split-tiny", 3, Some("2000")),
    ] {
        let shifted = |mut record: LogRecord| {
            record.id += at * 1_000_000;
            record
        };
        driver.push(padded(topic, 10, 0..20, 10).map(shifted));
        next = go_on(&mut driver, "split-good", next, Duration::from_millis(300));
        if let Some(limit) = limit {
            kafka.alter_topic(topic, &[("max.message.bytes", limit)]);
        }
        driver.push(padded(topic, 10, 20..3_000, 1_000).map(shifted));
        next = go_on(&mut driver, "split-good", next, Duration::from_secs(2));
        driver.push(padded(topic, 10, 3_000..4_000, 10).map(shifted));
        next = go_on(&mut driver, "split-good", next, Duration::from_millis(300));
        let replaced = driver.log.counters().replaced;
        assert_eq!(replaced > 0, limit.is_some(), "{topic}: {replaced} producers were replaced");
    }
    driver.finish(PATIENCE);
    assert_eq!(driver.refused, []);
    assert_eq!(driver.acknowledged, next + 12_000);
    assert_eq!((driver.resets, driver.log.counters().unavailable), (0, 0));
    for topic in ["split-known", "split-bad", "split-tiny"] {
        assert_complete_and_in_order(&kafka.read_all(topic), 10, 4_000);
    }
    let good = kafka.read_all("split-good");
    assert_eq!(assert_complete_and_in_order(&good, 20, next), 0, "records came twice");
}

#[test]
fn records_refused_one_after_another_stop_nobody_else() {
    let kafka = shared();
    kafka.create_topic("refuse-good", 3, &[]);
    kafka.create_topic("refuse-compacted", 1, &[("cleanup.policy", "compact")]);
    let mut driver = Driver::new(options(&kafka.address()));
    let mut next = 0;
    // Without a key: a compacted topic takes none of them, and all those with one.
    for n in 0..20 {
        driver.push(padded("refuse-compacted", 5, 10 * n..10 * n + 5, 10));
        driver.push([record(BAD + 10_000 + n, "refuse-compacted", None, "x", "c")]);
        driver.push(padded("refuse-compacted", 5, 10 * n + 5..10 * n + 10, 10));
        next = go_on(&mut driver, "refuse-good", next, Duration::from_millis(100));
    }
    driver.finish(PATIENCE);
    let refused: BTreeSet<u64> = driver.refused.iter().map(|(id, _)| *id - BAD - 10_000).collect();
    assert_eq!(refused, (0..20).collect(), "{:?}", driver.refused);
    assert!(driver.refused[0].1.contains("wants a key"), "{:?}", driver.refused);
    assert_eq!(driver.acknowledged, next + 200);
    assert_eq!((driver.resets, driver.log.counters().unavailable), (0, 0));
    assert_eq!(driver.log.counters().main_replaced, 1, "the topic went aside at once");
    let good = kafka.read_all("refuse-good");
    assert_eq!(assert_complete_and_in_order(&good, 20, next), 0, "records came twice");
    assert_complete_and_in_order(&kafka.read_all("refuse-compacted"), 5, 200);
}

#[test]
fn after_a_record_too_large_for_its_topic_others_are_as_fast_as_before() {
    let kafka = shared();
    kafka.create_topic("shrink-good", 1, &[]);
    kafka.create_topic("shrink-bad", 1, &[]);
    // Nothing is made small by its codec.
    let mut driver =
        Driver::new(KafkaOptions { compression: "none".into(), ..options(&kafka.address()) });
    let count = 50_000;
    let mut next = 0;
    let mut time = |driver: &mut Driver| {
        let start = Instant::now();
        driver.push(numbered("shrink-good", 200, next..next + count));
        next += count;
        driver.finish(PATIENCE);
        start.elapsed()
    };
    time(&mut driver);
    let before = time(&mut driver);
    // The limit is lowered when the topic is known already: the first such record stops the
    // producer of all.
    driver.push([record(BAD, "shrink-bad", Some("k"), "x", "c")]);
    driver.finish(PATIENCE);
    kafka.alter_topic("shrink-bad", &[("max.message.bytes", "600")]);
    let mut id = BAD;
    while driver.refused.is_empty() {
        id += 1;
        assert!(id < BAD + 1_000, "none is refused");
        driver.push([record(id, "shrink-bad", Some("k"), &"x".repeat(640), "c")]);
        driver.finish(PATIENCE);
    }
    // The refusal is told before that.
    driver.until("the producer is replaced", PATIENCE, |driver| {
        driver.log.counters().main_replaced == 1
    });
    let after = time(&mut driver).min(time(&mut driver));
    // It was 26 times slower; other work on the machine is not meant.
    assert!(after <= before * 4, "{count} records in {before:?}, then in {after:?}");
    assert_eq!((driver.resets, driver.log.counters().unavailable), (0, 0));
}

#[test]
fn a_missing_topic_waits_and_others_go_on() {
    let kafka = shared();
    kafka.create_topic("park-good", 3, &[]);
    let mut driver = Driver::new(KafkaOptions {
        create_topics: false,
        park_time: Duration::from_secs(30),
        parked_max_messages: 100,
        ..options(&kafka.address())
    });
    driver.push(padded("park-late", 5, 0..100, 10));
    let next = go_on(&mut driver, "park-good", 0, Duration::from_secs(4));
    driver.until("the others are acknowledged", PATIENCE, |driver| driver.left() == 100);
    assert_eq!((driver.acknowledged, driver.refused.len()), (next, 0));
    assert!(driver.log.describe().contains("1 parked: park-late"), "{}", driver.log.describe());
    assert!(driver.log.flush(Duration::from_secs(5)), "a stop does not wait for it");
    // It has as many waiting as it may.
    driver.push(padded("park-late", 5, 100..101, 10));
    driver.until("one is refused", PATIENCE, |driver| driver.refused.len() == 1);
    let (id, why) = driver.refused.pop().expect("one");
    assert_eq!(id, BAD + 100);
    assert!(why.contains("kafka.create_topics = true") && why.contains("100 records"), "{why}");
    kafka.create_topic("park-late", 2, &[]);
    driver.finish(PATIENCE);
    assert_eq!((driver.acknowledged, driver.refused.len(), driver.resets), (next + 100, 0, 0));
    assert_eq!(assert_complete_and_in_order(&kafka.read_all("park-late"), 5, 100), 0);
    assert_eq!(assert_complete_and_in_order(&kafka.read_all("park-good"), 20, next), 0);
}

#[test]
fn a_node_stays_ready_and_serves_others_while_a_topic_takes_nothing() {
    let kafka = shared();
    kafka.create_topic("parked-good", 3, &[]);
    let node = Node::builder()
        .kafka(kafka)
        .set("kafka.create_topics", false)
        .set("kafka.park_time", "60s")
        .set("log.max_pending_messages", 1000)
        .start();
    let mut bad = node.client("bad");
    bad.publish("parked/1/missing", "lost", 1);
    let mut good = node.client("good");
    // Far more than may be pending: the one that waits takes no room but its own.
    for n in 0..5_000 {
        good.publish(&format!("parked/{}/good", n % 50), n.to_string(), 1);
    }
    eventually(PATIENCE, "all others are in Kafka", || {
        node.metric("hydrant_log_acknowledged_total") >= 5_000.0
    });
    assert_eq!(node.metric("hydrant_log_pending_records"), 1.0);
    assert_eq!(node.metric("hydrant_log_resets_total"), 0.0);
    assert_eq!(node.http("/ready").0, 200);
    kafka.create_topic("parked-missing", 1, &[]);
    eventually(PATIENCE, "the record arrives", || node.metric("hydrant_outbox_records") == 0.0);
    assert_eq!(kafka.read_all("parked-missing").len(), 1);
    assert_eq!(kafka.read_all("parked-good").len(), 5_000);
}

/// A Kafka in which a rule keeps this broker from a topic.
fn guarded() -> Kafka {
    Kafka::start_with(
        "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\n\
         allow.everyone.if.no.acl.found=true\n",
    )
}

#[test]
fn a_topic_that_may_not_be_written_waits_until_it_may() {
    let kafka = guarded();
    kafka.create_topic("guard-good", 3, &[]);
    kafka.create_topic("guard-bad", 3, &[]);
    let mut driver = Driver::new(options(&kafka.address()));
    driver.push(padded("guard-bad", 5, 0..100, 10));
    let mut next = go_on(&mut driver, "guard-good", 0, Duration::from_secs(1));
    driver.finish(PATIENCE);
    kafka.acl(&["--add", "--deny-principal", "User:*", "--operation", "Write"], "guard-bad");
    driver.push(padded("guard-bad", 5, 100..200, 10));
    next = go_on(&mut driver, "guard-good", next, Duration::from_secs(4));
    driver.until("the others are acknowledged", PATIENCE, |driver| driver.left() == 100);
    assert!(driver.log.describe().contains("give it WRITE"), "{}", driver.log.describe());
    kafka.acl(&["--remove", "--force"], "guard-bad");
    driver.finish(PATIENCE);
    assert_eq!(driver.acknowledged, next + 200);
    assert_eq!((driver.refused.len(), driver.resets), (0, 0));
    assert_eq!(driver.log.counters().unavailable, 0);
    assert_eq!(assert_complete_and_in_order(&kafka.read_all("guard-bad"), 5, 200), 0);
    assert_eq!(assert_complete_and_in_order(&kafka.read_all("guard-good"), 20, next), 0);
}

/// For two replicas, one of which is there.
const ENOUGH: &[(&str, &str)] = &[("min.insync.replicas", "1")];
const TOO_FEW: &[(&str, &str)] = &[("min.insync.replicas", "2")];

/// A Kafka with topics of two replicas, one of which is gone.
fn crippled(topics: &[&str]) -> Kafka {
    let kafka = Kafka::start();
    let mut second = kafka.second();
    for topic in topics {
        kafka.create_topic_with(topic, 3, 2, ENOUGH);
    }
    second.stop();
    kafka
}

#[test]
fn topics_with_too_few_in_sync_replicas_wait_and_others_go_on() {
    let names = ["few", "small"].map(|name| (format!("good-{name}"), format!("bad-{name}")));
    let [(a, b), (c, d)] = &names;
    let kafka = crippled(&[a, b, c, d]);
    let few = KafkaOptions { queue_max_messages: 2_000, ..options(&kafka.address()) };
    let small = KafkaOptions {
        queue_max_bytes: 4 << 20,
        compression: "none".into(),
        ..options(&kafka.address())
    };
    for ((good, bad), (options, size)) in names.iter().zip([(few, 10), (small, 3_000)]) {
        let mut driver = Driver::new(options);
        driver.push(padded(bad, 5, 0..100, size));
        let mut next = go_on(&mut driver, good, 0, Duration::from_millis(100));
        driver.finish(PATIENCE);
        kafka.alter_topic(bad, TOO_FEW);
        // More than a producer takes, at once.
        driver.push(padded(bad, 5, 100..5_000, size));
        next = go_on(&mut driver, good, next, Duration::from_secs(3));
        driver.until("the others are acknowledged", Duration::from_secs(5), |driver| {
            driver.left() == 4_900
        });
        assert_eq!(driver.acknowledged, 100 + next);
        let line = format!("1 parked: {bad}: Kafka acknowledges nothing of it");
        assert!(driver.log.describe().contains(&line), "{}", driver.log.describe());
        kafka.alter_topic(bad, ENOUGH);
        driver.push(padded(bad, 5, 5_000..6_000, size));
        next = go_on(&mut driver, good, next, Duration::from_secs(1));
        driver.finish(PATIENCE);
        assert_eq!(driver.acknowledged, next + 6_000);
        assert_eq!((driver.refused.len(), driver.resets), (0, 0));
        assert_eq!(driver.log.counters().unavailable, 0);
        assert_eq!(assert_complete_and_in_order(&kafka.read_all(bad), 5, 6_000), 0);
        assert_eq!(assert_complete_and_in_order(&kafka.read_all(good), 20, next), 0);
    }
}

#[test]
fn a_node_serves_others_while_a_topic_has_too_few_in_sync_replicas() {
    let kafka = crippled(&["queue-good", "queue-bad", "pending-good", "pending-bad"]);
    // Of the first the producer takes less than there is, of the second the node itself.
    for (name, bound) in
        [("queue", "kafka.queue_max_messages"), ("pending", "log.max_pending_messages")]
    {
        let bad_topic = format!("{name}-bad");
        kafka.alter_topic(&bad_topic, TOO_FEW);
        let node = Node::builder().kafka(&kafka).set(bound, 1_000).start();
        let mut bad = node.client("bad");
        for n in 0..3_000 {
            bad.publish(&format!("{name}/{}/bad", n % 7), format!("k{}:{}", n % 7, n / 7), 1);
        }
        let mut good = node.client("good");
        for n in 0..1_000 {
            good.publish(&format!("{name}/{}/good", n % 7), n.to_string(), 1);
        }
        eventually(Duration::from_secs(10), "all others are in Kafka", || {
            node.metric("hydrant_log_acknowledged_total") >= 1_000.0
        });
        let pending = node.metric("hydrant_log_pending_records");
        assert!(pending < 1_000.0, "{pending} records are in memory, the others in the outbox");
        assert!(node.metric("hydrant_outbox_records") >= 3_000.0);
        assert_eq!(node.http("/ready").0, 200);
        kafka.alter_topic(&bad_topic, ENOUGH);
        eventually(PATIENCE, "the records arrive", || node.metric("hydrant_outbox_records") == 0.0);
        assert_eq!(node.metric("hydrant_log_resets_total"), 0.0);
        assert_eq!(kafka.read_all(&format!("{name}-good")).len(), 1_000);
        assert_eq!(assert_complete_and_in_order(&kafka.read_all(&bad_topic), 7, 3_000), 0);
    }
}
