//! The store that all nodes share: sessions with a holder, their queues, leases, seals.
//!
//! A write has an effect only from who holds the session and is not sealed; else it succeeds and changes
//! nothing, as in Cassandra: who has lost its lease acknowledges nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Mistake;

/// The lease of an incarnation.
pub const LEASE: u64 = 2 * super::clock::SECOND;

/// What was published at once: the incarnation that it was published at, and its number there.
pub type Batch = (u64, u64);

/// A publish. A publisher that sends it again after the loss of its node makes another attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Message {
    pub id: u32,
    pub attempt: u32,
    pub topic: u8,
    pub exactly_once: bool,
}

#[derive(Debug, Clone)]
pub struct Entry {
    pub message: Message,
    /// How it came to the node that queued it, if from another.
    pub batch: Option<Batch>,
}

#[derive(Debug, Clone)]
pub struct Stored {
    pub id: u64,
    /// Rises when its own holder takes it back; stands for
    /// [`Handed::given_up`](crate::cluster::message::Handed::given_up).
    pub epoch: u64,
    pub client: Arc<str>,
    pub holder: u64,
    pub filters: Vec<Arc<str>>,
    pub queue: BTreeMap<u64, Entry>,
    pub last: u64,
    /// Batches of which something was queued.
    pub batches: BTreeSet<Batch>,
    /// Everything that was ever queued, and by which attempt first.
    pub seen: BTreeMap<u32, u32>,
}

impl Stored {
    /// As which it is handed over: session and epoch.
    pub fn handle(&self) -> u64 {
        handle(self.id, self.epoch)
    }
}

/// See [`Stored::handle`].
pub fn handle(id: u64, epoch: u64) -> u64 {
    id | epoch << 56
}

#[derive(Debug, Clone)]
pub enum Op {
    PutSession { id: u64, client: Arc<str>, filters: Vec<Arc<str>> },
    PutQueued { id: u64, sequence: u64, entry: Entry },
    DeleteQueued { id: u64, sequence: u64 },
}

#[derive(Debug, Clone)]
pub enum Request {
    Write(Vec<Op>),
    Read { session: u64, from: u64 },
    Locate(Arc<str>),
    Take { session: u64, from: u64 },
    Seal(u64),
    Renew,
}

#[derive(Debug, Clone)]
pub enum Answer {
    Written,
    Page(Vec<(u64, Entry)>),
    /// The session's handle, and its holder.
    Located(Option<(u64, u64)>),
    Taken(Option<Box<Stored>>),
    Sealed(Option<OrphanedState>),
    Renewed(bool),
    Failed,
}

/// What a sealed incarnation held.
#[derive(Debug, Clone)]
pub struct OrphanedState {
    pub incarnations: Vec<u64>,
    pub sessions: Vec<Stored>,
}

#[derive(Default)]
pub struct Store {
    pub sessions: BTreeMap<u64, Stored>,
    pub leases: BTreeMap<u64, u64>,
    pub sealed: BTreeMap<u64, u64>,
    /// A write was accepted that should not have been.
    pub violation: Option<String>,
}

impl Store {
    pub fn of(&self, client: &str) -> Option<&Stored> {
        self.sessions.values().find(|stored| *stored.client == *client)
    }

    pub fn apply(&mut self, now: u64, me: u64, request: Request, mistake: Mistake) -> Answer {
        match request {
            Request::Write(ops) => {
                ops.into_iter().for_each(|op| self.write(me, op, mistake));
                Answer::Written
            }
            Request::Read { session, from } => {
                let queue = self.sessions.get(&session).map(|stored| &stored.queue);
                let page = queue.into_iter().flat_map(|queue| queue.range(from..));
                Answer::Page(page.map(|(sequence, entry)| (*sequence, entry.clone())).collect())
            }
            Request::Locate(client) => {
                Answer::Located(self.of(&client).map(|stored| (stored.handle(), stored.holder)))
            }
            Request::Take { session, from } => {
                let alive = !self.sealed.contains_key(&me);
                let as_said =
                    |stored: &&mut Stored| stored.handle() == session && stored.holder == from;
                let Some(stored) = self.sessions.values_mut().find(as_said).filter(|_| alive)
                else {
                    return Answer::Taken(None);
                };
                stored.holder = me;
                // Taken back: who was to have it must not take it now.
                stored.epoch += u64::from(from == me);
                Answer::Taken(Some(Box::new(stored.clone())))
            }
            Request::Seal(of) => Answer::Sealed(self.seal(now, me, of)),
            Request::Renew => {
                let alive = !self.sealed.contains_key(&me);
                if alive {
                    self.leases.insert(me, now + LEASE);
                }
                Answer::Renewed(alive)
            }
        }
    }

    fn write(&mut self, me: u64, op: Op, mistake: Mistake) {
        let sealed = self.sealed.contains_key(&me);
        let id = match &op {
            Op::PutSession { id, client, filters } => {
                if let Some(known) = self.of(client).filter(|known| known.id != *id) {
                    let why = format!("{me} makes a session of {client} beside {}'s", known.holder);
                    self.violation.get_or_insert(why);
                    return;
                }
                if !sealed {
                    self.sessions.entry(*id).or_insert_with(|| Stored {
                        id: *id,
                        epoch: 0,
                        client: Arc::clone(client),
                        holder: me,
                        filters: filters.clone(),
                        queue: BTreeMap::new(),
                        last: 0,
                        batches: BTreeSet::new(),
                        seen: BTreeMap::new(),
                    });
                }
                return;
            }
            Op::PutQueued { id, .. } | Op::DeleteQueued { id, .. } => *id,
        };
        let Some(stored) = self.sessions.get_mut(&id) else { return };
        let owner = stored.holder == me && !sealed;
        if !owner && mistake != Mistake::NoFencing {
            return;
        }
        if !owner {
            let why =
                format!("{} is written by {me}, and held by {}", stored.client, stored.holder);
            self.violation.get_or_insert(why);
        }
        match op {
            Op::PutQueued { sequence, entry, .. } => {
                stored.last = stored.last.max(sequence);
                stored.batches.extend(entry.batch);
                let Message { id, attempt, exactly_once, .. } = entry.message;
                // Another attempt of a QoS 2 message is known by its identity (docs of `super`).
                let known = stored.seen.get(&id).is_some_and(|known| *known != attempt);
                if !(exactly_once && known) {
                    stored.seen.entry(id).or_insert(attempt);
                    stored.queue.insert(sequence, entry);
                }
            }
            Op::DeleteQueued { sequence, .. } => drop(stored.queue.remove(&sequence)),
            Op::PutSession { .. } => {}
        }
    }

    /// `None`: it is alive, or another's.
    pub fn seal(&mut self, now: u64, me: u64, of: u64) -> Option<OrphanedState> {
        let by = self.sealed.get(&of);
        let over = self.leases.get(&of).is_none_or(|until| *until < now);
        if by.is_some() || !over || self.sealed.contains_key(&me) {
            return None;
        }
        self.sealed.insert(of, me);
        let mut incarnations = vec![of];
        let mut at = 0;
        while at < incarnations.len() {
            let its = self.sealed.iter().filter(|(_, by)| **by == incarnations[at]);
            let its: Vec<u64> = its.map(|(of, _)| *of).collect();
            incarnations.extend(its);
            at += 1;
        }
        let mut sessions = Vec::new();
        for stored in self.sessions.values_mut() {
            if stored.holder == of {
                stored.holder = me;
                sessions.push(stored.clone());
            }
        }
        Some(OrphanedState { incarnations, sessions })
    }
}
