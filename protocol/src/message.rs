//! One application message and its parts, neutral to the protocol version.
//!
//! MQTT 3.1.1 fills no [`Properties`]; the field exists so that MQTT 5 reaches the session store
//! and the Kafka headers without another type.

use std::num::NonZeroU16;
use std::sync::Arc;

use bytes::Bytes;

/// Quality of Service of a delivery (MQTT 3.1.1 section 4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(u8)]
pub enum QoS {
    /// Fire and forget.
    #[default]
    AtMostOnce = 0,
    /// Acknowledged; can come twice.
    AtLeastOnce = 1,
    /// Assured; comes once.
    ExactlyOnce = 2,
}

impl QoS {
    /// The level behind two bits of a packet; `None` for the illegal value 3 ([MQTT-3.3.1-4]).
    pub const fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            2 => Some(Self::ExactlyOnce),
            _ => None,
        }
    }
}

/// A packet identifier, never zero ([MQTT-2.3.1-1]).
pub type PacketId = NonZeroU16;

/// What MQTT 5 attaches to a message. Bounded by the size of the packet it came in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Properties {
    /// 1 when the payload is UTF-8 text.
    pub payload_format: Option<u8>,
    /// Seconds that the message may wait.
    pub message_expiry: Option<u32>,
    /// MIME type, as the publisher gave it.
    pub content_type: Option<Arc<str>>,
    /// Where an answer is expected.
    pub response_topic: Option<Arc<str>>,
    /// What an answer has to repeat.
    pub correlation_data: Option<Bytes>,
    /// Name and value, in the order given, names may repeat.
    pub user: Vec<(Arc<str>, Arc<str>)>,
}

/// One application message as its publisher sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Checked: valid UTF-8, no NUL, no wildcard, 1 to 65,535 bytes.
    pub topic: Arc<str>,
    /// The payload, opaque.
    pub payload: Bytes,
    /// QoS of the publisher's PUBLISH.
    pub qos: QoS,
    /// RETAIN of the publisher's PUBLISH.
    pub retain: bool,
    /// MQTT 5 properties, where there were any.
    pub properties: Option<Arc<Properties>>,
}

impl Message {
    /// Bytes that this message is counted with against every bound: topic, payload and a flat
    /// 64 for the bookkeeping around them.
    pub fn cost(&self) -> usize {
        self.topic.len() + self.payload.len() + 64
    }
}

/// What has happened to a message before its publisher gets PUBACK or PUBREC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum AckLevel {
    /// The node has it in memory; lost with the node.
    Accepted,
    /// The session store has it: queue entries and the outbox entry.
    #[default]
    Stored,
    /// Kafka has acknowledged it.
    Kafka,
}

/// What becomes of a record that Kafka refuses for good and whose publisher waits for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum OnRefused {
    /// It is kept as a dead letter, and acknowledged once that is durable.
    #[default]
    DeadLetter,
    /// It is not acknowledged, and its publisher is disconnected.
    Disconnect,
}

impl OnRefused {
    /// The name that config and command line use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::DeadLetter => "dead-letter",
            Self::Disconnect => "disconnect",
        }
    }
}

impl AckLevel {
    /// The name that config and command line use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Stored => "stored",
            Self::Kafka => "kafka",
        }
    }
}
