//! A rule's filter: which MQTT topics it takes, and what its captures take of them.
//!
//! Invariant: only the last level captures several levels; captures have different names.

use super::error::{At, RouteError};

/// One level of a filter. A capture's number is its place in [`Filter::captures`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Level {
    /// This text.
    Literal(String),
    /// `{x}`: any one level, also an empty one.
    One,
    /// `{x...}`: one or more levels, to the end.
    Rest,
}

/// A filter: levels, the captures among them named.
#[derive(Debug, Clone)]
pub struct Filter {
    pub levels: Vec<Level>,
    /// Names in the order of the levels; the rest is the last one.
    pub captures: Vec<String>,
}

/// Why a filter does not match a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mismatch {
    /// The topic's number of levels.
    Count(usize),
    /// The level (from 1) that differs, and what the filter wants there.
    Level(usize, String),
}

pub fn is_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

impl Filter {
    /// Reads `at.filter` as far as it goes; reports everything that is wrong with it.
    pub fn parse(at: &At, errors: &mut Vec<RouteError>) -> Self {
        let at = || at.clone();
        let text = at().filter;
        let mut filter = Self { levels: Vec::new(), captures: Vec::new() };
        if text.is_empty() {
            errors.push(RouteError::EmptyFilter { at: at() });
        }
        let count = text.split('/').count();
        for (index, level) in text.split('/').enumerate() {
            let inner = level.strip_prefix('{').and_then(|level| level.strip_suffix('}'));
            let (name, rest) = match inner {
                Some(inner) => (inner.strip_suffix("...").unwrap_or(inner), inner.ends_with("...")),
                None => ("", false),
            };
            if level == "+" || level == "#" {
                errors.push(RouteError::Wildcard { at: at(), wildcard: level.to_owned() });
            } else if inner.is_some() && is_name(name) {
                if filter.captures.iter().any(|known| known == name) {
                    errors.push(RouteError::DuplicateCapture { at: at(), name: name.to_owned() });
                }
                if rest && index + 1 < count {
                    errors.push(RouteError::RestNotLast { at: at(), name: name.to_owned() });
                }
                filter.captures.push(name.to_owned());
                filter.levels.push(if rest { Level::Rest } else { Level::One });
            } else if level.contains(['{', '}', '+', '#', '\0']) {
                errors.push(RouteError::BadLevel { at: at(), level: level.to_owned() });
            } else {
                filter.levels.push(Level::Literal(level.to_owned()));
            }
        }
        filter
    }

    /// The number of the capture that has several levels.
    pub fn rest(&self) -> Option<usize> {
        (self.levels.last() == Some(&Level::Rest)).then(|| self.captures.len() - 1)
    }

    /// What each capture takes of a topic's levels.
    pub fn captured<'a, 'b>(&self, topic: &'b [&'a str]) -> Result<Vec<&'b [&'a str]>, Mismatch> {
        let (have, want) = (topic.len(), self.levels.len());
        if if self.rest().is_some() { have < want } else { have != want } {
            return Err(Mismatch::Count(have));
        }
        let mut values = Vec::with_capacity(self.captures.len());
        for (index, level) in self.levels.iter().enumerate() {
            match level {
                Level::Literal(text) if text == topic[index] => {}
                Level::Literal(text) => return Err(Mismatch::Level(index + 1, text.clone())),
                Level::One => values.push(&topic[index..=index]),
                Level::Rest => values.push(&topic[index..]),
            }
        }
        Ok(values)
    }

    /// The topic that has these captures, one entry a level.
    pub fn fill(&self, values: &[Vec<String>]) -> String {
        let mut values = values.iter();
        let mut levels: Vec<&str> = Vec::new();
        for level in &self.levels {
            match level {
                Level::Literal(text) => levels.push(text),
                Level::One | Level::Rest => {
                    levels.extend(values.next().into_iter().flatten().map(String::as_str));
                }
            }
        }
        levels.join("/")
    }
}
