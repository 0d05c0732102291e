//! Publishes on their way from one worker to another: one arena of bytes a batch, no allocation a message.
//!
//! Bounds: `limits.max_router_bytes`, kept by the inbox of the router that gets it.

use std::ops::Range;

use hydrant_protocol::QoS;
use hydrant_protocol::cluster::message::Recipients;
use hydrant_protocol::cluster::stream_marker::PublishStream;
use smallvec::SmallVec;

use super::arena::{append, slice, topic};
use super::{CompletionToken, Transaction};
use crate::ports::StoreOp;
use crate::worker::state::publication::Publication;
use crate::worker::state::replica::Coming;

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
    /// As in [`Publication::orphan`](crate::worker::state::publication::Publication::orphan).
    pub orphan: u64,
    /// As in [`Publication::coming`](crate::worker::state::publication::Publication::coming).
    pub coming: Option<Coming>,
    /// As in [`Publication::batch`](crate::worker::state::publication::Publication::batch).
    pub batch: (u64, u64),
    /// As in [`Publication::shows`](crate::worker::state::publication::Publication::shows).
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
    pub ops: Vec<StoreOp>,
    /// See `ops`.
    pub tokens: Vec<CompletionToken>,
    /// Waits of the sender that go on when no session is on its way for which something of this was
    /// buffered: those in `buffered`, by their slots.
    pub late: Vec<CompletionToken>,
    /// See `late`.
    pub buffered: SmallVec<[u32; 1]>,
    /// The sender's last step that touched it, and how it stood before: entries, bytes, `late`.
    touched: (u64, (usize, usize, usize)),
}

impl RemoteBatch {
    pub fn push(&mut self, publication: &Publication<'_>, durable: bool, recipients: Recipients) {
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

    pub fn get(&self, at: usize) -> Option<(&RemoteEntry, &str, &[u8])> {
        let entry = self.entries.get(at)?;
        Some((entry, topic(&self.arena, &entry.topic), slice(&self.arena, &entry.payload)))
    }

    pub fn buffer(&mut self, slot: u32) {
        if !self.buffered.contains(&slot) {
            self.buffered.push(slot);
        }
    }

    /// A step of the sender is about to add to it.
    pub fn touch(&mut self, step: u64) {
        if self.touched.0 != step {
            self.touched = (step, (self.entries.len(), self.arena.len(), self.late.len()));
        }
    }

    /// Takes back what a step of the sender has added.
    pub fn rollback(&mut self, step: u64) {
        let (touched, (entries, bytes, late)) = self.touched;
        if touched == step {
            self.entries.truncate(entries);
            self.arena.truncate(bytes);
            self.late.truncate(late);
        }
    }
}
