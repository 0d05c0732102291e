//! The layers a configuration comes from (built in, file, environment, `--set`, flags) and what
//! they come to: [`Effective`], a checked value with its origin for each key.
//!
//! Every layer is checked, also where a later one wins: a mistake in the file is reported whatever
//! the command line says. Nothing is read from outside here; the caller hands in text.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;

use toml::Value as Raw;
use toml::de::{DeTable, DeValue};

use super::environment::{self, ENV_PREFIX};
use super::error::{ConfigErrors, Origin};
use super::keys::{self, KEYS, PROPERTIES, ROUTE, SECTIONS};
use super::properties::is_secret;
use super::routes::{self, RawRoute};
use super::value::{self, Value};

/// What a configuration is made from, besides the built-in defaults.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// Name (for messages) and text of the file.
    pub file: Option<(String, String)>,
    /// The environment: names that begin with `HYDRANT_`, and `RUST_LOG`.
    pub env: Vec<(OsString, OsString)>,
    /// Each `section.key=value` of `--set`, in order.
    pub set: Vec<String>,
    /// Name of the flag, key, value.
    pub flags: Vec<(&'static str, &'static str, String)>,
}

/// One key's value, past its check.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The checked value.
    pub value: Value,
    /// As it was written.
    pub raw: Raw,
    /// Where that was.
    pub origin: Origin,
}

/// The value of each key, and the routes. Not `Debug`: there are secrets in it.
#[derive(Clone, Default)]
pub struct Effective {
    /// By path; a key without default that nobody set is missing.
    pub values: BTreeMap<&'static str, Resolved>,
    /// `kafka.properties`, names flattened with dots.
    pub properties: BTreeMap<String, (Raw, Origin)>,
    /// `[[route]]`, in order.
    pub routes: Vec<RawRoute>,
    /// Keys with a mistake somewhere: cross checks leave them alone.
    pub bad: BTreeSet<&'static str>,
}

struct Entry {
    path: String,
    raw: Raw,
    origin: Origin,
}

/// Puts the layers together. Mistakes go into `errors`; a key with one keeps an earlier value.
pub fn resolve(sources: &Sources, errors: &mut ConfigErrors) -> Effective {
    let mut effective = Effective::default();
    let mut entries = Vec::new();
    for key in KEYS {
        if let Some(default) = key.default {
            let raw = value::from_text(key.kind, default);
            entries.push(Entry { path: key.path.into(), raw, origin: Origin::Default });
        }
    }
    if let Some((name, text)) = &sources.file {
        read_file(name, text, &mut entries, &mut effective, errors);
    }
    environment::check(&sources.env, errors);
    read_env(&sources.env, &mut entries, errors);
    for pair in &sources.set {
        match pair.split_once('=') {
            Some((path, text)) => {
                let path = path.trim();
                let origin = Origin::Set(path.into());
                read_text(path.into(), text.trim(), origin, &mut entries, errors);
            }
            None => errors.push(
                Origin::Set(pair.clone()),
                "must be section.key=value, as in --set log.kind=none",
            ),
        }
    }
    for (flag, path, text) in &sources.flags {
        entries.push(Entry {
            path: (*path).into(),
            raw: Raw::String(text.clone()),
            origin: Origin::Flag(flag),
        });
    }
    for entry in entries {
        settle(entry, &mut effective, errors);
    }
    effective
}

/// Checks one entry and lets it replace what an earlier layer said.
fn settle(entry: Entry, effective: &mut Effective, errors: &mut ConfigErrors) {
    let Entry { path, raw, origin } = entry;
    if let Some(name) = path.strip_prefix(PROPERTIES).and_then(|rest| rest.strip_prefix('.')) {
        effective.properties.insert(name.to_string(), (raw, origin));
        return;
    }
    let Some(key) = keys::find(&path) else {
        let near = nearest(&path, &raw, &origin);
        errors.push(origin, format!("unknown key \"{path}\"{near}"));
        return;
    };
    match value::check(key, &raw) {
        Ok(value) => {
            effective.values.insert(key.path, Resolved { value, raw, origin });
        }
        Err(rule) => {
            effective.bad.insert(key.path);
            // The rule repeats the value.
            let rule = if is_secret(&path) { "must be a string".into() } else { rule };
            errors.push(origin, format!("{path} {rule}"));
        }
    }
}

/// What an unknown key was meant to be, as the end of a sentence; empty where nothing is near.
fn nearest(path: &str, raw: &Raw, origin: &Origin) -> String {
    let written = |key: &str| match origin {
        Origin::Env(_) => environment::variable(key),
        _ => format!("\"{key}\""),
    };
    // One part only, or other separators or capitals: what it says is enough.
    let meant = match keys::same_letters(path) {
        Some(key) => vec![key],
        None if !path.contains('.') => without_section(path, raw),
        None => Vec::new(),
    };
    match meant.as_slice() {
        [] => match keys::nearest(path) {
            Some(key) => format!(", the nearest is \"{key}\""),
            None => String::new(),
        },
        keys => {
            let keys: Vec<String> = keys.iter().map(|key| written(key)).collect();
            format!(", did you mean {}?", keys.join(" or "))
        }
    }
}

/// The keys of this name, in whatever section; where some of them take the value, those.
fn without_section(name: &str, raw: &Raw) -> Vec<&'static str> {
    let named =
        || KEYS.iter().filter(|key| key.path.split_once('.').is_some_and(|(_, n)| n == name));
    let takes = |key: &&keys::Key| match raw {
        Raw::String(text) => value::check(key, &value::from_text(key.kind, text)).is_ok(),
        raw => value::check(key, raw).is_ok(),
    };
    let fits: Vec<_> = named().filter(takes).map(|key| key.path).collect();
    if fits.is_empty() { named().map(|key| key.path).collect() } else { fits }
}

/// The text of an environment variable or of `--set`.
fn read_text(
    path: String,
    text: &str,
    origin: Origin,
    to: &mut Vec<Entry>,
    errors: &mut ConfigErrors,
) {
    if path == ROUTE || path.starts_with("route.") {
        errors.push(origin, "routes are read from the file only: write them as [[route]]");
    } else if path == PROPERTIES {
        match DeValue::parse(text).ok().as_ref().and_then(|v| v.get_ref().as_table()) {
            Some(table) => flatten(&path, table, to, errors, &|_| origin.clone()),
            None => errors.push(
                origin,
                format!(
                    "{PROPERTIES} must be a table, as in {{ \"socket.keepalive.enable\" = true }}"
                ),
            ),
        }
    } else {
        let raw = match keys::find(&path) {
            Some(key) => value::from_text(key.kind, text),
            None => Raw::String(text.into()),
        };
        to.push(Entry { path, raw, origin });
    }
}

fn read_env(env: &[(OsString, OsString)], to: &mut Vec<Entry>, errors: &mut ConfigErrors) {
    let mut ours: Vec<_> = env
        .iter()
        .filter_map(|(name, value)| Some((name.to_str()?.strip_prefix(ENV_PREFIX)?, value)))
        .collect();
    ours.sort();
    for (rest, value) in ours {
        let origin = Origin::Env(format!("{ENV_PREFIX}{rest}"));
        let path = rest.to_lowercase().replace("__", ".");
        match value.to_str() {
            Some(text) => read_text(path, text.trim(), origin, to, errors),
            None => errors.push(origin, "must be UTF-8"),
        }
    }
}

fn read_file(
    name: &str,
    text: &str,
    to: &mut Vec<Entry>,
    effective: &mut Effective,
    errors: &mut ConfigErrors,
) {
    let at = |offset: usize| Origin::File { file: name.into(), line: line(text, offset) };
    let (document, syntax) = DeTable::parse_recoverable(text);
    let mut broken = BTreeSet::new();
    for error in syntax {
        let origin = at(error.span().map_or(0, |span| span.start));
        errors.push(origin.clone(), format!("not TOML: {}", error.message()));
        broken.insert(origin);
    }
    if !broken.is_empty() {
        // Any key could be the one that was lost: nothing is said about keys taken together.
        effective.bad.extend(KEYS.iter().map(|key| key.path));
    }
    let broken = Broken { headless: headless(text, &broken), lines: broken };
    // What the parser recovered on a broken line would only bring a second, misleading error.
    let mut found = ConfigErrors::default();
    let first = to.len();
    for (key, value) in document.get_ref() {
        let section: &str = key.get_ref();
        let origin = at(key.span().start);
        match value.get_ref() {
            _ if section == ROUTE => routes::read(value, &at, &mut effective.routes, &mut found),
            DeValue::Table(table) if is_section(section) => {
                for (key, value) in table {
                    let path = format!("{section}.{}", key.get_ref());
                    let origin = at(key.span().start);
                    match value.get_ref() {
                        DeValue::Table(table) if path == PROPERTIES => {
                            flatten(&path, table, to, &mut found, &at);
                        }
                        value => push(path, value, origin, to, &mut found),
                    }
                }
            }
            _ if is_section(section) => {
                found.push(origin, format!("{section} is a section: write [{section}]"));
            }
            DeValue::Table(_) | DeValue::Array(_) => {
                let near = keys::nearest(section).map(|s| format!(", the nearest is [{s}]"));
                found.push(
                    origin,
                    format!("unknown section [{section}]{}", near.unwrap_or_default()),
                );
            }
            _ => {
                let raw = value::from_toml(value.get_ref()).unwrap_or(Raw::Boolean(true));
                let near = match without_section(section, &raw).as_slice() {
                    [] => keys::nearest(&format!(".{section}")).map(|k| format!("\"{k}\"")),
                    keys => Some(format!("\"{}\"", keys.join("\" or \""))),
                };
                let near = near.map(|near| format!(", the nearest is {near}"));
                found.push(
                    origin,
                    format!("key \"{section}\" is in no section{}", near.unwrap_or_default()),
                );
            }
        }
    }
    let recovered = to.split_off(first);
    to.extend(recovered.into_iter().filter(|entry| !broken.holds(&entry.origin)));
    errors.0.extend(found.0.into_iter().filter(|error| !broken.holds(&error.origin)));
}

/// Lines of which nothing more is said, since the parser could not read them.
struct Broken {
    lines: BTreeSet<Origin>,
    /// First and last line of what stands below a broken `[section]`: whose keys those are is unknown.
    headless: Vec<(usize, usize)>,
}

impl Broken {
    fn holds(&self, origin: &Origin) -> bool {
        let below =
            |line: &usize| self.headless.iter().any(|(from, to)| (from..=to).contains(&line));
        self.lines.contains(origin) || matches!(origin, Origin::File { line, .. } if below(line))
    }
}

/// From each broken line that begins a section to the line before the next section.
fn headless(text: &str, broken: &BTreeSet<Origin>) -> Vec<(usize, usize)> {
    let heads: Vec<usize> = (1..)
        .zip(text.lines())
        .filter(|(_, line)| line.trim_start().starts_with('['))
        .map(|(number, _)| number)
        .collect();
    let is_broken = |number: &usize| {
        broken.iter().any(|o| matches!(o, Origin::File { line, .. } if line == number))
    };
    let end = |number: usize| {
        heads.iter().find(|head| **head > number).map_or(usize::MAX, |head| head - 1)
    };
    heads.iter().filter(|number| is_broken(number)).map(|number| (*number, end(*number))).collect()
}

fn is_section(name: &str) -> bool {
    SECTIONS.iter().any(|(section, _)| *section == name)
}

fn push(
    path: String,
    value: &DeValue<'_>,
    origin: Origin,
    to: &mut Vec<Entry>,
    errors: &mut ConfigErrors,
) {
    match value::from_toml(value) {
        Some(raw) => to.push(Entry { path, raw, origin }),
        // A table where a value belongs: an unknown key is better reported as such.
        None if value.is_table() && keys::find(&path).is_none() => {
            to.push(Entry { path, raw: Raw::Boolean(true), origin });
        }
        None if value.is_table() => {
            errors.push(origin, format!("{path} takes a value, not a table"))
        }
        None => errors.push(origin, format!("{path} is a number that does not fit 64 bits")),
    }
}

/// `socket.keepalive.enable = true`, quoted or as tables, to one name with dots.
fn flatten(
    path: &str,
    table: &DeTable<'_>,
    to: &mut Vec<Entry>,
    errors: &mut ConfigErrors,
    at: &impl Fn(usize) -> Origin,
) {
    for (key, value) in table {
        let path = format!("{path}.{}", key.get_ref());
        match value.get_ref() {
            DeValue::Table(inner) => flatten(&path, inner, to, errors, at),
            value => push(path, value, at(key.span().start), to, errors),
        }
    }
}

/// The line, from 1, of a byte offset.
fn line(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|b| *b == b'\n').count()
}
