//! `broker route`: where an MQTT topic goes. And the topic of a `broker tail`, which is none.

use std::io::Write;
use std::process::ExitCode;

use hydrant_actors::settings::LogKind;
use hydrant_protocol::mapping::Mapped;
use hydrant_protocol::topic::check_topic_name;
use hydrant_protocol::wire::Limits;
use serde_json::json;

use super::args::{Cli, RouteArgs};
use super::with_config;
use crate::config::Config;

/// Topics of the node itself; what a client publishes there goes nowhere.
const SYS: &str = "$SYS/";
/// Characters of a topic that a message repeats.
const SHOWN: usize = 60;

/// `broker route TOPIC`.
pub fn run_route(
    cli: &Cli,
    args: &RouteArgs,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> ExitCode {
    let mut illegal = None;
    let code = with_config(cli, err, |loaded| {
        match problem(&loaded.config, &args.topic) {
            Some(problem) => illegal = Some(problem),
            None => return answer(&loaded.config, args, out),
        }
        Ok(())
    });
    match illegal {
        Some(problem) => {
            let topic = quoted(&args.topic);
            let _ = writeln!(err, "{topic} is not a topic a client may publish to: {problem}");
            ExitCode::FAILURE
        }
        None => code,
    }
}

/// Why no client may publish to it.
fn problem(config: &Config, topic: &str) -> Option<String> {
    let limits = &config.settings.limits;
    let limits = Limits {
        max_topic_length: limits.max_topic_length,
        max_topic_levels: limits.max_topic_levels,
        control_characters: limits.control_characters,
        ..Limits::PROTOCOL
    };
    check_topic_name(topic, &limits).err().map(|violation| violation.to_string())
}

fn answer(config: &Config, args: &RouteArgs, out: &mut dyn Write) -> std::io::Result<()> {
    let topic = &args.topic;
    let explanation = config.settings.mapping.explain(topic);
    let mapped = explanation.mapped();
    let nowhere = nowhere(config, topic);
    if args.json {
        return writeln!(out, "{}", as_json(topic, mapped, nowhere));
    }
    if args.quiet {
        let key = mapped.key.as_deref().map(String::from_utf8_lossy).unwrap_or_default();
        let (name, key) = if nowhere.is_some() { ("", "".into()) } else { (&*mapped.topic, key) };
        return writeln!(out, "{name}\t{key}\t{}", mapped.ack.as_str());
    }
    match nowhere {
        Some(why) if topic.starts_with(SYS) => {
            writeln!(out, "MQTT topic   {topic}\ngoes         nowhere: {why}")
        }
        Some(why) => {
            let text = explanation.without_log().to_string();
            writeln!(out, "{}\nlog          none: {why}", text.trim_end())
        }
        None => {
            writeln!(out, "{}", explanation.to_string().trim_end())?;
            let caps = config.kafka.as_ref().map(|kafka| kafka.caps(topic, &mapped.topic));
            write!(out, "{}", caps.unwrap_or_default())
        }
    }
}

/// Why a publish to it makes no record.
fn nowhere(config: &Config, topic: &str) -> Option<&'static str> {
    if topic.starts_with(SYS) {
        return Some(
            "topics below $SYS/ are the node's own; what a client publishes there is acknowledged, dropped and counted (no_route)",
        );
    }
    (config.settings.log.kind == LogKind::None).then_some(
        "log.kind is \"none\", so MQTT subscribers get the message and no record is made",
    )
}

fn as_json(topic: &str, mapped: &Mapped, nowhere: Option<&str>) -> serde_json::Value {
    let key = mapped.key.as_deref().map(String::from_utf8_lossy);
    json!({
        "mqtt_topic": topic,
        "topic": nowhere.is_none().then_some(&*mapped.topic),
        "key": key.filter(|_| nowhere.is_none()),
        "ack": mapped.ack.as_str(),
        // The index of the route; null is the default rule.
        "route": mapped.rule,
        "nowhere": nowhere,
    })
}

/// Whether this can be a topic of the embedded log.
///
/// # Errors
/// One sentence that says which topic an MQTT topic goes to.
pub fn check_log_topic(config: &Config, topic: &str) -> Result<(), String> {
    if !topic.contains('/') {
        return Ok(());
    }
    let shown = quoted(topic);
    let why = format!("'/' cannot be in a topic of the log, and {shown} looks like an MQTT topic");
    if let Some(problem) = problem(config, topic) {
        return Err(format!("{why}, to which no client can publish: {problem}"));
    }
    match nowhere(config, topic) {
        Some(reason) => Err(format!("{why}, which goes nowhere: {reason}")),
        None => {
            let name = config.settings.mapping.map(topic).topic;
            Err(format!("{why}, which goes to the topic {name}: broker tail {name}"))
        }
    }
}

/// In quotation marks; of a long topic the beginning, and how long it is.
fn quoted(topic: &str) -> String {
    let count = topic.chars().count();
    if count <= SHOWN {
        return format!("\"{topic}\"");
    }
    let beginning: String = topic.chars().take(SHOWN).collect();
    format!("\"{beginning}…\" ({count} characters)")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::Command;

    fn run(args: &[&str]) -> (bool, String, String) {
        let cli = Cli::try_parse_from([&["broker"], args].concat()).unwrap();
        let Some(Command::Route(route)) = &cli.command else { panic!("{args:?}") };
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = run_route(&cli, route, &mut out, &mut err);
        let ok = format!("{code:?}") == format!("{:?}", ExitCode::SUCCESS);
        (ok, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    #[test]
    fn where_a_topic_goes() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("c.toml");
        std::fs::write(&file, "[[route]]\nfilter = \"device/{id}/thermo\"\ntopic = \"thermo.meters\"\nkey = \"{id}\"\nack = \"accepted\"\n").unwrap();
        let with = |args: &[&str]| run(&[&["-c", file.to_str().unwrap(), "route"], args].concat());
        let (ok, out, err) = with(&["device/42/thermo"]);
        assert!(
            ok && out.contains("Kafka topic  thermo.meters") && out.contains("42"),
            "{out}{err}"
        );
        let (ok, out, err) = with(&["device/+/thermo"]);
        assert!(!ok && out.is_empty() && err.contains("\"device/+/thermo\" is not"), "{out}{err}");
        let (ok, out, _) = with(&["device/42/thermo", "--quiet"]);
        assert!(ok && out == "thermo.meters\t42\taccepted\n", "{out}");
        let (ok, out, _) = with(&["device/42/thermo", "--json"]);
        let found: serde_json::Value = serde_json::from_str(&out).unwrap();
        let expected = json!({
            "mqtt_topic": "device/42/thermo", "topic": "thermo.meters", "key": "42",
            "ack": "accepted", "route": 0, "nowhere": null,
        });
        assert!(ok && found == expected, "{out}");
        let (_, out, _) = with(&["one", "--json"]);
        let found: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert!(found["key"].is_null() && found["route"].is_null(), "{out}");
    }

    #[test]
    fn what_goes_nowhere_is_said_to() {
        let (ok, out, _) = run(&["route", "$SYS/broker/x"]);
        assert!(ok && out.contains("goes         nowhere: topics below $SYS/"), "{out}");
        assert!(!out.contains("SYS-x"), "{out}");
        // Another topic that begins with a dollar is one like others.
        assert!(run(&["route", "$SYSTEM/x"]).1.contains("Kafka topic  _24SYSTEM"));
        let (ok, out, _) = run(&["route", "a/b/c", "--set", "log.kind=none"]);
        assert!(ok && out.contains("log          none: log.kind is \"none\""), "{out}");
        assert!(!out.contains("Kafka topic") && !out.contains("murmur2"), "{out}");
        let (_, out, _) = run(&["route", "$SYS/x", "--json"]);
        let found: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert!(found["topic"].is_null() && found["nowhere"].is_string(), "{out}");
        assert_eq!(run(&["route", "$SYS/x", "-q"]).1, "\t\tstored\n");
    }

    #[test]
    fn a_message_repeats_no_more_than_the_beginning_of_a_long_topic() {
        let long = format!("a/{}+", "b/".repeat(200));
        let (ok, _, err) = run(&["route", &long]);
        assert!(
            !ok && err.contains("…\" (403 characters) is not a topic") && err.len() < 250,
            "{err}"
        );
    }

    #[test]
    fn a_tail_of_an_mqtt_topic_is_told_where_it_goes() {
        let config = crate::config::load(&Default::default()).unwrap().config;
        assert_eq!(check_log_topic(&config, "device-thermo"), Ok(()));
        let said = check_log_topic(&config, "device/42/thermo").unwrap_err();
        assert!(
            said.ends_with("goes to the topic device-thermo: broker tail device-thermo"),
            "{said}"
        );
        let said = check_log_topic(&config, "device/+/thermo").unwrap_err();
        assert!(said.contains("no client can publish"), "{said}");
        let said = check_log_topic(&config, "$SYS/broker/uptime").unwrap_err();
        assert!(said.contains("goes nowhere"), "{said}");
    }
}
