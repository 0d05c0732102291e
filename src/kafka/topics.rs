//! What is known about each Kafka topic, and the records that wait for one.
//!
//! A record waits only while its own topic is not known, is in [`Trouble`] or has its share of the
//! producer's queue ([`super::share`]), or its producer is being replaced; its records leave in
//! order, before any later record of the topic.
//!
//! Bounds: waiting records count against `kafka.queue_max_messages` and `kafka.queue_max_bytes`,
//! and those whose topic is parked until somebody mends it against a part of both ([`Limits`]), so
//! that such topics never take all the room; those whose topic is stuck count against neither, who
//! handed them over bounds them; a topic that is not known stands here only while
//! records wait for it, one that exists as long as Kafka takes its records; remembered refusals are
//! dropped when they expire, and past [`MAX_REFUSED`] they are not remembered at all.

mod standing;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ahash::{AHashMap, AHashSet};
use hydrant_actors::ports::LogRecord;
use hydrant_actors::say;

use super::share::{Queues, Settled, Share, Size};
use super::trouble::{CLASSES, Kind, Place, Trouble, fitting};
use super::waiting::Waiting;

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
    knowledge: Knowledge,
    backlog: VecDeque<Waiting>,
    /// The backlog's size.
    waiting: Size,
    share: Share,
    /// Its backlog takes no room: see [`super::share`].
    stuck: bool,
    trouble: Option<Box<Trouble>>,
}

impl Topic {
    fn new() -> Self {
        Self {
            knowledge: Knowledge::Unknown,
            backlog: VecDeque::new(),
            waiting: Size::default(),
            share: Share::default(),
            stuck: false,
            trouble: None,
        }
    }

    /// Its records go where those of all go.
    fn is_well(&self) -> bool {
        self.trouble.as_ref().is_none_or(|trouble| trouble.is_over())
    }

    /// Its records wait for `kafka.park_time` only.
    fn is_limited(&self) -> bool {
        let parked = self.trouble.as_ref().and_then(|trouble| trouble.parked.as_ref());
        parked.is_some_and(|parked| parked.limited)
    }

    /// It takes nothing until Kafka has mended it, however long that is.
    fn waits_for_kafka(&self) -> bool {
        let parked = self.trouble.as_ref().and_then(|trouble| trouble.parked.as_ref());
        parked.is_some_and(|parked| !parked.limited)
    }

    fn take_backlog(&mut self) -> VecDeque<Waiting> {
        self.waiting = Size::default();
        std::mem::take(&mut self.backlog)
    }

    fn trouble(&mut self, now: Instant) -> &mut Trouble {
        self.trouble.get_or_insert_with(|| Box::new(Trouble::new(now)))
    }
}

#[derive(Debug, Default)]
pub(super) struct Topics {
    map: AHashMap<Arc<str>, Topic>,
    /// Topics with a backlog.
    backlogged: AHashSet<Arc<str>>,
    refused: usize,
    waiting: Size,
    /// Those of them whose topic is parked until somebody mends it.
    limited: Size,
    /// Those of them whose topic is stuck, as of the last drain.
    stuck: Size,
    queues: Queues,
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

/// What became of a waiting record that was offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Offer {
    /// A producer has it.
    Sent,
    /// It was reported.
    Settled,
    /// The producer of its class takes none for now.
    Closed,
}

impl Topics {
    /// With producers that take so much each.
    pub fn new(max: [Size; CLASSES]) -> Self {
        Self { queues: Queues::new(max), ..Self::default() }
    }

    /// Where a record of the topic, with a payload of so many bytes, goes now. One that is to be
    /// sent counts as sent.
    pub fn way(&mut self, topic: &str, bytes: usize, now: impl FnOnce() -> Instant) -> Way {
        match self.map.get_mut(topic) {
            None => Way::Wait,
            Some(known) => match &known.knowledge {
                Knowledge::Exists
                    if known.backlog.is_empty()
                        && known.is_well()
                        && self.queues.takes(0, &known.share, bytes) =>
                {
                    self.queues.put(0, &mut known.share, bytes, now);
                    Way::Send
                }
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

    /// The producer did not take what was to be sent.
    pub fn not_sent(&mut self, topic: &str, bytes: usize) {
        let share = self.map.get_mut(topic).map(|topic| &mut topic.share);
        self.queues.settle(0, share, Size::one(bytes));
    }

    pub fn waiting(&self) -> usize {
        self.waiting.records
    }

    pub fn known(&self) -> usize {
        self.map.len()
    }

    /// Whether a record of so many bytes may wait for the topic.
    pub fn has_room(&self, topic: &str, bytes: usize, max_bytes: usize) -> bool {
        let mut others = self.waiting;
        others.take(self.stuck);
        others.records == 0 || others.bytes + bytes <= max_bytes || self.is_stuck(topic)
    }

    /// Puts a record behind those that wait for its topic; true when Kafka has to be asked.
    pub fn wait(&mut self, record: LogRecord) -> bool {
        let record = Waiting::Fresh(record);
        let topic = self.count_in(&record);
        topic.backlog.push_back(record);
        topic.knowledge == Knowledge::Unknown && !topic.is_limited()
    }

    /// Counts a record that waits for its topic from now on.
    fn count_in(&mut self, record: &Waiting) -> &mut Topic {
        let name = record.topic().clone();
        let size = Size::one(record.cost());
        self.waiting.add(size);
        let topic = self.map.entry(name.clone()).or_insert_with(Topic::new);
        topic.waiting.add(size);
        if topic.is_limited() {
            self.limited.add(size);
        }
        if topic.stuck {
            self.stuck.add(size);
        }
        self.backlogged.insert(name);
        topic
    }

    /// Puts records that came back, in the order they were handed over, before those that wait for
    /// their topics.
    pub fn put_back(&mut self, records: impl DoubleEndedIterator<Item = Waiting>) {
        for record in records.rev() {
            self.count_in(&record).backlog.push_front(record);
        }
    }

    /// Topics that records wait for and Kafka has to be asked about now, at most `limit`.
    pub fn pending(&self, limit: usize, now: Instant) -> Vec<Arc<str>> {
        let due = |topic: &Topic| {
            let parked = topic.trouble.as_ref().and_then(|trouble| trouble.parked.as_ref());
            topic.knowledge == Knowledge::Unknown && parked.is_none_or(|parked| now >= parked.probe)
        };
        self.backlogged
            .iter()
            .filter(|name| self.map.get(*name).is_some_and(due))
            .take(limit)
            .cloned()
            .collect()
    }

    /// The client of the oldest record that waits for the topic.
    pub fn client(&self, topic: &str) -> Arc<str> {
        let oldest = self.map.get(topic).and_then(|topic| topic.backlog.front());
        oldest.and_then(Waiting::client).unwrap_or_default()
    }

    /// The topic exists and takes batches of at most `limit` bytes, where Kafka said so; its
    /// backlog may go.
    pub fn exists(&mut self, topic: &str, limit: Option<usize>, batch_size: usize, now: Instant) {
        if let Some(topic) = self.map.get_mut(topic) {
            if topic.is_limited() {
                self.limited.take(Size::of(&topic.backlog));
            }
            if topic.trouble.is_some() || fitting(limit, batch_size) > 0 {
                topic.trouble(now).told(limit, batch_size, now);
            }
            topic.knowledge = Knowledge::Exists;
        }
    }

    /// Something happened to the topic in the producer of class `from`. Nothing of it is
    /// outstanding there any more.
    pub fn add_trouble(
        &mut self,
        name: &Arc<str>,
        kind: &Kind,
        from: usize,
        batch_size: usize,
        now: Instant,
    ) {
        let topic = self.map.entry(name.clone()).or_insert_with(Topic::new);
        let was_limited = topic.is_limited();
        topic.trouble(now).add(kind, from, batch_size, now);
        if *kind == Kind::Look {
            topic.knowledge = Knowledge::Unknown;
        }
        self.limit(name, was_limited);
    }

    /// Counts a topic's backlog among the limited ones, or no longer.
    fn limit(&mut self, name: &str, was_limited: bool) {
        let Some(topic) = self.map.get(name) else { return };
        match (was_limited, topic.is_limited()) {
            (false, true) => self.limited.add(Size::of(&topic.backlog)),
            (true, false) => self.limited.take(Size::of(&topic.backlog)),
            _ => {}
        }
    }

    /// The producer of a class has reported records of a topic.
    pub fn settled(&mut self, class: usize, settled: &Settled, now: Instant) {
        let Settled { topic: name, acknowledged, size } = settled;
        let mut topic = self.map.get_mut(&**name);
        self.queues.settle(class, topic.as_mut().map(|topic| &mut topic.share), *size);
        let Some(topic) = topic else { return };
        if *acknowledged {
            if topic.stuck && topic.share.is_silent(now) {
                say::info!("kafka: topic {name} takes records again");
            }
            topic.share.acknowledged(now);
        }
        let was_limited = topic.is_limited();
        // In the producer of all nothing is in trouble.
        let Some(trouble) = topic.trouble.as_mut().filter(|_| class > 0) else { return };
        trouble.outstanding = trouble.outstanding.saturating_sub(size.records);
        if *acknowledged && trouble.parked.is_some() {
            trouble.probed(now);
            say::info!("kafka: topic {name} takes records again");
        }
        self.limit(name, was_limited);
    }

    /// The topic's records are refused; returns those that waited. The refusal stands for
    /// [`REFUSAL`], while fewer than [`MAX_REFUSED`] topics are refused.
    pub fn refuse(&mut self, topic: &str, why: &str, now: Instant) -> VecDeque<Waiting> {
        let Some(known) = self.map.get_mut(topic) else {
            return VecDeque::new();
        };
        if known.stuck {
            self.stuck.take(known.waiting);
        }
        let records = known.take_backlog();
        self.waiting.take(Size::of(&records));
        if known.is_limited() {
            self.limited.take(Size::of(&records));
        }
        (known.trouble, known.stuck) = (None, false);
        self.backlogged.remove(topic);
        if self.refused < MAX_REFUSED {
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

    /// Offers the waiting records of topics that exist, in order per topic, each with the class of
    /// the producer it goes to. True when Kafka has to be asked about a topic.
    pub fn drain(&mut self, now: Instant, mut offer: impl FnMut(usize, &Waiting) -> Offer) -> bool {
        let mut ask = false;
        if self.waiting.records == 0 {
            return ask;
        }
        let mut closed = [false; CLASSES];
        for name in &self.backlogged {
            let Some(topic) = self.map.get_mut(name) else { continue };
            if topic.knowledge != Knowledge::Exists {
                continue;
            }
            let limited = topic.is_limited();
            let place =
                topic.trouble.as_mut().map_or(Place::Class(0), |trouble| trouble.place(now));
            let (class, mut left) = match place {
                Place::Class(class) => (class, usize::MAX),
                Place::Probe(class) => (class, 1),
                Place::Nowhere => continue,
                Place::Ask => {
                    ask = true;
                    topic.knowledge = Knowledge::Unknown;
                    continue;
                }
            };
            while let Some(record) = topic.backlog.front()
                && !closed[class]
                && left > 0
                && self.queues.takes(class, &topic.share, record.payload_len())
            {
                match offer(class, record) {
                    Offer::Closed => {
                        closed[class] = true;
                        break;
                    }
                    Offer::Sent => {
                        let bytes = record.payload_len();
                        self.queues.put(class, &mut topic.share, bytes, || now);
                        if let Some(trouble) = topic.trouble.as_mut().filter(|_| class > 0) {
                            trouble.outstanding += 1;
                        }
                    }
                    Offer::Settled => {}
                }
                left -= 1;
                let size = Size::one(record.cost());
                topic.waiting.take(size);
                self.waiting.take(size);
                if limited {
                    self.limited.take(size);
                }
                topic.backlog.pop_front();
            }
        }
        self.sweep();
        ask
    }

    /// Forgets which topics had a backlog and have none.
    fn sweep(&mut self) {
        let map = &mut self.map;
        self.backlogged.retain(|name| {
            let Some(topic) = map.get_mut(name) else { return false };
            topic.stuck &= !topic.backlog.is_empty();
            !topic.backlog.is_empty()
        });
        if self.backlogged.is_empty() {
            self.stuck = Size::default();
        }
    }

    /// Takes every waiting record; nothing is outstanding any more.
    pub fn take_waiting(&mut self) -> Vec<Waiting> {
        (self.waiting, self.limited, self.stuck) = Default::default();
        self.queues.clear();
        self.backlogged.clear();
        let mut waiting = Vec::new();
        for topic in self.map.values_mut() {
            waiting.extend(topic.take_backlog());
            (topic.share, topic.stuck) = (Share::default(), false);
            if let Some(trouble) = &mut topic.trouble {
                trouble.outstanding = 0;
            }
        }
        self.map.retain(|_, topic| topic.knowledge != Knowledge::Unknown);
        waiting
    }
}

#[cfg(test)]
mod tests;
