//! Who has what a lost incarnation held, and what was for it (`actors/src/cluster/{heirs,inherit}.rs`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use super::super::clock::MS;
use super::super::store::{Estate, Stored};
use super::peer::{Peer, Pending};
use super::{ANY_ESTATE, Barrier, ManagerWork, Node, Pass, RouterWork, Token};
use crate::cluster::marks::{EVERY, Marks};
use crate::cluster::message::{self, Control};
use crate::cluster::{Key, View};

/// A lost incarnation is looked at again after this.
const AGAIN: u64 = 500 * MS;

#[derive(Debug)]
pub(super) struct Lost {
    node: Arc<str>,
    sealing: bool,
    next: u64,
}

#[derive(Debug)]
struct Heir {
    incarnation: u64,
    estate: u64,
    node: usize,
    by: u64,
    marks: Marks,
    resent: bool,
}

#[derive(Debug)]
struct Own {
    incarnation: u64,
    estate: u64,
    awaited: BTreeSet<(u16, usize)>,
}

#[derive(Debug, Default)]
pub(super) struct Heirs {
    known: Vec<Heir>,
    own: Vec<Own>,
}

impl Heirs {
    pub fn new(continued: &[u64]) -> Self {
        let mut heirs = Self::default();
        for incarnation in continued {
            heirs.has(*incarnation, ANY_ESTATE, BTreeSet::new());
        }
        heirs
    }

    fn has(&mut self, incarnation: u64, estate: u64, awaited: BTreeSet<(u16, usize)>) {
        self.own.push(Own { incarnation, estate, awaited });
    }

    /// Whether it is an earlier start of this node, or what that had inherited.
    pub fn goes_on_with(&self, incarnation: u64) -> bool {
        self.own.iter().any(|own| own.incarnation == incarnation && own.estate == ANY_ESTATE)
    }

    fn find(&self, incarnation: u64) -> Option<&Heir> {
        self.known.iter().find(|heir| heir.incarnation == incarnation)
    }

    pub fn announcements(&self) -> impl Iterator<Item = Control> {
        self.own.iter().map(|Own { incarnation, estate, .. }| Control::Inherited {
            incarnation: *incarnation,
            estate: if *estate == ANY_ESTATE { *incarnation } else { *estate },
        })
    }

    pub fn estates(&self, estate: u64) -> Vec<u64> {
        let its = self.own.iter().filter(|own| own.estate == estate);
        its.map(|own| own.incarnation).collect()
    }

    fn last(&self, incarnation: u64) -> Option<(usize, u64, u64)> {
        let mut heir = self.find(incarnation)?;
        // An heir that was lost has one, too, which may be older than it.
        for _ in 0..self.known.len() {
            let Some(next) = self.find(heir.by) else { break };
            heir = next;
        }
        Some((heir.node, heir.by, heir.estate))
    }
}

impl Node {
    /// Finds who is lost, and who is back with the same start.
    pub(super) fn lose(&mut self, view: &View) {
        for member in self.directory.view().members.iter() {
            let now = view.member(&member.node_id);
            let back = now.is_some_and(|now| now.incarnation == member.incarnation);
            let known = self.heirs.find(member.incarnation).is_some();
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

    /// Seals the lost incarnations whose heir this node is.
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
        !self.inheriting.is_empty() || self.lost.values().any(|lost| lost.sealing)
    }

    pub(super) fn sealed(&mut self, incarnation: u64, estate: Option<Estate>) {
        if let Some(lost) = self.lost.get_mut(&incarnation) {
            (lost.sealing, lost.next) = (estate.is_some(), self.now + AGAIN);
        }
        if let Some(estate) = estate {
            self.take_estate(incarnation, estate);
        }
        self.say_what_is_not_here();
    }

    fn say_what_is_not_here(&mut self) {
        if !self.is_taking_over() {
            for (owner, ticket, client) in std::mem::take(&mut self.not_here_yet) {
                self.directory.released(&owner, ticket, &client, None);
            }
        }
    }

    fn take_estate(&mut self, incarnation: u64, estate: Estate) {
        let clients = estate.sessions.iter().map(|stored| Arc::clone(&stored.client)).collect();
        let mut sessions: BTreeMap<u16, Vec<Stored>> = BTreeMap::new();
        for stored in estate.sessions {
            sessions.entry(self.home(&stored.client)).or_default().push(stored);
        }
        let waiting = (self.shards.len(), estate.incarnations, clients);
        self.inheriting.insert(incarnation, waiting);
        for (index, shard) in (0..).zip(&mut self.shards) {
            let sessions = sessions.remove(&index).unwrap_or_default();
            shard.manager.push_back(ManagerWork::Inherit { sessions, incarnation });
        }
    }

    /// What a lost incarnation held is in force here: everybody is told.
    pub(super) fn inherited(
        &mut self,
        estate: u64,
        mut incarnations: Vec<u64>,
        clients: &[Arc<str>],
    ) {
        for client in clients {
            self.moves.inherited(client);
            self.directory.holds(client, false);
        }
        // Their owner hears that they are here, and asks again.
        self.not_here_yet.retain(|(.., client)| !clients.contains(client));
        self.announce(None);
        self.act();
        incarnations.retain(|other| *other != estate);
        incarnations.push(estate);
        let there = self.peers.values().filter(|peer| peer.is_there()).map(|peer| peer.index);
        let nodes: Vec<usize> = there.chain([self.index]).collect();
        for incarnation in incarnations {
            let lanes = 0..self.lanes();
            let each = nodes.iter().flat_map(|node| lanes.clone().map(|shard| (shard, *node)));
            let awaited = if incarnation == estate { each.collect() } else { BTreeSet::new() };
            self.heirs.has(incarnation, estate, awaited);
            for peer in self.peers.values_mut().filter(|peer| peer.is_there()) {
                peer.tell(Control::Inherited { incarnation, estate });
            }
            self.directory.inherited(incarnation);
            self.has_heir(incarnation, estate, self.index);
        }
        self.say_what_is_not_here();
    }

    /// A node has what a lost incarnation held. Each router sends again what it had for it.
    pub(super) fn has_heir(&mut self, incarnation: u64, estate: u64, node: usize) {
        self.lost.remove(&incarnation);
        let by = if node == self.index {
            Some(self.incarnation)
        } else {
            self.peer(node).and_then(|peer| peer.link.peer_incarnation())
        };
        let Some(by) = by else { return };
        if self.heirs.find(incarnation).is_some_and(|known| (known.node, known.by) == (node, by)) {
            return;
        }
        self.heirs.known.retain(|known| known.incarnation != incarnation);
        let marks = Marks::new(incarnation);
        self.heirs.known.push(Heir { incarnation, estate, node, by, marks, resent: false });
        let pass = Pass::Heir { incarnation, heir: node };
        self.barrier(&Barrier { pass, to: Vec::new() });
    }

    /// Whether another has what a node's present start held.
    pub(super) fn is_inherited(&self, node: usize) -> bool {
        let incarnation = self.peers.get(&node).and_then(|peer| peer.link.peer_incarnation());
        incarnation.is_some_and(|incarnation| self.heirs.find(incarnation).is_some())
    }

    pub(super) fn is_resent(&self, incarnation: u64) -> bool {
        // For an earlier start of its own this one has nothing to send again.
        self.heirs.known.iter().any(|heir| heir.incarnation == incarnation && heir.resent)
            || self.heirs.goes_on_with(incarnation)
    }

    pub(super) fn resend(&mut self, incarnation: u64, heir: usize, lane: (u16, u16)) {
        self.send_on(incarnation, |of| of == lane.0);
        if heir == self.index {
            self.resent(heir, incarnation, lane);
        } else if let Some(peer) = self.peer(heir) {
            peer.tell(Control::Resent { incarnation, lane });
        }
        let me = self.index as u16;
        let known = self.heirs.known.iter_mut().find(|known| known.incarnation == incarnation);
        let Some(known) = known.filter(|known| known.node == heir) else { return };
        known.resent |= known.marks.pass((me, lane.0), lane.1);
        if known.resent {
            self.unheard.remove(&incarnation);
            // What it wanted is the heir's business in all lanes now.
            let its = |peer: &&mut Peer| peer.whole == incarnation && peer.anew.is_none();
            self.peers.values_mut().filter(its).for_each(|peer| peer.wanted.clear());
            for (taker, message) in std::mem::take(&mut self.deferred_moves) {
                self.moves(taker, message);
            }
        }
    }

    pub(super) fn send_on_late(&mut self, incarnation: u64) {
        if self.is_resent(incarnation) {
            self.send_on(incarnation, |_| true);
        }
    }

    fn send_on(&mut self, incarnation: u64, of: impl Fn(u16) -> bool) {
        let Some((heir, by, estate)) = self.heirs.last(incarnation) else { return };
        let mut open: Vec<(u64, Bytes, Vec<Token>)> = Vec::new();
        for peer in self.peers.values_mut() {
            let its = |_: &u64, pending: &mut Pending| {
                let lane = message::publishes(&pending.body).map(|(_, lane, ..)| lane);
                pending.incarnation == incarnation && lane.is_none_or(&of)
            };
            let its = peer.pending.extract_if(.., its);
            open.extend(its.map(|(number, pending)| (number, pending.body, pending.tokens)));
        }
        open.sort_unstable_by_key(|(number, ..)| *number);
        for (number, body, tokens) in open {
            let lane = message::publishes(&body).map_or(0, |(_, lane, ..)| lane);
            let mut body = body.to_vec();
            message::set_head(&mut body, number, estate);
            let body: Bytes = body.into();
            if heir == self.index {
                self.own.insert(number, tokens);
                let (node, incarnation) = (self.index, self.incarnation);
                self.push_router(lane, RouterWork::FromPeer { node, incarnation, body });
            } else if let Some(peer) = self.peer(heir) {
                let sent = peer.link.peer_incarnation() == Some(by);
                let pending = Pending { body: body.clone(), tokens, incarnation: by, sent };
                peer.pending.insert(number, pending);
                if sent {
                    peer.send(body);
                }
            }
        }
    }

    pub(super) fn resent(&mut self, node: usize, incarnation: u64, (lane, lanes): (u16, u16)) {
        let work = RouterWork::Resent { incarnation, lane: (node as u16, lane), lanes };
        self.push_router(lane, work);
    }

    pub(super) fn resent_seen(&mut self, incarnation: u64, shard: u16, origin: usize) {
        let own = self.heirs.own.iter_mut().find(|own| own.incarnation == incarnation);
        let Some(own) = own else { return };
        if own.awaited.remove(&(shard, origin)) && own.awaited.is_empty() {
            for shard in &mut self.shards {
                shard.manager.push_back(ManagerWork::Settled { incarnation });
            }
        }
    }

    pub(super) fn heirs_go_on(&mut self) {
        let gone = self.peers.values().filter(|peer| !peer.is_there()).map(|peer| peer.index);
        let gone: Vec<usize> = gone.collect();
        gone.into_iter().for_each(|node| self.heir_hears_nothing(node));
    }

    pub(super) fn heir_hears_nothing(&mut self, node: usize) {
        let waits = |own: &&Own| own.awaited.iter().any(|(_, origin)| *origin == node);
        let estates: Vec<u64> =
            self.heirs.own.iter().filter(waits).map(|own| own.incarnation).collect();
        for incarnation in estates {
            self.resent(node, incarnation, (EVERY, 1));
        }
    }
}
