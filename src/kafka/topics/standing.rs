//! Topics that take nothing for now: parked ones, and those that are stuck.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::share::Size;
use super::super::waiting::Waiting;
use super::{Knowledge, Topics};

/// Why a topic is stuck, as far as librdkafka lets it be known.
const STUCK: &str = "Kafka acknowledges nothing of it (fewer in-sync replicas than its min.insync.replicas, or a partition without a leader)";

/// Topics that are parked or stuck with records waiting.
#[derive(Debug, PartialEq, Eq)]
pub(in super::super) struct Parking {
    /// One of them, and why.
    pub topic: Arc<str>,
    pub why: Arc<str>,
    pub topics: usize,
    pub records: usize,
}

impl Topics {
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

    /// Kafka says that a topic it was asked about takes nothing until somebody mends it.
    pub fn park(&mut self, name: &str, why: &str, now: Instant) {
        if let Some(topic) = self.map.get_mut(name) {
            let was_limited = topic.is_limited();
            topic.trouble(now).park(&why.into(), true, now);
            self.limit(name, was_limited);
        }
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
            let records = topic.take_backlog();
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

    /// Parked topics that records wait for, and stuck ones while Kafka is not `away` for all.
    pub fn parking(&self, away: bool, now: Instant) -> Option<Parking> {
        let mut found: Option<Parking> = None;
        for name in &self.backlogged {
            let Some(topic) = self.map.get(name) else { continue };
            let parked = topic.trouble.as_ref().and_then(|trouble| trouble.parked.as_ref());
            let why = match parked {
                Some(parked) => parked.why.clone(),
                None if topic.stuck && !away && topic.share.is_silent(now) => STUCK.into(),
                None => continue,
            };
            let found = found.get_or_insert_with(|| Parking {
                topic: name.clone(),
                why,
                topics: 0,
                records: 0,
            });
            found.topics += 1;
            found.records += topic.backlog.len();
        }
        found
    }

    /// Waiting records that take no room: their topics are stuck.
    pub fn stuck(&self) -> usize {
        self.stuck.records
    }

    /// Whether a record of the topic would be one of them.
    pub fn is_stuck(&self, topic: &str) -> bool {
        self.stuck.records > 0 && self.map.get(topic).is_some_and(|topic| topic.stuck)
    }

    /// Whether so many records wait that a topic may have its share of those that may.
    pub fn is_crowded(&self, max: Size) -> bool {
        self.waiting.records > max.records / 2 || self.waiting.bytes > max.bytes / 2
    }

    /// Whether more records of the topic should come: fewer of it wait than others may. Those of
    /// one that is parked until somebody mends it come and are refused.
    pub fn takes(&self, topic: &str, max: Size) -> bool {
        let Some(topic) = self.map.get(topic).filter(|topic| !topic.is_limited()) else {
            return true;
        };
        let mut free = max;
        free.take(self.waiting);
        let own = topic.waiting;
        own.records == 0 || own.records < free.records && own.bytes < free.bytes
    }

    /// Finds the topics that are stuck, which they are until nothing of them waits.
    pub fn find_stuck(&mut self, now: Instant) {
        self.stuck = Size::default();
        for name in &self.backlogged {
            let Some(topic) = self.map.get_mut(name) else { continue };
            topic.stuck |= topic.share.is_silent(now) || topic.waits_for_kafka();
            if topic.stuck {
                self.stuck.add(topic.waiting);
            }
        }
    }
}
