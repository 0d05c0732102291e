//! `[[route]]`: from the file to the checked [`Mapping`].
//!
//! What makes a rule ambiguous, dead or lossy is `hydrant_protocol::mapping`'s to say; here its
//! errors get their line.

use hydrant_protocol::mapping::{self, Mapping, RouteConfig, RouteError};
use hydrant_protocol::{AckLevel, OnRefused};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{ConfigErrors, Origin};
use super::keys::{self, ACKS, ON_REFUSED};
use super::value::not_one_of;

const NAMES: [&str; 5] = ["filter", "topic", "key", "ack", "on_refused"];

/// One `[[route]]` and where it stands.
#[derive(Debug, Clone)]
pub struct RawRoute {
    /// For the mapping; its `line` is the origin's.
    pub config: RouteConfig,
    /// Its first line.
    pub origin: Origin,
}

/// Reads the value of `route` into `to`. A route with a wrong `ack` is among them, so that the mapping
/// names what else is wrong with it; one that is not whole is left out.
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
    let (mut filter, mut topic, mut key, mut ack) = (None, None, None, None);
    let mut whole = true;
    let mut on_refused = None;
    for (name, value) in table {
        let origin = at(name.span().start);
        let name: &str = name.get_ref();
        if !NAMES.contains(&name) {
            whole = false;
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
            whole = false;
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
            "on_refused" => match self::on_refused(text) {
                Some(found) => on_refused = Some(found),
                None => errors.push(
                    origin,
                    format!("on_refused {}", not_one_of(&format!("\"{text}\""), text, ON_REFUSED)),
                ),
            },
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
    match (filter, topic) {
        (Some(filter), Some(topic)) if whole => {
            let config = RouteConfig { filter, topic, key, ack, on_refused, line };
            Some(RawRoute { config, origin })
        }
        (filter, _) => {
            // What is missing could be what topic and key need: the filter alone is looked at.
            for error in filter.iter().flat_map(|filter| mapping::filter_errors(filter, line)) {
                errors.push(origin.clone(), without_line(&error));
            }
            None
        }
    }
}

/// The level of that name.
pub fn ack_level(name: &str) -> Option<AckLevel> {
    [AckLevel::Accepted, AckLevel::Stored, AckLevel::Kafka].into_iter().find(|l| l.as_str() == name)
}

/// The choice of that name.
pub fn on_refused(name: &str) -> Option<OnRefused> {
    [OnRefused::DeadLetter, OnRefused::Disconnect].into_iter().find(|one| one.as_str() == name)
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
                errors.push(origin, without_line(&error));
            }
            None
        }
    }
}

/// Its sentence; the origin says the line already.
fn without_line(error: &RouteError) -> String {
    let sentence = error.to_string();
    let prefix = format!("line {}: ", error.line());
    sentence.strip_prefix(&prefix).unwrap_or(&sentence).to_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::load;
    use super::super::tests::from;

    #[test]
    fn every_mistake_of_every_route_is_reported() {
        let file = "[[route]]\nfilter = \"a/+\"\ntopic = \"t.a\"\nkey = \"{id}\"\n\
            [[route]]\nfilter = \"b/{x}\"\ntopic = \"t.b\"\nkey = \"{y}\"\nack = \"stord\"\n\
            [[route]]\nfilter = \"c/#\"\ntopik = \"t.c\"\n";
        let found: Vec<String> =
            load(&from(file)).unwrap_err().0.iter().map(ToString::to_string).collect();
        let expected = [
            "c.toml:1: route 'a/+' uses '+'",
            "c.toml:1: route 'a/+' uses '{id}' in its key, which its filter does not capture",
            "c.toml:5: route 'b/{x}' uses '{y}' in its key, which its filter does not capture",
            "c.toml:9: ack = \"stord\" is not one of",
            "c.toml:10: route 'c/#' uses '#'",
            "c.toml:10: this route has no topic",
            "c.toml:12: unknown key \"topik\" of a route",
        ];
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.starts_with(expected), "{found}\nis not\n{expected}");
        }
    }
}
