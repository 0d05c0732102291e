//! MQTT 3.1.1 sections 3.3 to 3.7 and 4.3: PUBLISH, its acknowledgements, retained messages.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::shared;
use crate::support::client::{Connect, Publish, packet, subscribe, text, unsubscribe};
use crate::support::{Client, Packet, unique};

#[track_caller]
fn closes(bytes: &[u8]) {
    let mut client = shared().client(&unique("publish"));
    client.send(bytes);
    client.expect_closed();
}

/// A publisher, and a subscriber to a topic of its own.
fn pair(qos: u8) -> (Client, Client, String) {
    let topic = unique("topic");
    let subscriber = shared().client(&unique("subscriber")).subscribed(&topic, qos);
    (shared().client(&unique("publisher")), subscriber, topic)
}

#[test]
fn mqtt_3_3_1_1_dup_is_set_at_a_redelivery() {
    let (id, topic) = (unique("dup"), unique("dup"));
    for qos in [1, 2] {
        let mut subscriber = shared().persistent(&id).subscribed(&topic, qos);
        shared().client(&unique("dup")).publish(&topic, "x", qos);
        let first = subscriber.publish_in();
        assert!(!first.dup);
        drop(subscriber);
        let mut subscriber = shared().persistent(&id);
        let again = subscriber.take();
        assert_eq!((again.dup, again.id, again.text()), (true, first.id, "x".to_owned()));
        subscriber.disconnect();
    }
}

#[test]
fn mqtt_3_3_1_2_dup_with_qos_0_closes() {
    closes(&packet(0x38, &text("a")));
    let (mut publisher, mut subscriber, topic) = pair(0);
    publisher.publish(&topic, "x", 1);
    assert!(!subscriber.take().dup);
}

#[test]
fn mqtt_3_3_1_3_dup_is_not_passed_on() {
    for qos in [1, 2] {
        let (mut publisher, mut subscriber, topic) = pair(qos);
        publisher.send(&Publish::new(&topic, b"x").qos(qos).id(9).dup().bytes());
        let came = subscriber.take();
        assert_eq!((came.dup, came.qos), (false, qos));
    }
}

#[test]
fn mqtt_3_3_1_4_qos_3_closes() {
    closes(&packet(0x36, &[&text("a")[..], &[0, 1]].concat()));
}

#[test]
fn mqtt_3_3_1_5_a_retained_message_is_kept_with_its_qos() {
    for qos in 0..3 {
        let topic = unique("retained");
        let mut publisher = shared().client(&unique("retained"));
        publisher.retain(&topic, "kept", qos);
        // Its PUBACK says that the message before it is kept; of QoS 0 nothing else does.
        publisher.publish(&unique("fence"), "", 1);
        let mut late = shared().client(&unique("late")).subscribed(&topic, 2);
        let came = late.take();
        assert_eq!((came.text().as_str(), came.qos, came.retain), ("kept", qos, true));
    }
}

#[test]
fn mqtt_3_3_1_6_a_new_subscription_gets_each_matching_retained_message() {
    let base = unique("many");
    let mut publisher = shared().client(&unique("retained"));
    for level in ["a", "b", "c/d"] {
        publisher.retain(&format!("{base}/{level}"), level, 1);
    }
    publisher.retain(&format!("{base}/a"), "a2", 1);
    let mut late = shared().client(&unique("late")).subscribed(&format!("{base}/#"), 1);
    let mut came: Vec<_> = (0..3).map(|_| late.take().text()).collect();
    came.sort();
    assert_eq!(came, ["a2", "b", "c/d"]);
}

#[test]
fn mqtt_3_3_1_7_a_retained_message_of_qos_0_replaces_the_one_before() {
    let topic = unique("retained");
    let mut publisher = shared().client(&unique("retained"));
    publisher.retain(&topic, "old", 1);
    publisher.retain(&topic, "new", 0);
    // A PINGRESP overtakes what is not routed yet.
    publisher.publish(&unique("fence"), "", 1);
    let mut late = shared().client(&unique("late")).subscribed(&topic, 2);
    assert_eq!(late.take().text(), "new");
}

#[test]
fn mqtt_3_3_1_8_retain_is_1_for_a_new_subscription() {
    let topic = unique("retained");
    shared().client(&unique("retained")).retain(&topic, "x", 1);
    let mut late = shared().client(&unique("late")).subscribed(&topic, 1);
    assert!(late.take().retain);
}

#[test]
fn mqtt_3_3_1_8_retain_is_1_where_the_publish_came_just_before_the_subscribe() {
    for qos in [0, 1] {
        let topic = unique("retained");
        let mut client = shared().client(&unique("retained"));
        client.send(
            &[
                Publish::new(&topic, b"x").qos(qos).id(7).retain().bytes(),
                subscribe(8, &[(&topic, 0)]),
            ]
            .concat(),
        );
        client.wait_for(&Packet::Suback(8, vec![0]));
        if qos == 1 {
            client.wait_for(&Packet::Puback(7));
        }
        assert!(client.publish_in().retain);
        client.ping();
    }
}

#[test]
fn mqtt_3_10_4_2_what_was_published_before_an_unsubscribe_comes() {
    let topic = unique("unsubscribed");
    let mut client = shared().client(&unique("unsubscribed")).subscribed(&topic, 0);
    client.send(
        &[
            Publish::new(&topic, b"x").bytes(),
            unsubscribe(8, &[&topic]),
            Publish::new(&topic, b"late").qos(1).id(9).bytes(),
        ]
        .concat(),
    );
    assert_eq!(client.publish_in().text(), "x");
    client.expect(Packet::Unsuback(8));
    client.expect(Packet::Puback(9));
}

#[test]
fn mqtt_3_3_1_9_retain_is_0_for_an_established_subscription() {
    let (mut publisher, mut subscriber, topic) = pair(1);
    publisher.retain(&topic, "x", 1);
    assert!(!subscriber.take().retain);
}

#[test]
fn mqtt_3_3_1_10_an_empty_payload_removes_the_retained_message() {
    let (mut publisher, mut subscriber, topic) = pair(1);
    publisher.retain(&topic, "x", 1);
    publisher.retain(&topic, "", 1);
    // Those who are subscribed get it as any other message.
    assert_eq!([subscriber.take().text(), subscriber.take().text()], ["x", ""]);
    let mut late = shared().client(&unique("late")).subscribed(&topic, 1);
    publisher.publish(&topic, "fence", 1);
    assert_eq!(late.take().text(), "fence");
}

#[test]
fn mqtt_3_3_1_11_an_empty_payload_is_not_retained() {
    let topic = unique("retained");
    let mut publisher = shared().client(&unique("retained"));
    publisher.retain(&topic, "", 1);
    let mut late = shared().client(&unique("late")).subscribed(&topic, 1);
    publisher.publish(&topic, "fence", 1);
    assert_eq!(late.take().text(), "fence");
}

#[test]
fn mqtt_3_3_1_12_without_retain_nothing_is_kept_or_removed() {
    let topic = unique("retained");
    let mut publisher = shared().client(&unique("retained"));
    publisher.retain(&topic, "kept", 1);
    publisher.publish(&topic, "passing", 1);
    publisher.publish(&topic, "", 1);
    let mut late = shared().client(&unique("late")).subscribed(&topic, 1);
    assert_eq!(late.take().text(), "kept");
}

#[test]
fn mqtt_3_3_2_1_a_publish_without_topic_closes() {
    closes(&packet(0x30, b""));
    closes(&packet(0x30, &text("\u{fffd}").iter().map(|b| b | 0x80).collect::<Vec<_>>()));
}

#[test]
fn mqtt_3_3_2_2_a_wildcard_in_the_topic_name_closes() {
    for topic in ["+", "#", "a/+/b", "a/#", "a+", "a#b"] {
        closes(&packet(0x30, &text(topic)));
        closes(&packet(0x32, &[&text(topic)[..], &[0, 1]].concat()));
    }
}

#[test]
fn mqtt_3_3_2_3_the_topic_name_sent_is_the_one_published() {
    let topic = unique("exact");
    let mut subscriber = shared().client(&unique("exact")).subscribed(&format!("{topic}/+/c/#"), 0);
    let name = format!("{topic}/ B/c//d");
    shared().client(&unique("exact")).publish(&name, "x", 1);
    assert_eq!(subscriber.take().topic, name);
}

#[test]
fn mqtt_3_3_4_1_each_qos_gets_its_answer() {
    let mut client = shared().client(&unique("answers"));
    let topic = unique("answers");
    client.send(&Publish::new(&topic, b"0").bytes());
    client.send(&Publish::new(&topic, b"1").qos(1).id(1).bytes());
    client.expect(Packet::Puback(1));
    client.send(&Publish::new(&topic, b"2").qos(2).id(2).bytes());
    client.expect(Packet::Pubrec(2));
    client.release(2);
}

#[test]
fn mqtt_3_3_5_1_overlapping_subscriptions_give_one_copy_at_the_highest_qos() {
    for connect in Connect::new(&unique("overlap")).clean_and_persistent() {
        let base = unique("overlap");
        let mut subscriber = Client::connect(shared().mqtt, &connect);
        subscriber.subscribe(&format!("{base}/#"), 0);
        subscriber.subscribe(&format!("{base}/+"), 2);
        subscriber.subscribe(&format!("{base}/a"), 1);
        let mut publisher = shared().client(&unique("overlap"));
        publisher.publish(&format!("{base}/a"), "x", 2);
        publisher.publish(&format!("{base}/a"), "fence", 1);
        let came = subscriber.take();
        assert_eq!((came.text().as_str(), came.qos), ("x", 2));
        let came = subscriber.take();
        assert_eq!((came.text().as_str(), came.qos), ("fence", 1));
        subscriber.disconnect();
    }
}

#[test]
fn mqtt_3_6_1_1_other_flags_of_pubrel_close() {
    for flags in (0..16).filter(|flags| *flags != 2) {
        closes(&packet(0x60 | flags, &[0, 1]));
    }
}

#[test]
fn mqtt_4_3_1_1_qos_0_is_delivered_without_an_identifier() {
    let (mut publisher, mut subscriber, topic) = pair(2);
    publisher.publish(&topic, "x", 0);
    let came = subscriber.take();
    assert_eq!((came.qos, came.id, came.dup), (0, 0, false));
}

#[test]
fn mqtt_4_3_2_1_the_server_keeps_a_qos_1_message_until_its_puback() {
    let (id, topic) = (unique("puback"), unique("puback"));
    let mut subscriber = shared().persistent(&id).subscribed(&topic, 1);
    shared().client(&unique("puback")).publish(&topic, "x", 1);
    subscriber.publish_in();
    drop(subscriber);
    let mut subscriber = shared().persistent(&id);
    subscriber.take();
    subscriber.disconnect();
    let mut subscriber = shared().persistent(&id);
    shared().client(&unique("puback")).publish(&topic, "fence", 1);
    assert_eq!(subscriber.take().text(), "fence");
}

#[test]
fn mqtt_4_3_2_2_a_resent_qos_1_publish_is_answered_again() {
    let (mut publisher, mut subscriber, topic) = pair(1);
    publisher.send(&Publish::new(&topic, b"x").qos(1).id(5).bytes());
    publisher.expect(Packet::Puback(5));
    publisher.send(&Publish::new(&topic, b"x").qos(1).id(5).dup().bytes());
    publisher.expect(Packet::Puback(5));
    // After PUBACK the identifier is free: it is a new message.
    assert_eq!([subscriber.take().text(), subscriber.take().text()], ["x", "x"]);
}

#[test]
fn mqtt_4_3_3_1_the_server_resends_pubrel_not_publish_after_pubrec() {
    let (id, topic) = (unique("pubrel"), unique("pubrel"));
    let mut subscriber = shared().persistent(&id).subscribed(&topic, 2);
    shared().client(&unique("pubrel")).publish(&topic, "x", 2);
    let came = subscriber.publish_in();
    subscriber.pubrec(came.id);
    subscriber.expect(Packet::Pubrel(came.id));
    drop(subscriber);
    let mut subscriber = shared().persistent(&id);
    subscriber.expect(Packet::Pubrel(came.id));
    subscriber.pubcomp(came.id);
    subscriber.ping();
    drop(subscriber);
    let mut subscriber = shared().persistent(&id);
    shared().client(&unique("pubrel")).publish(&topic, "fence", 2);
    assert_eq!(subscriber.take().text(), "fence");
}

#[test]
fn mqtt_4_3_3_1_a_second_pubrec_is_answered_with_pubrel() {
    let (mut publisher, mut subscriber, topic) = pair(2);
    publisher.publish(&topic, "x", 2);
    let came = subscriber.publish_in();
    for _ in 0..2 {
        subscriber.pubrec(came.id);
        subscriber.expect(Packet::Pubrel(came.id));
    }
    subscriber.pubcomp(came.id);
}

#[test]
fn mqtt_4_3_3_1_a_pubrec_right_behind_connect_does_not_repeat_the_message() {
    let (id, topic) = (unique("early"), unique("early"));
    let mut subscriber = shared().persistent(&id).subscribed(&topic, 2);
    shared().client(&unique("early")).publish(&topic, "x", 2);
    let came = subscriber.publish_in();
    drop(subscriber);
    let mut subscriber = shared().socket();
    subscriber.send(
        &[Connect::new(&id).persistent().bytes(), packet(0x50, &came.id.to_be_bytes())].concat(),
    );
    subscriber.expect(Packet::Connack { present: true, code: 0 });
    assert!(subscriber.publish_in().dup, "after it, only PUBREL");
    subscriber.expect(Packet::Pubrel(came.id));
}

#[test]
fn mqtt_4_3_3_2_a_resent_qos_2_publish_is_not_forwarded_again() {
    for persistent in [false, true] {
        let (topic, id) = (unique("exactly"), unique("exactly"));
        let mut subscriber = shared().client(&unique("exactly")).subscribed(&topic, 2);
        let connect = Connect::new(&id);
        let connect = if persistent { connect.persistent() } else { connect };
        let mut publisher = Client::connect(shared().mqtt, &connect);
        publisher.send(&Publish::new(&topic, b"once").qos(2).id(3).bytes());
        publisher.expect(Packet::Pubrec(3));
        publisher.send(&Publish::new(&topic, b"once").qos(2).id(3).dup().bytes());
        publisher.expect(Packet::Pubrec(3));
        if persistent {
            drop(publisher);
            publisher = Client::connect(shared().mqtt, &connect);
            publisher.send(&Publish::new(&topic, b"once").qos(2).id(3).dup().bytes());
            publisher.expect(Packet::Pubrec(3));
        }
        publisher.release(3);
        // Released: the identifier is free for another message.
        publisher.send(&Publish::new(&topic, b"twice").qos(2).id(3).bytes());
        publisher.expect(Packet::Pubrec(3));
        assert_eq!([subscriber.take().text(), subscriber.take().text()], ["once", "twice"]);
    }
}

#[test]
fn mqtt_4_3_3_2_a_pubrel_for_an_unknown_identifier_is_answered() {
    let mut client = shared().client(&unique("pubcomp"));
    client.release(77);
}

#[test]
fn section_3_4_acknowledgements_nobody_waits_for_do_no_harm() {
    let (mut publisher, mut subscriber, topic) = pair(2);
    subscriber.puback(1);
    subscriber.pubcomp(2);
    subscriber.ping();
    publisher.publish(&topic, "x", 2);
    assert_eq!(subscriber.take().text(), "x");
}

#[test]
fn section_4_3_an_acknowledgement_of_another_qos_closes() {
    // PUBCOMP and PUBREC for QoS 1, PUBACK and PUBCOMP for QoS 2.
    for (qos, first) in [(1, 0x70), (1, 0x50), (2, 0x40), (2, 0x70)] {
        let (mut publisher, mut subscriber, topic) = pair(qos);
        publisher.publish(&topic, "x", qos);
        let came = subscriber.publish_in();
        subscriber.send(&packet(first, &came.id.to_be_bytes()));
        subscriber.expect_closed();
    }
}

/// A new subscription in the midst of retained QoS 2 messages, eight of which are on their way at a time.
#[test]
fn mqtt_4_6_0_6_no_older_message_follows_a_retained_one() {
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let (topic, stop) = (unique("order"), AtomicBool::new(false));
    let number = |publish: &str| publish.parse::<u32>().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut publisher = shared().client(&unique("order"));
            let mut sent = 0_u32;
            while !stop.load(Ordering::Relaxed) {
                let ids: Vec<u16> = (0..8).map(|_| publisher.id()).collect();
                let packets = ids.iter().map(|id| {
                    sent += 1;
                    Publish::new(&topic, sent.to_string()).qos(2).id(*id).retain().bytes()
                });
                publisher.send(&packets.collect::<Vec<_>>().concat());
                for id in ids {
                    publisher.wait_acknowledged(2, id);
                }
            }
        });
        let _stop = Stop(&stop);
        for _ in 0..200 {
            let mut subscriber = shared().client(&unique("order"));
            subscriber.send(&subscribe(1, &[(&topic, 2)]));
            let mut seen = 0;
            for _ in 0..10 {
                let Packet::Publish(came) = subscriber.recv() else { continue };
                let value = number(&came.text());
                assert!(value >= seen, "{value} after {seen}, retained: {}", came.retain);
                seen = value;
            }
        }
    });
}
