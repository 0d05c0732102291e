//! The record headers: what the mapping drops, and who a record is.
//!
//! | header | value | when |
//! |---|---|---|
//! | `mqtt.topic` | the MQTT topic | always |
//! | `mqtt.qos` | `0`, `1` or `2` | always |
//! | `mqtt.retain` | `1` | the publisher set RETAIN |
//! | `mqtt.client` | the publisher's client id | always |
//! | `hydrant.id` | `node/epoch/sequence` | always |
//! | `hydrant.outbox` | `lane/position` | the record came through the outbox |
//! | `mqtt.content-type`, `mqtt.response-topic`, `mqtt.correlation-data`, `mqtt.payload-format`, `mqtt.message-expiry` | as in MQTT 5 | the publisher set it |
//! | `mqtt.user.NAME` | the value | one for each user property, in order |
//!
//! Two records with the same `mqtt.client` and `hydrant.id` are the same message sent twice. All
//! values but the correlation data are text. Node, epoch and sequence share a header because each
//! header costs an allocation, about 20 bytes a record and their compression.

use hydrant_actors::ports::LogRecord;
use hydrant_protocol::QoS;
use rdkafka::message::{Header, OwnedHeaders};

/// Text on the stack, for numbers.
struct Text {
    bytes: [u8; 112],
    length: usize,
}

impl Text {
    const fn new() -> Self {
        Self { bytes: [0; 112], length: 0 }
    }

    /// Appends, cutting off what does not fit (a node id has at most 64 bytes, a number 20).
    fn push(&mut self, text: &[u8]) {
        let length = text.len().min(self.bytes.len() - self.length);
        self.bytes[self.length..self.length + length].copy_from_slice(&text[..length]);
        self.length += length;
    }

    fn push_number(&mut self, mut number: u64) {
        let mut digits = [0u8; 20];
        let mut at = digits.len();
        loop {
            at -= 1;
            digits[at] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        self.push(&digits[at..]);
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

fn add(headers: OwnedHeaders, key: &str, value: &[u8]) -> OwnedHeaders {
    headers.insert(Header { key, value: Some(value) })
}

/// The headers of one record.
pub(super) fn headers(record: &LogRecord, node_id: &str) -> OwnedHeaders {
    let properties = record.properties.as_deref();
    let extra = properties.map_or(0, |properties| properties.user.len() + 5);
    let mut headers = OwnedHeaders::new_with_capacity(6 + extra);
    headers = add(headers, "mqtt.topic", record.mqtt_topic.as_bytes());
    let qos: &[u8] = match record.qos {
        QoS::AtMostOnce => b"0",
        QoS::AtLeastOnce => b"1",
        QoS::ExactlyOnce => b"2",
    };
    headers = add(headers, "mqtt.qos", qos);
    if record.retain {
        headers = add(headers, "mqtt.retain", b"1");
    }
    headers = add(headers, "mqtt.client", record.client_id.as_bytes());
    let mut id = Text::new();
    id.push(node_id.as_bytes());
    id.push(b"/");
    id.push_number(record.epoch);
    id.push(b"/");
    id.push_number(record.sequence);
    headers = add(headers, "hydrant.id", id.as_bytes());
    if let Some(outbox) = record.outbox {
        let mut position = Text::new();
        position.push_number(u64::from(outbox.lane));
        position.push(b"/");
        position.push_number(outbox.position);
        headers = add(headers, "hydrant.outbox", position.as_bytes());
    }
    if let Some(properties) = properties {
        for (key, number) in [
            ("mqtt.payload-format", properties.payload_format.map(u64::from)),
            ("mqtt.message-expiry", properties.message_expiry.map(u64::from)),
        ] {
            if let Some(number) = number {
                let mut text = Text::new();
                text.push_number(number);
                headers = add(headers, key, text.as_bytes());
            }
        }
        for (key, text) in [
            ("mqtt.content-type", properties.content_type.as_deref()),
            ("mqtt.response-topic", properties.response_topic.as_deref()),
        ] {
            if let Some(text) = text {
                headers = add(headers, key, text.as_bytes());
            }
        }
        if let Some(data) = &properties.correlation_data {
            headers = add(headers, "mqtt.correlation-data", data);
        }
        let mut key = String::new();
        for (name, value) in &properties.user {
            key.clear();
            key.push_str("mqtt.user.");
            key.push_str(name);
            headers = add(headers, &key, value.as_bytes());
        }
    }
    headers
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use hydrant_actors::ports::OutboxPosition;
    use hydrant_protocol::Properties;
    use rdkafka::message::Headers;

    use super::*;

    fn record() -> LogRecord {
        LogRecord {
            id: 1,
            topic: "t".into(),
            key: None,
            payload: Bytes::new(),
            mqtt_topic: "device/1/t".into(),
            qos: QoS::ExactlyOnce,
            retain: false,
            client_id: "dev-1".into(),
            epoch: u64::MAX,
            sequence: 0,
            outbox: None,
            received_ms: 0,
            properties: None,
        }
    }

    fn read(record: &LogRecord) -> Vec<(String, String)> {
        let headers = headers(record, "n1");
        headers
            .iter()
            .map(|header| {
                let value = header.value.map(String::from_utf8_lossy).unwrap_or_default();
                (header.key.to_owned(), value.into_owned())
            })
            .collect()
    }

    #[test]
    fn a_plain_record_has_four() {
        let want = [
            ("mqtt.topic", "device/1/t"),
            ("mqtt.qos", "2"),
            ("mqtt.client", "dev-1"),
            ("hydrant.id", "n1/18446744073709551615/0"),
        ];
        assert_eq!(read(&record()), want.map(|(key, value)| (key.into(), value.into())));
    }

    #[test]
    fn mqtt_5_properties_arrive_in_order() {
        let mut record = record();
        record.retain = true;
        record.outbox = Some(OutboxPosition { lane: 7, position: 1234 });
        record.properties = Some(Arc::new(Properties {
            payload_format: Some(1),
            message_expiry: Some(60),
            content_type: Some("text/plain".into()),
            response_topic: Some("answer".into()),
            correlation_data: Some(Bytes::from_static(b"\x01")),
            user: vec![("a".into(), "1".into()), ("a".into(), "2".into())],
        }));
        let read = read(&record);
        for want in [
            ("mqtt.retain", "1"),
            ("hydrant.outbox", "7/1234"),
            ("mqtt.payload-format", "1"),
            ("mqtt.message-expiry", "60"),
            ("mqtt.content-type", "text/plain"),
            ("mqtt.response-topic", "answer"),
            ("mqtt.correlation-data", "\u{1}"),
        ] {
            assert!(read.contains(&(want.0.into(), want.1.into())), "{want:?} in {read:?}");
        }
        let user: Vec<_> =
            read.iter().filter(|(key, _)| key == "mqtt.user.a").map(|(_, v)| v.as_str()).collect();
        assert_eq!(user, ["1", "2"]);
    }
}
