//! Each violation from the bytes that show it, and the bytes of each packet.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashSet;

use super::*;
use crate::{PacketId, QoS, Violation};

pub(super) const LIMITS: Limits = Limits {
    max_packet_size: 300,
    max_topic_length: 30,
    max_topic_levels: 5,
    max_filters: 3,
    control_characters: false,
};

fn id(id: u16) -> PacketId {
    PacketId::new(id).unwrap()
}

/// Frames and decodes one packet, which has to be the whole input.
pub(super) fn read(input: &[u8]) -> Result<Packet<'_>, Violation> {
    match next_frame(input, LIMITS.max_packet_size)? {
        Frame::Complete { first, body, len } => {
            assert_eq!(len, input.len(), "{input:02x?}");
            decode(first, body, &LIMITS)
        }
        Frame::Incomplete => panic!("incomplete: {input:02x?}"),
    }
}

/// A packet from its first byte and its body in parts.
fn packet(first: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    assert!(body.len() < 128);
    let mut out = vec![first, body.len() as u8];
    out.extend(body);
    out
}

/// CONNECT from its flags and what follows the keep-alive.
fn connect_bytes(flags: u8, payload: &[&[u8]]) -> Vec<u8> {
    packet(0x10, &[b"\0\x04MQTT\x04", &[flags], b"\0\x3c", &payload.concat()])
}

/// What only the session, the connection's owner or the web socket can see; tested there.
/// `ProtocolError` stands for what `mqtt-protocol` refuses after our checks: nothing known.
const ELSEWHERE: &[Violation] = &[
    Violation::PacketIdInUse,
    Violation::PacketIdUnknown,
    Violation::FirstPacketNotConnect,
    Violation::SecondConnect,
    Violation::WrongAcknowledgement,
    Violation::KeepAliveElapsed,
    Violation::IdentifierNotAccepted,
    Violation::PacketAfterDisconnect,
    Violation::ProtocolError,
    Violation::TextFrame,
    Violation::SharedSubscription,
];

/// Where the bytes of several violations are possible, the one a client most likely means.
fn violations() -> Vec<(Violation, Vec<u8>)> {
    use Violation as V;
    let publish = |flags: u8, parts: &[&[u8]]| packet(0x30 | flags, parts);
    let subscribe = |parts: &[&[u8]]| packet(0x82, &[b"\0\x01", &parts.concat()]);
    let unsubscribe = |parts: &[&[u8]]| packet(0xa2, &[b"\0\x01", &parts.concat()]);
    let all = connect_bytes;
    vec![
        (V::IllFormedUtf8, packet(0x10, &[b"\0\x04MQT\xff\x04\x02\0\0\0\0"])),
        (V::NullCharacter, publish(0, &[b"\0\x03a\0b"])),
        (V::NullCharacter, all(0x02, &[b"\0\x03a\0b"])),
        (V::NullCharacter, all(0x06, &[b"\0\x01a\0\x02a\0\0\0"])),
        (V::NullCharacter, all(0x82, &[b"\0\x01a\0\x02a\0"])),
        (V::NullCharacter, subscribe(&[b"\0\x02a\0\0"])),
        (V::NullCharacter, unsubscribe(&[b"\0\x02a\0"])),
        (V::ReservedFlags, packet(0x11, &[b"\0\x04MQTT\x04\x02\0\0\0\0"])),
        (V::ReservedFlags, packet(0x41, &[b"\0\x01"])),
        (V::ReservedFlags, packet(0x52, &[b"\0\x01"])),
        (V::ReservedFlags, packet(0x72, &[b"\0\x01"])),
        (V::ReservedFlags, packet(0xc8, &[])),
        (V::ReservedFlags, packet(0xe1, &[])),
        (V::PacketIdZero, publish(0x02, &[b"\0\x01a\0\0"])),
        (V::PacketIdZero, packet(0x40, &[b"\0\0"])),
        (V::PacketIdZero, packet(0x50, &[b"\0\0"])),
        (V::PacketIdZero, packet(0x62, &[b"\0\0"])),
        (V::PacketIdZero, packet(0x70, &[b"\0\0"])),
        (V::PacketIdZero, packet(0x82, &[b"\0\0\0\x01a\0"])),
        (V::PacketIdZero, packet(0xa2, &[b"\0\0\0\x01a"])),
        (V::ProtocolName, packet(0x10, &[b"\0\x04mqtt\x04\x02\0\0\0\0"])),
        (V::ProtocolName, packet(0x10, &[b"\0\0\x04\x02\0\0\0\0"])),
        (V::UnacceptableProtocolLevel, packet(0x10, &[b"\0\x04MQTT\x05\x02\0\0\0\0\0"])),
        (V::UnacceptableProtocolLevel, packet(0x10, &[b"\0\x04MQTT\x03\x02\0\0\0\0"])),
        (V::UnacceptableProtocolLevel, packet(0x10, &[b"\0\x06MQIsdp\x04\x02\0\0\0\0"])),
        (V::ConnectReservedFlag, all(0x03, &[b"\0\x01a"])),
        (V::WillFieldsMissing, all(0x06, &[b"\0\x01a"])),
        (V::WillFieldsMissing, all(0x06, &[b"\0\x01a\0\x01t"])),
        (V::ConnectUnannouncedField, all(0x02, &[b"\0\x01a\0\x01b"])),
        (V::WillQosWithoutWill, all(0x0a, &[b"\0\x01a"])),
        (V::WillQosThree, all(0x1e, &[b"\0\x01a\0\x01t\0\0"])),
        (V::WillRetainWithoutWill, all(0x22, &[b"\0\x01a"])),
        (V::UserNameMissing, all(0x82, &[b"\0\x01a"])),
        (V::PasswordMissing, all(0xc2, &[b"\0\x01a\0\x01u"])),
        (V::PasswordWithoutUserName, all(0x42, &[b"\0\x01a\0\x01p"])),
        (V::ClientIdMissing, all(0x02, &[])),
        (V::ClientIdMissing, all(0x02, &[b"\0\x05abc"])),
        (V::ClientIdNotUtf8, all(0x02, &[b"\0\x01\xff"])),
        (V::IdentifierRejected, all(0x00, &[b"\0\0"])),
        (V::IdentifierRejected, packet(0x10, &[b"\0\x06MQIsdp\x03\x02\0\0\0\0"])),
        (V::WillTopicNotUtf8, all(0x06, &[b"\0\x01a\0\x02\xc0\x80\0\0"])),
        (V::WildcardInWillTopic, all(0x06, &[b"\0\x01a\0\x01#\0\0"])),
        (V::UserNameNotUtf8, all(0x82, &[b"\0\x01a\0\x03\xed\xa0\x80"])),
        (V::DupWithQosZero, publish(0x08, &[b"\0\x01a"])),
        (V::PublishQosThree, publish(0x06, &[b"\0\x01a\0\x01"])),
        (V::TopicNotUtf8, publish(0, &[b"\0\x01\xff"])),
        (V::WildcardInTopicName, publish(0, &[b"\0\x03a/+"])),
        (V::WildcardInTopicName, publish(0, &[b"\0\x03a#b"])),
        (V::PubrelFlags, packet(0x60, &[b"\0\x01"])),
        (V::SubscribeFlags, packet(0x80, &[b"\0\x01\0\x01a\0"])),
        (V::SubscribeFilterNotUtf8, subscribe(&[b"\0\x01\xff\0"])),
        (V::SubscribeWithoutFilter, subscribe(&[])),
        (V::SubscribeQos, subscribe(&[b"\0\x01a\x03"])),
        (V::SubscribeQos, subscribe(&[b"\0\x01a\x04"])),
        (V::UnsubscribeFlags, packet(0xa0, &[b"\0\x01\0\x01a"])),
        (V::UnsubscribeFilterNotUtf8, unsubscribe(&[b"\0\x01\xff"])),
        (V::UnsubscribeWithoutFilter, unsubscribe(&[])),
        (V::EmptyTopic, publish(0, &[b"\0\0abc"])),
        (V::EmptyTopic, all(0x06, &[b"\0\x01a\0\0\0\0"])),
        (V::EmptyTopic, subscribe(&[b"\0\0\0"])),
        (V::EmptyTopic, unsubscribe(&[b"\0\0"])),
        (V::MultiLevelWildcard, subscribe(&[b"\0\x05a/#/b\0"])),
        (V::MultiLevelWildcard, unsubscribe(&[b"\0\x02a#"])),
        (V::SingleLevelWildcard, subscribe(&[b"\0\x02a+\0"])),
        (V::ReservedPacketType, packet(0x00, &[])),
        (V::ReservedPacketType, packet(0xf0, &[])),
        (V::ServerOnlyPacket, packet(0x20, &[b"\0\0"])),
        (V::ServerOnlyPacket, packet(0x90, &[b"\0\x01\0"])),
        (V::ServerOnlyPacket, packet(0xb0, &[b"\0\x01"])),
        (V::ServerOnlyPacket, packet(0xd0, &[])),
        (V::MalformedRemainingLength, b"\xc0\x80\x80\x80\x80\0".to_vec()),
        (V::BodyTooShort, packet(0x10, &[])),
        (V::BodyTooShort, packet(0x10, &[b"\0\x04MQTT"])),
        (V::BodyTooShort, packet(0x10, &[b"\0\x04MQTT\x04"])),
        (V::BodyTooShort, packet(0x10, &[b"\0\x04MQTT\x04\x02\0"])),
        (V::BodyTooShort, publish(0, &[])),
        (V::BodyTooShort, publish(0, &[b"\0\x05abc"])),
        (V::BodyTooShort, publish(0x02, &[b"\0\x01a\0"])),
        (V::BodyTooShort, packet(0x40, &[b"\0"])),
        (V::BodyTooShort, packet(0x62, &[])),
        (V::BodyTooShort, packet(0x82, &[b"\0"])),
        (V::BodyTooShort, subscribe(&[b"\0\x01a"])),
        (V::BodyTooShort, subscribe(&[b"\xff\xffa\0"])),
        (V::BodyTooShort, unsubscribe(&[b"\0\x01a\0"])),
        (V::TrailingBytes, packet(0x40, &[b"\0\x01\0"])),
        (V::TrailingBytes, packet(0x50, &[b"\0\x01\0"])),
        (V::TrailingBytes, packet(0x62, &[b"\0\x01\0"])),
        (V::TrailingBytes, packet(0x70, &[b"\0\x01\0"])),
        (V::TrailingBytes, packet(0xc0, &[b"\0"])),
        (V::TrailingBytes, packet(0xe0, &[b"\0"])),
        (V::PacketTooLarge, b"\x30\xff\x7f".to_vec()),
        (V::TopicTooLong, publish(0, &[b"\0\x1f", &[b'a'; 31]])),
        (V::TopicTooLong, all(0x06, &[b"\0\x01a\0\x1f", &[b'a'; 31], b"\0\0"])),
        (V::TooManyTopicLevels, publish(0, &[b"\0\x0ba/b/c/d/e/f"])),
        (V::ControlCharacter, publish(0, &[b"\0\x02a\n"])),
        (V::ControlCharacter, publish(0, &[b"\0\x03\xef\xbf\xbf"])),
        (V::ControlCharacter, all(0x02, &[b"\0\x02a\x7f"])),
        (V::ControlCharacter, all(0x06, &[b"\0\x01a\0\x02\xc2\x80\0\0"])),
        (V::ControlCharacter, all(0x82, &[b"\0\x01a\0\x02u\x01"])),
        // Malformed filters beside one that is refused, and behind the last that is looked at.
        (V::SingleLevelWildcard, subscribe(&[b"\0\x0d+a/b/c/d/e/f/\0"])),
        (V::NullCharacter, subscribe(&[b"\0\x1f", &[b'a'; 30], b"\0\0"])),
        (V::SubscribeQos, subscribe(&[b"\0\x0ba/b/c/d/e/f\x03"])),
        (V::MultiLevelWildcard, subscribe(&[&b"\0\x01a\0".repeat(4), b"\0\x02a#\0"])),
        (V::MultiLevelWildcard, unsubscribe(&[&b"\0\x01a".repeat(4), b"\0\x02a#"])),
    ]
}

#[test]
fn each_violation_is_found() {
    let cases = violations();
    for (violation, bytes) in &cases {
        assert_eq!(read(bytes), Err(*violation), "{bytes:02x?}");
    }
    let seen: HashSet<_> = cases.iter().map(|(violation, _)| *violation).collect();
    for violation in Violation::ALL {
        assert_ne!(
            seen.contains(violation),
            ELSEWHERE.contains(violation),
            "{violation:?} is tested here or elsewhere"
        );
    }
}

#[test]
fn a_filter_that_is_not_taken_is_refused_alone() {
    use Violation as V;
    let subscribed = |parts: &[&[u8]]| {
        let bytes = packet(0x82, &[b"\0\x01", &parts.concat()]);
        let Ok(Packet::Subscribe(subscribe)) = read(&bytes) else { panic!("{bytes:02x?}") };
        let refused: Vec<_> =
            subscribe.filters.iter().map(|filter| filter.as_ref().err().copied()).collect();
        (refused, subscribe.beyond)
    };
    let good = b"\0\x01a\x01";
    let cases: [(V, &[&[u8]]); 4] = [
        (V::TopicTooLong, &[b"\0\x1f", &[b'a'; 31], b"\0"]),
        (V::TooManyTopicLevels, &[b"\0\x0ba/b/c/d/e/f\0"]),
        (V::ControlCharacter, &[b"\0\x02a\x1f\0"]),
        (V::SharedSubscription, &[b"\0\x0a$share/g/t\0"]),
    ];
    for (violation, bad) in cases {
        let expected = (vec![None, Some(violation), None], 0);
        assert_eq!(subscribed(&[good, &bad.concat(), good]), expected);
    }
    assert_eq!(subscribed(&[&good.repeat(5)]), (vec![None; 3], 2));
    assert_eq!(subscribed(&[b"\0\x06$share\0"]), (vec![None], 0), "a name like any other");
}

#[test]
fn unsubscribe_takes_every_well_formed_filter() {
    let (long, deep) = ("a".repeat(31), "a/b/c/d/e/f");
    let filters = [&long, deep, "a\n", "$share/g/t", "b", "c"];
    let mut body = b"\0\x01".to_vec();
    for filter in filters {
        body.extend([0, filter.len() as u8]);
        body.extend(filter.as_bytes());
    }
    let bytes = packet(0xa2, &[&body]);
    let Ok(Packet::Unsubscribe(unsubscribe)) = read(&bytes) else { panic!("{bytes:02x?}") };
    assert_eq!(unsubscribe.filters.collect::<Vec<_>>(), filters);
}

#[test]
fn what_is_allowed_is_taken() {
    // 3.1: header flags and the reserved bit have no meaning, long client identifiers pass.
    let old = packet(0x14, &[b"\0\x06MQIsdp\x03\x01\0\x0a\0\x1e", &[b'x'; 30]]);
    let Ok(Packet::Connect(connect)) = read(&old) else { panic!("3.1") };
    assert_eq!(connect.version, Version::V31);
    assert_eq!((connect.client_id.len(), connect.keep_alive), (30, 10));
    assert!(!connect.clean_session);

    // The password may be any bytes, an empty will message and an empty identifier are allowed.
    let bytes = connect_bytes(0xee, &[b"\0\0\0\x01t\0\0\0\x01u\0\x03\xff\0\xfe"]);
    let Ok(Packet::Connect(connect)) = read(&bytes) else { panic!("password") };
    assert_eq!(connect.password.as_deref(), Some(&b"\xff\0\xfe"[..]));
    let will = connect.will.unwrap();
    assert_eq!((&*will.topic, will.payload.len()), ("t", 0));
    assert_eq!((will.qos, will.retain), (QoS::AtLeastOnce, true));

    // [MQTT-1.5.3-3]: U+FEFF stays where it is.
    let Ok(Packet::Publish(publish)) = read(b"\x30\x06\0\x04\xef\xbb\xbfa") else {
        panic!("U+FEFF")
    };
    assert_eq!((publish.topic, publish.payload), ("\u{feff}a", &b""[..]));
}

#[test]
fn server_packets_byte_by_byte() {
    let mut out = Vec::new();
    put_connack(&mut out, true, 0);
    put_connack(&mut out, true, 2);
    put_puback(&mut out, id(0x0102));
    put_pubrec(&mut out, id(3));
    put_pubrel(&mut out, id(4));
    put_pubcomp(&mut out, id(5));
    put_suback(&mut out, id(6), &[0, 2, SUBACK_FAILURE]);
    put_unsuback(&mut out, id(7));
    put_pingresp(&mut out);
    put_publish(&mut out, "a/b", b"xy", QoS::AtLeastOnce, true, true, Some(id(8)));
    put_publish(&mut out, "a", b"", QoS::AtMostOnce, false, false, None);
    let expected: &[&[u8]] = &[
        b"\x20\x02\x01\x00",
        b"\x20\x02\x00\x02", // [MQTT-3.2.2-4]
        b"\x40\x02\x01\x02",
        b"\x50\x02\x00\x03",
        b"\x62\x02\x00\x04",
        b"\x70\x02\x00\x05",
        b"\x90\x05\x00\x06\x00\x02\x80",
        b"\xb0\x02\x00\x07",
        b"\xd0\x00",
        b"\x3b\x09\x00\x03a/b\x00\x08xy",
        b"\x30\x03\x00\x01a",
    ];
    assert_eq!(out, expected.concat());
}

#[test]
fn publish_len_is_what_is_written() {
    for payload in [0, 1, 100, 120, 130, 16_370, 16_380, 16_390, 2_097_140, 2_097_152] {
        for (qos, packet_id) in [(QoS::AtMostOnce, None), (QoS::ExactlyOnce, Some(id(9)))] {
            let mut out = Vec::new();
            let payload = vec![b'x'; payload];
            put_publish(&mut out, "topic", &payload, qos, false, false, packet_id);
            assert_eq!(out.len(), publish_len(5, payload.len(), qos));
            let limits = Limits::PROTOCOL;
            let Ok(Frame::Complete { first, body, len }) = next_frame(&out, limits.max_packet_size)
            else {
                panic!("incomplete")
            };
            assert_eq!(len, out.len());
            let Ok(Packet::Publish(publish)) = decode(first, body, &limits) else {
                panic!("not a PUBLISH")
            };
            assert_eq!((publish.payload, publish.packet_id), (&payload[..], packet_id));
        }
    }
}

#[test]
fn packets_of_mqtt_3_1_may_have_more_flags() {
    for (sent, taken) in [(0x6a, 0x62), (0x8b, 0x82), (0xaa, 0xa2), (0x48, 0x40)] {
        assert_eq!(first_byte_of_v31(sent), taken);
    }
    // What PUBLISH's flags mean stays, and what no QoS 1 request is.
    for first in [0x3b, 0x36, 0x60, 0x86, 0x10] {
        assert_eq!(first_byte_of_v31(first), first);
    }
}
