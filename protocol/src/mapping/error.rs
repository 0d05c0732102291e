//! Why a route is refused: each one sentence with the line, and what to do about it.

use std::fmt;

use super::encode::MAX_PLAIN;

/// Most routes of a configuration: each is compared with every other one at start.
pub const MAX_ROUTES: usize = 1000;

/// Which route an error is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct At {
    /// Line of the configuration file, 0 where unknown.
    pub line: usize,
    /// The route's filter, as written.
    pub filter: String,
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "line {}: ", self.line)?;
        }
        write!(f, "route '{}'", self.filter)
    }
}

/// Which of a route's two templates an error is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// `topic`
    Topic,
    /// `key`
    Key,
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Topic => "topic",
            Self::Key => "key",
        })
    }
}

/// Why a route is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum RouteError {
    #[error(
        "{at} is one of more than {MAX_ROUTES} routes; use captures to say the same with fewer"
    )]
    TooMany { at: At },
    #[error(
        "{at} has an empty filter, which matches no MQTT topic; write the topics it is for, such as 'device/{{id}}/thermo'"
    )]
    EmptyFilter { at: At },
    #[error("{at} uses '{wildcard}', which keeps nothing of what it matches, so that two topics would make the same record; write {} and use the name in topic or key",
        if wildcard == "#" { "'{name...}'" } else { "'{name}'" })]
    Wildcard { at: At, wildcard: String },
    #[error(
        "{at} can never match because of its level '{level}'; a level is plain text without '+', '#' and braces, or wholly a capture: '{{name}}' for one level, '{{name...}}' for all that follow"
    )]
    BadLevel { at: At, level: String },
    #[error(
        "{at} captures the rest in '{{{name}...}}' before its end; make it the last level, or write '{{{name}}}' for one level"
    )]
    RestNotLast { at: At, name: String },
    #[error("{at} captures '{{{name}}}' twice; give each capture a name of its own")]
    DuplicateCapture { at: At, name: String },
    #[error(
        "{at} has a brace in its {field} that does not belong to a capture; write '{{name}}' with a name of letters, digits and '_'"
    )]
    BadBrace { at: At, field: Field },
    #[error(
        "{at} uses '{{{name}}}' in its {field}, which its filter does not capture; captured are: {known}"
    )]
    UnknownCapture { at: At, field: Field, name: String, known: String },
    #[error(
        "{at} has '{character}' in its topic, which Kafka does not allow in a topic name; use letters, digits, '.', '_' and '-'"
    )]
    IllegalCharacter { at: At, character: char },
    #[error(
        "{at} has the topic '{topic}', which Kafka does not allow; give the topic a name that is not empty, '.' or '..'"
    )]
    IllegalTopic { at: At, topic: String },
    #[error(
        "{at} has a topic that begins with '__', as Kafka's own topics do; choose another name"
    )]
    InternalTopic { at: At },
    #[error(
        "{at} has a topic of {length} characters, not counting what captures put in; use at most {MAX_PLAIN}"
    )]
    TopicTooLong { at: At, length: usize },
    #[error("{at} has an empty key; leave key out for a null key")]
    EmptyKey { at: At },
    #[error("{at} does not keep '{{{first}}}' and '{{{second}}}' apart in its {field}; put {} between them",
        match field { Field::Topic => "'-' or '.'", Field::Key => "'/', the one character that no level holds," })]
    Inseparable { at: At, field: Field, first: String, second: String },
    #[error("{at} joins '{{{name}...}}' with other text in its {field}; set it off with {}",
        match field { Field::Topic => "'-' or '.'", Field::Key => "'/'" })]
    RestJoined { at: At, field: Field, name: String },
    #[error("{at} uses '{{{name}...}}' twice in its {field}; use it once")]
    RestTwice { at: At, field: Field, name: String },
    #[error(
        "{at} loses '{{{name}}}': '{first}' and '{second}' would make the same topic and key; use '{{{name}}}' in topic or key"
    )]
    Lossy { at: At, name: String, first: String, second: String },
    #[error(
        "{at} can never match, because {by} comes first and takes all its topics; remove it, or move it up"
    )]
    Dead { at: At, by: At },
    #[error(
        "{at} is ambiguous with {other}: '{first}' and '{second}' would make the same topic and key; give one of them a topic or key that the other cannot make"
    )]
    Ambiguous { at: At, other: At, first: String, second: String },
    #[error(
        "{at} may be ambiguous with {other}: their topics and keys cannot be shown to differ always; begin their topics with different text"
    )]
    MaybeAmbiguous { at: At, other: At },
    #[error(
        "{at} is ambiguous with the default rule: '{first}' and '{second}' would make the same topic and key; put a '.' into the route's topic, which the default rule never makes, or add a route for '{second}'"
    )]
    AmbiguousDefault { at: At, first: String, second: String },
    #[error(
        "{at} has the topic '{topic}' beside '{other_topic}' of {other}, and Kafka takes '.' and '_' for the same where it names metrics and refuses the second one; change one of them"
    )]
    NearlySame { at: At, other: At, topic: String, other_topic: String },
}

impl RouteError {
    /// The route it is about.
    pub fn at(&self) -> &At {
        match self {
            Self::TooMany { at }
            | Self::EmptyFilter { at }
            | Self::Wildcard { at, .. }
            | Self::BadLevel { at, .. }
            | Self::RestNotLast { at, .. }
            | Self::DuplicateCapture { at, .. }
            | Self::BadBrace { at, .. }
            | Self::UnknownCapture { at, .. }
            | Self::IllegalCharacter { at, .. }
            | Self::IllegalTopic { at, .. }
            | Self::InternalTopic { at }
            | Self::TopicTooLong { at, .. }
            | Self::EmptyKey { at }
            | Self::Inseparable { at, .. }
            | Self::RestJoined { at, .. }
            | Self::RestTwice { at, .. }
            | Self::Lossy { at, .. }
            | Self::Dead { at, .. }
            | Self::Ambiguous { at, .. }
            | Self::MaybeAmbiguous { at, .. }
            | Self::AmbiguousDefault { at, .. }
            | Self::NearlySame { at, .. } => at,
        }
    }

    /// Line of the configuration file, 0 where unknown.
    pub fn line(&self) -> usize {
        self.at().line
    }
}
