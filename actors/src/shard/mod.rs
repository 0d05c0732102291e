//! The state of one arbiter: its connections, sessions, routes and what waits for store or log.
//!
//! Passive: connection, ConnectionManager and TopicRouter actors of the arbiter call into it, one
//! at a time, on one thread. It lives in the arbiter and not in an actor, so that a rebuilt actor
//! finds everything as it was.
//!
//! Invariants: a `RefCell` is borrowed for one step and never across a call that may reach another
//! step; what a handler has decided to write to store or log stands in `outgoing` until it is
//! flushed, also when that handler panics.

mod batch;
mod cluster;
mod conn;
mod connect;
mod deliver;
mod drain;
mod exact;
mod marks;
mod moving;
mod open;
mod outgoing;
mod publish;
mod receipts;
mod records;
mod resume;
mod routes;
mod sessions;
mod subscribe;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
pub(crate) mod tests;
mod waits;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Waker;
use std::time::{Duration, Instant};

use ahash::AHashMap;
use hydrant_protocol::cluster::marks::Marks;
use hydrant_protocol::wire;
use slab::Slab;
use tokio::sync::oneshot;

pub use batch::{Origin, PublishBatch, RemoteBatch};
pub use conn::{Ack, AckKind, Conn};
pub use marks::{Barrier, Pass};
pub(crate) use outgoing::cost as op_cost;
pub use publish::Needs;
pub use sessions::{ANY_ESTATE, Session, unix_ms, unix_ns};
pub use waits::WaitKind;

use crate::metrics::ShardMetrics;
use crate::shared::Shared;
use batch::InternalPublish;
use open::Opens;
use outgoing::Outgoing;
use routes::Routes;
use sessions::Sessions;
use waits::Wait;

/// Bytes that one read of a socket can bring; the buffer belongs to the arbiter.
pub const READ_BUFFER: usize = 64 * 1024;
/// Outgoing buffers kept for reuse, and how large one may be to be kept.
const POOLED_BUFFERS: usize = 256;
const POOLED_CAPACITY: usize = 64 * 1024;
/// Clocks that were not looked at for so long: the thread was blocked, or the machine asleep.
const STOOD_STILL_MS: u64 = 1000;

/// See the module.
pub struct Shard {
    /// Index of the arbiter.
    pub index: u16,
    /// What the arbiters share.
    pub shared: Arc<Shared>,
    /// Counters of this arbiter.
    pub metrics: Arc<ShardMetrics>,
    /// What wire decoding holds packets against.
    pub wire_limits: wire::Limits,
    /// What a socket is read into.
    pub read_buffer: RefCell<Box<[u8]>>,
    /// Sockets, by the id in [`Conn`].
    pub conns: RefCell<Slab<Rc<Conn>>>,
    sessions: RefCell<Sessions>,
    routes: RefCell<Routes>,
    waits: RefCell<Slab<Wait>>,
    next_stamp: Cell<u32>,
    outgoing: RefCell<Outgoing>,
    /// Publishes decoded and not routed yet.
    batch: RefCell<PublishBatch>,
    /// The batch that the router works on, and how far it is.
    routing: RefCell<PublishBatch>,
    routed: Cell<usize>,
    internal: RefCell<VecDeque<InternalPublish>>,
    router_waker: RefCell<Option<Waker>>,
    paused: RefCell<Vec<Rc<Conn>>>,
    buffers: RefCell<Vec<Vec<u8>>>,
    started: Instant,
    draining: Cell<bool>,
    drained: RefCell<Vec<oneshot::Sender<()>>>,
    /// The publish at which the router before this one ended, and how many did.
    router_deaths: Cell<(u64, u8)>,
    routed_total: Cell<u64>,
    /// When the connections' clocks were looked at last.
    checked_ms: Cell<u64>,
    /// A TopicRouter of another arbiter has no room for more publishes.
    remote_full: Cell<bool>,
    /// A batch from another arbiter is begun and its part not handed to the store: queue entries
    /// that are numbered and stand nowhere else.
    remote_half_done: Cell<bool>,
    /// Connections that were let in and whose CONNECT is not looked at again yet.
    arriving: RefCell<AHashMap<Arc<str>, Rc<Conn>>>,
    /// Sessions that other nodes are about to give up for this one, by client id: their slots.
    expected: RefCell<AHashMap<Arc<str>, u32>>,
    /// Sessions that this one has given up and that their takers do not have yet.
    given_up: RefCell<AHashMap<Arc<str>, u32>>,
    /// Lost incarnations some of whose sessions are here, while what they had not stored is sent again.
    estates: RefCell<AHashMap<u64, Rc<RefCell<Marks>>>>,
    /// Lost incarnations whose heir this node is, while this router waits for what it had published for
    /// them itself: it publishes nothing meanwhile.
    held_up: Cell<u32>,
    opens: Opens,
    /// The last admission of a client that was heard of.
    admitted: Cell<u64>,
    /// A session ends because its client is back or elsewhere: nobody is told.
    reconnecting: Cell<bool>,
    /// The lease ran when the clocks were looked at last.
    acted: Cell<bool>,
}

impl Shard {
    /// An empty shard for arbiter `index`.
    pub fn new(index: u16, shared: Arc<Shared>) -> Rc<Self> {
        let limits = &shared.settings.limits;
        let wire_limits = wire::Limits {
            max_packet_size: limits.max_packet_size,
            max_topic_length: limits.max_topic_length,
            max_topic_levels: limits.max_topic_levels,
            max_filters: limits.max_filters_per_subscribe,
        };
        let metrics = Arc::clone(&shared.metrics.shards[usize::from(index)]);
        Rc::new(Self {
            index,
            metrics,
            wire_limits,
            read_buffer: RefCell::new(vec![0; READ_BUFFER].into_boxed_slice()),
            conns: RefCell::default(),
            sessions: RefCell::default(),
            routes: RefCell::default(),
            waits: RefCell::default(),
            next_stamp: Cell::new(1),
            outgoing: RefCell::new(Outgoing::new(shared.managers.len())),
            batch: RefCell::default(),
            routing: RefCell::default(),
            routed: Cell::new(0),
            internal: RefCell::default(),
            router_waker: RefCell::default(),
            paused: RefCell::default(),
            buffers: RefCell::default(),
            started: Instant::now(),
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
            estates: RefCell::default(),
            held_up: Cell::new(0),
            opens: Opens::default(),
            admitted: Cell::new(0),
            reconnecting: Cell::new(false),
            acted: Cell::new(true),
            shared,
        })
    }

    /// Milliseconds since the shard was made.
    pub fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// A number that tells a reused slot from the one that was meant.
    fn stamp(&self) -> u32 {
        let stamp = self.next_stamp.get();
        self.next_stamp.set(stamp.wrapping_add(1));
        stamp
    }

    /// True while publishes wait for the router.
    pub fn has_router_work(&self) -> bool {
        !self.batch.borrow().is_empty()
            || !self.opens.begun.borrow().is_empty()
            || self.routed.get() < self.routing.borrow().len()
            || !self.internal.borrow().is_empty()
    }

    /// Whether the router may route what waits on its arbiter.
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

    /// Whether a connection may read more: its own acknowledgements are not too far behind, and
    /// the actors its publishes wait for have room.
    pub fn has_credit(&self, conn: &Conn) -> bool {
        let limits = &self.shared.settings.limits;
        if conn.acks_outstanding() >= limits.max_unacknowledged {
            return false;
        }
        if conn.held.get() && (conn.replaying.get() || self.awaits_router(conn)) {
            return false;
        }
        // Deliveries end at max_output_bytes; past twice that it is answers which the client does
        // not read.
        if conn.out.borrow().len() >= 2 * limits.max_output_bytes || self.remote_full.get() {
            return false;
        }
        if conn.claiming.get().is_some() || !self.shared.may_act() {
            return false;
        }
        if self.batch.borrow().bytes() >= limits.max_router_bytes {
            return false;
        }
        // A full store or log pauses those who wait for it; the others only far past the bound.
        let waits = conn.acks_outstanding() > 0;
        let storage = &self.shared.storage;
        let pending = storage.bytes() + self.shared.parked_bytes.load(Ordering::Relaxed);
        let max = self.shared.settings.storage.max_pending_bytes;
        if pending >= max && (waits || storage.bytes() > 2 * max || pending > 4 * max) {
            return false;
        }
        conn.log_waits.get() == 0 || self.shared.log.has_room()
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
            if conn.closing.get().is_none() && !self.has_credit(conn) {
                return true;
            }
            conn.paused.set(false);
            if conn.held.replace(false) {
                // It has submitted nothing since.
                conn.unrouted.set(false);
            }
            // The keep-alive does not run while we did not read ([MQTT-3.1.2-24]).
            conn.last_packet_ms.set(now);
            conn.wake();
            false
        });
        self.paused.replace(paused);
    }

    /// Another arbiter's router got more than it has room for: nothing is read here until it has
    /// some again.
    fn remote_is_full(&self) {
        if !self.remote_full.replace(true) {
            // It registers for the room ([`Self::poll_remote_room`]).
            self.wake_router();
        }
    }

    /// True once, when every other arbiter's router that was full has room again; has `waker` woken
    /// then. For the router's stream.
    pub fn poll_remote_room(&self, waker: &Waker) -> bool {
        if !self.remote_full.get() {
            return false;
        }
        let full = self
            .shared
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
        drop(out);
        conn.packets_out.set(conn.packets_out.get() + 1);
        conn.wake_dirty(self.started);
        result
    }

    /// Closes a connection from outside its actor: the actor ends at its next poll.
    pub fn close(&self, conn: &Conn, reason: crate::metrics::CloseReason) {
        if conn.closing.get().is_none() {
            conn.closing.set(Some(reason));
        }
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

    /// Looks at every connection's clocks: CONNECT in time, keep-alive, a socket that takes
    /// nothing, an actor that does not answer.
    pub fn check_timers(&self) {
        use crate::metrics::CloseReason;
        let now = self.now_ms();
        let limits = &self.shared.settings.limits;
        let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        let stall = ms(self.shared.settings.supervision.stall_timeout);
        let conns: Vec<Rc<Conn>> =
            self.conns.borrow().iter().map(|(_, conn)| Rc::clone(conn)).collect();
        let acts = self.shared.may_act();
        let again = acts && !self.acted.replace(acts);
        // After this thread itself stood still nobody's silence means anything: one more turn.
        let stood_still = now.saturating_sub(self.checked_ms.replace(now)) > STOOD_STILL_MS;
        for conn in conns {
            if conn.is_woken() && (stood_still || conn.woken_ms.get().is_none()) {
                conn.woken_ms.set(Some(now));
            }
            if stood_still {
                continue;
            }
            if again && !conn.out.borrow().is_empty() {
                // The lease is back, and with it what is on its way to clients.
                conn.wake();
            }
            if conn.draining.get() {
                // What it waits for may have been routed without an answer to it.
                conn.wake();
            }
            if conn.woken_ms.get().is_some_and(|woken| now.saturating_sub(woken) > stall) {
                // Woken and never polled: its actor waits for something that does not come.
                conn.closing.set(Some(CloseReason::ActorDied));
                conn.abort("stalled: it did not answer its wake-up");
                continue;
            }
            if conn.closing.get().is_some() {
                // It was woken to end; one that does not is killed a stall later.
                continue;
            }
            if conn.draining.get() && self.drained_late(&conn, now) {
                self.close(&conn, CloseReason::Drain);
                continue;
            }
            if conn.session.get().is_none() && conn.claiming.get().is_none() {
                if now.saturating_sub(conn.accepted_ms) > ms(limits.connect_timeout) {
                    self.close(&conn, CloseReason::ConnectTimeout);
                }
                continue;
            }
            let silent = now.saturating_sub(conn.last_packet_ms.get());
            let patience = u64::from(conn.keep_alive_s.get()) * 1500;
            if patience > 0 && silent > patience && !conn.paused.get() && !conn.awaits_connack() {
                self.close(&conn, CloseReason::KeepAlive);
                continue;
            }
            if conn
                .write_blocked_ms
                .get()
                .is_some_and(|since| now.saturating_sub(since) > ms(limits.write_timeout))
            {
                self.close(&conn, CloseReason::WriteTimeout);
            }
        }
    }

    /// The generation of the subscription table.
    fn generation(&self) -> u64 {
        self.shared.generation.load(Ordering::Acquire)
    }
}
