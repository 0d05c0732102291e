//! Marks on their way: what the routers of a node pass between two publishes, and where it counts
//! ([`hydrant_protocol::cluster::marks`]).
//!
//! A mark goes the way that its lane's publishes go, so that it overtakes none and none overtakes it:
//! the link, the router that the lane has at the other node, the arbiter that holds the session.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use hydrant_protocol::cluster::marks::{EVERY, Lane};
use smallvec::SmallVec;

use crate::cluster::{NodeIndex, PeerWork, SMALL};
use crate::shared::RouterWork;

use super::Shard;
use super::moving::Moving;

/// What the routers of a node pass a [`Barrier`] for.
#[derive(Debug)]
pub enum Pass {
    /// A session moves: what they route behind it goes to the taker as well.
    Move {
        /// Number of the change of hands.
        id: u64,
        /// Whose session it is.
        client: Arc<str>,
        /// The session is here, or comes here.
        here: bool,
    },
    /// What they route behind it for the sessions of a lost node goes to its heir.
    Heir {
        /// The lost incarnation.
        incarnation: u64,
        /// Who has its sessions now.
        heir: NodeIndex,
    },
}

/// Passed by each router of a node, between two publishes.
#[derive(Debug)]
pub struct Barrier {
    /// What for.
    pub pass: Pass,
    /// Nodes that are told.
    pub to: SmallVec<[NodeIndex; 2]>,
}

impl Shard {
    /// This router passes a barrier.
    pub fn pass(&self, barrier: &Arc<Barrier>) {
        self.flush();
        let lanes = u16::try_from(self.shared.routers.len()).unwrap_or(u16::MAX);
        match &barrier.pass {
            Pass::Move { id, client, here: true } => {
                self.send_mark(*id, client, (0, self.index), lanes);
            }
            // What was published before comes back to this router, and its mark behind it.
            Pass::Heir { heir: 0, .. } => self.held_up.set(self.held_up.get() + 1),
            Pass::Move { .. } | Pass::Heir { .. } => {}
        }
        let (barrier, lane) = (Arc::clone(barrier), (self.index, lanes));
        self.to_peers(PeerWork::Passed { barrier, lane }, SMALL);
    }

    /// The mark of another node's lane, behind what it has published: on to where the session is.
    pub fn pass_on(&self, id: u64, client: &Arc<str>, lane: Lane, lanes: u16) {
        self.flush();
        let client = Arc::clone(client);
        if lane.1 != EVERY {
            return self.send_mark(id, &client, lane, lanes);
        }
        // Behind what any of them has of that node: through one after the other.
        let next = usize::from(self.index) + 1;
        let (to, work) = match self.shared.routers.get(next) {
            Some(_) => (next, RouterWork::Mark { id, client, lane, lanes }),
            None => {
                let home = usize::from(self.shared.home(&client));
                (home, RouterWork::Marked { id, client, lane, lanes })
            }
        };
        self.shared.routers[to].push(work, SMALL);
    }

    /// To where the session is. Here it counts at once: behind what stands in this router's own inbox
    /// it would come too late for that.
    fn send_mark(&self, id: u64, client: &Arc<str>, lane: Lane, lanes: u16) {
        let home = self.shared.home(client);
        if home == self.index {
            return self.marked(id, client, lane, lanes);
        }
        let marked = RouterWork::Marked { id, client: Arc::clone(client), lane, lanes };
        self.shared.routers[usize::from(home)].push(marked, SMALL);
    }

    /// A lane has marked the session.
    pub fn marked(&self, id: u64, client: &Arc<str>, lane: Lane, lanes: u16) {
        let slot = self.moving_slot(client);
        let mut sessions = self.sessions.borrow_mut();
        let moving = slot.and_then(|slot| sessions.get(slot)?.moving.as_mut());
        let Some(Moving { transit, .. }) = moving.map(|moving| &mut **moving) else { return };
        let mut counts = false;
        for marks in [&mut transit.arrive, &mut transit.leave].into_iter().flatten() {
            counts |= marks.id == id && marks.pass(lane, lanes);
        }
        if counts {
            self.to_peers(PeerWork::Marked { id, origin: lane.0 }, SMALL);
        }
    }

    /// A lane has sent again what a lost incarnation had not stored: on to every arbiter.
    pub fn pass_on_resent(&self, incarnation: u64, lane: Lane, lanes: u16) {
        self.flush();
        let next = usize::from(self.index) + 1;
        if lane.1 == EVERY
            && let Some(router) = self.shared.routers.get(next)
        {
            return router.push(RouterWork::Resent { incarnation, lane, lanes }, SMALL);
        }
        if lane == (0, self.index) {
            self.held_up.set(self.held_up.get().saturating_sub(1));
            self.wake_router();
            let cluster = self.shared.cluster.as_ref();
            if cluster.is_some_and(|cluster| cluster.synced.load(Ordering::SeqCst)) {
                // What the lost one had begun, now that it is published to its sessions here.
                self.finish_open();
            }
        }
        for (index, router) in (0..).zip(&self.shared.routers) {
            if index == self.index && lane.1 != EVERY {
                self.resent(incarnation, lane, lanes);
            } else {
                router.push(RouterWork::ResentHere { incarnation, lane, lanes }, SMALL);
            }
        }
    }

    /// The same, for the sessions here.
    pub fn resent(&self, incarnation: u64, lane: Lane, lanes: u16) {
        let complete = match self.estates.borrow().get(&incarnation) {
            Some(marks) => marks.borrow_mut().pass(lane, lanes),
            None => true,
        };
        if complete {
            let (shard, origin) = (self.index, lane.0);
            self.to_peers(PeerWork::ResentSeen { incarnation, shard, origin }, SMALL);
        }
    }

    /// Every node has sent again what a lost incarnation had not stored.
    pub fn settled(&self, incarnation: u64) {
        if self.estates.borrow_mut().remove(&incarnation).is_none() {
            return;
        }
        let mut sessions = self.sessions.borrow_mut();
        for (_, session) in &mut sessions.slots {
            let Some(moving) = &mut session.moving else { continue };
            if moving.heir.as_ref().is_some_and(|marks| marks.borrow().id == incarnation) {
                moving.heir = None;
                if moving.is_over() {
                    session.moving = None;
                }
            }
        }
    }
}
