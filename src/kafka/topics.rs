//! What is known about each Kafka topic, and the records that wait for one.
//!
//! A record waits only while its own topic is not known; once it is, they leave in order before
//! any later record of the topic. Bounds: waiting records count against
//! `kafka.queue_max_messages` and `kafka.queue_max_bytes`; a topic that is not known stands here
//! only while records wait for it, one that exists as long as Kafka takes its records; remembered
//! refusals are dropped when they expire, and past [`MAX_REFUSED`] they are not remembered at all.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ahash::AHashMap;
use hydrant_actors::ports::LogRecord;

/// A refusal is remembered for so long; then Kafka is asked again.
pub(super) const REFUSAL: Duration = Duration::from_secs(5);
/// Refusals remembered at most.
const MAX_REFUSED: usize = 10_000;

/// What is known about a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Knowledge {
    /// Kafka has to be asked; records wait.
    Unknown,
    /// It exists.
    Exists,
    /// Its records are refused until then, for this reason.
    Refused { until: Instant, why: Arc<str> },
}

#[derive(Debug)]
pub(super) struct Topic {
    pub knowledge: Knowledge,
    pub backlog: VecDeque<LogRecord>,
}

/// Clients looked at when a topic is made.
const MAX_CLIENTS: usize = 16;

#[derive(Debug, Default)]
pub(super) struct Topics {
    map: AHashMap<Arc<str>, Topic>,
    refused: usize,
    waiting: usize,
    waiting_bytes: usize,
}

/// Where a record may go.
pub(super) enum Way {
    /// To the producer.
    Send,
    /// To the topic's backlog.
    Wait,
    /// Nowhere.
    Refuse(Arc<str>),
}

impl Topics {
    /// Where a record of the topic goes now.
    pub fn way(&mut self, topic: &str, now: impl FnOnce() -> Instant) -> Way {
        match self.map.get(topic) {
            None => Way::Wait,
            Some(known) => match &known.knowledge {
                Knowledge::Exists if known.backlog.is_empty() => Way::Send,
                Knowledge::Exists | Knowledge::Unknown => Way::Wait,
                Knowledge::Refused { until, why } if *until > now() => Way::Refuse(why.clone()),
                Knowledge::Refused { .. } => {
                    self.map.remove(topic);
                    self.refused -= 1;
                    Way::Wait
                }
            },
        }
    }

    pub fn waiting(&self) -> usize {
        self.waiting
    }

    pub fn known(&self) -> usize {
        self.map.len()
    }

    /// Whether a record of so many bytes may wait.
    pub fn has_room(&self, bytes: usize, max_bytes: usize) -> bool {
        self.waiting == 0 || self.waiting_bytes + bytes <= max_bytes
    }

    /// Puts a record behind those that wait for its topic; true when Kafka has to be asked.
    pub fn wait(&mut self, record: LogRecord) -> bool {
        self.waiting += 1;
        self.waiting_bytes += record.cost();
        let topic = self
            .map
            .entry(record.topic.clone())
            .or_insert_with(|| Topic { knowledge: Knowledge::Unknown, backlog: VecDeque::new() });
        topic.backlog.push_back(record);
        topic.knowledge == Knowledge::Unknown
    }

    /// Topics that records wait for and Kafka has to be asked about, at most `limit`.
    pub fn pending(&self, limit: usize) -> Vec<Arc<str>> {
        self.map
            .iter()
            .filter(|(_, topic)| topic.knowledge == Knowledge::Unknown && !topic.backlog.is_empty())
            .take(limit)
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// Distinct clients whose records wait for the topic, the oldest record's first.
    pub fn clients(&self, topic: &str) -> Vec<Arc<str>> {
        let mut clients: Vec<Arc<str>> = Vec::new();
        for record in self.map.get(topic).into_iter().flat_map(|topic| &topic.backlog) {
            if !clients.contains(&record.client_id) {
                clients.push(record.client_id.clone());
                if clients.len() == MAX_CLIENTS {
                    break;
                }
            }
        }
        clients
    }

    /// The topic exists; its backlog may go.
    pub fn exists(&mut self, topic: &str) {
        if let Some(topic) = self.map.get_mut(topic) {
            topic.knowledge = Knowledge::Exists;
        }
    }

    /// Kafka has to be asked again.
    pub fn forget(&mut self, topic: &str) {
        match self.map.get_mut(topic) {
            Some(known) if known.knowledge != Knowledge::Exists => {}
            Some(known) if !known.backlog.is_empty() => known.knowledge = Knowledge::Unknown,
            _ => {
                self.map.remove(topic);
            }
        }
    }

    /// The topic's records are refused; returns those that waited. `remember` keeps it so for
    /// [`REFUSAL`].
    pub fn refuse(
        &mut self,
        topic: &str,
        why: &str,
        now: Instant,
        remember: bool,
    ) -> VecDeque<LogRecord> {
        let Some(known) = self.map.get_mut(topic) else {
            return VecDeque::new();
        };
        let records = std::mem::take(&mut known.backlog);
        self.waiting -= records.len();
        self.waiting_bytes -= records.iter().map(LogRecord::cost).sum::<usize>();
        if remember && self.refused < MAX_REFUSED {
            known.knowledge = Knowledge::Refused { until: now + REFUSAL, why: why.into() };
            self.refused += 1;
        } else {
            self.map.remove(topic);
        }
        records
    }

    /// Drops refusals that have expired.
    pub fn expire(&mut self, now: Instant) {
        if self.refused > 0 {
            let mut refused = 0;
            self.map.retain(|_, topic| match &topic.knowledge {
                Knowledge::Refused { until, .. } if *until <= now => false,
                Knowledge::Refused { .. } => {
                    refused += 1;
                    true
                }
                _ => true,
            });
            self.refused = refused;
        }
    }

    /// Gives the waiting records of topics that exist to `send`, in order per topic, until it
    /// returns false (it did not take that record).
    pub fn drain(&mut self, mut send: impl FnMut(&LogRecord) -> bool) {
        if self.waiting == 0 {
            return;
        }
        for topic in self.map.values_mut().filter(|topic| topic.knowledge == Knowledge::Exists) {
            while let Some(record) = topic.backlog.front() {
                if !send(record) {
                    return;
                }
                self.waiting -= 1;
                self.waiting_bytes -= record.cost();
                topic.backlog.pop_front();
            }
        }
    }

    /// Takes every waiting record.
    pub fn take_waiting(&mut self) -> Vec<LogRecord> {
        self.waiting = 0;
        self.waiting_bytes = 0;
        let waiting =
            self.map.values_mut().flat_map(|topic| std::mem::take(&mut topic.backlog)).collect();
        self.map.retain(|_, topic| topic.knowledge != Knowledge::Unknown);
        waiting
    }
}

/// How many topics were made, and for whom.
#[derive(Debug, Default)]
pub(super) struct Caps {
    made: usize,
    by_client: AHashMap<Arc<str>, usize>,
}

impl Caps {
    /// The client for whom a topic may be made, or why none.
    pub fn creator(
        &self,
        clients: &[Arc<str>],
        max: usize,
        max_per_client: usize,
    ) -> Result<Arc<str>, String> {
        if self.made >= max {
            return Err(format!(
                "it does not exist and this node has made its kafka.max_topics_created = {max} topics: make it \
                 yourself or raise the limit"
            ));
        }
        clients
            .iter()
            .find(|client| self.by_client.get(*client).is_none_or(|made| *made < max_per_client))
            .cloned()
            .ok_or_else(|| {
                let client = clients.first().map_or("", |client| client);
                format!(
                    "it does not exist and kafka.max_topics_per_client = {max_per_client} topics were made for \
                     client {client:?}: make it yourself or raise the limit"
                )
            })
    }

    /// A topic was made for the client.
    pub fn made(&mut self, client: &Arc<str>) {
        self.made += 1;
        *self.by_client.entry(client.clone()).or_default() += 1;
    }

    /// It could not be made after all.
    pub fn not_made(&mut self, client: &Arc<str>) {
        self.made = self.made.saturating_sub(1);
        if let Some(made) = self.by_client.get_mut(client) {
            *made = made.saturating_sub(1);
            if *made == 0 {
                self.by_client.remove(client);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use bytes::Bytes;
    use hydrant_protocol::QoS;

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

    #[test]
    fn waiting_records_leave_in_order_and_before_later_ones() {
        let mut topics = Topics::default();
        for id in 0..3 {
            assert!(topics.wait(record("a", id)), "Kafka has to be asked");
        }
        topics.exists("a");
        assert!(matches!(topics.way("a", Instant::now), Way::Wait), "the backlog goes first");
        let mut sent = Vec::new();
        topics.drain(|record| {
            sent.push(record.id);
            sent.len() < 3
        });
        topics.drain(|record| {
            sent.push(record.id);
            true
        });
        assert_eq!(sent, [0, 1, 2, 2]);
        assert_eq!((topics.waiting, topics.waiting_bytes), (0, 0));
        assert!(matches!(topics.way("a", Instant::now), Way::Send));
    }

    #[test]
    fn a_refusal_expires() {
        let mut topics = Topics::default();
        let now = Instant::now();
        topics.wait(record("a", 0));
        assert_eq!(topics.refuse("a", "no", now, true).len(), 1);
        assert!(matches!(topics.way("a", || now), Way::Refuse(_)));
        assert!(matches!(topics.way("a", || now + REFUSAL), Way::Wait));
        topics.expire(now + REFUSAL);
        assert_eq!((topics.waiting, topics.refused), (0, 0));
    }

    #[test]
    fn nothing_is_kept_of_a_topic_that_is_not_known_and_has_no_record() {
        let mut topics = Topics::default();
        for topic in ["reset", "gone", "refused"] {
            topics.wait(record(topic, 0));
        }
        topics.exists("gone");
        topics.drain(|_| true);
        topics.forget("gone");
        let now = Instant::now();
        topics.refuse("refused", "no", now, true);
        assert!(matches!(topics.way("refused", || now + REFUSAL), Way::Wait));
        assert_eq!(topics.take_waiting().len(), 1);
        assert_eq!((topics.known(), topics.refused), (0, 0));
        let (mut caps, client) = (Caps::default(), Arc::from("a"));
        caps.made(&client);
        caps.not_made(&client);
        assert!(caps.by_client.is_empty());
    }

    #[test]
    fn caps_hold_per_node_and_client() {
        let mut caps = Caps::default();
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let both = [a.clone(), b.clone()];
        assert_eq!(caps.creator(&both, 2, 1).unwrap(), a);
        caps.made(&a);
        assert_eq!(caps.creator(&both, 2, 1).unwrap(), b);
        assert!(
            caps.creator(std::slice::from_ref(&a), 2, 1)
                .unwrap_err()
                .contains("max_topics_per_client = 1")
        );
        caps.made(&b);
        assert!(caps.creator(&both, 2, 9).unwrap_err().contains("max_topics_created = 2"));
    }
}
