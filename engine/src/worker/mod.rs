//! What one worker decides: about its connections, its sessions, their publishes, and what waits for store or log.
//!
//! A machine without IO (decision 0017). Its driver calls it, one step at a time, on one thread: [`Worker::begin`] says
//! what time it is, then the step is told of bytes, a publish, an answer or a deadline. What it wants from outside goes
//! through [`Outside`]. It outlives the actors that drive it, so that a rebuilt one finds everything as it was.
//!
//! Owns connections, sessions, routes and pending acks (`state`). Each other file is one thing that happens: CONNECT
//! (`connect`), a publish (`publish`, `route`, `deliver`), an acknowledgement, a handover, the loss of a node.
//!
//! Invariants: a `RefCell` is borrowed for one step and never across a call that may reach another step. What a step
//! has decided to write to store or log stands in `effects` until it is flushed, also when that step panics.
//! Bounds: those of `limits` and `session` ([`settings`](crate::settings)); each part in `state` names its own.

mod abandon;
mod accepted;
mod acknowledge;
mod ahead;
mod buffered;
mod complete;
mod conn;
mod connect;
mod credit;
mod deliver;
mod drain;
mod leave;
mod log_record;
mod markers;
mod memory;
mod message;
mod order;
mod orphan_dedup;
mod outside;
mod packets;
mod peer_publish;
mod places;
mod publish;
mod qos2_forward;
mod qos2_receive;
mod qos2_replicate;
mod refused;
mod restamp;
mod retained;
mod route;
mod session_end;
mod session_handover;
pub(crate) mod state;
mod subscribe;
mod taken_over;
#[cfg(any(test, feature = "for-tests"))]
pub mod testing;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests;
mod timers;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use ahash::AHashMap;
use hydrant_protocol::cluster::stream_marker::MarkedStreams;
use hydrant_protocol::wire;
use slab::Slab;

pub use conn::{Ack, AckKind, Conn, ConnId, Moment, SocketState, moment};
pub use outside::Outside;
pub use refused::say_cut;
pub use state::ingress::{Origin, PublishBatch};

pub use state::dependencies::AckDependencies;
pub use state::pending_acks::Continuation;
pub use state::phase::{Event, Phase};
pub(crate) use state::publication::SYS_PREFIX;
pub use state::sessions::Session;

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
    outside: Box<dyn Outside>,
    /// Counters of this worker.
    pub metrics: Arc<WorkerMetrics>,
    /// What wire decoding holds packets against.
    pub wire_limits: wire::Limits,
    /// Connections, by the slot in their [`ConnId`].
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
    /// The router is woken and has not looked since.
    router_woken: Cell<bool>,
    paused: RefCell<Vec<Rc<Conn>>>,
    buffers: RefCell<Vec<Vec<u8>>>,
    /// Connections whose retained messages wait for a turn of the router, each once.
    streaming: RefCell<VecDeque<Rc<Conn>>>,
    /// What the clocks showed when the step began, and when the worker was made.
    now: Cell<Now>,
    /// See `now`.
    started: Boot,
    draining: Cell<bool>,
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
    /// An empty worker for worker `index`, made at `now`.
    pub fn new(
        index: u16,
        shared: Arc<NodeTables>,
        outside: Box<dyn Outside>,
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
            outside,
            metrics,
            wire_limits,
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
            router_woken: Cell::new(false),
            paused: RefCell::default(),
            buffers: RefCell::default(),
            streaming: RefCell::default(),
            now: Cell::new(now),
            started: now.boot,
            draining: Cell::new(false),
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

    /// The router looks for work from here on: it is to be woken for what comes then.
    pub fn router_polled(&self) {
        self.router_woken.set(false);
    }

    fn wake_router(&self) {
        // A hundred publishes in a row wake it once.
        if !self.router_woken.replace(true) {
            self.outside.wake_router();
        }
    }

    /// A connection has something to do.
    pub fn wake(&self, conn: &Conn) {
        conn.set_woken();
        self.outside.wake(conn.id(), self.now_ms());
    }

    /// Sends what the handlers have decided.
    pub fn flush(&self) {
        if self.effects.borrow_mut().hand_out(self.index, &self.shared, &*self.outside) {
            self.remote_is_full();
        }
    }

    /// How many workers the node has.
    fn worker_count(&self) -> u16 {
        u16::try_from(self.shared.workers()).unwrap_or(u16::MAX)
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
        // Once for any number of packets.
        if !conn.set_woken() {
            self.outside.wake(conn.id(), self.now_ms());
        }
        result
    }

    /// Closes a connection from outside its actor: the actor ends at its next poll.
    pub fn close(&self, conn: &Conn, reason: crate::metrics::CloseReason) {
        conn.enter(Event::Closes(reason));
        self.wake(conn);
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
