//! What holds for all bytes and for all packets.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use super::tests::{LIMITS, read};
use super::*;
use crate::topic::TopicFilter;
use crate::{PacketId, QoS};

fn qos() -> impl Strategy<Value = QoS> {
    prop::sample::select(vec![QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce])
}

fn packet_id() -> impl Strategy<Value = PacketId> {
    (1u16..).prop_map(|n| PacketId::new(n).unwrap())
}

fn topic() -> impl Strategy<Value = String> {
    "[a-z$ü]{1,3}(/[a-z ]{0,3}){0,3}"
}

fn filter() -> impl Strategy<Value = TopicFilter> {
    "([a-z$ü]{1,3}|\\+)(/([a-z]{0,3}|\\+)){0,3}(/#)?"
        .prop_map(|text| TopicFilter::parse(&text, &LIMITS).unwrap())
}

fn bytes(most: usize) -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..most).prop_map(Bytes::from)
}

fn connect() -> impl Strategy<Value = Connect> {
    let will =
        (topic(), bytes(20), qos(), any::<bool>()).prop_map(|(topic, payload, qos, retain)| Will {
            topic: Arc::from(topic),
            payload,
            qos,
            retain,
        });
    let login = ("[a-zü]{0,9}", prop::option::of(bytes(20)));
    (
        any::<bool>(),
        "[a-zA-Z0-9é]{1,30}",
        any::<bool>(),
        any::<u16>(),
        prop::option::of(will),
        prop::option::of(login),
    )
        .prop_map(|(old, client_id, clean_session, keep_alive, will, login)| {
            let (username, password) = login.unzip();
            Connect {
                version: if old { Version::V31 } else { Version::V311 },
                client_id: Arc::from(client_id),
                clean_session,
                keep_alive,
                will,
                username: username.map(Arc::from),
                password: password.flatten(),
            }
        })
}

/// Packets of a client, as bytes.
fn client_packet() -> impl Strategy<Value = Vec<u8>> {
    let put = |write: &dyn Fn(&mut Vec<u8>)| {
        let mut out = Vec::new();
        write(&mut out);
        out
    };
    prop_oneof![
        connect().prop_map(move |c| put(&|out| put_connect(out, &c))),
        (packet_id(), prop::collection::vec((filter(), qos()), 1..4))
            .prop_map(move |(id, filters)| put(&|out| put_subscribe(out, id, &filters))),
        (packet_id(), prop::collection::vec(filter(), 1..4))
            .prop_map(move |(id, filters)| put(&|out| put_unsubscribe(out, id, &filters))),
        (topic(), bytes(50), qos(), packet_id()).prop_map(move |(topic, payload, qos, id)| {
            let id = (qos != QoS::AtMostOnce).then_some(id);
            put(&|out| put_publish(out, &topic, &payload, qos, false, false, id))
        }),
        packet_id().prop_map(move |id| put(&|out| put_pubrel(out, id))),
    ]
}

/// Whatever comes, it is a frame or a violation, and a frame is a packet or a violation.
fn must_not_panic(input: &[u8]) {
    if let Ok(Frame::Complete { first, body, len }) = next_frame(input, LIMITS.max_packet_size) {
        assert!(len <= LIMITS.max_packet_size && len <= input.len());
        if let Ok(Packet::Publish(publish)) = decode(first, body, &LIMITS) {
            assert!(!publish.topic.contains(['+', '#', '\0']));
            assert_eq!(publish.packet_id.is_some(), publish.qos != QoS::AtMostOnce);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn random_bytes_never_panic(input in prop::collection::vec(any::<u8>(), 0..80)) {
        must_not_panic(&input);
    }

    #[test]
    fn random_bodies_never_panic(
        first in any::<u8>(),
        body in prop::collection::vec(prop_oneof![0u8..6, any::<u8>()], 0..80),
    ) {
        let _ = decode(first, &body, &LIMITS);
    }

    #[test]
    fn damaged_packets_never_panic(
        good in client_packet(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bad = good.clone();
        for (at, byte) in damage {
            let at = at.index(bad.len());
            bad[at] = byte;
        }
        must_not_panic(&bad);
        bad.truncate(cut.index(bad.len()));
        must_not_panic(&bad);
        let Ok(Frame::Complete { first, body, .. }) = next_frame(&good, 1000) else {
            return Err(TestCaseError::fail("the good packet is no frame"));
        };
        prop_assert!(decode(first, body, &LIMITS).is_ok());
        let shorter = &body[..cut.index(body.len())];
        let result = decode(first, shorter, &LIMITS);
        // The last filters can be cut off whole, a payload anywhere; nothing else.
        let cuttable = matches!(
            result,
            Err(_) | Ok(Packet::Publish(_) | Packet::Subscribe(_) | Packet::Unsubscribe(_))
        );
        prop_assert!(cuttable, "{result:?}");
    }

    #[test]
    fn a_frame_needs_exactly_its_bytes(good in client_packet(), cut in any::<prop::sample::Index>()) {
        let cut = cut.index(good.len());
        prop_assert_eq!(next_frame(&good[..cut], 1000), Ok(Frame::Incomplete));
        let mut more = good.clone();
        more.push(0);
        let whole = matches!(next_frame(&more, 1000), Ok(Frame::Complete { len, .. }) if len == good.len());
        prop_assert!(whole);
    }

    #[test]
    fn connect_round_trip(expected in connect()) {
        let mut out = Vec::new();
        put_connect(&mut out, &expected);
        prop_assert_eq!(read(&out), Ok(Packet::Connect(Box::new(expected))));
    }

    #[test]
    fn publish_round_trip(
        topic in topic(),
        payload in bytes(200),
        qos in qos(),
        id in packet_id(),
        dup in any::<bool>(),
        retain in any::<bool>(),
    ) {
        let packet_id = (qos != QoS::AtMostOnce).then_some(id);
        let dup = dup && packet_id.is_some();
        let mut out = Vec::new();
        put_publish(&mut out, &topic, &payload, qos, dup, retain, packet_id);
        let expected = Publish { dup, qos, retain, topic: &topic, packet_id, payload: &payload };
        prop_assert_eq!(read(&out), Ok(Packet::Publish(expected)));
    }

    #[test]
    fn subscribe_round_trip(
        packet_id in packet_id(),
        filters in prop::collection::vec((filter(), qos()), 1..4),
    ) {
        let mut out = Vec::new();
        put_subscribe(&mut out, packet_id, &filters);
        let asked = filters.iter().cloned().map(Ok).collect();
        let subscribe = Subscribe { packet_id, filters: asked, beyond: 0 };
        prop_assert_eq!(read(&out), Ok(Packet::Subscribe(subscribe)));
        let filters: Vec<_> = filters.into_iter().map(|(filter, _)| filter).collect();
        out.clear();
        put_unsubscribe(&mut out, packet_id, &filters);
        let Ok(Packet::Unsubscribe(unsubscribe)) = read(&out) else {
            return Err(TestCaseError::fail("not an UNSUBSCRIBE"));
        };
        prop_assert_eq!(unsubscribe.packet_id, packet_id);
        let filters: Vec<_> = filters.iter().map(TopicFilter::as_str).collect();
        prop_assert_eq!(unsubscribe.filters.collect::<Vec<_>>(), filters);
    }

    #[test]
    fn small_packets_round_trip(id in packet_id()) {
        type Put = fn(&mut Vec<u8>, PacketId);
        let cases: [(Put, Packet<'_>); 4] = [
            (put_puback, Packet::Puback(id)),
            (put_pubrec, Packet::Pubrec(id)),
            (put_pubrel, Packet::Pubrel(id)),
            (put_pubcomp, Packet::Pubcomp(id)),
        ];
        for (put, expected) in cases {
            let mut out = Vec::new();
            put(&mut out, id);
            prop_assert_eq!(read(&out), Ok(expected));
        }
        let mut out = Vec::new();
        put_pingreq(&mut out);
        prop_assert_eq!(read(&out), Ok(Packet::Pingreq));
        out.clear();
        put_disconnect(&mut out);
        prop_assert_eq!(read(&out), Ok(Packet::Disconnect));
    }
}
