//! A publish on its way to its subscribers, as the router sees it.

use std::sync::Arc;

use bytes::Bytes;
use hydrant_protocol::cluster::message::Prepared;
use hydrant_protocol::cluster::stream_marker::PublishStream;
use hydrant_protocol::{Message, QoS};

use super::replica::Coming;

/// A message as the router sees it: borrowed, and made an owned one only when somebody keeps it.
pub struct Publication<'a> {
    pub topic: &'a str,
    pub payload: &'a [u8],
    pub qos: QoS,
    /// The route waits for the store.
    pub durable: bool,
    /// Set when `topic` is held somewhere already.
    pub shared_topic: Option<&'a Arc<str>>,
    pub owned: Option<Arc<Message>>,
    /// Where it was published: node and router.
    pub stream: PublishStream,
    /// Not 0: only for sessions that this lost incarnation held.
    pub orphan: u64,
    /// Some of the sessions that match may have it.
    pub coming: Option<Coming>,
    /// Incarnation and number of the batch of another node that brings it; zeros: a publisher of this node does.
    pub batch: (u64, u64),
    /// It must not be taken twice, by other nodes.
    pub prepared: Option<Prepared>,
    /// Version of the retained message that live subscribers get with it; 0: none.
    pub shows: u64,
    /// A Last Will whose route waits for the store: its record for the log is not lost with the node, at QoS 0 either.
    pub must_last: bool,
    /// The packet as a QoS 0 subscriber gets it, encoded once for all of them.
    pub frame: Vec<u8>,
}

impl<'a> Publication<'a> {
    #[inline]
    pub fn new(topic: &'a str, payload: &'a [u8], qos: QoS, durable: bool) -> Self {
        Self {
            topic,
            payload,
            qos,
            durable,
            shared_topic: None,
            owned: None,
            stream: PublishStream::default(),
            orphan: 0,
            coming: None,
            batch: (0, 0),
            prepared: None,
            shows: 0,
            must_last: false,
            frame: Vec::new(),
        }
    }

    /// QoS 2 that is delivered only once stored.
    #[inline]
    pub fn held(&self) -> bool {
        self.qos == QoS::ExactlyOnce && self.durable
    }

    #[inline]
    pub fn cost(&self) -> usize {
        self.topic.len() + self.payload.len() + 64
    }

    #[inline]
    pub fn message(&mut self) -> Arc<Message> {
        let (topic, payload, qos) = (self.topic, self.payload, self.qos);
        let shared = self.shared_topic;
        Arc::clone(self.owned.get_or_insert_with(|| {
            Arc::new(Message {
                topic: shared.map_or_else(|| Arc::from(topic), Arc::clone),
                payload: Bytes::copy_from_slice(payload),
                qos,
                retain: false,
                properties: None,
            })
        }))
    }
}

/// Topics below which only the node publishes.
pub const SYS_PREFIX: &str = "$SYS/";
