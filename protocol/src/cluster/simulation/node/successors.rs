//! Who has what a lost incarnation held, and what was for it (`engine/src/cluster/{successors,take_over}.rs`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use super::super::clock::MS;
use super::super::store::{OrphanedState, Stored};
use super::peer::{Peer, Pending};
use super::{
    CompletionToken, EARLIER_STARTS, ManagerWork, MarkerReason, Node, RouterWork, StreamMarker,
};
use crate::cluster::message::{self, Control};
use crate::cluster::stream_marker::{ALL_STREAMS, MarkedStreams, PublishStream};
use crate::cluster::{Key, MembershipView};

/// A lost incarnation is looked at again after this.
const AGAIN: u64 = 500 * MS;

#[derive(Debug)]
pub(super) struct Lost {
    node: Arc<str>,
    sealing: bool,
    next: u64,
}

#[derive(Debug)]
struct Successor {
    incarnation: u64,
    orphan: u64,
    node: usize,
    by: u64,
    marked: MarkedStreams,
    resent: bool,
}

#[derive(Debug)]
struct Own {
    incarnation: u64,
    orphan: u64,
    awaited: BTreeSet<(u16, usize)>,
}

#[derive(Debug, Default)]
pub(super) struct Successors {
    known: Vec<Successor>,
    own: Vec<Own>,
}

impl Successors {
    pub fn new(continued: &[u64]) -> Self {
        let mut successors = Self::default();
        for incarnation in continued {
            successors.has(*incarnation, EARLIER_STARTS, BTreeSet::new());
        }
        successors
    }

    fn has(&mut self, incarnation: u64, orphan: u64, awaited: BTreeSet<(u16, usize)>) {
        self.own.push(Own { incarnation, orphan, awaited });
    }

    /// Whether it is an earlier start of this node, or what that had taken over.
    pub fn goes_on_with(&self, incarnation: u64) -> bool {
        self.own.iter().any(|own| own.incarnation == incarnation && own.orphan == EARLIER_STARTS)
    }

    fn find(&self, incarnation: u64) -> Option<&Successor> {
        self.known.iter().find(|successor| successor.incarnation == incarnation)
    }

    pub fn announcements(&self) -> impl Iterator<Item = Control> {
        self.own.iter().map(|Own { incarnation, orphan, .. }| Control::TakenOver {
            incarnation: *incarnation,
            orphan: if *orphan == EARLIER_STARTS { *incarnation } else { *orphan },
            lineage: *incarnation,
        })
    }

    pub fn orphans(&self, orphan: u64) -> Vec<u64> {
        let its = self.own.iter().filter(|own| own.orphan == orphan);
        its.map(|own| own.incarnation).collect()
    }

    fn last(&self, incarnation: u64) -> Option<(usize, u64, u64)> {
        let mut successor = self.find(incarnation)?;
        // A successor that was lost has one, too, which may be older than it.
        for _ in 0..self.known.len() {
            let Some(next) = self.find(successor.by) else { break };
            successor = next;
        }
        Some((successor.node, successor.by, successor.orphan))
    }
}

impl Node {
    /// Finds who is lost, and who is back with the same start.
    pub(super) fn lose(&mut self, view: &MembershipView) {
        for member in self.directory.view().members.iter() {
            let now = view.member(&member.node_id);
            let back = now.is_some_and(|now| now.incarnation == member.incarnation);
            let known = self.successors.find(member.incarnation).is_some();
            if !back && !known && *member.node_id != *self.id {
                let node = Arc::clone(&member.node_id);
                let lost = Lost { node, sealing: false, next: self.now };
                self.lost.entry(member.incarnation).or_insert(lost);
            }
        }
        for (incarnation, node) in &self.unheard {
            let lost =
                Lost { node: Arc::clone(&self.names[*node]), sealing: false, next: self.now };
            self.lost.entry(*incarnation).or_insert(lost);
        }
        let is_member =
            |incarnation: u64| view.members.iter().any(|m| m.incarnation == incarnation);
        self.lost.retain(|incarnation, _| !is_member(*incarnation));
    }

    /// Seals the lost incarnations whose successor this node is.
    pub(super) fn seal_lost(&mut self) {
        if !self.directory.view().current || self.lost.is_empty() || !self.may_act() {
            return;
        }
        let (now, ring) = (self.now, self.directory.ring());
        let mut due = Vec::new();
        for (incarnation, lost) in &mut self.lost {
            if ring.owns(&self.id, Key::Client(&lost.node)) && !lost.sealing && now >= lost.next {
                lost.sealing = true;
                due.push(*incarnation);
            }
        }
        due.into_iter().for_each(|incarnation| self.seal(incarnation));
    }

    /// What the store says that this node holds may not be here yet.
    pub(super) fn is_taking_over(&self) -> bool {
        !self.taking_over.is_empty() || self.lost.values().any(|lost| lost.sealing)
    }

    pub(super) fn sealed(&mut self, incarnation: u64, orphaned: Option<OrphanedState>) {
        if let Some(lost) = self.lost.get_mut(&incarnation) {
            (lost.sealing, lost.next) = (orphaned.is_some(), self.now + AGAIN);
        }
        if let Some(orphaned) = orphaned {
            self.take_over_orphaned(incarnation, orphaned);
        }
        self.send_not_here();
    }

    fn send_not_here(&mut self) {
        if !self.is_taking_over() {
            for (owner, ticket, client) in std::mem::take(&mut self.not_here_yet) {
                self.directory.released(&owner, ticket, &client, None);
            }
        }
    }

    fn take_over_orphaned(&mut self, incarnation: u64, orphaned: OrphanedState) {
        let clients = orphaned.sessions.iter().map(|stored| Arc::clone(&stored.client)).collect();
        let mut sessions: BTreeMap<u16, Vec<Stored>> = BTreeMap::new();
        for stored in orphaned.sessions {
            sessions.entry(self.home(&stored.client)).or_default().push(stored);
        }
        let waiting = (self.workers.len(), orphaned.incarnations, clients);
        self.taking_over.insert(incarnation, waiting);
        for (index, worker) in (0..).zip(&mut self.workers) {
            let sessions = sessions.remove(&index).unwrap_or_default();
            worker.manager.push_back(ManagerWork::TakeOver { sessions, incarnation });
        }
    }

    /// What a lost incarnation held is in force here: everybody is told.
    pub(super) fn taken_over(
        &mut self,
        orphan: u64,
        mut incarnations: Vec<u64>,
        clients: &[Arc<str>],
    ) {
        for client in clients {
            self.handovers.taken_over(client);
            self.directory.holds(client, false);
        }
        // Their owner hears that they are here, and asks again.
        self.not_here_yet.retain(|(.., client)| !clients.contains(client));
        self.announce(None);
        self.act();
        incarnations.retain(|other| *other != orphan);
        incarnations.push(orphan);
        let there = self.peers.values().filter(|peer| peer.is_there()).map(|peer| peer.index);
        let nodes: Vec<usize> = there.chain([self.index]).collect();
        for incarnation in incarnations {
            let routers = 0..self.workers();
            let each = nodes.iter().flat_map(|node| routers.clone().map(|worker| (worker, *node)));
            let awaited = if incarnation == orphan { each.collect() } else { BTreeSet::new() };
            self.successors.has(incarnation, orphan, awaited);
            for peer in self.peers.values_mut().filter(|peer| peer.is_there()) {
                let lineage = incarnation;
                peer.send_control(Control::TakenOver { incarnation, orphan, lineage });
            }
            self.directory.taken_over(incarnation);
            self.has_successor(incarnation, orphan, self.index);
        }
        self.send_not_here();
    }

    /// A node has what a lost incarnation held. Each router sends again what it had for it.
    pub(super) fn has_successor(&mut self, incarnation: u64, orphan: u64, node: usize) {
        self.lost.remove(&incarnation);
        let by = if node == self.index {
            Some(self.incarnation)
        } else {
            self.peer(node).and_then(|peer| peer.link.peer_incarnation())
        };
        let Some(by) = by else { return };
        if self
            .successors
            .find(incarnation)
            .is_some_and(|known| (known.node, known.by) == (node, by))
        {
            return;
        }
        self.successors.known.retain(|known| known.incarnation != incarnation);
        let marked = MarkedStreams::new(incarnation);
        self.successors.known.push(Successor {
            incarnation,
            orphan,
            node,
            by,
            marked,
            resent: false,
        });
        let reason = MarkerReason::Successor { incarnation, successor: node };
        self.insert_markers(&StreamMarker { reason, to: Vec::new() });
    }

    /// Whether another has what a node's present start held.
    pub(super) fn is_taken_over(&self, node: usize) -> bool {
        let incarnation = self.peers.get(&node).and_then(|peer| peer.link.peer_incarnation());
        incarnation.is_some_and(|incarnation| self.successors.find(incarnation).is_some())
    }

    pub(super) fn is_resent(&self, incarnation: u64) -> bool {
        // For an earlier start of its own this one has nothing to send again.
        self.successors
            .known
            .iter()
            .any(|successor| successor.incarnation == incarnation && successor.resent)
            || self.successors.goes_on_with(incarnation)
    }

    pub(super) fn resend(&mut self, incarnation: u64, successor: usize, router: (u16, u16)) {
        self.send_on(incarnation, |of| of == router.0);
        if successor == self.index {
            self.resent(successor, incarnation, router);
        } else if let Some(peer) = self.peer(successor) {
            peer.send_control(Control::Resent { incarnation, router });
        }
        let me = self.index as u16;
        let known = self.successors.known.iter_mut().find(|known| known.incarnation == incarnation);
        let Some(known) = known.filter(|known| known.node == successor) else { return };
        known.resent |= known.marked.mark(PublishStream::new(me, router.0), router.1);
        if known.resent {
            self.unheard.remove(&incarnation);
            // What it wanted is the successor's business in all streams now.
            let its = |peer: &&mut Peer| peer.whole == incarnation && peer.anew.is_none();
            self.peers.values_mut().filter(its).for_each(|peer| peer.wanted.clear());
            for (target, message) in std::mem::take(&mut self.deferred_announcements) {
                self.announced(target, message);
            }
        }
    }

    pub(super) fn send_on_late(&mut self, incarnation: u64) {
        if self.is_resent(incarnation) {
            self.send_on(incarnation, |_| true);
        }
    }

    fn send_on(&mut self, incarnation: u64, of: impl Fn(u16) -> bool) {
        let Some((successor, by, orphan)) = self.successors.last(incarnation) else { return };
        let mut open: Vec<(u64, Bytes, Vec<CompletionToken>)> = Vec::new();
        for peer in self.peers.values_mut() {
            let its = |_: &u64, pending: &mut Pending| {
                let router = message::publishes(&pending.body).map(|(_, router, ..)| router);
                pending.incarnation == incarnation && router.is_none_or(&of)
            };
            let its = peer.pending.extract_if(.., its);
            open.extend(its.map(|(number, pending)| (number, pending.body, pending.tokens)));
        }
        open.sort_unstable_by_key(|(number, ..)| *number);
        for (number, body, tokens) in open {
            let router = message::publishes(&body).map_or(0, |(_, router, ..)| router);
            let mut body = body.to_vec();
            message::set_head(&mut body, number, orphan);
            let body: Bytes = body.into();
            if successor == self.index {
                self.own.insert(number, tokens);
                let (node, incarnation) = (self.index, self.incarnation);
                self.push_router(router, RouterWork::PeerBatch { node, incarnation, body });
            } else if let Some(peer) = self.peer(successor) {
                let sent = peer.link.peer_incarnation() == Some(by);
                let pending = Pending { body: body.clone(), tokens, incarnation: by, sent };
                peer.pending.insert(number, pending);
                if sent {
                    peer.send(body);
                }
            }
        }
    }

    pub(super) fn resent(&mut self, node: usize, incarnation: u64, (router, routers): (u16, u16)) {
        let stream = PublishStream::new(node as u16, router);
        let work = RouterWork::Resent { incarnation, stream, routers };
        self.push_router(router, work);
    }

    pub(super) fn resent_seen(&mut self, incarnation: u64, worker: u16, origin: usize) {
        let own = self.successors.own.iter_mut().find(|own| own.incarnation == incarnation);
        let Some(own) = own else { return };
        if own.awaited.remove(&(worker, origin)) && own.awaited.is_empty() {
            for worker in &mut self.workers {
                worker.manager.push_back(ManagerWork::Settled { incarnation });
            }
        }
    }

    pub(super) fn successors_go_on(&mut self) {
        let gone = self.peers.values().filter(|peer| !peer.is_there()).map(|peer| peer.index);
        let gone: Vec<usize> = gone.collect();
        gone.into_iter().for_each(|node| self.successor_hears_nothing(node));
    }

    pub(super) fn successor_hears_nothing(&mut self, node: usize) {
        let waits = |own: &&Own| own.awaited.iter().any(|(_, origin)| *origin == node);
        let orphans: Vec<u64> =
            self.successors.own.iter().filter(waits).map(|own| own.incarnation).collect();
        for incarnation in orphans {
            self.resent(node, incarnation, (ALL_STREAMS, 1));
        }
    }
}
