//! Publishes on their way from the connections to the router, and from one worker to another:
//! one arena of bytes a batch, no allocation a message.
//!
//! Bounds: `limits.max_router_bytes`; a connection that finds the batch full stops reading.

use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use hydrant_protocol::{Message, PacketId, QoS};

use crate::messages::{CompletionToken, Transaction};
use crate::ports::StoreOp;

use hydrant_protocol::cluster::message::Recipients;
use hydrant_protocol::cluster::stream_marker::PublishStream;
use smallvec::SmallVec;

use super::Conn;
use super::state::publication::Publication;
use super::state::replica::Coming;
use super::state::sessions::SessionKey;

/// Where a publish comes from.
#[derive(Debug, Clone)]
pub enum Origin {
    /// A client on this worker.
    Client(Rc<Conn>),
    /// The Last Will of this client.
    Will(Arc<str>),
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

fn append(arena: &mut Vec<u8>, bytes: &[u8]) -> Range<u32> {
    let start = arena.len();
    arena.extend_from_slice(bytes);
    // A batch is bounded far below 4 GiB: max_router_bytes plus one packet.
    #[allow(clippy::cast_possible_truncation)]
    {
        start as u32..arena.len() as u32
    }
}

fn slice<'a>(arena: &'a [u8], range: &Range<u32>) -> &'a [u8] {
    &arena[range.start as usize..range.end as usize]
}

fn topic<'a>(arena: &'a [u8], range: &Range<u32>) -> &'a str {
    // Appended from a &str and cut at its ends, so the check never fails.
    std::str::from_utf8(slice(arena, range)).unwrap_or_default()
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
    pub(super) fn get(&self, at: usize) -> Option<(&Entry, &str, &[u8])> {
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

/// One publish on its way to another worker.
#[derive(Debug)]
pub struct RemoteEntry {
    topic: Range<u32>,
    payload: Range<u32>,
    pub qos: QoS,
    /// The route waits for the store: QoS 2 is not delivered before.
    pub durable: bool,
    pub recipients: Recipients,
    /// Where it was published: node and router.
    pub stream: PublishStream,
    /// As in [`Publication::orphan`](super::state::publication::Publication::orphan).
    pub orphan: u64,
    /// As in [`Publication::coming`](super::state::publication::Publication::coming).
    pub coming: Option<Coming>,
    /// As in [`Publication::batch`](super::state::publication::Publication::batch).
    pub batch: (u64, u64),
    /// As in [`Publication::shows`](super::state::publication::Publication::shows).
    pub shows: u64,
}

/// Publishes whose subscribers are on another worker.
#[derive(Debug, Default)]
pub struct RemoteBatch {
    arena: Vec<u8>,
    entries: Vec<RemoteEntry>,
    /// What the receiver's queue entries are written together with.
    pub transaction: Option<Transaction>,
    /// How far the receiver is, so that its restart does not repeat.
    pub done: usize,
    /// What the publishes before `done` have caused there: its part, as far as it is made.
    pub(super) ops: Vec<StoreOp>,
    /// See `ops`.
    pub(super) tokens: Vec<CompletionToken>,
    /// Waits of the sender that go on when no session is on its way for which something of this was
    /// buffered: those in `buffered`, by their slots.
    pub(super) late: Vec<CompletionToken>,
    /// See `late`.
    pub(super) buffered: SmallVec<[u32; 1]>,
    /// The sender's last step that touched it, and how it stood before: entries, bytes, `late`.
    touched: (u64, (usize, usize, usize)),
}

impl RemoteBatch {
    pub(super) fn push(
        &mut self,
        publication: &Publication<'_>,
        durable: bool,
        recipients: Recipients,
    ) {
        let topic = append(&mut self.arena, publication.topic.as_bytes());
        let payload = append(&mut self.arena, publication.payload);
        let (qos, stream, orphan, coming) =
            (publication.qos, publication.stream, publication.orphan, publication.coming);
        let (batch, shows) = (publication.batch, publication.shows);
        let entry = RemoteEntry {
            topic,
            payload,
            qos,
            durable,
            recipients,
            stream,
            orphan,
            coming,
            batch,
            shows,
        };
        self.entries.push(entry);
    }

    /// Publishes in it.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True when it holds none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes it takes.
    pub fn bytes(&self) -> usize {
        self.arena.len() + self.entries.len() * size_of::<RemoteEntry>()
    }

    pub(super) fn get(&self, at: usize) -> Option<(&RemoteEntry, &str, &[u8])> {
        let entry = self.entries.get(at)?;
        Some((entry, topic(&self.arena, &entry.topic), slice(&self.arena, &entry.payload)))
    }

    pub(super) fn buffer(&mut self, slot: u32) {
        if !self.buffered.contains(&slot) {
            self.buffered.push(slot);
        }
    }

    /// A step of the sender is about to add to it.
    pub(super) fn touch(&mut self, step: u64) {
        if self.touched.0 != step {
            self.touched = (step, (self.entries.len(), self.arena.len(), self.late.len()));
        }
    }

    /// Takes back what a step of the sender has added.
    pub(super) fn rollback(&mut self, step: u64) {
        let (touched, (entries, bytes, late)) = self.touched;
        if touched == step {
            self.entries.truncate(entries);
            self.arena.truncate(bytes);
            self.late.truncate(late);
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
