//! DiscoveryActor: who else is in the cluster, and what the others are shown of this node.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use actix::{Actor, Context, Handler, StreamHandler};
use futures_util::stream;
use hydrant_protocol::cluster::{Load, View};
use tokio::sync::watch;

use super::{Cluster, PeerWork};
use crate::every::every;
use crate::ports::Membership;
use crate::shared::Shared;
use crate::supervision::{ActorCell, Ping, Running, on_ping};

/// How often the others are shown how busy this node is.
const SHOW: Duration = Duration::from_secs(5);

/// See the module.
pub struct DiscoveryActor {
    shared: Arc<Shared>,
    cluster: Arc<Cluster>,
    membership: Arc<dyn Membership>,
    cell: Arc<ActorCell>,
}

impl DiscoveryActor {
    /// Prepares the actor.
    pub fn build(
        shared: &Arc<Shared>,
        cluster: &Arc<Cluster>,
        membership: &Arc<dyn Membership>,
        views: &watch::Receiver<View>,
        cell: &Arc<ActorCell>,
    ) -> Running {
        let actor = Self {
            shared: Arc::clone(shared),
            cluster: Arc::clone(cluster),
            membership: Arc::clone(membership),
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
        let fenced = !self.cluster.may_act();
        shared.set_ready(
            "lease",
            fenced.then(|| "the lease in the store is over: is Cassandra away?".to_owned()),
        );
        self.membership.update(load, draining);
    }
}

impl Actor for DiscoveryActor {
    type Context = Context<Self>;
}

impl StreamHandler<View> for DiscoveryActor {
    fn handle(&mut self, view: View, _: &mut Self::Context) {
        let _entered = self.cell.enter(1);
        self.cluster.work.push(PeerWork::View(view), 1024);
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
