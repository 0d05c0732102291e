//! The rules from MQTT topic to Kafka topic and key, and back.
//!
//! Rules are read in order, the first whose filter matches wins:
//!
//! - Filter: levels separated by '/', each plain text or a capture: `{x}` takes one level (also an
//!   empty one), `{x...}`, last only, takes one or more levels to the end (so `a/{x...}` matches
//!   `a/` and `a/b/c`, not `a`). `+` and `#` are refused: they would lose what they match. A rule
//!   is no subscription: a capture in front takes topics that begin with `$`, too.
//! - `topic` is text of legal Kafka characters with captures in it. What a capture puts in is
//!   encoded (see `encode`: letters, digits and most `_` stay, the rest becomes `_` and two
//!   hexadecimal digits); several levels are joined by '-'. Captures are separated by '-' or '.'.
//! - `key` is any text with captures in it. What a capture puts in stays as it is; several
//!   captures are separated by '/', which no level holds. Without `key` the key is null, which is
//!   another place than an empty key.
//! - With no rule of its own a topic takes the default rule: its second level is the key, the
//!   others, encoded and joined by '-', are the topic. A topic of one level has a null key.
//! - A name longer than 248 characters is shortened with a SHA-256 to 249, Kafka's limit.
//!
//! Invariant of a [`Mapping`]: two different MQTT topics never have the same Kafka topic and key.
//! A set of rules that cannot keep it is refused, with the lines; so are rules that never match.
//! A `.` in a route's topic is the way to be apart from the default rule, which never makes one.
//!
//! Bounds: at most [`MAX_ROUTES`] routes; a topic is mapped in one pass over the filters, once a
//! route-cache miss.

mod check;
mod encode;
mod error;
mod explain;
mod filter;
mod murmur2;
mod route;
mod rule;
#[cfg(test)]
mod search;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::Bytes;

use crate::message::{AckLevel, OnRefused};
use check::Checker;
use filter::Filter;
use rule::Rule;

pub use encode::{MAX_NAME, unmap_default};
pub use error::{At, Field, MAX_ROUTES, RouteError};
pub use explain::Explanation;
pub use murmur2::{murmur2, partition};
pub use route::RouteConfig;

/// What is wrong with a filter alone, of a route on this line.
pub fn filter_errors(filter: &str, line: usize) -> Vec<RouteError> {
    let mut errors = Vec::new();
    Filter::parse(&At { line, filter: filter.to_owned() }, &mut errors);
    errors
}

/// Where one MQTT topic goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapped {
    /// Kafka topic, legal and at most 249 characters.
    pub topic: Arc<str>,
    /// Kafka key; `None` is a null key.
    pub key: Option<Bytes>,
    /// What PUBACK and PUBREC wait for.
    pub ack: AckLevel,
    /// What becomes of a record that is refused.
    pub on_refused: OnRefused,
    /// Index of the rule; `None` is the default rule.
    pub rule: Option<usize>,
}

/// All rules, checked. A clone shares them.
#[derive(Debug, Clone)]
pub struct Mapping {
    rules: Arc<[Rule]>,
    routes: Arc<[RouteConfig]>,
    default_ack: AckLevel,
    default_on_refused: OnRefused,
}

impl Default for Mapping {
    /// The default rule alone, with the default acknowledgement level.
    fn default() -> Self {
        Self {
            rules: Arc::new([]),
            routes: Arc::new([]),
            default_ack: AckLevel::default(),
            default_on_refused: OnRefused::default(),
        }
    }
}

impl Mapping {
    /// Checks and compiles the rules; `default_ack` is the level of the default rule and of rules
    /// that name none.
    ///
    /// # Errors
    /// Everything that is wrong, in the order of the routes. Rules are compared with each other
    /// only when each is in order by itself, since a broken one would make its neighbours look
    /// wrong.
    pub fn new(routes: &[RouteConfig], default_ack: AckLevel) -> Result<Self, Vec<RouteError>> {
        if let Some(route) = routes.get(MAX_ROUTES) {
            let at = At { line: route.line, filter: route.filter.clone() };
            return Err(vec![RouteError::TooMany { at }]);
        }
        let mut errors = Vec::new();
        let mut filters: Vec<Filter> = Vec::with_capacity(routes.len());
        let mut ats: Vec<At> = Vec::with_capacity(routes.len());
        let mut rules: Vec<Rule> = Vec::with_capacity(routes.len());
        for route in routes {
            let compiled = Rule::compile(route, &mut errors);
            if let Some(filter) = compiled.filter {
                filters.push(filter);
                ats.push(At { line: route.line, filter: route.filter.clone() });
            }
            rules.extend(compiled.rule);
        }
        let checker = Checker::new(&filters, &rules);
        errors.extend(rules.iter().flat_map(|rule| checker.lossy(rule)));
        for (number, at) in ats.iter().enumerate() {
            if let Some(by) = checker.dead(number) {
                errors.push(RouteError::Dead { at: at.clone(), by: ats[by].clone() });
            }
        }
        if errors.is_empty() {
            errors = checker.ambiguities(&rules);
        }
        if !errors.is_empty() {
            errors.sort_by_key(RouteError::line);
            return Err(errors);
        }
        let default_on_refused = OnRefused::default();
        Ok(Self { rules: rules.into(), routes: routes.into(), default_ack, default_on_refused })
    }

    /// The same with what becomes of refused records of the default rule, and of rules that do not
    /// say it.
    #[must_use]
    pub fn on_refused(self, default_on_refused: OnRefused) -> Self {
        Self { default_on_refused, ..self }
    }

    /// Where a topic goes. Total: every valid topic name has a place, and no other topic has it.
    pub fn map(&self, topic: &str) -> Mapped {
        let levels: Vec<&str> = topic.split('/').collect();
        for (number, rule) in self.rules.iter().enumerate() {
            if let Ok(values) = rule.filter.captured(&levels) {
                let (name, key) = rule.image(&values);
                return Mapped {
                    topic: encode::fit(name).0.into(),
                    key: key.map(Bytes::from),
                    ack: self.routes[number].ack.unwrap_or(self.default_ack),
                    on_refused: self.routes[number].on_refused.unwrap_or(self.default_on_refused),
                    rule: Some(number),
                };
            }
        }
        let (name, key) = encode::default_image(topic);
        Mapped {
            topic: encode::fit(name).0.into(),
            key: key.map(|key| Bytes::copy_from_slice(key.as_bytes())),
            ack: self.default_ack,
            on_refused: self.default_on_refused,
            rule: None,
        }
    }

    /// The same rules read backwards: the MQTT topic that [`Self::map`] brings to this Kafka topic
    /// and key (`None` is the null key). `None` where there is none, or where the name is a
    /// shortened one: then only the record's header has the MQTT topic.
    pub fn unmap(&self, topic: &str, key: Option<&[u8]>) -> Option<String> {
        if topic.len() > encode::MAX_PLAIN {
            return None;
        }
        let text = match key {
            Some(key) => Some(std::str::from_utf8(key).ok()?),
            None => None,
        };
        let by_rule = self.rules.iter().enumerate().find_map(|(number, rule)| {
            let candidate = rule.preimage(topic, text)?;
            (self.taker(&candidate) == Some(number)).then_some(candidate)
        });
        by_rule.or_else(|| {
            unmap_default(topic, key).filter(|candidate| self.taker(candidate).is_none())
        })
    }

    /// Who makes a Kafka topic of this name, in words: a rule whose keys are not whole MQTT topics, or
    /// the default rule. `None`: nobody. For a topic whose records have the whole MQTT topic as key.
    pub fn makes(&self, name: &str) -> Option<String> {
        let mut rules = self.rules.iter().zip(self.routes.iter());
        let rule = rules.find(|(rule, route)| rule.makes(name, route));
        if let Some((rule, _)) = rule {
            return Some(rule.at.to_string());
        }
        let by_default =
            [None, Some(&b"x"[..])].iter().any(|key| unmap_default(name, *key).is_some());
        by_default.then(|| "the default rule".to_owned())
    }

    fn taker(&self, topic: &str) -> Option<usize> {
        let levels: Vec<&str> = topic.split('/').collect();
        self.rules.iter().position(|rule| rule.filter.captured(&levels).is_ok())
    }

    /// The rules in order, as they were configured.
    pub fn rules(&self) -> impl ExactSizeIterator<Item = &RouteConfig> {
        self.routes.iter()
    }

    /// The level of the default rule, and of rules that name none.
    pub fn default_ack(&self) -> AckLevel {
        self.default_ack
    }
}
