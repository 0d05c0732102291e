//! What waits for store, log or other nodes, and what goes on once they have answered.
//!
//! Bounds: a pending ack belongs to an answer that a connection is owed (`limits.max_unacknowledged`), to a flight of a
//! session's window (`session.max_inflight`), or to a Last Will.

use std::rc::Rc;
use std::sync::Arc;

use hydrant_protocol::{Message, PacketId, QoS};

use super::replica::Preparation;
use super::sessions::SessionKey;
use crate::cluster::NodeIndex;
use crate::messages::{CompletionToken, PeerWork};
use crate::now::Boot;
use crate::ports::StoreOp;
use crate::worker::Conn;

/// A QoS 2 message that was received and is forwarded only once it is durable.
#[derive(Debug)]
pub struct Exact {
    /// The message.
    pub message: Arc<Message>,
    /// RETAIN of its PUBLISH.
    pub retain: bool,
    /// Client id of its publisher, or of whose will it is.
    pub publisher: Arc<str>,
    /// The id whose PUBREC is owed.
    pub packet_id: PacketId,
    /// The publisher's session; `None` for a will.
    pub receipt: Option<SessionKey>,
    /// That session is persistent.
    pub persistent: bool,
    /// Acknowledgement level, for the counters.
    pub level: u8,
    /// When it was routed.
    pub at: Boot,
    /// Its record for the log is still to be made: publisher, epoch and number there.
    pub record: Option<(Arc<str>, u64, u64)>,
    /// Written together with what it causes here.
    pub ops: Vec<StoreOp>,
    /// It is kept until all other nodes that want it have it.
    pub prepared: Option<Preparation>,
    /// Where it stands among those of its publisher and topic.
    pub place: Option<Place>,
    /// Version of its retained message, which is ahead of live subscribers; 0: none.
    pub shows: u64,
}

impl Exact {
    pub fn receipt_id(&self) -> Option<(SessionKey, PacketId)> {
        self.receipt.map(|session| (session, self.packet_id))
    }
}

/// Who is owed an answer, and its index.
pub type Owed = (Rc<Conn>, u32);

/// What goes on.
#[derive(Debug)]
pub enum Continuation {
    /// A publish: its PUBACK, or PUBREC where nothing is held back.
    Publish {
        /// Who is owed the answer.
        conn: Rc<Conn>,
        /// Its index.
        index: u32,
        /// QoS 2: the session that holds the receipt, and its id.
        receipt: Option<(SessionKey, PacketId)>,
        /// When it was routed.
        at: Boot,
        /// Acknowledgement level, for the counters.
        level: u8,
    },
    /// A QoS 2 publish that the log, or the store as a prepared one, has to have before anything is done
    /// with it.
    Begun {
        /// Who is owed PUBREC, and its index; nobody for a will.
        answer: Option<Owed>,
        /// The message.
        exact: Box<Exact>,
    },
    /// These, the end of a Last Will's row, are written when the log and other nodes have what belongs to them.
    Then(Vec<StoreOp>),
    /// A QoS 2 publish: its live subscribers and its PUBREC.
    Exact {
        /// Who is owed PUBREC, and its index; nobody for a will.
        answer: Option<Owed>,
        /// The message.
        exact: Box<Exact>,
    },
    /// The live subscribers of other nodes have a prepared publish.
    Closing(Preparation),
    /// Any other answer.
    Answer {
        /// Who is owed it.
        conn: Rc<Conn>,
        /// Its index.
        index: u32,
    },
    /// An outgoing PUBLISH whose packet id had to be durable first.
    Outgoing {
        /// The session.
        session: SessionKey,
        /// The connection it is for; a later one reads it from the store.
        conn: Rc<Conn>,
        /// Its id.
        packet_id: PacketId,
        /// QoS of the delivery.
        qos: QoS,
        /// RETAIN as the subscriber shall see it.
        retain: bool,
        /// The message.
        message: Arc<Message>,
    },
    /// What a batch of another node had to have stored.
    Peer {
        /// The node and its incarnation.
        node: NodeIndex,
        /// See `node`.
        incarnation: u64,
        /// The batch.
        batch: u64,
    },
    /// PeersActor hears this once the store has what was asked of it before.
    ToPeers(Box<PeerWork>),
    /// What another worker waits for.
    Forward(CompletionToken),
    /// A PUBREL whose stage had to be durable first.
    Release {
        /// The connection it is for.
        conn: Rc<Conn>,
        /// Its id.
        packet_id: PacketId,
    },
    /// Retained messages that a cursor of a session has handed out are in its queue.
    RetainedStored {
        /// The session.
        session: SessionKey,
        /// The cursor.
        number: u32,
    },
}

impl Continuation {
    /// The connection whose publish this is.
    pub fn publisher(&self) -> Option<&Rc<Conn>> {
        match self {
            Self::Publish { conn, .. } => Some(conn),
            Self::Begun { answer, .. } | Self::Exact { answer, .. } => {
                answer.as_ref().map(|(conn, _)| conn)
            }
            _ => None,
        }
    }

    /// How a prepared publish stands.
    pub fn preparation(&self) -> Option<Preparation> {
        match self {
            Self::Begun { exact, .. } | Self::Exact { exact, .. } => exact.prepared,
            Self::Closing(preparation) => Some(*preparation),
            _ => None,
        }
    }

    /// Its retained message is ahead of live subscribers.
    pub fn ahead(&self) -> Option<(Arc<str>, u64)> {
        match self {
            Self::Exact { exact, .. } if exact.shows != 0 => {
                Some((Arc::clone(&exact.message.topic), exact.shows))
            }
            _ => None,
        }
    }

    /// Its place in a line.
    pub fn place(&self) -> Option<Place> {
        match self {
            Self::Exact { exact, .. } => exact.place,
            _ => None,
        }
    }

    /// The receipt of a publish.
    pub fn receipt(&self) -> Option<(SessionKey, PacketId)> {
        match self {
            Self::Publish { receipt, .. } => *receipt,
            Self::Begun { exact, .. } | Self::Exact { exact, .. } => exact.receipt_id(),
            _ => None,
        }
    }
}

/// A place in a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub at: u32,
    /// Tells a reused one.
    pub generation: u32,
}

pub const STORE: u16 = 1;

pub const LOG: u16 = 2;

/// Each other node it waits for counts so much.
pub const PEER: u16 = 4;

/// Other nodes that one pending ack can count.
pub const MOST_PEERS: usize = 16_000;

#[derive(Debug)]
pub struct PendingAck {
    pub generation: u32,
    /// What is not over.
    pub outstanding: u16,
    /// The log is one of them, or was.
    pub log: bool,
    pub kind: Continuation,
}

impl PendingAck {
    /// It is over: its publisher waits for the log no longer.
    pub fn finish(self) -> Continuation {
        if self.log
            && let Some(conn) = self.kind.publisher()
        {
            conn.log_waits.set(conn.log_waits.get().saturating_sub(1));
        }
        self.kind
    }
}
