//! Topic names and topic filters (MQTT 3.1.1 section 4.7), who is subscribed to what, and what is
//! retained where.
//!
//! A [`TopicFilter`] is checked once, when it is parsed. Nothing here recurses: the levels of a
//! client's filter are walked in loops, also when a table is dropped.

mod filter;
mod retained;
mod subscribers;
mod table;
mod trie;

pub use filter::{TopicFilter, filter_matches};
pub use retained::{Retained, RetainedCursor};
pub use table::{SubscriptionTable, fold_overlaps};

use crate::Violation;
use crate::limits::Limits;
use crate::wire::has_beyond_ascii;

/// A topic name a client may publish to: not empty, no wildcard, no U+0000, within `limits`
/// (`max_topic_length` bytes, `max_topic_levels`, `control_characters`).
///
/// # Errors
/// [`Violation::EmptyTopic`], [`Violation::TopicTooLong`], [`Violation::WildcardInTopicName`],
/// [`Violation::NullCharacter`], [`Violation::ControlCharacter`], [`Violation::TooManyTopicLevels`].
#[inline]
pub fn check_topic_name(topic: &str, limits: &Limits) -> Result<(), Violation> {
    if topic.is_empty() {
        return Err(Violation::EmptyTopic);
    }
    if topic.len() > limits.max_topic_length {
        return Err(Violation::TopicTooLong);
    }
    let mut levels = 1usize;
    let mut wildcard = false;
    let mut null = false;
    let mut control = false;
    let mut beyond_ascii = false;
    // No branch a byte: the compiler turns it into vector code.
    for &byte in topic.as_bytes() {
        levels += usize::from(byte == b'/');
        wildcard |= byte == b'+' || byte == b'#';
        null |= byte == 0;
        control |= byte < 0x20 || byte == 0x7f;
        beyond_ascii |= byte >= 0x80;
    }
    if null {
        return Err(Violation::NullCharacter);
    }
    if wildcard {
        return Err(Violation::WildcardInTopicName);
    }
    if !limits.control_characters && (control || beyond_ascii && has_beyond_ascii(topic)) {
        return Err(Violation::ControlCharacter);
    }
    if levels > limits.max_topic_levels {
        return Err(Violation::TooManyTopicLevels);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topic_names() {
        let limits = Limits { max_topic_length: 20, max_topic_levels: 4, ..Limits::PROTOCOL };
        let cases = [
            ("a", Ok(())),
            ("/", Ok(())),
            ("a b/ü/$", Ok(())),
            ("$SYS/x", Ok(())),
            ("\u{feff}a", Ok(())), // [MQTT-1.5.3-3]: kept, as it came
            ("", Err(Violation::EmptyTopic)),
            ("a/+", Err(Violation::WildcardInTopicName)),
            ("a#", Err(Violation::WildcardInTopicName)),
            ("a\0b", Err(Violation::NullCharacter)),
            ("12345678901234567890", Ok(())),
            ("123456789012345678901", Err(Violation::TopicTooLong)),
            ("a/b/c/d", Ok(())),
            ("a/b/c/", Ok(())),
            ("a/b/c/d/", Err(Violation::TooManyTopicLevels)),
        ];
        for (topic, expected) in cases {
            assert_eq!(check_topic_name(topic, &limits), expected, "{topic:?}");
        }
        for topic in ["a\n", "a\u{7f}", "ü\u{85}", "\u{fdd0}", "\u{1ffff}"] {
            assert_eq!(check_topic_name(topic, &limits), Ok(()), "{topic:?}");
            let strict = Limits { control_characters: false, ..limits };
            assert_eq!(check_topic_name(topic, &strict), Err(Violation::ControlCharacter));
        }
    }
}
