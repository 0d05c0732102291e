//! Who has what a lost incarnation held, and what was sent to it and not stored: that goes to its successor,
//! marked by every router of every node behind it.
//!
//! Until a router has marked it, what it publishes for a session of the lost one is kept for that one and sent
//! again, whoever else it goes to: the successor takes it from there, and not what comes for its other subscribers.
//! Behind its marker the successor takes what comes, and nothing is kept. The successor's own routers publish nothing
//! in between. A start that goes on with its own earlier ones is a successor in the same way (decision 0015).
//!
//! Bounds: the last [`REMEMBERED`] incarnations.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use hydrant_protocol::cluster::message::{self, Control, Interest, TakenOver};
use hydrant_protocol::cluster::stream_marker::{ALL_STREAMS, MarkedStreams, PublishStream};
use smallvec::SmallVec;

use super::coordinator::Coordinator;
use super::node_index::SELF;
use super::state::failover::{Own, REMEMBERED, Successor, others};
use super::state::link::{Pending, Prepared};
use super::{NodeIndex, Recipient};
use crate::messages::{
    CompletionToken, InboundPeerBatch, ManagerWork, MarkerReason, RouterWork, StreamMarker,
};
use crate::ports::SealedIncarnation;

impl Coordinator {
    /// What a lost incarnation held is in force here, with what it had taken over itself: everybody is told,
    /// behind what this node wants since.
    pub(super) fn taken_over(
        &mut self,
        orphan: u64,
        mut incarnations: Vec<SealedIncarnation>,
        clients: &[Arc<str>],
    ) {
        for client in clients {
            self.handovers.taken_over(client);
            self.directory.holds(client, false);
        }
        self.is_sure_again(clients);
        self.announce(None);
        self.act();
        // The markers of the last one are the ones that count: they come behind everything else.
        incarnations.sort_by_key(|of| (of.number == orphan, of.number));
        let workers = self.workers;
        let there = self.links.iter().filter(|link| link.is_there()).map(|link| link.index);
        let nodes: Vec<NodeIndex> = there.chain([SELF]).collect();
        for of in incarnations {
            let (incarnation, lineage) = (of.number, of.lineage);
            let each = nodes.iter().flat_map(|node| (0..workers).map(|worker| (worker, *node)));
            let awaited = if incarnation == orphan { each.collect() } else { BTreeSet::new() };
            self.successors.has(of, orphan, awaited);
            for link in self.links.iter_mut().filter(|link| link.is_there()) {
                link.send_control(Control::TakenOver { incarnation, orphan, lineage });
            }
            self.have_successor(TakenOver { incarnation, orphan, lineage }, SELF);
            if !self.cluster.is_begun(incarnation) {
                self.finished(incarnation);
            }
        }
    }

    /// The members are known: their markers for what this start goes on with are awaited. They may keep what they
    /// published for the earlier starts; whoever comes later does not.
    pub(super) fn await_first_markers(&mut self) {
        let Some(last) = self.successors.unawaited.take() else { return };
        let workers = self.workers;
        let there = self.links.iter().filter(|link| link.is_there()).map(|link| link.index);
        let awaited: BTreeSet<(u16, NodeIndex)> =
            there.flat_map(|node| (0..workers).map(move |worker| (worker, node))).collect();
        if awaited.is_empty() {
            return self.all_resent(last);
        }
        let own = self.successors.own.iter_mut().find(|own| own.incarnation == last);
        if let Some(own) = own {
            (own.unsaid, own.awaited) = (others(&awaited), awaited);
        }
    }

    /// A node that greets has taken these over. Of an orphaned state for which this node keeps nothing, its routers
    /// have nothing to send again: they mark it at once, before they publish anything there.
    pub(super) fn mark_unknown(
        &mut self,
        node: NodeIndex,
        taken_over: &[TakenOver],
        settled: bool,
    ) {
        let Some(by) = self.incarnation_of(node) else { return };
        for first in taken_over {
            let its = taken_over.iter().filter(|other| other.orphan == first.orphan);
            let kept: BTreeSet<u64> =
                its.flat_map(|it| self.wants.of(it.lineage)).filter(|it| *it != by).collect();
            // One that awaits no markers takes what was only found in the store, for all its sessions.
            let found = |incarnation: &u64| self.wants.is_found(*incarnation);
            let keeps = kept.iter().any(|incarnation| !settled || !found(incarnation));
            if !keeps {
                let to = Recipient { node, incarnation: by };
                kept.into_iter().for_each(|incarnation| self.rename(incarnation, to));
            }
            let TakenOver { incarnation, orphan, .. } = *first;
            if keeps || self.successors.find(incarnation).is_some_and(|known| known.by == by) {
                continue;
            }
            self.directory.taken_over(incarnation);
            self.is_over_now(incarnation);
            let mut marked = MarkedStreams::new(incarnation);
            marked.mark_all();
            self.successors.put(Successor { incarnation, orphan, node, by, marked, resent: true });
            if let Some(link) = self.link(node) {
                link.send_control(Control::Resent { incarnation, router: (ALL_STREAMS, 1) });
                link.answer_again();
            }
        }
        self.go_on_with_handovers();
    }

    /// Somebody has what a lost incarnation held: nobody waits for it.
    pub(super) fn is_over_now(&mut self, incarnation: u64) {
        self.lost.remove(&incarnation);
        if self.undecided.remove(&incarnation) {
            self.look_who_is_there();
        }
    }

    /// Sessions on their way for which nothing has to be sent again any more.
    fn go_on_with_handovers(&mut self) {
        for (target, message) in std::mem::take(&mut self.deferred_announcements) {
            self.announced(target, message);
        }
    }

    /// What was kept for an incarnation that this node has never met is for the start that has its sessions.
    fn rename(&mut self, from: u64, to: Recipient) {
        let Some((recipient, filters)) = self.wants.remove(from) else { return };
        let queues = |(filter, _): &(Arc<str>, Interest)| (Arc::clone(filter), Interest::Queues);
        self.wants.change(to, &filters.iter().map(queues).collect::<Vec<_>>());
        // In one step: a publish is for one of the two.
        let mut remote = self.cluster.remote.write();
        for (filter, _) in &filters {
            remote.set(to, filter, Interest::Queues);
            remote.set(recipient, filter, Interest::None);
        }
        remote.forget(from);
        drop(remote);
        self.shared.generations.all_changed();
        let its = |_: &u64, pending: &mut Pending| pending.incarnation == from;
        let kept: Vec<(u64, Pending)> =
            self.links.iter_mut().flat_map(|link| link.pending.extract_if(.., its)).collect();
        if let Some(link) = self.link(to.node) {
            let kept = kept.into_iter().map(|(number, pending)| {
                (number, Pending { incarnation: to.incarnation, sent: false, ..pending })
            });
            link.pending.extend(kept);
        }
        // What routers have published before they know it.
        self.renamed.retain(|(known, _)| *known != from);
        self.renamed.push((from, to));
        self.renamed.drain(..self.renamed.len().saturating_sub(REMEMBERED));
    }

    /// A node has what a lost incarnation held, and those before it of the same lineage.
    pub(super) fn have_successor(&mut self, of: TakenOver, node: NodeIndex) {
        let TakenOver { incarnation, orphan, lineage } = of;
        // One that this node met, and whose own next start it did not.
        let by = self.incarnation_of(node);
        // Who has the first of a lineage has all of it. The markers of the one that names the orphaned state come last.
        let before = self.wants.before(lineage, by.unwrap_or(incarnation));
        for before in before.into_iter().filter(|before| *before != orphan) {
            self.directory.taken_over(before);
            self.has_successor(before, orphan, node);
        }
        self.directory.taken_over(incarnation);
        self.has_successor(incarnation, orphan, node);
    }

    /// A node has what a lost incarnation held. Each router sends again what it had for it.
    pub(super) fn has_successor(&mut self, incarnation: u64, orphan: u64, node: NodeIndex) {
        self.show_successor(incarnation, node);
        self.is_over_now(incarnation);
        let Some(by) = self.incarnation_of(node) else { return };
        // Said again on every new connection.
        if self
            .successors
            .find(incarnation)
            .is_some_and(|known| (known.node, known.by) == (node, by))
        {
            return;
        }
        let marked = MarkedStreams::new(incarnation);
        self.successors.put(Successor { incarnation, orphan, node, by, marked, resent: false });
        let reason = MarkerReason::Successor { incarnation, successor: node };
        self.insert_markers(StreamMarker { reason, to: SmallVec::new() });
        // The last retained messages of the lost node may have come to some nodes only. It stores no more of them.
        self.refresh.again = true;
        self.refresh_retained();
    }

    /// Every prepared publish of an incarnation that this node has taken over is everywhere.
    pub(super) fn finished(&mut self, incarnation: u64) {
        for link in self.links.iter_mut().filter(|link| link.is_there()) {
            link.send_control(Control::Finished { incarnation });
        }
        self.forget_all_batches(incarnation);
    }

    /// Says so of all that are finished, to a node that may not have heard it.
    pub(super) fn send_finished(&mut self, node: NodeIndex) {
        let own = self.successors.own.iter().map(|own| own.incarnation);
        let finished: Vec<u64> = own.filter(|own| !self.cluster.is_begun(*own)).collect();
        if let Some(link) = self.link(node) {
            finished
                .into_iter()
                .for_each(|incarnation| link.send_control(Control::Finished { incarnation }));
        }
    }

    /// Whether all that this node had for a lost incarnation is sent to its successor.
    pub(super) fn is_resent(&self, incarnation: u64) -> bool {
        // Of those before it this start has sent nothing anywhere.
        self.cluster.continues(incarnation)
            || self.successors.find(incarnation).is_some_and(|successor| successor.resent)
    }

    /// Whether another has what this incarnation held: it is over, whatever it still says.
    pub(super) fn is_over(&self, incarnation: u64) -> bool {
        self.successors.is_over(incarnation)
    }

    /// A router has passed: what it published for a lost incarnation before goes to the successor, and its
    /// marker behind that.
    pub(super) fn resend(&mut self, incarnation: u64, successor: NodeIndex, router: (u16, u16)) {
        self.send_on(incarnation, |of| of == router.0);
        if successor == SELF {
            self.resent(SELF, incarnation, router);
        } else if let Some(link) = self.link(successor) {
            link.send_control(Control::Resent { incarnation, router });
        }
        let known = self.successors.known.iter_mut().find(|known| known.incarnation == incarnation);
        let Some(known) = known.filter(|known| known.node == successor) else { return };
        known.resent |= known.marked.mark(PublishStream::new(SELF, router.0), router.1);
        if !known.resent {
            return;
        }
        // Its successor has announced it, and every router sends there.
        self.wants_nothing(incarnation);
        self.go_on_with_handovers();
    }

    /// Whether a batch for a lost incarnation was published behind its router's marker: its successor has it.
    pub(super) fn is_behind_marker(&self, incarnation: u64, body: &[u8]) -> bool {
        let Some(successor) = self.successors.find(incarnation) else { return false };
        let router = message::publishes(body).map_or(0, |(_, router, ..)| router);
        successor.marked.has(PublishStream::new(SELF, router))
    }

    /// Sends what is kept for a lost incarnation, of some routers, to its successor; oldest first, under the
    /// numbers it had.
    fn send_on(&mut self, incarnation: u64, of: impl Fn(u16) -> bool) {
        let Some((successor, by, orphan)) = self.successors.last(incarnation) else { return };
        let its = |_: &u64, it: &mut Prepared| it.incarnation == incarnation && of(it.router);
        let prepared: Vec<(u64, Prepared)> =
            self.links.iter_mut().flat_map(|link| link.prepared.extract_if(.., its)).collect();
        let prepared =
            prepared.into_iter().map(|(batch, it)| (batch, Prepared { incarnation: by, ..it }));
        if successor == SELF {
            self.own_prepared.extend(prepared);
        } else if let Some(link) = self.link(successor) {
            link.prepared.extend(prepared);
            link.answer_again();
        }
        let mut open: Vec<(u64, Bytes, Vec<CompletionToken>)> = Vec::new();
        let mut answered = Vec::new();
        for link in &mut self.links {
            let its = |_: &u64, pending: &mut Pending| {
                let router = pending.body.as_deref().and_then(message::publishes);
                pending.incarnation == incarnation
                    && router.is_none_or(|(_, router, ..)| of(router))
            };
            for (number, pending) in link.pending.extract_if(.., its) {
                match pending.body {
                    Some(body) => open.push((number, body, pending.tokens)),
                    None => answered.extend(pending.tokens),
                }
            }
        }
        self.complete(answered);
        open.sort_unstable_by_key(|(number, ..)| *number);
        for (number, body, tokens) in open {
            let router = message::publishes(&body).map_or(0, |(_, router, ..)| router);
            let mut body = body.to_vec();
            message::set_head(&mut body, number, orphan);
            let body: Bytes = body.into();
            if successor == SELF {
                self.own.insert(number, tokens);
                let bytes = body.len();
                let work = InboundPeerBatch::new(SELF, self.cluster.incarnation, body);
                self.effects.router(self.router_of(router), RouterWork::PeerBatch(work), bytes);
            } else if let Some(link) = self.link(successor) {
                let (kept, incarnation) = (Some(body.clone()), by);
                let sent = link.link.peer_incarnation() == Some(by);
                link.pending.insert(number, Pending { body: kept, tokens, incarnation, sent });
                if sent {
                    link.send(body);
                }
            }
        }
    }

    /// A router of a node has sent again what it had for a lost incarnation whose sessions are here.
    pub(super) fn resent(
        &mut self,
        node: NodeIndex,
        incarnation: u64,
        (router, routers): (u16, u16),
    ) {
        let work =
            RouterWork::Resent { incarnation, stream: PublishStream::new(node, router), routers };
        self.effects.router(self.first_router(router), work, 64);
    }

    /// A worker has seen all markers of a node.
    pub(super) fn resent_seen(&mut self, incarnation: u64, worker: u16, origin: NodeIndex) {
        let own = self.successors.own.iter_mut().find(|own| own.incarnation == incarnation);
        let Some(own) = own else { return };
        if own.awaited.remove(&(worker, origin)) && own.awaited.is_empty() {
            self.all_resent(incarnation);
        }
    }

    fn all_resent(&mut self, incarnation: u64) {
        for worker in 0..self.workers {
            self.effects.manager(worker, ManagerWork::Settled { incarnation }, 64);
        }
    }

    /// Nodes that are not there any more send nothing again.
    pub(super) fn successors_go_on(&mut self) {
        let gone = self.links.iter().filter(|link| !link.is_there()).map(|link| link.index);
        let gone: Vec<NodeIndex> = gone.collect();
        gone.into_iter().for_each(|node| self.successor_hears_nothing(node));
    }

    /// A node is gone or has started anew, and with it what it had for a lost incarnation.
    pub(super) fn successor_hears_nothing(&mut self, node: NodeIndex) {
        for own in &mut self.successors.own {
            own.unsaid.remove(&node);
        }
        let waits = |own: &&Own| own.awaited.iter().any(|(_, origin)| *origin == node);
        let orphans: Vec<u64> =
            self.successors.own.iter().filter(waits).map(|own| own.incarnation).collect();
        for incarnation in orphans {
            self.resent(node, incarnation, (ALL_STREAMS, 1));
        }
    }
}
