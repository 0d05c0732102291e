//! What must hold between the mapping, the limits of a client and Kafka's: the size of a record, and
//! the overflow topic.

use std::sync::Arc;

use hydrant_actors::settings::LogKind;
use hydrant_protocol::mapping::Mapping;

use super::reader::Reader;
use crate::kafka::overhead;

/// `kafka.overflow_topic`, which no rule may make with other keys: two MQTT topics would share a
/// topic and key.
pub(super) fn overflow_topic(
    r: &mut Reader<'_>,
    kind: LogKind,
    mapping: Option<&Mapping>,
) -> Option<Arc<str>> {
    const KEY: &str = "kafka.overflow_topic";
    let name = r.text(KEY);
    if name.is_empty() || kind != LogKind::Kafka || r.effective.bad.contains(KEY) {
        return None;
    }
    if let Some(by) = mapping.and_then(|mapping| mapping.makes(name)) {
        let origin = r.origin(KEY);
        r.errors.push(
            origin,
            format!(
                "{KEY} = \"{name}\" is a topic that {by} makes, so that two MQTT topics would make the \
                 same topic and key: take another name, with a '.' in it"
            ),
        );
    }
    Some(name.into())
}

/// The record of every packet that a client may send fits into Kafka.
pub(super) fn fit(r: &mut Reader<'_>, wanted: bool) {
    let [packet_key, message_key] = ["limits.max_packet_size", "kafka.message_max_bytes"];
    let (packet, message): (usize, usize) = (r.number(packet_key), r.number(message_key));
    let topic = r.number::<usize>("limits.max_topic_length").min(packet);
    let routes = r.effective.routes.iter();
    let key_text = routes.filter_map(|route| route.config.key.as_ref()).map(String::len).max();
    let client_id = r.number("limits.max_client_id_length");
    let more = overhead(topic, client_id, key_text.unwrap_or(0));
    let record = packet.saturating_add(more);
    r.cross(
        !wanted || record <= message,
        [packet_key, message_key],
        &format!(
            "{packet_key} = {packet} can make a record of {record} bytes, with topic and client id in its key \
             and headers, and {message_key} = {message}: set {packet_key} to {} or less, or raise {message_key} \
             with max.message.bytes of topics that others make",
            message.saturating_sub(more)
        ),
    );
}
