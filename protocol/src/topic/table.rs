//! Who is subscribed to what.
//!
//! Filters without a wildcard are keys of a hash map: one look-up a publish, and a million of them
//! cost their text and some 100 bytes each. Filters with one are paths in a [`Trie`].

use std::hash::Hash;
use std::sync::Arc;

use ahash::AHashMap;

use super::filter::TopicFilter;
use super::subscribers::Subscribers;
use super::trie::{CROWD, Trie};
use crate::QoS;

/// Subscriptions: topic filter, subscriber, QoS. `S` names a subscriber and is cheap to copy.
#[derive(Debug)]
pub struct SubscriptionTable<S> {
    exact: AHashMap<Arc<str>, Subscribers<S>>,
    wildcard: Trie<S>,
    len: usize,
}

impl<S> Default for SubscriptionTable<S> {
    fn default() -> Self {
        Self { exact: AHashMap::new(), wildcard: Trie::default(), len: 0 }
    }
}

impl<S: Copy + Eq + Hash> SubscriptionTable<S> {
    /// An empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a subscription, or replaces its QoS ([MQTT-3.8.4-3]). True when it is new.
    pub fn subscribe(&mut self, filter: &TopicFilter, subscriber: S, qos: QoS) -> bool {
        let subscribers = if filter.has_wildcard() {
            let node = self.wildcard.make(filter.as_str());
            self.wildcard.subscribers(node)
        } else {
            // Two look-ups for a new filter, none of them clones the key for a known one.
            if !self.exact.contains_key(filter.as_str()) {
                self.exact.insert(Arc::clone(filter.arc()), Subscribers::default());
            }
            match self.exact.get_mut(filter.as_str()) {
                Some(subscribers) => subscribers,
                None => return false,
            }
        };
        let new = subscribers.insert(subscriber, qos);
        self.len += usize::from(new);
        new
    }

    /// The QoS of a subscription.
    pub fn granted(&self, filter: &TopicFilter, subscriber: S) -> Option<QoS> {
        let subscribers = if filter.has_wildcard() {
            self.wildcard.subscribers_of(self.wildcard.find(filter.as_str())?)
        } else {
            self.exact.get(filter.as_str())?
        };
        subscribers.get(subscriber)
    }

    /// Removes a subscription. True when there was one.
    pub fn unsubscribe(&mut self, filter: &TopicFilter, subscriber: S) -> bool {
        let removed = if filter.has_wildcard() {
            match self.wildcard.find(filter.as_str()) {
                Some(node) => {
                    let removed = self.wildcard.subscribers(node).remove(subscriber);
                    self.wildcard.prune(node);
                    removed
                }
                None => false,
            }
        } else {
            match self.exact.get_mut(filter.as_str()) {
                Some(subscribers) => {
                    let removed = subscribers.remove(subscriber);
                    if subscribers.is_empty() {
                        self.exact.remove(filter.as_str());
                        let capacity = self.exact.capacity();
                        if capacity > CROWD && self.exact.len() < capacity / 8 {
                            self.exact.shrink_to(capacity / 4);
                        }
                    }
                    removed
                }
                None => false,
            }
        };
        self.len -= usize::from(removed);
        removed
    }

    /// Appends every subscription that matches the topic name to `out`; a subscriber comes once a
    /// matching filter (see [`fold_overlaps`]). In no order.
    pub fn matches(&self, topic: &str, out: &mut Vec<(S, QoS)>) {
        if let Some(subscribers) = self.exact.get(topic) {
            subscribers.collect_into(out);
        }
        self.wildcard.matches(topic, out);
    }

    /// Subscriptions.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no subscription.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// Keeps each subscriber once, at its highest QoS ([MQTT-3.3.5-1]), ordered by subscriber.
pub fn fold_overlaps<S: Ord + Copy>(out: &mut Vec<(S, QoS)>) {
    if out.len() < 2 {
        return;
    }
    out.sort_unstable_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)));
    out.dedup_by(|next, kept| next.0 == kept.0);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::topic::filter_matches;
    use crate::wire::Limits;

    fn filter(text: &str) -> TopicFilter {
        TopicFilter::parse(text, &Limits::PROTOCOL).unwrap()
    }

    fn matching(table: &SubscriptionTable<u32>, topic: &str) -> Vec<(u32, QoS)> {
        let mut out = Vec::new();
        table.matches(topic, &mut out);
        out.sort();
        out
    }

    #[test]
    fn subscribe_replaces_and_unsubscribe_removes() {
        let mut table = SubscriptionTable::new();
        for text in ["a/b", "a/+", "a/#", "+/b"] {
            let filter = filter(text);
            assert!(table.subscribe(&filter, 1, QoS::AtMostOnce), "{text}");
            assert!(!table.subscribe(&filter, 1, QoS::ExactlyOnce), "{text}");
            assert!(table.subscribe(&filter, 2, QoS::AtLeastOnce), "{text}");
            assert_eq!(matching(&table, "a/b"), [(1, QoS::ExactlyOnce), (2, QoS::AtLeastOnce)]);
            assert!(!table.unsubscribe(&filter, 3));
            assert!(table.unsubscribe(&filter, 1));
            assert!(!table.unsubscribe(&filter, 1));
            assert_eq!(table.len(), 1);
            assert!(table.unsubscribe(&filter, 2));
            assert!(!table.unsubscribe(&filter, 2));
            assert!(table.is_empty());
        }
        assert!(table.exact.is_empty());
        table.wildcard.assert_empty();
    }

    #[test]
    fn overlaps_fold_to_the_highest_qos() {
        let mut table = SubscriptionTable::new();
        table.subscribe(&filter("a/b"), 7, QoS::AtMostOnce);
        table.subscribe(&filter("a/+"), 7, QoS::ExactlyOnce);
        table.subscribe(&filter("#"), 7, QoS::AtLeastOnce);
        table.subscribe(&filter("+/b"), 3, QoS::AtLeastOnce);
        let mut out = Vec::new();
        table.matches("a/b", &mut out);
        assert_eq!(out.len(), 4);
        fold_overlaps(&mut out);
        assert_eq!(out, [(3, QoS::AtLeastOnce), (7, QoS::ExactlyOnce)]);
    }

    #[test]
    fn the_deepest_filter_needs_no_stack() {
        let mut table = SubscriptionTable::new();
        let deep = filter(&format!("{}#", "+/".repeat(30_000)));
        table.subscribe(&deep, 1, QoS::AtMostOnce);
        let topic = "/".repeat(40_000);
        assert_eq!(matching(&table, &topic), [(1, QoS::AtMostOnce)]);
        drop(table);
        let mut table = SubscriptionTable::new();
        table.subscribe(&deep, 1, QoS::AtMostOnce);
        assert!(table.unsubscribe(&deep, 1));
        table.wildcard.assert_empty();
        assert_eq!(table.wildcard.node_count(), 1, "the memory goes back");
    }

    #[test]
    fn a_crowd_comes_and_goes() {
        let mut table = SubscriptionTable::new();
        for s in 0..20_000u32 {
            table.subscribe(&filter("all/+"), s, QoS::AtMostOnce);
            table.subscribe(&filter("one"), s, QoS::AtMostOnce);
            table.subscribe(&filter(&format!("device/{s}")), s, QoS::AtMostOnce);
        }
        assert_eq!(table.len(), 60_000);
        assert_eq!(matching(&table, "all/x").len(), 20_000);
        for s in 0..20_000u32 {
            assert!(table.unsubscribe(&filter("all/+"), s));
            assert!(table.unsubscribe(&filter("one"), s));
            assert!(table.unsubscribe(&filter(&format!("device/{s}")), s));
        }
        assert!(table.is_empty());
        assert!(table.exact.capacity() <= 4 * CROWD, "the memory goes back");
    }

    /// Few names, so that filters meet.
    fn level() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec!["", "a", "b", "$x"])
    }

    fn any_filter() -> impl Strategy<Value = String> {
        let level = prop_oneof![3 => level(), 2 => Just("+")];
        (prop::collection::vec(level, 0..4), any::<bool>()).prop_map(|(mut levels, hash)| {
            if hash || levels.is_empty() || levels == [""] {
                levels.push("#");
            }
            levels.join("/")
        })
    }

    fn any_topic() -> impl Strategy<Value = String> {
        prop::collection::vec(level(), 1..5)
            .prop_map(|levels| levels.join("/"))
            .prop_filter("not empty", |topic| !topic.is_empty())
    }

    proptest! {
        #[test]
        fn agrees_with_brute_force(
            steps in prop::collection::vec((any_filter(), 0u32..3, 0u8..3, prop::bool::weighted(0.7)), 1..60),
            topics in prop::collection::vec(any_topic(), 1..20),
        ) {
            let mut table = SubscriptionTable::new();
            let mut model: BTreeMap<(String, u32), QoS> = BTreeMap::new();
            for (text, subscriber, qos, add) in steps {
                let parsed = filter(&text);
                if add {
                    let qos = QoS::from_bits(qos).unwrap();
                    let new = model.insert((text, subscriber), qos).is_none();
                    prop_assert_eq!(table.subscribe(&parsed, subscriber, qos), new);
                } else {
                    let was = model.remove(&(text, subscriber)).is_some();
                    prop_assert_eq!(table.unsubscribe(&parsed, subscriber), was);
                }
                prop_assert_eq!(table.len(), model.len());
            }
            for topic in topics {
                let mut expected: Vec<_> = model
                    .iter()
                    .filter(|((text, _), _)| filter_matches(text, &topic))
                    .map(|((_, subscriber), qos)| (*subscriber, *qos))
                    .collect();
                expected.sort();
                prop_assert_eq!(matching(&table, &topic), expected, "{}", topic);
            }
            for (text, subscriber) in model.keys() {
                prop_assert!(table.unsubscribe(&filter(text), *subscriber));
            }
            prop_assert!(table.is_empty() && table.exact.is_empty());
            table.wildcard.assert_empty();
        }
    }
}
