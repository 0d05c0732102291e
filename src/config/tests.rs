//! Tests of the whole of `config`: texts in, a checked configuration or all its mistakes out.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::ffi::OsString;
use std::time::Duration;

use hydrant_actors::settings::{LogKind, Overflow};
use hydrant_protocol::access::AddressRules;
use hydrant_protocol::{AckLevel, OnRefused};

use super::keys::KEYS;
use super::*;
use crate::admin::AdminLimits;
use crate::embedded::SyncPolicy;
use crate::embedded::{LogOptions, StoreOptions};
use crate::kafka::KafkaOptions;

mod strict;

pub fn from(file: &str) -> Sources {
    Sources { file: Some(("c.toml".into(), file.into())), ..Sources::default() }
}

/// The mistakes, a line each.
fn mistakes(sources: &Sources) -> Vec<String> {
    load(sources).unwrap_err().0.iter().map(ToString::to_string).collect()
}

pub fn env(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    pairs.iter().map(|(name, value)| (name.into(), value.into())).collect()
}

#[track_caller]
fn assert_mistakes(file: &str, expected: &[&str]) {
    let found = mistakes(&from(file));
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.starts_with(expected), "{found}\nis not\n{expected}");
    }
}

#[test]
fn defaults_are_a_whole_configuration() {
    let config = load(&Sources::default()).unwrap().config;
    let s = &config.settings;
    assert_eq!(&*s.node_id, "n1");
    assert!(s.workers >= 1);
    assert_eq!(s.limits.max_packet_size, 1 << 20);
    assert_eq!(s.limits.connect_timeout, Duration::from_secs(10));
    assert_eq!(s.session.expiry, Duration::from_secs(7 * 24 * 3600));
    assert_eq!(s.session.overflow, Overflow::DropNew);
    assert_eq!(s.storage.outbox_max_bytes, 4 << 30);
    assert_eq!(s.log.kind, LogKind::Embedded);
    assert_eq!(s.mapping.map("a/b/c").ack, AckLevel::Stored);
    assert_eq!(config.listener.address, "0.0.0.0:1883".parse().unwrap());
    assert_eq!(config.listener.send_buffer, None);
    assert_eq!(config.admin, Some("127.0.0.1:9883".parse().unwrap()));
    assert_eq!(config.store.sync, SyncPolicy::Always);
    assert!(config.kafka.is_none() && config.cassandra.is_none() && !s.faults);
    assert_eq!(s.storage.max_in_flight, 1);
}

/// What a test or a benchmark builds on its own is what a node runs with.
#[test]
fn the_defaults_of_each_part_are_those_of_the_table() {
    let kafka = "[log]\nkind = \"kafka\"\n[kafka]\nbootstrap_servers = \"127.0.0.1:9092\"\n";
    let config = load(&from(kafka)).unwrap().config;
    assert_eq!(config.kafka, Some(KafkaOptions::default()));
    assert_eq!(config.store, StoreOptions::default());
    assert_eq!(config.log, LogOptions::default());
    assert_eq!(config.admin_limits, AdminLimits::default());
}

#[test]
fn networks_of_the_listener() {
    let access = |text: &str| load(&from(text)).unwrap().config.settings.access;
    let default = access("");
    assert_eq!((&default.proxy_from, &default.rules), (&None, &AddressRules::default()));
    let required = access("[listener]\nproxy_protocol = \"required\"\n");
    assert_eq!(required.proxy_from.unwrap().len(), 2, "loopback of both families");
    let all = access(
        "[listener]\nproxy_protocol = \"required\"\nproxy_from = [\"10.0.0.1\"]\nallow = \"10.0.0.0/8, ::1\"\ndeny = [\"10.9.0.0/16\"]\n",
    );
    let counts = (all.proxy_from.unwrap().len(), all.rules.allow.len(), all.rules.deny.len());
    assert_eq!(counts, (1, 2, 1));
    let none = access("[listener]\nproxy_from = []\nallow = []\ndeny = \"\"\n");
    assert_eq!(none.rules, AddressRules::default());
    assert_mistakes(
        "[listener]\nproxy_protocol = \"required\"\nproxy_from = []\n",
        &["c.toml:3: listener.proxy_protocol = \"required\" with an empty listener.proxy_from"],
    );
    assert_mistakes(
        "[listener]\nproxy_from = [\"10.0.0.1\"]\n",
        &["c.toml:2: listener.proxy_from is set and listener.proxy_protocol is \"off\""],
    );
    assert_eq!(access("[listener]\nproxy_from = \"127.0.0.0/8, ::1\"\n").proxy_from, None);
    assert_mistakes(
        "[listener]\nproxy_protocol = \"optional\"\nallow = [\"10.0.0.0/33\"]\ndeny = \"lb.example\"\n[admin]\nagent_listen = \"9884\"\n",
        &[
            r#"c.toml:2: listener.proxy_protocol = "optional" is not one of "off", "required""#,
            r#"c.toml:3: listener.allow = "10.0.0.0/33" is not right: it must be a network or an address"#,
            r#"c.toml:4: listener.deny = "lb.example" is not right"#,
            r#"c.toml:6: admin.agent_listen = "9884" is not right: it must be "off", or"#,
        ],
    );
}

#[test]
fn no_two_ports_are_the_same() {
    let cluster = "[storage]\nkind = \"cassandra\"\n[cassandra]\ncontact_points = \"a\"\n[cluster]\nkind = \"zookeeper\"\n";
    let same = |a: &str, b: &str| format!("c.toml:4: {a} and {b} take the same port");
    for (file, a, b) in [
        ("[admin]\n\n\naddress = \"0.0.0.0:1883\"\n", "listener.address", "admin.address"),
        // Every address of the machine is that one, too.
        ("[admin]\n\n\naddress = \"127.0.0.1:1883\"\n", "listener.address", "admin.address"),
        ("[admin]\n\n\nagent_listen = \"[::]:1883\"\n", "listener.address", "admin.agent_listen"),
        ("[admin]\n\n\nagent_listen = \"127.0.0.1:9883\"\n", "admin.address", "admin.agent_listen"),
    ] {
        assert_mistakes(file, &[&same(a, b)]);
    }
    for (more, a, b) in [
        ("listen = \"127.0.0.1:1883\"\n", "cluster.listen", "listener.address"),
        ("listen = \"127.0.0.1:9883\"\n", "cluster.listen", "admin.address"),
        ("[admin]\nagent_listen = \"127.0.0.1:7883\"\n", "cluster.listen", "admin.agent_listen"),
    ] {
        let found = mistakes(&from(&format!("{cluster}{more}")));
        let expected = format!("{a} and {b} take the same port: give one of them another");
        assert!(found.len() == 1 && found[0].ends_with(&expected), "{found:#?}");
    }
    for fine in [
        "[admin]\nenabled = false\naddress = \"0.0.0.0:1883\"\n",
        "[admin]\nagent_listen = \"127.0.0.1:7883\"\n",
        "[admin]\nagent_listen = \"127.0.0.2:9883\"\n",
        "[admin]\nagent_listen = \"[::1]:1883\"\n",
        "[listener]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n",
    ] {
        load(&from(fine)).unwrap_or_else(|errors| panic!("{fine}{errors}"));
    }
}

#[test]
fn every_key_is_read() {
    let mut errors = ConfigErrors::default();
    let effective = source::resolve(&Sources::default(), &mut errors);
    let (_, read) = check::build(&effective, errors).unwrap();
    let unread: Vec<_> = KEYS.iter().map(|k| k.path).filter(|path| !read.contains(path)).collect();
    assert_eq!(unread, Vec::<&str>::new(), "in the table and read by nobody");
    assert_eq!(read.len(), KEYS.len(), "read and not in the table");
}

#[test]
fn all_mistakes_of_a_file_at_once() {
    let file = r#"
[node]
id = "no spaces please"
[lisener]
address = "0.0.0.0:1883"
[log]
retntion = "1h"
kind = "kafak"
max_pending_messages = "many"
max_inflight = 3
[limits]
max_connections = 0
connect_timeout = 10
max_packet_size = "64 kilos"
nodelay = { a = 1 }
[storage]
retry_min = "3s"
retry_max = "1s"
[[route]]
filter = "a/{x}"
topik = "t"
ack = "stord"
"#;
    assert_mistakes(
        file,
        &[
            r#"c.toml:3: node.id = "no spaces please" is not right: it must be 1 to 64 of"#,
            r#"c.toml:4: unknown section [lisener], the nearest is [listener]"#,
            r#"c.toml:7: unknown key "log.retntion", the nearest is "log.retention""#,
            r#"c.toml:8: log.kind = "kafak" is not one of "embedded", "kafka", "none"; the nearest is "kafka""#,
            r#"c.toml:9: log.max_pending_messages must be a whole number, not a string "many""#,
            r#"c.toml:10: unknown key "log.max_inflight", the nearest is "session.max_inflight""#,
            "c.toml:12: limits.max_connections = 0 is out of range: 1 to 10000000 connections",
            "c.toml:13: limits.connect_timeout = 10 has no unit: 10 of what? Write \"10s\" or \"10m\"",
            r#"c.toml:14: limits.max_packet_size must be a size, as in "64KiB" or 65536, not a string "64 kilos""#,
            r#"c.toml:15: unknown key "limits.nodelay", the nearest is "listener.nodelay""#,
            "c.toml:18: storage.retry_min must not be above storage.retry_max",
            "c.toml:19: this route has no topic",
            r#"c.toml:21: unknown key "topik" of a route, the nearest is "topic""#,
            r#"c.toml:22: ack = "stord" is not one of "accepted", "stored", "kafka"; the nearest is "stored""#,
        ],
    );
}

#[test]
fn broken_toml_hides_no_other_mistake() {
    assert_mistakes(
        "[node]\nid = \n[log]\nretntion = \"1h\"\nkind = \"none\"\nkind = \"none\"\nmax_topics = [1\n",
        &[
            "c.toml:2: not TOML",
            "c.toml:4: unknown key \"log.retntion\"",
            "c.toml:6: not TOML",
            "c.toml:",
        ],
    );
}

#[test]
fn misplaced_things_are_named() {
    assert_mistakes("log = 3\n", &["c.toml:1: log is a section: write [log]"]);
    assert_mistakes("[[log]]\nkind = \"none\"\n", &["c.toml:1: log is a section"]);
    assert_mistakes(
        "kind = \"none\"\nbootstrap_servers = \"a:1\"\n[xyzzy]\na = 1",
        &[
            "c.toml:1: key \"kind\" is in no section, the nearest is \"",
            "c.toml:2: key \"bootstrap_servers\" is in no section, the nearest is \"kafka.bootstrap_servers\"",
            "c.toml:3: unknown section [xyzzy]",
        ],
    );
    assert_mistakes("[route]\nfilter = \"a\"\n", &["c.toml:1: a route is written as [[route]]"]);
    assert_mistakes(
        "log.kind = 99999999999999999999\n",
        &["c.toml:1: log.kind is a number that does not fit"],
    );
    assert_mistakes(
        "[limits]\nmax_keep_alive = -1\nmax_router_bytes = \"99999999TiB\"\n",
        &[
            "c.toml:2: limits.max_keep_alive = -1 is out of range: 0 to 65535 seconds",
            "c.toml:3: limits.max_router_bytes = \"99999999TiB\" is out of range: 1KiB to 16GiB",
        ],
    );
}

#[test]
fn each_layer_wins_over_those_before_it() {
    let mut sources = from(
        "[limits]\nmax_subscriptions = 1\nmax_connections = 1\nconnect_rate = 1\n[listener]\naddress = \"127.0.0.1:1\"\n",
    );
    let at = |sources: &Sources| {
        let c = load(sources).unwrap().config;
        let l = c.settings.limits;
        (l.max_subscriptions, l.max_connections, l.connect_rate, c.listener.address.port())
    };
    assert_eq!(at(&Sources::default()), (10_000, 100_000, 5000, 1883));
    assert_eq!(at(&sources), (1, 1, 1, 1));
    sources.env = env(&[
        ("HYDRANT__LIMITS__MAX_CONNECTIONS", "2"),
        ("HYDRANT__LIMITS__CONNECT_RATE", "2"),
        ("HYDRANT__LISTENER__ADDRESS", "127.0.0.1:2"),
        ("OTHER_HYDRANT", "x"),
        ("PATH", "/bin"),
    ]);
    assert_eq!(at(&sources), (1, 2, 2, 2));
    sources.set = vec!["limits.connect_rate=3".into(), "listener.address=\"127.0.0.1:3\"".into()];
    assert_eq!(at(&sources), (1, 2, 3, 3));
    sources.flags = vec![("--listen", "listener.address", "127.0.0.1:4".into())];
    assert_eq!(at(&sources), (1, 2, 3, 4));
}

#[test]
fn overrides_are_toml_or_else_text() {
    let sources = Sources {
        set: [
            "node.id=007",
            "node.data_dir='a b'",
            "log.kind=none",
            "session.expiry=2h 30m",
            "node.workers=3",
            "limits.max_packet_size=64KiB",
            "storage.cache_size=2097152",
            "debug.faults=true",
        ]
        .map(String::from)
        .into(),
        ..Sources::default()
    };
    let c = load(&sources).unwrap().config;
    assert_eq!(&*c.settings.node_id, "007");
    assert_eq!(c.data_dir.to_str(), Some("a b"));
    assert_eq!(c.settings.log.kind, LogKind::None);
    assert_eq!(c.settings.session.expiry, Duration::from_secs(9000));
    assert_eq!(c.settings.workers, 3);
    assert_eq!(c.settings.limits.max_packet_size, 65_536);
    assert_eq!(c.store.cache_size, 2 << 20);
    assert!(c.settings.faults);
}

#[test]
fn mistakes_in_overrides_name_variable_and_flag() {
    let mut sources = from("[log]\nkind = 1\n");
    sources.env = env(&[
        ("HYDRANT__LOG__KNID", "none"),
        ("HYDRANT__LIMITS__CONNECT_RATE", "fast"),
        ("HYDRANT__ROUTE__KEY", "x"),
    ]);
    sources.set = ["log.kind=none", "sessoin.expiry=1h", "nonsense", "node.workers=0"]
        .map(String::from)
        .into();
    sources.flags = vec![("--listen", "listener.address", "1883".into())];
    let found = mistakes(&sources);
    let expected = [
        "c.toml:2: log.kind must be one of",
        "environment HYDRANT__LIMITS__CONNECT_RATE: limits.connect_rate must be a whole number, not a string \"fast\"",
        "environment HYDRANT__LOG__KNID: unknown key \"log.knid\", the nearest is \"log.kind\"",
        "environment HYDRANT__ROUTE__KEY: routes are read from the file only",
        "--set node.workers: node.workers = 0 is out of range: 1 to 256 threads, or \"auto\"",
        "--set nonsense: must be section.key=value",
        "--set sessoin.expiry: unknown key \"sessoin.expiry\", the nearest is \"session.expiry\"",
        "--listen: listener.address = \"1883\" is not right: it must be an IP address and a port",
    ];
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.starts_with(expected), "{found}\nis not\n{expected}");
    }
}

#[test]
fn what_must_hold_between_keys() {
    assert_mistakes(
        "[log]\nkind = \"kafka\"\n",
        &["c.toml:2: log.kind = \"kafka\" needs kafka.bootstrap_servers"],
    );
    assert_mistakes(
        "[log]\nkind = \"none\"\n[route_default]\nack = \"kafka\"\n[[route]]\nfilter = \"a/{x}\"\ntopic = \"t.a\"\nkey = \"{x}\"\nack = \"kafka\"\n",
        &[
            "c.toml:4: route_default.ack = \"kafka\" needs a log",
            "c.toml:5: ack = \"kafka\" of this route needs a log",
        ],
    );
    assert_mistakes(
        "[cluster]\nkind = \"zookeeper\"\n",
        &["c.toml:2: a cluster cannot use the embedded store"],
    );
    assert_mistakes(
        "[supervision]\nwatchdog_exit = \"10ms\"\n",
        &["c.toml:2: supervision.watchdog_exit"],
    );
    assert_mistakes(
        "[admin]\nmax_tails = 32\n",
        &["c.toml:2: admin.max_tails must be below admin.max_socket_connections"],
    );
    assert_mistakes(
        "[admin]\naddress = \"0.0.0.0:1883\"\n",
        &["c.toml:2: listener.address and admin.address"],
    );
    let kafka = "[log]\nkind = \"kafka\"\n[kafka]\nbootstrap_servers = [\"a:1\", \"b:2\"]\n";
    assert_eq!(load(&from(kafka)).unwrap().config.kafka.unwrap().bootstrap_servers, "a:1,b:2");
    let large = format!("{kafka}[limits]\nmax_packet_size = \"2MiB\"\n");
    assert_mistakes(&large, &["c.toml:6: limits.max_packet_size = 2097152 can make a record of "]);
    #[cfg(not(feature = "kafka-tls"))]
    {
        let tls = format!("{kafka}security_protocol = \"ssl\"\n");
        let found = mistakes(&from(&tls));
        assert!(
            found.len() == 1
                && found[0].starts_with("c.toml:5: ")
                && found[0].contains("kafka-tls"),
            "{found:?}"
        );
    }
}

#[test]
fn kafka_properties() {
    let kafka =
        "[log]\nkind = \"kafka\"\n[kafka]\nbootstrap_servers = \"a:1\"\n[kafka.properties]\n";
    let login = kafka.replace(
        "[kafka.properties]",
        "security_protocol = \"sasl_plaintext\"\n[kafka.properties]\nsasl.mechanism = \"PLAIN\"",
    );
    let mut sources =
        from(&format!("{login}\"socket.keepalive.enable\" = true\nstatistics.interval.ms = 0\n"));
    sources.set = vec!["kafka.properties.sasl.password=hush".into()];
    sources.env = env(&[("HYDRANT__KAFKA__PROPERTIES__CLIENT__RACK", "r1")]);
    let loaded = load(&sources).unwrap();
    let properties = loaded.config.kafka.as_ref().unwrap().properties.clone();
    let expected = [
        ("client.rack", "r1"),
        ("sasl.mechanism", "PLAIN"),
        ("sasl.password", "hush"),
        ("socket.keepalive.enable", "true"),
        ("statistics.interval.ms", "0"),
    ];
    assert!(
        properties.iter().map(|(k, v)| (k.as_str(), v.as_str())).eq(expected),
        "{properties:?}"
    );
    let printed = loaded.print();
    assert!(!printed.contains("hush") && !format!("{loaded:?}").contains("hush"), "{printed}");
    assert!(
        printed.contains(
            "properties.\"sasl.password\" = \"***\" # --set kafka.properties.sasl.password"
        ),
        "{printed}"
    );

    let wrong = format!("{kafka}acks = 1\nsocket.keepalive.enabel = true\n\"client.rack\" = [1]\n");
    let found = mistakes(&from(&wrong));
    assert_eq!(found.len(), 3, "{found:#?}");
    assert!(found[0].starts_with("c.toml:6: ") && found[0].contains("acks"), "{found:#?}");
    assert!(
        found[1].starts_with("c.toml:7: ") && found[1].contains("socket.keepalive.enabel"),
        "{found:#?}"
    );
    assert!(
        found[2].starts_with("c.toml:8: kafka.properties.client.rack must be a string"),
        "{found:#?}"
    );
}

#[test]
fn routes_reach_the_mapping_in_order() {
    let file = "[route_default]\nack = \"accepted\"\n\n[[route]]\nfilter = \"device/{id}/thermo\"\ntopic = \"device-thermo\"\nkey = \"{id}\"\nack = \"kafka\"\n\n[[route]]\nfilter = \"log/{rest...}\"\ntopic = \"logs.all\"\nkey = \"{rest}\"\n";
    let loaded = load(&from(file)).unwrap();
    let rules: Vec<_> =
        loaded.config.settings.mapping.rules().map(|r| (r.filter.clone(), r.line, r.ack)).collect();
    assert_eq!(
        rules,
        [
            ("device/{id}/thermo".to_string(), 4, Some(AckLevel::Kafka)),
            ("log/{rest...}".to_string(), 10, None),
        ]
    );
    assert_eq!(loaded.config.settings.mapping.map("x/1/y").ack, AckLevel::Accepted);
}

#[test]
fn refused_routes_come_with_the_other_mistakes() {
    let file = "[log]\nknid = 1\n[[route]]\nfilter = \"a/#/b\"\ntopic = \"t\"\n";
    let found = mistakes(&from(file));
    assert!(
        found.len() >= 2
            && found[0].starts_with("c.toml:2: ")
            && found[1].starts_with("c.toml:3: route "),
        "{found:#?}"
    );
}

const KAFKA: &str = "[log]\nkind = \"kafka\"\n[kafka]\nbootstrap_servers = \"a:1\"\n";

#[test]
fn the_largest_packet_makes_a_record_that_kafka_takes() {
    assert!(load(&from(KAFKA)).is_ok(), "the defaults fit");
    let more = 65_535 + 1_024 + 355;
    let (packet, message) = (2 << 20, 1152 << 10);
    let (record, set) = (packet + more, message - more);
    let sentence = format!(
        "c.toml:6: limits.max_packet_size = {packet} can make a record of {record} bytes, with topic and client id in \
         its key and headers, and kafka.message_max_bytes = {message}: set limits.max_packet_size to {set} or less, or \
         raise kafka.message_max_bytes with max.message.bytes of topics that others make"
    );
    assert_mistakes(&format!("{KAFKA}[limits]\nmax_packet_size = \"2MiB\"\n"), &[&sentence]);
    for limits in [
        format!("max_packet_size = {set}"),
        // A shorter topic leaves more.
        "max_packet_size = \"1150KiB\"\nmax_topic_length = 100".to_owned(),
    ] {
        let file = format!("{KAFKA}[limits]\n{limits}\n");
        assert!(load(&from(&file)).is_ok(), "{limits}");
    }
    let key = "k".repeat(100);
    let route =
        format!("[[route]]\nfilter = \"a/{{x}}\"\ntopic = \"t.a\"\nkey = \"{key}/{{x}}\"\n");
    let file = format!("{KAFKA}[limits]\nmax_packet_size = {set}\n{route}");
    assert_mistakes(&file, &["c.toml:6: limits.max_packet_size"]);
    // Only where there is Kafka.
    assert!(load(&from("[limits]\nmax_packet_size = \"2MiB\"\n")).is_ok());
}

#[test]
fn the_overflow_topic_is_one_that_no_rule_makes() {
    let overflow = |file: &str| {
        let config = load(&from(file)).unwrap().config;
        let kafka = config.kafka.map(|kafka| kafka.overflow_topic);
        assert!(kafka.is_none_or(|kafka| kafka == config.settings.log.overflow_topic));
        config.settings.log.overflow_topic
    };
    assert_eq!(overflow(KAFKA).as_deref(), Some("mqtt.overflow"));
    assert_eq!(overflow(""), None, "there are no caps");
    assert_eq!(overflow(&format!("{KAFKA}overflow_topic = \"\"\n")), None);
    let with = |name: &str, route: &str| format!("{KAFKA}overflow_topic = \"{name}\"\n{route}");
    for name in ["a b", "..", "__consumer_offsets"] {
        let sentence =
            format!("c.toml:5: kafka.overflow_topic = \"{name}\" is not right: it must be ");
        assert_mistakes(&with(name, ""), &[&sentence]);
    }
    for name in ["mqtt", "mqtt-overflow"] {
        let sentence = format!(
            "c.toml:5: kafka.overflow_topic = \"{name}\" is a topic that the default rule makes"
        );
        assert_mistakes(&with(name, ""), &[&sentence]);
    }
    let route = |key: &str| {
        format!("[[route]]\nfilter = \"{{all...}}\"\ntopic = \"mqtt.other\"\nkey = \"{key}\"\n")
    };
    assert_eq!(overflow(&with("mqtt.other", &route("{all}"))).as_deref(), Some("mqtt.other"));
    assert_mistakes(
        &with("mqtt.other", &route("x/{all}")),
        &[
            "c.toml:5: kafka.overflow_topic = \"mqtt.other\" is a topic that line 6: route '{all...}' makes",
        ],
    );
    let route = "[[route]]\nfilter = \"logs/{x}\"\ntopic = \"logs.{x}\"\n";
    assert_mistakes(&with("logs.over", route), &["c.toml:5: kafka.overflow_topic"]);
    assert_eq!(overflow(&with("logs2.over", route)).as_deref(), Some("logs2.over"));
}

#[test]
fn what_becomes_of_a_refused_record_is_chosen_by_route() {
    let route =
        |line: &str| format!("[[route]]\nfilter = \"a/{{x}}\"\ntopic = \"t.{{x}}\"\n{line}");
    let file = format!(
        "[log]\ndead_letter_max_bytes = \"3MiB\"\n[route_default]\non_refused = \"disconnect\"\n{}",
        route("on_refused = \"dead-letter\"\n")
    );
    let loaded = load(&from(&file)).unwrap();
    let settings = &loaded.config.settings;
    assert_eq!(settings.log.dead_letter_max_bytes, 3 << 20);
    let of = |topic: &str| settings.mapping.map(topic).on_refused;
    assert_eq!([of("a/b"), of("b/a/c")], [OnRefused::DeadLetter, OnRefused::Disconnect]);
    assert!(loaded.print().contains("on_refused = \"dead-letter\""), "{}", loaded.print());
    assert_mistakes(&route("on_refused = \"drop\"\n"), &["c.toml:4: on_refused "]);
}
