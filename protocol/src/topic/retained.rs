//! The retained messages: at most one a topic name (MQTT 3.1.1 section 3.3.1.3).
//!
//! Ordered by topic, so that a filter with wildcards looks only at the topics that begin with its
//! literal part. The bounds (`len`, `bytes`) are the owner's to hold.
//!
//! A QoS 2 message is retained when it is routed and reaches live subscribers when it is durable. In between the change
//! is *ahead*: a new subscriber to whom the message is still to come gets what was retained before it, else older live
//! messages would follow a newer retained one. The owner has several places (threads) that a message reaches one by
//! one.
//!
//! Bounds of what is ahead: each change of it belongs to a message under way; its owner ends each of them.

mod cursor;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use smallvec::{SmallVec, smallvec};

pub use cursor::RetainedCursor;

use crate::Message;

/// Retained messages by topic name.
#[derive(Debug, Default)]
pub struct Retained {
    messages: BTreeMap<Arc<str>, Arc<Message>>,
    bytes: usize,
    ahead: BTreeMap<Arc<str>, Ahead>,
}

/// A topic with changes that have not reached all live subscribers.
#[derive(Debug)]
struct Ahead {
    /// What the live subscribers have, by place.
    seen: SmallVec<[Option<Arc<Message>>; 4]>,
    changes: SmallVec<[Change; 1]>,
}

impl Ahead {
    fn seen(&self, place: usize) -> Option<&Arc<Message>> {
        self.seen.get(place)?.as_ref()
    }
}

#[derive(Debug)]
struct Change {
    version: u64,
    /// Whose it is, as its owner counts.
    by: u16,
    message: Option<Arc<Message>>,
    /// Places that it has not reached.
    left: SmallVec<[usize; 4]>,
}

impl Retained {
    /// Bytes that a message is counted with beside its topic and payload: its place in the tree, and its allocations.
    pub const EACH: usize = 256;

    /// What a message is counted with.
    pub fn cost(topic: &str, payload: &[u8]) -> usize {
        topic.len() + payload.len() + Self::EACH
    }

    fn cost_of(message: &Message) -> usize {
        Self::cost(&message.topic, &message.payload)
    }

    /// Nothing retained.
    pub fn new() -> Self {
        Self::default()
    }

    /// Keeps the message in the place of the one before, which is returned. An empty payload only
    /// removes ([MQTT-3.3.1-10], [MQTT-3.3.1-11]).
    pub fn insert(&mut self, message: Arc<Message>) -> Option<Arc<Message>> {
        if message.payload.is_empty() {
            return self.remove(&message.topic);
        }
        if let Some(ahead) = self.ahead.get_mut(&message.topic) {
            ahead.seen.fill(Some(Arc::clone(&message)));
        }
        self.put(message)
    }

    /// Forgets the message of a topic name, which is returned.
    pub fn remove(&mut self, topic: &str) -> Option<Arc<Message>> {
        if let Some(ahead) = self.ahead.get_mut(topic) {
            ahead.seen.fill(None);
        }
        self.take(topic)
    }

    fn put(&mut self, message: Arc<Message>) -> Option<Arc<Message>> {
        // The key goes with its message, so that one topic string serves both.
        let old = self.take(&message.topic);
        self.bytes += Self::cost_of(&message);
        self.messages.insert(Arc::clone(&message.topic), message);
        old
    }

    fn take(&mut self, topic: &str) -> Option<Arc<Message>> {
        let old = self.messages.remove(topic)?;
        self.bytes -= Self::cost_of(&old);
        Some(old)
    }

    /// Keeps or removes the message of a topic name before it reaches live subscribers, of so many places.
    pub fn change_ahead(
        &mut self,
        topic: &Arc<str>,
        message: Option<Arc<Message>>,
        version: u64,
        places: usize,
    ) {
        self.change_ahead_by(0, topic, message, version, places);
    }

    /// The same for a change of somebody else, all of whose changes may end at once ([`Self::reached_all`]).
    pub fn change_ahead_by(
        &mut self,
        by: u16,
        topic: &Arc<str>,
        message: Option<Arc<Message>>,
        version: u64,
        places: usize,
    ) {
        let before = self.get(topic).cloned();
        let ahead = self
            .ahead
            .entry(Arc::clone(topic))
            .or_insert_with(|| Ahead { seen: smallvec![before; places], changes: SmallVec::new() });
        let left = (0..places).collect();
        ahead.changes.push(Change { version, by, message: message.clone(), left });
        match message {
            Some(message) => drop(self.put(message)),
            None => drop(self.take(topic)),
        }
    }

    /// The live subscribers of these places have that change.
    pub fn reaches(&mut self, topic: &str, version: u64, places: impl IntoIterator<Item = usize>) {
        let Some(ahead) = self.ahead.get_mut(topic) else { return };
        let Some(change) = ahead.changes.iter_mut().find(|change| change.version == version) else {
            return;
        };
        for place in places {
            if let Some(at) = change.left.iter().position(|left| *left == place) {
                change.left.swap_remove(at);
                ahead.seen[place].clone_from(&change.message);
            }
        }
        if change.left.is_empty() {
            self.reached(topic, version);
        }
    }

    /// Nothing of that change is still to come.
    pub fn reached(&mut self, topic: &str, version: u64) {
        let Some(ahead) = self.ahead.get_mut(topic) else { return };
        ahead.changes.retain(|change| change.version != version);
        if ahead.changes.is_empty() {
            self.ahead.remove(topic);
        }
    }

    /// A change that has not reached a place, and what it changes to; `None`: it has, or there is none.
    pub fn still_ahead(
        &self,
        topic: &str,
        version: u64,
        place: usize,
    ) -> Option<Option<&Arc<Message>>> {
        let changes = &self.ahead.get(topic)?.changes;
        let change = changes.iter().find(|change| change.version == version)?;
        change.left.contains(&place).then_some(change.message.as_ref())
    }

    /// Whether some change is ahead.
    pub fn has_ahead(&self) -> bool {
        !self.ahead.is_empty()
    }

    /// Nothing of the changes of these is still to come.
    pub fn reached_all(&mut self, of: impl Fn(u16) -> bool) {
        self.ahead.retain(|_, ahead| {
            ahead.changes.retain(|change| !of(change.by));
            !ahead.changes.is_empty()
        });
    }

    /// The message of a topic name.
    pub fn get(&self, topic: &str) -> Option<&Arc<Message>> {
        self.messages.get(topic)
    }

    /// All messages, ordered by topic.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Message>> {
        self.messages.values()
    }

    /// The same, of the topics behind this one.
    pub fn behind(&self, topic: Option<&str>) -> impl Iterator<Item = &Arc<Message>> {
        let from = topic.map_or(Bound::Unbounded, Bound::Excluded);
        self.messages.range::<str, _>((from, Bound::Unbounded)).map(|(_, message)| message)
    }

    /// Messages.
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Whether nothing is retained.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// The sum of [`Self::cost`], in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::QoS;
    use crate::topic::TopicFilter;
    use crate::topic::filter::filter_matches;
    use crate::wire::Limits;

    fn message(topic: &str, payload: &'static str) -> Arc<Message> {
        Arc::new(Message {
            topic: Arc::from(topic),
            payload: Bytes::from_static(payload.as_bytes()),
            qos: QoS::AtLeastOnce,
            retain: true,
            properties: None,
        })
    }

    #[test]
    fn one_message_a_topic_and_its_bytes() {
        let mut retained = Retained::new();
        assert_eq!(retained.insert(message("a", "1")), None);
        let old = retained.insert(message("a", "222")).unwrap();
        assert_eq!(&old.payload[..], b"1");
        assert_eq!((retained.len(), retained.bytes()), (1, 1 + 3 + Retained::EACH));
        assert_eq!(&retained.get("a").unwrap().payload[..], b"222");
        let old = retained.insert(message("a", "")).unwrap();
        assert_eq!(&old.payload[..], b"222");
        assert_eq!((retained.len(), retained.bytes()), (0, 0));
        assert_eq!(retained.insert(message("a", "")), None);
        assert!(retained.is_empty() && retained.remove("a").is_none());
    }

    /// What a new live subscriber of `#` gets at a place.
    fn live(retained: &Retained, place: usize) -> Vec<String> {
        let mut out = Vec::new();
        let filter = TopicFilter::parse("#", &Limits::PROTOCOL).unwrap();
        retained.matching_live(place, &filter, &mut out);
        out.iter().map(|m| String::from_utf8(m.payload.to_vec()).unwrap()).collect()
    }

    #[test]
    fn what_is_ahead_is_seen_where_it_has_arrived() {
        let mut retained = Retained::new();
        let topic: Arc<str> = "a".into();
        retained.insert(message("b", "b"));
        retained.change_ahead(&topic, Some(message("a", "1")), 1, 2);
        retained.change_ahead(&topic, None, 2, 2);
        retained.change_ahead(&topic, Some(message("a", "3")), 3, 2);
        assert_eq!(&retained.get("a").unwrap().payload[..], b"3");
        assert_eq!((live(&retained, 0), live(&retained, 1)), (vec!["b".into()], vec!["b".into()]));
        retained.reaches("a", 1, [0]);
        retained.reaches("a", 1, [0]);
        assert_eq!(live(&retained, 0), ["1", "b"]);
        assert_eq!(live(&retained, 1), ["b"]);
        retained.reaches("a", 2, [0, 1]);
        assert_eq!((live(&retained, 0), live(&retained, 1)), (vec!["b".into()], vec!["b".into()]));
        // Of somebody else, who does not wait.
        retained.insert(message("a", "x"));
        assert_eq!(live(&retained, 1), ["x", "b"]);
        retained.reaches("a", 3, [1]);
        assert_eq!((live(&retained, 0), live(&retained, 1)), {
            let (x, three) = (vec!["x".to_owned(), "b".into()], vec!["3".to_owned(), "b".into()]);
            (x, three)
        });
        retained.reached("a", 3);
        retained.reached("a", 1);
        assert!(retained.ahead.is_empty(), "{:?}", retained.ahead);
        assert_eq!(live(&retained, 1), ["x", "b"]);
    }

    #[test]
    fn what_another_node_has_ahead_ends_with_it() {
        let mut retained = Retained::new();
        let topic: Arc<str> = "a".into();
        retained.change_ahead_by(1, &topic, Some(message("a", "1")), 1, 2);
        retained.change_ahead_by(2, &topic, Some(message("a", "2")), 2, 2);
        let ahead = |retained: &Retained, version, place| {
            let change = retained.still_ahead("a", version, place)?;
            Some(change.map(|message| message.payload.clone()))
        };
        assert_eq!(ahead(&retained, 2, 0), Some(Some(Bytes::from_static(b"2"))));
        retained.reaches("a", 2, [0]);
        assert_eq!((ahead(&retained, 2, 0), ahead(&retained, 3, 0)), (None, None));
        assert_eq!((live(&retained, 0), live(&retained, 1)), (vec!["2".into()], vec![]));
        retained.reached_all(|by| by == 2);
        assert!(retained.has_ahead());
        assert_eq!(ahead(&retained, 1, 0), Some(Some(Bytes::from_static(b"1"))));
        retained.reached_all(|by| by == 1);
        assert!(!retained.has_ahead());
        assert_eq!(live(&retained, 1), ["2"]);
    }

    proptest! {
        #[test]
        fn agrees_with_brute_force(
            topics in prop::collection::btree_set("[ab$]?(/[ab$!]?){0,3}", 1..40),
            filters in prop::collection::vec("([ab$]|\\+|)(/([ab$]|\\+|)){0,2}(/#)?|#", 1..20),
        ) {
            let mut retained = Retained::new();
            let topics: Vec<_> = topics.into_iter().filter(|t| !t.is_empty()).collect();
            for topic in &topics {
                retained.insert(message(topic, "x"));
            }
            for text in filters.iter().filter(|f| !f.is_empty()) {
                let filter = TopicFilter::parse(text, &Limits::PROTOCOL).unwrap();
                let expected: Vec<&str> = topics
                    .iter()
                    .map(String::as_str)
                    .filter(|topic| filter_matches(text, topic))
                    .collect();
                let mut out = Vec::new();
                retained.matching(&filter, &mut out);
                let found: Vec<&str> = out.iter().map(|message| &*message.topic).collect();
                prop_assert_eq!(found, expected, "{}", text);
            }
        }
    }
}
