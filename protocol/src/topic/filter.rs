//! A checked topic filter, and whether it matches a topic name.

use std::sync::Arc;

use crate::Violation;
use crate::limits::Limits;
use crate::wire::has_control_characters;

/// A subscription without its text, in hash tables that are half empty.
const SUBSCRIPTION: usize = 256;
/// A level of a filter with a wildcard, in a list that grows.
const NODE: usize = 128;
/// The edge to a level that is no wildcard, and its name without its text.
const NAME: usize = 128;

/// A topic filter that keeps [MQTT-4.7.0-1], [MQTT-4.7.1-1] and [MQTT-4.7.1-2]: 1 to 65,535 bytes
/// without U+0000. Cloning costs a reference count.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicFilter(Arc<str>);

impl TopicFilter {
    /// Checks and keeps a filter.
    ///
    /// # Errors
    /// [`Violation::EmptyTopic`], [`Violation::TopicTooLong`], [`Violation::NullCharacter`],
    /// [`Violation::MultiLevelWildcard`], [`Violation::SingleLevelWildcard`],
    /// [`Violation::TooManyTopicLevels`], [`Violation::ControlCharacter`].
    pub fn parse(filter: &str, limits: &Limits) -> Result<Self, Violation> {
        Self::check(filter, limits)?;
        Ok(Self(Arc::from(filter)))
    }

    /// [`TopicFilter::parse`] for a string that is already shared.
    ///
    /// # Errors
    /// As [`TopicFilter::parse`].
    pub fn from_arc(filter: Arc<str>, limits: &Limits) -> Result<Self, Violation> {
        Self::check(&filter, limits)?;
        Ok(Self(filter))
    }

    /// For the decoder, which has called [`TopicFilter::check`] on the same bytes.
    pub(crate) fn from_checked(filter: &str) -> Self {
        Self(Arc::from(filter))
    }

    /// [`TopicFilter::check`], and whether this broker has such subscriptions.
    pub(crate) fn check_for_subscribe(filter: &str, limits: &Limits) -> Result<(), Violation> {
        Self::check(filter, limits)?;
        if filter.starts_with("$share/") { Err(Violation::SharedSubscription) } else { Ok(()) }
    }

    /// What is malformed is found before what is past a limit.
    pub(crate) fn check(filter: &str, limits: &Limits) -> Result<(), Violation> {
        if filter.is_empty() {
            return Err(Violation::EmptyTopic);
        }
        if filter.as_bytes().contains(&0) {
            return Err(Violation::NullCharacter);
        }
        let mut levels = 0usize;
        let mut closed = false;
        for level in filter.split('/') {
            levels += 1;
            if closed {
                return Err(Violation::MultiLevelWildcard);
            }
            if level == "#" {
                closed = true;
            } else if level.contains('#') {
                return Err(Violation::MultiLevelWildcard);
            } else if level != "+" && level.contains('+') {
                return Err(Violation::SingleLevelWildcard);
            }
        }
        if filter.len() > limits.max_topic_length.min(65_535) {
            return Err(Violation::TopicTooLong);
        }
        if levels > limits.max_topic_levels {
            return Err(Violation::TooManyTopicLevels);
        }
        if !limits.control_characters && has_control_characters(filter) {
            return Err(Violation::ControlCharacter);
        }
        Ok(())
    }

    /// The filter's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The filter's text, shared.
    pub fn arc(&self) -> &Arc<str> {
        &self.0
    }

    /// What a subscription to it takes in memory at most, with its session's copy of the text: the place in the
    /// table, and for a filter with a wildcard a node a level, and its name.
    pub fn cost(&self) -> usize {
        let text = self.0.len();
        if self.has_wildcard() {
            let level = |level| if matches!(level, "+" | "#") { NODE } else { NODE + NAME };
            SUBSCRIPTION + 2 * text + self.0.split('/').map(level).sum::<usize>()
        } else {
            SUBSCRIPTION + text
        }
    }

    /// Whether it can match more than the one topic name equal to it.
    pub fn has_wildcard(&self) -> bool {
        has_wildcard(&self.0)
    }

    /// Whether it matches a topic name.
    pub fn matches(&self, topic: &str) -> bool {
        filter_matches(&self.0, topic)
    }
}

impl std::fmt::Display for TopicFilter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// In a checked filter a wildcard character is always a wildcard.
pub(super) fn has_wildcard(filter: &str) -> bool {
    filter.bytes().any(|byte| byte == b'+' || byte == b'#')
}

/// Whether a checked filter matches a checked topic name: `+` one level, `#` this level's parent
/// and all below; neither in the first place matches a topic that begins with `$`
/// ([MQTT-4.7.2-1]).
pub fn filter_matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && (filter.starts_with('+') || filter.starts_with('#')) {
        return false;
    }
    let mut names = topic.split('/');
    for level in filter.split('/') {
        if level == "#" {
            return true;
        }
        match names.next() {
            Some(name) if level == "+" || level == name => {}
            _ => return false,
        }
    }
    names.next().is_none()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn filters() {
        let limits = Limits { max_topic_length: 20, max_topic_levels: 4, ..Limits::PROTOCOL };
        let cases = [
            ("a", Ok(())),
            ("/", Ok(())),
            ("#", Ok(())),
            ("+", Ok(())),
            ("+/+/#", Ok(())),
            ("a/+/b", Ok(())),
            ("/+", Ok(())),
            ("$SYS/#", Ok(())),
            ("", Err(Violation::EmptyTopic)),
            ("a#", Err(Violation::MultiLevelWildcard)),
            ("a/#/b", Err(Violation::MultiLevelWildcard)),
            ("#/", Err(Violation::MultiLevelWildcard)),
            ("a/##", Err(Violation::MultiLevelWildcard)),
            ("a+", Err(Violation::SingleLevelWildcard)),
            ("a/+b/c", Err(Violation::SingleLevelWildcard)),
            ("++", Err(Violation::SingleLevelWildcard)),
            ("a\0", Err(Violation::NullCharacter)),
            ("a/b/c/#", Ok(())),
            ("a/b/c/d/#", Err(Violation::TooManyTopicLevels)),
            ("12345678901234567890", Ok(())),
            ("123456789012345678901", Err(Violation::TopicTooLong)),
        ];
        for (filter, expected) in cases {
            let parsed = TopicFilter::parse(filter, &limits);
            assert_eq!(parsed.as_ref().map(|_| ()).map_err(|v| *v), expected);
            if let Ok(parsed) = parsed {
                assert_eq!(parsed.as_str(), filter);
                assert_eq!(parsed.has_wildcard(), filter.contains(['+', '#']));
            }
        }
    }

    #[test]
    fn matching() {
        let yes = [
            ("sport/tennis/player1/#", "sport/tennis/player1"),
            ("sport/tennis/player1/#", "sport/tennis/player1/ranking"),
            ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon"),
            ("sport/#", "sport"),
            ("sport/#", "sport/"),
            ("#", "a"),
            ("#", "/"),
            ("sport/tennis/+", "sport/tennis/player1"),
            ("sport/+", "sport/"),
            ("+/+", "/finance"),
            ("/+", "/finance"),
            ("+/#", "a"),
            ("a/+/#", "a/b"),
            ("$SYS/#", "$SYS"),
            ("$SYS/#", "$SYS/a/b"),
            ("$SYS/monitor/+", "$SYS/monitor/Clients"),
            ("a/$b", "a/$b"),
            ("+/#", "a/$b"),
            ("a", "a"),
        ];
        for (filter, topic) in yes {
            assert!(filter_matches(filter, topic), "{filter} {topic}");
        }
        let no = [
            ("sport/tennis/+", "sport/tennis/player1/ranking"),
            ("sport/+", "sport"),
            ("sport/#", "sports"),
            ("+", "/finance"),
            ("#", "$SYS/a"),
            ("+/monitor/Clients", "$SYS/monitor/Clients"),
            ("+", "$SYS"),
            ("a/+/#", "a"),
            ("A", "a"),
            ("a", "a/"),
            ("a/", "a"),
            ("ACCOUNTS", "Accounts"),
        ];
        for (filter, topic) in no {
            assert!(!filter_matches(filter, topic), "{filter} {topic}");
        }
    }
}
