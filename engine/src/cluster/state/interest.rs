//! What this node wants of the publishes of others: its filters, each once, however many of its
//! sessions have it.
//!
//! Invariant: filters are told in their order, so that one history is told in one way.

use std::collections::BTreeMap;
use std::sync::Arc;

use hydrant_protocol::cluster::message::Interest;

#[derive(Debug, Clone, Copy, Default)]
struct Count {
    live: u32,
    queues: u32,
}

impl Count {
    fn level(self) -> Interest {
        match self {
            Self { queues: 1.., .. } => Interest::Queues,
            Self { live: 1.., .. } => Interest::Live,
            Self { .. } => Interest::None,
        }
    }

    fn of(&mut self, level: Interest) -> Option<&mut u32> {
        match level {
            Interest::None => None,
            Interest::Live => Some(&mut self.live),
            Interest::Queues => Some(&mut self.queues),
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct LocalInterest {
    counts: BTreeMap<Arc<str>, Count>,
    /// Not announced yet, in order.
    changes: Vec<(Arc<str>, Interest)>,
}

impl LocalInterest {
    /// One subscription's level changes; true when the node's does.
    pub fn change(&mut self, filter: &Arc<str>, before: Interest, after: Interest) -> bool {
        if before == after {
            return false;
        }
        let count = self.counts.entry(Arc::clone(filter)).or_default();
        let was = count.level();
        if let Some(n) = count.of(before) {
            *n = n.saturating_sub(1);
        }
        if let Some(n) = count.of(after) {
            *n += 1;
        }
        let now = count.level();
        if now == Interest::None {
            self.counts.remove(filter);
        }
        if now != was {
            self.changes.push((Arc::clone(filter), now));
        }
        now != was
    }

    /// What is to be announced.
    pub fn take_changes(&mut self) -> Vec<(Arc<str>, Interest)> {
        std::mem::take(&mut self.changes)
    }

    /// All of it, for a node that knows nothing.
    pub fn whole(&self) -> Vec<(Arc<str>, Interest)> {
        self.counts.iter().map(|(filter, count)| (Arc::clone(filter), count.level())).collect()
    }

    /// Some are not announced.
    pub fn has_changes(&self) -> bool {
        !self.changes.is_empty()
    }

    /// Filters.
    pub fn len(&self) -> usize {
        self.counts.len()
    }

    /// Whether the node wants nothing.
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_the_nodes_level_is_announced() {
        let filter: Arc<str> = "a/b".into();
        let mut interest = LocalInterest::default();
        assert!(interest.change(&filter, Interest::None, Interest::Live));
        assert!(!interest.change(&filter, Interest::None, Interest::Live));
        assert!(interest.change(&filter, Interest::None, Interest::Queues));
        assert!(!interest.change(&filter, Interest::Live, Interest::None));
        assert_eq!(interest.whole(), [(Arc::clone(&filter), Interest::Queues)]);
        // A persistent session lowers its QoS to 0.
        assert!(interest.change(&filter, Interest::Queues, Interest::Live));
        assert!(!interest.change(&filter, Interest::Live, Interest::None));
        assert!(interest.change(&filter, Interest::Live, Interest::None));
        assert!(interest.is_empty());
        let levels: Vec<Interest> =
            interest.take_changes().into_iter().map(|(_, level)| level).collect();
        use Interest::{Live, None, Queues};
        assert_eq!(levels, [Live, Queues, Live, None]);
        assert!(interest.take_changes().is_empty());
    }
}
