#![allow(clippy::unwrap_used, clippy::expect_used)]

use bytes::Bytes;
use hydrant_protocol::QoS;

use super::super::trouble::LAST;
use super::*;

fn record(topic: &str, id: u64) -> LogRecord {
    LogRecord {
        id,
        topic: topic.into(),
        key: None,
        payload: Bytes::new(),
        mqtt_topic: "m".into(),
        qos: QoS::AtLeastOnce,
        retain: false,
        client_id: "c".into(),
        epoch: 1,
        sequence: id,
        outbox: None,
        received_ms: 0,
        properties: None,
    }
}

fn exists(topics: &mut Topics, name: &str) {
    topics.exists(name, None, 1 << 20, Instant::now());
}

#[test]
fn waiting_records_leave_in_order_and_before_later_ones() {
    let mut topics = Topics::default();
    for id in 0..3 {
        assert!(topics.wait(record("a", id)), "Kafka has to be asked");
    }
    exists(&mut topics, "a");
    assert!(matches!(topics.way("a", 0, Instant::now), Way::Wait), "the backlog goes first");
    let mut sent = Vec::new();
    let now = Instant::now();
    topics.drain(now, |class, record| {
        assert_eq!(class, 0);
        sent.push(record.id());
        if sent.len() < 3 { Offer::Sent } else { Offer::Closed }
    });
    topics.drain(now, |_, record| {
        sent.push(record.id());
        Offer::Sent
    });
    assert_eq!(sent, [0, 1, 2, 2]);
    assert_eq!(topics.waiting, Size::default());
    assert!(matches!(topics.way("a", 0, Instant::now), Way::Send));
}

#[test]
fn a_refusal_expires() {
    let mut topics = Topics::default();
    let now = Instant::now();
    topics.wait(record("a", 0));
    assert_eq!(topics.refuse("a", "no", now).len(), 1);
    assert!(matches!(topics.way("a", 0, || now), Way::Refuse(_)));
    assert!(matches!(topics.way("a", 0, || now + REFUSAL), Way::Wait));
    topics.expire(now + REFUSAL);
    assert_eq!((topics.waiting(), topics.refused), (0, 0));
}

#[test]
fn nothing_is_kept_of_a_topic_that_is_not_known_and_has_no_record() {
    let mut topics = Topics::default();
    for topic in ["reset", "gone", "refused"] {
        topics.wait(record(topic, 0));
    }
    exists(&mut topics, "gone");
    topics.drain(Instant::now(), |_, _| Offer::Sent);
    topics.add_trouble(&"gone".into(), &Kind::Look, 0, 1 << 20, Instant::now());
    let now = Instant::now();
    topics.refuse("refused", "no", now);
    assert!(matches!(topics.way("refused", 0, || now + REFUSAL), Way::Wait));
    assert_eq!(topics.take_waiting().len(), 1);
    assert_eq!((topics.known(), topics.refused), (0, 0));
    assert!(topics.backlogged.is_empty());
}

fn ids(sent: &[(usize, u64)]) -> Vec<u64> {
    sent.iter().map(|(_, id)| *id).collect()
}

/// Drains into a list of class and id.
fn drained(topics: &mut Topics, now: Instant) -> Vec<(usize, u64)> {
    let mut sent = Vec::new();
    topics.drain(now, |class, record| {
        sent.push((class, record.id()));
        Offer::Sent
    });
    sent
}

fn existing(topics: &mut Topics, names: &[&str]) {
    for name in names {
        topics.wait(record(name, u64::MAX));
        exists(topics, name);
    }
    drained(topics, Instant::now());
}

/// A producer of a class of its own had a record of it acknowledged.
fn acknowledge(topics: &mut Topics, topic: &str, now: Instant) {
    let settled = Settled { topic: topic.into(), acknowledged: true, size: Size::one(0) };
    topics.settled(LAST, &settled, now);
}

#[test]
fn a_topic_in_trouble_changes_its_producer_and_no_other_does() {
    let mut topics = Topics::default();
    let now = Instant::now();
    existing(&mut topics, &["bad", "good"]);
    // 1 and 3 came back from a batch that was too large; 5 came meanwhile.
    topics.wait(record("bad", 5));
    topics.put_back([1, 3].map(|id| Waiting::Fresh(record("bad", id))).into_iter());
    topics.add_trouble(&"bad".into(), &Kind::Split(Some(10)), 0, 1 << 20, now);
    assert!(matches!(topics.way("good", 0, || now), Way::Send));
    assert!(matches!(topics.way("bad", 0, || now), Way::Wait));
    let sent = drained(&mut topics, now);
    assert_eq!(sent, [1, 3, 5].map(|id| (LAST, id)));
    // Its time there is over, and one is outstanding: nothing overtakes it.
    topics.wait(record("bad", 7));
    let later = now + Duration::from_secs(3600);
    acknowledge(&mut topics, "bad", later);
    acknowledge(&mut topics, "bad", later);
    assert_eq!(drained(&mut topics, later), []);
    acknowledge(&mut topics, "bad", later);
    assert_eq!(drained(&mut topics, later), [], "Kafka is asked first");
    assert_eq!(topics.pending(9, later).len(), 1);
    topics.exists("bad", Some(1 << 20), 1 << 20, later);
    assert_eq!(drained(&mut topics, later), [(0, 7)]);
    assert!(matches!(topics.way("bad", 0, || later), Way::Send));
}

#[test]
fn a_parked_topic_waits_within_its_bounds_and_is_given_up_in_the_end() {
    let mut topics = Topics::default();
    let now = Instant::now();
    existing(&mut topics, &["bad", "slow"]);
    let max = Size { records: 2, bytes: 1_000_000 };
    topics.put_back([Waiting::Fresh(record("bad", 0))].into_iter());
    let park = Kind::Park { why: "no".into(), limited: true };
    topics.add_trouble(&"bad".into(), &park, 0, 1 << 20, now);
    assert_eq!(topics.is_full("bad", 200, max), None);
    topics.wait(record("bad", 1));
    assert!(topics.is_full("bad", 200, max).is_some_and(|why| why.starts_with("no; 2 records")));
    // One that waits for Kafka to mend it has all the room, and is never given up.
    let stall = Kind::Park { why: "slow".into(), limited: false };
    topics.add_trouble(&"slow".into(), &stall, 0, 1 << 20, now);
    topics.wait(record("slow", 2));
    assert_eq!(topics.is_full("slow", 200, max), None);
    assert_eq!(topics.is_full("good", 200, max), None);
    let parking = topics.parking(false, now).unwrap();
    assert_eq!((parking.topics, parking.records), (2, 3));
    topics.find_stuck(now);
    assert!(topics.is_stuck("slow") && !topics.is_stuck("bad"));

    let time = Duration::from_secs(30);
    assert!(topics.give_up(time, now + time / 2).is_empty());
    let given_up = topics.give_up(time, now + time);
    assert_eq!(given_up.len(), 1);
    assert_eq!(given_up[0].1.iter().map(Waiting::id).collect::<Vec<_>>(), [0, 1]);
    assert_eq!((topics.waiting(), topics.limited), (1, Size::default()));
}

#[test]
fn a_parked_topic_is_tried_with_its_first_record_only() {
    let mut topics = Topics::default();
    let now = Instant::now();
    existing(&mut topics, &["bad"]);
    topics.put_back((0..3).map(|id| Waiting::Fresh(record("bad", id))));
    let park = Kind::Park { why: "no".into(), limited: true };
    topics.add_trouble(&"bad".into(), &park, 0, 1 << 20, now);
    assert_eq!(drained(&mut topics, now), []);
    let later = now + Duration::from_secs(1);
    assert_eq!(ids(&drained(&mut topics, later)), [0]);
    assert_eq!(drained(&mut topics, later), [], "it is being tried");
    acknowledge(&mut topics, "bad", later);
    assert_eq!(ids(&drained(&mut topics, later)), [1, 2]);
    assert_eq!((topics.waiting(), topics.limited), (0, Size::default()));
}

#[test]
fn a_topic_that_kafka_was_asked_about_and_has_not_is_asked_for_with_pauses() {
    let mut topics = Topics::default();
    let now = Instant::now();
    topics.wait(record("new", 0));
    assert_eq!(topics.pending(9, now).len(), 1);
    topics.park("new", "it does not exist", now);
    assert!(topics.pending(9, now).is_empty());
    let later = now + Duration::from_secs(1);
    assert_eq!(topics.pending(9, later).len(), 1);
    exists(&mut topics, "new");
    assert_eq!(topics.limited, Size::default());
    assert_eq!(drained(&mut topics, later), [(0, 0)]);
}

#[test]
fn a_topic_with_a_small_limit_goes_in_small_batches_from_the_start() {
    let mut topics = Topics::default();
    let now = Instant::now();
    topics.wait(record("small", 0));
    topics.exists("small", Some(200_000), 1 << 20, now);
    assert_eq!(drained(&mut topics, now), [(1, 0)]);
    assert!(matches!(topics.way("small", 0, || now), Way::Wait));
}

#[test]
fn a_topic_that_nothing_is_acknowledged_of_waits_and_takes_no_room() {
    let max = Size { records: 10, bytes: 1 << 20 };
    let mut topics = Topics::new([max; CLASSES]);
    let start = Instant::now();
    let size = |records| Size { records, bytes: 0 };
    let settle = |topics: &mut Topics, topic: &str, records, now| {
        let settled = Settled { topic: topic.into(), acknowledged: true, size: size(records) };
        topics.settled(0, &settled, now);
    };
    existing(&mut topics, &["bad", "good"]);
    settle(&mut topics, "bad", 1, start);
    settle(&mut topics, "good", 1, start);
    let sent = (0..20).filter(|_| matches!(topics.way("bad", 0, || start), Way::Send)).count();
    assert_eq!(sent, 8, "three quarters, while nobody else has any");
    for id in 8..21 {
        assert!(!topics.wait(record("bad", id)), "Kafka is not asked");
    }
    assert_eq!(drained(&mut topics, start), []);
    assert!(matches!(topics.way("good", 0, || start), Way::Send), "others go on");
    // Within the bounds of all, until nothing was acknowledged for long enough.
    let later = start + Duration::from_secs(1);
    topics.find_stuck(start + Duration::from_millis(999));
    assert!((topics.stuck(), topics.has_room("good", 200, 1_000)) == (0, false));
    topics.find_stuck(later);
    assert_eq!(topics.stuck(), 13);
    assert!(topics.is_stuck("bad") && !topics.is_stuck("good"));
    assert!(topics.has_room("bad", 200, 1_000) && topics.has_room("good", 200, 1_000));
    topics.wait(record("bad", 21));
    assert_eq!((topics.stuck(), topics.parking(false, later).unwrap().records), (14, 14));
    assert_eq!(topics.parking(true, later), None, "Kafka is away for all");
    // What is acknowledged makes room for the next ones, in order.
    settle(&mut topics, "bad", 2, later);
    assert_eq!(topics.parking(false, later), None);
    settle(&mut topics, "good", 1, later);
    assert_eq!(drained(&mut topics, later), [(0, 8), (0, 9)]);
    topics.find_stuck(later);
    assert_eq!(topics.stuck(), 12, "others need not wait until it has caught up");
    for id in (10..=21).step_by(2) {
        assert!(matches!(topics.way("bad", 0, || later), Way::Wait), "nothing overtakes");
        settle(&mut topics, "bad", 2, later);
        assert_eq!(drained(&mut topics, later), [(0, id), (0, id + 1)]);
    }
    topics.find_stuck(later);
    assert_eq!((topics.stuck(), topics.waiting(), topics.is_stuck("bad")), (0, 0, false));
    settle(&mut topics, "bad", 5, later);
    assert!(matches!(topics.way("bad", 0, || later), Way::Send));
}

#[test]
fn a_reset_and_a_refusal_leave_nothing_of_a_stuck_topic() {
    for refused in [false, true] {
        let mut topics = Topics::new([Size { records: 4, bytes: 1 << 20 }; CLASSES]);
        existing(&mut topics, &["bad"]);
        let now = Instant::now();
        while matches!(topics.way("bad", 0, || now), Way::Send) {}
        topics.wait(record("bad", 1));
        topics.find_stuck(now + Duration::from_secs(1));
        assert_eq!(topics.stuck(), 1);
        let left = match refused {
            true => topics.refuse("bad", "no", now).len(),
            false => topics.take_waiting().len(),
        };
        assert_eq!((left, topics.stuck(), topics.waiting()), (1, 0, 0));
        assert!(!topics.is_stuck("bad"));
        if !refused {
            assert!(matches!(topics.way("bad", 0, || now), Way::Send));
        }
    }
}

#[test]
fn of_a_topic_that_has_its_share_of_what_waits_no_more_should_come() {
    let max = Size { records: 100, bytes: 1 << 20 };
    let mut topics = Topics::default();
    let mut fill = |topic: &str| {
        let before = topics.waiting();
        while topics.takes(topic, max) {
            topics.wait(record(topic, 0));
        }
        topics.waiting() - before
    };
    assert_eq!([fill("a"), fill("b"), fill("c")], [50, 25, 13]);
    assert!(topics.takes("other", max) && topics.is_crowded(max));
    // What is refused past its own bound takes no room.
    topics.park("a", "no", Instant::now());
    assert!(topics.takes("a", max));
    let few = Size { records: 176, bytes: 1 << 20 };
    assert!(!topics.is_crowded(few) && topics.takes("b", few), "nobody is asked");
    assert!(!topics.takes("b", Size { records: 1_000, bytes: 1_000 }), "bytes count, too");
}
