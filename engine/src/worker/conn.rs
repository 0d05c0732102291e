//! One client's connection as its worker sees it: its [phase](super::state::phase), the outgoing buffer,
//! the acknowledgements in their order, and the clocks. The socket itself is its driver's, which finds it by [`ConnId`].
//!
//! Bounds: `out` by `limits.max_output_bytes` (checked by who delivers), `acks` by
//! `limits.max_unacknowledged` (checked before reading), `partial` by `limits.max_packet_size`. What all
//! connections hold together: [`memory`](super::memory).

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::sync::Arc;

use hydrant_protocol::PacketId;
use hydrant_protocol::wire::Arriving;

use crate::ports::StoredWill;
use crate::say::cut;

use super::state::phase::{Event, Phase};

/// An answer a client is owed. Sent in the order in which the requests came
/// ([MQTT-4.6.0-2], [MQTT-4.6.0-3]).
#[derive(Debug)]
pub enum AckKind {
    /// CONNACK with return code 0.
    Connack {
        /// Session Present.
        session_present: bool,
    },
    /// PUBACK.
    Puback(PacketId),
    /// PUBREC.
    Pubrec(PacketId),
    /// PUBCOMP.
    Pubcomp(PacketId),
    /// SUBACK with its return codes, and the numbers of the cursors whose retained messages follow it.
    Suback(PacketId, Vec<u8>, Vec<u32>),
    /// UNSUBACK.
    Unsuback(PacketId),
}

/// Whom a line of the log is about, see [`Conn::who`].
pub struct Who<'a>(&'a Conn);

impl std::fmt::Display for Who<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0.peer.get())?;
        match self.0.client_id.borrow().as_deref() {
            Some(id) => write!(f, " (client {})", cut(id)),
            None => f.write_str(" (no CONNECT)"),
        }
    }
}

/// One entry of the queue of answers.
#[derive(Debug)]
pub struct Ack {
    /// What is sent.
    pub kind: AckKind,
    /// It may be sent.
    pub done: bool,
}

/// Milliseconds of the worker's clock. An `Option<Moment>` takes 8 bytes, too.
pub type Moment = NonZeroU64;

/// The moment of a time of the worker's clock; 0 counts as 1 ms.
pub fn moment(ms: u64) -> Moment {
    NonZeroU64::new(ms).unwrap_or(NonZeroU64::MIN)
}

/// Names one connection of a worker. A slot that is used again has another generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnId {
    slot: u32,
    generation: u32,
}

impl ConnId {
    /// Its key in the worker's slab.
    pub fn key(self) -> usize {
        self.slot as usize
    }
}

/// What a look at a connection's socket and task finds, which its driver alone knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketState {
    /// Nothing that ends the connection.
    Goes,
    /// It was woken, and does not answer: it is ended.
    Stalled,
    /// It has taken nothing for `limits.write_timeout`.
    Blocked,
}

/// See the module.
pub struct Conn {
    id: ConnId,
    phase: Cell<Phase>,
    /// The client: the socket's peer, or who its PROXY header says.
    pub peer: Cell<SocketAddr>,
    /// When the socket came, by the worker's clock.
    pub accepted_ms: u64,
    /// When the last whole packet came, or the keep-alive began to run again.
    pub last_packet_ms: Cell<u64>,
    /// What `partial` is the beginning of, while its rest is waited for.
    /// Boxed: most connections wait between packets.
    pub arriving: Cell<Option<Box<Arriving>>>,
    /// Keep Alive of CONNECT, seconds; 0 is none.
    pub keep_alive_s: Cell<u16>,
    /// The session's slot, while the phase [has a session](Phase::is_connected).
    pub session: Cell<Option<u32>>,
    /// Since when the cluster is asked whether its client may be let in, by the worker's clock.
    pub claiming_ms: Cell<u64>,
    /// A claim may wait on from here: sessions of a lost node were with nobody.
    pub patient_ms: Cell<u64>,
    /// What stands behind its CONNECT hides the end of the socket: the clocks look for that.
    pub hides_end: Cell<bool>,
    /// How many publishes the worker has routed once all of a draining connection's are.
    /// The field holds the lower 32 bits of that count.
    pub drain_at: Cell<u32>,
    /// Since when it drains.
    /// The field holds the lower 32 bits of that time, which repeat after 49 days.
    pub drain_ms: Cell<u32>,
    /// Not reading for want of credit.
    pub paused: Cell<bool>,
    /// It speaks MQTT 3.1, whose packets may have more flags.
    pub v31: Cell<bool>,
    /// Publishes of it may wait for the router.
    pub unrouted: Cell<bool>,
    /// What its session had in flight before has not all been read back.
    pub replaying: Cell<bool>,
    /// The next packet waits for one of the two ([`Worker::must_wait`](super::Worker::must_wait)).
    pub held: Cell<bool>,
    /// Publishes of it that the log has to acknowledge.
    pub log_waits: Cell<u32>,
    /// One of its QoS 2 messages whose route waits for the store has been routed.
    pub has_routed_exact: Cell<bool>,
    /// The outgoing buffer ran full: something waits for it to empty.
    pub wants_pump: Cell<bool>,
    /// It waits for a turn of the router with its retained messages.
    pub streams: Cell<bool>,
    /// Packets encoded since they were last counted.
    pub packets_out: Cell<u32>,
    /// Epoch of the session, and the number of its next publish.
    pub epoch: Cell<u64>,
    /// See `epoch`.
    pub publishes: Cell<u64>,
    /// Encoded packets that wait for the socket.
    pub out: RefCell<Vec<u8>>,
    /// The beginning of a packet whose rest has not come.
    pub partial: Cell<Vec<u8>>,
    /// Bytes of `partial`, as they are counted; see `memory.rs`.
    pub partial_bytes: Cell<u32>,
    /// The same of messages that wait in memory for its session.
    pub waiting_bytes: Cell<u32>,
    /// The same of `will`.
    pub will_bytes: Cell<u32>,
    /// The Last Will of this connection.
    pub will: Cell<Option<Box<StoredWill>>>,
    /// The number that its will is stored under; 0: it has had none.
    pub number: Cell<u64>,
    /// Client id, once known.
    pub client_id: RefCell<Option<Arc<str>>>,
    acks: RefCell<VecDeque<Ack>>,
    /// Index of the front of `acks`, counted from the first there ever was.
    acks_from: Cell<u32>,
    dirty: Cell<bool>,
    undecoded: Cell<bool>,
}

impl std::fmt::Debug for Conn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Conn").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Conn {
    /// Its key in the worker's slab.
    pub fn key(&self) -> usize {
        self.id.key()
    }

    /// What its driver knows it by.
    pub fn id(&self) -> ConnId {
        self.id
    }

    /// Where it is in its life.
    #[inline]
    pub fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// Goes on to the phase that follows; false where the event changes nothing.
    pub fn enter(&self, event: Event) -> bool {
        let next = self.phase.get().after(event);
        if let Some(next) = next {
            self.phase.set(next);
        }
        next.is_some()
    }

    /// Its address and client id, for the log.
    pub fn who(&self) -> Who<'_> {
        Who(self)
    }

    /// A connection before CONNECT, in its first phase.
    pub fn new(
        (slot, generation): (usize, u32),
        phase: Phase,
        peer: SocketAddr,
        now_ms: u64,
        read: Vec<u8>,
    ) -> Self {
        Self {
            // Below `limits.max_connections`.
            id: ConnId { slot: u32::try_from(slot).unwrap_or(u32::MAX), generation },
            phase: Cell::new(phase),
            peer: Cell::new(peer),
            accepted_ms: now_ms,
            last_packet_ms: Cell::new(now_ms),
            arriving: Cell::default(),
            keep_alive_s: Cell::new(0),
            session: Cell::new(None),
            claiming_ms: Cell::new(0),
            patient_ms: Cell::new(0),
            hides_end: Cell::new(false),
            drain_at: Cell::new(0),
            drain_ms: Cell::new(0),
            paused: Cell::new(false),
            v31: Cell::new(false),
            unrouted: Cell::new(false),
            replaying: Cell::new(false),
            held: Cell::new(false),
            log_waits: Cell::new(0),
            has_routed_exact: Cell::new(false),
            wants_pump: Cell::new(false),
            streams: Cell::new(false),
            packets_out: Cell::new(0),
            epoch: Cell::new(0),
            publishes: Cell::new(0),
            out: RefCell::default(),
            partial: Cell::new(read),
            partial_bytes: Cell::new(0),
            waiting_bytes: Cell::new(0),
            will_bytes: Cell::new(0),
            will: Cell::default(),
            number: Cell::new(0),
            client_id: RefCell::default(),
            acks: RefCell::default(),
            acks_from: Cell::new(0),
            dirty: Cell::new(false),
            undecoded: Cell::new(false),
        }
    }

    /// Its driver looks at it from here on: it is to be woken for what comes then.
    pub fn polled(&self) {
        self.dirty.set(false);
    }

    /// Looks at the beginning of a packet whose rest has not come.
    pub fn partial<R>(&self, look: impl FnOnce(&[u8]) -> R) -> R {
        let partial = self.partial.take();
        let found = look(&partial);
        self.partial.set(partial);
        found
    }

    /// Whether it has a Last Will.
    pub fn has_will(&self) -> bool {
        let will = self.will.take();
        let has = will.is_some();
        self.will.set(will);
        has
    }

    /// Whether bytes of a packet on its way are a sign of life.
    pub(super) fn lives_by_bytes(&self, now_ms: u64, patience_ms: u64, least_rate: u64) -> bool {
        let Some(mut arriving) = self.arriving.take() else { return false };
        let lives = arriving.lives(now_ms, self.partial(<[u8]>::len), patience_ms, least_rate);
        self.arriving.set(Some(arriving));
        lives
    }

    /// It is read again: nothing that did not come meanwhile is held against its client.
    pub(super) fn clocks_begin_anew(&self, now_ms: u64) {
        self.last_packet_ms.set(now_ms);
        self.arrives_anew(now_ms);
    }

    /// The packet whose rest is waited for counts as begun now.
    fn arrives_anew(&self, now_ms: u64) {
        if let Some(mut arriving) = self.arriving.take() {
            *arriving = Arriving::new(now_ms, self.partial(<[u8]>::len));
            self.arriving.set(Some(arriving));
        }
    }

    /// The machine slept, or the thread stood still, for so long: nothing could come in that time.
    pub(super) fn stood_still(&self, now_ms: u64, for_ms: u64) {
        self.last_packet_ms.set(self.last_packet_ms.get().saturating_add(for_ms).min(now_ms));
        self.arrives_anew(now_ms);
    }

    /// When the first byte came of a packet whose rest is waited for.
    pub(super) fn arrives_since_ms(&self) -> Option<u64> {
        let arriving = self.arriving.take();
        let since = arriving.as_ref().map(|packet| packet.since_ms);
        self.arriving.set(arriving);
        since
    }

    /// Woken and not polled since.
    pub fn is_woken(&self) -> bool {
        self.dirty.get()
    }

    /// It is woken; true: it was already.
    pub(super) fn set_woken(&self) -> bool {
        self.dirty.replace(true)
    }

    /// Whole packets may stand in `partial`: decoding stopped for want of credit.
    pub fn set_undecoded(&self, undecoded: bool) {
        self.undecoded.set(undecoded);
    }

    /// See [`Self::set_undecoded`].
    pub fn has_undecoded(&self) -> bool {
        self.undecoded.get()
    }

    /// Answers owed and not sent.
    pub fn acks_outstanding(&self) -> usize {
        self.acks.borrow().len()
    }

    /// Queues an answer that must wait; returns its index for [`Self::ack_done`].
    pub fn owe(&self, kind: AckKind) -> u32 {
        let mut acks = self.acks.borrow_mut();
        acks.push_back(Ack { kind, done: false });
        #[allow(clippy::cast_possible_truncation)]
        self.acks_from.get().wrapping_add(acks.len() as u32 - 1)
    }

    /// The answer at `index` may be sent.
    pub fn ack_done(&self, index: u32) {
        let at = index.wrapping_sub(self.acks_from.get()) as usize;
        if let Some(ack) = self.acks.borrow_mut().get_mut(at) {
            ack.done = true;
        }
    }

    /// No answer before the one at `index` is owed.
    pub fn is_next(&self, index: u32) -> bool {
        self.acks_from.get() == index
    }

    /// Queues an answer that may be sent as soon as those before it are.
    pub fn owe_done(&self, kind: AckKind) {
        self.acks.borrow_mut().push_back(Ack { kind, done: true });
    }

    /// The next answer that may be sent.
    pub fn next_ack(&self) -> Option<AckKind> {
        let mut acks = self.acks.borrow_mut();
        if !acks.front()?.done {
            return None;
        }
        self.acks_from.set(self.acks_from.get().wrapping_add(1));
        let ack = acks.pop_front();
        if acks.is_empty() && acks.capacity() > 64 {
            *acks = VecDeque::new();
        }
        ack.map(|ack| ack.kind)
    }
}

/// jemalloc has a class of 320 bytes: with more, each connection takes 384.
const _: () = assert!(size_of::<Conn>() + 2 * size_of::<usize>() <= 320);
