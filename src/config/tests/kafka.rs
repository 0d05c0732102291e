//! The section of Kafka: its properties, the largest record and the overflow topic.

use super::super::load;
use super::{assert_mistakes, env, from, mistakes};

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
