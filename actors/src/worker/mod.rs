//! The state of one worker: its connections, sessions, routes and what waits for store or log.
//!
//! Passive: connection, ConnectionManager and TopicRouter actors of the worker call into it, one
//! at a time, on one thread. It lives in the worker and not in an actor, so that a rebuilt actor
//! finds everything as it was.
//!
//! Invariants: a `RefCell` is borrowed for one step and never across a call that may reach another
//! step; what a handler has decided to write to store or log stands in `effects` until it is
//! flushed, also when that handler panics.

mod abandon;
mod acknowledge;
mod ahead;
mod buffered;
mod complete;
mod conn;
mod connect;
mod deliver;
mod drain;
mod leave;
mod log_record;
mod markers;
mod memory;
mod order;
mod orphan_dedup;
mod peer_publish;
mod places;
mod publish;
mod qos2_forward;
mod qos2_receive;
mod qos2_replicate;
mod restamp;
mod retained;
mod route;
mod session_end;
mod session_handover;
pub(crate) mod state;
mod subscribe;
mod taken_over;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
pub(crate) mod tests;
mod timers;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Waker;

use ahash::AHashMap;
use hydrant_protocol::cluster::stream_marker::MarkedStreams;
use hydrant_protocol::wire;
use slab::Slab;
use tokio::sync::oneshot;

pub use conn::{Ack, AckKind, Conn, moment};
pub use state::ingress::{Origin, PublishBatch};

pub use state::dependencies::AckDependencies;
pub(crate) use state::effects::cost as op_cost;
pub use state::pending_acks::Continuation;
pub use state::phase::{Event, Phase};
pub(crate) use state::publication::SYS_PREFIX;
pub use state::sessions::Session;

use crate::mailboxes::Mailboxes;
use crate::metrics::WorkerMetrics;
use crate::node_tables::NodeTables;
use crate::now::{Boot, Now};
use state::buffers::Buffers;
use state::effects::Effects;
use state::exactly_once::PreparedPublishes;
use state::ingress::InternalPublish;
use state::order::Order;
use state::pending_acks::PendingAck;
use state::replica::OrphanDedup;
use state::routes::{AtCap, Routes};
use state::sessions::{Sessions, Walk};

/// Bytes that one read of a socket can bring; the buffer belongs to the worker.
pub const READ_BUFFER: usize = 64 * 1024;
/// Outgoing buffers kept for reuse, and how large one may be to be kept.
pub const POOLED_BUFFERS: usize = 256;
/// See [`POOLED_BUFFERS`].
pub const POOLED_CAPACITY: usize = 64 * 1024;

/// See the module.
pub struct Worker {
    /// Index of the worker.
    pub index: u16,
    /// What the workers share.
    pub shared: Arc<NodeTables>,
    /// The inboxes of the node's actors.
    pub mailboxes: Arc<Mailboxes>,
    /// Counters of this worker.
    pub metrics: Arc<WorkerMetrics>,
    /// What wire decoding holds packets against.
    pub wire_limits: wire::Limits,
    /// What a socket is read into.
    pub read_buffer: RefCell<Box<[u8]>>,
    /// Sockets, by the id in [`Conn`].
    pub conns: RefCell<Slab<Rc<Conn>>>,
    sessions: RefCell<Sessions>,
    routes: RefCell<Routes>,
    at_cap: RefCell<AtCap>,
    pending_acks: RefCell<Slab<PendingAck>>,
    next_number: Cell<u32>,
    effects: RefCell<Effects>,
    /// Publishes decoded and not routed yet.
    batch: RefCell<PublishBatch>,
    /// The batch that the router works on, and how far it is.
    routing: RefCell<PublishBatch>,
    routed: Cell<usize>,
    internal: RefCell<VecDeque<InternalPublish>>,
    /// Some of them were left at the end of a turn.
    internal_goes_on: Cell<bool>,
    router_waker: RefCell<Option<Waker>>,
    paused: RefCell<Vec<Rc<Conn>>>,
    buffers: RefCell<Vec<Vec<u8>>>,
    /// Connections whose retained messages wait for a turn of the router, each once.
    streaming: RefCell<VecDeque<Rc<Conn>>>,
    /// What the clocks showed when the step began, and when the worker was made.
    now: Cell<Now>,
    /// See `now`.
    started: Boot,
    draining: Cell<bool>,
    drained: RefCell<Vec<oneshot::Sender<()>>>,
    /// The publish at which the router before this one ended, and how many did.
    router_deaths: Cell<(u64, u8)>,
    routed_total: Cell<u64>,
    /// When the connections' clocks were looked at last.
    checked_ms: Cell<u64>,
    /// A TopicRouter of another worker has no room for more publishes.
    remote_full: Cell<bool>,
    /// A batch from another worker is begun and its part not handed to the store: queue entries
    /// that are numbered and stand nowhere else.
    remote_half_done: Cell<bool>,
    /// Connections that were let in and whose CONNECT is not looked at again yet.
    arriving: RefCell<AHashMap<Arc<str>, Rc<Conn>>>,
    /// Sessions that other nodes are about to give up for this one, by client id: their slots.
    expected: RefCell<AHashMap<Arc<str>, u32>>,
    /// Sessions that this one has given up and that their targets do not have yet.
    given_up: RefCell<AHashMap<Arc<str>, u32>>,
    /// Lost incarnations some of whose sessions are here, while what they had not stored is sent again.
    orphans: RefCell<AHashMap<u64, Rc<RefCell<MarkedStreams>>>>,
    /// Prepared publishes that the sessions of lost incarnations have.
    dedup: RefCell<AHashMap<u64, OrphanDedup>>,
    /// Lost incarnations whose successor this node is, while this router waits for what it had published for
    /// them itself: it publishes nothing meanwhile.
    held_up: Cell<u32>,
    prepared: PreparedPublishes,
    order: RefCell<Order>,
    /// The last admission of a client that was heard of.
    admitted: Cell<u64>,
    /// A session ends because its client is back or elsewhere: nobody is told.
    reconnecting: Cell<bool>,
    /// The lease ran when the clocks were looked at last.
    acted: Cell<bool>,
    restamp: Cell<Walk>,
    /// What the connections hold ([`memory`]).
    incoming: Buffers,
    /// See `incoming`.
    output: Buffers,
}

impl Worker {
    /// An empty worker for worker `index`.
    pub fn new(
        index: u16,
        shared: Arc<NodeTables>,
        mailboxes: Arc<Mailboxes>,
        now: Now,
    ) -> Rc<Self> {
        let limits = &shared.settings.limits;
        let wire_limits = wire::Limits {
            max_packet_size: limits.max_packet_size,
            max_topic_length: limits.max_topic_length,
            max_topic_levels: limits.max_topic_levels,
            max_filters: limits.max_filters_per_subscribe,
            control_characters: limits.control_characters,
        };
        let metrics = Arc::clone(&shared.metrics.workers[usize::from(index)]);
        let buffers = limits.max_buffer_bytes / 2 / shared.workers();
        Rc::new(Self {
            index,
            mailboxes,
            metrics,
            wire_limits,
            read_buffer: RefCell::new(vec![0; READ_BUFFER].into_boxed_slice()),
            conns: RefCell::default(),
            sessions: RefCell::default(),
            routes: RefCell::default(),
            at_cap: RefCell::default(),
            pending_acks: RefCell::default(),
            next_number: Cell::new(1),
            effects: RefCell::new(Effects::new(shared.workers())),
            batch: RefCell::default(),
            routing: RefCell::default(),
            routed: Cell::new(0),
            internal: RefCell::default(),
            internal_goes_on: Cell::new(false),
            router_waker: RefCell::default(),
            paused: RefCell::default(),
            buffers: RefCell::default(),
            streaming: RefCell::default(),
            now: Cell::new(now),
            started: now.boot,
            draining: Cell::new(false),
            drained: RefCell::default(),
            router_deaths: Cell::new((u64::MAX, 0)),
            routed_total: Cell::new(0),
            checked_ms: Cell::new(0),
            remote_full: Cell::new(false),
            remote_half_done: Cell::new(false),
            arriving: RefCell::default(),
            expected: RefCell::default(),
            given_up: RefCell::default(),
            orphans: RefCell::default(),
            dedup: RefCell::default(),
            held_up: Cell::new(0),
            prepared: PreparedPublishes::default(),
            order: RefCell::default(),
            admitted: Cell::new(0),
            reconnecting: Cell::new(false),
            acted: Cell::new(true),
            restamp: Cell::default(),
            incoming: Buffers::new(buffers),
            output: Buffers::new(buffers),
            shared,
        })
    }

    /// Milliseconds from when the worker was made to the beginning of the step.
    pub fn now_ms(&self) -> u64 {
        self.now.get().boot.0.saturating_sub(self.started.0) / 1_000
    }

    /// A step begins: both clocks as its driver has just read them. They stand still until the next one.
    #[inline]
    pub fn begin(&self, now: Now) {
        self.now.set(now);
    }

    /// What the clocks showed when the step began.
    #[inline]
    pub fn now(&self) -> Now {
        self.now.get()
    }

    /// Milliseconds since the Unix epoch, for stamps that others read.
    fn unix_ms(&self) -> u64 {
        self.now.get().wall.ms()
    }

    /// A number that was not given lately: the generation of a slot, or it names a claim or a read.
    fn next_number(&self) -> u32 {
        let number = self.next_number.get();
        self.next_number.set(number.wrapping_add(1));
        number
    }

    /// True while publishes wait for the router.
    pub fn has_router_work(&self) -> bool {
        !self.batch.borrow().is_empty()
            || !self.prepared.begun.borrow().is_empty()
            || self.has_ready()
            || self.routed.get() < self.routing.borrow().len()
            || !self.internal.borrow().is_empty()
    }

    /// Whether the router may route what waits on its worker.
    pub fn may_route(&self) -> bool {
        self.held_up.get() == 0
    }

    /// Publishes that wait for the router.
    pub fn router_depth(&self) -> usize {
        self.batch.borrow().len() + self.routing.borrow().len().saturating_sub(self.routed.get())
    }

    /// Keeps the waker of the router's stream.
    pub fn set_router_waker(&self, waker: &Waker) {
        let mut slot = self.router_waker.borrow_mut();
        if !slot.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *slot = Some(waker.clone());
        }
    }

    fn wake_router(&self) {
        // Taken, so that a hundred publishes in a row wake it once; the stream puts it back.
        if let Some(waker) = self.router_waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Whether a connection may read more: what it has caused itself is not too much, and the actors its
    /// publishes wait for have room.
    pub fn has_credit(&self, conn: &Conn) -> bool {
        self.has_credit_within_read(conn) && self.others_have_room(conn)
    }

    /// The half of [`has_credit`](Self::has_credit) that each packet of a read may change.
    #[inline]
    pub fn has_credit_within_read(&self, conn: &Conn) -> bool {
        let limits = &self.shared.settings.limits;
        if conn.acks_outstanding() >= limits.max_unacknowledged {
            return false;
        }
        if conn.held.get() && (conn.replaying.get() || self.awaits_router(conn)) {
            return false;
        }
        // Deliveries end at max_output_bytes; past twice that it is answers which the client does
        // not read.
        let waits = conn.out.borrow().len();
        if waits >= 2 * limits.max_output_bytes || self.is_past_share(waits) {
            return false;
        }
        conn.phase().claim().is_none() && self.batch.borrow().bytes() < limits.max_router_bytes
    }

    /// The other half: it stands while one read is handled, because what that causes is handed out at its end.
    pub fn others_have_room(&self, conn: &Conn) -> bool {
        if self.remote_full.get() || !self.shared.may_act() {
            return false;
        }
        // A full store or log pauses those who wait for it; the others only far past the bound.
        let waits = conn.acks_outstanding() > 0;
        let storage = &self.mailboxes.storage;
        let pending = storage.bytes() + self.shared.parked_bytes.load(Ordering::Relaxed);
        let max = self.shared.settings.storage.max_pending_bytes;
        if pending >= max && (waits || storage.bytes() > 2 * max || pending > 4 * max) {
            return false;
        }
        conn.log_waits.get() == 0 || self.mailboxes.log.has_room()
    }

    /// Whether a packet has to wait, with what is behind it. SUBSCRIBE and UNSUBSCRIBE wait for the
    /// router while it has publishes of their connection: they bear on what comes after them, and
    /// what came before is retained by then ([MQTT-3.3.1-8]). PUBREC waits until what was in flight
    /// has been read back: no PUBREL may precede a PUBLISH that is sent again ([MQTT-4.3.3-1]).
    pub fn must_wait(&self, conn: &Conn, packet: &wire::Packet<'_>) -> bool {
        let waits = match packet {
            wire::Packet::Subscribe(_) | wire::Packet::Unsubscribe(_) => self.awaits_router(conn),
            wire::Packet::Pubrec(_) => conn.replaying.get(),
            _ => false,
        };
        if waits {
            conn.held.set(true);
        }
        waits
    }

    fn awaits_router(&self, conn: &Conn) -> bool {
        conn.unrouted.get() && self.has_router_work()
    }

    /// Remembers a connection that stopped reading for want of credit.
    pub fn pause(&self, conn: &Rc<Conn>) {
        if !conn.paused.replace(true) {
            self.metrics.paused.inc();
            self.paused.borrow_mut().push(Rc::clone(conn));
        }
    }

    /// Lets paused connections that have credit again go on.
    pub fn resume_paused(&self) {
        if self.paused.borrow().is_empty() {
            return;
        }
        let now = self.now_ms();
        let mut paused = self.paused.take();
        paused.retain(|conn| {
            if conn.phase().closing().is_none() && !self.has_credit(conn) {
                return true;
            }
            conn.paused.set(false);
            if conn.held.replace(false) {
                // It has submitted nothing since.
                conn.unrouted.set(false);
            }
            // The keep-alive does not run while we did not read ([MQTT-3.1.2-24]).
            conn.clocks_begin_anew(now);
            conn.wake();
            false
        });
        self.paused.replace(paused);
    }

    /// Sends what the handlers have decided.
    pub fn flush(&self) {
        if self.effects.borrow_mut().hand_out(self.index, &self.shared, &self.mailboxes) {
            self.remote_is_full();
        }
    }

    /// Another worker's router got more than it has room for: nothing is read here until it has
    /// some again.
    fn remote_is_full(&self) {
        if !self.remote_full.replace(true) {
            // It registers for the room ([`Self::poll_remote_room`]).
            self.wake_router();
        }
    }

    /// True once, when every other worker's router that was full has room again; has `waker` woken
    /// then. For the router's stream.
    pub fn poll_remote_room(&self, waker: &Waker) -> bool {
        if !self.remote_full.get() {
            return false;
        }
        let full = self
            .mailboxes
            .routers
            .iter()
            .enumerate()
            .find(|(at, router)| *at != usize::from(self.index) && !router.has_room());
        match full {
            Some((_, router)) => router.wait_room(waker),
            None => self.remote_full.set(false),
        }
        !self.remote_full.get()
    }

    /// Connections that stopped reading.
    pub fn paused_count(&self) -> usize {
        self.paused.borrow().len()
    }

    /// A buffer to encode into, from the pool.
    fn take_buffer(&self) -> Vec<u8> {
        self.buffers.borrow_mut().pop().unwrap_or_default()
    }

    /// Gives a flushed buffer back, so that an idle connection holds none.
    pub fn give_buffer(&self, mut buffer: Vec<u8>) {
        let mut pool = self.buffers.borrow_mut();
        if buffer.capacity() > 0
            && buffer.capacity() <= POOLED_CAPACITY
            && pool.len() < POOLED_BUFFERS
        {
            buffer.clear();
            pool.push(buffer);
        }
    }

    /// Appends packets to a connection's outgoing buffer. All or nothing: when `encode` panics,
    /// the buffer is what it was before.
    pub fn write<R>(&self, conn: &Conn, encode: impl FnOnce(&mut Vec<u8>) -> R) -> R {
        struct Whole<'a>(&'a mut Vec<u8>, usize, bool);
        impl Drop for Whole<'_> {
            fn drop(&mut self) {
                if !self.2 {
                    self.0.truncate(self.1);
                }
            }
        }
        let mut out = conn.out.borrow_mut();
        if out.capacity() == 0 {
            *out = self.take_buffer();
        }
        let before = out.len();
        let mut whole = Whole(&mut out, before, false);
        let result = encode(whole.0);
        whole.2 = true;
        drop(whole);
        self.output_changed(before, out.len());
        drop(out);
        conn.packets_out.set(conn.packets_out.get() + 1);
        conn.wake_dirty(self.now_ms());
        result
    }

    /// Closes a connection from outside its actor: the actor ends at its next poll.
    pub fn close(&self, conn: &Conn, reason: crate::metrics::CloseReason) {
        conn.enter(Event::Closes(reason));
        conn.wake();
    }

    /// A router starts: true when `limit` routers before it ended at the publish that it would
    /// begin with.
    pub fn router_died_on_the_same(&self, limit: u8) -> bool {
        let at = self.routed_total.get();
        let (last, deaths) = self.router_deaths.get();
        if !self.has_router_work() {
            return false;
        }
        // The first router that starts at a publish has not died on it.
        let deaths = if last == at { deaths + 1 } else { 0 };
        self.router_deaths.set((at, deaths));
        deaths >= limit
    }

    /// In flight, waiting, and CleanSession of a connection's session.
    pub fn session_load(&self, conn: &Conn) -> (usize, usize, bool) {
        let sessions = self.sessions.borrow();
        let session = conn.session.get().and_then(|slot| sessions.slots.get(slot as usize));
        session.map_or((0, 0, true), |session| {
            let out = &session.outbound;
            let queued =
                session.stored.as_ref().map_or(out.waiting(), |stored| stored.queued as usize);
            (out.in_flight(), queued, session.stored.is_none())
        })
    }
}
