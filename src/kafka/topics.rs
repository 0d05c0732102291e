//! What is known about each Kafka topic, and the records that wait for one.
//!
//! A record waits only while its own topic is not known, is in [`Trouble`], or its producer is being
//! replaced; its records leave in order, before any later record of the topic.
//!
//! Bounds: waiting records count against `kafka.queue_max_messages` and `kafka.queue_max_bytes`,
//! and those whose topic is parked until somebody mends it against a part of both ([`Limits`]), so
//! that such topics never take all the room; a topic that is not known stands here only while
//! records wait for it, one that exists as long as Kafka takes its records; remembered refusals are
//! dropped when they expire, and past [`MAX_REFUSED`] they are not remembered at all.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ahash::{AHashMap, AHashSet};
use hydrant_actors::ports::LogRecord;
use hydrant_actors::say;

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
    trouble: Option<Box<Trouble>>,
}

impl Topic {
    fn new() -> Self {
        Self { knowledge: Knowledge::Unknown, backlog: VecDeque::new(), trouble: None }
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

    fn trouble(&mut self, now: Instant) -> &mut Trouble {
        self.trouble.get_or_insert_with(|| Box::new(Trouble::new(now)))
    }
}

/// Records and bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Size {
    pub records: usize,
    pub bytes: usize,
}

impl Size {
    fn of(records: &VecDeque<Waiting>) -> Self {
        Self { records: records.len(), bytes: records.iter().map(Waiting::cost).sum() }
    }

    fn add(&mut self, other: Self) {
        self.records += other.records;
        self.bytes += other.bytes;
    }

    fn take(&mut self, other: Self) {
        self.records = self.records.saturating_sub(other.records);
        self.bytes = self.bytes.saturating_sub(other.bytes);
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

/// Topics that are parked with records waiting.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Parking {
    /// One of them, and why.
    pub topic: Arc<str>,
    pub why: Arc<str>,
    pub topics: usize,
    pub records: usize,
}

impl Topics {
    /// Where a record of the topic goes now.
    pub fn way(&mut self, topic: &str, now: impl FnOnce() -> Instant) -> Way {
        match self.map.get(topic) {
            None => Way::Wait,
            Some(known) => match &known.knowledge {
                Knowledge::Exists if known.backlog.is_empty() && known.is_well() => Way::Send,
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
        self.waiting.records
    }

    pub fn known(&self) -> usize {
        self.map.len()
    }

    /// Whether a record of so many bytes may wait.
    pub fn has_room(&self, bytes: usize, max_bytes: usize) -> bool {
        self.waiting.records == 0 || self.waiting.bytes + bytes <= max_bytes
    }

    /// Why a record of the topic may not wait: the topic is parked until somebody mends it, and
    /// such topics have as many waiting as they may.
    pub fn is_full(&self, topic: &str, bytes: usize, max: Size) -> Option<String> {
        if self.limited.records < max.records && self.limited.bytes + bytes <= max.bytes {
            return None;
        }
        let parked = self.map.get(topic)?.trouble.as_ref()?.parked.as_ref()?;
        let (why, records) = (&parked.why, self.limited.records);
        parked
            .limited
            .then(|| format!("{why}; {records} records of such topics wait, and no more may"))
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
        let size = Size { records: 1, bytes: record.cost() };
        self.waiting.add(size);
        let topic = self.map.entry(name.clone()).or_insert_with(Topic::new);
        if topic.is_limited() {
            self.limited.add(size);
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

    /// Kafka says that a topic it was asked about takes nothing until somebody mends it.
    pub fn park(&mut self, name: &str, why: &str, now: Instant) {
        if let Some(topic) = self.map.get_mut(name) {
            let was_limited = topic.is_limited();
            topic.trouble(now).park(&why.into(), true, now);
            self.limit(name, was_limited);
        }
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

    /// A record of a topic in trouble, sent by a producer of its own class, was reported.
    pub fn settled(&mut self, name: &str, acknowledged: bool, now: Instant) {
        let Some(topic) = self.map.get_mut(name) else { return };
        let was_limited = topic.is_limited();
        let Some(trouble) = &mut topic.trouble else { return };
        trouble.outstanding = trouble.outstanding.saturating_sub(1);
        if acknowledged && trouble.parked.is_some() {
            trouble.probed(now);
            say::info!("kafka: topic {name} takes records again");
        }
        self.limit(name, was_limited);
    }

    /// Takes the records of topics that were parked for `time` and that nobody has mended, with the
    /// reasons.
    pub fn give_up(&mut self, time: Duration, now: Instant) -> Vec<(Arc<str>, VecDeque<Waiting>)> {
        let mut given_up = Vec::new();
        if self.limited.records == 0 {
            return given_up;
        }
        for name in &self.backlogged {
            let Some(topic) = self.map.get_mut(name) else { continue };
            let parked = topic.trouble.as_mut().and_then(|trouble| trouble.parked.as_mut());
            let Some(parked) = parked.filter(|parked| parked.limited) else { continue };
            if now.duration_since(parked.since) < time {
                continue;
            }
            parked.since = now;
            let why = parked.why.clone();
            let records = std::mem::take(&mut topic.backlog);
            self.limited.take(Size::of(&records));
            self.waiting.take(Size::of(&records));
            if topic.knowledge == Knowledge::Unknown {
                self.map.remove(name);
            }
            given_up.push((why, records));
        }
        self.sweep();
        given_up
    }

    /// Records that wait until somebody mends their topic.
    pub fn parked(&self) -> usize {
        self.limited.records
    }

    /// Parked topics that records wait for.
    pub fn parking(&self) -> Option<Parking> {
        let mut found: Option<Parking> = None;
        for name in &self.backlogged {
            let Some(topic) = self.map.get(name) else { continue };
            let parked = topic.trouble.as_ref().and_then(|trouble| trouble.parked.as_ref());
            let Some(parked) = parked else { continue };
            let found = found.get_or_insert_with(|| Parking {
                topic: name.clone(),
                why: parked.why.clone(),
                topics: 0,
                records: 0,
            });
            found.topics += 1;
            found.records += topic.backlog.len();
        }
        found
    }

    /// The topic's records are refused; returns those that waited. The refusal stands for
    /// [`REFUSAL`], while fewer than [`MAX_REFUSED`] topics are refused.
    pub fn refuse(&mut self, topic: &str, why: &str, now: Instant) -> VecDeque<Waiting> {
        let Some(known) = self.map.get_mut(topic) else {
            return VecDeque::new();
        };
        let records = std::mem::take(&mut known.backlog);
        self.waiting.take(Size::of(&records));
        if known.is_limited() {
            self.limited.take(Size::of(&records));
        }
        known.trouble = None;
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
            {
                match offer(class, record) {
                    Offer::Closed => {
                        closed[class] = true;
                        break;
                    }
                    Offer::Sent if class > 0 => {
                        if let Some(trouble) = &mut topic.trouble {
                            trouble.outstanding += 1;
                        }
                    }
                    Offer::Sent | Offer::Settled => {}
                }
                left -= 1;
                let size = Size { records: 1, bytes: record.cost() };
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
        let map = &self.map;
        self.backlogged.retain(|name| map.get(name).is_some_and(|topic| !topic.backlog.is_empty()));
    }

    /// Takes every waiting record; nothing is outstanding any more.
    pub fn take_waiting(&mut self) -> Vec<Waiting> {
        (self.waiting, self.limited) = Default::default();
        self.backlogged.clear();
        let mut waiting = Vec::new();
        for topic in self.map.values_mut() {
            waiting.extend(std::mem::take(&mut topic.backlog));
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
