//! What the session store is given to write and what it finds: rows, operations, how they fail.

use std::sync::Arc;

use hydrant_protocol::cluster::message::PublishId;
use hydrant_protocol::session::RangeSet;
use hydrant_protocol::{Message, PacketId, QoS};

use super::dead::{DeadId, DeadLetter};
use super::log::{LogRecord, OutboxPosition};

/// A persistent session's number, never used twice within a store.
pub type SessionId = u64;

/// Why the store did not do it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// For now: the same operations may be written again (every operation is idempotent by key).
    #[error("the session store is not available: {0}")]
    Unavailable(String),
    /// The store is damaged or not ours; nobody should write into it.
    #[error("the session store cannot be used: {0}")]
    Unusable(String),
}

/// How far an outgoing QoS 2 message has come (MQTT 3.1.1 section 4.3.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutgoingStage {
    /// PUBLISH may have been sent under this packet id; PUBREC has not come.
    Publish,
    /// PUBREC came; from here on only PUBREL is sent.
    Release,
}

/// A message that waits for one persistent session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueEntry {
    /// 1, 2, 3 … in the order of delivery, given by the queue's one writer.
    pub sequence: u64,
    /// QoS of the delivery: the lower of publish and subscription.
    pub qos: QoS,
    /// RETAIN as the subscriber shall see it.
    pub retain: bool,
    /// The message.
    pub message: Arc<Message>,
    /// Packet id and stage, once given and written. At QoS 2 written before the first PUBLISH; at
    /// QoS 1 with it, so that a resent one keeps its id ([MQTT-4.4.0-1]).
    pub outgoing: Option<(PacketId, OutgoingStage)>,
}

/// A subscription of a persistent session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredSubscription {
    /// Checked topic filter.
    pub filter: Arc<str>,
    /// Granted QoS.
    pub qos: QoS,
    /// It is still owed retained messages: of topics behind this one, of all where it is empty.
    pub owes: Option<Arc<str>>,
}

/// A Last Will that fires unless its connection ends with DISCONNECT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredWill {
    /// Who left it.
    pub client_id: Arc<str>,
    /// The number of the connection that left it: one client's several wills stand side by side. Given once, also
    /// over nodes and starts, and rising with each CONNECT at one node.
    pub connection: u64,
    /// What is published.
    pub message: Arc<Message>,
}

/// A QoS 2 publish from before anything of it is done until every other node that wants it has it
/// (docs/decisions/0014-prepared-publishes.md).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreparedPublish {
    /// By which the other nodes know it.
    pub id: PublishId,
    /// Client id of who published it, or whose will it is.
    pub publisher: Arc<str>,
    /// The persistent session that holds its receipt; `None`: a Last Will.
    pub session: Option<SessionId>,
    /// Packet id of that receipt.
    pub packet_id: PacketId,
    /// The publisher's epoch and its number there, where its record for the log is still to be made.
    pub record: Option<(u64, u64)>,
    /// The message.
    pub message: Arc<Message>,
    /// RETAIN of its PUBLISH.
    pub retain: bool,
    /// What it causes at its node is stored: queue entries, outbox, receipt.
    pub queued: bool,
}

/// A persistent session as it is found at start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredSession {
    /// Its number.
    pub id: SessionId,
    /// Whose it is.
    pub client_id: Arc<str>,
    /// Rises at every CONNECT.
    pub epoch: u64,
    /// When its last connection ended, milliseconds since the Unix epoch; `None` while connected
    /// (or when the node died with the connection).
    pub disconnected_ms: Option<u64>,
    /// What it is subscribed to.
    pub subscriptions: Vec<StoredSubscription>,
    /// Packet ids of incoming QoS 2 messages that are received and not released.
    pub receipts: Vec<PacketId>,
    /// Entries in its queue.
    pub queued: u64,
    /// Bytes in its queue, by [`Message::cost`].
    pub queued_bytes: u64,
    /// At least the highest sequence in its queue and at most the highest that ever was; what comes
    /// next is above it.
    pub last_sequence: u64,
    /// The sequences in its queue.
    pub left: RangeSet,
}

/// A batch of another node that a lost incarnation had stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredBatch {
    /// The other node's incarnation.
    pub origin: u64,
    /// Its number there.
    pub number: u64,
    /// The prepared publishes in it.
    pub prepared: Vec<PublishId>,
    /// Clients for whose sessions it was buffered and not stored.
    pub except: Vec<Arc<str>>,
}

/// One change. A list of them is written as one atomic, durable batch, in its order. Each is idempotent.
///
/// Retained messages and wills belong to no session, and not to the log or the cluster alone: they stand here.
#[derive(Debug, Clone)]
pub enum StoreOp {
    /// Of one persistent session.
    Session(SessionOp),
    /// On the way to the log.
    Log(LogOp),
    /// For the successor of a lost node.
    Cluster(ClusterOp),
    /// Sets a topic's retained message. Of two changes of a topic the one with the higher version
    /// counts, whoever writes it and whatever order they come in: nanoseconds since the Unix epoch,
    /// at least one above every version that this node has seen.
    PutRetained { message: Arc<Message>, version: u64 },
    /// Removes it.
    DeleteRetained { topic: Arc<str>, version: u64 },
    /// Keeps a will until it is fired or discarded.
    PutWill { will: StoredWill },
    /// The will of this connection is discarded, or all that it has caused is durable. Any other will of the same
    /// client stays.
    DeleteWill { client_id: Arc<str>, connection: u64 },
}

// Every operation of a batch takes the place of the largest one.
const _: () = assert!(size_of::<StoreOp>() <= 200);

/// A change of one persistent session's rows.
#[derive(Debug, Clone)]
pub enum SessionOp {
    /// Makes or replaces a session's record.
    PutSession { id: SessionId, client_id: Arc<str>, epoch: u64, disconnected_ms: Option<u64> },
    /// Removes a session with its subscriptions, receipts and queue.
    DeleteSession { id: SessionId, client_id: Arc<str> },
    /// Adds or replaces a subscription. `owes`: see [`StoredSubscription`].
    PutSubscription { id: SessionId, filter: Arc<str>, qos: QoS, owes: Option<Arc<str>> },
    /// Removes a subscription.
    DeleteSubscription { id: SessionId, filter: Arc<str> },
    /// Adds an entry to a session's queue.
    PutQueued { id: SessionId, entry: QueueEntry },
    /// Gives a queued entry its packet id and stage.
    PutOutgoing { id: SessionId, sequence: u64, packet_id: PacketId, stage: OutgoingStage },
    /// Removes a delivered entry, with its packet id and stage.
    DeleteQueued { id: SessionId, sequence: u64 },
    /// An incoming QoS 2 message is received under this packet id.
    PutReceipt { id: SessionId, packet_id: PacketId },
    /// It is released.
    DeleteReceipt { id: SessionId, packet_id: PacketId },
}

/// A change of the outbox or of the dead letters.
#[derive(Debug, Clone)]
pub enum LogOp {
    /// Appends to the outbox. Positions within a lane come without gaps, in order.
    PutOutbox { record: LogRecord, position: OutboxPosition },
    /// Everything in the lane below `position` is acknowledged by the log. Buckets wholly below
    /// it are dropped whole.
    MoveCursor { lane: u16, position: u64 },
    /// Keeps a record that the log has refused, or replaces what is kept under its id.
    PutDeadLetter { letter: Arc<DeadLetter> },
    /// The log has it after all, or nobody wants it any more.
    DropDeadLetter { id: DeadId },
}

/// A change of what a successor takes up when this node is lost. The embedded store's node has no successor: it
/// writes none of these.
#[derive(Debug, Clone)]
pub enum ClusterOp {
    /// The publishes of a batch of another node stand in this write: `origin` is that node's incarnation, and
    /// `batch` its number. A successor of this node takes none of it twice, nor one of the `prepared` publishes in it
    /// that comes again under its id.
    PutPeerBatch { origin: u64, batch: u64, prepared: Vec<PublishId> },
    /// But for the session of this client, which is on its way: what it gets of the batch is buffered.
    ExceptPeerBatch { origin: u64, batch: u64, client_id: Arc<str> },
    /// What that session gets of the batch stands in this write.
    CompletePeerBatch { origin: u64, batch: u64, client_id: Arc<str> },
    /// Nobody will send again what has a lower number.
    ForgetPeerBatches { origin: u64, below: u64 },
    /// A QoS 2 publish of this node is prepared.
    Prepare(Box<PreparedPublish>),
    /// What this one causes here stands in this write.
    Committed { id: PublishId },
    /// Those of an incarnation, of one router or of all, with a number below are everywhere.
    ForgetPrepared { incarnation: u64, router: Option<u16>, below: u64 },
}

impl StoreOp {
    /// The session whose rows it changes. None for a prepared publish: it is its node's, also where it names a session.
    pub fn session(&self) -> Option<SessionId> {
        match self {
            Self::Session(op) => Some(op.session()),
            Self::Log(_)
            | Self::Cluster(_)
            | Self::PutRetained { .. }
            | Self::DeleteRetained { .. }
            | Self::PutWill { .. }
            | Self::DeleteWill { .. } => None,
        }
    }
}

impl SessionOp {
    /// The session whose rows it changes.
    pub fn session(&self) -> SessionId {
        match self {
            Self::PutSession { id, .. }
            | Self::DeleteSession { id, .. }
            | Self::PutSubscription { id, .. }
            | Self::DeleteSubscription { id, .. }
            | Self::PutQueued { id, .. }
            | Self::PutOutgoing { id, .. }
            | Self::DeleteQueued { id, .. }
            | Self::PutReceipt { id, .. }
            | Self::DeleteReceipt { id, .. } => *id,
        }
    }
}

impl From<SessionOp> for StoreOp {
    fn from(op: SessionOp) -> Self {
        Self::Session(op)
    }
}

impl From<LogOp> for StoreOp {
    fn from(op: LogOp) -> Self {
        Self::Log(op)
    }
}

impl From<ClusterOp> for StoreOp {
    fn from(op: ClusterOp) -> Self {
        Self::Cluster(op)
    }
}

/// A lane of the outbox as it is found at start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LaneState {
    /// Lane number.
    pub lane: u16,
    /// First position that the log has not acknowledged.
    pub cursor: u64,
    /// One past the last position written.
    pub end: u64,
    /// Bytes between the two, by [`LogRecord::cost`], at least approximately.
    pub bytes: u64,
}

/// All lanes of an outbox that hold or held something.
pub type Lanes = Vec<LaneState>;
