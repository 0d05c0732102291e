//! The members of the cluster as PeersActor sees them: their links, their addresses, and who may connect.

use std::sync::Arc;

use hydrant_protocol::cluster::MembershipView;
use hydrant_protocol::cluster::link::{Hello, Identity, Relay};

use super::coordinator::Coordinator;
use super::node_index::SELF;
use super::state::link::PeerLink;
use super::{Node, NodeIndex};

impl Coordinator {
    /// The members have changed.
    pub(super) fn members_changed(&mut self, view: MembershipView) {
        for member in view.members.iter() {
            if *member.node_id == *self.cluster.node_id {
                continue;
            }
            if self.link_of(&member.node_id).is_none() {
                self.add(&member.node_id);
            }
            let me = Arc::clone(&self.cluster.node_id);
            let mut dial = None;
            if let Some(link) = self.links.iter_mut().find(|link| link.node.id == member.node_id) {
                if std::mem::replace(&mut link.known, member.incarnation) != member.incarnation {
                    self.handovers.is_another(&member.node_id);
                }
                link.member = Some((member.peer.clone(), member.incarnation));
                if *me < *member.node_id && !std::mem::replace(&mut link.dialled, true) {
                    dial = Some(link.index);
                }
            }
            dial.into_iter().for_each(|node| self.effects.dial(node));
            let index = self.index_of(&member.node_id);
            index.into_iter().for_each(|index| self.send_kept(index));
        }
        let mut gone = Vec::new();
        for link in &mut self.links {
            if view.member(&link.node.id).is_none() && link.member.take().is_some() {
                gone.append(&mut link.give_up_live());
            }
        }
        self.complete(gone);
        self.cluster.status.has_members(view.members.len());
        self.lose(&view);
        self.look_who_is_undecided(&view);
        self.look_who_is_there();
        self.directory.members_changed(view);
        self.await_first_markers();
        self.begin_survey();
    }

    pub(super) fn add(&mut self, id: &Arc<str>) {
        let node = Node::new(id, false);
        let Some(index) = self.cluster.status.add(Arc::clone(&node)) else { return };
        let me = Identity {
            cluster: Arc::clone(&self.cluster.settings.id),
            node_id: Arc::clone(&self.cluster.node_id),
            incarnation: self.cluster.incarnation,
        };
        let mut link = PeerLink::new(index, node, me);
        (link.down_since, link.untold) = (Some(self.now.boot), self.may_be_untold());
        self.links.push(link);
    }

    /// Where a node listens, while it is a member.
    pub fn address(&self, node: NodeIndex) -> Option<String> {
        let link = self.links.get(usize::from(node).checked_sub(1)?)?;
        link.member.as_ref().map(|member| member.0.clone())
    }

    pub(super) fn index_of(&self, node: &str) -> Option<NodeIndex> {
        if *self.cluster.node_id == *node {
            return Some(SELF);
        }
        self.links.iter().find(|link| *link.node.id == *node).map(|link| link.index)
    }

    /// Its node id.
    pub fn name(&self, node: NodeIndex) -> Arc<str> {
        let at = usize::from(node).saturating_sub(1);
        self.links.get(at).map_or_else(|| Arc::from("?"), |link| Arc::clone(&link.node.id))
    }

    /// A member that can be reached, by its address, and what it is asked for: to carry a connection on to
    /// one that cannot.
    pub fn way_round(&self, node: NodeIndex, round: usize) -> Option<(String, Relay)> {
        let up = |link: &&PeerLink| link.index != node && link.link.is_up();
        let ways: Vec<&PeerLink> = self.links.iter().filter(up).collect();
        let way = ways.get(round.checked_rem(ways.len())?)?;
        let (address, _) = way.member.clone()?;
        let (cluster, node_id) =
            (self.cluster.settings.id.to_string(), self.name(node).to_string());
        Some((address, Relay { cluster, node_id }))
    }

    /// Where a connection is carried on to for another node.
    pub fn address_for(&self, relay: &Relay) -> Result<String, String> {
        if relay.cluster != *self.cluster.settings.id {
            return Err(self.foreign(&relay.cluster));
        }
        let link = self.links.iter().find(|link| *link.node.id == *relay.node_id);
        let member = link.and_then(|link| link.member.as_ref());
        member.map(|(address, _)| address.clone()).ok_or_else(|| {
            format!(
                "it is for node {:?}, which is no member of the cluster as it is known here",
                relay.node_id
            )
        })
    }

    fn foreign(&self, cluster: &str) -> String {
        format!(
            "it belongs to cluster \"{cluster}\" and this node to \"{}\": give both the same cluster.id, or point it elsewhere",
            self.cluster.settings.id
        )
    }

    /// Whose connection to the peer port this is.
    pub fn node_of(&self, hello: &Hello) -> Result<NodeIndex, String> {
        let id = &hello.node_id;
        if hello.cluster != *self.cluster.settings.id {
            return Err(self.foreign(&hello.cluster));
        }
        match self.links.iter().find(|link| *link.node.id == **id && link.is_member()) {
            Some(link) => Ok(link.index),
            None if *self.cluster.node_id == **id => {
                Err(format!("it has this node's own id \"{id}\": give each node its own --node-id"))
            }
            None => Err(format!(
                "node \"{id}\" is no member of the cluster as it is known here; it may come again"
            )),
        }
    }

    /// Whether it says that it belongs here, and is not this node.
    pub fn is_of_this_cluster(&self, hello: &Hello) -> bool {
        hello.cluster == *self.cluster.settings.id && *hello.node_id != *self.cluster.node_id
    }

    /// A node stops in order, or has left: that nobody reaches it is as it should be.
    pub fn leaves(&self, node: NodeIndex) -> bool {
        let link = self.links.get(usize::from(node).saturating_sub(1));
        let said = link.is_some_and(|link| link.node.stops());
        let id = self.name(node);
        said || self.directory.view().member(&id).is_none_or(|member| member.draining)
    }
}
