//! A record that waits for its topic: as the log actor gave it, or as librdkafka gave it back.

use std::sync::Arc;

use hydrant_actors::ports::LogRecord;
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _, OwnedHeaders};

/// What librdkafka gave back without an acknowledgement: all that is needed to send it again.
#[derive(Debug)]
pub(super) struct Returned {
    pub id: u64,
    pub topic: Arc<str>,
    pub key: Option<Vec<u8>>,
    pub payload: Vec<u8>,
    pub timestamp: Option<i64>,
    pub headers: Option<OwnedHeaders>,
}

impl Returned {
    /// A copy of a message that is reported now.
    pub fn new(id: u64, message: &BorrowedMessage<'_>) -> Self {
        Self {
            id,
            topic: message.topic().into(),
            key: message.key().map(<[u8]>::to_vec),
            // The payload of an empty message is no tombstone.
            payload: message.payload().unwrap_or_default().to_vec(),
            timestamp: message.timestamp().to_millis(),
            headers: message.headers().map(|headers| headers.detach()),
        }
    }

    /// Bytes of key and payload, as the topic's limit sees them at least.
    pub fn size(&self) -> usize {
        self.payload.len() + self.key.as_ref().map_or(0, Vec::len)
    }
}

/// See the module.
#[derive(Debug)]
pub(super) enum Waiting {
    Fresh(LogRecord),
    Back(Box<Returned>),
}

impl Waiting {
    pub fn id(&self) -> u64 {
        match self {
            Self::Fresh(record) => record.id,
            Self::Back(back) => back.id,
        }
    }

    pub fn topic(&self) -> &Arc<str> {
        match self {
            Self::Fresh(record) => &record.topic,
            Self::Back(back) => &back.topic,
        }
    }

    /// Bytes that librdkafka counts it with.
    pub fn payload_len(&self) -> usize {
        match self {
            Self::Fresh(record) => record.payload.len(),
            Self::Back(back) => back.payload.len(),
        }
    }

    /// Bytes it is counted with.
    pub fn cost(&self) -> usize {
        match self {
            Self::Fresh(record) => record.cost(),
            Self::Back(back) => back.size() + back.topic.len() + 320,
        }
    }

    /// The publisher.
    pub fn client(&self) -> Option<Arc<str>> {
        match self {
            Self::Fresh(record) => Some(record.client_id.clone()),
            Self::Back(back) => {
                let mut headers = back.headers.as_ref()?.iter();
                let header = headers.find(|header| header.key == "mqtt.client")?;
                std::str::from_utf8(header.value?).ok().map(Arc::from)
            }
        }
    }
}
