//! The retained messages: at most one a topic name (MQTT 3.1.1 section 3.3.1.3).
//!
//! Ordered by topic, so that a filter with wildcards looks only at the topics that begin with its
//! literal part. The bounds (`len`, `bytes`) are the owner's to hold.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use super::filter::{TopicFilter, filter_matches};
use crate::Message;

/// Retained messages by topic name.
#[derive(Debug, Default)]
pub struct Retained {
    messages: BTreeMap<Arc<str>, Arc<Message>>,
    bytes: usize,
}

impl Retained {
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
        // The key goes with its message, so that one topic string serves both.
        let old = self.remove(&message.topic);
        self.bytes += message.cost();
        self.messages.insert(Arc::clone(&message.topic), message);
        old
    }

    /// Forgets the message of a topic name, which is returned.
    pub fn remove(&mut self, topic: &str) -> Option<Arc<Message>> {
        let old = self.messages.remove(topic)?;
        self.bytes -= old.cost();
        Some(old)
    }

    /// The message of a topic name.
    pub fn get(&self, topic: &str) -> Option<&Arc<Message>> {
        self.messages.get(topic)
    }

    /// Appends the messages that a new subscription gets ([MQTT-3.3.1-6]), ordered by topic.
    pub fn matching(&self, filter: &TopicFilter, out: &mut Vec<Arc<Message>>) {
        let text = filter.as_str();
        let Some(wildcard) = text.find(['+', '#']) else {
            out.extend(self.get(text).cloned());
            return;
        };
        // Up to and with the separator before the first wildcard: `a/+/b` has `a/`.
        let prefix = &text[..wildcard];
        if text.as_bytes()[wildcard] == b'#' && !prefix.is_empty() {
            // `a/#` matches `a`, which is before `a/` in the order.
            out.extend(self.get(&prefix[..prefix.len() - 1]).cloned());
        }
        let range = (Bound::Included(prefix), Bound::Unbounded);
        out.extend(
            self.messages
                .range::<str, _>(range)
                .take_while(|(topic, _)| topic.starts_with(prefix))
                .filter(|(topic, _)| filter_matches(text, topic))
                .map(|(_, message)| Arc::clone(message)),
        );
    }

    /// All messages, ordered by topic.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Message>> {
        self.messages.values()
    }

    /// Messages.
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Whether nothing is retained.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// The sum of [`Message::cost`], in bytes.
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
        assert_eq!((retained.len(), retained.bytes()), (1, 1 + 3 + 64));
        assert_eq!(&retained.get("a").unwrap().payload[..], b"222");
        let old = retained.insert(message("a", "")).unwrap();
        assert_eq!(&old.payload[..], b"222");
        assert_eq!((retained.len(), retained.bytes()), (0, 0));
        assert_eq!(retained.insert(message("a", "")), None);
        assert!(retained.is_empty() && retained.remove("a").is_none());
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
