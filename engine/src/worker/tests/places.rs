//! Topics beyond a cap of the log: where their records go, and what is refused.

use std::sync::atomic::AtomicU64;

use ahash::AHashSet;
use parking_lot::Mutex;

use super::*;
use crate::log::{Gate, TopicGate};
use crate::ports::{Admission, LogOp};

const CAP: &str = "kafka.max_topics_per_client";

/// Admits what is in the set; counts how often it is asked.
#[derive(Default)]
struct Capped {
    admitted: Mutex<AHashSet<String>>,
    asked: AtomicU64,
    generation: AtomicU64,
    everybody: bool,
}

impl Capped {
    fn make(&self, topic: &str) {
        self.admitted.lock().insert(topic.to_owned());
    }

    fn asked(&self) -> u64 {
        self.asked.swap(0, Ordering::Relaxed)
    }
}

impl TopicGate for Capped {
    fn admit(&self, topic: &Arc<str>, _: &Arc<str>) -> Admission {
        self.asked.fetch_add(1, Ordering::Relaxed);
        match self.admitted.lock().contains(&**topic) {
            true => Admission::Own,
            false => Admission::Beyond { cap: CAP, everybody: self.everybody },
        }
    }
    fn admissions(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }
}

fn capped(overflow: Option<&str>, log: Capped) -> (Rc<Worker>, Arc<Capped>) {
    let mut settings = settings(1);
    settings.log.kind = LogKind::Kafka;
    settings.log.overflow_topic = overflow.map(Arc::from);
    let log = Arc::new(log);
    let gate = Gate::new(Arc::clone(&log) as Arc<dyn TopicGate>);
    (worker_before(settings, gate), log)
}

/// Topic and key of each record written to the outbox.
fn outbox(worker: &Rc<Worker>) -> Vec<(String, String)> {
    let records = store(worker).0.into_iter().filter_map(|op| match op {
        StoreOp::Log(LogOp::PutOutbox { record, .. }) => Some(record),
        _ => None,
    });
    let text = |key: Option<Bytes>| String::from_utf8(key.unwrap_or_default().to_vec()).unwrap();
    records.map(|record| (record.topic.to_string(), text(record.key))).collect()
}

fn pairs(of: &[(&str, &str)]) -> Vec<(String, String)> {
    of.iter().map(|(topic, key)| ((*topic).to_owned(), (*key).to_owned())).collect()
}

#[test]
fn a_topic_beyond_a_cap_is_written_to_the_outbox_as_the_overflow_topic() {
    let (worker, log) = capped(Some("over"), Capped::default());
    log.make("a-t");
    let publisher = connect(&worker, true, None);
    store(&worker);
    for topic in ["a/1/t", "b/2/t", "a/3/t"] {
        publish(&worker, &publisher, topic, b"x", false);
    }
    assert_eq!(outbox(&worker), pairs(&[("a-t", "1"), ("over", "b/2/t"), ("a-t", "3")]));
    assert_eq!(worker.metrics.overflowed.get(), 1);
    assert!(publisher.phase().closing().is_none());
}

#[test]
fn the_log_is_asked_once_a_route_and_again_in_the_next_generation() {
    let (worker, log) = capped(Some("over"), Capped::default());
    log.make("a-t");
    let publisher = connect(&worker, true, None);
    store(&worker);
    let twice = |topics: [&str; 2]| {
        for topic in [topics, topics].concat() {
            publish(&worker, &publisher, topic, b"x", false);
        }
        outbox(&worker)
    };
    let found = twice(["a/1/t", "b/1/t"]);
    let (own, over) = (("a-t", "1"), ("over", "b/1/t"));
    assert_eq!(found, pairs(&[own, over, own, over]));
    assert_eq!(log.asked(), 2);
    // A change of subscriptions makes new routes, not new questions.
    subscribe(&worker, &publisher, "none", QoS::AtMostOnce);
    assert_eq!(twice(["a/1/t", "b/1/t"]), pairs(&[own, over, own, over]));
    assert_eq!(log.asked(), 0);
    // There is room now, but nobody has said so.
    log.make("b-t");
    twice(["a/1/t", "b/1/t"]);
    assert_eq!(log.asked(), 0);
    log.generation.fetch_add(1, Ordering::Relaxed);
    let own_too = ("b-t", "1");
    assert_eq!(twice(["a/1/t", "b/1/t"]), pairs(&[own, own_too, own, own_too]));
    assert_eq!(log.asked(), 1);
    // What is its own once is so for good.
    log.admitted.lock().clear();
    log.generation.fetch_add(1, Ordering::Relaxed);
    assert_eq!(twice(["a/1/t", "b/1/t"]), pairs(&[own, own_too, own, own_too]));
    assert_eq!(log.asked(), 0);
}

#[test]
fn a_client_at_its_cap_is_not_asked_about_on_known_routes_and_another_one_is() {
    let (worker, log) = capped(Some("over"), Capped::default());
    let (one, two) =
        (connect_as("one", &worker, true, None), connect_as("two", &worker, true, None));
    for topic in ["a/1/t", "b/1/t"] {
        publish(&worker, &one, topic, b"x", false);
    }
    assert_eq!(log.asked(), 2, "a topic that nobody asked about may exist");
    publish(&worker, &two, "a/1/t", b"x", false);
    assert_eq!(log.asked(), 1, "another client may have it made");
    for topic in ["a/1/t", "b/1/t"] {
        publish(&worker, &one, topic, b"x", false);
        publish(&worker, &two, topic, b"x", false);
    }
    assert_eq!(log.asked(), 0);
    // Past the node's cap nobody is asked about again.
    let (worker, log) = capped(Some("over"), Capped { everybody: true, ..Capped::default() });
    let (one, two) =
        (connect_as("one", &worker, true, None), connect_as("two", &worker, true, None));
    publish(&worker, &one, "a/1/t", b"x", false);
    publish(&worker, &two, "a/1/t", b"x", false);
    assert_eq!(log.asked(), 1);
    log.generation.fetch_add(1, Ordering::Relaxed);
    publish(&worker, &one, "a/1/t", b"x", false);
    assert_eq!(log.asked(), 1, "until the next generation");
}

#[test]
fn without_an_overflow_topic_a_publish_beyond_a_cap_is_refused_before_anything_is_done() {
    let (worker, log) = capped(None, Capped::default());
    log.make("a-t");
    let subscriber = connect_as("sub", &worker, true, None);
    subscribe(&worker, &subscriber, "#", QoS::AtLeastOnce);
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let publisher = connect_as("pub", &worker, true, None);
        store(&worker);
        publisher.out.borrow_mut().clear();
        let dropped = || worker.metrics.dropped[DropReason::TopicCap as usize].get();
        let before = dropped();
        let publish =
            |topic, payload: &[u8]| publish_at(qos, &worker, &publisher, topic, payload, true);
        publish("a/1/t", b"first");
        store(&worker);
        assert!(!publisher.out.borrow().is_empty(), "acknowledged");
        publisher.out.borrow_mut().clear();
        publish("b/1/t", b"second");
        assert_eq!(publisher.phase().closing(), Some(CloseReason::Limit));
        assert_eq!(dropped(), before + 1);
        assert!(store(&worker).0.is_empty(), "neither a record nor a retained message");
        assert!(publisher.out.borrow().is_empty(), "no acknowledgement");
        assert!(!contains(&subscriber, b"second"), "it is sent again");
        worker.detach(&publisher, CloseReason::Limit);
    }
}

#[test]
fn without_an_overflow_topic_qos_0_and_a_will_lose_their_record_alone() {
    let (worker, _) = capped(None, Capped::default());
    let subscriber = connect_as("sub", &worker, true, None);
    subscribe(&worker, &subscriber, "#", QoS::AtMostOnce);
    let publisher = connect_as("pub", &worker, true, Some("farewell"));
    store(&worker);
    let publish = Publish {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: false,
        topic: "b/1/t",
        packet_id: None,
        payload: b"zero",
    };
    worker.submit(&publisher, &publish, None);
    worker.route_all(|| ());
    assert!(publisher.phase().closing().is_none());
    worker.detach(&publisher, CloseReason::Eof);
    worker.route_all(|| ());
    assert!(outbox(&worker).is_empty());
    assert!(worker.take_log(10).is_empty());
    assert!(contains(&subscriber, b"zero") && contains(&subscriber, b"farewell"));
    assert_eq!(worker.metrics.dropped[DropReason::TopicCap as usize].get(), 2);
}
