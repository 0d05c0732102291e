//! `[kafka.properties]`: librdkafka's own properties, passed through.
//!
//! Which ones Hydrant keeps to itself, and which names and values librdkafka takes, is
//! [`KafkaOptions::check`]'s to say; here each property is shown to it alone, so that each mistake
//! gets its line. No connection is made.

use std::collections::BTreeMap;

use toml::Value as Raw;

use super::error::{ConfigErrors, Origin};
use crate::kafka::KafkaOptions;

/// Whether a property's value must not be shown.
pub fn is_secret(name: &str) -> bool {
    ["password", "secret", "token", "jaas", "oauthbearer.config", "key.pem", "username"]
        .iter()
        .any(|part| name.contains(part))
}

/// Checks the properties one by one.
pub fn check(
    raw: &BTreeMap<String, (Raw, Origin)>,
    errors: &mut ConfigErrors,
) -> BTreeMap<String, String> {
    let mut checked = BTreeMap::new();
    for (name, (value, origin)) in raw {
        let text = match value {
            Raw::String(text) => text.clone(),
            Raw::Integer(_) | Raw::Float(_) | Raw::Boolean(_) => value.to_string(),
            _ => {
                let rule = "must be a string, a number, or true or false";
                errors.push(origin.clone(), format!("kafka.properties.{name} {rule}"));
                continue;
            }
        };
        let alone = KafkaOptions {
            properties: BTreeMap::from([(name.clone(), text.clone())]),
            ..KafkaOptions::default()
        };
        for refusal in alone.check() {
            // librdkafka's sentence repeats the value.
            let refusal = if is_secret(name) {
                format!(
                    "kafka.properties.{name} is refused by librdkafka: see its CONFIGURATION.md"
                )
            } else {
                refusal
            };
            errors.push(origin.clone(), refusal);
        }
        checked.insert(name.clone(), text);
    }
    checked
}
