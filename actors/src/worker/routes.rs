//! What is known about a topic: its subscribers here and elsewhere, its Kafka topic and key, its
//! acknowledgement level. Cached by topic; an entry of an older generation of the subscription
//! table is made again.
//!
//! Bounds: `limits.route_cache_entries` and `limits.route_cache_bytes`; a full cache is emptied, which costs the next
//! publish of each topic one look-up. A topic of more than [`LONGEST_CACHED`] bytes is looked up at each publish, and so
//! is one whose entry would take an eighth of the cache: neither puts out what others come back to.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use ahash::AHashMap;
use hydrant_protocol::mapping::Mapped;
use hydrant_protocol::topic::fold_overlaps;
use hydrant_protocol::{AckLevel, QoS};
use smallvec::SmallVec;

use crate::cluster::Recipient;
use crate::settings::LogKind;
use crate::subscriptions::Subscriber;

use super::Worker;
use super::places::Standing;

/// Bytes of the longest topic that is cached.
pub const LONGEST_CACHED: usize = 1024;

#[derive(Debug)]
pub struct Route {
    generation: u64,
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
    fn cost(&self) -> usize {
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
    by_topic: AHashMap<Arc<str>, Rc<Route>>,
    /// The sum of [`Route::cost`] over `by_topic`.
    bytes: usize,
    /// The topic of the last publish: publishers send in bursts.
    last: Option<Rc<Route>>,
    matches: Vec<(Subscriber, QoS)>,
    wanted: Vec<(u64, QoS)>,
}

impl Worker {
    pub(super) fn route(&self, topic: &str) -> Rc<Route> {
        let generation = self.generation();
        let mut routes = self.routes.borrow_mut();
        if let Some(last) = &routes.last
            && last.generation == generation
            && &*last.topic == topic
        {
            return Rc::clone(last);
        }
        if let Some(route) = routes.by_topic.get(topic)
            && route.generation == generation
        {
            let route = Rc::clone(route);
            routes.last = Some(Rc::clone(&route));
            return route;
        }
        self.metrics.route_misses.inc();
        let known = routes.by_topic.remove(topic);
        if let Some(known) = &known {
            routes.bytes -= known.cost();
        }
        let mut matches = std::mem::take(&mut routes.matches);
        matches.clear();
        self.shared.subscriptions.read().matches(topic, &mut matches);
        fold_overlaps(&mut matches);
        let nodes = match &self.shared.cluster {
            Some(cluster) => cluster.remote.read().matches(topic, &mut routes.wanted).collect(),
            None => SmallVec::new(),
        };
        // Made under a generation read before the table: a change in between makes it stale.
        let mut route = self.make_route(topic, generation, known.as_deref(), &matches);
        route.nodes = nodes;
        let route = Rc::new(route);
        matches.shrink_to(1024);
        routes.matches = matches;
        self.cache_route(&mut routes, &route);
        routes.last = Some(Rc::clone(&route));
        route
    }

    fn cache_route(&self, routes: &mut Routes, route: &Rc<Route>) {
        let limits = &self.shared.settings.limits;
        let cost = route.cost();
        if route.topic.len() <= LONGEST_CACHED && cost <= limits.route_cache_bytes / 8 {
            if routes.by_topic.len() >= limits.route_cache_entries
                || routes.bytes + cost > limits.route_cache_bytes
            {
                self.metrics.route_evictions.add(routes.by_topic.len() as u64);
                routes.by_topic.clear();
                routes.bytes = 0;
            }
            routes.by_topic.insert(Arc::clone(&route.topic), Rc::clone(route));
            routes.bytes += cost;
        }
        self.metrics.route_bytes.set(routes.bytes as u64);
    }

    fn make_route(
        &self,
        topic: &str,
        generation: u64,
        known: Option<&Route>,
        matches: &[(Subscriber, QoS)],
    ) -> Route {
        let mut local = Vec::new();
        let mut local_queues = false;
        let mut remote: SmallVec<[Remote; 4]> = SmallVec::new();
        let on_their_way = self.shared.in_handover.read();
        for (subscriber, qos) in matches {
            let queues = subscriber.persistent && *qos != QoS::AtMostOnce;
            if subscriber.worker == self.index {
                local.push((subscriber.slot, *qos));
                local_queues |= queues;
            } else {
                let in_handover = !on_their_way.is_empty()
                    && on_their_way.contains(&(subscriber.worker, subscriber.slot));
                match remote.iter_mut().find(|known| known.worker == subscriber.worker) {
                    Some(known) => {
                        known.queues |= queues;
                        known.in_handover |= in_handover;
                    }
                    None => remote.push(Remote { worker: subscriber.worker, queues, in_handover }),
                }
            }
        }
        let (topic, mapped, level, standing) = match known {
            Some(known) => {
                let topic = Arc::clone(&known.topic);
                (topic, known.mapped.clone(), known.level, known.standing.clone())
            }
            None => {
                let mapped = self.shared.settings.mapping.map(topic);
                let level = mapped.ack;
                let logged = self.shared.settings.log.kind != LogKind::None;
                (Arc::from(topic), logged.then_some(mapped), level, Cell::default())
            }
        };
        Route {
            generation,
            topic,
            local: local.into_boxed_slice(),
            local_queues,
            remote,
            nodes: SmallVec::new(),
            mapped,
            level,
            standing,
        }
    }
}
