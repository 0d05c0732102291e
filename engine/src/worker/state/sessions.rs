//! The sessions of a worker, and what each is counted with.
//!
//! Bounds: `session.max_sessions` persistent ones of the node; clean ones by `limits.max_connections`; what they take by
//! `session.max_bytes` and `session.max_total_bytes`.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ahash::AHashMap;
use hydrant_protocol::cluster::dedup::Roamed;
use hydrant_protocol::session::{Inbound, Outbound, RangeSet};
use hydrant_protocol::topic::TopicFilter;
use slab::Slab;

use super::handover::Handover;
use super::retained_cursors::Cursors;
use crate::ports::SessionId;
use crate::worker::Conn;

/// What a persistent session has beside a clean one.
#[derive(Debug)]
pub struct Stored {
    /// Its number in the store.
    pub id: SessionId,
    /// Sequence of the next queue entry.
    pub next_sequence: u64,
    /// While it is offline, the entries below `oldest` that are left in the store; `drop_old` begins with them.
    pub left: RangeSet,
    /// From here on each entry is in the store, while it is offline.
    pub oldest: u64,
    /// Entries in the store's queue, and their bytes.
    pub queued: u64,
    /// See `queued`.
    pub queued_bytes: u64,
    /// From `read_from` on, entries are in the store only.
    pub spilled: bool,
    /// First sequence that has not been read back.
    pub read_from: u64,
    /// The page that is being read, by the number of its request.
    pub reading: Option<u32>,
    /// One past the last sequence that its request sees.
    pub read_until: u64,
    /// The lost incarnation that it was taken over from; [`EARLIER_STARTS`](crate::cluster::EARLIER_STARTS): found at
    /// start.
    pub orphan: u64,
    /// Its filters when it was taken over, where they have changed while others send again what they kept for it.
    pub filters_before: Option<Box<[TopicFilter]>>,
    /// QoS 2 publishes of it that are being prepared; it is not given up before.
    pub preparing: u32,
    /// It is to be given up then.
    pub waits_to_go: bool,
    /// When it was given up, as the store counts.
    pub given_up: u64,
    /// Present for a while after it has come from another node.
    pub roamed: Option<Box<Roamed>>,
    /// When its connection ended, by the node's [`Clock`](crate::clock::Clock).
    pub offline_since: Option<u64>,
}

/// A session of a worker, by its slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionKey {
    /// Its slot in the worker's table.
    pub slot: u32,
    /// Tells a reused slot from the one that was meant.
    pub generation: u32,
}

/// One MQTT session.
#[derive(Debug)]
pub struct Session {
    /// Whose it is.
    pub client_id: Arc<str>,
    /// Tells a reused slot from the one that was meant.
    pub generation: u32,
    /// Rises at every CONNECT.
    pub epoch: u64,
    /// Incoming QoS 2.
    pub inbound: Inbound,
    /// Outgoing QoS 1-2.
    pub outbound: Outbound,
    /// Its filters; their QoS stands in the subscription table.
    pub filters: Vec<TopicFilter>,
    /// Its connection.
    pub conn: Option<Rc<Conn>>,
    /// Retained messages that its subscriptions are still to get.
    pub retained: Option<Box<Cursors>>,
    /// It changes hands.
    pub handover: Option<Box<Handover>>,
    /// Present in a persistent session.
    pub stored: Option<Box<Stored>>,
    /// What it is counted with.
    pub charge: Charge,
}

impl Session {
    /// Which one it is, in this slot.
    pub fn key(&self, slot: u32) -> SessionKey {
        SessionKey { slot, generation: self.generation }
    }
}

#[derive(Debug, Default)]
pub struct Sessions {
    pub slots: Slab<Box<Session>>,
    pub by_client: AHashMap<Arc<str>, u32>,
}

impl Sessions {
    pub fn get(&mut self, slot: u32) -> Option<&mut Session> {
        self.slots.get_mut(slot as usize).map(|session| &mut **session)
    }

    /// The session that is meant, while it is there.
    pub fn find(&mut self, key: SessionKey) -> Option<&mut Session> {
        self.get(key.slot).filter(|session| session.generation == key.generation)
    }

    pub fn insert(&mut self, session: Session) -> u32 {
        let client_id = Arc::clone(&session.client_id);
        // A node has fewer sessions than 2^32.
        #[allow(clippy::cast_possible_truncation)]
        let slot = self.slots.insert(Box::new(session)) as u32;
        self.by_client.insert(client_id, slot);
        slot
    }
}

/// How far a worker is with its sessions, whose stamps it writes again (`restamp`).
#[derive(Debug, Clone, Copy, Default)]
pub struct Walk {
    /// The jumps of the clock for which the walk began.
    pub jumps: u64,
    /// The next slot; `None`: the walk is over.
    pub next: Option<usize>,
}

/// A session without its texts: its place in the tables and what a few messages in flight take.
pub const SESSION: usize = 2 * (size_of::<Session>() + size_of::<Stored>());

/// A message in flight of an offline session, in memory.
const FLIGHT: usize = 64;

/// Incoming packet ids are counted in steps of so many.
const IDS: usize = 64;

/// What one session is counted with; given back when it is dropped.
#[derive(Debug)]
pub struct Charge {
    pub total: Arc<AtomicUsize>,
    pub bytes: usize,
    pub ids: usize,
    pub kept: usize,
}

impl Charge {
    /// A session of this client id.
    pub fn new(total: &Arc<AtomicUsize>, client_id: &str) -> Self {
        let mut charge = Self { total: Arc::clone(total), bytes: 0, ids: 0, kept: 0 };
        charge.add(Self::of_new(client_id));
        charge
    }

    /// What a session of this client id begins with.
    pub fn of_new(client_id: &str) -> usize {
        SESSION + client_id.len()
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn add(&mut self, bytes: usize) {
        self.bytes += bytes;
        self.total.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn sub(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        self.total.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// The packet ids that are held now. True when more are counted than before, and past the first step, which each
    /// session may have.
    pub fn count_ids(&mut self, inbound: &Inbound) -> bool {
        let ids = inbound.len().next_multiple_of(IDS);
        let before = std::mem::replace(&mut self.ids, ids);
        match ids.checked_sub(before) {
            Some(more) => self.add(more * Inbound::COST),
            None => self.sub((before - ids) * Inbound::COST),
        }
        ids > before && ids > IDS
    }

    /// So many messages are in flight of a session that is offline; the store has their places in memory.
    pub fn keep(&mut self, flights: usize) {
        let before = std::mem::replace(&mut self.kept, flights * FLIGHT);
        self.sub(before);
        self.add(self.kept);
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.sub(self.bytes);
    }
}
