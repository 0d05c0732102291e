//! What the cases share: how they wait and write, and what they write.

use std::sync::Arc;

use bytes::Bytes;
use hydrant_actors::ports::{
    LogOp, LogRecord, OutboxPosition, QueueEntry, SessionOp, SessionStore, StoreFuture, StoreOp,
};
use hydrant_protocol::{Message, PacketId, Properties, QoS};

/// Opens a case's store.
pub type Open<'a> = dyn Fn() -> Arc<dyn SessionStore> + 'a;

/// What a case does with its store.
pub type Case = fn(&Open<'_>);

/// Waits for a store's answer.
pub fn wait<T>(future: StoreFuture<T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future).unwrap()
}

/// Writes and waits.
pub fn write(store: &Arc<dyn SessionStore>, ops: Vec<StoreOp>) {
    wait(store.write(Arc::new(ops)));
}

pub(super) fn messages(store: &Arc<dyn SessionStore>) -> Vec<Arc<Message>> {
    wait(store.retained()).into_iter().map(|(message, _)| message).collect()
}

/// A message with every MQTT 5 property.
pub fn message(topic: &str, payload: &str, retain: bool) -> Arc<Message> {
    Arc::new(Message {
        topic: topic.into(),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        qos: QoS::ExactlyOnce,
        retain,
        properties: Some(Arc::new(Properties {
            payload_format: Some(1),
            message_expiry: Some(60),
            content_type: Some("text/plain".into()),
            response_topic: Some("answer".into()),
            correlation_data: Some(Bytes::from_static(&[0, 255])),
            user: vec![("a".into(), "1".into()), ("a".into(), "2".into())],
        })),
    })
}

/// The record at a position of an outbox.
pub fn record(topic: &str, position: u64) -> LogRecord {
    LogRecord {
        id: position,
        topic: topic.into(),
        key: position.is_multiple_of(2).then(|| Bytes::from(format!("key{position}"))),
        payload: Bytes::from(format!("payload {position}")),
        mqtt_topic: "device/1/x".into(),
        qos: QoS::AtLeastOnce,
        retain: false,
        client_id: "device".into(),
        epoch: 3,
        sequence: position + 10,
        outbox: None,
        received_ms: 1_700_000_000_000,
        properties: position.is_multiple_of(3).then(|| Arc::new(Properties::default())),
    }
}

pub(super) fn entry(sequence: u64) -> QueueEntry {
    let message = message("q/topic", &format!("message {sequence}"), false);
    QueueEntry { sequence, qos: QoS::AtLeastOnce, retain: sequence == 2, message, outgoing: None }
}

pub(super) fn put_session(id: u64) -> StoreOp {
    StoreOp::Session(SessionOp::PutSession {
        id,
        client_id: format!("client{id}").into(),
        epoch: id + 1,
        disconnected_ms: Some(5),
    })
}

pub(super) fn put_outbox(lane: u16, positions: std::ops::Range<u64>) -> Vec<StoreOp> {
    positions
        .map(|position| {
            StoreOp::Log(LogOp::PutOutbox {
                record: record("t", position),
                position: OutboxPosition { lane, position },
            })
        })
        .collect()
}

pub(super) fn packet(id: u16) -> PacketId {
    PacketId::new(id).unwrap()
}
