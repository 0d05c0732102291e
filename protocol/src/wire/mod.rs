//! Bytes to checked packets and back: MQTT 3.1.1, and 3.1's CONNECT.
//!
//! The framing is ours ([`next_frame`]): the announced length is held against the limit before a
//! body exists, so nobody makes the broker allocate what he merely announces. [`decode`] sees one
//! complete body and consumes it exactly. PUBLISH is decoded in place without an allocation; the
//! other packets go through the crate `mqtt-protocol`, after checks of our own for what it takes
//! wrongly. Past [`decode`] nobody checks again: strings are UTF-8 without U+0000, topics and
//! filters legal and within [`Limits`], packet identifiers not zero.
//!
//! Encoders append to a `Vec<u8>` of the caller and allocate nothing else.

mod client;
mod connect;
mod decode;
mod encode;
mod frame;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::Bytes;

use crate::topic::TopicFilter;
use crate::{PacketId, QoS};

pub use client::{put_connect, put_disconnect, put_pingreq, put_subscribe, put_unsubscribe};
pub use decode::{decode, first_byte_of_v31};
pub use encode::{
    SUBACK_FAILURE, publish_len, put_connack, put_pingresp, put_puback, put_pubcomp, put_publish,
    put_pubrec, put_pubrel, put_suback, put_unsuback,
};
pub use frame::{Frame, next_frame};

/// Protocol version of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Version {
    /// MQTT 3.1: name `MQIsdp`, level 3.
    V31,
    /// MQTT 3.1.1: name `MQTT`, level 4.
    V311,
}

/// What one packet may hold. Sizes are bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Whole packet with its fixed header.
    pub max_packet_size: usize,
    /// A topic name or filter.
    pub max_topic_length: usize,
    /// Levels of a topic name or filter.
    pub max_topic_levels: usize,
    /// Filters in one SUBSCRIBE or UNSUBSCRIBE.
    pub max_filters: usize,
}

impl Limits {
    /// What the standard itself allows; for what was checked before, such as the store's content.
    pub const PROTOCOL: Self = Self {
        max_packet_size: 5 + 268_435_455,
        max_topic_length: 65_535,
        max_topic_levels: 65_536,
        max_filters: usize::MAX,
    };
}

/// A checked packet a client may send. Borrows the payload of PUBLISH.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet<'a> {
    /// CONNECT.
    Connect(Box<Connect>),
    /// PUBLISH.
    Publish(Publish<'a>),
    /// PUBACK: the client has an outgoing QoS 1 message.
    Puback(PacketId),
    /// PUBREC: the client has an outgoing QoS 2 message.
    Pubrec(PacketId),
    /// PUBREL: the client releases an incoming QoS 2 message.
    Pubrel(PacketId),
    /// PUBCOMP: the client is done with an outgoing QoS 2 message.
    Pubcomp(PacketId),
    /// SUBSCRIBE.
    Subscribe(Subscribe),
    /// UNSUBSCRIBE.
    Unsubscribe(Unsubscribe),
    /// PINGREQ.
    Pingreq,
    /// DISCONNECT.
    Disconnect,
}

/// PUBLISH, in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Publish<'a> {
    /// A retransmission; never set with QoS 0.
    pub dup: bool,
    /// Quality of service.
    pub qos: QoS,
    /// To be kept for later subscribers.
    pub retain: bool,
    /// Checked topic name.
    pub topic: &'a str,
    /// Present exactly when the QoS is above 0.
    pub packet_id: Option<PacketId>,
    /// The payload, may be empty.
    pub payload: &'a [u8],
}

/// CONNECT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connect {
    /// Protocol version.
    pub version: Version,
    /// May be empty, only with [`Version::V311`] and `clean_session`. Its length is the caller's
    /// to limit.
    pub client_id: Arc<str>,
    /// The session ends with the connection.
    pub clean_session: bool,
    /// Seconds; 0 switches it off.
    pub keep_alive: u16,
    /// Last Will.
    pub will: Option<Will>,
    /// User name.
    pub username: Option<Arc<str>>,
    /// Password, any bytes; only with a user name.
    pub password: Option<Bytes>,
}

/// Last Will.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Will {
    /// Checked topic name.
    pub topic: Arc<str>,
    /// The payload, may be empty.
    pub payload: Bytes,
    /// Quality of service.
    pub qos: QoS,
    /// RETAIN of the publish.
    pub retain: bool,
}

/// SUBSCRIBE: at least one filter, at most [`Limits::max_filters`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscribe {
    /// Repeated in the SUBACK.
    pub packet_id: PacketId,
    /// Filters and the QoS asked for, in the packet's order.
    pub filters: Vec<(TopicFilter, QoS)>,
}

/// UNSUBSCRIBE: at least one filter, at most [`Limits::max_filters`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsubscribe {
    /// Repeated in the UNSUBACK.
    pub packet_id: PacketId,
    /// Filters, in the packet's order.
    pub filters: Vec<TopicFilter>,
}

/// Packet types by the upper four bits of the first byte (MQTT 3.1.1 table 2.1).
mod kind {
    pub const CONNECT: u8 = 1;
    pub const CONNACK: u8 = 2;
    pub const PUBLISH: u8 = 3;
    pub const PUBACK: u8 = 4;
    pub const PUBREC: u8 = 5;
    pub const PUBREL: u8 = 6;
    pub const PUBCOMP: u8 = 7;
    pub const SUBSCRIBE: u8 = 8;
    pub const SUBACK: u8 = 9;
    pub const UNSUBSCRIBE: u8 = 10;
    pub const UNSUBACK: u8 = 11;
    pub const PINGREQ: u8 = 12;
    pub const PINGRESP: u8 = 13;
    pub const DISCONNECT: u8 = 14;
}
