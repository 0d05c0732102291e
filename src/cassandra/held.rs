//! Which sessions this node holds in a keyspace that it shares with others.
//!
//! A session is held under a *line*: the number of the first of those incarnations of a node that
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
    pub(super) line: u64,
    /// It is known to stand in the line's index.
    pub(super) indexed: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// Where new sessions go.
    pub(super) line: u64,
    sessions: AHashMap<SessionId, Holding>,
    dropped: AHashSet<SessionId>,
    order: VecDeque<SessionId>,
}

impl Held {
    pub(super) fn new(line: u64) -> Self {
        Self { line, ..Self::default() }
    }

    pub(super) fn get(&self, id: SessionId) -> Option<Holding> {
        self.sessions.get(&id).copied()
    }

    /// Found or taken.
    pub(super) fn admit(&mut self, id: SessionId, line: u64) {
        self.sessions.insert(id, Holding { line, indexed: true });
        self.dropped.remove(&id);
    }

    /// Its record is written: it is new where it is not here yet. `None`: it was given up.
    pub(super) fn put(&mut self, id: SessionId) -> Option<Holding> {
        if self.dropped.contains(&id) {
            return None;
        }
        let new = Holding { line: self.line, indexed: false };
        Some(*self.sessions.entry(id).or_insert(new))
    }

    /// It stands in its line's index.
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

    /// Lines under which something is held, and its own.
    pub(super) fn lines(&self) -> BTreeSet<u64> {
        self.sessions.values().map(|holding| holding.line).chain([self.line]).collect()
    }

    /// Whether anything is held under a line.
    pub(super) fn holds(&self, line: u64) -> bool {
        self.sessions.values().any(|holding| holding.line == line)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_was_given_up_is_not_new() {
        let mut held = Held::new(3);
        assert_eq!(held.put(1), Some(Holding { line: 3, indexed: false }));
        held.indexed(1);
        held.admit(2, 9);
        assert!(held.put(1).unwrap().indexed && held.holds(9));
        assert_eq!(held.lines(), [3, 9].into());
        held.give_up(2);
        assert_eq!((held.put(2), held.get(2), held.holds(9)), (None, None, false));
        // It comes back.
        held.admit(2, 3);
        assert_eq!(held.put(2), Some(Holding { line: 3, indexed: true }));
        held.ended(1);
        assert_eq!(held.ids(), [2]);
    }

    #[test]
    fn what_was_given_up_is_forgotten_in_the_end() {
        let mut held = Held::new(3);
        (0..=DROPPED as u64).for_each(|id| held.give_up(id));
        assert!(held.put(0).is_some() && held.put(1).is_none());
        assert_eq!((held.order.len(), held.dropped.len()), (DROPPED, DROPPED));
    }
}
