//! The table of keys as text: `broker config print`, and `config.toml` as it is shipped.

use std::fmt::Write;
use std::time::Duration;

use toml::Value as Raw;

use super::checked::Config;
use super::keys::{CONTACT_POINTS, KEYS, Key, Kind, PROPERTIES, SECTIONS};
use super::properties::is_secret;
use super::source::{Effective, Resolved};
use super::units::{resolved_time, size_text, time_text};
use super::value::{Value, from_text, words_text};

/// The effective configuration: valid TOML, the origin of each value as a comment, behind it what a
/// size, a time or "auto" comes to.
pub fn effective(effective: &Effective, config: &Config) -> String {
    let mut out = String::new();
    for (section, _) in SECTIONS {
        line(&mut out, &format!("[{section}]"));
        for key in of(section) {
            let name = name(key);
            match effective.values.get(key.path) {
                Some(value) => {
                    let hidden = is_secret(name) && value.raw.as_str() != Some("");
                    let raw = if hidden { &secret() } else { &value.raw };
                    let resolved = resolved(key, value, config);
                    line(&mut out, &format!("{name} = {raw} # {}{resolved}", value.origin))
                }
                None if key.path == PROPERTIES => {
                    for (property, (raw, origin)) in &effective.properties {
                        let raw = if is_secret(property) { &secret() } else { raw };
                        line(&mut out, &format!("{name}.{} = {raw} # {origin}", quoted(property)));
                    }
                }
                None => line(&mut out, &format!("# {name} is not set")),
            }
        }
        line(&mut out, "");
    }
    for route in &effective.routes {
        line(&mut out, &format!("[[route]] # {}", route.origin));
        let config = &route.config;
        let ack = config.ack.map(|level| level.as_str());
        let on_refused = config.on_refused.map(|one| one.as_str());
        let parts = [
            ("filter", Some(config.filter.as_str())),
            ("topic", Some(config.topic.as_str())),
            ("key", config.key.as_deref()),
            ("ack", ack),
            ("on_refused", on_refused),
        ];
        for (name, text) in parts {
            if let Some(text) = text {
                line(&mut out, &format!("{name} = {}", quoted(text)));
            }
        }
        line(&mut out, "");
    }
    out.truncate(out.trim_end().len());
    out.push('\n');
    out
}

/// "; 65536 bytes" of "64KiB". Empty where the text says it all.
fn resolved(key: &Key, value: &Resolved, config: &Config) -> String {
    let text = match (key.kind, &value.value) {
        _ if !value.raw.is_str() => return String::new(),
        (Kind::Size { .. }, Value::Number(Some(bytes))) => format!("{bytes} bytes"),
        (Kind::Duration { .. }, Value::Time(time)) => resolved_time(*time),
        (Kind::Seconds { .. }, Value::Number(Some(n))) => resolved_time(Duration::from_secs(*n)),
        (Kind::Auto { unit, .. }, Value::Number(None)) => match key.path {
            "node.workers" => format!("{} {unit}", config.settings.workers),
            "storage.max_in_flight" => format!("{} {unit}", config.settings.storage.max_in_flight),
            _ => return String::new(),
        },
        _ => return String::new(),
    };
    format!("; {text}")
}

const HEAD: &str = r#"# Every key of Hydrant with its default. `broker` reads this file from its working directory, or
# the one that --config names; without a file these defaults hold.
#
# A key can also be set by environment (HYDRANT__LOG__KIND=none) and by flag
# (--set log.kind=none). Order, later wins: default, file, environment, --set, --node-id/--listen/
# --data-dir. `broker config check` reports every mistake at once, `broker config print` shows what
# holds and where it came from.
#
# Sizes are bytes, or text with a unit (B, KiB, MiB, GiB, TiB): "64KiB", "4GiB". Times carry a unit
# (ms, s, m, h, d): "250ms", "15s", "2h 30m", "7d". A section whose switch is elsewhere ([kafka] with
# log.kind = "embedded") may hold defaults only.
"#;

const ROUTES: &str = r#"# Rules from MQTT topic to Kafka (or embedded log) topic and key; the first that matches wins.
# {x} captures one level, {x...} the rest. Without a rule, device/42/thermo goes to topic
# device-thermo with key 42. `broker route TOPIC` explains where a topic goes.
# [[route]]
# filter = "device/{id}/thermo"
# topic = "device-thermo"
# key = "{id}"       # without it, records have no key
# ack = "kafka"      # without it, route_default.ack
# on_refused = "disconnect" # without it, route_default.on_refused
"#;

/// `config.toml` as it is shipped, for `broker config default`. The test `config_toml_is_the_table` holds the file to it.
pub fn shipped() -> String {
    let mut out = String::from(HEAD);
    for (section, doc) in SECTIONS {
        let _ = write!(out, "\n# {doc}\n[{section}]\n");
        for key in of(section) {
            let range = match key.kind {
                Kind::Bool => String::new(),
                Kind::Int { min, max, unit } => format!(" ({min} to {max} {unit})"),
                Kind::Auto { min, max, unit } => format!(" (\"auto\", or {min} to {max} {unit})"),
                Kind::Size { min, max } => format!(" ({} to {})", size_text(min), size_text(max)),
                Kind::Seconds { max } => {
                    format!(" (0s to {}, or a whole number of seconds)", time_text(max * 1000))
                }
                Kind::Duration { min, max } => {
                    format!(" ({} to {})", time_text(min), time_text(max))
                }
                Kind::Choice(words) => format!(" ({})", words_text(words)),
                Kind::Text(_) | Kind::List | Kind::Networks | Kind::Table => String::new(),
            };
            line(&mut out, &format!("# {}{range}.", key.doc));
            match key.default {
                Some(default) => {
                    let raw = from_text(key.kind, default);
                    line(&mut out, &format!("{} = {raw}", name(key)));
                }
                None if key.path == PROPERTIES => {
                    line(
                        &mut out,
                        &format!("# {} = {{ \"socket.keepalive.enable\" = true }}", name(key)),
                    );
                }
                None if key.path == CONTACT_POINTS => {
                    line(&mut out, &format!("# {} = \"127.0.0.1:9042\"", name(key)));
                }
                None => line(&mut out, &format!("# {} = \"127.0.0.1:9092\"", name(key))),
            }
        }
    }
    out.push('\n');
    out.push_str(ROUTES);
    out
}

fn of(section: &str) -> impl Iterator<Item = &'static Key> {
    KEYS.iter().filter(move |key| key.path.split_once('.').is_some_and(|(s, _)| s == section))
}

fn name(key: &Key) -> &'static str {
    key.path.split_once('.').map_or(key.path, |(_, name)| name)
}

/// What is shown of a secret.
fn secret() -> Raw {
    Raw::String("***".into())
}

fn quoted(text: &str) -> String {
    Raw::String(text.into()).to_string()
}

fn line(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::super::tests::{env, from};
    use super::super::{Loaded, Sources, load};
    use super::*;

    /// The file at the top of the repository documents every key with its default.
    #[test]
    fn config_toml_is_the_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/config.toml");
        let text = std::fs::read_to_string(path).unwrap();
        assert!(
            text == shipped(),
            "config.toml is not what src/config/keys.rs says: write it anew with `cargo run -- config default >config.toml`"
        );
        // Independently of the writer: every key is there, with its default or commented out.
        let table: toml::Table = text.parse().unwrap();
        for key in KEYS {
            let (section, name) = key.path.split_once('.').unwrap();
            match key.default {
                Some(default) => {
                    assert_eq!(table[section][name], from_text(key.kind, default), "{}", key.path);
                }
                None => assert!(text.contains(&format!("\n# {name} = ")), "{}", key.path),
            }
        }
        let written: usize = table.values().map(|section| section.as_table().unwrap().len()).sum();
        assert_eq!(written, KEYS.iter().filter(|key| key.default.is_some()).count());
        assert_eq!(table.len(), SECTIONS.len());
        // And it loads to the defaults.
        let (file, built_in) = (load(&from(&text)).unwrap(), load(&Sources::default()).unwrap());
        let settings = |loaded: &Loaded| format!("{:?}", loaded.config.settings);
        assert_eq!(settings(&file), settings(&built_in));
        assert_eq!(file.config.listener, built_in.config.listener);
        assert_eq!(file.config.admin_limits, built_in.config.admin_limits);
        assert_eq!(file.config.store, built_in.config.store);
        assert_eq!(file.config.log, built_in.config.log);
    }

    #[test]
    fn the_commented_examples_of_config_toml_are_right() {
        let text = shipped();
        let example: String = text
            .lines()
            .skip_while(|line| !line.starts_with("# [[route]]"))
            .map(|line| format!("{}\n", line.trim_start_matches("# ")))
            .collect();
        load(&from(&example)).unwrap();
        let kafka = "[log]\nkind = \"kafka\"\n[kafka]\nbootstrap_servers = \"127.0.0.1:9092\"\nproperties = { \"socket.keepalive.enable\" = true }\n";
        assert!(load(&from(kafka)).unwrap().config.kafka.is_some());
        let cassandra =
            "[storage]\nkind = \"cassandra\"\n[cassandra]\ncontact_points = \"127.0.0.1:9042\"\n";
        assert!(load(&from(cassandra)).unwrap().config.cassandra.is_some());
    }

    #[test]
    fn print_is_toml_that_loads_to_the_same_and_names_each_source() {
        let mut sources = from(
            "[log]\nretention = \"36h\"\n[[route]]\nfilter = \"a/{x}\"\ntopic = \"t.a\"\nkey = \"{x}\"\n",
        );
        sources.env = env(&[("HYDRANT__LOG__MAX_TOPICS", "7")]);
        sources.set = vec!["limits.max_keep_alive=2m".into(), "storage.cache_size=2097152".into()];
        sources.flags = vec![("--node-id", "node.id", "n7".into())];
        let loaded = load(&sources).unwrap();
        let printed = loaded.print();
        for line in [
            "id = \"n7\" # --node-id",
            "retention = \"36h\" # c.toml:2; 129600 seconds",
            "retry_min = \"50ms\" # default; 50 milliseconds",
            "max_keep_alive = \"2m\" # --set limits.max_keep_alive; 120 seconds",
            "max_packet_size = \"1MiB\" # default; 1048576 bytes",
            "cache_size = 2097152 # --set storage.cache_size",
            "max_topics = 7 # environment HYDRANT__LOG__MAX_TOPICS",
            "max_in_flight = \"auto\" # default; 1 batches",
            "connect_rate = 5000 # default",
            "# bootstrap_servers is not set",
            "[[route]] # c.toml:3",
            "filter = \"a/{x}\"",
        ] {
            assert!(printed.lines().any(|l| l == line), "{line} is not in\n{printed}");
        }
        let again = load(&from(&printed)).unwrap();
        assert_eq!(again.config.settings.node_id, loaded.config.settings.node_id);
        assert_eq!(
            format!("{:?}", again.config.settings.limits),
            format!("{:?}", loaded.config.settings.limits)
        );
        assert_eq!(again.config.log, loaded.config.log);
        assert_eq!(again.config.settings.mapping.rules().count(), 1);
    }
}
