//! From a publish to the sessions of this node and to other nodes (`actors/src/shard/{publish,deliver}.rs`).

use std::collections::BTreeMap;
use std::mem;
use std::sync::Arc;

use bytes::Bytes;

use super::super::store::{Entry, Message, Op};
use super::super::{Mistake, decode, encode};
use super::{ANY_ESTATE, Node, PeerWork, Publish, RouterWork, Token, WaitKind};
use crate::cluster::marks::Whose;
use crate::cluster::message;

/// Batches to several nodes of what was published at once have one number but for these bits: by that
/// a session knows all of them.
pub(super) const NODE_BITS: u32 = 8;

/// What a handler has decided, until it is flushed.
#[derive(Default)]
pub(super) struct Outgoing {
    pub ops: Vec<Op>,
    pub tokens: Vec<Token>,
    /// To other lanes, and what waits for them beside the store.
    remote: BTreeMap<u16, (Vec<Publish>, Vec<Token>)>,
    peers: BTreeMap<usize, (Vec<u8>, Vec<Token>)>,
    pub aside: Vec<u32>,
    pub transaction: Option<(u64, usize)>,
    /// Of what this node's publishers have sent; 0: nothing.
    group: u64,
    pub pump: Vec<u32>,
}

#[derive(Default)]
struct Needs {
    store: bool,
    peers: Vec<usize>,
    arriving: Vec<u32>,
    late: Vec<u16>,
}

impl Needs {
    fn count(&self) -> usize {
        usize::from(self.store) + self.peers.len() + self.arriving.len() + self.late.len()
    }
}

impl Node {
    pub(super) fn flush(&mut self, shard: u16, out: &mut Outgoing) {
        let remote = mem::take(&mut out.remote);
        let joined = remote.values().filter(|(items, _)| !items.is_empty()).count();
        let transaction = out.transaction.take();
        let ours = transaction.is_none() && joined > 0;
        let transaction = if ours { Some((self.number(), joined + 1)) } else { transaction };
        self.store(mem::take(&mut out.ops), mem::take(&mut out.tokens), transaction);
        for (at, (items, late)) in remote {
            let transaction = if items.is_empty() { None } else { transaction.map(|(id, _)| id) };
            self.shard(at).router.push_back(RouterWork::Deliver { items, late, transaction });
        }
        let group = mem::take(&mut out.group);
        for (node, (body, tokens)) in mem::take(&mut out.peers) {
            self.work.push_back(PeerWork::Publishes { node, group, body, tokens });
        }
        for slot in mem::take(&mut out.pump) {
            self.pump(shard, slot);
        }
    }

    /// Makes a wait; the token has to come as often as there are parts.
    pub(super) fn wait(&mut self, shard: u16, parts: usize, kind: WaitKind) -> Token {
        let wait = self.number();
        self.shard(shard).waits.insert(wait, (parts, kind));
        (shard, wait)
    }

    pub(super) fn route_client(&mut self, shard: u16, message: Message, out: &mut Outgoing) {
        let lane = (self.index as u16, shard);
        if out.group == 0 {
            out.group = self.number();
        }
        let batch = Some((self.incarnation, out.group));
        let publish = Publish { message, lane, estate: 0, batch };
        let mut needs = self.fan_out(shard, publish, out);
        let topic = topic(message.topic);
        for (node, peer) in &self.peers {
            let passed = &self.shards[usize::from(shard)].passed;
            let is_heirs = peer.anew.is_none() && passed.contains(&peer.whole);
            if is_heirs || !peer.wanted.contains(topic) {
                continue;
            }
            let (body, _) = out.peers.entry(*node).or_default();
            if body.is_empty() {
                message::begin(body, 0, shard, 0);
            }
            encode(body, &message);
            needs.peers.push(*node);
        }
        if needs.count() == 0 {
            return self.tell_client(super::Effect::Acknowledge(message));
        }
        let token = self.wait(shard, needs.count(), WaitKind::Publish(message));
        self.attach(shard, needs, token, out);
    }

    fn attach(&mut self, shard: u16, needs: Needs, token: Token, out: &mut Outgoing) {
        if needs.store {
            out.tokens.push(token);
        }
        for node in needs.peers {
            out.peers.entry(node).or_default().1.push(token);
        }
        for at in needs.late {
            out.remote.entry(at).or_default().1.push(token);
        }
        for slot in needs.arriving {
            self.wait_for_arrival(shard, slot, token, out);
        }
    }

    fn fan_out(&mut self, shard: u16, publish: Publish, out: &mut Outgoing) -> Needs {
        let mut needs = Needs::default();
        let topic = topic(publish.message.topic);
        for slot in self.matching(shard, topic) {
            needs.store = true;
            self.deliver(shard, slot, publish, out);
        }
        needs.arriving = mem::take(&mut out.aside);
        for at in (0..self.lanes()).filter(|at| *at != shard) {
            let slots = self.matching(at, topic);
            if slots.is_empty() {
                continue;
            }
            needs.store = true;
            out.remote.entry(at).or_default().0.push(publish);
            if slots.iter().any(|slot| self.moving.contains(&(at, *slot))) {
                needs.late.push(at);
            }
        }
        needs
    }

    fn matching(&self, shard: u16, topic: &str) -> Vec<u32> {
        let sessions = self.shards[usize::from(shard)].sessions.iter();
        let matching = sessions.filter(|(_, s)| s.filters.iter().any(|filter| **filter == *topic));
        matching.map(|(slot, _)| *slot).collect()
    }

    fn deliver(&mut self, shard: u16, slot: u32, publish: Publish, out: &mut Outgoing) {
        let mistake = self.mistake;
        // Of its own earlier starts, not of whatever else it has inherited since.
        let earlier = self.heirs.goes_on_with(publish.estate);
        let shard = self.shard(shard);
        let Some(session) = shard.sessions.get_mut(&slot) else { return };
        if publish.estate != 0
            && session.estate != publish.estate
            && !(earlier && session.estate == ANY_ESTATE)
        {
            return;
        }
        // The lost node had stored it, and its answer was lost.
        let stored =
            publish.estate != 0 && publish.batch.is_some_and(|it| session.batches.contains(&it));
        if stored && mistake != Mistake::HeirDoubles {
            return;
        }
        if let Some(moving) = &mut session.moving {
            let again = publish.estate != 0;
            let marked = |heir: u64| shard.estates.get(&heir).is_none_or(|it| it.has(publish.lane));
            let whose = if mistake == Mistake::NoMarks {
                if moving.transit.absent { Whose::OursSoon } else { Whose::Ours }
            } else if !again && !moving.heir.is_none_or(marked) {
                Whose::NotOurs
            } else {
                moving.transit.whose(publish.lane)
            };
            match whose {
                Whose::Ours => {}
                Whose::NotOurs => return,
                Whose::OursSoon | Whose::Takers => {
                    moving.early.push((publish.message, publish.batch));
                    if !out.aside.contains(&slot) {
                        out.aside.push(slot);
                    }
                    return;
                }
            }
        }
        session.put_queued(slot, publish.message, publish.batch, out);
    }

    pub(super) fn run_router(&mut self, shard: u16, most: usize) {
        let mut out = Outgoing::default();
        for _ in 0..most {
            let Some(work) = self.shard(shard).router.pop_front() else { break };
            if let RouterWork::Publish(message) = work {
                if self.shard(shard).held_up > 0 {
                    self.shard(shard).held.push(message);
                    continue;
                }
                self.route_client(shard, message, &mut out);
                continue;
            }
            self.flush(shard, &mut out);
            let work = match work {
                RouterWork::Behind(_) if shard + 1 < self.lanes() => {
                    self.shard(shard + 1).router.push_back(work);
                    continue;
                }
                RouterWork::Behind(work) => *work,
                work => work,
            };
            match work {
                RouterWork::Publish(_) | RouterWork::Behind(_) => {}
                RouterWork::FromPeer { node, incarnation, body } => {
                    self.route_peer(shard, node, incarnation, &body, &mut out);
                }
                RouterWork::Deliver { items, late, transaction } => {
                    self.route_remote(shard, items, late, transaction, &mut out);
                }
                RouterWork::Expect { id, client, filters } => {
                    self.expect(shard, id, &client, &filters, &mut out);
                }
                RouterWork::Forget { client } => self.forget_expected(shard, &client, &mut out),
                RouterWork::Barrier(barrier) => self.pass(shard, barrier),
                RouterWork::Mark { id, client, lane, lanes } => {
                    self.send_mark(shard, id, client, lane, lanes);
                }
                RouterWork::Marked { id, client, lane, lanes } => {
                    self.lane_marks(shard, id, &client, lane, lanes);
                }
                RouterWork::Resent { incarnation, lane, lanes } => {
                    if lane == (self.index as u16, shard) {
                        let its = self.shard(shard);
                        its.held_up -= 1;
                        let held =
                            if its.held_up == 0 { mem::take(&mut its.held) } else { Vec::new() };
                        held.into_iter().rev().for_each(|message| {
                            its.router.push_front(RouterWork::Publish(message));
                        });
                    }
                    for at in (0..self.lanes()).filter(|at| *at != shard) {
                        let here = RouterWork::ResentHere { incarnation, lane, lanes };
                        self.shard(at).router.push_back(here);
                    }
                    self.resent_here(shard, incarnation, lane, lanes);
                }
                RouterWork::ResentHere { incarnation, lane, lanes } => {
                    self.resent_here(shard, incarnation, lane, lanes);
                }
            }
            self.flush(shard, &mut out);
        }
        self.flush(shard, &mut out);
    }

    fn route_peer(
        &mut self,
        shard: u16,
        node: usize,
        incarnation: u64,
        body: &Bytes,
        out: &mut Outgoing,
    ) {
        let Some((number, lane, estate, publishes)) = message::publishes(body) else { return };
        let mut all = Needs::default();
        for publish in publishes {
            let (message, lane) = (decode(&publish), (node as u16, lane));
            let batch = Some((incarnation, number >> NODE_BITS));
            let needs = self.fan_out(shard, Publish { message, lane, estate, batch }, out);
            all.store |= needs.store;
            all.arriving.extend(needs.arriving);
            all.late.extend(needs.late);
        }
        all.arriving.sort_unstable();
        all.arriving.dedup();
        all.late.sort_unstable();
        all.late.dedup();
        if all.count() == 0 {
            self.work.push_back(PeerWork::Stored { node, incarnation, batch: number });
        } else {
            let kind = WaitKind::Peer { node, incarnation, batch: number };
            let token = self.wait(shard, all.count(), kind);
            self.attach(shard, all, token, out);
        }
        self.flush(shard, out);
        self.work.push_back(PeerWork::Consumed { node, incarnation, bytes: body.len() as u64 });
    }

    fn route_remote(
        &mut self,
        shard: u16,
        items: Vec<Publish>,
        late: Vec<Token>,
        transaction: Option<u64>,
        out: &mut Outgoing,
    ) {
        for publish in items {
            for slot in self.matching(shard, topic(publish.message.topic)) {
                self.deliver(shard, slot, publish, out);
            }
        }
        let mut aside = mem::take(&mut out.aside);
        aside.dedup();
        out.transaction = transaction.map(|id| (id, 0));
        self.flush(shard, out);
        for token in late {
            if aside.is_empty() {
                self.complete([token]);
                continue;
            }
            let wait = self.wait(shard, aside.len(), WaitKind::Forward(token));
            for slot in &aside {
                self.wait_for_arrival(shard, *slot, wait, out);
            }
        }
    }
}

pub(super) fn topic(number: u8) -> &'static str {
    ["t0", "t1", "t2"][usize::from(number)]
}

impl super::Session {
    /// What was put aside, or has just come.
    pub(super) fn put_queued(
        &mut self,
        slot: u32,
        message: Message,
        batch: Option<super::Batch>,
        out: &mut Outgoing,
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
