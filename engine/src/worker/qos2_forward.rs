//! QoS 2 messages whose route waits for the store: in which order log, store, other nodes and subscribers get
//! them.

use std::rc::Rc;
use std::sync::Arc;

use hydrant_protocol::cluster::message::Recipients;
use hydrant_protocol::{Message, PacketId};

use crate::ports::{ClusterOp, SessionOp};
use crate::step_guard::StepGuard;

use super::conn::AckKind;
use super::state::pending_acks::{Exact, Owed};
use super::state::publication::Publication;
use super::state::replica::Preparation;
use super::state::routes::Route;
use super::{AckDependencies, Conn, Continuation, Worker};

impl Worker {
    /// A QoS 2 message whose route waits for the store. One that other nodes want is kept before anything is
    /// done with it ([`super::qos2_replicate`]). Into a log that acknowledges by itself it goes
    /// first; receipt and queue entries follow in one write. A crash in between repeats a record in the
    /// log, which may happen, and nothing at the subscribers, which may not.
    ///
    /// Other nodes get it at the same time as the store here, between the same two markers.
    pub(super) fn route_exact(
        &self,
        route: &Route,
        publication: &mut Publication<'_>,
        exact: Exact,
        conn: Option<&Rc<Conn>>,
    ) {
        if self.is_held_up(&exact) {
            let answer = owed(conn, None, exact.packet_id);
            return self.prepared.held.borrow_mut().push((answer, exact));
        }
        self.log_exact(route, publication, exact, conn, None);
    }

    /// `index` is that of an answer that is owed already.
    fn log_exact(
        &self,
        route: &Route,
        publication: &mut Publication<'_>,
        mut exact: Exact,
        conn: Option<&Rc<Conn>>,
        index: Option<u32>,
    ) {
        if exact.prepared.is_some() || !self.log_acknowledges(route) {
            return self.store_exact(route, publication, exact, conn, index);
        }
        let (Some(mapped), Some(identity)) = (&route.mapped, exact.record.take()) else {
            return self.store_exact(route, publication, exact, conn, index);
        };
        let mut deps = AckDependencies::default();
        self.log_record(mapped, route, identity, publication, exact.retain, &mut deps);
        let answer = owed(conn, index, exact.packet_id);
        self.attach(deps, Continuation::Begun { answer, exact: Box::new(exact) });
    }

    /// The log or the store has a QoS 2 message: queue entries, retained message and receipt follow, in the order
    /// in which that was said.
    pub(super) fn begun(&self, answer: Option<Owed>, exact: Exact) {
        if !self.may_route() || !self.prepared.begun.borrow().is_empty() {
            self.prepared.begun.borrow_mut().push_back((answer, exact));
            return self.wake_router();
        }
        self.go_on_with(answer, exact);
    }

    /// Its turn has come.
    pub(super) fn go_on_with(&self, answer: Option<Owed>, exact: Exact) {
        if exact.prepared.is_none() && self.is_elsewhere(&exact) {
            return;
        }
        if self.is_held_up(&exact) {
            return self.prepared.held.borrow_mut().push((answer, exact));
        }
        let message = Arc::clone(&exact.message);
        let route = self.route(&message.topic);
        let mut publication = self.publication_of(&message);
        let (conn, index) = answer.unzip();
        self.log_exact(&route, &mut publication, exact, conn.as_ref(), index);
    }

    pub(super) fn take_begun(&self) -> Option<(Option<Owed>, Exact)> {
        self.prepared.begun.borrow_mut().pop_front()
    }

    /// What of it is stored, here and elsewhere. `index` is that of an answer that is owed already.
    fn store_exact(
        &self,
        route: &Route,
        publication: &mut Publication<'_>,
        mut exact: Exact,
        conn: Option<&Rc<Conn>>,
        index: Option<u32>,
    ) {
        if self.must_prepare(route, &exact) {
            let answer = owed(conn, index, exact.packet_id);
            return self.prepared(exact, answer);
        }
        let prepared = exact.prepared.map(|preparation| self.prepared_for_nodes(preparation));
        if let Some(prepared) = &prepared {
            (publication.prepared, publication.coming) =
                (Some(*prepared), self.coming_here(prepared));
        }
        let mut deps = self.fan_out(route, publication, true);
        self.fan_out_to_nodes(route, publication, true, &mut deps);
        let mut ahead = None;
        if exact.retain
            && let Some(version) = self.change_retained(publication, true)
        {
            deps.store = true;
            exact.shows = version;
            ahead = Some(self.guard_ahead(&exact));
        }
        if let (Some(mapped), Some(identity)) = (&route.mapped, exact.record.take()) {
            self.log_record(mapped, route, identity, publication, exact.retain, &mut deps);
        }
        self.effects.borrow_mut().ops.append(&mut exact.ops);
        let receipt = exact.receipt.filter(|_| prepared.is_some());
        self.finish_exact(exact, conn, index, deps);
        ahead.into_iter().for_each(StepGuard::keep);
        if let Some(prepared) = &prepared {
            self.note_routed(prepared, Recipients::Queues);
        }
        self.count_opening(receipt, false);
    }

    /// A QoS 2 message whose route waits for the store: its receipt goes with what it causes; its
    /// live subscribers get it and its publisher PUBREC when that is durable. `index` is that of
    /// an answer that is owed already.
    fn finish_exact(
        &self,
        mut exact: Exact,
        conn: Option<&Rc<Conn>>,
        index: Option<u32>,
        mut deps: AckDependencies,
    ) {
        let id = exact.packet_id;
        if let Some(Preparation { id, taken_over: None | Some(false) }) = exact.prepared {
            self.effects.borrow_mut().ops.push(ClusterOp::Committed { id }.into());
            deps.store = true;
        }
        if let Some(session) = self.stored_session(exact.receipt) {
            self.effects
                .borrow_mut()
                .ops
                .push(SessionOp::PutReceipt { id: session, packet_id: id }.into());
            deps.store = true;
        }
        self.keep_order(&mut exact, conn, index, &mut deps);
        if !deps.nothing() {
            let answer = owed(conn, index, id);
            self.attach(deps, Continuation::Exact { answer, exact: Box::new(exact) });
        } else {
            self.exact_done(conn, index, &exact);
        }
    }

    /// A QoS 2 message is stored: its live subscribers, everywhere.
    pub(super) fn deliver_held(&self, exact: &Exact) {
        let message = &exact.message;
        let route = self.route(&message.topic);
        let mut publication = self.publication_of(message);
        publication.shows = exact.shows;
        self.deliver_live(&route, &mut publication);
        self.deliver_live_to_nodes(&route, &publication, &mut AckDependencies::default());
    }

    /// A message of this node's publishers that was kept.
    pub(super) fn publication_of<'a>(&self, message: &'a Arc<Message>) -> Publication<'a> {
        let mut publication = Publication::new(&message.topic, &message.payload, message.qos, true);
        publication.stream.router = self.index;
        publication.owned = Some(Arc::clone(message));
        publication
    }
}

/// PUBREC that a connection is owed: by this index already, or from now on.
fn owed(conn: Option<&Rc<Conn>>, index: Option<u32>, id: PacketId) -> Option<Owed> {
    let conn = conn?;
    let index = index.unwrap_or_else(|| conn.owe(AckKind::Pubrec(id)));
    Some((Rc::clone(conn), index))
}
