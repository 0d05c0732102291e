//! The lines of QoS 2 messages that wait for their turn.
//!
//! Invariant: a line begins with a message that is not durable, or with one whose turn has come and that stands in
//! `ready`.
//!
//! Bounds: a place belongs to a pending ack ([`super::pending_acks`]) or to an answer that its connection is owed
//! (`limits.max_unacknowledged`). A line ends with its last place.

use std::collections::VecDeque;
use std::sync::Arc;

use ahash::AHashMap;
use slab::Slab;

use super::pending_acks::{Exact, Owed, Place};

/// Lines are given back to the allocator above so many places.
const KEEP: usize = 1024;

/// Publisher and topic.
type Line = (Arc<str>, Arc<str>);

/// A message and who is owed its answer.
type Durable = (Option<Owed>, Box<Exact>);

#[derive(Debug)]
enum Stands {
    /// It is not durable.
    Waits,
    /// It is, and those before it are not delivered.
    Durable(Durable),
    /// It comes to nothing.
    GivenUp,
}

#[derive(Debug)]
struct Entry {
    generation: u32,
    line: Line,
    next: Option<u32>,
    first: bool,
    stands: Stands,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Order {
    places: Slab<Entry>,
    last: AHashMap<Line, u32>,
    /// Their turn has come.
    pub ready: VecDeque<Durable>,
}

impl Order {
    /// Whether a message of this publisher and topic waits.
    pub fn has(&self, publisher: &Arc<str>, topic: &Arc<str>) -> bool {
        !self.last.is_empty() && self.last.contains_key(&(Arc::clone(publisher), Arc::clone(topic)))
    }

    /// The last place of its line.
    pub fn enter(&mut self, line: Line, generation: u32) -> Place {
        let before = self.last.get(&line).copied();
        let (first, stands) = (before.is_none(), Stands::Waits);
        let entry = Entry { generation, line: line.clone(), next: None, first, stands };
        #[allow(clippy::cast_possible_truncation)]
        let at = self.places.insert(entry) as u32;
        self.last.insert(line, at);
        if let Some(before) = before.and_then(|before| self.places.get_mut(before as usize)) {
            before.next = Some(at);
        }
        Place { at, generation }
    }

    fn entry(&mut self, place: Place) -> Option<&mut Entry> {
        self.places.get_mut(place.at as usize).filter(|entry| entry.generation == place.generation)
    }

    /// A message is durable: it comes back when its turn has come.
    pub fn durable(&mut self, place: Place, message: Durable) -> Option<Durable> {
        match self.entry(place) {
            Some(entry) if !entry.first => {
                entry.stands = Stands::Durable(message);
                None
            }
            _ => Some(message),
        }
    }

    /// It is delivered, or comes to nothing: what comes next and is durable is ready.
    pub fn leave(&mut self, place: Place) {
        match self.entry(place) {
            Some(entry) if entry.first => {}
            Some(entry) => {
                entry.stands = Stands::GivenUp;
                return;
            }
            None => return,
        }
        let mut at = Some(place.at);
        while let Some(gone) = at.and_then(|at| self.places.try_remove(at as usize)) {
            at = gone.next;
            let Some(next) = at.and_then(|at| self.places.get_mut(at as usize)) else {
                self.last.remove(&gone.line);
                break;
            };
            next.first = true;
            match std::mem::replace(&mut next.stands, Stands::Waits) {
                Stands::GivenUp => {}
                Stands::Waits => break,
                Stands::Durable(message) => {
                    self.ready.push_back(message);
                    return;
                }
            }
        }
        if self.places.is_empty() && self.places.capacity() > KEEP {
            (self.places, self.last) = (Slab::new(), AHashMap::new());
        }
    }
}
