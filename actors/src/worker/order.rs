//! The order in which QoS 2 messages reach live subscribers: those of one publisher and topic as they were
//! routed ([MQTT-4.6.0-6]), whatever each of them waits for.
//!
//! What waits for the store alone needs no care: the store answers in the order in which it was asked, and the first
//! message of a connection asks it in any case, behind what its client's earlier connection had asked. A message that
//! waits for more (another node, a session on its way, the log) waits for the store too, behind what
//! came before it, and opens a *line*: what is routed behind it to its topic by its publisher has a place there.
//! A message that is durable before its turn stands in its place until those before it are delivered, also when its
//! connection has ended; one that is refused, or whose handling panics, gives its place up. Other topics of its
//! publisher are other lines.
//!
//! Invariant: a line begins with a message that is not durable, or with one whose turn has come and that stands in
//! `ready`.
//!
//! Bounds: a place belongs to a pending ack ([`super::pending_acks`]) or to an answer that its connection is owed
//! (`limits.max_unacknowledged`). A line ends with its last place.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use ahash::AHashMap;
use slab::Slab;

use super::abandon::Abandon;
use super::effects::RollbackGuard;
use super::pending_acks::{Exact, Owed};
use super::{AckDependencies, Conn, Continuation, Worker};

/// Lines are given back to the allocator above so many places.
const KEEP: usize = 1024;

/// A place in a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    at: u32,
    /// Tells a reused one.
    stamp: u32,
}

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
    stamp: u32,
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
    ready: VecDeque<Durable>,
}

impl Order {
    /// Whether a message of this publisher and topic waits.
    fn has(&self, publisher: &Arc<str>, topic: &Arc<str>) -> bool {
        !self.last.is_empty() && self.last.contains_key(&(Arc::clone(publisher), Arc::clone(topic)))
    }

    /// The last place of its line.
    fn enter(&mut self, line: Line, stamp: u32) -> Place {
        let before = self.last.get(&line).copied();
        let (first, stands) = (before.is_none(), Stands::Waits);
        let entry = Entry { stamp, line: line.clone(), next: None, first, stands };
        #[allow(clippy::cast_possible_truncation)]
        let at = self.places.insert(entry) as u32;
        self.last.insert(line, at);
        if let Some(before) = before.and_then(|before| self.places.get_mut(before as usize)) {
            before.next = Some(at);
        }
        Place { at, stamp }
    }

    fn entry(&mut self, place: Place) -> Option<&mut Entry> {
        self.places.get_mut(place.at as usize).filter(|entry| entry.stamp == place.stamp)
    }

    /// A message is durable: it comes back when its turn has come.
    fn durable(&mut self, place: Place, message: Durable) -> Option<Durable> {
        match self.entry(place) {
            Some(entry) if !entry.first => {
                entry.stands = Stands::Durable(message);
                None
            }
            _ => Some(message),
        }
    }

    /// It is delivered, or comes to nothing: what comes next and is durable is ready.
    fn leave(&mut self, place: Place) {
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

impl Worker {
    /// What of its order a QoS 2 message waits for, beside its own needs; nothing when it may be delivered at once.
    /// Last of its routing: what panics before has no place.
    pub(super) fn keep_order(
        &self,
        exact: &mut Exact,
        conn: Option<&Rc<Conn>>,
        index: Option<u32>,
        deps: &mut AckDependencies,
    ) {
        let mut order = self.order.borrow_mut();
        // What the same client has published over an earlier connection may wait for the store.
        let first = conn.is_some_and(|conn| !conn.has_routed_exact.replace(true));
        let behind = order.has(&exact.publisher, &exact.message.topic);
        let more = deps.log.is_some() || deps.others() > 0;
        if deps.nothing() {
            // Others of its connection wait for the store, and perhaps for no more.
            let alone = match (conn, index) {
                (Some(conn), Some(index)) => conn.is_next(index),
                (Some(conn), None) => conn.acks_outstanding() == 0,
                (None, _) => false,
            };
            deps.store = behind || first || !alone;
        }
        deps.store |= more;
        if behind || more {
            let line = (Arc::clone(&exact.publisher), Arc::clone(&exact.message.topic));
            exact.place = Some(order.enter(line, self.stamp()));
        }
    }

    /// A QoS 2 message is durable: it goes on, or stands in its place until its turn has come.
    pub(super) fn exact_durable(&self, answer: Option<Owed>, exact: Box<Exact>) {
        let turn = match exact.place {
            Some(place) => self.order.borrow_mut().durable(place, (answer, exact)),
            None => Some((answer, exact)),
        };
        if let Some((answer, exact)) = turn {
            let (conn, index) = answer.unzip();
            self.exact_done(conn.as_ref(), index, &exact);
        }
    }

    /// A message does not stand in its line any more. [`Worker::deliver_ready`] goes on with those behind it.
    pub(super) fn leave_place(&self, place: Option<Place>) {
        if let Some(place) = place {
            self.order.borrow_mut().leave(place);
        }
    }

    /// Messages whose turn has come and that are not delivered.
    pub(super) fn has_ready(&self) -> bool {
        !self.order.borrow().ready.is_empty()
    }

    /// Delivers the messages whose turn has come. One that panics gives its place up, and the next call goes on.
    pub(super) fn deliver_ready(&self) {
        loop {
            let next = self.order.borrow_mut().ready.pop_front();
            let Some((answer, exact)) = next else { break };
            let kind = Continuation::Exact { answer, exact };
            let (abandon, rollback) = (Abandon::wait(self, &kind, true), RollbackGuard::new(self));
            if let Continuation::Exact { answer, exact } = kind {
                let (conn, index) = answer.unzip();
                self.exact_done(conn.as_ref(), index, &exact);
            }
            rollback.keep();
            abandon.keep();
        }
    }
}
