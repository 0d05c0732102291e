//! PeersActor: the links to the other nodes. Publishes go out and come in, what each node wants is
//! told to every other, and acknowledgements come back.
//!
//! It gives its inbox, its ticks and its deadlines to the coordinator, through the driver, and has no thoughts of its own. Both live
//! on its thread and not in the actor: a rebuilt one finds the links as they were, no socket closes.

use std::cell::RefCell;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, Context, Handler, StreamHandler};

use super::driver::{Driver, Due, Handle, deadlines};
use super::io;
use super::parts::OnFailure;
use crate::clock;
use crate::cluster::Cluster;
use crate::cluster::coordinator::Coordinator;
use crate::every::every;
use crate::inbox::Work;
use crate::mailboxes::Mailboxes;
use crate::node_tables::NodeTables;
use crate::now::Now;
use crate::ports::SharedStore;
use crate::supervision::{ActorCell, Ping, Running, on_ping};

/// How often claims that wait long and nodes that are lost are looked at.
const TICK: Duration = Duration::from_millis(500);
/// Work items handled before the sockets get their turn.
const AT_ONCE: usize = 512;

thread_local! {
    static PEERS: RefCell<Option<Handle>> = const { RefCell::new(None) };
}

/// See the module.
pub struct PeersActor {
    peers: Handle,
    cell: Arc<ActorCell>,
}

impl PeersActor {
    /// Makes the state of the links and opens the peer port, on its thread; before
    /// [`PeersActor::build`].
    pub fn prepare(
        cluster: &Arc<Cluster>,
        shared: &Arc<NodeTables>,
        mailboxes: &Arc<Mailboxes>,
        listener: TcpListener,
        store: &Arc<dyn SharedStore>,
        on_failure: &OnFailure,
    ) {
        let coordinator = Coordinator::new(cluster, shared, clock::now());
        let peers = Driver::new(coordinator, cluster, mailboxes, store, on_failure);
        tokio::task::spawn_local(io::accept(Rc::clone(&peers), listener));
        Self::keep(&peers);
    }

    /// Whoever is built on this thread drives these.
    pub(super) fn keep(peers: &Handle) {
        PEERS.with(|slot| *slot.borrow_mut() = Some(Rc::clone(peers)));
    }

    /// Prepares the actor.
    pub fn build(cell: &Arc<ActorCell>) -> Running {
        let Some(peers) = PEERS.with(|slot| slot.borrow().clone()) else {
            // The first task of this arbiter has made it.
            #[allow(clippy::panic)]
            {
                panic!("the links are not prepared")
            }
        };
        let (work, due) = (peers.mailboxes.peers.stream(), deadlines(Rc::clone(&peers)));
        let actor = Self { peers, cell: Arc::clone(cell) };
        Running::new(actor, |ctx| {
            <PeersActor as StreamHandler<Work>>::add_stream(work, ctx);
            <PeersActor as StreamHandler<Due>>::add_stream(due, ctx);
            every(ctx, TICK, |actor: &mut PeersActor, _| {
                let _entered = actor.cell.enter(0);
                let may_act = actor.peers.cluster.may_act();
                step(&actor.peers, |peers, now| peers.handle_tick(now, may_act));
            });
        })
    }
}

impl Actor for PeersActor {
    type Context = Context<Self>;
}

impl StreamHandler<Work> for PeersActor {
    fn handle(&mut self, _: Work, _: &mut Self::Context) {
        let mut entered = self.cell.enter(0);
        let mut taken = self.peers.mailboxes.peers.take(AT_ONCE);
        step(&self.peers, |peers, now| {
            while taken.front_mut().is_some() {
                self.cell.fault_point();
                let Some(work) = taken.pop() else { break };
                peers.handle_message(now, work);
                entered.add(1);
            }
            peers.handle_turn(now);
        });
        // What follows from the last of them is with others before they are not counted here any more.
        drop(taken);
    }
}

impl StreamHandler<Due> for PeersActor {
    fn handle(&mut self, _: Due, _: &mut Self::Context) {
        let _entered = self.cell.enter(0);
        self.cell.fault_point();
        step(&self.peers, Coordinator::handle_deadline);
    }
}

impl Handler<Ping> for PeersActor {
    type Result = ();
    fn handle(&mut self, _: Ping, ctx: &mut Self::Context) {
        on_ping(&self.cell, ctx);
    }
}

/// For `broker tree`.
pub(crate) fn describe(cluster: &Cluster) -> String {
    let nodes = cluster.status.nodes();
    let others: Vec<String> = nodes
        .iter()
        // Lost starts of this node itself have no link.
        .filter(|node| node.id != cluster.node_id)
        .map(|node| {
            let up = if node.is_up() { "up" } else { "down" };
            format!("{} {up}", node.id)
        })
        .collect();
    if others.is_empty() { "no other node".to_owned() } else { others.join(", ") }
}

/// One step, behind which nodes may have to be dialled.
fn step(handle: &Handle, act: impl FnOnce(&mut Coordinator, Now)) {
    handle.step(act);
    for node in handle.take_to_dial() {
        tokio::task::spawn_local(io::dial(Rc::clone(handle), node));
    }
}
