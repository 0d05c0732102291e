//! From a publish to the sessions of this node and to other nodes (`engine/src/worker/{publish,deliver}.rs`).

use std::collections::BTreeMap;
use std::mem;
use std::sync::Arc;

use bytes::Bytes;

use super::super::store::{Entry, Message, Op};
use super::super::{Mistake, decode, encode};
use super::{CompletionToken, Continuation, EARLIER_STARTS, Node, PeerWork, Publish, RouterWork};
use crate::cluster::message;
use crate::cluster::stream_marker::{PublishStream, Whose};

/// Batches to several nodes of what was published at once have one number but for these bits: by that
/// a session knows all of them.
pub(super) const NODE_BITS: u32 = 8;

/// What a handler has decided, until it is flushed.
#[derive(Default)]
pub(super) struct Effects {
    pub ops: Vec<Op>,
    pub tokens: Vec<CompletionToken>,
    /// To other workers, and what waits for them beside the store.
    remote: BTreeMap<u16, (Vec<Publish>, Vec<CompletionToken>)>,
    peers: BTreeMap<usize, (Vec<u8>, Vec<CompletionToken>)>,
    pub buffered: Vec<u32>,
    pub transaction: Option<(u64, usize)>,
    /// Of what this node's publishers have sent; 0: nothing.
    group: u64,
    pub pump: Vec<u32>,
}

#[derive(Default)]
struct AckDependencies {
    store: bool,
    peers: Vec<usize>,
    arriving: Vec<u32>,
    late: Vec<u16>,
}

impl AckDependencies {
    fn count(&self) -> usize {
        usize::from(self.store) + self.peers.len() + self.arriving.len() + self.late.len()
    }
}

impl Node {
    pub(super) fn flush(&mut self, worker: u16, out: &mut Effects) {
        let remote = mem::take(&mut out.remote);
        let joined = remote.values().filter(|(items, _)| !items.is_empty()).count();
        let transaction = out.transaction.take();
        let ours = transaction.is_none() && joined > 0;
        let transaction = if ours { Some((self.number(), joined + 1)) } else { transaction };
        self.store(mem::take(&mut out.ops), mem::take(&mut out.tokens), transaction);
        for (at, (items, late)) in remote {
            let transaction = if items.is_empty() { None } else { transaction.map(|(id, _)| id) };
            self.worker(at).router.push_back(RouterWork::Deliver { items, late, transaction });
        }
        let group = mem::take(&mut out.group);
        for (node, (body, tokens)) in mem::take(&mut out.peers) {
            self.work.push_back(PeerWork::Publishes { node, group, body, tokens });
        }
        for slot in mem::take(&mut out.pump) {
            self.pump(worker, slot);
        }
    }

    /// Makes a pending ack; the token has to come as often as there are parts.
    pub(super) fn pend(
        &mut self,
        worker: u16,
        parts: usize,
        kind: Continuation,
    ) -> CompletionToken {
        let wait = self.number();
        self.worker(worker).pending_acks.insert(wait, (parts, kind));
        (worker, wait)
    }

    pub(super) fn route_client(&mut self, worker: u16, message: Message, out: &mut Effects) {
        let stream = PublishStream::new(self.index as u16, worker);
        if out.group == 0 {
            out.group = self.number();
        }
        let batch = Some((self.incarnation, out.group));
        let publish = Publish { message, stream, orphan: 0, batch };
        let mut deps = self.fan_out(worker, publish, out);
        let topic = topic(message.topic);
        for (node, peer) in &self.peers {
            let passed = &self.workers[usize::from(worker)].passed;
            let goes_to_successor = peer.anew.is_none() && passed.contains(&peer.whole);
            if goes_to_successor || !peer.wanted.contains(topic) {
                continue;
            }
            let (body, _) = out.peers.entry(*node).or_default();
            if body.is_empty() {
                message::begin(body, 0, worker, 0);
            }
            encode(body, &message);
            deps.peers.push(*node);
        }
        if deps.count() == 0 {
            return self.send_to_client(super::Effect::Acknowledge(message));
        }
        let token = self.pend(worker, deps.count(), Continuation::Publish(message));
        self.attach(worker, deps, token, out);
    }

    fn attach(
        &mut self,
        worker: u16,
        deps: AckDependencies,
        token: CompletionToken,
        out: &mut Effects,
    ) {
        if deps.store {
            out.tokens.push(token);
        }
        for node in deps.peers {
            out.peers.entry(node).or_default().1.push(token);
        }
        for at in deps.late {
            out.remote.entry(at).or_default().1.push(token);
        }
        for slot in deps.arriving {
            self.wait_for_arrival(worker, slot, token, out);
        }
    }

    fn fan_out(&mut self, worker: u16, publish: Publish, out: &mut Effects) -> AckDependencies {
        let mut deps = AckDependencies::default();
        let topic = topic(publish.message.topic);
        for slot in self.matching(worker, topic) {
            deps.store = true;
            self.deliver(worker, slot, publish, out);
        }
        deps.arriving = mem::take(&mut out.buffered);
        for at in (0..self.workers()).filter(|at| *at != worker) {
            let slots = self.matching(at, topic);
            if slots.is_empty() {
                continue;
            }
            deps.store = true;
            out.remote.entry(at).or_default().0.push(publish);
            if slots.iter().any(|slot| self.handover.contains(&(at, *slot))) {
                deps.late.push(at);
            }
        }
        deps
    }

    fn matching(&self, worker: u16, topic: &str) -> Vec<u32> {
        let sessions = self.workers[usize::from(worker)].sessions.iter();
        let matching = sessions.filter(|(_, s)| s.filters.iter().any(|filter| **filter == *topic));
        matching.map(|(slot, _)| *slot).collect()
    }

    fn deliver(&mut self, worker: u16, slot: u32, publish: Publish, out: &mut Effects) {
        let mistake = self.mistake;
        // Of its own earlier starts, not of whatever else it has taken over since.
        let earlier = self.successors.goes_on_with(publish.orphan);
        let worker = self.worker(worker);
        let Some(session) = worker.sessions.get_mut(&slot) else { return };
        if publish.orphan != 0
            && session.orphan != publish.orphan
            && !(earlier && session.orphan == EARLIER_STARTS)
        {
            return;
        }
        // The lost node had stored it, and its answer was lost.
        let stored =
            publish.orphan != 0 && publish.batch.is_some_and(|it| session.batches.contains(&it));
        if stored && mistake != Mistake::SuccessorDoubles {
            return;
        }
        if let Some(handover) = &mut session.handover {
            let again = publish.orphan != 0;
            let marked = |successor: u64| {
                worker.orphans.get(&successor).is_none_or(|it| it.has(publish.stream))
            };
            let whose = if mistake == Mistake::NoMarkers {
                if handover.transit.absent { Whose::OursSoon } else { Whose::Ours }
            } else if !again && !handover.successor.is_none_or(marked) {
                Whose::NotOurs
            } else {
                handover.transit.whose(publish.stream)
            };
            match whose {
                Whose::Ours => {}
                Whose::NotOurs => return,
                Whose::OursSoon | Whose::Targets => {
                    handover.buffered.push((publish.message, publish.batch));
                    if !out.buffered.contains(&slot) {
                        out.buffered.push(slot);
                    }
                    return;
                }
            }
        }
        session.put_queued(slot, publish.message, publish.batch, out);
    }

    pub(super) fn run_router(&mut self, worker: u16, most: usize) {
        let mut out = Effects::default();
        for _ in 0..most {
            let Some(work) = self.worker(worker).router.pop_front() else { break };
            if let RouterWork::Publish(message) = work {
                if self.worker(worker).held_up > 0 {
                    self.worker(worker).held.push(message);
                    continue;
                }
                self.route_client(worker, message, &mut out);
                continue;
            }
            self.flush(worker, &mut out);
            let work = match work {
                RouterWork::Behind(_) if worker + 1 < self.workers() => {
                    self.worker(worker + 1).router.push_back(work);
                    continue;
                }
                RouterWork::Behind(work) => *work,
                work => work,
            };
            match work {
                RouterWork::Publish(_) | RouterWork::Behind(_) => {}
                RouterWork::PeerBatch { node, incarnation, body } => {
                    self.route_peer(worker, node, incarnation, &body, &mut out);
                }
                RouterWork::Deliver { items, late, transaction } => {
                    self.route_remote(worker, items, late, transaction, &mut out);
                }
                RouterWork::Expect { id, client, filters } => {
                    self.expect(worker, id, &client, &filters, &mut out);
                }
                RouterWork::Forget { client } => self.forget_expected(worker, &client, &mut out),
                RouterWork::InsertMarker(marker) => self.pass_marker(worker, marker),
                RouterWork::ForwardMarker { id, client, stream, routers } => {
                    self.send_marker(worker, id, client, stream, routers);
                }
                RouterWork::MarkerArrived { id, client, stream, routers } => {
                    self.stream_marked(worker, id, &client, stream, routers);
                }
                RouterWork::Resent { incarnation, stream, routers } => {
                    if stream == PublishStream::new(self.index as u16, worker) {
                        let its = self.worker(worker);
                        its.held_up -= 1;
                        let held =
                            if its.held_up == 0 { mem::take(&mut its.held) } else { Vec::new() };
                        held.into_iter().rev().for_each(|message| {
                            its.router.push_front(RouterWork::Publish(message));
                        });
                    }
                    for at in (0..self.workers()).filter(|at| *at != worker) {
                        let here = RouterWork::ResentHere { incarnation, stream, routers };
                        self.worker(at).router.push_back(here);
                    }
                    self.resent_here(worker, incarnation, stream, routers);
                }
                RouterWork::ResentHere { incarnation, stream, routers } => {
                    self.resent_here(worker, incarnation, stream, routers);
                }
            }
            self.flush(worker, &mut out);
        }
        self.flush(worker, &mut out);
    }

    fn route_peer(
        &mut self,
        worker: u16,
        node: usize,
        incarnation: u64,
        body: &Bytes,
        out: &mut Effects,
    ) {
        let Some((number, router, orphan, publishes)) = message::publishes(body) else { return };
        let mut all = AckDependencies::default();
        for publish in publishes {
            let message = decode(&publish);
            let stream = PublishStream::new(node as u16, router);
            let batch = Some((incarnation, number >> NODE_BITS));
            let deps = self.fan_out(worker, Publish { message, stream, orphan, batch }, out);
            all.store |= deps.store;
            all.arriving.extend(deps.arriving);
            all.late.extend(deps.late);
        }
        all.arriving.sort_unstable();
        all.arriving.dedup();
        all.late.sort_unstable();
        all.late.dedup();
        if all.count() == 0 {
            self.work.push_back(PeerWork::Stored { node, incarnation, batch: number });
        } else {
            let kind = Continuation::Peer { node, incarnation, batch: number };
            let token = self.pend(worker, all.count(), kind);
            self.attach(worker, all, token, out);
        }
        self.flush(worker, out);
        self.work.push_back(PeerWork::Consumed { node, incarnation, bytes: body.len() as u64 });
    }

    fn route_remote(
        &mut self,
        worker: u16,
        items: Vec<Publish>,
        late: Vec<CompletionToken>,
        transaction: Option<u64>,
        out: &mut Effects,
    ) {
        for publish in items {
            for slot in self.matching(worker, topic(publish.message.topic)) {
                self.deliver(worker, slot, publish, out);
            }
        }
        let mut buffered = mem::take(&mut out.buffered);
        buffered.dedup();
        out.transaction = transaction.map(|id| (id, 0));
        self.flush(worker, out);
        for token in late {
            if buffered.is_empty() {
                self.complete([token]);
                continue;
            }
            let pending = self.pend(worker, buffered.len(), Continuation::Forward(token));
            for slot in &buffered {
                self.wait_for_arrival(worker, *slot, pending, out);
            }
        }
    }
}

pub(super) fn topic(number: u8) -> &'static str {
    ["t0", "t1", "t2"][usize::from(number)]
}

impl super::Session {
    /// What was buffered, or has just come.
    pub(super) fn put_queued(
        &mut self,
        slot: u32,
        message: Message,
        batch: Option<super::Batch>,
        out: &mut Effects,
    ) {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        let entry = Entry { message, batch };
        out.ops.push(Op::PutQueued { id: self.id, sequence, entry });
        if self.connection.is_some() && !out.pump.contains(&slot) {
            out.pump.push(slot);
        }
    }
}

/// Filters as the control messages have them: with the QoS that is granted.
pub(super) fn granted(filters: &[Arc<str>]) -> Vec<(Arc<str>, u8)> {
    filters.iter().map(|filter| (Arc::clone(filter), 2)).collect()
}
