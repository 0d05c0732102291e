//! What a session has while it is on its way from one node to another.
//!
//! Bounds: `session.max_queued_messages` and `session.max_queued_bytes` for what is buffered.

use std::sync::Arc;

use hydrant_protocol::cluster::message::PublishId;
use hydrant_protocol::cluster::stream_marker::{PublishStream, Transit, Whose};
use hydrant_protocol::{Message, QoS};

use super::replica::Coming;
use crate::messages::CompletionToken;

/// A session that is being given up.
#[derive(Debug)]
pub struct Offer {
    /// The node that gets it.
    pub to: Arc<str>,
    /// Who asked, and their tickets.
    pub asked: Vec<(Arc<str>, u64)>,
    /// It goes once all of it is stored: the number of the read that says so.
    pub read: Option<u32>,
    /// It is given up, and the target has not said that it has it. Who asked for it since, and for
    /// whom: they get it when that is settled.
    pub later: Vec<(Arc<str>, u64, Arc<str>)>,
}

/// What a session on its way has beside any other.
#[derive(Debug, Default)]
pub struct Handover {
    pub transit: Transit,
    pub offer: Option<Offer>,
    pub buffered: Vec<BufferedMessage>,
    /// Bytes of what was buffered.
    pub buffered_bytes: usize,
    pub tokens: Vec<CompletionToken>,
}

impl Handover {
    /// Of a session that is not here yet.
    pub fn absent() -> Self {
        let transit = Transit { absent: true, ..Transit::default() };
        Self { transit, ..Self::default() }
    }

    /// Whose a message of this stream is.
    pub fn whose(&self, stream: PublishStream) -> Whose {
        self.transit.whose(stream)
    }

    /// Prepared publishes that are buffered.
    pub fn buffered_ids(&self) -> impl Iterator<Item = PublishId> {
        self.buffered.iter().filter_map(|buffered| Some(buffered.prepared?.id))
    }

    pub fn is_over(&self) -> bool {
        self.transit.is_over()
    }
}

/// A message that is buffered.
#[derive(Debug)]
pub struct BufferedMessage {
    pub qos: QoS,
    pub message: Arc<Message>,
    pub durable: bool,
    /// It is a prepared publish.
    pub prepared: Option<Coming>,
    /// The batch of another node that has brought it, where that is known by its number.
    pub batch: Option<(u64, u64)>,
}
