//! MQTT 3.1.1 chapters 1 and 2: strings, the fixed header, packet identifiers.

use crate::shared;
use crate::support::client::{Publish, packet, subscribe, text, unsubscribe};
use crate::support::{Packet, unique};

/// A connected client sends this and is cut off without an answer.
#[track_caller]
fn closes(bytes: &[u8]) {
    let mut client = shared().client(&unique("format"));
    client.send(bytes);
    client.expect_closed();
}

#[test]
fn mqtt_1_5_3_1_ill_formed_utf8_closes() {
    for bad in [&b"a\xff"[..], b"a/\xc0\xaf", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\xe2\x82"] {
        closes(&packet(0x30, &text(bad)));
        closes(&packet(0x82, &[&[0, 1], &text(bad)[..], &[0]].concat()));
        closes(&packet(0xa2, &[&[0, 1], &text(bad)[..]].concat()));
    }
}

#[test]
fn mqtt_1_5_3_2_the_null_character_closes() {
    closes(&packet(0x30, &text("a\0b")));
    closes(&packet(0x82, &[&[0, 1], &text("a\0b")[..], &[0]].concat()));
    closes(&packet(0xa2, &[&[0, 1], &text("a\0b")[..]].concat()));
}

#[test]
fn mqtt_1_5_3_3_the_byte_order_mark_is_not_stripped() {
    let mut client = shared().client(&unique("bom"));
    let plain = unique("bom");
    let marked = format!("\u{feff}{plain}");
    client.subscribe(&plain, 0);
    client.subscribe(&marked, 0);
    client.publish(&marked, "marked", 0);
    client.publish(&plain, "plain", 0);
    let came = [client.take(), client.take()].map(|p| (p.topic, p.payload));
    assert_eq!(came, [(marked, b"marked".to_vec()), (plain, b"plain".to_vec())]);
}

#[test]
fn mqtt_2_2_2_1_and_2_reserved_flags_close() {
    for flags in 1..16 {
        closes(&packet(0x40 | flags, &[0, 1]));
        closes(&packet(0x50 | flags, &[0, 1]));
        closes(&packet(0x70 | flags, &[0, 1]));
        closes(&packet(0xc0 | flags, &[]));
        closes(&packet(0xe0 | flags, &[]));
    }
}

#[test]
fn section_2_2_1_packets_that_no_client_sends_close() {
    for first in [0x00, 0x20, 0x90, 0xb0, 0xd0, 0xf0] {
        closes(&packet(first, &[0, 1]));
        closes(&packet(first, &[]));
    }
}

#[test]
fn section_2_2_3_a_remaining_length_of_five_bytes_closes() {
    closes(&[0x30, 0x80, 0x80, 0x80, 0x80, 0x01]);
    closes(&[0x30, 0xff, 0xff, 0xff, 0xff]);
}

#[test]
fn section_2_2_3_a_body_of_another_length_than_its_fields_closes() {
    closes(&packet(0x30, &[0]));
    closes(&packet(0x30, &[0, 5, b'a']));
    closes(&packet(0x32, &[&text("a")[..], &[0]].concat()));
    closes(&packet(0x40, &[0]));
    closes(&packet(0x40, &[0, 1, 0]));
    closes(&packet(0x62, &[1]));
    closes(&packet(0x82, &[0, 1, 0, 9, b'a', 0]));
    closes(&packet(0x82, &[&[0, 1], &text("a")[..]].concat()));
    closes(&packet(0xa2, &[0, 1, 0, 9, b'a']));
    closes(&packet(0xc0, &[0]));
    closes(&packet(0xe0, &[0]));
}

#[test]
fn section_2_2_3_a_longer_form_of_the_remaining_length_is_understood() {
    let mut client = shared().client(&unique("long-form"));
    client.send(&[0xc0, 0x80, 0x00]);
    client.expect(Packet::Pingresp);
}

#[test]
fn mqtt_2_3_1_1_a_packet_identifier_of_zero_closes() {
    closes(&packet(0x32, &[&text("zero")[..], &[0, 0, b'x']].concat()));
    closes(&packet(0x34, &[&text("zero")[..], &[0, 0, b'x']].concat()));
    closes(&packet(0x82, &[&[0, 0], &text("a")[..], &[0]].concat()));
    closes(&packet(0xa2, &[&[0, 0], &text("a")[..]].concat()));
}

#[test]
fn mqtt_2_3_1_4_the_server_gives_each_message_in_flight_another_identifier() {
    let topic = unique("ids");
    let mut subscriber = shared().client(&unique("ids")).subscribed(&topic, 1);
    let mut publisher = shared().client(&unique("ids"));
    for n in 0..20 {
        publisher.publish(&topic, n.to_string(), 1);
    }
    let mut ids: Vec<u16> = (0..20).map(|_| subscriber.publish_in().id).collect();
    // Acknowledged ids are free, the others are not given again.
    for id in ids.drain(..10) {
        subscriber.puback(id);
    }
    subscriber.ping();
    for n in 0..10 {
        publisher.publish(&topic, n.to_string(), 1);
    }
    ids.extend((0..10).map(|_| subscriber.publish_in().id));
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 20, "{ids:?}");
}

#[test]
fn mqtt_2_3_1_6_acknowledgements_repeat_the_identifier() {
    let mut client = shared().client(&unique("ack-ids"));
    let topic = unique("ack-ids");
    for id in [1u16, 0x0100, 0xabcd, 0xffff] {
        client.send(&Publish::new(&topic, b"x").qos(1).id(id).bytes());
        client.expect(Packet::Puback(id));
        client.send(&Publish::new(&topic, b"x").qos(2).id(id).bytes());
        client.expect(Packet::Pubrec(id));
        client.release(id);
    }
}

#[test]
fn mqtt_2_3_1_7_suback_and_unsuback_repeat_the_identifier() {
    let mut client = shared().client(&unique("sub-ids"));
    for id in [1u16, 0x0100, 0xabcd, 0xffff] {
        client.send(&subscribe(id, &[("sub-ids", 1)]));
        client.expect(Packet::Suback(id, vec![1]));
        client.send(&unsubscribe(id, &["sub-ids"]));
        client.expect(Packet::Unsuback(id));
    }
}
