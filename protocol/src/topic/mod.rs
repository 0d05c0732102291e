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

/// `/`; its value is 1, so that it counts levels.
const SEPARATOR: u8 = 1;
/// `+` and `#`.
const WILDCARD: u8 = 2;
/// U+0000.
const NULL: u8 = 4;
/// U+0000 to U+001F, and U+007F.
const CONTROL: u8 = 8;
/// Part of a character of several bytes.
const BEYOND_ASCII: u8 = 16;

/// What each byte is. Topic names are short: one look-up a byte is faster than vector code.
const CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut byte = 0;
    while byte < classes.len() {
        classes[byte] = match byte {
            0 => NULL | CONTROL,
            0x01..=0x1f | 0x7f => CONTROL,
            0x23 | 0x2b => WILDCARD,
            0x2f => SEPARATOR,
            0x80.. => BEYOND_ASCII,
            _ => 0,
        };
        byte += 1;
    }
    classes
};

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
    let (mut seen, mut levels) = (0, 1usize);
    for &byte in topic.as_bytes() {
        let class = CLASSES[usize::from(byte)];
        seen |= class;
        levels += usize::from(class & SEPARATOR);
    }
    if seen & NULL != 0 {
        return Err(Violation::NullCharacter);
    }
    if seen & WILDCARD != 0 {
        return Err(Violation::WildcardInTopicName);
    }
    if !limits.control_characters
        && (seen & CONTROL != 0 || seen & BEYOND_ASCII != 0 && has_beyond_ascii(topic))
    {
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
