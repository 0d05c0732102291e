//! `[kafka.properties]`: librdkafka's own properties, passed through.
//!
//! Which ones Hydrant keeps to itself, and which names and values librdkafka takes, is
//! [`KafkaOptions::mistakes`]'s to say; here each property is shown to it alone, so that each mistake
//! gets its line. No connection is made.

use std::collections::BTreeMap;

use toml::Value as Raw;

use super::error::{ConfigErrors, Origin};
use crate::kafka::{BUILD, KafkaOptions};

/// Whether a property's value must not be shown.
pub fn is_secret(name: &str) -> bool {
    ["password", "secret", "token", "jaas", "oauthbearer.config", "key.pem", "username"]
        .iter()
        .any(|part| name.contains(part))
}

/// Checks the properties one by one; `protocol` is `kafka.security_protocol` where Kafka is used.
pub fn check(
    raw: &BTreeMap<String, (Raw, Origin)>,
    protocol: Option<&str>,
    errors: &mut ConfigErrors,
) -> BTreeMap<String, String> {
    let mut checked = BTreeMap::new();
    for (name, (value, origin)) in raw {
        if let Some(sentence) = protocol.and_then(|protocol| unused(name, protocol)) {
            errors.push(origin.clone(), sentence);
            continue;
        }
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
        let refusals = alone.mistakes();
        if refusals.is_empty() {
            checked.insert(name.clone(), text);
        }
        for refusal in refusals {
            // librdkafka's sentence repeats the value.
            let refusal = if refusal.contains("not available at build time") {
                format!(
                    "kafka.properties.{name} is refused, since this broker was built without TLS for Kafka: {BUILD}"
                )
            } else if is_secret(name) {
                format!(
                    "kafka.properties.{name} is refused by librdkafka: see its CONFIGURATION.md"
                )
            } else {
                refusal
            };
            errors.push(origin.clone(), refusal);
        }
    }
    checked
}

/// Why a setting of TLS or of a login does nothing with this `kafka.security_protocol`: the node would
/// connect without it.
fn unused(name: &str, protocol: &str) -> Option<String> {
    let (needed, missing) = if name.starts_with("sasl.") {
        (protocol.starts_with("sasl"), "nobody logs in: use \"sasl_ssl\" or \"sasl_plaintext\"")
    } else {
        let tls = name.starts_with("ssl.");
        (!tls || protocol.ends_with("ssl"), "there is no TLS: use \"ssl\" or \"sasl_ssl\"")
    };
    (!needed).then(|| {
        format!("kafka.properties.{name} is set and kafka.security_protocol is \"{protocol}\", so that {missing}, or leave {name} out")
    })
}
