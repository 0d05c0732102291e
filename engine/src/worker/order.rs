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
//! Bounds: those of [`Order`](super::state::order::Order).

use std::rc::Rc;
use std::sync::Arc;

use super::abandon::Begun;
use super::state::effects::begin_step;
use super::state::pending_acks::{Exact, Owed, Place};
use super::{AckDependencies, Conn, Continuation, Worker};

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
            exact.place = Some(order.enter(line, self.next_number()));
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
            let begun = self.guard_begun(Begun::of(&kind, true));
            let step = begin_step(&self.effects);
            if let Continuation::Exact { answer, exact } = kind {
                let (conn, index) = answer.unzip();
                self.exact_done(conn.as_ref(), index, &exact);
            }
            step.keep();
            begun.keep();
        }
    }
}
