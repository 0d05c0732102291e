//! MQTT 3.1.1 sections 3.8 to 3.11: SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK.

use crate::shared;
use crate::support::client::{packet, subscribe, text, unsubscribe};
use crate::support::{Packet, unique};

#[track_caller]
fn closes(bytes: &[u8]) {
    let mut client = shared().client(&unique("subscribe"));
    client.send(bytes);
    client.expect_closed();
}

#[test]
fn mqtt_3_8_1_1_other_flags_of_subscribe_close() {
    for flags in (0..16).filter(|flags| *flags != 2) {
        closes(&packet(0x80 | flags, &[&[0, 1], &text("a")[..], &[0]].concat()));
    }
}

#[test]
fn mqtt_3_8_3_1_a_filter_in_ill_formed_utf8_closes() {
    closes(&packet(0x82, &[&[0, 1], &text(b"a/\xff")[..], &[0]].concat()));
}

#[test]
fn mqtt_3_8_3_3_a_subscribe_without_filter_closes() {
    closes(&packet(0x82, &[0, 1]));
}

#[test]
fn mqtt_3_8_3_4_a_requested_qos_above_2_closes() {
    for qos in [3, 4, 0x10, 0x80, 0xff] {
        closes(&packet(0x82, &[&[0, 1], &text("a")[..], &[qos]].concat()));
    }
}

#[test]
fn mqtt_3_8_4_1_and_2_suback_answers_with_the_same_identifier() {
    let mut client = shared().client(&unique("suback"));
    client.send(&subscribe(4711, &[("suback", 2)]));
    client.expect(Packet::Suback(4711, vec![2]));
}

#[test]
fn mqtt_3_8_4_3_the_same_filter_replaces_the_subscription() {
    for filter in ["{}", "{}/#"] {
        let topic = unique("replaced");
        let filter = filter.replace("{}", &topic);
        let mut publisher = shared().client(&unique("replaced"));
        publisher.retain(&topic, "kept", 1);
        let mut client = shared().client(&unique("replaced"));
        for qos in [2, 0, 1] {
            client.subscribe(&filter, qos);
            // The retained message comes again, at the new QoS.
            let came = client.take();
            assert_eq!((came.text().as_str(), came.qos, came.retain), ("kept", qos.min(1), true));
        }
        publisher.publish(&topic, "one copy", 2);
        publisher.publish(&topic, "fence", 0);
        let came = client.take();
        assert_eq!((came.text().as_str(), came.qos), ("one copy", 1));
        assert_eq!(client.take().text(), "fence");
    }
}

#[test]
fn mqtt_3_8_4_3_replacing_does_not_interrupt_the_flow() {
    let topic = unique("flow");
    let mut client = shared().client(&unique("flow")).subscribed(&topic, 1);
    let mut publisher = shared().client(&unique("flow"));
    for n in 0..200 {
        publisher.publish(&topic, n.to_string(), 1);
        if n % 10 == 0 {
            client.subscribe(&topic, 1);
        }
    }
    for n in 0..200 {
        assert_eq!(client.take().text(), n.to_string());
    }
}

#[test]
fn mqtt_3_8_4_4_several_filters_are_handled_in_their_order() {
    let topic = unique("several");
    let mut client = shared().client(&unique("several"));
    // As a sequence the last one holds.
    client.send(&subscribe(1, &[(&topic, 2), ("other", 1), (&topic, 0)]));
    client.expect(Packet::Suback(1, vec![2, 1, 0]));
    shared().client(&unique("several")).publish(&topic, "x", 2);
    assert_eq!(client.take().qos, 0);
}

#[test]
fn mqtt_3_8_4_5_and_3_9_3_1_a_return_code_for_each_filter_in_order() {
    let mut client = shared().client(&unique("codes"));
    client.send(&subscribe(9, &[("c/0", 0), ("c/2", 2), ("c/1", 1), ("c/+/x", 2)]));
    client.expect(Packet::Suback(9, vec![0, 2, 1, 2]));
}

#[test]
fn mqtt_3_8_4_6_the_lower_of_both_qos_is_delivered() {
    let mut publisher = shared().client(&unique("lower"));
    for granted in 0..3 {
        let topic = unique("lower");
        let mut client = shared().client(&unique("lower")).subscribed(&topic, granted);
        for published in 0..3 {
            publisher.publish(&topic, "x", published);
            assert_eq!(client.take().qos, granted.min(published));
        }
    }
}

#[test]
fn mqtt_3_9_3_2_a_refused_filter_has_the_return_code_0x80() {
    let node = crate::support::Node::builder().set("limits.max_subscriptions", 2).start();
    let mut client = node.client("refused");
    client.send(&subscribe(1, &[("a", 1), ("b/#", 2), ("c", 0), ("a", 0)]));
    client.expect(Packet::Suback(1, vec![1, 2, 0x80, 0]));
    let mut publisher = node.client("publisher");
    publisher.publish("c", "refused", 1);
    publisher.publish("b/x", "granted", 1);
    assert_eq!(client.take().text(), "granted");
    client.unsubscribe("a");
    client.subscribe("c", 0);
}

#[test]
fn mqtt_3_10_1_1_other_flags_of_unsubscribe_close() {
    for flags in (0..16).filter(|flags| *flags != 2) {
        closes(&packet(0xa0 | flags, &[&[0, 1], &text("a")[..]].concat()));
    }
}

#[test]
fn mqtt_3_10_3_1_an_unsubscribe_filter_in_ill_formed_utf8_closes() {
    closes(&packet(0xa2, &[&[0, 1], &text(b"\xc3")[..]].concat()));
}

#[test]
fn mqtt_3_10_3_2_an_unsubscribe_without_filter_closes() {
    closes(&packet(0xa2, &[0, 1]));
}

#[test]
fn mqtt_3_10_4_1_filters_are_compared_character_by_character() {
    let base = unique("compare");
    let mut client = shared().client(&unique("compare")).subscribed(&format!("{base}/+"), 0);
    // These match the same topics, or nearly the same text, and are other filters.
    for other in
        [format!("{base}/#"), format!("{base}/a"), format!("{base}/+/"), base.to_uppercase()]
    {
        client.unsubscribe(&other);
    }
    shared().client(&unique("compare")).publish(&format!("{base}/a"), "x", 1);
    assert_eq!(client.take().text(), "x");
}

#[test]
fn mqtt_3_10_4_2_nothing_new_comes_after_unsuback() {
    for filter in ["{}", "{}/#"] {
        let (topic, other) = (unique("gone"), unique("gone"));
        let filter = filter.replace("{}", &topic);
        let mut client = shared().client(&unique("gone"));
        client.subscribe(&filter, 1);
        client.subscribe(&other, 1);
        client.unsubscribe(&filter);
        let mut publisher = shared().client(&unique("gone"));
        publisher.publish(&topic, "x", 1);
        publisher.publish(&other, "fence", 1);
        assert_eq!(client.take().text(), "fence");
    }
}

#[test]
fn mqtt_3_10_4_3_deliveries_in_progress_are_completed() {
    let topic = unique("progress");
    let mut client = shared().client(&unique("progress")).subscribed(&topic, 2);
    shared().client(&unique("progress")).publish(&topic, "x", 2);
    let came = client.publish_in();
    client.unsubscribe(&topic);
    client.pubrec(came.id);
    client.expect(Packet::Pubrel(came.id));
    client.pubcomp(came.id);
    client.ping();
}

#[test]
fn mqtt_3_10_4_4_unsuback_has_the_same_identifier() {
    let mut client = shared().client(&unique("unsuback")).subscribed("unsuback", 0);
    client.send(&unsubscribe(0x1234, &["unsuback"]));
    client.expect(Packet::Unsuback(0x1234));
}

#[test]
fn mqtt_3_10_4_5_unsuback_comes_where_nothing_matched() {
    let mut client = shared().client(&unique("unsuback"));
    client.send(&unsubscribe(3, &["never", "sub/+/scribed/#"]));
    client.expect(Packet::Unsuback(3));
}

#[test]
fn mqtt_3_10_4_6_several_filters_are_all_removed() {
    let base = unique("all");
    let filters = ["a", "b", "+"].map(|level| format!("{base}/{level}"));
    let mut client = shared().client(&unique("all"));
    for filter in &filters {
        client.subscribe(filter, 0);
    }
    client.subscribe(&base, 0);
    let refs: Vec<&str> = filters.iter().map(String::as_str).collect();
    client.send(&unsubscribe(5, &refs));
    client.wait_for(&Packet::Unsuback(5));
    let mut publisher = shared().client(&unique("all"));
    publisher.publish(&format!("{base}/a"), "x", 1);
    publisher.publish(&base, "fence", 1);
    assert_eq!(client.take().text(), "fence");
}
