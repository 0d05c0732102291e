//! The bytes of stored values: postcard behind a version byte.
//!
//! Log and outbox records are packed: one row holds a run of consecutive records, its key being the
//! position of the first. A row reaches at most to the next row's key; so what a write that was
//! reported as failed left behind is hidden by its repetition, however that one is packed.

use std::sync::Arc;

use bytes::Bytes;
use hydrant_actors::ports::{
    DeadId, DeadLetter, LogRecord, PreparedPublish, StoreError, StoredSubscription,
};
use hydrant_protocol::cluster::message::PublishId;
use hydrant_protocol::{Message, PacketId, Properties, QoS};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Version byte of every value.
const VERSION: u8 = 1;
/// A packed row is closed past so many bytes.
pub(crate) const ROW_MAX: usize = 128 << 10;

/// Why stored bytes could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RowError {
    #[error("a stored value has version {0}, this broker knows {VERSION}")]
    Version(u8),
    #[error("a stored value is damaged: {0}")]
    Damaged(#[from] postcard::Error),
    #[error("a stored value is too short")]
    Short,
    #[error("a stored value stands under the key of another")]
    Key,
}

/// Stored bytes that make no sense: nobody should write on.
pub(crate) fn damaged(error: RowError) -> StoreError {
    StoreError::Unusable(error.to_string())
}

#[derive(Serialize, Deserialize)]
struct PropertiesRow<'a> {
    payload_format: Option<u8>,
    message_expiry: Option<u32>,
    #[serde(borrow)]
    content_type: Option<&'a str>,
    response_topic: Option<&'a str>,
    #[serde(borrow)]
    correlation_data: Option<&'a serde_bytes::Bytes>,
    user: Vec<(&'a str, &'a str)>,
}

#[derive(Serialize, Deserialize)]
struct MessageRow<'a> {
    flags: u8,
    topic: &'a str,
    #[serde(borrow)]
    payload: &'a serde_bytes::Bytes,
    #[serde(borrow)]
    properties: Option<PropertiesRow<'a>>,
}

#[derive(Serialize, Deserialize)]
struct RecordRow<'a> {
    flags: u8,
    epoch: u64,
    sequence: u64,
    received_ms: u64,
    topic: &'a str,
    #[serde(borrow)]
    key: Option<&'a serde_bytes::Bytes>,
    #[serde(borrow)]
    payload: &'a serde_bytes::Bytes,
    mqtt_topic: &'a str,
    client_id: &'a str,
    #[serde(borrow)]
    properties: Option<PropertiesRow<'a>>,
}

const fn flags(qos: QoS, retain: bool) -> u8 {
    qos as u8 | (retain as u8) << 2
}

fn from_flags(flags: u8) -> Result<(QoS, bool), RowError> {
    let qos = QoS::from_bits(flags & 3).ok_or(postcard::Error::DeserializeBadEncoding)?;
    Ok((qos, flags & 4 != 0))
}

impl<'a> From<&'a Properties> for PropertiesRow<'a> {
    fn from(from: &'a Properties) -> Self {
        Self {
            payload_format: from.payload_format,
            message_expiry: from.message_expiry,
            content_type: from.content_type.as_deref(),
            response_topic: from.response_topic.as_deref(),
            correlation_data: from.correlation_data.as_deref().map(serde_bytes::Bytes::new),
            user: from.user.iter().map(|(name, value)| (&**name, &**value)).collect(),
        }
    }
}

impl PropertiesRow<'_> {
    fn to_properties(&self) -> Arc<Properties> {
        Arc::new(Properties {
            payload_format: self.payload_format,
            message_expiry: self.message_expiry,
            content_type: self.content_type.map(Arc::from),
            response_topic: self.response_topic.map(Arc::from),
            correlation_data: self.correlation_data.map(|b| Bytes::copy_from_slice(b)),
            user: self.user.iter().map(|(n, v)| (Arc::from(*n), Arc::from(*v))).collect(),
        })
    }
}

/// Writes any serde value behind the version byte.
pub(crate) fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, RowError> {
    Ok(postcard::to_extend(value, vec![VERSION])?)
}

/// Reads what [`encode`] wrote.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, RowError> {
    Ok(postcard::from_bytes(body(bytes)?)?)
}

fn body(bytes: &[u8]) -> Result<&[u8], RowError> {
    match bytes.split_first() {
        Some((&VERSION, rest)) => Ok(rest),
        Some((&other, _)) => Err(RowError::Version(other)),
        None => Err(RowError::Short),
    }
}

/// A message together with the QoS and RETAIN of its delivery.
pub(crate) fn encode_message(
    message: &Message,
    qos: QoS,
    retain: bool,
) -> Result<Vec<u8>, RowError> {
    let row = MessageRow {
        flags: flags(message.qos, message.retain) | flags(qos, retain) << 3,
        topic: &message.topic,
        payload: serde_bytes::Bytes::new(&message.payload),
        properties: message.properties.as_deref().map(PropertiesRow::from),
    };
    let mut bytes = Vec::with_capacity(message.cost());
    bytes.push(VERSION);
    Ok(postcard::to_extend(&row, bytes)?)
}

/// Reads what [`encode_message`] wrote.
pub(crate) fn decode_message(bytes: &[u8]) -> Result<(Arc<Message>, QoS, bool), RowError> {
    let row: MessageRow<'_> = postcard::from_bytes(body(bytes)?)?;
    let (qos, retain) = from_flags(row.flags)?;
    let (delivery_qos, delivery_retain) = from_flags(row.flags >> 3)?;
    let message = Message {
        topic: Arc::from(row.topic),
        payload: Bytes::copy_from_slice(row.payload),
        qos,
        retain,
        properties: row.properties.as_ref().map(PropertiesRow::to_properties),
    };
    Ok((Arc::new(message), delivery_qos, delivery_retain))
}

#[derive(Serialize, Deserialize)]
struct OpenRow<'a> {
    session: Option<u64>,
    packet_id: u16,
    publisher: &'a str,
    record: Option<(u64, u64)>,
    #[serde(borrow)]
    message: &'a serde_bytes::Bytes,
}

/// A prepared publish without its key and without what changes.
pub(crate) fn encode_prepared(prepared: &PreparedPublish) -> Result<Vec<u8>, RowError> {
    let message = encode_message(&prepared.message, prepared.message.qos, prepared.retain)?;
    encode(&OpenRow {
        session: prepared.session,
        packet_id: prepared.packet_id.get(),
        publisher: &prepared.publisher,
        record: prepared.record,
        message: serde_bytes::Bytes::new(&message),
    })
}

/// A subscription. What it is owed stands behind it, so that one that is owed nothing is as it always was.
pub(crate) fn encode_subscription(
    qos: QoS,
    filter: &str,
    owes: Option<&str>,
) -> Result<Vec<u8>, RowError> {
    let bytes = encode(&(qos as u8, filter))?;
    match owes {
        Some(topic) => Ok(postcard::to_extend(topic, bytes)?),
        None => Ok(bytes),
    }
}

/// Reads what [`encode_subscription`] wrote.
pub(crate) fn decode_subscription(bytes: &[u8]) -> Result<StoredSubscription, RowError> {
    let ((qos, filter), rest) = postcard::take_from_bytes::<(u8, &str)>(body(bytes)?)?;
    let qos = QoS::from_bits(qos).ok_or(postcard::Error::DeserializeBadEncoding)?;
    let owes = match rest {
        [] => None,
        rest => Some(postcard::from_bytes::<&str>(rest)?.into()),
    };
    Ok(StoredSubscription { filter: filter.into(), qos, owes })
}

/// The ids of prepared publishes.
pub(crate) fn encode_publish_ids(ids: &[PublishId]) -> Result<Vec<u8>, RowError> {
    let ids = ids.iter().map(|id| (id.incarnation, id.router, id.number));
    encode(&ids.collect::<Vec<_>>())
}

/// Reads what [`encode_publish_ids`] wrote.
pub(crate) fn decode_publish_ids(bytes: &[u8]) -> Result<Vec<PublishId>, RowError> {
    let ids: Vec<(u64, u16, u64)> = decode(bytes)?;
    let id = |(incarnation, router, number)| PublishId { incarnation, router, number };
    Ok(ids.into_iter().map(id).collect())
}

/// Reads what [`encode_prepared`] wrote.
pub(crate) fn decode_prepared(
    id: PublishId,
    queued: bool,
    bytes: &[u8],
) -> Result<PreparedPublish, RowError> {
    let row: OpenRow<'_> = postcard::from_bytes(body(bytes)?)?;
    let (message, _, retain) = decode_message(row.message)?;
    Ok(PreparedPublish {
        id,
        session: row.session,
        packet_id: PacketId::new(row.packet_id).ok_or(postcard::Error::DeserializeBadEncoding)?,
        publisher: Arc::from(row.publisher),
        record: row.record,
        message,
        retain,
        queued,
    })
}

/// [`Message::cost`] of an encoded message, without making one.
pub(crate) fn message_cost(bytes: &[u8]) -> Result<usize, RowError> {
    let (row, _) = postcard::take_from_bytes::<MessageHead<'_>>(body(bytes)?)?;
    Ok(row.topic.len() + row.payload.len() + 64)
}

#[derive(Deserialize)]
#[allow(dead_code, reason = "the flags stand before what is wanted")]
struct MessageHead<'a> {
    flags: u8,
    topic: &'a str,
    #[serde(borrow)]
    payload: &'a serde_bytes::Bytes,
}

/// What a packed row says about itself, in its first [`HEADER`] bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct RowHeader {
    /// Records in it.
    pub(crate) count: u32,
    /// A number of its owner's: the outbox's running cost, the log's time of append.
    pub(crate) note: u64,
}

const HEADER: usize = 13;

/// Packs records into a row.
#[derive(Debug)]
pub(crate) struct RowBuilder {
    bytes: Vec<u8>,
    count: u32,
}

impl RowBuilder {
    pub(crate) fn new(note: u64) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.push(VERSION);
        bytes.extend_from_slice(&0u32.to_be_bytes());
        bytes.extend_from_slice(&note.to_be_bytes());
        Self { bytes, count: 0 }
    }

    /// Appends a record; its Kafka topic only where `topic` says so.
    pub(crate) fn push(&mut self, record: &LogRecord, topic: bool) -> Result<(), RowError> {
        let row = RecordRow {
            flags: flags(record.qos, record.retain),
            epoch: record.epoch,
            sequence: record.sequence,
            received_ms: record.received_ms,
            topic: if topic { &record.topic } else { "" },
            key: record.key.as_deref().map(serde_bytes::Bytes::new),
            payload: serde_bytes::Bytes::new(&record.payload),
            mqtt_topic: &record.mqtt_topic,
            client_id: &record.client_id,
            properties: record.properties.as_deref().map(PropertiesRow::from),
        };
        self.bytes = postcard::to_extend(&row, std::mem::take(&mut self.bytes))?;
        self.count += 1;
        Ok(())
    }

    pub(crate) const fn count(&self) -> u32 {
        self.count
    }

    pub(crate) const fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.bytes[1..5].copy_from_slice(&self.count.to_be_bytes());
        self.bytes
    }
}

/// Reads a packed row.
pub(crate) struct RowReader<'a> {
    pub(crate) header: RowHeader,
    rest: &'a [u8],
}

impl<'a> RowReader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Result<Self, RowError> {
        body(bytes)?;
        let (head, rest) = bytes.split_at_checked(HEADER).ok_or(RowError::Short)?;
        let mut count = [0; 4];
        count.copy_from_slice(&head[1..5]);
        let mut note = [0; 8];
        note.copy_from_slice(&head[5..13]);
        let header = RowHeader { count: u32::from_be_bytes(count), note: u64::from_be_bytes(note) };
        Ok(Self { header, rest })
    }

    /// The next record, its `outbox` and `id` not set. `topic` is used where the row holds none.
    pub(crate) fn next(&mut self, topic: &Arc<str>) -> Result<LogRecord, RowError> {
        let row = self.take()?;
        let (qos, retain) = from_flags(row.flags)?;
        Ok(LogRecord {
            id: 0,
            topic: if row.topic.is_empty() { Arc::clone(topic) } else { Arc::from(row.topic) },
            key: row.key.map(|key| Bytes::copy_from_slice(key)),
            payload: Bytes::copy_from_slice(row.payload),
            mqtt_topic: Arc::from(row.mqtt_topic),
            qos,
            retain,
            client_id: Arc::from(row.client_id),
            epoch: row.epoch,
            sequence: row.sequence,
            outbox: None,
            received_ms: row.received_ms,
            properties: row.properties.as_ref().map(PropertiesRow::to_properties),
        })
    }

    /// Passes over the next record.
    pub(crate) fn skip(&mut self) -> Result<(), RowError> {
        self.take().map(drop)
    }

    fn take(&mut self) -> Result<RecordRow<'a>, RowError> {
        let (row, rest) = postcard::take_from_bytes(self.rest)?;
        self.rest = rest;
        Ok(row)
    }
}

#[derive(Serialize, Deserialize)]
struct DeadLetterRow<'a> {
    refused_ms: u64,
    reason: &'a str,
    #[serde(borrow)]
    record: &'a serde_bytes::Bytes,
}

/// A dead letter without its id.
pub(crate) fn encode_dead_letter(letter: &DeadLetter) -> Result<Vec<u8>, RowError> {
    let mut row = RowBuilder::new(0);
    row.push(&letter.record, true)?;
    let record = row.finish();
    encode(&DeadLetterRow {
        refused_ms: letter.refused_ms,
        reason: &letter.reason,
        record: serde_bytes::Bytes::new(&record),
    })
}

/// Reads what [`encode_dead_letter`] wrote.
pub(crate) fn decode_dead_letter(bytes: &[u8]) -> Result<DeadLetter, RowError> {
    let row: DeadLetterRow<'_> = postcard::from_bytes(body(bytes)?)?;
    let record = RowReader::new(row.record)?.next(&Arc::from(""))?;
    let (id, reason) = (DeadId::of(&record), Arc::from(row.reason));
    Ok(DeadLetter { id, record, reason, refused_ms: row.refused_ms })
}

/// The big-endian number at `at` in a key.
pub(crate) fn number_at(key: &[u8], at: usize) -> Result<u64, RowError> {
    let bytes = key.get(at..at + 8).ok_or(RowError::Short)?;
    Ok(bytes.iter().fold(0, |n, b| n << 8 | u64::from(*b)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::embedded::suite;

    #[test]
    fn a_subscription_that_is_owed_nothing_is_as_it_always_was() {
        let (qos, filter) = (QoS::AtLeastOnce, "a/#");
        let plain = encode(&(qos as u8, filter)).unwrap();
        assert_eq!(encode_subscription(qos, filter, None).unwrap(), plain);
        for owes in [None, Some(""), Some("a/b")] {
            let bytes = encode_subscription(qos, filter, owes).unwrap();
            let owes = owes.map(Arc::from);
            let expected = StoredSubscription { filter: filter.into(), qos, owes };
            assert_eq!(decode_subscription(&bytes).unwrap(), expected);
            // An older broker reads what stands before it.
            assert_eq!(decode::<(u8, String)>(&bytes).unwrap(), (1, filter.to_owned()));
        }
        assert!(decode_subscription(&[plain, vec![5, b'x']].concat()).is_err());
    }

    #[test]
    fn messages_and_records_come_back_with_every_property() {
        let message = suite::message("a/b", "payload", true);
        let bytes = encode_message(&message, QoS::AtLeastOnce, true).unwrap();
        assert_eq!(decode_message(&bytes).unwrap(), (message.clone(), QoS::AtLeastOnce, true));
        assert_eq!(message_cost(&bytes).unwrap(), message.cost());
        assert!(matches!(decode_message(&[9, 0]), Err(RowError::Version(9))));
        assert!(decode_message(&bytes[..bytes.len() - 1]).is_err());

        let record = suite::record("t", 7);
        let mut row = RowBuilder::new(99);
        row.push(&record, true).unwrap();
        row.push(&record, false).unwrap();
        let bytes = row.finish();
        let mut reader = RowReader::new(&bytes).unwrap();
        assert_eq!(reader.header, RowHeader { count: 2, note: 99 });
        let other: Arc<str> = Arc::from("other");
        let expected = LogRecord { id: 0, ..record };
        assert_eq!(reader.next(&other).unwrap(), expected);
        assert_eq!(reader.next(&other).unwrap(), LogRecord { topic: other.clone(), ..expected });
        assert!(reader.next(&other).is_err());
    }
}
