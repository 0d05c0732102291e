//! CONNECT, 3.1.1 and 3.1.
//!
//! Its fields are walked and checked first, because `mqtt-protocol` looks neither at will flags nor
//! at U+0000, and allocates each announced length. Then the crate decodes them. It takes passwords
//! for strings while the standard allows any bytes ([MQTT 3.1.1 section 3.1.3.5]); so the password
//! is taken from the walk, and the crate sees the packet without it.

use std::io::Read;
use std::sync::Arc;

use bytes::Bytes;
use mqtt::Decodable;
use mqtt::control::{ControlType, FixedHeader, PacketType};
use mqtt::packet::ConnectPacket;

use super::characters::has_control_characters;
use super::fields::Fields;
use super::packet::{Connect, Version, Will};
use crate::limits::Limits;
use crate::topic::check_topic_name;
use crate::{QoS, Violation};

const CLEAN_SESSION: u8 = 0b0000_0010;
const WILL: u8 = 0b0000_0100;
const WILL_QOS: u8 = 0b0001_1000;
const WILL_RETAIN: u8 = 0b0010_0000;
const PASSWORD: u8 = 0b0100_0000;
const USER_NAME: u8 = 0b1000_0000;

pub(super) fn connect(
    header_flags: u8,
    body: &[u8],
    limits: &Limits,
) -> Result<Connect, Violation> {
    let mut fields = Fields(body);
    let name = fields.binary().ok_or(Violation::BodyTooShort)?;
    let name = std::str::from_utf8(name).map_err(|_| Violation::IllFormedUtf8)?;
    if name != "MQTT" && name != "MQIsdp" {
        return Err(Violation::ProtocolName);
    }
    let version = match (name, fields.byte().ok_or(Violation::BodyTooShort)?) {
        ("MQTT", 4) => Version::V311,
        ("MQIsdp", 3) => Version::V31,
        _ => return Err(Violation::UnacceptableProtocolLevel),
    };
    let flags_at = body.len() - fields.0.len();
    let mut flags = fields.byte().ok_or(Violation::BodyTooShort)?;
    if version == Version::V31 {
        // 3.1 leaves the header's flags and bit 0 unused instead of zero.
        flags &= !1;
    } else if header_flags != 0 {
        return Err(Violation::ReservedFlags);
    }
    check_flags(flags)?;
    fields.integer().ok_or(Violation::BodyTooShort)?;

    let client_id = fields.binary().ok_or(Violation::ClientIdMissing)?;
    check_string(client_id, limits, Violation::ClientIdNotUtf8)?;
    if flags & WILL != 0 {
        let topic = fields.binary().ok_or(Violation::WillFieldsMissing)?;
        let topic = check_string(topic, limits, Violation::WillTopicNotUtf8)?;
        check_topic_name(topic, limits).map_err(|violation| match violation {
            Violation::WildcardInTopicName => Violation::WildcardInWillTopic,
            other => other,
        })?;
        fields.binary().ok_or(Violation::WillFieldsMissing)?;
    }
    if flags & USER_NAME != 0 {
        let user = fields.binary().ok_or(Violation::UserNameMissing)?;
        check_string(user, limits, Violation::UserNameNotUtf8)?;
    }
    let password_at = body.len() - fields.0.len();
    let password = if flags & PASSWORD != 0 {
        Some(fields.binary().ok_or(Violation::PasswordMissing)?)
    } else {
        None
    };
    if !fields.0.is_empty() {
        return Err(Violation::ConnectUnannouncedField);
    }
    if client_id.is_empty() && (version == Version::V31 || flags & CLEAN_SESSION == 0) {
        return Err(Violation::IdentifierRejected);
    }

    let without_password = [flags & !PASSWORD];
    let mut reader =
        body[..flags_at].chain(&without_password[..]).chain(&body[flags_at + 1..password_at]);
    // ConnectPacket doesn't use the length of the header, and we don't the packet's header.
    let header = FixedHeader::new(PacketType::with_default(ControlType::Connect), 0);
    let packet = ConnectPacket::decode_with(&mut reader, Some(header))
        .map_err(|_| Violation::ProtocolError)?;
    if !matches!(reader.read(&mut [0]), Ok(0)) {
        return Err(Violation::TrailingBytes);
    }
    let will = match packet.will() {
        None => None,
        Some((topic, payload)) => Some(Will {
            topic: Arc::from(topic),
            payload: Bytes::copy_from_slice(payload),
            qos: QoS::from_bits(packet.will_qos()).ok_or(Violation::WillQosThree)?,
            retain: packet.will_retain(),
        }),
    };
    Ok(Connect {
        version,
        client_id: Arc::from(packet.client_identifier()),
        clean_session: packet.clean_session(),
        keep_alive: packet.keep_alive(),
        will,
        username: packet.user_name().map(Arc::from),
        password: password.map(Bytes::copy_from_slice),
    })
}

fn check_flags(flags: u8) -> Result<(), Violation> {
    if flags & 1 != 0 {
        return Err(Violation::ConnectReservedFlag);
    }
    if flags & WILL == 0 {
        if flags & WILL_QOS != 0 {
            return Err(Violation::WillQosWithoutWill);
        }
        if flags & WILL_RETAIN != 0 {
            return Err(Violation::WillRetainWithoutWill);
        }
    } else if flags & WILL_QOS == WILL_QOS {
        return Err(Violation::WillQosThree);
    }
    if flags & PASSWORD != 0 && flags & USER_NAME == 0 {
        return Err(Violation::PasswordWithoutUserName);
    }
    Ok(())
}

fn check_string<'a>(
    bytes: &'a [u8],
    limits: &Limits,
    not_utf8: Violation,
) -> Result<&'a str, Violation> {
    let text = std::str::from_utf8(bytes).map_err(|_| not_utf8)?;
    if bytes.contains(&0) {
        return Err(Violation::NullCharacter);
    }
    if !limits.control_characters && has_control_characters(text) {
        return Err(Violation::ControlCharacter);
    }
    Ok(text)
}
