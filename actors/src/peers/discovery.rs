//! DiscoveryActor: who else is in the cluster, and what the others are shown of this node.
//!
//! A node whose lease in the store is over takes itself out of the members, so that the others take it for lost and
//! seal it. Where the store answers again before that, it is back in the same incarnation.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use actix::{Actor, Context, Handler, StreamHandler};
use futures_util::stream;
use hydrant_protocol::cluster::{Load, MembershipView};
use tokio::sync::watch;

use crate::cluster::Cluster;
use crate::every::every;
use crate::mailboxes::Mailboxes;
use crate::messages::PeerWork;
use crate::node_tables::NodeTables;
use crate::ports::Membership;
use crate::say;
use crate::supervision::{ActorCell, Ping, Running, on_ping};

/// How often the others are shown how busy this node is, where that has changed.
const SHOW: Duration = Duration::from_secs(5);
/// How often it is looked whether the lease in the store runs.
const LOOK: Duration = Duration::from_secs(1);
/// Connections that came or went and are not worth it, besides a twentieth.
const SMALL_CHANGE: u64 = 10;

/// See the module.
pub struct DiscoveryActor {
    shared: Arc<NodeTables>,
    mailboxes: Arc<Mailboxes>,
    cluster: Arc<Cluster>,
    membership: Arc<dyn Membership>,
    shown: Cell<Option<(Load, bool)>>,
    /// Its lease was over when that was looked at last.
    fenced: Cell<bool>,
    cell: Arc<ActorCell>,
}

/// Whether the others are shown it: each of them learns of every change and reads it, so a cluster of many
/// nodes would do little else.
fn is_news((load, draining): (Load, bool), now: (Load, bool)) -> bool {
    let moved = load.connections.abs_diff(now.0.connections);
    draining != now.1
        || load.max_connections != now.0.max_connections
        || moved > SMALL_CHANGE.max(load.connections / 20)
}

impl DiscoveryActor {
    /// Prepares the actor.
    pub fn build(
        shared: &Arc<NodeTables>,
        mailboxes: &Arc<Mailboxes>,
        cluster: &Arc<Cluster>,
        membership: &Arc<dyn Membership>,
        views: &watch::Receiver<MembershipView>,
        cell: &Arc<ActorCell>,
    ) -> Running {
        let actor = Self {
            shared: Arc::clone(shared),
            mailboxes: Arc::clone(mailboxes),
            cluster: Arc::clone(cluster),
            membership: Arc::clone(membership),
            shown: Cell::new(None),
            fenced: Cell::new(false),
            cell: Arc::clone(cell),
        };
        let mut views = views.clone();
        // A rebuilt actor begins with the present view.
        views.mark_changed();
        let views = stream::unfold(views, |mut views| async {
            views.changed().await.ok()?;
            let view = views.borrow_and_update().clone();
            Some((view, views))
        });
        Running::new(actor, |ctx| {
            DiscoveryActor::add_stream(views, ctx);
            every(ctx, SHOW, |actor: &mut DiscoveryActor, _| actor.show());
            every(ctx, LOOK, |actor: &mut DiscoveryActor, _| actor.look());
        })
    }

    fn show(&self) {
        let _entered = self.cell.enter(0);
        let load = Load {
            connections: self.shared.connections.load(Ordering::Relaxed) as u64,
            max_connections: self.shared.settings.limits.max_connections as u64,
        };
        let shared = &self.shared;
        let draining =
            shared.stopping.load(Ordering::Relaxed) || shared.draining.load(Ordering::Relaxed);
        if self.shown.get().is_none_or(|shown| is_news(shown, (load, draining))) {
            self.shown.set(Some((load, draining)));
            self.membership.update(load, draining);
        }
    }

    /// Without a lease nothing leaves this node, so what is for its clients is another's to take over.
    fn look(&self) {
        let _entered = self.cell.enter(0);
        let fenced = !self.cluster.may_act();
        self.shared.set_ready(
            "lease",
            fenced.then(|| "the lease in the store is over: is Cassandra away?".to_owned()),
        );
        if self.fenced.replace(fenced) != fenced && !self.shared.stopping.load(Ordering::Relaxed) {
            if fenced {
                say::warn!(target: "hydrant::peers", "the lease in the store is over: this node is no member until it is renewed, and the others take its sessions over");
            } else {
                say::info!(target: "hydrant::peers", "the lease in the store is renewed: this node is a member again");
            }
        }
        self.membership.present(!fenced);
    }
}

impl Actor for DiscoveryActor {
    type Context = Context<Self>;
}

impl StreamHandler<MembershipView> for DiscoveryActor {
    fn handle(&mut self, view: MembershipView, _: &mut Self::Context) {
        let _entered = self.cell.enter(1);
        self.mailboxes.peers.push(PeerWork::Members(view), 1024);
    }

    // The members that were known last stay known.
    fn finished(&mut self, _: &mut Self::Context) {}
}

impl Handler<Ping> for DiscoveryActor {
    type Result = ();
    fn handle(&mut self, _: Ping, ctx: &mut Self::Context) {
        on_ping(&self.cell, ctx);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_changes_of_the_load_are_not_shown() {
        let said =
            |connections, draining| (Load { connections, max_connections: 100_000 }, draining);
        assert!(!is_news(said(0, false), said(10, false)));
        assert!(is_news(said(0, false), said(11, false)));
        assert!(!is_news(said(20_000, false), said(19_000, false)));
        assert!(is_news(said(20_000, false), said(18_999, false)));
        assert!(is_news(said(5, false), said(5, true)));
    }
}
