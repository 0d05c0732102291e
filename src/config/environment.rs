//! Names in the environment that look like keys and are none, and `RUST_LOG`.
//!
//! `HYDRANT_LOG_KIND=kafka` has one underscore too few in two places. Without a word it would do
//! nothing, so every name that begins with `HYDRANT_` is a key, known not to be the broker's, or a
//! mistake.

use std::ffi::OsString;

use super::error::{ConfigErrors, Origin};
use super::keys::{self, KEYS};

/// Of the environment variables that are keys: `HYDRANT__SECTION__KEY`.
pub(super) const ENV_PREFIX: &str = "HYDRANT__";

/// Read by this repository's scripts, tests and benchmarks, which start brokers with their own
/// environment. A test compares the list with the repository.
const OF_SCRIPTS: [&str; 13] = [
    "HYDRANT_BROKER",
    "HYDRANT_DEMO_PORT",
    "HYDRANT_FUZZ_SECONDS",
    "HYDRANT_KILLS",
    "HYDRANT_KINDS",
    "HYDRANT_NODES",
    "HYDRANT_NODE_MODULES",
    "HYDRANT_OUTAGE",
    "HYDRANT_OUTAGE_SECONDS",
    "HYDRANT_SEED",
    "HYDRANT_SEEDS",
    "HYDRANT_SRC",
    "HYDRANT_WORK",
];

/// What somebody writes who expects a variable of its own, and what does it.
const INSTEAD: [(&str, &str); 8] = [
    ("CONFIG", "name the file with --config"),
    ("CONFIG_FILE", "name the file with --config"),
    ("PORT", "write HYDRANT__LISTENER__ADDRESS, an address with its port"),
    ("LISTEN", "write HYDRANT__LISTENER__ADDRESS"),
    ("KAFKA", "write HYDRANT__KAFKA__BOOTSTRAP_SERVERS"),
    ("LOG", "write RUST_LOG for what the node says, HYDRANT__LOG__KIND for the message log"),
    ("LOG_LEVEL", "write RUST_LOG, as in RUST_LOG=debug"),
    ("RUST_LOG", "write RUST_LOG, as in RUST_LOG=debug"),
];

/// Reports names and values that nobody would read.
pub(super) fn check(env: &[(OsString, OsString)], errors: &mut ConfigErrors) {
    for (name, value) in env {
        let name = name.to_string_lossy();
        if name == "RUST_LOG" {
            check_filter(&value.to_string_lossy(), errors);
        }
        let upper = name.to_uppercase();
        let ours = name.starts_with(ENV_PREFIX);
        if ours || !upper.starts_with("HYDRANT_") || OF_SCRIPTS.contains(&&*name) {
            continue;
        }
        if !of_kubernetes(&name, &value.to_string_lossy()) {
            let rest = upper["HYDRANT_".len()..].trim_matches('_').to_owned();
            errors.push(Origin::Env(name.into_owned()), format!("is no key: {}", instead(&rest)));
        }
    }
}

/// What to write instead of `HYDRANT_` and `rest`.
fn instead(rest: &str) -> String {
    if let Some((_, what)) = INSTEAD.iter().find(|(name, _)| *name == rest) {
        return (*what).to_owned();
    }
    if rest.starts_with("KAFKA_PROPERTIES") {
        return "write HYDRANT__KAFKA__PROPERTIES__ and the property's name, its dots as two underscores".to_owned();
    }
    let near = keys::same_letters(rest).or_else(|| {
        let letters = keys::letters(rest);
        let named = |key: &&keys::Key| {
            key.path.split_once('.').is_some_and(|(_, name)| keys::letters(name) == letters)
        };
        let mut of_that_name = KEYS.iter().filter(named);
        match (of_that_name.next(), of_that_name.next()) {
            (Some(key), None) => Some(key.path),
            _ => keys::nearest_letters(&letters),
        }
    });
    match near {
        Some(path) => format!("write {}", variable(path)),
        None => "a key is written HYDRANT__SECTION__KEY, and `broker config default` shows all; rename the variable if it is for another program".to_owned(),
    }
}

/// `HYDRANT__LOG__KIND` of `log.kind`.
pub(super) fn variable(path: &str) -> String {
    format!("{ENV_PREFIX}{}", path.to_uppercase().replace('.', "__"))
}

/// Kubernetes and Docker put the addresses of every service into each container's environment: a
/// service `hydrant` is `HYDRANT_SERVICE_HOST`, `HYDRANT_PORT=tcp://…`, `HYDRANT_PORT_1883_TCP_ADDR`.
fn of_kubernetes(name: &str, value: &str) -> bool {
    let address = ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme));
    let port = || {
        let (_, after) = name.split_once("_PORT_")?;
        let mut parts = after.split('_');
        let number = parts.next()?.parse::<u16>().is_ok();
        let protocol = matches!(parts.next()?, "TCP" | "UDP" | "SCTP");
        let rest = parts.next().is_none_or(|part| matches!(part, "PROTO" | "PORT" | "ADDR"));
        Some(number && protocol && rest)
    };
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
        || (name.ends_with("_PORT") && address)
        || port().unwrap_or(false)
}

const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];

/// `RUST_LOG` is a list of levels and of `target=level`. The logger takes a word that is no level
/// for a target, and is silent then; so a word alone is a level or one of our targets.
fn check_filter(filter: &str, errors: &mut ConfigErrors) {
    let (directives, pattern) = filter.split_once('/').unwrap_or((filter, ""));
    let mut wrong = |sentence: String| errors.push(Origin::Env("RUST_LOG".into()), sentence);
    if pattern.contains('/') {
        wrong(format!("\"{filter}\" has more than one '/': at most one, before a text to search"));
    }
    let is_level = |word: &str| LEVELS.iter().any(|level| word.eq_ignore_ascii_case(level));
    for directive in directives.split(',').map(str::trim).filter(|text| !text.is_empty()) {
        let level = match directive.split_once('=') {
            Some((_, level)) => level.trim(),
            None if directive.starts_with("hydrant") => continue,
            None => directive,
        };
        // "target=" is every level of it.
        if is_level(level) || level.is_empty() {
            continue;
        }
        let near = match level.to_ascii_lowercase().as_str() {
            "warning" => Some("warn"),
            "verbose" | "all" | "finest" => Some("trace"),
            "none" | "silent" | "quiet" => Some("off"),
            "critical" | "fatal" => Some("error"),
            lower => keys::near(lower, LEVELS.iter().copied()),
        };
        let near = near.map_or_else(String::new, |near| format!("; the nearest is {near}"));
        let target = if level == directive {
            format!(", or {level}=debug for a target of that name")
        } else {
            String::new()
        };
        wrong(format!(
            "\"{level}\" is no level: write error, warn, info, debug, trace or off{target}{near}"
        ));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use super::super::tests::env;
    use super::super::{Sources, load};
    use super::*;

    fn said(pairs: &[(&str, &str)]) -> Vec<String> {
        let sources = Sources { env: env(pairs), ..Sources::default() };
        match load(&sources) {
            Ok(_) => Vec::new(),
            Err(errors) => errors.0.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn a_name_that_is_no_key_is_refused_with_the_one_that_was_meant() {
        for (name, right) in [
            ("HYDRANT_LOG_KIND", "is no key: write HYDRANT__LOG__KIND"),
            ("HYDRANT__LOG_KIND", "unknown key \"log_kind\", did you mean HYDRANT__LOG__KIND?"),
            ("HYDRANT_LOG__KIND", "is no key: write HYDRANT__LOG__KIND"),
            ("hydrant__log__kind", "is no key: write HYDRANT__LOG__KIND"),
            ("Hydrant_Log_Kind", "is no key: write HYDRANT__LOG__KIND"),
            ("HYDRANT_LOG_KND", "is no key: write HYDRANT__LOG__KIND"),
            ("HYDRANT_KAFKA_BOOTSTRAP_SERVERS", "write HYDRANT__KAFKA__BOOTSTRAP_SERVERS"),
            ("HYDRANT_KAFKA_PROPERTIES_SASL_USERNAME", "write HYDRANT__KAFKA__PROPERTIES__ and"),
            ("HYDRANT_DATA_DIR", "write HYDRANT__NODE__DATA_DIR"),
            ("HYDRANT_NODE_ID", "write HYDRANT__NODE__ID"),
            ("HYDRANT_CONFIG", "is no key: name the file with --config"),
            ("HYDRANT_PORT", "write HYDRANT__LISTENER__ADDRESS"),
            ("HYDRANT_LOG_LEVEL", "write RUST_LOG"),
            ("HYDRANT_ZZZZZZZZ", "a key is written HYDRANT__SECTION__KEY"),
            ("HYDRANT_", "a key is written HYDRANT__SECTION__KEY"),
        ] {
            let found = said(&[(name, "none")]);
            let start = format!("environment {name}: ");
            assert!(
                found.len() == 1 && found[0].starts_with(&start) && found[0].contains(right),
                "{name}: {found:#?}"
            );
        }
    }

    #[test]
    fn names_of_others_are_left_alone() {
        let theirs = [
            ("HYDRANTS", "1"),
            ("MY_HYDRANT_LOG_KIND", "1"),
            ("HYDRANT", "1"),
            // Services `hydrant` and `hydrant-admin` of Kubernetes.
            ("HYDRANT_SERVICE_HOST", "10.0.0.1"),
            ("HYDRANT_SERVICE_PORT", "1883"),
            ("HYDRANT_SERVICE_PORT_MQTT", "1883"),
            ("HYDRANT_PORT", "tcp://10.0.0.1:1883"),
            ("HYDRANT_PORT_1883_TCP", "tcp://10.0.0.1:1883"),
            ("HYDRANT_PORT_1883_TCP_PROTO", "tcp"),
            ("HYDRANT_PORT_1883_TCP_PORT", "1883"),
            ("HYDRANT_PORT_1883_TCP_ADDR", "10.0.0.1"),
            ("HYDRANT_ADMIN_PORT", "tcp://10.0.0.1:9883"),
            ("HYDRANT_ADMIN_SERVICE_HOST", "10.0.0.1"),
        ];
        assert_eq!(said(&theirs), Vec::<String>::new());
        for name in OF_SCRIPTS {
            assert_eq!(said(&[(name, "x")]), Vec::<String>::new());
        }
        assert_eq!(said(&[("HYDRANT_PORT_X_TCP", "1")]).len(), 1);
    }

    /// Who runs a script of the repository with its variable set can start a broker from it.
    #[test]
    fn every_variable_of_the_repository_is_known() {
        fn names(dir: &Path, found: &mut std::collections::BTreeSet<String>) {
            for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
                let path = entry.path();
                if entry.file_type().unwrap().is_dir() {
                    if entry.file_name() != "target" {
                        names(&path, found);
                    }
                } else if let Ok(text) = std::fs::read_to_string(&path) {
                    for (at, _) in text.match_indices("HYDRANT_") {
                        let name = text[at..].split(|c: char| !c.is_ascii_uppercase() && c != '_');
                        let name = name.into_iter().next().unwrap_or_default();
                        if !name.starts_with("HYDRANT__") {
                            found.insert(name.to_owned());
                        }
                    }
                }
            }
        }
        let mut found = std::collections::BTreeSet::new();
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        for folder in [
            ".ci",
            "actors",
            "benches",
            "deploy",
            "engine",
            "protocol",
            "scripts",
            "simulation",
            "tests",
        ] {
            names(&root.join(folder), &mut found);
        }
        found.retain(|name| !OF_SCRIPTS.contains(&name.as_str()));
        // Of this test's own kind: names that the node tier expects to be refused.
        found.remove("HYDRANT_LOG_KIND");
        assert_eq!(found, std::collections::BTreeSet::new());
    }

    #[test]
    fn a_level_of_the_log_that_is_none_is_refused() {
        for fine in [
            "",
            "info",
            "WARN",
            "off",
            "info,fjall=warn,lsm_tree=warn",
            "hydrant::mqtt=debug, warn",
            "hydrant_actors",
            "rdkafka=trace/timed out",
            "info,",
            "librdkafka=",
        ] {
            assert_eq!(said(&[("RUST_LOG", fine)]), Vec::<String>::new(), "{fine}");
        }
        for (wrong, expected) in [
            (
                "verbose",
                "\"verbose\" is no level: write error, warn, info, debug, trace or off, or verbose=debug for a target of that name; the nearest is trace",
            ),
            ("warning", "the nearest is warn"),
            (
                "hydrant=inof",
                "\"inof\" is no level: write error, warn, info, debug, trace or off; the nearest is info",
            ),
            ("info,debgu", "the nearest is debug"),
            ("3", "\"3\" is no level"),
            ("info/a/b", "has more than one '/'"),
        ] {
            let found = said(&[("RUST_LOG", wrong)]);
            assert!(
                found.len() == 1
                    && found[0].starts_with("environment RUST_LOG: ")
                    && found[0].contains(expected),
                "{wrong}: {found:#?}"
            );
        }
    }
}
