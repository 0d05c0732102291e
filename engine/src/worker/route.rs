//! What is known about a topic: its subscribers here and elsewhere, its Kafka topic and key, its
//! acknowledgement level. Cached by topic; an entry of an older generation
//! ([`crate::generations`]) is made again.
//!
//! Bounds: `limits.route_cache_entries` and `limits.route_cache_bytes`; a full cache is emptied, which costs the next
//! publish of each topic one look-up. A topic of more than [`LONGEST_CACHED`] bytes is looked up at each publish, and so
//! is one whose entry would take an eighth of the cache: neither puts out what others come back to.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use hydrant_protocol::QoS;
use hydrant_protocol::topic::fold_overlaps;
use smallvec::SmallVec;

use crate::cluster::Recipient;
use crate::generations::Stripe;
use crate::settings::LogKind;
use crate::subscriptions::Subscriber;

use super::Worker;
use super::state::routes::{Remote, Route, Routes};

/// Bytes of the longest topic that is cached.
pub const LONGEST_CACHED: usize = 1024;

impl Worker {
    pub(super) fn route(&self, topic: &str) -> Rc<Route> {
        let generations = &self.shared.generations;
        let mut routes = self.routes.borrow_mut();
        if let Some(last) = &routes.last
            && &*last.topic == topic
            && last.generation == generations.of(last.stripe)
        {
            return Rc::clone(last);
        }
        if let Some(route) = routes.by_topic.get(topic)
            && route.generation == generations.of(route.stripe)
        {
            let route = Rc::clone(route);
            routes.last = Some(Rc::clone(&route));
            return route;
        }
        self.metrics.route_misses.inc();
        // Before the tables: a change in between makes the route stale.
        let stripe = generations.stripe(topic);
        let generation = generations.of(stripe);
        let known = routes.by_topic.remove(topic);
        if let Some(known) = &known {
            routes.bytes -= known.cost();
        }
        let mut matches = std::mem::take(&mut routes.matches);
        matches.clear();
        self.shared.subscriptions.read().matches(topic, &mut matches);
        fold_overlaps(&mut matches);
        let nodes = match &self.shared.cluster {
            Some(cluster) => cluster.remote().matches(topic, &mut routes.wanted).collect(),
            None => SmallVec::new(),
        };
        let of = (generation, stripe);
        let route = Rc::new(self.make_route(topic, of, known.as_deref(), &matches, nodes));
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
        (generation, stripe): (u64, Stripe),
        known: Option<&Route>,
        matches: &[(Subscriber, QoS)],
        nodes: SmallVec<[(Recipient, bool); 2]>,
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
            stripe,
            topic,
            local: local.into_boxed_slice(),
            local_queues,
            remote,
            nodes,
            mapped,
            level,
            standing,
        }
    }
}
