//! QoS 2 messages whose route waits for the store: in which order log, store, other nodes and subscribers get
//! them.

use std::rc::Rc;
use std::sync::Arc;

use hydrant_protocol::cluster::message::Audience;
use hydrant_protocol::{Message, PacketId};

use crate::ports::StoreOp;

use super::conn::AckKind;
use super::deliver::View;
use super::open::Opened;
use super::publish::Needs;
use super::routes::Route;
use super::waits::{Exact, Owed};
use super::{Conn, Shard, WaitKind};

impl Shard {
    /// A QoS 2 message whose route waits for the store. One that other nodes want is kept before anything is
    /// done with it ([`super::open`]). Into a log that acknowledges by itself it goes
    /// first; receipt and queue entries follow in one write. A crash in between repeats a record in the
    /// log, which may happen, and nothing at the subscribers, which may not.
    ///
    /// Other nodes get it at the same time as the store here, between the same two marks.
    pub(super) fn route_exact(
        &self,
        route: &Route,
        view: &mut View<'_>,
        mut exact: Exact,
        conn: Option<&Rc<Conn>>,
    ) {
        if !self.log_acknowledges(route) {
            return self.store_exact(route, view, exact, conn, None);
        }
        let (Some(mapped), Some(identity)) = (&route.mapped, exact.record.take()) else {
            return self.store_exact(route, view, exact, conn, None);
        };
        let mut needs = Needs::default();
        self.log_record(mapped, route, identity, view, exact.retain, &mut needs);
        let answer = owed(conn, None, exact.packet_id);
        self.attach(needs, WaitKind::Begun { answer, exact: Box::new(exact) });
    }

    /// The log or the store has a QoS 2 message: queue entries, retained message and receipt follow, in the order
    /// in which that was said.
    pub(super) fn begun(&self, answer: Option<Owed>, exact: Exact) {
        if !self.may_route() || !self.opens.begun.borrow().is_empty() {
            self.opens.begun.borrow_mut().push_back((answer, exact));
            return self.wake_router();
        }
        self.go_on_with(answer, exact);
    }

    /// Its turn has come.
    pub(super) fn go_on_with(&self, answer: Option<Owed>, exact: Exact) {
        if exact.open.is_none() && self.is_elsewhere(&exact) {
            return;
        }
        let message = Arc::clone(&exact.message);
        let route = self.route(&message.topic);
        let mut view = self.view_of(&message);
        let (conn, index) = answer.unzip();
        self.store_exact(&route, &mut view, exact, conn.as_ref(), index);
    }

    pub(super) fn take_begun(&self) -> Option<(Option<Owed>, Exact)> {
        self.opens.begun.borrow_mut().pop_front()
    }

    /// What of it is stored, here and elsewhere. `index` is that of an answer that is owed already.
    fn store_exact(
        &self,
        route: &Route,
        view: &mut View<'_>,
        mut exact: Exact,
        conn: Option<&Rc<Conn>>,
        index: Option<u32>,
    ) {
        if self.must_open(route, &exact) {
            let answer = owed(conn, index, exact.packet_id);
            return self.open(exact, answer);
        }
        let open = exact.open.map(|opened| self.open_for_nodes(opened));
        if let Some(open) = &open {
            (view.open, view.coming) = (Some(*open), self.coming_here(open));
        }
        let mut needs = self.fan_out(route, view, true);
        self.fan_out_to_nodes(route, view, true, &mut needs);
        if exact.retain {
            needs.store |= self.retain(view, true);
        }
        if let (Some(mapped), Some(identity)) = (&route.mapped, exact.record.take()) {
            self.log_record(mapped, route, identity, view, exact.retain, &mut needs);
        }
        self.outgoing.borrow_mut().ops.append(&mut exact.ops);
        let receipt = exact.receipt.filter(|_| open.is_some());
        self.finish_exact(exact, conn, index, needs);
        if let Some(open) = &open {
            self.is_seen(open, Audience::Queues);
        }
        self.count_opening(receipt, false);
    }

    /// A QoS 2 message whose route waits for the store: its receipt goes with what it causes; its
    /// live subscribers get it and its publisher PUBREC when that is durable. `index` is that of
    /// an answer that is owed already.
    fn finish_exact(
        &self,
        exact: Exact,
        conn: Option<&Rc<Conn>>,
        index: Option<u32>,
        mut needs: Needs,
    ) {
        let id = exact.packet_id;
        if let Some(Opened { id, inherited: None | Some(false) }) = exact.open {
            self.outgoing.borrow_mut().ops.push(StoreOp::OpenQueued { id });
            needs.store = true;
        }
        if let Some(session) = self.stored_session(exact.receipt) {
            self.outgoing.borrow_mut().ops.push(StoreOp::PutReceipt { id: session, packet_id: id });
            needs.store = true;
        }
        if !needs.nothing() {
            let answer = owed(conn, index, id);
            self.attach(needs, WaitKind::Exact { answer, exact: Box::new(exact) });
        } else {
            self.exact_done(conn, index, &exact);
        }
    }

    /// A QoS 2 message is stored: its live subscribers, everywhere.
    pub(super) fn deliver_held(&self, message: &Arc<Message>) {
        let route = self.route(&message.topic);
        let mut view = self.view_of(message);
        self.deliver_live(&route, &mut view);
        self.deliver_live_to_nodes(&route, &view, &mut Needs::default());
    }

    /// A message of this node's publishers that was kept.
    pub(super) fn view_of<'a>(&self, message: &'a Arc<Message>) -> View<'a> {
        let mut view = View::new(&message.topic, &message.payload, message.qos, true);
        view.lane.1 = self.index;
        view.owned = Some(Arc::clone(message));
        view
    }
}

/// PUBREC that a connection is owed: by this index already, or from now on.
fn owed(conn: Option<&Rc<Conn>>, index: Option<u32>, id: PacketId) -> Option<Owed> {
    let conn = conn?;
    let index = index.unwrap_or_else(|| conn.owe(AckKind::Pubrec(id)));
    Some((Rc::clone(conn), index))
}
