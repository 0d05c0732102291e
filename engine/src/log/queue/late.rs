//! Records that stay in the outbox for now: the log takes no more of their topics ([`MessageLog::takes`]).
//!
//! Once one of a topic is here, all later ones of the outbox come here, until the first ones were
//! read again: so nothing overtakes. Records of one key stand in one lane, in order of position.
//!
//! Bound: a quarter of `log.max_pending_bytes`, at [`PLACE`] bytes each. Past it the log actor takes
//! nothing more of any topic for now, and the outbox grows on disk. Where records of a topic must
//! come here because earlier ones are, one read of a lane may go beyond.
//!
//! [`MessageLog::takes`]: crate::ports::MessageLog::takes

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use crate::ports::OutboxPosition;

/// Bytes that one takes, its part of the tree included.
const PLACE: usize = 32;

/// See the module.
#[derive(Debug, Default)]
pub struct Late {
    topics: BTreeMap<Arc<str>, BTreeSet<OutboxPosition>>,
    records: usize,
    /// The topic that was read last.
    last: Option<Arc<str>>,
}

impl Late {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.records
    }

    /// There is none.
    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// There are as many as `log.max_pending_bytes` lets there be.
    pub fn is_full(&self, max_pending_bytes: usize) -> bool {
        self.records * PLACE >= max_pending_bytes / 4
    }

    /// Whether there are any of this topic: then later ones come here too.
    pub fn holds(&self, topic: &str) -> bool {
        !self.is_empty() && self.topics.contains_key(topic)
    }

    /// One more.
    pub fn put(&mut self, topic: &Arc<str>, at: OutboxPosition) {
        let topic = match self.topics.get_mut(topic) {
            Some(places) => places,
            None => self.topics.entry(Arc::clone(topic)).or_default(),
        };
        self.records += usize::from(topic.insert(at));
    }

    /// The first record of a topic that is taken again; topics take turns.
    pub fn next(&mut self, takes: impl Fn(&str) -> bool) -> Option<(Arc<str>, OutboxPosition)> {
        let after = match self.last.take() {
            Some(last) => (Bound::Excluded(last), Bound::Unbounded),
            None => (Bound::Unbounded, Bound::Unbounded),
        };
        let mut found = self.topics.range(after).chain(&self.topics);
        let (topic, places) = found.find(|(topic, _)| takes(topic))?;
        self.last = Some(Arc::clone(topic));
        Some((Arc::clone(topic), *places.first()?))
    }

    /// One was read again; false when it was not here.
    pub fn take(&mut self, topic: &str, at: OutboxPosition) -> bool {
        let Some(places) = self.topics.get_mut(topic) else { return false };
        let was_here = places.remove(&at);
        self.records -= usize::from(was_here);
        if places.is_empty() {
            self.topics.remove(topic);
        }
        was_here
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(lane: u16, position: u64) -> OutboxPosition {
        OutboxPosition { lane, position }
    }

    #[test]
    fn records_are_read_again_in_the_order_of_their_lanes_and_topics_take_turns() {
        let mut late = Late::default();
        let topics: [Arc<str>; 3] = ["a", "b", "c"].map(Arc::from);
        for topic in &topics {
            for place in [at(1, 7), at(0, 9), at(1, 3), at(1, 3)] {
                late.put(topic, place);
            }
        }
        assert_eq!(late.len(), 9);
        assert!(late.holds("a") && !late.holds("d"));
        let mut read = Vec::new();
        while let Some((topic, place)) = late.next(|topic| topic != "b") {
            assert!(late.take(&topic, place) && !late.take(&topic, place));
            read.push((topic.to_string(), place));
        }
        let want = [at(0, 9), at(1, 3), at(1, 7)];
        let want = want.iter().flat_map(|place| ["a", "c"].map(|topic| (topic.into(), *place)));
        assert_eq!(read, want.collect::<Vec<_>>());
        assert_eq!((late.len(), late.holds("a"), late.holds("b")), (3, false, true));
    }
}
