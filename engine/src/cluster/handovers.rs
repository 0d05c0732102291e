//! Sessions on their way between this node and another: carries out what
//! [`hydrant_protocol::cluster::handover`] decides. See `worker/session_handover.rs` for what the markers are for.

use std::sync::Arc;

use hydrant_protocol::cluster::MembershipView;
use hydrant_protocol::cluster::handover::Action;
use hydrant_protocol::cluster::message::{Control, Interest};
use hydrant_protocol::cluster::stream_marker::{ALL_STREAMS, PublishStream};

use super::NodeIndex;
use super::coordinator::Coordinator;
use super::node_index::SELF;
use super::state::link::PeerLink;
use crate::messages::{ManagerWork, MarkerReason, RouterWork, StreamMarker};

impl Coordinator {
    /// What the handovers want done.
    pub(super) fn act_on_handovers(&mut self) {
        while let Some(action) = self.handovers.poll_action() {
            match action {
                Action::Send(node, message) => {
                    if let Some(link) = self.link_of(&node) {
                        link.send_control(message);
                    }
                }
                Action::Expect { id, client, filters } => {
                    let home = self.shared.home(&client);
                    self.effects.router(home, RouterWork::Expect { id, client, filters }, 256);
                }
                Action::InsertMarkers { id, client, here, to } => {
                    let to = to.iter().filter_map(|node| Some(self.link_of(node)?.index)).collect();
                    self.insert_markers(StreamMarker {
                        reason: MarkerReason::Handover { id, client, here },
                        to,
                    });
                }
                Action::CountAsMarked { id, client, node } => {
                    if let Some(node) = self.index_of(&node) {
                        self.forward_marker(node, id, client, (ALL_STREAMS, 1));
                    }
                }
                Action::AllMarked { id, client } => {
                    self.tell_home(client, |client| ManagerWork::AllMarked { id, client });
                }
                Action::KeepSession { id, client } => {
                    self.tell_home(client, |client| ManagerWork::KeepSession { id, client });
                }
                Action::Complete { id, client } => {
                    self.tell_home(client, |client| ManagerWork::HandedOver { id, client });
                }
                Action::Forget { client, .. } => {
                    // Behind what had it expected.
                    let home = self.shared.home(&client);
                    self.effects.router(home, RouterWork::Forget { client }, 64);
                }
            }
        }
    }

    fn tell_home(&mut self, client: Arc<str>, work: impl FnOnce(Arc<str>) -> ManagerWork) {
        let home = self.shared.home(&client);
        self.effects.manager(home, work(client), 64);
    }

    /// While this node is no member itself, it does not know who is lost: all of them may have left ZooKeeper for want
    /// of Cassandra. Those are awaited until they are members again or somebody has what they held.
    pub(super) fn look_who_is_undecided(&mut self, view: &MembershipView) {
        if view.member(&self.cluster.node_id).is_none() {
            self.undecided.extend(self.lost.keys());
        }
        self.undecided.retain(|incarnation| self.lost.contains_key(incarnation));
    }

    /// Who is there has changed: members, or links.
    pub(super) fn look_who_is_there(&mut self) {
        let undecided = |link: &PeerLink| self.undecided.contains(&link.known);
        let there = self.links.iter().filter(|link| link.is_there() || undecided(link));
        let there = there.map(|link| Arc::clone(&link.node.id)).collect();
        self.handovers.there(there);
        self.successors_go_on();
        self.look_who_is_untold();
    }

    /// Sessions have moved without the markers of this node, which that one did not see: this one ends.
    pub(super) fn has_missed_handovers(&mut self, by: NodeIndex) {
        self.ends = true;
        self.effects.end(format!(
            "node {} did not see this one while sessions moved between nodes, so what this one had published for them \
             may not be with them: start it again, its publishers send again what they have no acknowledgement for",
            self.name(by)
        ));
    }

    /// A node takes a session over from another. What it wants is known before the markers.
    pub(super) fn announced(&mut self, target: NodeIndex, message: Control) {
        let Control::Announce { filters, orphans, .. } = &message else { return };
        let wanted: Vec<(Arc<str>, Interest)> =
            filters.iter().map(|filter| (Arc::clone(filter), Interest::Queues)).collect();
        self.wants(target, &wanted);
        if orphans.iter().all(|orphan| self.is_resent(*orphan)) {
            let from = self.name(target);
            self.handovers.receive(&from, message);
        } else {
            self.deferred_announcements.push((target, message));
        }
    }

    /// Has every router of this node pass a marker.
    pub(super) fn insert_markers(&mut self, marker: StreamMarker) {
        let marker = Arc::new(marker);
        for router in 0..self.workers {
            self.effects.router(router, RouterWork::InsertMarker(Arc::clone(&marker)), 64);
        }
    }

    /// One router has passed a marker: it goes out, behind what it published.
    pub(super) fn marker_passed(&mut self, marker: &StreamMarker, router: (u16, u16)) {
        match &marker.reason {
            MarkerReason::Handover { id, client, .. } => {
                for node in &marker.to {
                    if let Some(link) = self.link(*node) {
                        let (id, client) = (*id, Arc::clone(client));
                        link.send_control(Control::StreamMarker { id, client, router });
                    }
                }
            }
            MarkerReason::Successor { incarnation, successor } => {
                self.resend(*incarnation, *successor, router)
            }
            MarkerReason::Retained { round, by } => self.retained_stored(*by, *round, router),
        }
    }

    /// The marker of another node's router goes the way of what that router publishes.
    pub(super) fn forward_marker(
        &mut self,
        node: NodeIndex,
        id: u64,
        client: Arc<str>,
        router: (u16, u16),
    ) {
        let (stream, routers) = (PublishStream::new(node, router.0), router.1);
        let router = self.first_router(stream.router);
        self.effects.router(router, RouterWork::ForwardMarker { id, client, stream, routers }, 64);
    }

    /// A marker has come to the session that is here.
    pub(super) fn marked(&mut self, id: u64, origin: NodeIndex) {
        let origin =
            if origin == SELF { Arc::clone(&self.cluster.node_id) } else { self.name(origin) };
        self.handovers.marked(id, &origin);
    }
}
