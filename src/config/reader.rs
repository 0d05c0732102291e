//! Reads resolved values by the paths of their keys, and remembers which were read.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use super::error::{ConfigErrors, Origin};
use super::keys::parse_address;
use super::source::Effective;
use super::value::Value;

/// Reads values by path; what is amiss with the table itself is an error too, not a panic.
pub(super) struct Reader<'a> {
    pub(super) effective: &'a Effective,
    pub(super) errors: ConfigErrors,
    /// The paths that were read.
    pub(super) read: BTreeSet<&'a str>,
}

impl<'a> Reader<'a> {
    /// `errors`: what the layers had already.
    pub(super) fn new(effective: &'a Effective, errors: ConfigErrors) -> Self {
        Self { effective, errors, read: BTreeSet::new() }
    }

    pub(super) fn value(&mut self, path: &'a str) -> Option<&'a Value> {
        self.read.insert(path);
        self.effective.values.get(path).map(|resolved| &resolved.value)
    }

    pub(super) fn origin(&self, path: &str) -> Origin {
        self.effective.values.get(path).map_or(Origin::Default, |r| r.origin.clone())
    }

    pub(super) fn internal(&mut self, path: &str) {
        let origin = self.origin(path);
        self.errors.push(origin, format!("{path}: the table of keys and its reader disagree"));
    }

    pub(super) fn number<T: TryFrom<u64> + Default>(&mut self, path: &'a str) -> T {
        match self.value(path) {
            Some(Value::Number(Some(n))) if let Ok(n) = T::try_from(*n) => n,
            _ => {
                self.internal(path);
                T::default()
            }
        }
    }

    pub(super) fn time(&mut self, path: &'a str) -> Duration {
        match self.value(path) {
            Some(Value::Time(time)) => *time,
            _ => {
                self.internal(path);
                Duration::ZERO
            }
        }
    }

    pub(super) fn flag(&mut self, path: &'a str) -> bool {
        match self.value(path) {
            Some(Value::Bool(b)) => *b,
            _ => {
                self.internal(path);
                false
            }
        }
    }

    pub(super) fn text(&mut self, path: &'a str) -> &'a str {
        match self.value(path) {
            Some(Value::Text(text)) => text,
            _ => {
                self.internal(path);
                ""
            }
        }
    }

    pub(super) fn address(&mut self, path: &'a str) -> SocketAddr {
        let text = self.text(path);
        parse_address(text).unwrap_or_else(|| {
            self.internal(path);
            ([127, 0, 0, 1], 0).into()
        })
    }

    /// Reports at the later of the two keys' places, unless one of them is wrong by itself.
    pub(super) fn cross(&mut self, holds: bool, keys: [&'a str; 2], message: &str) {
        if !holds && !keys.iter().any(|key| self.effective.bad.contains(key)) {
            let origin = self.origin(keys[0]).max(self.origin(keys[1]));
            self.errors.push(origin, message);
        }
    }

    pub(super) fn ordered(&mut self, low: &'a str, high: &'a str) -> (Duration, Duration) {
        let (min, max) = (self.time(low), self.time(high));
        self.cross(min <= max, [low, high], &format!("{low} must not be above {high}"));
        (min, max)
    }
}
