//! The packets as data, checked. What they borrow stands in the body that they were decoded from.

use std::sync::Arc;

use bytes::Bytes;

use super::fields::Fields;
use crate::topic::TopicFilter;
use crate::{PacketId, QoS, Violation};

/// Protocol version of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Version {
    /// MQTT 3.1: name `MQIsdp`, level 3.
    V31,
    /// MQTT 3.1.1: name `MQTT`, level 4.
    V311,
}

/// A checked packet a client may send. Borrows the payload of PUBLISH and the filters of UNSUBSCRIBE.
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
    Unsubscribe(Unsubscribe<'a>),
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

/// SUBSCRIBE: at least one filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscribe {
    /// Repeated in the SUBACK.
    pub packet_id: PacketId,
    /// Filters and the QoS asked for, or why a filter is refused; in the packet's order. At most
    /// [`Limits::max_filters`](super::Limits::max_filters).
    pub filters: Vec<Result<(TopicFilter, QoS), Violation>>,
    /// So many more stood in the packet. All of them are refused.
    pub beyond: usize,
}

/// UNSUBSCRIBE: at least one filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsubscribe<'a> {
    /// Repeated in the UNSUBACK.
    pub packet_id: PacketId,
    /// Filters, in the packet's order. Any that is well-formed: a session may have one from before a limit.
    pub filters: Filters<'a>,
}

/// The filters of an UNSUBSCRIBE, checked and left where they are: so any number of them costs no memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filters<'a>(pub(super) Fields<'a>);

impl<'a> Iterator for Filters<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.0.binary()?).ok()
    }
}
