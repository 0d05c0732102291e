//! One value: from TOML or from the text of an override to a checked [`Value`].
//!
//! Pure. An error is the part of the sentence after the key's name, and says what would be right.

use std::time::Duration;

use hydrant_protocol::access::{IpNet, parse_network};
use toml::Value as Raw;
use toml::de::DeValue;

use super::keys::{self, Key, Kind};
use super::units::{self, Wrong, size_text, time_text};

const A_TIME: &str = "a time with its unit, as in \"250ms\", \"15s\" or \"7d\"";

/// A value past its check, in the key's kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Of `Bool`.
    Bool(bool),
    /// Of `Int`, `Size` (bytes), `Seconds` and `Auto` ("auto" is `None`).
    Number(Option<u64>),
    /// Of `Duration`.
    Time(Duration),
    /// Of `Choice` and `Text`.
    Text(String),
    /// Of `List`.
    List(Vec<String>),
    /// Of `Networks`.
    Networks(Vec<IpNet>),
}

/// A TOML value of the file without its spans. `None` for a number no 64 bits hold and for a table.
pub fn from_toml(value: &DeValue<'_>) -> Option<Raw> {
    Some(match value {
        DeValue::String(text) => Raw::String(text.to_string()),
        DeValue::Integer(i) => Raw::Integer(i64::from_str_radix(i.as_str(), i.radix()).ok()?),
        DeValue::Float(f) => Raw::Float(f.as_str().parse().ok()?),
        DeValue::Boolean(b) => Raw::Boolean(*b),
        DeValue::Datetime(d) => Raw::Datetime(*d),
        DeValue::Array(items) => {
            Raw::Array(items.iter().map(|i| from_toml(i.get_ref())).collect::<Option<_>>()?)
        }
        DeValue::Table(_) => return None,
    })
}

/// The value of an environment variable or of `--set`: TOML where it is TOML of a type the key
/// can take, else the text itself.
pub fn from_text(kind: Kind, text: &str) -> Raw {
    let parsed = DeValue::parse(text).ok().and_then(|value| from_toml(value.get_ref()));
    match (kind, parsed) {
        (_, Some(parsed @ Raw::String(_))) => parsed,
        (kind, Some(parsed @ Raw::Array(_))) if !matches!(kind, Kind::Text(_)) => parsed,
        (
            Kind::Bool
            | Kind::Int { .. }
            | Kind::Auto { .. }
            | Kind::Size { .. }
            | Kind::Seconds { .. },
            Some(parsed),
        ) => parsed,
        _ => Raw::String(text.to_string()),
    }
}

/// Checks `raw` against the key's kind and range.
pub fn check(key: &Key, raw: &Raw) -> Result<Value, String> {
    let wrong =
        |expected: &str| Err(format!("must be {expected}, not {} {raw}", article(raw.type_str())));
    match (key.kind, raw) {
        (Kind::Bool, Raw::Boolean(b)) => Ok(Value::Bool(*b)),
        (Kind::Bool, _) => wrong("true or false"),
        (Kind::Auto { .. }, Raw::String(word)) if word == "auto" => Ok(Value::Number(None)),
        (Kind::Int { min, max, unit } | Kind::Auto { min, max, unit }, Raw::Integer(i)) => {
            let auto = if matches!(key.kind, Kind::Auto { .. }) { ", or \"auto\"" } else { "" };
            match u64::try_from(*i) {
                Ok(n) if (min..=max).contains(&n) => Ok(Value::Number(Some(n))),
                _ => Err(format!("= {i} is out of range: {min} to {max} {unit}{auto}")),
            }
        }
        (Kind::Int { .. }, _) => wrong("a whole number"),
        (Kind::Auto { .. }, _) => wrong("a whole number or \"auto\""),
        (Kind::Size { min, max }, Raw::Integer(_) | Raw::String(_)) => {
            let bytes = match raw {
                Raw::String(text) => units::size(text),
                _ => Ok(raw.as_integer().and_then(|i| u64::try_from(i).ok()).unwrap_or(u64::MAX)),
            };
            match bytes {
                Ok(n) if (min..=max).contains(&n) => Ok(Value::Number(Some(n))),
                Err(Wrong::Unit(rule)) => Err(rule),
                Err(_) => wrong("a size, as in \"64KiB\" or 65536"),
                Ok(_) => Err(format!(
                    "= {raw} is out of range: {} to {}",
                    size_text(min),
                    size_text(max)
                )),
            }
        }
        (Kind::Size { .. }, _) => wrong("a size, as in \"64KiB\" or 65536"),
        (Kind::Seconds { max }, Raw::Integer(i)) => match u64::try_from(*i) {
            Ok(n) if n <= max => Ok(Value::Number(Some(n))),
            _ => Err(format!("= {i} is out of range: 0 to {max} seconds")),
        },
        (Kind::Seconds { max }, Raw::String(text)) => match units::time(text) {
            Ok(time) if time.subsec_millis() == 0 && time.as_secs() <= max => {
                Ok(Value::Number(Some(time.as_secs())))
            }
            Ok(_) => Err(format!("= {raw} is out of range: 0 to {max} seconds, whole ones")),
            Err(Wrong::NoUnit(n)) if n <= max => Ok(Value::Number(Some(n))),
            Err(Wrong::Unit(rule)) => Err(rule),
            Err(_) => wrong("a time with its unit, or a whole number of seconds"),
        },
        (Kind::Seconds { .. }, _) => wrong("a time with its unit, or a whole number of seconds"),
        (Kind::Duration { min, max }, Raw::Integer(_) | Raw::String(_)) => {
            let time = match raw {
                Raw::String(text) => units::time(text),
                Raw::Integer(0) => Ok(Duration::ZERO),
                _ => raw
                    .as_integer()
                    .and_then(|i| u64::try_from(i).ok())
                    .map_or(Ok(Duration::MAX), |n| Err(Wrong::NoUnit(n))),
            };
            match time {
                Ok(time) if (millis(min)..=millis(max)).contains(&time) => Ok(Value::Time(time)),
                Ok(_) => Err(format!(
                    "= {raw} is out of range: {} to {}",
                    time_text(min),
                    time_text(max)
                )),
                Err(Wrong::NoUnit(number)) => Err(no_unit(number, min, max)),
                Err(Wrong::Unit(rule)) => Err(rule),
                Err(Wrong::Other) => wrong(A_TIME),
            }
        }
        (Kind::Duration { .. }, _) => wrong(A_TIME),
        (Kind::Choice(words), Raw::String(word)) => match words.iter().find(|w| *w == word) {
            Some(word) => Ok(Value::Text((*word).to_string())),
            None => Err(not_one_of(&raw.to_string(), word, words)),
        },
        (Kind::Choice(words), _) => wrong(&format!("one of {}", words_text(words))),
        (Kind::Text(check), Raw::String(text)) => match check(text) {
            Ok(()) => Ok(Value::Text(text.clone())),
            Err(rule) => Err(format!("= {raw} is not right: it {rule}")),
        },
        (Kind::Text(_), _) => wrong("a string"),
        (Kind::List, Raw::String(text)) => list(text.split(',').map(str::to_string)),
        (Kind::List, Raw::Array(items)) if items.iter().all(Raw::is_str) => {
            list(items.iter().filter_map(Raw::as_str).map(str::to_string))
        }
        (Kind::List, _) => wrong("a string or a list of strings"),
        (Kind::Networks, Raw::String(text)) if text.trim().is_empty() => networks([].into_iter()),
        (Kind::Networks, Raw::String(text)) => networks(text.split(',').map(str::trim)),
        (Kind::Networks, Raw::Array(items)) if items.iter().all(Raw::is_str) => {
            networks(items.iter().filter_map(Raw::as_str))
        }
        (Kind::Networks, _) => wrong("a string or a list of strings"),
        (Kind::Table, _) => wrong("a table"),
    }
}

/// "= "kafak" is not one of "embedded", "kafka"; the nearest is "kafka"".
pub fn not_one_of(raw: &str, word: &str, words: &[&str]) -> String {
    let near = keys::near(word, words.iter().copied());
    let near = near.map(|k| format!("; the nearest is \"{k}\""));
    format!("= {raw} is not one of {}{}", words_text(words), near.unwrap_or_default())
}

fn list(items: impl Iterator<Item = String>) -> Result<Value, String> {
    let items: Vec<String> = items.map(|item| item.trim().to_string()).collect();
    if items.is_empty() || items.iter().any(|i| i.is_empty() || i.contains(char::is_whitespace)) {
        return Err("must name at least one, and none empty or with a space inside".into());
    }
    Ok(Value::List(items))
}

/// "host:port", `default` added where there is no port; `None` for anything else. A host is a name,
/// an IPv4 address, or an IPv6 address in brackets.
pub fn host_port(text: &str, default: Option<u16>) -> Option<String> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']')?;
            address.parse::<std::net::Ipv6Addr>().ok()?;
            let port = if port.is_empty() { None } else { Some(port.strip_prefix(':')?) };
            (format!("[{address}]"), port)
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host.to_string(), Some(port)),
            None => (text.to_string(), None),
        },
    };
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    if !host.starts_with('[') && (host.is_empty() || !host.bytes().all(legal)) {
        return None;
    }
    let port = match port {
        Some(port) => port.parse().ok().filter(|port| *port != 0)?,
        None => default?,
    };
    Some(format!("{host}:{port}"))
}

fn networks<'a>(items: impl Iterator<Item = &'a str>) -> Result<Value, String> {
    let network = |text: &'a str| {
        parse_network(text).ok_or_else(|| {
            format!("= \"{text}\" is not right: it must be a network or an address, as in \"10.0.0.0/8\", \"10.1.2.3\" or \"2001:db8::/32\"")
        })
    };
    items.map(network).collect::<Result<_, _>>().map(Value::Networks)
}

fn article(noun: &str) -> String {
    let vowel = noun.starts_with(['a', 'e', 'i', 'o', 'u']);
    format!("{} {noun}", if vowel { "an" } else { "a" })
}

const fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// "= 10 has no unit: 10 of what? Write "10s", "10m" or "10d"".
fn no_unit(number: u64, min: u64, max: u64) -> String {
    let mut proposals: Vec<String> =
        units::proposals(number, min, max).iter().map(|text| format!("\"{text}\"")).collect();
    let last = proposals.pop().unwrap_or_else(|| format!("\"{}\"", time_text(max)));
    let several = if proposals.is_empty() { String::new() } else { proposals.join(", ") + " or " };
    format!("= {number} has no unit: {number} of what? Write {several}{last}")
}

/// `"a", "b"`.
pub fn words_text(words: &[&str]) -> String {
    words.iter().map(|w| format!("\"{w}\"")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::host_port;

    #[test]
    fn hosts_and_ports() {
        for (text, expected) in [
            ("[::1]", Some("[::1]:9042")),
            ("db-1.example_x:1", Some("db-1.example_x:1")),
            ("::1", None),
            ("a:", None),
            ("a:0", None),
            ("a:65536", None),
            ("[a]:1", None),
            ("[::1]9", None),
            (":9042", None),
            ("http://a", None),
        ] {
            assert_eq!(host_port(text, Some(9042)).as_deref(), expected, "{text}");
        }
        assert_eq!(host_port("a", None), None);
        assert_eq!(host_port("a:1", None).as_deref(), Some("a:1"));
    }
}
