//! Sessions on their way between this node and another: who has marked them, and what is said when.
//!
//! The holder tells the taker ([`Control::Leaving`]); the taker expects the session and tells every
//! node ([`Control::Move`]); each sends its mark to both, once its routers have passed. See
//! `shard/moving.rs` for what the marks are for.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::NodeIndex;
use super::peers::{Peers, SELF};
use crate::shard::{Barrier, EVERY};
use crate::shared::{ManagerWork, RouterWork};
use hydrant_protocol::cluster::View;
use hydrant_protocol::cluster::message::{Control, Interest};

/// A change of hands that not every node has marked, or that is not granted.
#[derive(Debug)]
pub(super) struct Change {
    client: Arc<str>,
    /// Whose marks have not come.
    awaited: BTreeSet<NodeIndex>,
    /// The other node.
    other: Arc<str>,
    filters: Vec<Arc<str>>,
    /// Who asked for it, and its ticket; `None`: it comes here.
    owner: Option<(Arc<str>, u64)>,
    /// It is here.
    granted: bool,
}

impl Peers {
    fn everybody(&self) -> BTreeSet<NodeIndex> {
        let members = self.links.iter().filter(|link| link.is_member());
        members.map(|link| link.index).chain([SELF]).collect()
    }

    /// A session of this node is to be given up.
    pub(super) fn leaving(
        &mut self,
        id: u64,
        owner: (Arc<str>, u64),
        client: Arc<str>,
        to: Arc<str>,
        filters: Vec<(Arc<str>, u8)>,
    ) {
        let awaited = self.everybody();
        let Some(link) = self.link_of(&to).filter(|link| link.is_member()) else {
            return self.taker_is_lost(id, client, Some(owner));
        };
        link.tell(Control::Leaving { id, client: Arc::clone(&client), filters });
        let owner = Some(owner);
        let change =
            Change { client, awaited, other: to, filters: Vec::new(), owner, granted: false };
        self.changes.insert(id, change);
    }

    /// A node is ready to give a session up for this one.
    pub(super) fn coming(
        &mut self,
        node: NodeIndex,
        id: u64,
        client: Arc<str>,
        filters: Vec<(Arc<str>, u8)>,
    ) {
        let from = self.name(node);
        let names: Vec<Arc<str>> = filters.iter().map(|(filter, _)| Arc::clone(filter)).collect();
        let home = usize::from(self.shared.home(&client));
        let expect = RouterWork::Expect { id, client: Arc::clone(&client), filters };
        self.shared.routers[home].push(expect, 256);
        let awaited = self.everybody();
        let change =
            Change { client, awaited, other: from, filters: names, owner: None, granted: false };
        self.changes.insert(id, change);
    }

    /// The session's filters are in force here: from now on every node may send what matches them.
    pub(super) fn expected(&mut self, id: u64) {
        let Some(change) = self.changes.get_mut(&id) else { return };
        let (client, from) = (Arc::clone(&change.client), Arc::clone(&change.other));
        let filters = change.filters.clone();
        let holder = self.link_of(&from).map(|link| link.index);
        for link in self.links.iter_mut().filter(|link| link.is_member()) {
            let (client, from, filters) = (Arc::clone(&client), Arc::clone(&from), filters.clone());
            link.tell(Control::Move { id, client, from, filters });
        }
        self.barrier(id, &client, true, holder);
    }

    /// A node takes a session over from another.
    pub(super) fn moves(
        &mut self,
        taker: NodeIndex,
        id: u64,
        client: &Arc<str>,
        from: &Arc<str>,
        filters: Vec<Arc<str>>,
    ) {
        let wanted: Vec<(Arc<str>, Interest)> =
            filters.into_iter().map(|filter| (filter, Interest::Queues)).collect();
        self.wants(taker, &wanted);
        if **from == *self.cluster.node_id {
            return self.barrier(id, client, true, [taker]);
        }
        let holder = self.link_of(from).map(|link| link.index);
        self.barrier(id, client, false, [taker].into_iter().chain(holder));
    }

    /// Has every router of this node mark a change of hands.
    fn barrier(
        &self,
        id: u64,
        client: &Arc<str>,
        here: bool,
        to: impl IntoIterator<Item = NodeIndex>,
    ) {
        let (client, to) = (Arc::clone(client), to.into_iter().collect());
        let barrier = Arc::new(Barrier { id, client, here, to });
        for router in &self.shared.routers {
            router.push(RouterWork::Barrier(Arc::clone(&barrier)), 64);
        }
    }

    /// One router has passed a barrier: its mark goes out, behind what it published.
    pub(super) fn passed(&mut self, barrier: &Barrier, lane: (u16, u16)) {
        for node in &barrier.to {
            if let Some(link) = self.link(*node) {
                let (id, client) = (barrier.id, Arc::clone(&barrier.client));
                link.tell(Control::Mark { id, client, lane });
            }
        }
    }

    /// The mark of another node's lane goes the way of what that lane publishes.
    pub(super) fn mark(&self, node: NodeIndex, id: u64, client: Arc<str>, lane: (u16, u16)) {
        let router = usize::from(lane.0) % self.shared.routers.len();
        let (lane, lanes) = ((node, lane.0), lane.1);
        self.shared.routers[router].push(RouterWork::Mark { id, client, lane, lanes }, 64);
    }

    /// A mark has come to the session that is here.
    pub(super) fn marked(&mut self, id: u64, origin: NodeIndex) {
        let Some(change) = self.changes.get_mut(&id) else { return };
        change.awaited.remove(&origin);
        if !change.awaited.is_empty() {
            return;
        }
        let (client, owner) = (Arc::clone(&change.client), change.owner.clone());
        if owner.is_some() || change.granted {
            self.changes.remove(&id);
        }
        let home = usize::from(self.shared.home(&client));
        self.shared.managers[home].push(ManagerWork::AllMarked { id, client, owner }, 64);
    }

    /// A session that came here is granted: what has not been marked yet is only waited for.
    pub(super) fn came(&mut self, client: &str) {
        let done: Vec<u64> = self
            .changes
            .iter()
            .filter(|(_, change)| change.owner.is_none() && *change.client == *client)
            .map(|(id, _)| *id)
            .collect();
        for id in done {
            let Some(change) = self.changes.get_mut(&id) else { continue };
            change.granted = true;
            if change.awaited.is_empty() {
                let (client, owner) = (Arc::clone(&change.client), None);
                let home = usize::from(self.shared.home(&client));
                let work = ManagerWork::AllMarked { id, client, owner };
                self.shared.managers[home].push(work, 64);
                self.changes.remove(&id);
            }
        }
    }

    fn taker_is_lost(&mut self, id: u64, client: Arc<str>, owner: Option<(Arc<str>, u64)>) {
        let home = usize::from(self.shared.home(&client));
        let stays = ManagerWork::Stays { id, client: Arc::clone(&client) };
        self.shared.managers[home].push(stays, 64);
        if let Some((owner, ticket)) = owner {
            self.directory.released(&owner, ticket, &client, None);
            self.directory.holds(&client, false);
        }
    }

    /// Members that have left mark nothing; those that have come are told.
    pub(super) fn changes_go_on(&mut self, view: &View) {
        let gone: Vec<NodeIndex> = self
            .links
            .iter()
            .filter(|link| view.member(&link.node.id).is_none())
            .map(|link| link.index)
            .collect();
        let here = self.everybody();
        let mut marks = Vec::new();
        let mut lost = Vec::new();
        let mut told = Vec::new();
        for (id, change) in &mut self.changes {
            if change.owner.is_some() && view.member(&change.other).is_none() {
                lost.push(*id);
                continue;
            }
            let left = change.awaited.iter().filter(|node| gone.contains(node));
            marks.extend(left.map(|node| (*id, Arc::clone(&change.client), *node)));
            for node in here.iter().filter(|node| **node != SELF && !self.known.contains(node)) {
                change.awaited.insert(*node);
                if change.owner.is_none() {
                    let (client, from) = (Arc::clone(&change.client), Arc::clone(&change.other));
                    let filters = change.filters.clone();
                    told.push((*node, Control::Move { id: *id, client, from, filters }));
                }
            }
        }
        self.known = here;
        for (node, message) in told {
            if let Some(link) = self.link(node) {
                link.tell(message);
            }
        }
        for (id, client, node) in marks {
            self.mark(node, id, client, (EVERY, 1));
        }
        for id in lost {
            if let Some(change) = self.changes.remove(&id) {
                self.taker_is_lost(id, change.client, change.owner);
            }
        }
    }
}
