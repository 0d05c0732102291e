//! What the TopicRouter does with each publish: subscribers, log, retained message, and what its
//! acknowledgement waits for.
//!
//! A publish's answer is queued last, after everything that could panic: a publish that was half
//! done is taken back ([`super::outgoing::Mark`]) and begun again.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use hydrant_protocol::{AckLevel, Message, PacketId, QoS, wire};

use crate::metrics::{CloseReason, DropReason};
use crate::ports::StoreOp;
use crate::shared::Part;

use smallvec::SmallVec;

use super::batch::{Entry, InternalPublish, Origin, Phase, RemoteBatch};
use super::conn::AckKind;
use super::deliver::View;
use super::outgoing::Undo;
use super::routes::Route;
use super::sessions::unix_ms;
use super::waits::{Abandon, Exact};
use super::{Conn, Shard, WaitKind};
use crate::cluster::NodeIndex;

/// Topics below which only the node publishes.
pub(super) const SYS_PREFIX: &str = "$SYS/";
/// A batch's arena is given back to the allocator above this.
const KEEP_ARENA: usize = 1024 * 1024;

/// What of a publish is not over when it has been routed.
#[derive(Debug, Clone, Default)]
pub struct Needs {
    /// The session store.
    pub store: bool,
    /// The log, by the index of its record among those that wait to be sent.
    pub log: Option<usize>,
    /// Other nodes.
    pub peers: SmallVec<[NodeIndex; 2]>,
    /// Sessions that are on their way, by their slots.
    pub arriving: SmallVec<[u32; 1]>,
    /// Arbiters where there are such.
    pub late: SmallVec<[u16; 1]>,
}

impl Needs {
    /// What is neither the store nor the log.
    fn others(&self) -> usize {
        self.peers.len() + self.arriving.len() + self.late.len()
    }

    pub(super) fn nothing(&self) -> bool {
        !self.store && self.log.is_none() && self.others() == 0
    }
}

impl Shard {
    /// A decoded publish goes to the router; at QoS 2 with the session that holds its receipt.
    pub fn submit(
        &self,
        conn: &Rc<Conn>,
        publish: &wire::Publish<'_>,
        receipt: Option<(u32, u32)>,
    ) {
        self.batch.borrow_mut().push(conn, publish, receipt);
        conn.unrouted.set(true);
        self.wake_router();
    }

    /// A Last Will goes to the router. Its end in the store is written together with it.
    pub(super) fn publish_will(&self, client_id: Arc<str>, will: &wire::Will) {
        let message = Arc::new(Message {
            topic: Arc::clone(&will.topic),
            payload: will.payload.clone(),
            qos: will.qos,
            retain: will.retain,
            properties: None,
        });
        let ops = vec![StoreOp::DeleteWill { client_id: Arc::clone(&client_id) }];
        self.publish_internal(Origin::Will(client_id), message, ops);
    }

    /// A message of the node's own goes to the router.
    pub fn publish_internal(&self, origin: Origin, message: Arc<Message>, ops: Vec<StoreOp>) {
        self.internal.borrow_mut().push_back(InternalPublish { origin, message, ops });
        self.wake_router();
    }

    /// Routes everything that waits on this arbiter. `before_each` runs before a publish is begun
    /// and may panic (a test's fault); that publish is then begun again by the next call.
    pub fn route_all(&self, before_each: impl Fn()) -> u64 {
        let mut handled = 0;
        if !self.may_route() {
            return handled;
        }
        while let Some((answer, exact)) = self.take_begun() {
            let kind = WaitKind::Begun { answer, exact: Box::new(exact) };
            let (abandon, undo) = (Abandon::wait(self, &kind, false), Undo::new(self));
            if let WaitKind::Begun { answer, exact } = kind {
                self.go_on_with(answer, *exact);
            }
            undo.keep();
            abandon.keep();
        }
        loop {
            if self.routed.get() >= self.routing.borrow().len() {
                self.routing.borrow_mut().clear(KEEP_ARENA);
                self.routed.set(0);
                if self.batch.borrow().is_empty() {
                    break;
                }
                self.routing.swap(&self.batch);
            }
            let routing = self.routing.borrow();
            while let Some((entry, topic, payload)) = routing.get(self.routed.get()) {
                before_each();
                let undo = Undo::new(self);
                self.count_in(entry.qos, payload.len());
                self.route_client(entry, topic, payload);
                undo.keep();
                self.routed.set(self.routed.get() + 1);
                self.routed_total.set(self.routed_total.get() + 1);
                handled += 1;
            }
        }
        loop {
            let next = self
                .internal
                .borrow()
                .front()
                .map(|next| (next.origin.clone(), Arc::clone(&next.message), next.ops.clone()));
            let Some((origin, message, ops)) = next else { break };
            before_each();
            let undo = Undo::new(self);
            self.route_internal(&origin, &message, ops);
            undo.keep();
            self.internal.borrow_mut().pop_front();
            self.routed_total.set(self.routed_total.get() + 1);
            handled += 1;
        }
        self.flush();
        handled
    }

    /// The publish that the router is at has made it panic again: it is given up, and its
    /// publisher's connection ends without an acknowledgement.
    pub fn skip_poisoned(&self) {
        let poisoned = {
            let routing = self.routing.borrow();
            routing.get(self.routed.get()).map(|(entry, topic, _)| {
                log::error!(target: "hydrant::router", "gave up a publish to {topic:?}: it made the router panic twice");
                (Rc::clone(&entry.origin), entry.receipt.zip(entry.packet_id))
            })
        };
        match poisoned {
            Some((conn, receipt)) => {
                if let Some(((slot, stamp), id)) = receipt {
                    self.forget_receipt(slot, stamp, id);
                }
                self.routed.set(self.routed.get() + 1);
                self.routed_total.set(self.routed_total.get() + 1);
                self.close(&conn, CloseReason::Violation);
            }
            None => drop(self.internal.borrow_mut().pop_front()),
        }
        self.metrics.drop_messages(DropReason::Poisoned, 1);
    }

    /// The same for a publish that came from another arbiter; its publisher is not known here.
    pub fn skip_poisoned_remote(&self, batch: &mut RemoteBatch) {
        if let Some((_, topic, _)) = batch.get(batch.done) {
            log::error!(target: "hydrant::router", "gave up a publish to {topic:?} from another arbiter: it made the router panic again and again");
            self.metrics.drop_messages(DropReason::Poisoned, 1);
            batch.done += 1;
        }
    }

    fn count_in(&self, qos: QoS, payload: usize) {
        self.metrics.publishes_in[qos as usize].inc();
        self.metrics.payload_in.add(payload as u64);
    }

    fn route_client(&self, entry: &Entry, topic: &str, payload: &[u8]) {
        let conn = &entry.origin;
        if topic.starts_with(SYS_PREFIX) {
            // [MQTT-3.3.5-2]: not allowed, answered all the same.
            self.metrics.drop_messages(DropReason::NoRoute, 1);
            if let Some(id) = entry.packet_id {
                self.receipt_done(entry.receipt, id, conn);
                self.answer(conn, publish_answer(entry.qos, id));
            }
            return;
        }
        let route = self.route(topic);
        let durable = route.level != AckLevel::Accepted;
        let mut view = View::new(topic, payload, entry.qos, durable);
        view.lane.1 = self.index;
        view.shared_topic = Some(&route.topic);
        let identity = route.mapped.is_some().then(|| {
            let sequence = conn.publishes.get();
            conn.publishes.set(sequence + 1);
            let client_id = conn.client_id.borrow().clone().unwrap_or_default();
            (client_id, conn.epoch.get(), sequence)
        });
        if view.held()
            && let Some(id) = entry.packet_id
        {
            let exact = Exact {
                message: view.message(),
                retain: entry.retain,
                publisher: conn.client_id.borrow().clone().unwrap_or_default(),
                packet_id: id,
                receipt: entry.receipt,
                persistent: self.stored_session(entry.receipt).is_some(),
                level: route.level as u8,
                at: Instant::now(),
                record: identity,
                ops: Vec::new(),
                open: None,
            };
            return self.route_exact(&route, &mut view, exact, Some(conn));
        }
        let mut needs = self.fan_out(&route, &mut view, durable);
        self.fan_out_to_nodes(&route, &view, durable, &mut needs);
        if entry.retain {
            needs.store |= self.retain(&mut view, durable);
        }
        if let (Some(mapped), Some(identity)) = (&route.mapped, identity) {
            self.log_record(mapped, &route, identity, &mut view, entry.retain, &mut needs);
        }
        let Some(id) = entry.packet_id else { return };
        if needs.nothing() {
            self.receipt_done(entry.receipt, id, conn);
            self.metrics.acks[route.level as usize].inc();
            self.answer(conn, publish_answer(view.qos, id));
            return;
        }
        let index = conn.owe(publish_answer(view.qos, id));
        let kind = WaitKind::Publish {
            conn: Rc::clone(conn),
            index,
            receipt: entry.receipt.map(|(slot, stamp)| (slot, stamp, id)),
            at: Instant::now(),
            level: route.level as u8,
        };
        self.attach(needs, kind);
    }

    /// Makes the wait for what a publish needs and hands out its tokens.
    pub(super) fn attach(&self, needs: Needs, kind: WaitKind) {
        if needs.log.is_some()
            && let Some(conn) = kind.publisher()
        {
            conn.log_waits.set(conn.log_waits.get() + 1);
        }
        let wait = self.wait(needs.store, needs.log.is_some(), needs.others(), kind);
        let mut outgoing = self.outgoing.borrow_mut();
        if needs.store {
            outgoing.tokens.push(self.token(Part::Store, wait));
        }
        if let Some(at) = needs.log
            && let Some(work) = outgoing.log.get_mut(at)
        {
            work.token = Some(self.token(Part::Log, wait));
        }
        for node in needs.peers {
            outgoing.peer(node).tokens.push(self.token(Part::Peer, wait));
        }
        drop(outgoing);
        self.wait_for_late(&needs.late, wait);
        for slot in needs.arriving {
            self.wait_for_arrival(slot, self.token(Part::Peer, wait));
        }
    }

    /// A wait goes on only when other arbiters have what they get of this.
    pub(super) fn wait_for_late(&self, shards: &[u16], wait: (u32, u32)) {
        let mut outgoing = self.outgoing.borrow_mut();
        for shard in shards {
            let token = self.token(Part::Peer, wait);
            outgoing.remote[usize::from(*shard)].late.push(token);
        }
    }

    fn route_internal(&self, origin: &Origin, message: &Arc<Message>, ops: Vec<StoreOp>) {
        let route = self.route(&message.topic);
        let own = matches!(origin, Origin::Node);
        let durable = !own && route.level != AckLevel::Accepted;
        let mut view = View::new(&message.topic, &message.payload, message.qos, durable);
        view.lane.1 = self.index;
        view.shared_topic = Some(&message.topic);
        // A client that is back with another will has replaced the stored one: it stays.
        let replaced = matches!(origin, Origin::Will(client_id) if self.has_will(client_id));
        let ops = if replaced { Vec::new() } else { ops };
        let identity = match origin {
            // Not its epoch's number of the message, which nobody has counted for a will that was
            // found in the store; unique all the same.
            Origin::Will(client_id) if route.mapped.is_some() => {
                Some((Arc::clone(client_id), unix_ms(), u64::MAX))
            }
            _ => None,
        };
        if view.held() {
            let exact = Exact {
                message: Arc::clone(message),
                retain: message.retain,
                publisher: match origin {
                    Origin::Will(client_id) => Arc::clone(client_id),
                    Origin::Client(_) | Origin::Node => Arc::default(),
                },
                packet_id: PacketId::MIN,
                receipt: None,
                persistent: false,
                level: route.level as u8,
                at: Instant::now(),
                record: identity,
                ops,
                open: None,
            };
            return self.route_exact(&route, &mut view, exact, None);
        }
        let mut needs = self.fan_out(&route, &mut view, durable);
        if !own {
            self.fan_out_to_nodes(&route, &view, durable, &mut needs);
        }
        if message.retain {
            needs.store |= self.retain(&mut view, durable);
        }
        if let (Some(mapped), Some(identity)) = (&route.mapped, identity) {
            self.log_record(mapped, &route, identity, &mut view, message.retain, &mut needs);
        }
        if durable && needs.others() > 0 {
            // It is over only when others have it.
            self.attach(needs, WaitKind::Then(ops));
        } else {
            self.outgoing.borrow_mut().ops.extend(ops);
        }
    }

    /// Subscribers here and on other arbiters. True in `store`: queue entries are being written.
    pub(super) fn fan_out(&self, route: &Route, view: &mut View<'_>, durable: bool) -> Needs {
        let held = view.held();
        let phase = if held { Phase::Queues } else { Phase::All };
        let queues = view.qos != QoS::AtMostOnce;
        let mut needs =
            Needs { store: durable && queues && route.local_queues, ..Needs::default() };
        if !held || route.local_queues {
            for (slot, granted) in &route.local {
                self.deliver(*slot, *granted, phase, view);
            }
            needs.arriving = std::mem::take(&mut self.outgoing.borrow_mut().aside);
        }
        if !route.remote.is_empty() {
            let mut outgoing = self.outgoing.borrow_mut();
            for remote in &route.remote {
                let stored = queues && remote.queues;
                if held && !stored {
                    continue;
                }
                let at = usize::from(remote.shard);
                outgoing.remote[at].push(view, durable, phase);
                if durable && stored {
                    outgoing.joined[at] = true;
                    needs.store = true;
                    if remote.moving {
                        needs.late.push(remote.shard);
                    }
                }
            }
        }
        needs
    }

    /// The live subscribers of this node.
    pub(super) fn deliver_live(&self, route: &Route, view: &mut View<'_>) {
        for (slot, granted) in &route.local {
            self.deliver(*slot, *granted, Phase::Live, view);
        }
        let mut outgoing = self.outgoing.borrow_mut();
        for remote in &route.remote {
            let at = usize::from(remote.shard);
            outgoing.remote[at].push(view, true, Phase::Live);
        }
    }

    /// Publishes of another arbiter for the subscribers here.
    pub fn route_remote(&self, batch: &mut RemoteBatch, before_each: impl Fn()) -> u64 {
        // Their queue entries are one part of a transaction: nothing else is written with them, and
        // what is made of it stays with the batch until it is whole, also when this panics.
        self.flush();
        let interrupted = self.remote_half_done.replace(true);
        let first = batch.done;
        while let Some((entry, topic, payload)) = batch.get(batch.done) {
            before_each();
            let undo = Undo::new(self);
            let route = self.route(topic);
            let mut view = View::new(topic, payload, entry.qos, entry.durable);
            view.shared_topic = Some(&route.topic);
            (view.lane, view.estate, view.coming) = (entry.lane, entry.estate, entry.coming);
            for (slot, granted) in &route.local {
                self.deliver(*slot, *granted, entry.phase, &mut view);
            }
            undo.keep();
            if let Some(coming) = entry.coming {
                self.is_handled(coming.id, coming.floor);
            }
            let mut outgoing = self.outgoing.borrow_mut();
            batch.ops.append(&mut outgoing.ops);
            batch.tokens.append(&mut outgoing.tokens);
            let aside = std::mem::take(&mut outgoing.aside);
            aside.into_iter().for_each(|slot| batch.put_aside(slot));
            batch.done += 1;
        }
        let mut outgoing = self.outgoing.borrow_mut();
        outgoing.ops.append(&mut batch.ops);
        outgoing.tokens.append(&mut batch.tokens);
        outgoing.transaction = batch.transaction.take();
        drop(outgoing);
        self.flush();
        self.wait_for_arrivals(&batch.aside, batch.late.drain(..));
        self.flush();
        self.remote_half_done.set(false);
        if interrupted {
            self.pump_all();
        }
        (batch.done - first) as u64
    }

    /// Every connection looks again at what waits for it.
    pub(super) fn pump_all(&self) {
        for (_, conn) in self.conns.borrow().iter() {
            conn.wants_pump.set(true);
            conn.wake();
        }
    }
}

fn publish_answer(qos: QoS, id: PacketId) -> AckKind {
    if qos == QoS::ExactlyOnce { AckKind::Pubrec(id) } else { AckKind::Puback(id) }
}
