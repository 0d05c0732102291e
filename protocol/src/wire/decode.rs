//! One complete body to a checked packet.
//!
//! PUBLISH is the hot path: decoded in place, one pass over the topic, no allocation. SUBSCRIBE,
//! UNSUBSCRIBE and the acknowledgements are decoded by `mqtt-protocol` over the body; before it
//! sees one, every announced length has been held against what is left of the body (it allocates
//! what is announced and underflows on short bodies), and the body is known to end with its fields.

use mqtt::control::variable_header::PacketIdentifier;
use mqtt::control::{ControlType, FixedHeader, PacketType};
use mqtt::packet::{SubscribePacket, UnsubscribePacket};
use mqtt::{Decodable, QualityOfService};

use super::{Limits, Packet, Publish, Subscribe, Unsubscribe, connect, kind};
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
            unsubscribe(body, limits).map(Packet::Unsubscribe)
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

/// Fields of a body, each held against what is left.
pub(super) struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    #[inline]
    pub fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(byte)
    }

    #[inline]
    pub fn integer(&mut self) -> Option<u16> {
        let (bytes, rest) = self.0.split_first_chunk::<2>()?;
        self.0 = rest;
        Some(u16::from_be_bytes(*bytes))
    }

    /// Two bytes of length and as many bytes.
    #[inline]
    pub fn binary(&mut self) -> Option<&'a [u8]> {
        let length = self.integer()?;
        let (bytes, rest) = self.0.split_at_checked(usize::from(length))?;
        self.0 = rest;
        Some(bytes)
    }
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

/// Walks the filters of a SUBSCRIBE (`with_qos`) or UNSUBSCRIBE without keeping any: lengths, count
/// and what the crate doesn't look at. The packet identifier comes back.
fn check_filters(
    body: &[u8],
    limits: &Limits,
    with_qos: bool,
    not_utf8: Violation,
) -> Result<PacketId, Violation> {
    let mut fields = Fields(body);
    let id = fields.integer().ok_or(Violation::BodyTooShort)?;
    let id = PacketId::new(id).ok_or(Violation::PacketIdZero)?;
    let mut count = 0usize;
    while !fields.0.is_empty() {
        count += 1;
        if count > limits.max_filters {
            return Err(Violation::TooManyFilters);
        }
        let filter = fields.binary().ok_or(Violation::BodyTooShort)?;
        if filter.len() > limits.max_topic_length {
            return Err(Violation::TopicTooLong);
        }
        let filter = std::str::from_utf8(filter).map_err(|_| not_utf8)?;
        TopicFilter::check(filter, limits)?;
        if with_qos {
            let qos = fields.byte().ok_or(Violation::BodyTooShort)?;
            if qos > 2 {
                return Err(Violation::SubscribeQos);
            }
        }
    }
    if count == 0 {
        return Err(if with_qos {
            Violation::SubscribeWithoutFilter
        } else {
            Violation::UnsubscribeWithoutFilter
        });
    }
    Ok(id)
}

/// The fixed header that the crate wants beside a body. `None` past the protocol's 256 MB.
fn header(control: ControlType, body: &[u8]) -> Option<FixedHeader> {
    let length = u32::try_from(body.len()).ok()?;
    (length <= 0x0fff_ffff).then(|| FixedHeader::new(PacketType::with_default(control), length))
}

fn subscribe(mut body: &[u8], limits: &Limits) -> Result<Subscribe, Violation> {
    let packet_id = check_filters(body, limits, true, Violation::SubscribeFilterNotUtf8)?;
    let header = header(ControlType::Subscribe, body).ok_or(Violation::PacketTooLarge)?;
    let packet = SubscribePacket::decode_with(&mut body, Some(header))
        .map_err(|_| Violation::ProtocolError)?;
    expect_empty(body)?;
    let filters = packet
        .subscribes()
        .iter()
        .map(|(filter, qos)| {
            let qos = match qos {
                QualityOfService::Level0 => QoS::AtMostOnce,
                QualityOfService::Level1 => QoS::AtLeastOnce,
                QualityOfService::Level2 => QoS::ExactlyOnce,
            };
            (TopicFilter::from_checked(filter), qos)
        })
        .collect();
    Ok(Subscribe { packet_id, filters })
}

fn unsubscribe(mut body: &[u8], limits: &Limits) -> Result<Unsubscribe, Violation> {
    let packet_id = check_filters(body, limits, false, Violation::UnsubscribeFilterNotUtf8)?;
    let header = header(ControlType::Unsubscribe, body).ok_or(Violation::PacketTooLarge)?;
    let packet = UnsubscribePacket::decode_with(&mut body, Some(header))
        .map_err(|_| Violation::ProtocolError)?;
    expect_empty(body)?;
    let filters =
        packet.subscribes().iter().map(|filter| TopicFilter::from_checked(filter)).collect();
    Ok(Unsubscribe { packet_id, filters })
}
