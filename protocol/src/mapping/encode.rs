//! How MQTT levels become a Kafka topic name, and back.
//!
//! A level keeps its letters and digits. Every other byte of its UTF-8 text becomes `_` and two
//! upper-case hexadecimal digits; so does `-`, which joins levels, and `.`, which Kafka takes for
//! the same as `_` in metric names (it refuses to make `a.b` beside `a_b`). `_` itself stays as it
//! is unless it begins the level (names beginning with `__` are Kafka's own) or two upper-case
//! hexadecimal digits follow it, so that it never reads as an escape. An empty level is `_00`: no
//! MQTT topic holds the character NUL.
//!
//! A name longer than [`MAX_PLAIN`] keeps its first 182 characters, then `_FF` (no UTF-8 text
//! holds that byte), then the SHA-256 of the whole name, 64 hexadecimal digits: 249 in all, Kafka's
//! limit. Such a name is not read backwards; the record's header carries the MQTT topic.
//!
//! Invariant: [`decode_level`] undoes [`encode_level`], and refuses what it never makes; so two
//! levels never share an encoding, and two names never share a short form.

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

/// Longest Kafka topic name (Kafka's `Topic.MAX_NAME_LENGTH`), in characters, all ASCII.
pub const MAX_NAME: usize = 249;
/// Longest name used as it is. One less than Kafka allows, so that no name can be taken for the
/// short form of another one.
pub const MAX_PLAIN: usize = MAX_NAME - 1;
/// Characters that a short form keeps of the name.
const KEPT: usize = MAX_NAME - 3 - 64;

const fn is_escape_digit(byte: Option<&u8>) -> bool {
    matches!(byte, Some(b'0'..=b'9' | b'A'..=b'F'))
}

/// Whether a character may stand in a Kafka topic name.
pub const fn is_legal(character: char) -> bool {
    character.is_ascii_alphanumeric() || matches!(character, '.' | '_' | '-')
}

fn escape(byte: u8, out: &mut String) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.push('_');
    out.push(char::from(DIGITS[usize::from(byte >> 4)]));
    out.push(char::from(DIGITS[usize::from(byte & 15)]));
}

/// Appends a level's encoding.
pub fn encode_level(level: &str, out: &mut String) {
    if level.is_empty() {
        return escape(0, out);
    }
    let bytes = level.as_bytes();
    for (index, &byte) in bytes.iter().enumerate() {
        let reads_as_escape =
            || is_escape_digit(bytes.get(index + 1)) && is_escape_digit(bytes.get(index + 2));
        if byte.is_ascii_alphanumeric() || (byte == b'_' && index > 0 && !reads_as_escape()) {
            out.push(char::from(byte));
        } else {
            escape(byte, out);
        }
    }
}

/// Appends levels, joined by `-`.
pub fn encode_levels(levels: &[&str], out: &mut String) {
    for (index, level) in levels.iter().enumerate() {
        if index > 0 {
            out.push('-');
        }
        encode_level(level, out);
    }
}

/// The level that [`encode_level`] turns into `text`; `None` where there is none.
pub fn decode_level(text: &str) -> Option<String> {
    if text == "_00" {
        return Some(String::new());
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        if byte == b'_' && is_escape_digit(after.first()) && is_escape_digit(after.get(1)) {
            let digits = std::str::from_utf8(&after[..2]).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &after[2..];
        } else {
            bytes.push(byte);
            rest = after;
        }
    }
    let level = String::from_utf8(bytes).ok()?;
    let mut again = String::with_capacity(text.len());
    encode_level(&level, &mut again);
    // The second test: no level of a topic name holds these ([MQTT-3.3.2-2], [MQTT-1.5.3-2]).
    (again == text && !level.contains(['\0', '/', '+', '#'])).then_some(level)
}

/// The name under which Kafka gets `name`: itself, or its short form; and whether it is short.
pub fn fit(name: String) -> (String, bool) {
    if name.len() <= MAX_PLAIN {
        return (name, false);
    }
    let hash = Sha256::digest(name.as_bytes());
    // Every name is ASCII, so that KEPT is a character boundary.
    let mut short: String = name.chars().take(KEPT).collect();
    short.push_str("_FF");
    for byte in hash {
        // Writing into a String cannot fail.
        let _ = write!(short, "{byte:02x}");
    }
    (short, true)
}

/// The default rule, before [`fit`]: all levels but the second joined by `-` are the topic, the
/// second one is the key. A topic of one level has a null key.
pub fn default_image(topic: &str) -> (String, Option<&str>) {
    let mut name = String::with_capacity(topic.len() + 8);
    let mut key = None;
    for (index, level) in topic.split('/').enumerate() {
        if index == 1 {
            key = Some(level);
            continue;
        }
        if index > 0 {
            name.push('-');
        }
        encode_level(level, &mut name);
    }
    (name, key)
}

/// The MQTT topic that the default rule turns into this Kafka topic and key (`None` is the null
/// key). `None` where there is none, or where the name is a short form: then only the record's
/// header has the MQTT topic.
pub fn unmap_default(topic: &str, key: Option<&[u8]>) -> Option<String> {
    if topic.len() > MAX_PLAIN { None } else { default_preimage(topic, key) }
}

/// The same for a name of any length, before [`fit`].
pub fn default_preimage(name: &str, key: Option<&[u8]>) -> Option<String> {
    let mut levels = name.split('-').map(decode_level);
    let mut topic = levels.next()??;
    match key {
        None => {
            if levels.next().is_some() {
                return None;
            }
        }
        Some(key) => {
            let key = std::str::from_utf8(key).ok()?;
            if key.contains(['\0', '/', '+', '#']) {
                return None;
            }
            topic.push('/');
            topic.push_str(key);
            for level in levels {
                topic.push('/');
                topic.push_str(&level?);
            }
        }
    }
    (!topic.is_empty()).then_some(topic)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(level: &str) -> String {
        let mut out = String::new();
        encode_level(level, &mut out);
        out
    }

    #[test]
    fn levels_are_encoded_as_documented() {
        for (level, text) in [
            ("thermo", "thermo"),
            ("", "_00"),
            ("a-b", "a_2Db"),
            ("fw.1", "fw_2E1"),
            (".", "_2E"),
            ("..", "_2E_2E"),
            ("my_type", "my_type"),
            ("room_12", "room_5F12"),
            ("room_1", "room_1"),
            ("__consumer_offsets", "_5F_consumer_offsets"),
            ("$SYS", "_24SYS"),
            ("käse", "k_C3_A4se"),
            ("a b", "a_20b"),
            ("_", "_5F"),
            ("a_-", "a__2D"),
        ] {
            assert_eq!(encoded(level), text, "{level}");
            assert_eq!(decode_level(text).as_deref(), Some(level), "{text}");
        }
    }

    #[test]
    fn what_no_level_makes_is_refused() {
        for text in
            ["", "a.b", "a-b", "_", "_x", "_41", "a_41", "_2d", "_2F", "_2B", "_00a", "_FF", "_C3"]
        {
            assert_eq!(decode_level(text), None, "{text}");
        }
    }

    #[test]
    fn default_rule() {
        for (topic, name, key) in [
            ("device/42/thermo", "device-thermo", Some("42")),
            ("device/1/a/b", "device-a-b", Some("1")),
            ("device/1/a-b", "device-a_2Db", Some("1")),
            ("device", "device", None),
            ("device/", "device", Some("")),
            ("device/42", "device", Some("42")),
            ("/", "_00", Some("")),
            ("/a", "_00", Some("a")),
            ("a//b", "a-b", Some("")),
            ("a/b/", "a-_00", Some("b")),
            ("a/b//", "a-_00-_00", Some("b")),
            ("./x/..", "_2E-_2E_2E", Some("x")),
            ("$SYS/broker/load", "_24SYS-load", Some("broker")),
            ("a/x-y ü/b", "a-b", Some("x-y ü")),
        ] {
            assert_eq!(default_image(topic), (name.to_owned(), key), "{topic}");
            assert_eq!(unmap_default(name, key.map(str::as_bytes)).as_deref(), Some(topic));
        }
        assert_eq!(unmap_default("a-b", None), None, "a null key has one level");
        assert_eq!(unmap_default("_00", None), None, "no MQTT topic is empty");
        assert_eq!(unmap_default("a", Some(b"x/y")), None);
        assert_eq!(unmap_default("a", Some(b"\xff")), None);
    }

    #[test]
    fn long_names_are_short_and_apart() {
        let plain = "a".repeat(MAX_PLAIN);
        assert_eq!(fit(plain.clone()), (plain.clone(), false));
        let (one, hashed) = fit(format!("{plain}b"));
        let (two, _) = fit(format!("{plain}c"));
        assert!(hashed);
        assert_ne!(one, two);
        assert_eq!((one.len(), two.len()), (MAX_NAME, MAX_NAME));
        assert!(one.chars().all(is_legal));
        assert_eq!(one[..KEPT], plain[..KEPT]);
        assert_eq!(one[KEPT..KEPT + 3], *"_FF");
        // The short form is stable: this is the SHA-256 of 249 times 'a', from coreutils.
        let (short, _) = fit("a".repeat(MAX_NAME));
        assert_eq!(
            short[KEPT + 3..],
            *"d2cdb8b708fa2ff728a3e8b21437f18ae991eec4ebb8703effe3eae92542d147"
        );
        assert_eq!(unmap_default(&one, None), None);
    }

    /// Topics whose characters meet every branch of the encoding, and any other ones.
    fn topics() -> impl Strategy<Value = String> {
        let level = prop_oneof![
            3 => "[ab_0F2D.$ \\-é]{0,5}",
            1 => "[^/+#\u{0}]{0,12}",
        ];
        proptest::collection::vec(level, 1..6)
            .prop_map(|levels| levels.join("/"))
            .prop_filter("a topic name has at least one character", |topic| !topic.is_empty())
    }

    proptest! {
        #[test]
        fn default_rule_is_reversible(topic in topics()) {
            let (name, key) = default_image(&topic);
            prop_assert!(!name.is_empty() && name.chars().all(is_legal));
            prop_assert!(name != "." && name != ".." && !name.starts_with("__"));
            prop_assert_eq!(default_preimage(&name, key.map(str::as_bytes)), Some(topic.clone()));
            if name.len() <= MAX_PLAIN {
                prop_assert_eq!(unmap_default(&name, key.map(str::as_bytes)), Some(topic));
            }
        }

        /// The other direction: what is read backwards leads to the same name and key again.
        #[test]
        fn default_rule_is_injective(name in "[a_0F2D.\\-]{1,9}", key in proptest::option::of("[a-]{0,2}")) {
            if let Some(topic) = unmap_default(&name, key.as_deref().map(str::as_bytes)) {
                prop_assert_eq!(default_image(&topic), (name, key.as_deref()));
            }
        }
    }
}
