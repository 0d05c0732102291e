//! What the actors of one node share: the tables every worker reads, and the inboxes through
//! which they give each other work.
//!
//! Owned by nobody in particular: it outlives every actor, so that a rebuilt one finds the tables
//! and its work as they were. Locks are held for one operation, never across an await or a handler.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use ahash::AHashSet;
use hydrant_protocol::cluster::dedup::Visit;
use hydrant_protocol::cluster::stream_marker::PublishStream;
use hydrant_protocol::topic::{Retained, SubscriptionTable};
use hydrant_protocol::{OnRefused, QoS};
use parking_lot::{Mutex, RwLock};
use tokio::sync::oneshot;

use crate::clock::Clock;
use crate::cluster::{Cluster, InboundPeerBatch};
use crate::drain::Budget;
use crate::dropped::DropLines;
use crate::inbox::Inbox;
use crate::log::{DeadLetters, Gate, OutboxProgress};
pub use crate::messages::{AckSource, CompletionToken, Transaction};
use crate::metrics::Metrics;
use crate::ports::{
    LogRecord, PreparedPublish, QueueEntry, SessionId, StoreOp, StoredBatch, StoredSession,
    StoredWill,
};
use crate::say;
use crate::settings::Settings;
pub use crate::subscriptions::Subscriber;
/// What a test can make a connection actor do: the same as any other actor.
pub use crate::supervision::Fault as ConnectionFault;
use crate::worker::{RemoteBatch, StreamMarker};

/// Work for StorageActor.
#[derive(Debug)]
pub enum StorageWork {
    /// Writes `ops` atomically, then answers each token.
    Write {
        /// In order.
        ops: Vec<StoreOp>,
        /// Answered together, after the write.
        tokens: Vec<CompletionToken>,
        /// Written only together with its other parts.
        transaction: Option<Transaction>,
        /// The worker whose order it keeps: nothing it pushes later is done before. `None`: a part
        /// of another worker's transaction, or not a worker's.
        origin: Option<u16>,
    },
    /// Reads a page of a session's queue; sees every write that `worker` has pushed before it.
    ReadQueue {
        /// Where the answer goes.
        worker: u16,
        /// The session's slot there.
        slot: u32,
        /// Of this request; the answer repeats it.
        stamp: u32,
        /// The session.
        session: SessionId,
        /// First sequence wanted.
        from: u64,
        /// One past the last that is wanted: the entries below are pushed before this.
        until: u64,
        /// Entries at most.
        limit: usize,
        /// Their bytes at most, about; one entry in any case.
        max_bytes: usize,
    },
}

/// Work for the log actor.
#[derive(Debug)]
pub struct LogWork {
    /// The record; its id is given by the log actor.
    pub record: LogRecord,
    /// Who waits for it.
    pub token: Option<CompletionToken>,
    /// What is done when the log refuses it for good.
    pub on_refused: OnRefused,
}

/// A new socket on its way to the worker that will own it.
#[derive(Debug)]
pub struct NewSocket {
    /// Non-blocking, accepted.
    pub stream: std::net::TcpStream,
    /// The client as far as it is known.
    pub peer: SocketAddr,
    /// Bytes already read from it, without a PROXY header.
    pub read: Vec<u8>,
    /// A PROXY header comes before the client's bytes.
    pub header_first: bool,
}

/// One row of `broker tree --connections`.
#[derive(Debug, Clone)]
pub struct ConnectionInfo {
    /// Client id; empty before CONNECT.
    pub client_id: String,
    /// Index of its manager.
    pub manager: usize,
    /// Peer address.
    pub address: String,
    /// CleanSession.
    pub clean: bool,
    /// Milliseconds since the socket was accepted.
    pub connected_ms: u64,
    /// Outgoing QoS 1-2 messages in flight.
    pub inflight: usize,
    /// Messages waiting for it.
    pub queued: usize,
    /// Bytes waiting in its outgoing buffer.
    pub output_bytes: usize,
}

/// Work for a ConnectionManager.
#[derive(Debug)]
pub enum ManagerWork {
    /// Start a connection actor for this socket.
    Accept(NewSocket),
    /// Store or log have answered.
    Completed(VecDeque<CompletionToken>),
    /// A publish that the log refused for good: its publisher is disconnected, never acknowledged.
    Refused(CompletionToken),
    /// A page of a session's queue.
    QueuePage {
        /// The session's slot.
        slot: u32,
        /// That of the request: an answer to an earlier connection's is not taken for this one's.
        stamp: u32,
        /// Entries in order; fewer than asked for: there are no more.
        entries: Vec<QueueEntry>,
    },
    /// List connections.
    List {
        /// Skip so many.
        skip: usize,
        /// Give so many at most.
        limit: usize,
        /// The answer.
        reply: oneshot::Sender<Vec<ConnectionInfo>>,
    },
    /// How many connections are past their CONNECT.
    Connected {
        /// The answer.
        reply: oneshot::Sender<usize>,
    },
    /// Make a client's connection actor misbehave.
    Fault {
        /// Whose.
        client_id: String,
        /// How.
        fault: ConnectionFault,
    },
    /// A client may be let in: no other node has its session any more.
    Granted {
        /// Its connection and the stamp of the claim.
        conn: (usize, u32),
        /// Client id.
        client: Arc<str>,
        /// Its persistent session, taken over from another node.
        taken: Option<Box<StoredSession>>,
        /// Rises from one to the next.
        admission: u64,
    },
    /// Another node lets a client of ours in: its connection ends and its session is given up.
    Release {
        /// Who asks, and its ticket.
        owner: Arc<str>,
        /// See `owner`.
        ticket: u64,
        /// Client id.
        client: Arc<str>,
        /// The node that gets it.
        to: Arc<str>,
    },
    /// Every origin has marked a handover.
    AllMarked {
        /// Its number.
        id: u64,
        /// Whose session it is.
        client: Arc<str>,
    },
    /// The node that should have got a session is lost.
    KeepSession {
        /// Number of the handover.
        id: u64,
        /// Whose session it is.
        client: Arc<str>,
    },
    /// The node that gets a session has it.
    HandedOver {
        /// Number of the handover.
        id: u64,
        /// Whose session it is.
        client: Arc<str>,
    },
    /// The store has answered whose a session is that was given up to a node that is lost.
    Recovered {
        /// Number of the handover.
        id: u64,
        /// Whose session it is.
        client: Arc<str>,
        /// The session, this node's again; `None`: another node has it.
        taken: Option<Box<StoredSession>>,
    },
    /// Every node has sent again what a lost incarnation had not stored.
    Settled {
        /// The incarnation.
        incarnation: u64,
    },
    /// What a lost node held and is ours now.
    TakeOver {
        /// Sessions whose home is this worker.
        sessions: Vec<StoredSession>,
        /// Wills whose connections the lost node did not see end.
        wills: Vec<StoredWill>,
        /// QoS 2 publishes of theirs that the lost node had begun.
        prepared: Vec<PreparedPublish>,
        /// The lost incarnation.
        incarnation: u64,
        /// Batches of other nodes that it had stored.
        batches: Arc<[StoredBatch]>,
        /// Told when their subscriptions are in force.
        done: oneshot::Sender<()>,
    },
    /// Where a session was that has come, or is on its way.
    Visited {
        /// Whose session it is.
        client: Arc<str>,
        /// Where.
        visits: Vec<Visit>,
    },
    /// It is known who wants what earlier starts of this node had begun.
    FinishOpen,
    /// Stop reading, finish what is in flight, close. Answered when no connection is left.
    Drain {
        /// Sent when the last connection is gone.
        done: oneshot::Sender<()>,
    },
}

/// Work for a TopicRouter from other workers.
#[derive(Debug)]
pub enum RouterWork {
    /// Publishes whose subscribers are here.
    Deliver(RemoteBatch),
    /// The same from another node.
    PeerBatch(InboundPeerBatch),
    /// To be passed by each router.
    InsertMarker(Arc<StreamMarker>),
    /// A marker of another node's stream, behind what that has published.
    ForwardMarker {
        /// Number of the handover.
        id: u64,
        /// Whose session it is.
        client: Arc<str>,
        /// Whose marker, and how many routers it has.
        stream: PublishStream,
        /// See `stream`.
        routers: u16,
    },
    /// A marker, where the session is.
    MarkerArrived {
        /// Number of the handover.
        id: u64,
        /// Whose session it is.
        client: Arc<str>,
        /// Whose marker, and how many routers it has.
        stream: PublishStream,
        /// See `stream`.
        routers: u16,
    },
    /// A stream of another node has sent again what a lost incarnation had not stored.
    Resent {
        /// The lost one.
        incarnation: u64,
        /// Which, and how many routers that node has.
        stream: PublishStream,
        /// See `stream`.
        routers: u16,
    },
    /// The same, for the sessions of one worker.
    ResentHere {
        /// The lost one.
        incarnation: u64,
        /// Which, and how many routers that node has.
        stream: PublishStream,
        /// See `stream`.
        routers: u16,
    },
    /// A retained message of another node is not ahead of live subscribers any more.
    RetainedReached {
        /// Topic name.
        topic: Arc<str>,
        /// Version of the change.
        version: u64,
        /// Where it was published.
        stream: PublishStream,
        /// Nobody else brings it to whoever has subscribed here meanwhile.
        live: bool,
    },
    /// A session that was expected does not come.
    Forget {
        /// Whose it is.
        client: Arc<str>,
    },
    /// A session is coming.
    Expect {
        /// Number of the handover.
        id: u64,
        /// Whose session it is.
        client: Arc<str>,
        /// Its filters, and the granted QoS of each.
        filters: Vec<(Arc<str>, u8)>,
    },
}

/// See the module.
#[derive(Debug)]
pub struct NodeTables {
    /// Checked settings.
    pub settings: Arc<Settings>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Every subscription of the node.
    pub subscriptions: RwLock<SubscriptionTable<Subscriber>>,
    /// Persistent sessions that are on their way between two nodes, by worker and slot.
    pub in_handover: RwLock<AHashSet<(u16, u32)>>,
    /// Rises with every change of `subscriptions` and `in_handover`; a cached route of another generation is
    /// stale.
    pub generation: AtomicU64,
    /// Retained messages.
    pub retained: RwLock<Retained>,
    /// The highest version of a retained message that this node has given or seen.
    pub retained_clock: AtomicU64,
    /// Inboxes of the ConnectionManagers.
    pub managers: Vec<Inbox<ManagerWork>>,
    /// Inboxes of the TopicRouters.
    pub routers: Vec<Inbox<RouterWork>>,
    /// StorageActor's inbox.
    pub storage: Inbox<StorageWork>,
    /// The log actor's inbox.
    pub log: Inbox<LogWork>,
    /// Whether a topic may have records of its own.
    pub gate: Gate,
    /// The outbox's lanes: what is written, handed to the log, acknowledged.
    pub lanes: Mutex<OutboxProgress>,
    /// Records that the log refused for good.
    pub dead_letters: DeadLetters,
    /// Bytes that StorageActor has admitted and holds back: the outbox is full, or a transaction
    /// waits for other workers.
    pub parked_bytes: AtomicUsize,
    /// Number for the next persistent session, or for the next connection with a will.
    pub next_session: AtomicU64,
    /// Number for the next transaction.
    pub next_transaction: AtomicU64,
    /// Persistent sessions of the node.
    pub persistent_sessions: AtomicUsize,
    /// Open sockets.
    pub connections: AtomicUsize,
    /// Most connections at one time.
    pub connections_peak: AtomicUsize,
    /// The node shuts down: no new connections, no new sessions.
    pub stopping: AtomicBool,
    /// This node's part in a cluster.
    pub cluster: Option<Arc<Cluster>>,
    /// The node is being emptied ([`crate::drain`]): no new clients.
    pub draining: AtomicBool,
    /// Connections a second that are closed meanwhile.
    pub drain_rate: AtomicU32,
    /// How many connections may be closed for that.
    pub drain_budget: Mutex<Budget>,
    /// What has passed.
    pub clock: Clock,
    /// What was dropped, as far as the log has been told.
    pub drops: Mutex<DropLines>,
    /// Why the node is not ready, by the part that says so.
    pub not_ready: Mutex<HashMap<&'static str, String>>,
}

impl NodeTables {
    /// These, each with the others that have the same home.
    pub fn by_home<T>(&self, all: Vec<T>, client_id: impl Fn(&T) -> &str) -> HashMap<u16, Vec<T>> {
        let mut homes: HashMap<u16, Vec<T>> = HashMap::new();
        for one in all {
            homes.entry(self.home(client_id(&one))).or_default().push(one);
        }
        homes
    }

    /// The worker that holds everything about a client id.
    pub fn home(&self, client_id: &str) -> u16 {
        if self.managers.len() == 1 {
            return 0;
        }
        // FNV-1a: stable over restarts, so that recovery finds the same home.
        let hash = client_id.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| {
            (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
        });
        #[allow(clippy::cast_possible_truncation)]
        {
            ((hash >> 16) % self.managers.len() as u64) as u16
        }
    }

    /// Adds or replaces a subscription; true when it is new.
    pub fn subscribe(
        &self,
        filter: &hydrant_protocol::topic::TopicFilter,
        subscriber: Subscriber,
        qos: QoS,
    ) -> bool {
        let mut table = self.subscriptions.write();
        let before = self.cluster.as_ref().and_then(|_| table.granted(filter, subscriber));
        let new = table.subscribe(filter, subscriber, qos);
        if let Some(cluster) = &self.cluster {
            // Under the table's lock: changes are announced in the order in which they were made.
            let persistent = subscriber.persistent;
            cluster.subscription_changed(filter.arc(), persistent, before, Some(qos));
        }
        drop(table);
        self.generation.fetch_add(1, Ordering::Release);
        if new {
            self.metrics.subscriptions.inc();
        }
        new
    }

    /// Removes a subscription; true when there was one.
    pub fn unsubscribe(
        &self,
        filter: &hydrant_protocol::topic::TopicFilter,
        subscriber: Subscriber,
    ) -> bool {
        let mut table = self.subscriptions.write();
        let before = self.cluster.as_ref().and_then(|_| table.granted(filter, subscriber));
        let removed = table.unsubscribe(filter, subscriber);
        if let Some(cluster) = &self.cluster {
            cluster.subscription_changed(filter.arc(), subscriber.persistent, before, None);
        }
        drop(table);
        if removed {
            self.generation.fetch_add(1, Ordering::Release);
            self.metrics.subscriptions.sub(1);
        }
        removed
    }

    /// False while the lease in a shared store is over: nothing is read from a client, and nothing
    /// is sent to one.
    pub fn may_act(&self) -> bool {
        self.cluster.as_ref().is_none_or(|cluster| cluster.may_act())
    }

    /// The version of a change of a retained message: by the clock, and above every one before.
    pub fn retained_version(&self) -> u64 {
        let now = crate::worker::unix_ns();
        let next = |last: u64| Some(now.max(last.saturating_add(1)));
        let last = self.retained_clock.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        now.max(last.unwrap_or_else(|last| last).saturating_add(1))
    }

    /// Whether a client of this address may connect; one that may not is logged.
    pub fn admits(&self, client: SocketAddr) -> bool {
        let admitted = self.settings.access.rules.admit(client.ip());
        if !admitted {
            say::warn!(
                target: "hydrant::actors",
                "closing the connection from {client}: listener.deny or listener.allow keeps it out"
            );
        }
        admitted
    }

    /// A part of the node is not ready, and why; `None` when it is again.
    pub fn set_ready(&self, part: &'static str, why_not: Option<String>) {
        let mut not_ready = self.not_ready.lock();
        match why_not {
            Some(why) => not_ready.insert(part, why),
            None => not_ready.remove(part),
        };
    }
}
