//! MQTT 3.1.1 section 4.7: topic names and topic filters, `$`-topics.

use crate::shared;
use crate::support::client::{Publish, packet, text};
use crate::support::{SOON, eventually, unique};

/// A SUBSCRIBE and an UNSUBSCRIBE with this filter are each cut off.
#[track_caller]
fn illegal_filter(filter: &str) {
    for bytes in [
        packet(0x82, &[&[0, 1], &text(filter)[..], &[0]].concat()),
        packet(0xa2, &[&[0, 1], &text(filter)[..]].concat()),
    ] {
        let mut client = shared().client(&unique("filter"));
        client.send(&bytes);
        client.expect_closed();
    }
}

/// Which of these topics (below a base of its own) a filter gets.
#[track_caller]
fn matching(filter: &str, topics: &[&str]) -> Vec<String> {
    let base = unique("m");
    let mut client = shared().client(&unique("match"));
    client.subscribe(&format!("{base}/{filter}"), 0);
    client.subscribe(&format!("{base}.fence"), 0);
    let mut publisher = shared().client(&unique("match"));
    for topic in topics {
        let name = if *topic == "." { base.clone() } else { format!("{base}/{topic}") };
        publisher.publish(&name, topic, 0);
    }
    publisher.publish(&format!("{base}.fence"), "fence", 0);
    let mut came = Vec::new();
    loop {
        match client.take().text() {
            text if text == "fence" => return came,
            text => came.push(text),
        }
    }
}

#[test]
fn mqtt_4_7_1_1_the_multi_level_wildcard_stands_last_and_alone() {
    for filter in ["a#", "a/b#", "#/a", "a/#/b", "##", "a/##", "#a"] {
        illegal_filter(filter);
    }
}

#[test]
fn mqtt_4_7_1_2_the_multi_level_wildcard_matches_the_parent_and_all_below() {
    assert_eq!(matching("#", &[".", "a", "a/b", "", "/"]), [".", "a", "a/b", "", "/"]);
    assert_eq!(
        matching("a/#", &[".", "a", "a/b", "a/b/c", "a/", "b", "ab"]),
        ["a", "a/b", "a/b/c", "a/"]
    );
}

#[test]
fn mqtt_4_7_1_3_the_single_level_wildcard_is_a_whole_level() {
    for filter in ["a+", "+a", "a/b+", "a/+b/c", "++"] {
        illegal_filter(filter);
    }
    assert_eq!(matching("+", &[".", "a", "", "a/b", "/"]), ["a", ""]);
    assert_eq!(
        matching("a/+/c", &["a/b/c", "a//c", "a/c", "a/b/b/c", "a/b/c/d"]),
        ["a/b/c", "a//c"]
    );
    assert_eq!(matching("+/+", &["a", "/", "a/b", "a/b/c"]), ["/", "a/b"]);
    assert_eq!(matching("+/a/#", &["x/a", "x/a/b/c", "a", "x/b"]), ["x/a", "x/a/b/c"]);
}

#[test]
fn mqtt_4_7_2_1_wildcards_at_the_front_do_not_match_dollar_topics() {
    let level = unique("level");
    let mut client = shared().client(&unique("dollar"));
    client.subscribe("#", 0);
    client.subscribe(&format!("+/{level}"), 0);
    let mut named = shared().client(&unique("dollar"));
    named.subscribe(&format!("$own/{level}"), 0);
    named.subscribe("$own/+", 0);
    let mut publisher = shared().client(&unique("dollar"));
    publisher.publish(&format!("$own/{level}"), "dollar", 1);
    publisher.publish(&format!("x/{level}"), "fence", 1);
    assert_eq!(named.take().text(), "dollar");
    // Other tests' topics match '#' too; none of them begins with '$'.
    loop {
        let came = client.take();
        assert!(!came.topic.starts_with('$'), "{}", came.topic);
        if came.text() == "fence" && came.topic == format!("x/{level}") {
            break;
        }
    }
}

#[test]
fn mqtt_4_7_3_1_a_topic_has_at_least_one_character() {
    illegal_filter("");
    let mut client = shared().client(&unique("empty"));
    client.send(&packet(0x30, &text("")));
    client.expect_closed();
}

#[test]
fn mqtt_4_7_3_2_a_topic_has_no_null_character() {
    illegal_filter("a\0");
    let mut client = shared().client(&unique("null"));
    client.send(&packet(0x30, &text("\0")));
    client.expect_closed();
}

#[test]
fn mqtt_4_7_3_3_a_topic_may_have_65535_bytes() {
    let topic = format!("{}/{}", unique("long"), "x".repeat(65_535));
    let topic = &topic[..65_535];
    let mut client = shared().client(&unique("long")).subscribed(topic, 1);
    client.publish(topic, "x", 1);
    assert_eq!(client.take().topic, topic);
}

#[test]
fn mqtt_4_7_3_4_topics_are_not_normalised() {
    // Letters that some normal form makes equal, case, empty levels, blanks.
    let topics = ["\u{e9}", "e\u{301}", "A", "a", "a/", "/a", " a", "a ", "\u{212b}", "\u{c5}"];
    for topic in topics {
        assert_eq!(matching(topic, &topics), [topic]);
    }
}

#[test]
fn section_4_7_2_clients_read_sys_topics_under_mosquittos_names() {
    let mut client = shared().client(&unique("sys")).subscribed("$SYS/#", 0);
    let mut missing = vec![
        "$SYS/broker/version",
        "$SYS/broker/uptime",
        "$SYS/broker/clients/connected",
        "$SYS/broker/clients/total",
        "$SYS/broker/messages/received",
        "$SYS/broker/messages/sent",
        "$SYS/broker/bytes/received",
        "$SYS/broker/bytes/sent",
        "$SYS/broker/subscriptions/count",
        "$SYS/broker/retained messages/count",
        "$SYS/broker/publish/messages/received",
        "$SYS/broker/publish/messages/sent",
        "$SYS/broker/publish/messages/dropped",
    ];
    eventually(SOON, "every $SYS topic has come", || {
        let came = client.take();
        missing.retain(|topic| *topic != came.topic);
        missing.is_empty()
    });
}

#[test]
fn section_4_7_2_clients_cannot_publish_below_sys() {
    let mut watcher = shared().client(&unique("sys"));
    watcher.subscribe("$SYS/broker/forged", 0);
    watcher.subscribe("forged-fence", 0);
    let mut client = shared().client(&unique("sys"));
    // Acknowledged or closed ([MQTT-3.3.5-2]), and not passed on.
    client.send(&Publish::new("$SYS/broker/forged", b"x").qos(1).id(1).bytes());
    let _ = client.recv_within(SOON);
    shared().client(&unique("sys")).publish("forged-fence", "fence", 1);
    assert_eq!(watcher.take().text(), "fence");
}
