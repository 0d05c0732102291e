//! `[[route]]`: from the file to the checked [`Mapping`].
//!
//! What makes a rule ambiguous, dead or lossy is `hydrant_protocol::mapping`'s to say; here its
//! errors get their line.

use hydrant_protocol::AckLevel;
use hydrant_protocol::mapping::{Mapping, RouteConfig};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{ConfigErrors, Origin};
use super::keys::{self, ACKS};
use super::value::not_one_of;

const NAMES: [&str; 4] = ["filter", "topic", "key", "ack"];

/// One `[[route]]` and where it stands.
#[derive(Debug, Clone)]
pub struct RawRoute {
    /// For the mapping; its `line` is the origin's.
    pub config: RouteConfig,
    /// Its first line.
    pub origin: Origin,
}

/// Reads the value of `route` into `to`; a route with a mistake is left out.
pub fn read(
    value: &Spanned<DeValue<'_>>,
    at: &impl Fn(usize) -> Origin,
    to: &mut Vec<RawRoute>,
    errors: &mut ConfigErrors,
) {
    let Some(items) = value.get_ref().as_array() else {
        return errors.push(
            at(value.span().start),
            "a route is written as [[route]], in two pairs of brackets",
        );
    };
    for item in items.iter() {
        let origin = at(item.span().start);
        match item.get_ref().as_table() {
            Some(table) => to.extend(read_one(table, origin, at, errors)),
            None => errors.push(origin, "a route is written as [[route]]"),
        }
    }
}

fn read_one(
    table: &DeTable<'_>,
    origin: Origin,
    at: &impl Fn(usize) -> Origin,
    errors: &mut ConfigErrors,
) -> Option<RawRoute> {
    let before = errors.0.len();
    let (mut filter, mut topic, mut key, mut ack) = (None, None, None, None);
    for (name, value) in table {
        let origin = at(name.span().start);
        let name: &str = name.get_ref();
        if !NAMES.contains(&name) {
            errors.push(
                origin,
                format!(
                    "unknown key \"{name}\" of a route, {}",
                    keys::hint(name, NAMES.into_iter())
                ),
            );
            continue;
        }
        let Some(text) = value.get_ref().as_str() else {
            errors.push(
                origin,
                format!("{name} of a route must be a string, not {}", value.get_ref().type_str()),
            );
            continue;
        };
        match name {
            "filter" => filter = Some(text.to_string()),
            "topic" => topic = Some(text.to_string()),
            "key" => key = Some(text.to_string()),
            _ => match ack_level(text) {
                Some(level) => ack = Some(level),
                None => errors.push(
                    origin,
                    format!("ack {}", not_one_of(&format!("\"{text}\""), text, ACKS)),
                ),
            },
        }
    }
    for (name, missing) in
        [("filter", !table.contains_key("filter")), ("topic", !table.contains_key("topic"))]
    {
        if missing {
            errors.push(origin.clone(), format!("this route has no {name}: add {name} = \"…\""));
        }
    }
    let line = match origin {
        Origin::File { line, .. } => line,
        _ => 0,
    };
    let config = RouteConfig { filter: filter?, topic: topic?, key, ack, line };
    (errors.0.len() == before).then_some(RawRoute { config, origin })
}

/// The level of that name.
pub fn ack_level(name: &str) -> Option<AckLevel> {
    [AckLevel::Accepted, AckLevel::Stored, AckLevel::Kafka].into_iter().find(|l| l.as_str() == name)
}

/// Compiles the routes. Errors take the origin of the route on their line.
pub fn compile(
    routes: &[RawRoute],
    default: AckLevel,
    errors: &mut ConfigErrors,
) -> Option<Mapping> {
    let configs: Vec<RouteConfig> = routes.iter().map(|r| r.config.clone()).collect();
    match Mapping::new(&configs, default) {
        Ok(mapping) => Some(mapping),
        Err(refused) => {
            for error in refused {
                let origin = routes
                    .iter()
                    .find(|r| r.config.line == error.line())
                    .map_or(Origin::Default, |r| r.origin.clone());
                let sentence = error.to_string();
                // The origin says the line already.
                let prefix = format!("line {}: ", error.line());
                errors.push(origin, sentence.strip_prefix(&prefix).unwrap_or(&sentence));
            }
            None
        }
    }
}
