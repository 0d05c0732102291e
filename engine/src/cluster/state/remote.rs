//! What the other nodes want, as routers look it up: filters by incarnation (decision 0015).
//!
//! A lost incarnation stays here beside the next start of its node until its successor has announced what it
//! wanted. PeersActor writes, routers read.
//! Bounds: a filter of an incarnation once; [`super::wants::Wants`] says when an incarnation goes.

use std::sync::Arc;

use ahash::AHashMap;
use hydrant_protocol::cluster::message::Interest;
use hydrant_protocol::topic::{SubscriptionTable, TopicFilter, fold_overlaps};
use hydrant_protocol::{QoS, wire};

use crate::cluster::{NodeIndex, Recipient};

/// See the module.
#[derive(Debug, Default)]
pub struct RemoteInterest {
    /// A QoS of 0 stands for [`Interest::Live`], one of 1 for [`Interest::Queues`].
    table: SubscriptionTable<u64>,
    nodes: AHashMap<u64, NodeIndex>,
}

impl RemoteInterest {
    /// An incarnation wants this of a filter now. Text that is no filter is ignored.
    pub fn set(&mut self, recipient: Recipient, filter: &Arc<str>, level: Interest) {
        let parsed = TopicFilter::from_arc(Arc::clone(filter), &wire::Limits::PROTOCOL);
        let Ok(filter) = parsed else { return };
        let Recipient { node, incarnation } = recipient;
        match level {
            Interest::None => drop(self.table.unsubscribe(&filter, incarnation)),
            level => {
                let queues = level == Interest::Queues;
                let qos = if queues { QoS::AtLeastOnce } else { QoS::AtMostOnce };
                self.nodes.insert(incarnation, node);
                self.table.subscribe(&filter, incarnation, qos);
            }
        }
    }

    /// An incarnation wants nothing any more, and no filter of it is left.
    pub fn forget(&mut self, incarnation: u64) {
        self.nodes.remove(&incarnation);
    }

    /// Who wants a topic, each incarnation once; true: for its queues. `found` is scratch space.
    pub fn matches(
        &self,
        topic: &str,
        found: &mut Vec<(u64, QoS)>,
    ) -> impl Iterator<Item = (Recipient, bool)> {
        found.clear();
        self.table.matches(topic, found);
        fold_overlaps(found);
        found.iter().filter_map(|(incarnation, qos)| {
            let node = *self.nodes.get(incarnation)?;
            let incarnation = *incarnation;
            Some((Recipient { node, incarnation }, *qos != QoS::AtMostOnce))
        })
    }

    /// Filters, each once an incarnation.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether nobody wants anything.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }
}
