//! Who has what a lost incarnation held, and what was sent to it and not stored: that goes to its heir,
//! marked by every router of every node behind it.
//!
//! Until a router has marked it, what it publishes for a session of the lost one is kept for that one and sent
//! again, whoever else it goes to: the heir takes it from there, and not what comes for its other subscribers.
//! Behind its mark the heir takes what comes, and nothing is kept. The heir's own routers publish nothing
//! in between.
//!
//! Bounds: the last [`REMEMBERED`] incarnations.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use hydrant_protocol::cluster::marks::{EVERY, Marks};
use hydrant_protocol::cluster::message::{self, Control};
use smallvec::SmallVec;

use super::link::{PeerLink, Pending};
use super::peers::{Peers, SELF};
use super::{FromPeer, NodeIndex};
use crate::ports::StoreOp;
use crate::shard::{ANY_ESTATE, Barrier, Pass};
use crate::shared::{ManagerWork, RouterWork, StorageWork, Token};

/// Lost incarnations that are known, a few an outage.
const REMEMBERED: usize = 1024;

/// A lost incarnation whose sessions a node has.
#[derive(Debug)]
struct Heir {
    incarnation: u64,
    /// As which that node knows its sessions.
    estate: u64,
    node: NodeIndex,
    /// Which start of it.
    by: u64,
    /// Which of this node's routers have sent again what was for the lost one.
    marks: Marks,
    resent: bool,
}

/// One whose sessions this node has.
#[derive(Debug)]
struct Own {
    incarnation: u64,
    /// As which they are known here; [`ANY_ESTATE`]: they are from before this start.
    estate: u64,
    /// Arbiters that have not seen all marks of a node.
    awaited: BTreeSet<(u16, NodeIndex)>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Heirs {
    known: VecDeque<Heir>,
    own: VecDeque<Own>,
}

impl Heirs {
    /// Of a start that goes on with these.
    pub fn new(continued: &[u64]) -> Self {
        let mut heirs = Self::default();
        for incarnation in continued {
            heirs.has(*incarnation, ANY_ESTATE, BTreeSet::new());
        }
        heirs
    }

    fn has(&mut self, incarnation: u64, estate: u64, awaited: BTreeSet<(u16, NodeIndex)>) {
        if self.own.len() >= REMEMBERED {
            self.own.pop_front();
        }
        self.own.push_back(Own { incarnation, estate, awaited });
    }

    fn find(&self, incarnation: u64) -> Option<&Heir> {
        self.known.iter().find(|heir| heir.incarnation == incarnation)
    }

    /// What is said of those whose sessions this node has.
    pub fn announcements(&self) -> impl Iterator<Item = Control> {
        self.own.iter().map(|Own { incarnation, estate, .. }| Control::Inherited {
            incarnation: *incarnation,
            estate: if *estate == ANY_ESTATE { *incarnation } else { *estate },
        })
    }

    /// Those that a session may come from which is known as this one's: what was for them has to be sent
    /// again before it goes on.
    pub fn estates(&self, estate: u64) -> Vec<u64> {
        let its = self.own.iter().filter(|own| own.estate == estate);
        its.map(|own| own.incarnation).collect()
    }

    /// Who has in the end what a lost incarnation held: the node, its start, and as which it is known
    /// there.
    fn last(&self, incarnation: u64) -> Option<(NodeIndex, u64, u64)> {
        let mut heir = self.find(incarnation)?;
        // An heir that was lost has one, too. None inherits after that, so there is an end.
        for _ in 0..REMEMBERED {
            let Some(next) = self.find(heir.by) else { break };
            heir = next;
        }
        Some((heir.node, heir.by, heir.estate))
    }
}

impl Peers {
    /// What a lost incarnation held is in force here, with what it had inherited itself: everybody is told,
    /// behind what this node wants since.
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
        self.is_sure_again(clients);
        self.announce(None);
        self.act();
        // The marks of the last one are the ones that count: they come behind everything else.
        incarnations.retain(|other| *other != estate);
        incarnations.push(estate);
        let shards = u16::try_from(self.shared.managers.len()).unwrap_or(u16::MAX);
        let there = self.links.iter().filter(|link| link.is_there()).map(|link| link.index);
        let nodes: Vec<NodeIndex> = there.chain([SELF]).collect();
        for incarnation in incarnations {
            let each = nodes.iter().flat_map(|node| (0..shards).map(|shard| (shard, *node)));
            let awaited = if incarnation == estate { each.collect() } else { BTreeSet::new() };
            self.heirs.has(incarnation, estate, awaited);
            for link in self.links.iter_mut().filter(|link| link.is_there()) {
                link.tell(Control::Inherited { incarnation, estate });
            }
            self.directory.inherited(incarnation);
            self.has_heir(incarnation, estate, SELF);
        }
    }

    /// A node has what a lost incarnation held. Each router sends again what it had for it.
    pub(super) fn has_heir(&mut self, incarnation: u64, estate: u64, node: NodeIndex) {
        self.lost.remove(&incarnation);
        let by = match node {
            SELF => Some(self.cluster.incarnation),
            node => self.link(node).and_then(|link| link.link.peer_incarnation()),
        };
        let Some(by) = by else { return };
        // Said again on every new connection.
        if self.heirs.find(incarnation).is_some_and(|known| (known.node, known.by) == (node, by)) {
            return;
        }
        self.heirs.known.retain(|known| known.incarnation != incarnation);
        self.forget_batches(incarnation, u64::MAX);
        if self.heirs.known.len() >= REMEMBERED {
            self.heirs.known.pop_front();
        }
        let marks = Marks::new(incarnation);
        self.heirs.known.push_back(Heir { incarnation, estate, node, by, marks, resent: false });
        let pass = Pass::Heir { incarnation, heir: node };
        self.barrier(Barrier { pass, to: SmallVec::new() });
    }

    /// Tells each node below which number it need not remember what it has stored.
    pub(super) fn say_what_is_answered(&mut self) {
        let next = self.next_batch;
        for link in self.links.iter_mut().filter(|link| link.link.is_up()) {
            let below = link.pending.keys().next().copied().unwrap_or(next);
            // Only where something was sent since.
            if below > link.answered && link.sent_since {
                (link.answered, link.sent_since) = (below, !link.pending.is_empty());
                link.tell(Control::Answered { below });
            }
        }
    }

    /// Nobody sends these again: the store need not know them.
    pub(super) fn forget_batches(&self, origin: u64, below: u64) {
        let ops = vec![StoreOp::ForgetPeerBatches { origin, below }];
        let (tokens, transaction, origin) = (Vec::new(), None, None);
        self.shared.storage.push(StorageWork::Write { ops, tokens, transaction, origin }, 64);
    }

    /// Whether all that this node had for a lost incarnation is sent to its heir.
    pub(super) fn is_resent(&self, incarnation: u64) -> bool {
        // Of those before it this start has sent nothing anywhere.
        self.cluster.continued.contains(&incarnation)
            || self.heirs.find(incarnation).is_some_and(|heir| heir.resent)
    }

    /// Whether another has what this incarnation held: it is over, whatever it still says.
    pub(super) fn is_over(&self, incarnation: u64) -> bool {
        self.heirs.find(incarnation).is_some()
    }

    /// A router has passed: what it published for a lost incarnation before goes to the heir, and its
    /// mark behind that.
    pub(super) fn resend(&mut self, incarnation: u64, heir: NodeIndex, lane: (u16, u16)) {
        self.send_on(incarnation, |of| of == lane.0);
        if heir == SELF {
            self.resent(SELF, incarnation, lane);
        } else if let Some(link) = self.link(heir) {
            link.tell(Control::Resent { incarnation, lane });
        }
        let known = self.heirs.known.iter_mut().find(|known| known.incarnation == incarnation);
        let Some(known) = known.filter(|known| known.node == heir) else { return };
        known.resent |= known.marks.pass((SELF, lane.0), lane.1);
        if !known.resent {
            return;
        }
        // What it wanted is the heir's business now, unless a later start of it just says what it wants.
        let wanted = |link: &&PeerLink| link.whole == incarnation && link.anew.is_none();
        let lost = self.links.iter().filter(wanted).map(|link| link.index);
        let lost: Vec<NodeIndex> = lost.collect();
        lost.into_iter().for_each(|node| self.wants_nothing(node));
        for (taker, message) in std::mem::take(&mut self.deferred_moves) {
            self.moves(taker, message);
        }
    }

    /// Whether a batch for a lost incarnation was published behind its lane's mark: its heir has it.
    pub(super) fn is_behind_mark(&self, incarnation: u64, body: &[u8]) -> bool {
        let Some(heir) = self.heirs.find(incarnation) else { return false };
        let lane = message::publishes(body).map_or(0, |(_, lane, ..)| lane);
        heir.marks.has((SELF, lane))
    }

    /// Sends what is kept for a lost incarnation, of some lanes, to its heir; oldest first, under the
    /// numbers it had.
    fn send_on(&mut self, incarnation: u64, of: impl Fn(u16) -> bool) {
        let Some((heir, by, estate)) = self.heirs.last(incarnation) else { return };
        let mut open: Vec<(u64, Bytes, Vec<Token>)> = Vec::new();
        let mut answered = Vec::new();
        for link in &mut self.links {
            let its = |_: &u64, pending: &mut Pending| {
                let lane = pending.body.as_deref().and_then(message::publishes);
                pending.incarnation == incarnation && lane.is_none_or(|(_, lane, ..)| of(lane))
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
            let lane = message::publishes(&body).map_or(0, |(_, lane, ..)| lane);
            let mut body = body.to_vec();
            message::set_head(&mut body, number, estate);
            let body: Bytes = body.into();
            if heir == SELF {
                self.own.insert(number, tokens);
                let bytes = body.len();
                let work = FromPeer::new(SELF, self.cluster.incarnation, body);
                self.router_of(lane).push(RouterWork::FromPeer(work), bytes);
            } else if let Some(link) = self.link(heir) {
                let (kept, incarnation) = (Some(body.clone()), by);
                let sent = link.link.peer_incarnation() == Some(by);
                link.pending.insert(number, Pending { body: kept, tokens, incarnation, sent });
                if sent {
                    link.send(body);
                }
            }
        }
    }

    /// A lane of a node has sent again what it had for a lost incarnation whose sessions are here.
    pub(super) fn resent(&self, node: NodeIndex, incarnation: u64, (lane, lanes): (u16, u16)) {
        let work = RouterWork::Resent { incarnation, lane: (node, lane), lanes };
        self.first_router(lane).push(work, 64);
    }

    /// An arbiter has seen all marks of a node.
    pub(super) fn resent_seen(&mut self, incarnation: u64, shard: u16, origin: NodeIndex) {
        let own = self.heirs.own.iter_mut().find(|own| own.incarnation == incarnation);
        let Some(own) = own else { return };
        if own.awaited.remove(&(shard, origin)) && own.awaited.is_empty() {
            for manager in &self.shared.managers {
                manager.push(ManagerWork::Settled { incarnation }, 64);
            }
        }
    }

    /// Nodes that are not there any more send nothing again.
    pub(super) fn heirs_go_on(&mut self) {
        let gone = self.links.iter().filter(|link| !link.is_there()).map(|link| link.index);
        let gone: Vec<NodeIndex> = gone.collect();
        gone.into_iter().for_each(|node| self.heir_hears_nothing(node));
    }

    /// A node is gone or has started anew, and with it what it had for a lost incarnation.
    pub(super) fn heir_hears_nothing(&mut self, node: NodeIndex) {
        let waits = |own: &&Own| own.awaited.iter().any(|(_, origin)| *origin == node);
        let estates: Vec<u64> =
            self.heirs.own.iter().filter(waits).map(|own| own.incarnation).collect();
        for incarnation in estates {
            self.resent(node, incarnation, (EVERY, 1));
        }
    }
}
