//! Records for the message log, and what it reports of them.

use std::sync::Arc;

use bytes::Bytes;
use hydrant_protocol::{Properties, QoS};

/// Where a record stands in the outbox: lane, and its number in the lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OutboxPosition {
    /// Hash lane of the record's topic and key.
    pub lane: u16,
    /// 0, 1, 2 … without gaps within a node incarnation's lane.
    pub position: u64,
}

/// One record for the log. Cloning costs reference counts only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecord {
    /// Chosen by the sender; the [`Report`] repeats it.
    pub id: u64,
    /// Kafka topic, legal and at most 249 characters.
    pub topic: Arc<str>,
    /// Kafka key; `None` is a null key.
    pub key: Option<Bytes>,
    /// The MQTT payload, unchanged.
    pub payload: Bytes,
    /// The MQTT topic.
    pub mqtt_topic: Arc<str>,
    /// QoS of the publisher's PUBLISH.
    pub qos: QoS,
    /// RETAIN of the publisher's PUBLISH.
    pub retain: bool,
    /// The publisher.
    pub client_id: Arc<str>,
    /// Epoch of the publisher's session: rises at every CONNECT.
    pub epoch: u64,
    /// Number of the message within the publisher's epoch.
    pub sequence: u64,
    /// Where the outbox holds it; `None` for QoS 0 and `ack = "kafka"`.
    pub outbox: Option<OutboxPosition>,
    /// When the broker received it, milliseconds since the Unix epoch.
    pub received_ms: u64,
    /// MQTT 5 properties, where there were any.
    pub properties: Option<Arc<Properties>>,
}

impl LogRecord {
    /// Bytes that this record is counted with against every bound.
    pub fn cost(&self) -> usize {
        self.topic.len()
            + self.key.as_ref().map_or(0, Bytes::len)
            + self.payload.len()
            + self.mqtt_topic.len()
            + self.client_id.len()
            + 160
    }
}

#[cfg(any(test, feature = "for-tests"))]
impl LogRecord {
    /// The record of an empty publish of client `c` to topic `t`.
    pub fn for_tests(sequence: u64) -> Self {
        Self {
            id: 0,
            topic: "t".into(),
            key: None,
            payload: Bytes::new(),
            mqtt_topic: "t".into(),
            qos: QoS::AtLeastOnce,
            retain: false,
            client_id: "c".into(),
            epoch: 0,
            sequence,
            outbox: None,
            received_ms: 0,
            properties: None,
        }
    }
}

/// How one record fared. Every record handed to `MessageLog::append` gets exactly one.
#[derive(Debug, Clone)]
pub struct Report {
    /// The record's id.
    pub id: u64,
    /// `Ok` once the log has acknowledged it durably.
    pub result: Result<(), LogError>,
}

/// Why the log did not take a record.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LogError {
    /// For now: the record may be sent again, after `MessageLog::reset` and in order.
    #[error("the log is not available: {0}")]
    Unavailable(String),
    /// Never: sending it again will not help (too large, topic not allowed to exist).
    #[error("the log refuses the record: {0}")]
    Refused(String),
}

/// Where the records of a topic may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// To the topic itself: it exists, or will be made. This holds for as long as the log runs.
    Own,
    /// The topic would be one more than a cap allows.
    Beyond {
        /// The configuration key of the cap.
        cap: &'static str,
        /// For every client; otherwise another client may still have it made.
        everybody: bool,
    },
}
