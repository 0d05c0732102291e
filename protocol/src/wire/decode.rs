//! One complete body to a checked packet.
//!
//! PUBLISH is the hot path: decoded in place, one pass over the topic, no allocation. SUBSCRIBE and
//! UNSUBSCRIBE are decoded in place too: `mqtt-protocol` would allocate each of any number of filters,
//! also of those that are refused. The acknowledgements are decoded by that crate over the body.
//!
//! A filter that is malformed ends the connection. One that this broker does not take is refused alone.

use mqtt::Decodable;
use mqtt::control::variable_header::PacketIdentifier;

use super::fields::Fields;
use super::packet::{Filters, Packet, Publish, Subscribe, Unsubscribe};
use super::{connect, kind};
use crate::limits::Limits;
use crate::topic::{TopicFilter, check_topic_name};
use crate::{PacketId, QoS, Violation};

/// The packet behind the first byte and the body that [`next_frame`](super::next_frame) gave.
///
/// # Errors
/// The first [`Violation`] found, in the order of the fields; the identifier of a CONNECT is
/// judged last, so that a CONNACK is sent only for what otherwise conforms ([MQTT-3.1.4-1]).
#[inline]
pub fn decode<'a>(first: u8, body: &'a [u8], limits: &Limits) -> Result<Packet<'a>, Violation> {
    let flags = first & 0x0f;
    match first >> 4 {
        kind::PUBLISH => publish(flags, body, limits).map(Packet::Publish),
        kind::PUBACK => {
            expect_flags(flags, 0, Violation::ReservedFlags)?;
            acknowledged(body).map(Packet::Puback)
        }
        kind::PUBREC => {
            expect_flags(flags, 0, Violation::ReservedFlags)?;
            acknowledged(body).map(Packet::Pubrec)
        }
        kind::PUBREL => {
            expect_flags(flags, 0b0010, Violation::PubrelFlags)?;
            acknowledged(body).map(Packet::Pubrel)
        }
        kind::PUBCOMP => {
            expect_flags(flags, 0, Violation::ReservedFlags)?;
            acknowledged(body).map(Packet::Pubcomp)
        }
        kind::PINGREQ => {
            expect_flags(flags, 0, Violation::ReservedFlags)?;
            expect_empty(body).map(|()| Packet::Pingreq)
        }
        kind::SUBSCRIBE => {
            expect_flags(flags, 0b0010, Violation::SubscribeFlags)?;
            subscribe(body, limits).map(Packet::Subscribe)
        }
        kind::UNSUBSCRIBE => {
            expect_flags(flags, 0b0010, Violation::UnsubscribeFlags)?;
            unsubscribe(body).map(Packet::Unsubscribe)
        }
        kind::CONNECT => {
            connect::connect(flags, body, limits).map(|c| Packet::Connect(Box::new(c)))
        }
        kind::DISCONNECT => {
            expect_flags(flags, 0, Violation::ReservedFlags)?;
            expect_empty(body).map(|()| Packet::Disconnect)
        }
        kind::CONNACK | kind::SUBACK | kind::UNSUBACK | kind::PINGRESP => {
            Err(Violation::ServerOnlyPacket)
        }
        _ => Err(Violation::ReservedPacketType),
    }
}

/// The first byte of a packet of MQTT 3.1 as [`decode`] takes it. A resent PUBREL, SUBSCRIBE or
/// UNSUBSCRIBE has DUP set there, and flags that mean nothing have any value (MQTT 3.1 section 2.1).
#[inline]
pub fn first_byte_of_v31(first: u8) -> u8 {
    match first >> 4 {
        kind::PUBREL | kind::SUBSCRIBE | kind::UNSUBSCRIBE => first & 0xf6,
        kind::PUBACK | kind::PUBREC | kind::PUBCOMP | kind::PINGREQ | kind::DISCONNECT => {
            first & 0xf0
        }
        _ => first,
    }
}

#[inline]
fn expect_flags(flags: u8, expected: u8, violation: Violation) -> Result<(), Violation> {
    if flags == expected { Ok(()) } else { Err(violation) }
}

fn expect_empty(body: &[u8]) -> Result<(), Violation> {
    if body.is_empty() { Ok(()) } else { Err(Violation::TrailingBytes) }
}

#[inline]
fn publish<'a>(flags: u8, body: &'a [u8], limits: &Limits) -> Result<Publish<'a>, Violation> {
    let qos = QoS::from_bits(flags >> 1 & 0b11).ok_or(Violation::PublishQosThree)?;
    let dup = flags & 0b1000 != 0;
    if dup && qos == QoS::AtMostOnce {
        return Err(Violation::DupWithQosZero);
    }
    let mut fields = Fields(body);
    let topic = fields.binary().ok_or(Violation::BodyTooShort)?;
    if topic.len() > limits.max_topic_length {
        return Err(Violation::TopicTooLong);
    }
    let topic = std::str::from_utf8(topic).map_err(|_| Violation::TopicNotUtf8)?;
    check_topic_name(topic, limits)?;
    let packet_id = if qos == QoS::AtMostOnce {
        None
    } else {
        let id = fields.integer().ok_or(Violation::BodyTooShort)?;
        Some(PacketId::new(id).ok_or(Violation::PacketIdZero)?)
    };
    Ok(Publish { dup, qos, retain: flags & 1 != 0, topic, packet_id, payload: fields.0 })
}

/// Body of PUBACK, PUBREC, PUBREL and PUBCOMP.
#[inline]
fn acknowledged(mut body: &[u8]) -> Result<PacketId, Violation> {
    if body.len() > 2 {
        return Err(Violation::TrailingBytes);
    }
    let id = PacketIdentifier::decode(&mut body).map_err(|_| Violation::BodyTooShort)?;
    PacketId::new(id.0).ok_or(Violation::PacketIdZero)
}

fn subscribe(body: &[u8], limits: &Limits) -> Result<Subscribe, Violation> {
    let mut fields = Fields(body);
    let packet_id = packet_id(&mut fields)?;
    if fields.0.is_empty() {
        return Err(Violation::SubscribeWithoutFilter);
    }
    let (mut filters, mut beyond) = (Vec::new(), 0);
    while !fields.0.is_empty() {
        let filter = filter(&mut fields, Violation::SubscribeFilterNotUtf8)?;
        let refused = match TopicFilter::check_for_subscribe(filter, limits) {
            Err(violation) if !violation.refuses_one_filter() => return Err(violation),
            other => other,
        };
        let qos = fields.byte().ok_or(Violation::BodyTooShort)?;
        let qos = QoS::from_bits(qos).ok_or(Violation::SubscribeQos)?;
        if filters.len() < limits.max_filters {
            filters.push(refused.map(|()| (TopicFilter::from_checked(filter), qos)));
        } else {
            beyond += 1;
        }
    }
    Ok(Subscribe { packet_id, filters, beyond })
}

fn unsubscribe(body: &[u8]) -> Result<Unsubscribe<'_>, Violation> {
    let mut fields = Fields(body);
    let packet_id = packet_id(&mut fields)?;
    if fields.0.is_empty() {
        return Err(Violation::UnsubscribeWithoutFilter);
    }
    let filters = Filters(fields.clone());
    while !fields.0.is_empty() {
        let filter = filter(&mut fields, Violation::UnsubscribeFilterNotUtf8)?;
        TopicFilter::check(filter, &Limits::PROTOCOL)?;
    }
    Ok(Unsubscribe { packet_id, filters })
}

fn packet_id(fields: &mut Fields<'_>) -> Result<PacketId, Violation> {
    let id = fields.integer().ok_or(Violation::BodyTooShort)?;
    PacketId::new(id).ok_or(Violation::PacketIdZero)
}

fn filter<'a>(fields: &mut Fields<'a>, not_utf8: Violation) -> Result<&'a str, Violation> {
    let filter = fields.binary().ok_or(Violation::BodyTooShort)?;
    std::str::from_utf8(filter).map_err(|_| not_utf8)
}
