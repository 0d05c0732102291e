//! Bytes to packets of a broker, as a client reads them.

use hydrant_protocol::{PacketId, QoS};

/// A packet of the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromBroker {
    Connack {
        present: bool,
        code: u8,
    },
    Publish {
        qos: QoS,
        dup: bool,
        retain: bool,
        id: Option<PacketId>,
        topic: String,
        payload: Vec<u8>,
    },
    Puback(PacketId),
    Pubrec(PacketId),
    Pubrel(PacketId),
    Pubcomp(PacketId),
    Suback(PacketId, Vec<u8>),
    Unsuback(PacketId),
    Other(u8),
}

fn id(body: &[u8]) -> Option<PacketId> {
    PacketId::new(u16::from_be_bytes(body.get(..2)?.try_into().ok()?))
}

/// The first packet, and how many bytes it takes; `None`: it is not whole.
pub fn next_packet(input: &[u8]) -> Option<(FromBroker, usize)> {
    let first = *input.first()?;
    let (mut length, mut shift, mut at) = (0_usize, 0, 1);
    loop {
        let byte = *input.get(at)?;
        at += 1;
        length |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            break;
        }
    }
    let body = input.get(at..at + length)?;
    Some((packet(first, body).unwrap_or(FromBroker::Other(first)), at + length))
}

fn packet(first: u8, body: &[u8]) -> Option<FromBroker> {
    Some(match first >> 4 {
        2 => FromBroker::Connack { present: body.first()? & 1 == 1, code: *body.get(1)? },
        3 => {
            let length = usize::from(u16::from_be_bytes(body.get(..2)?.try_into().ok()?));
            let topic = String::from_utf8(body.get(2..2 + length)?.to_vec()).ok()?;
            let rest = &body[2 + length..];
            let qos = match first >> 1 & 3 {
                0 => QoS::AtMostOnce,
                1 => QoS::AtLeastOnce,
                _ => QoS::ExactlyOnce,
            };
            let (id, payload) = match qos {
                QoS::AtMostOnce => (None, rest),
                _ => (Some(id(rest)?), &rest[2..]),
            };
            let (dup, retain) = (first & 8 != 0, first & 1 != 0);
            FromBroker::Publish { qos, dup, retain, id, topic, payload: payload.to_vec() }
        }
        4 => FromBroker::Puback(id(body)?),
        5 => FromBroker::Pubrec(id(body)?),
        6 => FromBroker::Pubrel(id(body)?),
        7 => FromBroker::Pubcomp(id(body)?),
        9 => FromBroker::Suback(id(body)?, body.get(2..)?.to_vec()),
        11 => FromBroker::Unsuback(id(body)?),
        _ => return None,
    })
}
