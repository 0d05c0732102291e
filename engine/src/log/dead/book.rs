//! What the node knows of each dead letter without reading it. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::ports::DeadId;

/// What happens with a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeadState {
    /// It is being written for the first time.
    Writing,
    /// It is durable and nothing happens with it.
    Kept,
    /// It is to be sent again.
    Queued,
    /// The log has it in its hands.
    Sending,
    /// Its removal is being written.
    Dropping,
}

/// What becomes of a refused record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Its dead letter is to be written.
    Write,
    /// There is a durable one of it.
    Known,
    /// There is no room.
    Full,
}

/// Those that a request is about.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Marked {
    /// What was asked for is under way with these.
    pub ids: Vec<DeadId>,
    /// Something else is under way with these.
    pub busy: Vec<DeadId>,
    /// There are no such.
    pub unknown: Vec<DeadId>,
}

/// Which dead letters are meant.
#[derive(Debug, Clone)]
pub enum Which {
    /// Every one.
    All,
    /// These.
    These(Vec<DeadId>),
}

/// What has become of those that were to be replayed or dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Settled {
    /// No dead letters any more.
    pub gone: usize,
    /// Refused again.
    pub kept: usize,
    /// Not known yet.
    pub pending: usize,
}

#[derive(Debug)]
struct Entry {
    cost: u64,
    state: DeadState,
}

/// See the module.
#[derive(Debug)]
pub struct DeadBook {
    entries: BTreeMap<DeadId, Entry>,
    /// Those to be sent again.
    queued: BTreeSet<DeadId>,
    bytes: u64,
    max_bytes: u64,
}

impl DeadBook {
    /// Empty, for so many bytes.
    pub fn new(max_bytes: u64) -> Self {
        Self { entries: BTreeMap::new(), queued: BTreeSet::new(), bytes: 0, max_bytes }
    }

    /// Durable ones: id and cost of each. Those that are known stay as they are.
    pub fn found(&mut self, found: &[(DeadId, u64)]) {
        for (id, cost) in found {
            if !self.entries.contains_key(id) {
                self.insert(*id, *cost, DeadState::Kept);
            }
        }
    }

    fn insert(&mut self, id: DeadId, cost: u64, state: DeadState) {
        self.bytes += cost;
        self.entries.insert(id, Entry { cost, state });
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// There is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Their bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes that are free.
    pub fn free(&self) -> u64 {
        self.max_bytes.saturating_sub(self.bytes)
    }

    /// A record is refused. One that was `promised` to somebody may fill all there is, another a
    /// half. Asked again, the answer is the same until it is written.
    pub fn admit(&mut self, id: DeadId, cost: u64, promised: bool) -> Admission {
        match self.entries.get(&id).map(|entry| entry.state) {
            Some(DeadState::Writing) => return Admission::Write,
            Some(_) => return Admission::Known,
            None => {}
        }
        let max = if promised { self.max_bytes } else { self.max_bytes / 2 };
        if self.bytes + cost > max && !(self.is_empty() && promised) {
            return Admission::Full;
        }
        self.insert(id, cost, DeadState::Writing);
        Admission::Write
    }

    /// There is a durable one of it.
    pub fn knows(&self, id: DeadId) -> bool {
        self.entries.get(&id).is_some_and(|entry| entry.state != DeadState::Writing)
    }

    /// What happens with it; `None`: there is no such.
    pub fn state(&self, id: DeadId) -> Option<DeadState> {
        self.entries.get(&id).map(|entry| entry.state)
    }

    fn turn(&mut self, id: DeadId, from: DeadState, to: DeadState) -> bool {
        match self.entries.get_mut(&id) {
            Some(entry) if entry.state == from => {
                entry.state = to;
                true
            }
            _ => false,
        }
    }

    /// It is durable.
    pub fn written(&mut self, id: DeadId) {
        self.turn(id, DeadState::Writing, DeadState::Kept);
    }

    /// Its removal is.
    pub fn dropped(&mut self, id: DeadId) {
        if let Some(entry) = self.entries.remove(&id) {
            self.bytes -= entry.cost;
            self.queued.remove(&id);
        }
    }

    /// These are to be sent again.
    pub fn replay(&mut self, which: &Which) -> Marked {
        self.mark(which, |state| (*state == DeadState::Kept).then_some(DeadState::Queued))
    }

    /// These are to be removed; one that waits to be sent again is not, then.
    pub fn drop_these(&mut self, which: &Which) -> Marked {
        self.mark(which, |state| match state {
            DeadState::Kept | DeadState::Queued => Some(DeadState::Dropping),
            DeadState::Writing | DeadState::Sending | DeadState::Dropping => None,
        })
    }

    fn mark(&mut self, which: &Which, to: impl Fn(&DeadState) -> Option<DeadState>) -> Marked {
        let mut marked = Marked::default();
        let ids = match which {
            Which::All => self.entries.keys().copied().collect(),
            Which::These(ids) => ids.clone(),
        };
        for id in ids {
            let Some(entry) = self.entries.get_mut(&id) else {
                marked.unknown.push(id);
                continue;
            };
            let Some(state) = to(&entry.state) else {
                marked.busy.push(id);
                continue;
            };
            entry.state = state;
            match state {
                DeadState::Queued => _ = self.queued.insert(id),
                _ => _ = self.queued.remove(&id),
            }
            marked.ids.push(id);
        }
        marked
    }

    /// The first that is to be sent again.
    pub fn next_queued(&self) -> Option<DeadId> {
        self.queued.first().copied()
    }

    /// It goes to the log now. False: it is not to be sent.
    pub fn sending(&mut self, id: DeadId) -> bool {
        self.queued.remove(&id) && self.turn(id, DeadState::Queued, DeadState::Sending)
    }

    /// It cannot be read, or the log refuses it again: it stays.
    pub fn stays(&mut self, id: DeadId) {
        self.queued.remove(&id);
        if !self.turn(id, DeadState::Sending, DeadState::Kept) {
            self.turn(id, DeadState::Queued, DeadState::Kept);
        }
    }

    /// The log has it. True: its removal is to be written, also when that was said before.
    pub fn delivered(&mut self, id: DeadId) -> bool {
        self.turn(id, DeadState::Sending, DeadState::Dropping);
        self.state(id) == Some(DeadState::Dropping)
    }

    /// What has become of these.
    pub fn settled(&self, ids: &[DeadId]) -> Settled {
        let mut settled = Settled::default();
        for id in ids {
            match self.state(*id) {
                None => settled.gone += 1,
                Some(DeadState::Kept) => settled.kept += 1,
                Some(_) => settled.pending += 1,
            }
        }
        settled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u64) -> DeadId {
        DeadId { received_ms: n, ..DeadId::default() }
    }

    #[test]
    fn full_is_full_and_qos_0_fills_a_half() {
        let mut book = DeadBook::new(100);
        assert_eq!(book.admit(id(1), 40, false), Admission::Write);
        assert_eq!(book.admit(id(2), 20, false), Admission::Full);
        assert_eq!(book.admit(id(3), 60, true), Admission::Write);
        assert_eq!(book.admit(id(4), 1, true), Admission::Full);
        assert_eq!(book.admit(id(1), 40, false), Admission::Write, "until it is written");
        book.written(id(1));
        assert_eq!(book.admit(id(1), 40, true), Admission::Known);
        assert_eq!((book.len(), book.bytes(), book.free()), (2, 100, 0));
        book.dropped(id(1));
        book.dropped(id(1));
        assert_eq!((book.len(), book.free()), (1, 40));
        // What a lost node left may go past the bound.
        book.found(&[(id(9), 500), (id(3), 60)]);
        assert_eq!((book.bytes(), book.free()), (560, 0));
        let mut empty = DeadBook::new(100);
        assert_eq!(empty.admit(id(1), 101, false), Admission::Full);
        assert_eq!(empty.admit(id(1), 101, true), Admission::Write, "however large");
    }

    #[test]
    fn one_thing_at_a_time_happens_with_each() {
        let mut book = DeadBook::new(100);
        book.found(&[(id(1), 1), (id(2), 1), (id(3), 1)]);
        assert_eq!(book.admit(id(4), 1, true), Admission::Write);
        let marked = book.replay(&Which::These(vec![id(1), id(2), id(4), id(5)]));
        assert_eq!(marked.ids, [id(1), id(2)]);
        assert_eq!((marked.busy, marked.unknown), (vec![id(4)], vec![id(5)]));
        assert_eq!(book.replay(&Which::All).ids, [id(3)], "not the same twice");
        assert_eq!(book.next_queued(), Some(id(1)));
        assert!(book.sending(id(1)) && !book.sending(id(1)));
        assert_eq!(book.drop_these(&Which::All).ids, [id(2), id(3)]);
        assert_eq!(book.next_queued(), None, "what is removed is not sent");
        assert!(!book.sending(id(2)));
        assert!(book.replay(&Which::These(vec![id(1), id(2)])).ids.is_empty());
        let all = [id(1), id(2), id(3)];
        assert_eq!(book.settled(&all), Settled { gone: 0, kept: 0, pending: 3 });
        book.stays(id(1));
        book.dropped(id(2));
        assert_eq!(book.settled(&all), Settled { gone: 1, kept: 1, pending: 1 });
        assert_eq!(book.replay(&Which::All).ids, [id(1)]);
        assert!(!book.delivered(id(1)), "it was not sent");
        assert!(book.sending(id(1)) && book.delivered(id(1)) && book.delivered(id(1)));
        book.dropped(id(1));
        assert!(!book.knows(id(1)) && book.knows(id(3)) && !book.knows(id(4)));
    }
}
