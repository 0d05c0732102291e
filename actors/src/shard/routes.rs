//! What is known about a topic: its subscribers here and elsewhere, its Kafka topic and key, its
//! acknowledgement level. Cached by topic; an entry of an older generation of the subscription
//! table is made again.
//!
//! Bounds: `limits.route_cache_entries`; a full cache is emptied, which costs the next publish of
//! each topic one look-up.

use std::rc::Rc;
use std::sync::Arc;

use ahash::AHashMap;
use hydrant_protocol::mapping::Mapped;
use hydrant_protocol::topic::fold_overlaps;
use hydrant_protocol::{AckLevel, QoS};
use smallvec::SmallVec;

use crate::cluster::NodeIndex;
use crate::settings::LogKind;
use crate::shared::Subscriber;

use super::Shard;

#[derive(Debug)]
pub struct Route {
    generation: u64,
    pub topic: Arc<str>,
    /// Sessions of this arbiter: slot, granted QoS.
    pub local: Box<[(u32, QoS)]>,
    /// Some of `local` are persistent and take QoS 1-2.
    pub local_queues: bool,
    /// Other arbiters with subscribers.
    pub remote: SmallVec<[Remote; 4]>,
    /// Other nodes with subscribers; true: persistent ones that take QoS 1-2 among them.
    pub nodes: SmallVec<[(NodeIndex, bool); 2]>,
    /// Kafka topic and key; `None` when nothing goes to the log.
    pub mapped: Option<Mapped>,
    pub level: AckLevel,
}

/// Another arbiter with subscribers.
#[derive(Debug, Clone, Copy)]
pub struct Remote {
    pub shard: u16,
    /// Persistent ones that take QoS 1-2 among them.
    pub queues: bool,
    /// One of these is on its way between two nodes.
    pub moving: bool,
}

#[derive(Debug, Default)]
pub struct Routes {
    by_topic: AHashMap<Arc<str>, Rc<Route>>,
    /// The topic of the last publish: publishers send in bursts.
    last: Option<Rc<Route>>,
    matches: Vec<(Subscriber, QoS)>,
    wanted: Vec<(NodeIndex, QoS)>,
}

impl Shard {
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
        let mut matches = std::mem::take(&mut routes.matches);
        matches.clear();
        self.shared.subscriptions.read().matches(topic, &mut matches);
        fold_overlaps(&mut matches);
        let mut wanted = std::mem::take(&mut routes.wanted);
        wanted.clear();
        if let Some(cluster) = &self.shared.cluster {
            cluster.remote.read().matches(topic, &mut wanted);
            fold_overlaps(&mut wanted);
        }
        // Made under a generation read before the table: a change in between makes it stale.
        let mut route = self.make_route(topic, generation, known.as_deref(), &matches);
        route.nodes = wanted.iter().map(|(node, qos)| (*node, *qos != QoS::AtMostOnce)).collect();
        routes.wanted = wanted;
        let route = Rc::new(route);
        matches.shrink_to(1024);
        routes.matches = matches;
        if routes.by_topic.len() >= self.shared.settings.limits.route_cache_entries {
            routes.by_topic.clear();
        }
        routes.by_topic.insert(Arc::clone(&route.topic), Rc::clone(&route));
        routes.last = Some(Rc::clone(&route));
        route
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
        let on_their_way = self.shared.moving.read();
        for (subscriber, qos) in matches {
            let queues = subscriber.persistent && *qos != QoS::AtMostOnce;
            if subscriber.shard == self.index {
                local.push((subscriber.slot, *qos));
                local_queues |= queues;
            } else {
                let moving = !on_their_way.is_empty()
                    && on_their_way.contains(&(subscriber.shard, subscriber.slot));
                match remote.iter_mut().find(|known| known.shard == subscriber.shard) {
                    Some(known) => {
                        known.queues |= queues;
                        known.moving |= moving;
                    }
                    None => remote.push(Remote { shard: subscriber.shard, queues, moving }),
                }
            }
        }
        let (topic, mapped, level) = match known {
            Some(known) => (Arc::clone(&known.topic), known.mapped.clone(), known.level),
            None => {
                let mapped = self.shared.settings.mapping.map(topic);
                let level = mapped.ack;
                let logged = self.shared.settings.log.kind != LogKind::None;
                (Arc::from(topic), logged.then_some(mapped), level)
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
        }
    }
}
