//! How large the record of one PUBLISH can get: what keeps `limits.max_packet_size` and
//! `kafka.message_max_bytes` together.
//!
//! A PUBLISH has its topic once. Its record can have it twice beside the payload: in the header
//! `mqtt.topic`, and as the key (whole in the overflow topic, else what a rule takes of it). The
//! client id comes with it, and what Kafka's format and the other headers take.

/// Names of the headers of [`super::headers`], those of MQTT 5 left out, and up to five bytes each for
/// the lengths of name and value.
const HEADER_NAMES: usize = 64 + 6 * 2 * 5;
/// Their values but topic and client id: QoS, RETAIN, `node/epoch/sequence`, `lane/position`.
const HEADER_VALUES: usize = 1 + 1 + (64 + 1 + 20 + 1 + 20) + (5 + 1 + 20);
/// A record in its batch, without its parts: numbers of variable length, as librdkafka counts them.
const RECORD: usize = 36;
/// A batch without its records, which Kafka's `message.max.bytes` counts as well.
const BATCH: usize = 61;

/// What the largest record has more than its packet. All are bytes: `limits.max_topic_length`,
/// `limits.max_client_id_length`, and the fixed text of the longest key of a route.
pub const fn overhead(topic: usize, client_id: usize, key_text: usize) -> usize {
    BATCH + RECORD + HEADER_NAMES + HEADER_VALUES + topic + client_id + key_text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use bytes::Bytes;
    use hydrant_actors::ports::{LogRecord, OutboxPosition};
    use hydrant_protocol::{PacketId, QoS, wire};
    use rdkafka::message::Headers;

    use super::*;
    use crate::kafka::headers::headers;

    #[test]
    fn the_largest_record_is_no_larger_than_said() {
        for (topic, payload) in [(1, 5_000), (5_000, 1), (2_000, 3_000)] {
            let topic = "t".repeat(topic);
            let payload = vec![0; payload];
            let mut packet = Vec::new();
            let (qos, id) = (QoS::AtLeastOnce, Some(PacketId::MIN));
            wire::put_publish(&mut packet, &topic, &payload, qos, false, true, id);
            let record = LogRecord {
                id: 0,
                topic: "mqtt.overflow".into(),
                key: Some(Bytes::copy_from_slice(topic.as_bytes())),
                payload: payload.into(),
                mqtt_topic: topic.as_str().into(),
                qos,
                retain: true,
                client_id: "c".repeat(1_024).into(),
                epoch: u64::MAX,
                sequence: u64::MAX,
                outbox: Some(OutboxPosition { lane: u16::MAX, position: u64::MAX }),
                received_ms: 0,
                properties: None,
            };
            let headers = headers(&record, &"n".repeat(64));
            let parts = headers.iter().map(|h| h.key.len() + h.value.unwrap().len() + 10);
            let size = parts.sum::<usize>() + record.payload.len() + topic.len() + RECORD + BATCH;
            let said = packet.len() + overhead(topic.len(), 1_024, 0);
            assert!(size <= said && said - size < 16, "{size} of {said}");
        }
    }
}
