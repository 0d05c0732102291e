//! Nodes that are lost: their heir seals what they held and goes on with it, and what the others had
//! sent them goes to the heir.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hydrant_protocol::cluster::message::{self, Control};
use hydrant_protocol::cluster::{Key, Ring, View};
use smallvec::SmallVec;
use tokio::sync::oneshot;

use super::peers::{Peers, SELF};
use super::{FromPeer, NodeIndex, PeerWork};
use crate::ports::{Estate, Sealing, StoredSession, StoredWill};
use crate::shared::{ManagerWork, RouterWork, Token};

/// An incarnation that was sealed or found alive is looked at again after this.
const AGAIN: Duration = Duration::from_secs(1);

/// An incarnation that is no member any more and whose sessions nobody has yet.
#[derive(Debug)]
pub(crate) struct Lost {
    /// Its node id.
    node: Arc<str>,
    /// An attempt to seal it is under way.
    sealing: bool,
    /// No attempt before this.
    next: Instant,
}

impl Peers {
    /// Finds who is lost, and who is back with the same start.
    pub(super) fn lose(&mut self, view: &View) {
        let before = self.directory.view();
        for member in before.members.iter() {
            let back = view
                .member(&member.node_id)
                .is_some_and(|now| now.incarnation == member.incarnation);
            if !back && *member.node_id != *self.cluster.node_id {
                let lost = Lost {
                    node: Arc::clone(&member.node_id),
                    sealing: false,
                    next: Instant::now(),
                };
                self.lost.entry(member.incarnation).or_insert(lost);
            }
        }
        let is_member =
            |incarnation: u64| view.members.iter().any(|m| m.incarnation == incarnation);
        self.lost.retain(|incarnation, _| !is_member(*incarnation));
    }

    /// Seals the lost incarnations whose heir this node is: the owner of their node id.
    pub(super) fn seal_lost(&mut self) {
        let view = self.directory.view();
        // A node that is not registered takes nothing new.
        if !view.current || self.lost.is_empty() || !self.cluster.may_act() {
            return;
        }
        let ring = Ring::new(view.members.iter().map(|member| Arc::clone(&member.node_id)));
        let now = Instant::now();
        for (incarnation, lost) in &mut self.lost {
            let ours = ring.owns(&self.cluster.node_id, Key::Client(&lost.node));
            if !ours || lost.sealing || now < lost.next {
                continue;
            }
            lost.sealing = true;
            let (cluster, incarnation) = (Arc::clone(&self.cluster), *incarnation);
            tokio::task::spawn_local(async move {
                let sealing = match cluster.store.seal(incarnation).await {
                    Ok(sealing) => Some(sealing),
                    Err(error) => {
                        log::warn!(target: "hydrant::peers", "incarnation {incarnation} cannot be sealed yet: {error}");
                        None
                    }
                };
                cluster.work.push(PeerWork::Sealed { incarnation, sealing }, 64);
            });
        }
    }

    pub(super) fn sealed(&mut self, incarnation: u64, sealing: Option<Sealing>) {
        let Some(lost) = self.lost.get_mut(&incarnation) else {
            // It is back; what it held is ours all the same once it is sealed.
            if let Some(Sealing::Ours(estate)) = sealing {
                self.take_estate(incarnation, *estate);
            }
            return;
        };
        (lost.sealing, lost.next) = (false, Instant::now() + AGAIN);
        match sealing {
            Some(Sealing::Ours(estate)) => {
                // Nobody else can: no second attempt.
                lost.sealing = true;
                let node = Arc::clone(&lost.node);
                log::info!(
                    target: "hydrant::peers",
                    "node {node} (incarnation {incarnation}) is lost: {} sessions, {} wills and {} lanes of its outbox are this node's now",
                    estate.sessions.len(), estate.wills.len(), estate.lanes.len()
                );
                self.take_estate(incarnation, *estate);
            }
            // Its heir says so to everybody; a restarted node by what it wants.
            Some(Sealing::Others(_) | Sealing::Alive) | None => {}
        }
    }

    fn take_estate(&mut self, incarnation: u64, estate: Estate) {
        let clients: Vec<Arc<str>> =
            estate.sessions.iter().map(|session| Arc::clone(&session.client_id)).collect();
        let mut sessions: BTreeMap<u16, Vec<StoredSession>> = BTreeMap::new();
        for session in estate.sessions {
            sessions.entry(self.shared.home(&session.client_id)).or_default().push(session);
        }
        let mut wills: BTreeMap<u16, Vec<StoredWill>> = BTreeMap::new();
        for will in estate.wills {
            wills.entry(self.shared.home(&will.client_id)).or_default().push(will);
        }
        let mut waits = Vec::new();
        for (index, manager) in (0..).zip(&self.shared.managers) {
            let (done, wait) = oneshot::channel();
            let sessions = sessions.remove(&index).unwrap_or_default();
            let wills = wills.remove(&index).unwrap_or_default();
            manager.push(ManagerWork::Inherit { sessions, wills, incarnation, done }, 256);
            waits.push(wait);
        }
        self.shared.lanes.lock().inherit(&estate.lanes);
        let cluster = Arc::clone(&self.cluster);
        tokio::task::spawn_local(async move {
            for wait in waits {
                let _ = wait.await;
            }
            cluster.work.push(PeerWork::Inherited { incarnation, clients }, 64);
        });
    }

    /// What a lost incarnation held is in force here: everybody is told, behind what this node wants
    /// since.
    pub(super) fn inherited(&mut self, incarnation: u64, clients: &[Arc<str>]) {
        clients.iter().for_each(|client| self.directory.holds(client, false));
        self.announce(None);
        self.act();
        for link in self.links.iter_mut().filter(|link| link.is_member()) {
            link.tell(Control::Inherited { incarnation });
        }
        self.directory.inherited(incarnation);
        self.has_heir(incarnation, SELF);
    }

    /// Sends what a lost incarnation had not stored to the node that has its sessions now.
    pub(super) fn has_heir(&mut self, incarnation: u64, heir: NodeIndex) {
        self.lost.remove(&incarnation);
        let mut nodes = Vec::new();
        for link in &self.links {
            let lost = link.member.is_none() && link.link.peer_incarnation() == Some(incarnation);
            if lost {
                nodes.push(link.index);
            }
        }
        let open = self.take_pending(incarnation);
        for (body, tokens) in open {
            self.send_on(heir, incarnation, &body, tokens);
        }
        nodes.into_iter().for_each(|node| self.wants_nothing(node));
    }

    /// A node has said all it wants: what its earlier starts had not stored is for it.
    pub(super) fn is_back(&mut self, node: NodeIndex, incarnation: u64) {
        let Some(at) = usize::from(node).checked_sub(1) else { return };
        let Some(link) = self.links.get(at) else { return };
        let id = Arc::clone(&link.node.id);
        let old: Vec<u64> = link
            .pending
            .values()
            .map(|pending| pending.incarnation)
            .chain(self.lost.iter().filter(|(_, lost)| lost.node == id).map(|(n, _)| *n))
            .filter(|old| *old != incarnation && *old != 0)
            .collect();
        for old in old {
            if self.lost.remove(&old).is_some() {
                self.directory.inherited(old);
            }
            for (body, tokens) in self.take_pending(old) {
                self.send_on(node, old, &body, tokens);
            }
        }
    }

    /// What is not stored of what was sent to an incarnation, oldest first.
    fn take_pending(&mut self, incarnation: u64) -> Vec<(Bytes, Vec<Token>)> {
        let mut open = Vec::new();
        let mut answered = Vec::new();
        for link in &mut self.links {
            let numbers: Vec<u64> = link
                .pending
                .iter()
                .filter(|(_, pending)| pending.incarnation == incarnation)
                .map(|(number, _)| *number)
                .collect();
            for pending in numbers.iter().filter_map(|number| link.pending.remove(number)) {
                match pending.body {
                    Some(body) => open.push((body, pending.tokens)),
                    None => answered.extend(pending.tokens),
                }
            }
        }
        self.complete(answered);
        open
    }

    fn send_on(&mut self, heir: NodeIndex, estate: u64, body: &Bytes, tokens: Vec<Token>) {
        let batch = self.batch();
        let mut body = body.to_vec();
        message::set_head(&mut body, batch, estate);
        let body: Bytes = body.into();
        if heir == SELF {
            let (node, incarnation) = (SELF, self.cluster.incarnation);
            self.own.insert(batch, tokens);
            let bytes = body.len();
            let work = FromPeer {
                node,
                incarnation,
                body,
                done: 0,
                store: false,
                arriving: SmallVec::new(),
            };
            self.shared.routers[0].push(RouterWork::FromPeer(work), bytes);
        } else if let Some(link) = self.link(heir) {
            let incarnation = link.link.peer_incarnation().unwrap_or(0);
            let kept = Some(body.clone());
            link.pending.insert(
                batch,
                super::link::Pending { body: kept, tokens, incarnation, sent: true },
            );
            link.send(body);
        }
    }
}
