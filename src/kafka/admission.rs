//! Which topics may have records: those that Kafka has, and those that are made for them within
//! `kafka.max_topics_created` and `kafka.max_topics_per_client`.
//!
//! Asked by the topic routers before a publish is acknowledged. What is admitted is never refused
//! for a cap later, and a record whose topic was never asked about here stems from an earlier start
//! of the node, or from another node, which had admitted it: the maker makes every topic that a
//! record needs. Topics found to exist hold no place within the caps; those made do, until the
//! node stops.
//!
//! While somebody is beyond a cap, Kafka's list of topics is looked at again now and then. Each
//! look, and each place that becomes free, begins a new generation, in which it may ask again.
//!
//! Bounds: the names of Kafka's topics, and one entry for each topic within the caps.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ahash::{AHashMap, AHashSet};
use hydrant_actors::ports::Admission;
use parking_lot::Mutex;

use super::options::KafkaOptions;

/// A topic that Kafka did not have when it was asked for.
#[derive(Debug)]
struct Asked {
    /// For whom; counted against its cap.
    client: Arc<str>,
    /// This node has made it.
    made: bool,
}

#[derive(Debug, Default)]
struct Book {
    /// In Kafka's list, or found one by one.
    known: AHashSet<Arc<str>>,
    asked: AHashMap<Arc<str>, Asked>,
    by_client: AHashMap<Arc<str>, usize>,
}

impl Book {
    fn ask(&mut self, topic: &Arc<str>, client: &Arc<str>) {
        let asked = Asked { client: Arc::clone(client), made: false };
        if self.asked.insert(Arc::clone(topic), asked).is_none() {
            *self.by_client.entry(Arc::clone(client)).or_default() += 1;
        }
    }

    /// Gives its place back; false when it had none.
    fn free(&mut self, topic: &str) -> bool {
        let Some(asked) = self.asked.remove(topic) else { return false };
        if let Some(count) = self.by_client.get_mut(&asked.client) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.by_client.remove(&asked.client);
            }
        }
        true
    }

    fn waits(&self, topic: &str) -> bool {
        self.asked.get(topic).is_some_and(|asked| !asked.made)
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Admissions {
    book: Mutex<Book>,
    generation: AtomicU64,
    /// Somebody was beyond a cap in this generation.
    beyond: AtomicBool,
    /// Kafka's list was looked at.
    acquainted: AtomicBool,
    /// False: nothing is made, so no cap applies.
    makes: bool,
    max: usize,
    max_per_client: usize,
    overflow: Option<Arc<str>>,
}

/// Whether Kafka takes two names for one: its metrics cannot tell `.` from `_`.
fn collide(one: &str, other: &str) -> bool {
    let alike = |byte: u8| if byte == b'.' { b'_' } else { byte };
    one.len() == other.len() && one.bytes().map(alike).eq(other.bytes().map(alike))
}

impl Admissions {
    pub fn new(options: &KafkaOptions) -> Self {
        Self {
            book: Mutex::default(),
            generation: AtomicU64::new(0),
            beyond: AtomicBool::new(false),
            acquainted: AtomicBool::new(false),
            makes: options.create_topics,
            max: options.max_topics_created,
            max_per_client: options.max_topics_per_client,
            overflow: options.overflow_topic.clone(),
        }
    }

    /// Whether a topic may have records, published by this client.
    pub fn admit(&self, topic: &Arc<str>, client: &Arc<str>) -> Admission {
        if !self.makes {
            return Admission::Own;
        }
        if let Some(overflow) = &self.overflow {
            if topic == overflow {
                return Admission::Own;
            }
            // Made first, it would keep Kafka from making the overflow topic.
            if collide(topic, overflow) {
                return Admission::Beyond { cap: "kafka.overflow_topic", everybody: true };
            }
        }
        let mut book = self.book.lock();
        if book.known.contains(topic) || book.asked.contains_key(topic) {
            return Admission::Own;
        }
        let (cap, everybody) = if book.asked.len() >= self.max {
            ("kafka.max_topics_created", true)
        } else if book.by_client.get(client).copied().unwrap_or(0) >= self.max_per_client {
            ("kafka.max_topics_per_client", false)
        } else {
            book.ask(topic, client);
            return Admission::Own;
        };
        // Under the lock, so that a look that comes now begins a new generation.
        self.beyond.store(true, Ordering::Release);
        Admission::Beyond { cap, everybody }
    }

    /// Rises when what was beyond a cap may be asked about again.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Whether Kafka's list is to be looked at: somebody is beyond a cap.
    pub fn wants_a_look(&self) -> bool {
        self.beyond.load(Ordering::Acquire)
    }

    /// Whether Kafka's list was looked at.
    pub fn is_acquainted(&self) -> bool {
        self.acquainted.load(Ordering::Acquire)
    }

    /// Kafka's list of topics.
    pub fn look<'a>(&self, names: impl Iterator<Item = &'a str>) {
        let mut book = self.book.lock();
        let mut known = AHashSet::with_capacity(book.known.len());
        for name in names {
            if book.waits(name) {
                book.free(name);
            }
            known.insert(book.known.take(name).unwrap_or_else(|| name.into()));
        }
        book.known = known;
        self.acquainted.store(true, Ordering::Release);
        self.begin_generation();
    }

    /// Kafka has this topic.
    pub fn exists(&self, topic: &Arc<str>) {
        let mut book = self.book.lock();
        if book.waits(topic) && book.free(topic) {
            self.begin_generation();
        }
        if !book.known.contains(topic) {
            book.known.insert(Arc::clone(topic));
        }
    }

    /// A topic that records wait for is missing and will be made, whatever the caps.
    pub fn need(&self, topic: &Arc<str>, client: &Arc<str>) {
        let mut book = self.book.lock();
        if self.overflow.as_ref() != Some(topic) && !book.asked.contains_key(topic) {
            // Its list was older than a deletion.
            book.known.remove(topic);
            book.ask(topic, client);
        }
    }

    /// It was made.
    pub fn made(&self, topic: &str) {
        if let Some(asked) = self.book.lock().asked.get_mut(topic) {
            asked.made = true;
        }
    }

    /// It cannot be made.
    pub fn not_made(&self, topic: &str) {
        if self.book.lock().free(topic) {
            self.begin_generation();
        }
    }

    fn begin_generation(&self) {
        if self.beyond.swap(false, Ordering::AcqRel) {
            self.generation.fetch_add(1, Ordering::AcqRel);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn admissions(max: usize, max_per_client: usize) -> Admissions {
        Admissions::new(&KafkaOptions {
            max_topics_created: max,
            max_topics_per_client: max_per_client,
            overflow_topic: Some("mqtt.overflow".into()),
            ..KafkaOptions::default()
        })
    }

    impl Admissions {
        fn own(&self, topic: &str, client: &str) -> bool {
            self.admit(&topic.into(), &client.into()) == Admission::Own
        }

        fn cap(&self, topic: &str, client: &str) -> &'static str {
            match self.admit(&topic.into(), &client.into()) {
                Admission::Own => "",
                Admission::Beyond { cap, .. } => cap,
            }
        }
    }

    #[test]
    fn caps_hold_per_node_and_client_and_what_is_admitted_stays_so() {
        let book = admissions(3, 2);
        assert!(book.own("a1", "a") && book.own("a2", "a"));
        assert_eq!(book.cap("a3", "a"), "kafka.max_topics_per_client");
        assert!(book.own("a3", "b"), "another client may have it made");
        assert!(book.own("a3", "a") && book.own("a1", "a"));
        assert_eq!(book.cap("b2", "b"), "kafka.max_topics_created");
        let everybody = Admission::Beyond { cap: "kafka.max_topics_created", everybody: true };
        assert_eq!(book.admit(&"b2".into(), &"b".into()), everybody);
    }

    #[test]
    fn topics_that_exist_count_with_nobody_and_made_ones_go_on_counting() {
        let book = admissions(9, 1);
        assert!(!book.is_acquainted());
        assert!(book.own("there", "a"));
        assert!(!book.own("new", "a"));
        book.look(["there", "old"].into_iter());
        assert!(book.is_acquainted() && book.own("old", "a"));
        assert!(book.own("new", "a"), "what is there has given its place back");
        book.made("new");
        book.exists(&"new".into());
        assert!(!book.own("newer", "a"), "this node has made it");
        book.look(["there", "old", "new"].into_iter());
        assert!(!book.own("newer", "a") && book.own("new", "a"));
        // Another node has made what this one was about to.
        assert!(book.own("late", "b") && !book.own("later", "b"));
        book.exists(&"late".into());
        assert!(book.own("later", "b"));
    }

    #[test]
    fn a_generation_begins_when_somebody_is_beyond_a_cap_and_that_may_have_changed() {
        let book = admissions(9, 1);
        assert!(book.own("a1", "a"));
        book.look(["x"].into_iter());
        book.exists(&"a1".into());
        assert_eq!((book.generation(), book.wants_a_look()), (0, false), "nobody asks");
        assert!(book.own("a2", "a") && !book.own("a3", "a"));
        assert!(book.wants_a_look());
        book.look(["x"].into_iter());
        assert_eq!((book.generation(), book.wants_a_look()), (1, false));
        assert!(!book.own("a3", "a"));
        book.made("a2");
        book.exists(&"a2".into());
        assert_eq!(book.generation(), 1, "its place is not free");
        assert!(book.own("b1", "b"));
        book.not_made("b1");
        assert_eq!(book.generation(), 2);
        assert!(book.own("b2", "b"));
    }

    #[test]
    fn what_records_wait_for_is_made_whatever_the_caps() {
        let book = admissions(2, 1);
        for n in 0..3 {
            // From the outbox, after a restart.
            book.need(&format!("stored{n}").into(), &"a".into());
        }
        assert!(book.own("stored2", "a") && book.own("stored2", "b"));
        assert_eq!(book.cap("new", "b"), "kafka.max_topics_created", "they count");
        let none =
            Admissions::new(&KafkaOptions { create_topics: false, ..KafkaOptions::default() });
        assert!(none.own("missing", "a"), "nothing is made: it has to exist");
    }

    #[test]
    fn the_overflow_topic_is_beyond_no_cap_and_nothing_takes_its_name() {
        let book = admissions(0, 0);
        assert!(book.own("mqtt.overflow", "a"));
        book.need(&"mqtt.overflow".into(), &"a".into());
        assert_eq!(book.book.lock().asked.len(), 0);
        let book = admissions(9, 9);
        assert_eq!(book.cap("mqtt_overflow", "a"), "kafka.overflow_topic");
        assert!(book.own("mqtt_overflow2", "a"));
    }
}
