//! Sessions on their way between this node and another: carries out what
//! [`hydrant_protocol::cluster::moves`] decides. See `shard/moving.rs` for what the marks are for.

use std::sync::Arc;

use hydrant_protocol::cluster::marks::EVERY;
use hydrant_protocol::cluster::message::{Control, Interest};
use hydrant_protocol::cluster::moves::Action;

use super::NodeIndex;
use super::peers::{Peers, SELF};
use crate::shard::{Barrier, Pass};
use crate::shared::{ManagerWork, RouterWork};

impl Peers {
    /// What the changes of hands want done.
    pub(super) fn act_on_moves(&mut self) {
        while let Some(action) = self.moves.poll_action() {
            match action {
                Action::Send(node, message) => {
                    if let Some(link) = self.link_of(&node) {
                        link.tell(message);
                    }
                }
                Action::Expect { id, client, filters } => {
                    let home = usize::from(self.shared.home(&client));
                    self.shared.routers[home].push(RouterWork::Expect { id, client, filters }, 256);
                }
                Action::Barrier { id, client, here, to } => {
                    let to = to.iter().filter_map(|node| Some(self.link_of(node)?.index)).collect();
                    self.barrier(Barrier { pass: Pass::Move { id, client, here }, to });
                }
                Action::Mark { id, client, node } => {
                    if let Some(node) = self.index_of(&node) {
                        self.mark(node, id, client, (EVERY, 1));
                    }
                }
                Action::AllMarked { id, client } => {
                    self.to_home(client, |client| ManagerWork::AllMarked { id, client });
                }
                Action::Stays { id, client } => {
                    self.to_home(client, |client| ManagerWork::Stays { id, client });
                }
                Action::Taken { id, client } => {
                    self.to_home(client, |client| ManagerWork::Taken { id, client });
                }
                Action::Forget { client, .. } => {
                    // Behind what had it expected.
                    let home = usize::from(self.shared.home(&client));
                    self.shared.routers[home].push(RouterWork::Forget { client }, 64);
                }
            }
        }
    }

    fn to_home(&self, client: Arc<str>, work: impl FnOnce(Arc<str>) -> ManagerWork) {
        let home = usize::from(self.shared.home(&client));
        self.shared.managers[home].push(work(client), 64);
    }

    /// Who is there has changed: members, or links.
    pub(super) fn look_who_is_there(&mut self) {
        let there = self.links.iter().filter(|link| link.is_there());
        let there = there.map(|link| Arc::clone(&link.node.id)).collect();
        self.moves.there(there);
        self.heirs_go_on();
    }

    /// A node takes a session over from another. What it wants is known before the marks.
    pub(super) fn moves(&mut self, taker: NodeIndex, message: Control) {
        let Control::Move { filters, estates, .. } = &message else { return };
        let wanted: Vec<(Arc<str>, Interest)> =
            filters.iter().map(|filter| (Arc::clone(filter), Interest::Queues)).collect();
        self.wants(taker, &wanted);
        if estates.iter().all(|estate| self.is_resent(*estate)) {
            let from = self.name(taker);
            self.moves.receive(&from, message);
        } else {
            self.deferred_moves.push((taker, message));
        }
    }

    /// Has every router of this node pass a barrier.
    pub(super) fn barrier(&self, barrier: Barrier) {
        let barrier = Arc::new(barrier);
        for router in &self.shared.routers {
            router.push(RouterWork::Barrier(Arc::clone(&barrier)), 64);
        }
    }

    /// One router has passed a barrier: its mark goes out, behind what it published.
    pub(super) fn passed(&mut self, barrier: &Barrier, lane: (u16, u16)) {
        match &barrier.pass {
            Pass::Move { id, client, .. } => {
                for node in &barrier.to {
                    if let Some(link) = self.link(*node) {
                        let (id, client) = (*id, Arc::clone(client));
                        link.tell(Control::Mark { id, client, lane });
                    }
                }
            }
            Pass::Heir { incarnation, heir } => self.resend(*incarnation, *heir, lane),
        }
    }

    /// The mark of another node's lane goes the way of what that lane publishes.
    pub(super) fn mark(&self, node: NodeIndex, id: u64, client: Arc<str>, lane: (u16, u16)) {
        let (lane, lanes) = ((node, lane.0), lane.1);
        self.first_router(lane.1).push(RouterWork::Mark { id, client, lane, lanes }, 64);
    }

    /// A mark has come to the session that is here.
    pub(super) fn marked(&mut self, id: u64, origin: NodeIndex) {
        let origin =
            if origin == SELF { Arc::clone(&self.cluster.node_id) } else { self.name(origin) };
        self.moves.marked(id, &origin);
    }
}
