//! Which sessions this node holds in a keyspace that it shares with others.
//!
//! A session is held under a *lineage*: the number of the first of those incarnations of a node that
//! followed each other. So a start of the node rewrites nothing. See `docs/storage.md`.
//!
//! Invariant: what is written for a session that is not here is dropped.
//! Bounds: an entry a session (`session.max_sessions`); [`DROPPED`] that were given up.

use std::collections::{BTreeSet, VecDeque};

use ahash::{AHashMap, AHashSet};
use hydrant_actors::ports::SessionId;

/// The last sessions that were given up, or refused because another holds them: what is still
/// written for one of them makes no new session.
const DROPPED: usize = 1 << 16;

/// How one session is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Holding {
    pub(super) lineage: u64,
    /// It is known to stand in the lineage's index.
    pub(super) indexed: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct OwnedSessions {
    /// Where new sessions go.
    pub(super) lineage: u64,
    sessions: AHashMap<SessionId, Holding>,
    dropped: AHashSet<SessionId>,
    order: VecDeque<SessionId>,
}

impl OwnedSessions {
    pub(super) fn new(lineage: u64) -> Self {
        Self { lineage, ..Self::default() }
    }

    pub(super) fn get(&self, id: SessionId) -> Option<Holding> {
        self.sessions.get(&id).copied()
    }

    /// Found or taken.
    pub(super) fn admit(&mut self, id: SessionId, lineage: u64) {
        self.sessions.insert(id, Holding { lineage, indexed: true });
        self.dropped.remove(&id);
    }

    /// Its record is written: it is new where it is not here yet. `None`: it was given up.
    pub(super) fn put(&mut self, id: SessionId) -> Option<Holding> {
        if self.dropped.contains(&id) {
            return None;
        }
        let new = Holding { lineage: self.lineage, indexed: false };
        Some(*self.sessions.entry(id).or_insert(new))
    }

    /// It stands in its lineage's index.
    pub(super) fn indexed(&mut self, id: SessionId) {
        if let Some(holding) = self.sessions.get_mut(&id) {
            holding.indexed = true;
        }
    }

    /// It exists no more.
    pub(super) fn ended(&mut self, id: SessionId) {
        self.sessions.remove(&id);
    }

    /// It is another's.
    pub(super) fn give_up(&mut self, id: SessionId) {
        self.sessions.remove(&id);
        if self.dropped.insert(id) {
            self.order.push_back(id);
        }
        while self.order.len() > DROPPED {
            let oldest = self.order.pop_front();
            self.dropped.remove(&oldest.unwrap_or_default());
        }
    }

    /// All of them.
    pub(super) fn ids(&self) -> Vec<SessionId> {
        self.sessions.keys().copied().collect()
    }

    /// Lineages under which something is held, and its own.
    pub(super) fn lineages(&self) -> BTreeSet<u64> {
        self.sessions.values().map(|holding| holding.lineage).chain([self.lineage]).collect()
    }

    /// Whether anything is held under a lineage.
    pub(super) fn holds(&self, lineage: u64) -> bool {
        self.sessions.values().any(|holding| holding.lineage == lineage)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_was_given_up_is_not_new() {
        let mut owned = OwnedSessions::new(3);
        assert_eq!(owned.put(1), Some(Holding { lineage: 3, indexed: false }));
        owned.indexed(1);
        owned.admit(2, 9);
        assert!(owned.put(1).unwrap().indexed && owned.holds(9));
        assert_eq!(owned.lineages(), [3, 9].into());
        owned.give_up(2);
        assert_eq!((owned.put(2), owned.get(2), owned.holds(9)), (None, None, false));
        // It comes back.
        owned.admit(2, 3);
        assert_eq!(owned.put(2), Some(Holding { lineage: 3, indexed: true }));
        owned.ended(1);
        assert_eq!(owned.ids(), [2]);
    }

    #[test]
    fn what_was_given_up_is_forgotten_in_the_end() {
        let mut owned = OwnedSessions::new(3);
        (0..=DROPPED as u64).for_each(|id| owned.give_up(id));
        assert!(owned.put(0).is_some() && owned.put(1).is_none());
        assert_eq!((owned.order.len(), owned.dropped.len()), (DROPPED, DROPPED));
    }
}
