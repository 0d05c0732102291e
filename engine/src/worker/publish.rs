//! What the TopicRouter does with each publish: subscribers, log, retained message, and what its
//! acknowledgement waits for.
//!
//! A publish's answer is queued last, after everything that could panic: a publish that was half
//! done is taken back ([`super::state::effects::begin_step`]) and begun again.

use std::rc::Rc;
use std::sync::Arc;

use hydrant_protocol::cluster::message::Recipients;
use hydrant_protocol::{AckLevel, Message, PacketId, QoS, wire};

use crate::metrics::{CloseReason, DropReason};
use crate::ports::{StoreOp, StoredWill};
use crate::say::{self, cut};

use super::abandon::Begun;
use super::conn::AckKind;
use super::state::effects::begin_step;
use super::state::ingress::{Entry, InternalPublish, Origin};
use super::state::pending_acks::Exact;
use super::state::publication::Publication;
use super::state::routes::Route;
use super::state::sessions::SessionKey;
use super::{AckDependencies, Conn, Continuation, SYS_PREFIX, Worker};
use crate::messages::{AckSource, RemoteBatch};

/// Publishes of the node's own that the router begins in one turn: Last Wills, `$SYS`, what lost nodes had begun. A
/// start or a cut network makes very many at once, and connections have their turn in between.
const OWN_AT_ONCE: usize = 256;
/// A batch's arena is given back to the allocator above this.
const KEEP_ARENA: usize = 1024 * 1024;

impl Worker {
    /// A decoded publish goes to the router; at QoS 2 with the session that holds its receipt.
    pub fn submit(
        &self,
        conn: &Rc<Conn>,
        publish: &wire::Publish<'_>,
        receipt: Option<SessionKey>,
    ) {
        self.batch.borrow_mut().push(conn, publish, receipt);
        conn.unrouted.set(true);
        self.wake_router();
    }

    /// A Last Will goes to the router. Its row in the store ends with what it causes, or when all of that is durable.
    pub(super) fn publish_will(&self, will: &StoredWill) {
        let StoredWill { client_id, connection, message } = will;
        let (client_id, connection) = (Arc::clone(client_id), *connection);
        let ops = vec![StoreOp::DeleteWill { client_id: Arc::clone(&client_id), connection }];
        self.publish_internal(Origin::Will(client_id, connection), Arc::clone(message), ops);
    }

    /// A message of the node's own goes to the router.
    pub fn publish_internal(&self, origin: Origin, message: Arc<Message>, ops: Vec<StoreOp>) {
        self.internal.borrow_mut().push_back(InternalPublish { origin, message, ops });
        self.wake_router();
    }

    /// Routes everything that waits on this worker. `before_each` runs before a publish is begun
    /// and may panic (a test's fault); that publish is then begun again by the next call.
    pub fn route_all(&self, before_each: impl Fn()) -> u64 {
        let mut handled = 0;
        if self.has_ready() {
            self.deliver_ready();
            self.flush();
        }
        if !self.may_route() {
            return handled;
        }
        let mut turn = OWN_AT_ONCE;
        while let Some((answer, exact)) = self.take_begun() {
            let kind = Continuation::Begun { answer, exact: Box::new(exact) };
            let begun = self.guard_begun(Begun::of(&kind, false));
            let step = begin_step(&self.effects);
            if let Continuation::Begun { answer, exact } = kind {
                self.go_on_with(answer, *exact);
            }
            step.keep();
            begun.keep();
            turn -= 1;
            if turn == 0 {
                self.flush();
                return handled;
            }
        }
        // What is left of the last turn came before what waits now.
        if self.internal_goes_on.get() {
            handled += self.route_own(&mut turn, &before_each);
        }
        if !self.internal_goes_on.get() {
            handled += self.route_clients(&before_each);
            handled += self.route_own(&mut turn, &before_each);
        }
        self.flush();
        handled
    }

    fn route_clients(&self, before_each: impl Fn()) -> u64 {
        let mut handled = 0;
        loop {
            if self.routed.get() >= self.routing.borrow().len() {
                self.routing.borrow_mut().clear(KEEP_ARENA);
                self.routed.set(0);
                if self.batch.borrow().is_empty() {
                    return handled;
                }
                self.routing.swap(&self.batch);
            }
            let routing = self.routing.borrow();
            while let Some((entry, topic, payload)) = routing.get(self.routed.get()) {
                before_each();
                let step = begin_step(&self.effects);
                self.count_in(entry.qos, payload.len());
                self.route_client(entry, topic, payload);
                step.keep();
                self.routed.set(self.routed.get() + 1);
                self.routed_total.set(self.routed_total.get() + 1);
                handled += 1;
            }
        }
    }

    /// Last Wills and what else the node publishes itself, as many as the turn has left.
    fn route_own(&self, turn: &mut usize, before_each: impl Fn()) -> u64 {
        let mut handled = 0;
        loop {
            let next = self
                .internal
                .borrow()
                .front()
                .map(|next| (next.origin.clone(), Arc::clone(&next.message), next.ops.clone()));
            self.internal_goes_on.set(next.is_some() && *turn == 0);
            let Some((origin, message, ops)) = next.filter(|_| *turn > 0) else { return handled };
            *turn -= 1;
            before_each();
            let step = begin_step(&self.effects);
            self.route_internal(&origin, &message, ops);
            step.keep();
            self.internal.borrow_mut().pop_front();
            self.routed_total.set(self.routed_total.get() + 1);
            handled += 1;
        }
    }

    /// The publish that the router is at has made it panic again: it is given up, and its
    /// publisher's connection ends without an acknowledgement.
    pub fn skip_poisoned(&self) {
        let poisoned = {
            let routing = self.routing.borrow();
            routing.get(self.routed.get()).map(|(entry, topic, _)| {
                say::error!(target: "hydrant::router", "gave up a publish to {}: it made the router panic twice", cut(topic));
                (Rc::clone(&entry.origin), entry.receipt.zip(entry.packet_id))
            })
        };
        match poisoned {
            Some((conn, receipt)) => {
                if let Some((session, id)) = receipt {
                    self.forget_receipt(session, id);
                }
                self.routed.set(self.routed.get() + 1);
                self.routed_total.set(self.routed_total.get() + 1);
                self.close(&conn, CloseReason::Violation);
            }
            None => drop(self.internal.borrow_mut().pop_front()),
        }
        self.metrics.drop_messages(DropReason::Poisoned, 1, format_args!(""));
    }

    /// The same for a publish that came from another worker; its publisher is not known here.
    pub fn skip_poisoned_remote(&self, batch: &mut RemoteBatch) {
        if let Some((entry, topic, _)) = batch.get(batch.done) {
            self.reaches_retained(topic, entry.shows);
            say::error!(target: "hydrant::router", "gave up a publish to {} from another worker: it made the router panic again and again", cut(topic));
            self.metrics.drop_messages(DropReason::Poisoned, 1, format_args!(""));
            batch.done += 1;
        }
    }

    fn count_in(&self, qos: QoS, payload: usize) {
        self.metrics.publishes_in[qos as usize].add_unshared(1);
        self.metrics.payload_in.add_unshared(payload as u64);
    }

    fn route_client(&self, entry: &Entry, topic: &str, payload: &[u8]) {
        let conn = &entry.origin;
        if topic.starts_with(SYS_PREFIX) {
            // [MQTT-3.3.5-2]: not allowed, answered all the same.
            let of = conn.client_id.borrow();
            self.metrics.drop_one(DropReason::NoRoute, of.as_deref().unwrap_or_default(), topic);
            drop(of);
            if let Some(id) = entry.packet_id {
                self.receipt_done(entry.receipt, id, conn);
                self.answer(conn, publish_answer(entry.qos, id));
            }
            return;
        }
        let route = self.route(topic);
        let durable = route.level != AckLevel::Accepted;
        let mut publication = Publication::new(topic, payload, entry.qos, durable);
        publication.stream.router = self.index;
        publication.shared_topic = Some(&route.topic);
        let mut identity = route.mapped.is_some().then(|| {
            let sequence = conn.publishes.get();
            conn.publishes.set(sequence + 1);
            let client_id = conn.client_id.borrow().clone().unwrap_or_default();
            (client_id, conn.epoch.get(), sequence)
        });
        if identity.as_ref().is_some_and(|(client, ..)| self.has_no_place(&route, client)) {
            if entry.packet_id.is_some() {
                return self.refuse_publish(entry, conn);
            }
            identity = None;
        }
        if publication.held()
            && let Some(id) = entry.packet_id
        {
            let exact = Exact {
                message: publication.message(),
                retain: entry.retain,
                publisher: conn.client_id.borrow().clone().unwrap_or_default(),
                packet_id: id,
                receipt: entry.receipt,
                persistent: self.stored_session(entry.receipt).is_some(),
                level: route.level as u8,
                at: self.now().boot,
                record: identity,
                ops: Vec::new(),
                prepared: None,
                place: None,
                shows: 0,
            };
            return self.route_exact(&route, &mut publication, exact, Some(conn));
        }
        let mut deps = self.fan_out(&route, &mut publication, durable);
        self.fan_out_to_nodes(&route, &publication, durable, &mut deps);
        if entry.retain {
            deps.store |= self.retain(&mut publication, durable);
        }
        if let (Some(mapped), Some(identity)) = (&route.mapped, identity) {
            self.log_record(mapped, &route, identity, &mut publication, entry.retain, &mut deps);
        }
        let Some(id) = entry.packet_id else { return };
        if deps.nothing() {
            self.receipt_done(entry.receipt, id, conn);
            self.metrics.acks[route.level as usize].add_unshared(1);
            self.answer(conn, publish_answer(publication.qos, id));
            return;
        }
        let index = conn.owe(publish_answer(publication.qos, id));
        let kind = Continuation::Publish {
            conn: Rc::clone(conn),
            index,
            receipt: entry.receipt.map(|session| (session, id)),
            at: self.now().boot,
            level: route.level as u8,
        };
        self.attach(deps, kind);
    }

    /// Makes the pending ack for what a publish needs and hands out its tokens.
    pub(super) fn attach(&self, deps: AckDependencies, kind: Continuation) {
        if deps.log.is_some()
            && let Some(conn) = kind.publisher()
        {
            conn.log_waits.set(conn.log_waits.get() + 1);
        }
        let pending = self.pend(deps.store, deps.log.is_some(), deps.others(), kind);
        let mut effects = self.effects.borrow_mut();
        if deps.store {
            effects.tokens.push(self.token(AckSource::Store, pending));
        }
        if let Some(at) = deps.log
            && let Some(work) = effects.log.get_mut(at)
        {
            work.token = Some(self.token(AckSource::Log, pending));
        }
        for to in deps.peers {
            effects.peer(to).tokens.push(self.token(AckSource::Peer, pending));
        }
        drop(effects);
        self.wait_for_late(&deps.late, pending);
        for slot in deps.arriving {
            self.wait_for_arrival(slot, self.token(AckSource::Peer, pending));
        }
    }

    /// A wait goes on only when other workers have what they get of this.
    pub(super) fn wait_for_late(&self, workers: &[u16], pending: (u32, u32)) {
        let mut effects = self.effects.borrow_mut();
        for worker in workers {
            let token = self.token(AckSource::Peer, pending);
            effects.remote(usize::from(*worker)).late.push(token);
        }
    }

    fn route_internal(&self, origin: &Origin, message: &Arc<Message>, ops: Vec<StoreOp>) {
        let route = self.route(&message.topic);
        let own = matches!(origin, Origin::Node);
        let durable = !own && route.level != AckLevel::Accepted;
        let mut publication =
            Publication::new(&message.topic, &message.payload, message.qos, durable);
        publication.stream.router = self.index;
        publication.shared_topic = Some(&message.topic);
        let identity = match origin {
            // No epoch and number of the message, which nobody has counted for a will that was found in the store. The
            // number of its connection is given once, and the same will has it when it fires again after a crash.
            Origin::Will(client_id, connection)
                if route.mapped.is_some() && !self.has_no_place(&route, client_id) =>
            {
                Some((Arc::clone(client_id), 0, *connection))
            }
            _ => None,
        };
        // Its connection is over and its row is about to end: nobody else sends it again.
        publication.must_last = durable;
        if publication.held() {
            let exact = Exact {
                message: Arc::clone(message),
                retain: message.retain,
                publisher: match origin {
                    Origin::Will(client_id, _) => Arc::clone(client_id),
                    Origin::Client(_) | Origin::Node => Arc::default(),
                },
                packet_id: PacketId::MIN,
                receipt: None,
                persistent: false,
                level: route.level as u8,
                at: self.now().boot,
                record: identity,
                ops,
                prepared: None,
                place: None,
                shows: 0,
            };
            return self.route_exact(&route, &mut publication, exact, None);
        }
        let mut deps = self.fan_out(&route, &mut publication, durable);
        if !own {
            self.fan_out_to_nodes(&route, &publication, durable, &mut deps);
        }
        if message.retain {
            deps.store |= self.retain(&mut publication, durable);
        }
        if let (Some(mapped), Some(identity)) = (&route.mapped, identity) {
            self.log_record(mapped, &route, identity, &mut publication, message.retain, &mut deps);
        }
        if deps.log.is_some() || durable && deps.others() > 0 {
            // The row ends only when the log and the others have what belongs to it.
            self.attach(deps, Continuation::Then(ops));
        } else {
            // What it causes is in the same write, or waits for nothing.
            self.effects.borrow_mut().ops.extend(ops);
        }
    }

    /// Subscribers here and on other workers. True in `store`: queue entries are being written.
    pub(super) fn fan_out(
        &self,
        route: &Route,
        publication: &mut Publication<'_>,
        durable: bool,
    ) -> AckDependencies {
        let held = publication.held();
        let recipients = if held { Recipients::Queues } else { Recipients::All };
        let queues = publication.qos != QoS::AtMostOnce;
        let mut deps = AckDependencies {
            store: durable && queues && route.local_queues,
            ..AckDependencies::default()
        };
        if !held || route.local_queues {
            for (slot, granted) in &route.local {
                self.deliver(*slot, *granted, recipients, publication);
            }
            deps.arriving = std::mem::take(&mut self.effects.borrow_mut().buffered);
        }
        if !route.remote.is_empty() {
            let mut effects = self.effects.borrow_mut();
            for remote in &route.remote {
                let stored = queues && remote.queues;
                if held && !stored {
                    continue;
                }
                let at = usize::from(remote.worker);
                effects.remote(at).push(publication, durable, recipients);
                if durable && stored {
                    effects.joined[at] = true;
                    deps.store = true;
                    if remote.in_handover {
                        deps.late.push(remote.worker);
                    }
                }
            }
        }
        deps
    }

    /// The live subscribers of this node.
    pub(super) fn deliver_live(&self, route: &Route, publication: &mut Publication<'_>) {
        for (slot, granted) in &route.local {
            self.deliver(*slot, *granted, Recipients::Live, publication);
        }
        let mut effects = self.effects.borrow_mut();
        for remote in &route.remote {
            let at = usize::from(remote.worker);
            effects.remote(at).push(publication, true, Recipients::Live);
        }
        drop(effects);
        self.shows_retained(route, publication);
    }

    /// Publishes of another worker for the subscribers here.
    pub fn route_remote(&self, batch: &mut RemoteBatch, before_each: impl Fn()) -> u64 {
        // Their queue entries are one part of a transaction: nothing else is written with them, and
        // what is made of it stays with the batch until it is whole, also when this panics.
        self.flush();
        let interrupted = self.remote_half_done.replace(true);
        let first = batch.done;
        while let Some((entry, topic, payload)) = batch.get(batch.done) {
            before_each();
            let step = begin_step(&self.effects);
            let route = self.route(topic);
            let mut publication = Publication::new(topic, payload, entry.qos, entry.durable);
            publication.shared_topic = Some(&route.topic);
            (publication.stream, publication.orphan, publication.coming) =
                (entry.stream, entry.orphan, entry.coming);
            publication.batch = entry.batch;
            for (slot, granted) in &route.local {
                self.deliver(*slot, *granted, entry.recipients, &mut publication);
            }
            step.keep();
            self.reaches_retained(topic, entry.shows);
            if let Some(coming) = entry.coming {
                self.note_prepared(coming, entry.stream, entry.orphan);
                if !coming.resent {
                    self.note_handled(coming.id, coming.low_watermark);
                }
            }
            let mut effects = self.effects.borrow_mut();
            batch.ops.append(&mut effects.ops);
            batch.tokens.append(&mut effects.tokens);
            let buffered = std::mem::take(&mut effects.buffered);
            buffered.into_iter().for_each(|slot| batch.buffer(slot));
            batch.done += 1;
        }
        let mut effects = self.effects.borrow_mut();
        effects.ops.append(&mut batch.ops);
        effects.tokens.append(&mut batch.tokens);
        effects.transaction = batch.transaction.take();
        drop(effects);
        self.flush();
        self.wait_for_arrivals(&batch.buffered, batch.late.drain(..));
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
            self.wake(conn);
        }
    }
}

fn publish_answer(qos: QoS, id: PacketId) -> AckKind {
    if qos == QoS::ExactlyOnce { AckKind::Pubrec(id) } else { AckKind::Puback(id) }
}
