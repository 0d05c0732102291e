//! What is known about each topic, cached by topic.
//!
//! Bounds: `limits.route_cache_entries` and `limits.route_cache_bytes`; [`MOST_AT_CAP`] clients, past them the set
//! begins anew.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use ahash::{AHashMap, AHashSet};
use hydrant_protocol::mapping::Mapped;
use hydrant_protocol::{AckLevel, QoS};
use smallvec::SmallVec;

use crate::cluster::Recipient;
use crate::generations::Stripe;
use crate::subscriptions::Subscriber;

#[derive(Debug)]
pub struct Route {
    /// Of the tables that it was made from.
    pub generation: u64,
    pub stripe: Stripe,
    pub topic: Arc<str>,
    /// Sessions of this worker: slot, granted QoS.
    pub local: Box<[(u32, QoS)]>,
    /// Some of `local` are persistent and take QoS 1-2.
    pub local_queues: bool,
    /// Other workers with subscribers.
    pub remote: SmallVec<[Remote; 4]>,
    /// Incarnations of other nodes with subscribers; true: persistent ones that take QoS 1-2 among them.
    pub nodes: SmallVec<[(Recipient, bool); 2]>,
    /// Kafka topic and key; `None` when nothing goes to the log.
    pub mapped: Option<Mapped>,
    pub level: AckLevel,
    /// Whether its records go to the Kafka topic of `mapped`.
    pub standing: Cell<Standing>,
}

impl Route {
    /// Bytes that it takes in the cache, its place in the map included.
    pub fn cost(&self) -> usize {
        let spilled = |spilled: bool, len: usize, each: usize| usize::from(spilled) * len * each;
        let mapped = self.mapped.as_ref().map_or(0, |mapped| {
            mapped.topic.len() + mapped.key.as_ref().map_or(0, |key| key.len()) + MAPPED
        });
        ENTRY
            + self.topic.len()
            + size_of_val(&*self.local)
            + spilled(self.remote.spilled(), self.remote.capacity(), size_of::<Remote>())
            + spilled(self.nodes.spilled(), self.nodes.capacity(), size_of::<(Recipient, bool)>())
            + mapped
    }
}

/// Another worker with subscribers.
#[derive(Debug, Clone, Copy)]
pub struct Remote {
    pub worker: u16,
    /// Persistent ones that take QoS 1-2 among them.
    pub queues: bool,
    /// One of these is on its way between two nodes.
    pub in_handover: bool,
}

/// An entry without its texts and lists: the route, what its pointers count, and a place in a map that is half empty.
const ENTRY: usize = size_of::<Route>() + 3 * 16 + 2 * (size_of::<(Arc<str>, Rc<Route>)>() + 1);

/// The allocations of topic and key.
const MAPPED: usize = 64;

#[derive(Debug, Default)]
pub struct Routes {
    pub by_topic: AHashMap<Arc<str>, Rc<Route>>,
    /// The sum of [`Route::cost`] over `by_topic`.
    pub bytes: usize,
    /// The topic of the last publish: publishers send in bursts.
    pub last: Option<Rc<Route>>,
    pub matches: Vec<(Subscriber, QoS)>,
    pub wanted: Vec<(u64, QoS)>,
}

/// What is known of a route's own topic.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Standing {
    /// The log was not asked.
    #[default]
    Unasked,
    /// Records go there.
    Own,
    /// It was beyond a cap in this generation; `everybody`: whoever publishes.
    Beyond { generation: u64, everybody: bool },
}

/// Clients remembered as being at their cap.
const MOST_AT_CAP: usize = 4096;

/// Clients that are at their cap in one generation.
#[derive(Debug, Default)]
pub struct AtCap {
    pub generation: u64,
    pub clients: AHashSet<Arc<str>>,
}

impl AtCap {
    pub fn is_at_cap(&mut self, generation: u64, client: &str) -> bool {
        if self.generation != generation {
            self.generation = generation;
            self.clients.clear();
        }
        self.clients.contains(client)
    }

    pub fn insert(&mut self, client: &Arc<str>) {
        if self.clients.len() >= MOST_AT_CAP {
            self.clients.clear();
        }
        self.clients.insert(Arc::clone(client));
    }
}
