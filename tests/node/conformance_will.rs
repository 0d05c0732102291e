//! MQTT 3.1.1 section 3.1.2.5: the Last Will, with each cause that fires it and the one that does not.

use std::net::Shutdown;

use crate::shared;
use crate::support::client::{Connect, packet};
use crate::support::{Client, unique};

/// A client with a will, and one that is subscribed to it.
fn pair(connect: impl FnOnce(Connect, &str) -> Connect) -> (Client, Client, String, String) {
    let (id, topic) = (unique("will"), unique("will"));
    let watcher = shared().client(&unique("will-watcher")).subscribed(&topic, 2);
    let client = Client::connect(shared().mqtt, &connect(Connect::new(&id), &topic));
    (client, watcher, id, topic)
}

#[test]
fn mqtt_3_1_2_8_the_will_is_published_when_the_socket_is_closed() {
    for persistent in [false, true] {
        let (client, mut watcher, _, topic) = pair(|c, t| {
            let c = c.will(t, "gone", 1);
            if persistent { c.persistent() } else { c }
        });
        drop(client);
        let will = watcher.take();
        assert_eq!(
            (will.topic, will.payload, will.qos, will.retain),
            (topic, b"gone".to_vec(), 1, false)
        );
    }
}

#[test]
fn mqtt_3_1_2_8_the_will_is_published_when_the_socket_is_half_closed() {
    let (client, mut watcher, ..) = pair(|c, t| c.will(t, "gone", 2));
    client.stream().shutdown(Shutdown::Write).unwrap();
    assert_eq!(watcher.take().qos, 2);
}

#[test]
fn mqtt_3_1_2_8_the_will_is_published_after_the_keep_alive() {
    let (mut client, mut watcher, ..) = pair(|c, t| c.will(t, "silent", 0).keep_alive(1));
    client.expect_closed();
    assert_eq!(watcher.take().text(), "silent");
}

#[test]
fn mqtt_3_1_2_8_the_will_is_published_after_a_protocol_error() {
    for bad in [packet(0x36, &[0, 1, b'a', 0, 1]), packet(0xf0, &[]), Connect::new("again").bytes()]
    {
        let (mut client, mut watcher, ..) = pair(|c, t| c.will(t, "broken", 1));
        client.send(&bad);
        client.expect_closed();
        assert_eq!(watcher.take().text(), "broken");
    }
}

#[test]
fn mqtt_3_1_2_8_the_will_is_published_at_a_takeover() {
    let (mut client, mut watcher, id, _) = pair(|c, t| c.will(t, "replaced", 1));
    let mut second = shared().client(&id);
    client.expect_closed();
    assert_eq!(watcher.take().text(), "replaced");
    second.ping();
}

#[test]
fn mqtt_3_1_2_10_the_will_is_published_once() {
    let (client, mut watcher, id, topic) = pair(|c, t| c.will(t, "once", 1).persistent());
    drop(client);
    assert_eq!(watcher.take().text(), "once");
    // A later connection of the session without a will leaves none behind.
    drop(shared().persistent(&id));
    shared().persistent(&id).disconnect();
    shared().client(&unique("will")).publish(&topic, "fence", 1);
    assert_eq!(watcher.take().text(), "fence");
}

#[test]
fn mqtt_3_1_2_12_without_the_flag_nothing_is_published() {
    let (client, mut watcher, _, topic) = pair(|c, _| c);
    drop(client);
    shared().client(&unique("will")).publish(&topic, "fence", 1);
    assert_eq!(watcher.take().text(), "fence");
}

#[test]
fn mqtt_3_1_2_16_a_will_without_retain_is_not_retained() {
    let (client, mut watcher, _, topic) = pair(|c, t| c.will(t, "gone", 1));
    drop(client);
    watcher.take();
    let mut late = shared().client(&unique("will")).subscribed(&topic, 1);
    shared().client(&unique("will")).publish(&topic, "fence", 1);
    assert_eq!(late.take().text(), "fence");
}

#[test]
fn mqtt_3_1_2_17_a_will_with_retain_is_retained() {
    let (client, mut watcher, _, topic) = pair(|c, t| c.retained_will(t, "gone", 1));
    drop(client);
    assert!(!watcher.take().retain, "an established subscription");
    let mut late = shared().client(&unique("will")).subscribed(&topic, 1);
    let will = late.take();
    assert_eq!((will.text().as_str(), will.retain), ("gone", true));
}

#[test]
fn mqtt_3_14_4_3_disconnect_discards_the_will() {
    for persistent in [false, true] {
        let (client, mut watcher, _, topic) = pair(|c, t| {
            let c = c.retained_will(t, "gone", 1);
            if persistent { c.persistent() } else { c }
        });
        client.disconnect();
        shared().client(&unique("will")).publish(&topic, "fence", 1);
        assert_eq!(watcher.take().text(), "fence");
    }
}

#[test]
fn section_3_1_2_5_a_will_with_an_empty_payload_is_published() {
    let (client, mut watcher, ..) = pair(|c, t| c.will(t, "", 1));
    drop(client);
    assert!(watcher.take().payload.is_empty());
}

#[test]
fn section_4_7_a_will_topic_with_a_wildcard_closes() {
    for topic in ["a/+", "#", "a/#/b", ""] {
        let mut client = shared().socket();
        client.send(&Connect::new(&unique("will")).will(topic, "x", 0).bytes());
        client.expect_closed();
    }
}
