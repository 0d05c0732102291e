//! Publishes on their way from the connections to the router: one arena of bytes a batch, no allocation a message.
//!
//! Bounds: `limits.max_router_bytes`; a connection that finds the batch full stops reading.

use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use hydrant_protocol::{Message, PacketId, QoS};

use super::sessions::SessionKey;
use crate::messages::arena::{append, slice, topic};
use crate::ports::StoreOp;
use crate::worker::Conn;

/// Where a publish comes from.
#[derive(Debug, Clone)]
pub enum Origin {
    /// A client on this worker.
    Client(Rc<Conn>),
    /// The Last Will of this client, and the number of the connection that left it.
    Will(Arc<str>, u64),
    /// The node itself (`$SYS`).
    Node,
}

/// One publish of a batch; its topic and payload stand in the arena.
#[derive(Debug)]
pub struct Entry {
    /// Who sent it.
    pub origin: Rc<Conn>,
    pub topic: Range<u32>,
    pub payload: Range<u32>,
    pub qos: QoS,
    pub retain: bool,
    pub packet_id: Option<PacketId>,
    /// QoS 2: the session that holds the receipt.
    pub receipt: Option<SessionKey>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct PublishBatch {
    arena: Vec<u8>,
    entries: Vec<Entry>,
}

impl PublishBatch {
    /// Copies a publish into the batch.
    pub fn push(
        &mut self,
        origin: &Rc<Conn>,
        publish: &hydrant_protocol::wire::Publish<'_>,
        receipt: Option<SessionKey>,
    ) {
        let topic = append(&mut self.arena, publish.topic.as_bytes());
        let payload = append(&mut self.arena, publish.payload);
        self.entries.push(Entry {
            origin: Rc::clone(origin),
            topic,
            payload,
            qos: publish.qos,
            retain: publish.retain,
            packet_id: publish.packet_id,
            receipt,
        });
    }

    /// Publishes in it.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True when it holds none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of topics and payloads, and what the entries take.
    pub fn bytes(&self) -> usize {
        self.arena.len() + self.entries.len() * size_of::<Entry>()
    }

    /// Entry `at` with its topic and payload.
    pub fn get(&self, at: usize) -> Option<(&Entry, &str, &[u8])> {
        let entry = self.entries.get(at)?;
        Some((entry, topic(&self.arena, &entry.topic), slice(&self.arena, &entry.payload)))
    }

    /// Empties it and keeps its allocation, unless that is past `keep` bytes.
    pub fn clear(&mut self, keep: usize) {
        self.entries.clear();
        self.arena.clear();
        if self.arena.capacity() > keep {
            self.arena = Vec::new();
        }
        if self.entries.capacity() * size_of::<Entry>() > keep {
            self.entries = Vec::new();
        }
    }
}

/// A publish that the node makes itself: a Last Will, or a `$SYS` value.
#[derive(Debug)]
pub struct InternalPublish {
    pub origin: Origin,
    pub message: Arc<Message>,
    /// Written together with what the message causes (the end of a stored will).
    pub ops: Vec<StoreOp>,
}
