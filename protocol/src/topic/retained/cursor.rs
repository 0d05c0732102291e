//! A walk over the retained messages that a filter matches, in steps: what matches is never held all at once.
//!
//! The position is the last topic that was handed out, in the order of the topics. So a step goes on in logarithmic
//! time, and whatever was set or removed in between is met as it stands then.
//!
//! Invariant: a topic that has a message the whole time is handed out once, also when the walk goes on from its
//! [`RetainedCursor::position`] in another node.
//!
//! Bounds: a cursor holds its filter and one topic; a step looks at so many topics as its caller says.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use super::{Ahead, Retained};
use crate::Message;
use crate::topic::filter::{TopicFilter, filter_matches};

/// See the module.
#[derive(Debug)]
pub struct RetainedCursor {
    filter: TopicFilter,
    next: Next,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Next {
    /// The one topic that the filter begins with: all of it, or `a` of `a/#`, which is before `a/` in the order.
    First,
    /// The topics that begin with the filter's literal part.
    Within,
    /// Those of them behind this one.
    Behind(Arc<str>),
    Done,
}

impl RetainedCursor {
    /// Before everything that the filter matches.
    pub fn new(filter: TopicFilter) -> Self {
        Self { filter, next: Next::First }
    }

    /// Behind a [`Self::position`] of another one with this filter.
    pub fn behind(filter: TopicFilter, position: Arc<str>) -> Self {
        let next = if position.is_empty() { Next::First } else { Next::Behind(position) };
        Self { filter, next }
    }

    /// The topic behind which it goes on; empty: it begins with the first. `None`: nothing is left.
    pub fn position(&self) -> Option<Arc<str>> {
        match &self.next {
            Next::First => Some("".into()),
            Next::Within => Some(self.first().unwrap_or_default().into()),
            Next::Behind(topic) => Some(Arc::clone(topic)),
            Next::Done => None,
        }
    }

    /// Where the filter's first wildcard stands.
    fn wildcard(&self) -> Option<usize> {
        self.filter.as_str().find(['+', '#'])
    }

    /// The one topic before those that begin with the filter's literal part.
    fn first(&self) -> Option<&str> {
        let text = self.filter.as_str();
        match self.wildcard() {
            None => Some(text),
            Some(at) if text.as_bytes()[at] == b'#' => text[..at].strip_suffix('/'),
            Some(_) => None,
        }
    }

    /// What it walks over.
    pub fn filter(&self) -> &TopicFilter {
        &self.filter
    }

    /// Nothing is left.
    pub fn is_done(&self) -> bool {
        self.next == Next::Done
    }
}

impl Retained {
    /// Appends the messages that a new subscription gets ([MQTT-3.3.1-6]), ordered by topic.
    pub fn matching(&self, filter: &TopicFilter, out: &mut Vec<Arc<Message>>) {
        self.all(filter, None, out);
    }

    /// The same for one that gets what is still to come as live messages, at this place.
    pub fn matching_live(&self, place: usize, filter: &TopicFilter, out: &mut Vec<Arc<Message>>) {
        self.all(filter, Some(place), out);
    }

    fn all(&self, filter: &TopicFilter, live: Option<usize>, out: &mut Vec<Arc<Message>>) {
        let mut cursor = RetainedCursor::new(filter.clone());
        self.walk(&mut cursor, live, usize::MAX, |message| {
            out.push(Arc::clone(message));
            true
        });
    }

    /// Goes on with a walk: `take` gets each message that matches, until it answers false, which leaves that message
    /// for the next time. Looks at `most` topics at most, and returns at how many. `live`: the messages that live
    /// subscribers have at this place.
    pub fn walk(
        &self,
        cursor: &mut RetainedCursor,
        live: Option<usize>,
        most: usize,
        mut take: impl FnMut(&Arc<Message>) -> bool,
    ) -> usize {
        let wildcard = cursor.wildcard();
        let mut looked = 0;
        if cursor.next == Next::First {
            if most == 0 {
                return 0;
            }
            if let Some(first) = cursor.first() {
                looked = 1;
                if self.stands(first, live).is_some_and(|message| !take(message)) {
                    return looked;
                }
            }
            cursor.next = if wildcard.is_some() { Next::Within } else { Next::Done };
        }
        // Up to and with the separator before the first wildcard: `a/+/b` has `a/`.
        let text = cursor.filter.as_str();
        let prefix = &text[..wildcard.unwrap_or(text.len())];
        let from = match &cursor.next {
            Next::Within => Bound::Included(prefix),
            // Behind the first alone.
            Next::Behind(topic) if **topic < *prefix => Bound::Included(prefix),
            Next::Behind(topic) => Bound::Excluded(&**topic),
            Next::First | Next::Done => return looked,
        };
        let mut last = None;
        let mut ended = true;
        for (topic, message) in self.merged(from, live) {
            if !topic.starts_with(prefix) {
                break;
            }
            if looked >= most {
                ended = false;
                break;
            }
            looked += 1;
            let message = message.filter(|_| filter_matches(text, topic));
            if message.is_some_and(|message| !take(message)) {
                ended = false;
                break;
            }
            last = Some(topic);
        }
        let behind = last.map(|topic| Next::Behind(Arc::clone(topic)));
        if ended {
            cursor.next = Next::Done;
        } else if let Some(behind) = behind {
            cursor.next = behind;
        }
        looked
    }

    /// The message of a topic name, for live subscribers of a place.
    fn stands(&self, topic: &str, live: Option<usize>) -> Option<&Arc<Message>> {
        match live.and_then(|place| Some((self.ahead.get(topic)?, place))) {
            Some((ahead, place)) => ahead.seen(place),
            None => self.get(topic),
        }
    }

    /// Topics in order with what stands there; those with changes ahead are in both maps, or in the second only.
    fn merged<'a>(
        &'a self,
        from: Bound<&str>,
        live: Option<usize>,
    ) -> impl Iterator<Item = (&'a Arc<str>, Option<&'a Arc<Message>>)> {
        let mut current = self.messages.range::<str, _>((from, Bound::Unbounded)).peekable();
        let nothing: &BTreeMap<Arc<str>, Ahead> = const { &BTreeMap::new() };
        let ahead = if live.is_some() { &self.ahead } else { nothing };
        let mut ahead = ahead.range::<str, _>((from, Bound::Unbounded)).peekable();
        let place = live.unwrap_or(0);
        std::iter::from_fn(move || {
            let Some((changed, _)) = ahead.peek() else {
                return current.next().map(|(topic, message)| (topic, Some(message)));
            };
            if let Some((topic, message)) = current.next_if(|(topic, _)| topic < changed) {
                return Some((topic, Some(message)));
            }
            current.next_if(|(topic, _)| topic == changed);
            ahead.next().map(|(topic, ahead)| (topic, ahead.seen(place)))
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::QoS;
    use crate::wire::Limits;

    fn message(topic: &str, payload: &str) -> Arc<Message> {
        Arc::new(Message {
            topic: Arc::from(topic),
            payload: Bytes::copy_from_slice(payload.as_bytes()),
            qos: QoS::AtLeastOnce,
            retain: true,
            properties: None,
        })
    }

    fn cursor(filter: &str) -> RetainedCursor {
        RetainedCursor::new(TopicFilter::parse(filter, &Limits::PROTOCOL).unwrap())
    }

    /// What a step of so many topics gives.
    fn step(retained: &Retained, cursor: &mut RetainedCursor, most: usize) -> Vec<String> {
        let mut out = Vec::new();
        let looked = retained.walk(cursor, None, most, |message| {
            out.push(String::from_utf8(message.payload.to_vec()).unwrap());
            true
        });
        assert!(looked <= most);
        out
    }

    #[test]
    fn what_stands_then_is_handed_out() {
        let mut retained = Retained::new();
        for topic in ["a", "a/1", "a/2", "a/3", "a0"] {
            retained.insert(message(topic, topic));
        }
        let mut all = cursor("a/#");
        assert!(step(&retained, &mut all, 0).is_empty());
        assert_eq!(step(&retained, &mut all, 2), ["a", "a/1"]);
        retained.insert(message("a", "passed"));
        retained.insert(message("a/2", "new"));
        retained.remove("a/1");
        retained.remove("a/3");
        retained.insert(message("a/4", "a/4"));
        assert!(!all.is_done());
        assert_eq!(step(&retained, &mut all, 10), ["new", "a/4"]);
        assert!(all.is_done() && step(&retained, &mut all, 10).is_empty());
        let mut one = cursor("a/4");
        assert_eq!(step(&retained, &mut one, 1), ["a/4"]);
        assert!(one.is_done());
    }

    #[test]
    fn what_is_not_taken_comes_again() {
        let mut retained = Retained::new();
        for topic in ["a", "a/1", "a/2"] {
            retained.insert(message(topic, topic));
        }
        for filter in ["a/#", "#", "+/#", "a"] {
            let mut cursor = cursor(filter);
            let mut taken = Vec::new();
            for turn in 0..20 {
                // Every second one is refused first.
                let mut refuses = turn % 2 == 0;
                retained.walk(&mut cursor, Some(0), usize::MAX, |message| {
                    let takes = !std::mem::replace(&mut refuses, true);
                    if takes {
                        taken.push(Arc::clone(&message.topic));
                    }
                    takes
                });
            }
            let all = if filter == "a" { 1 } else { 3 };
            assert_eq!(taken.len(), all, "{filter}: {taken:?}");
            assert!(cursor.is_done());
        }
    }

    /// What happens to a topic between two steps.
    fn changes() -> impl Strategy<Value = Vec<(String, u8)>> {
        prop::collection::vec(("[abc$](/[abc]){0,2}", 0u8..4), 0..6)
    }

    proptest! {
        #[test]
        fn what_stands_all_the_time_comes_once(
            topics in prop::collection::btree_set("[abc$](/[abc]){0,2}", 1..30),
            filter in "([abc]|\\+)(/([abc]|\\+)){0,2}(/#)?|#",
            rounds in prop::collection::vec((changes(), 0usize..5, any::<bool>()), 0..20),
            live in any::<bool>(),
            again in any::<bool>(),
        ) {
            let mut retained = Retained::new();
            for topic in &topics {
                retained.insert(message(topic, "0"));
            }
            let mut cursor = cursor(&filter);
            let (mut came, mut stood) = (BTreeMap::<Arc<str>, usize>::new(), topics.clone());
            let live = live.then_some(1);
            let end = (Vec::new(), usize::MAX, false);
            let mut version = 0;
            for (changed, most, refuses) in rounds.into_iter().chain([end]) {
                for (topic, how) in changed {
                    version += 1;
                    let new = message(&topic, &version.to_string());
                    match how {
                        0 => drop(retained.insert(new)),
                        1 => {
                            stood.remove(&topic);
                            retained.remove(&topic);
                        }
                        2 => {
                            let key = Arc::clone(&new.topic);
                            retained.change_ahead(&key, Some(new), version, 2);
                        }
                        _ => {
                            stood.remove(&topic);
                            retained.change_ahead(&new.topic, None, version, 2);
                            if version % 2 == 0 {
                                retained.reaches(&topic, version, [0, 1]);
                            }
                        }
                    }
                }
                let mut left = if refuses { 1 } else { usize::MAX };
                let looked = retained.walk(&mut cursor, live, most, |message| {
                    let takes = left > 0;
                    left = left.saturating_sub(1);
                    if takes {
                        assert_eq!(retained.stands(&message.topic, live), Some(message));
                        *came.entry(Arc::clone(&message.topic)).or_default() += 1;
                    }
                    takes
                });
                prop_assert!(looked <= most);
                if again && let Some(position) = cursor.position() {
                    cursor = RetainedCursor::behind(cursor.filter().clone(), position);
                }
            }
            prop_assert!(cursor.is_done() && cursor.position().is_none());
            let matches = |topic: &&String| filter_matches(&filter, topic);
            let stood: BTreeSet<&str> =
                stood.iter().filter(matches).map(String::as_str).collect();
            for topic in stood {
                prop_assert_eq!(came.get(topic), Some(&1), "{} of {}", topic, filter);
            }
            for (topic, count) in came {
                prop_assert_eq!(count, 1, "{}", topic);
            }
        }
    }
}
