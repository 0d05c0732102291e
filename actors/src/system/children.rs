//! Starts the permanent actors, in the order of the design's picture, and joins the cluster before the listener.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_rt::{Arbiter, ArbiterHandle};
use hydrant_protocol::cluster::{Load, Member};
use tokio::sync::oneshot;

use super::workers::with_driver;
use super::{ActorSystem, StartError};
use crate::connection::listener::Listener;
use crate::connection::manager::ConnectionManager;
use crate::log::{self as log_actor, LogActor};
use crate::node_tables::Found;
use crate::peers::parts::beginning;
use crate::peers::{
    ClusterParts, DiscoveryActor, OnFailure, PeersActor, describe as describe_peers,
};
use crate::routing::router::TopicRouter;
use crate::storage::StorageActor;
use crate::supervision::{ActorCell, Child};
use crate::{say, storage};

impl ActorSystem {
    pub(super) async fn start_children(
        &mut self,
        listener: (Arc<TcpListener>, String),
        nodelay: bool,
        found: Found,
        cluster: Option<ClusterParts>,
        on_failure: &OnFailure,
    ) -> Result<(), StartError> {
        let main = Arbiter::current();
        self.watch("main", &main);
        let services = self.arbiter("services");
        let workers: Vec<ArbiterHandle> = (0..self.mailboxes.managers.len())
            .map(|n| self.arbiter(&format!("worker/{n}")))
            .collect();
        // In the order of the design's picture.
        let (socket, name) = listener;
        let (shared, mailboxes) = (Arc::clone(&self.shared), Arc::clone(&self.mailboxes));
        let listening = self.cell(&format!("listener/{name}"), "Listener", |cell| cell);
        let managers: Vec<_> = (0..workers.len()).map(|n| self.manager_cell(n)).collect();
        let routers: Vec<_> = (0..workers.len()).map(|n| self.router_cell(n)).collect();
        let (depth, detail) = (self.storage.clone(), self.storage.clone());
        let storing = self.cell("storage", "StorageActor", |cell| {
            cell.with_depth(move || depth.mailboxes.storage.len())
                .with_detail(move || storage::describe(&detail))
        });
        let (depth, detail) = (self.log.clone(), self.log.clone());
        let logging = self.cell("log", "LogActor", |cell| {
            cell.with_depth(move || log_actor::depth(&depth))
                .with_detail(move || log_actor::describe(&detail))
        });
        let peering = cluster.as_ref().map(|_| self.cluster_cells());
        let beginning = cluster.as_ref().map(|parts| beginning(&*parts.store));
        self.restore(&workers, found, beginning).await;
        let parts = self.storage.clone();
        self.child(storing, &services, move |cell| StorageActor::build(&parts, cell));
        let parts = self.log.clone();
        self.child(logging, &services, move |cell| LogActor::build(&parts, cell));
        for (n, worker) in workers.iter().enumerate() {
            self.child(Arc::clone(&routers[n]), worker, |cell| {
                with_driver(|driver| TopicRouter::build(driver, cell))
            });
            self.child(Arc::clone(&managers[n]), worker, |cell| {
                with_driver(|driver| ConnectionManager::build(driver, cell))
            });
        }
        if let (Some(parts), Some(cells)) = (cluster, peering) {
            self.join(parts, cells, on_failure).await?;
        }
        self.child(listening, &main, move |cell| {
            match Listener::build(&shared, &mailboxes, &socket, nodelay, cell) {
                Ok(running) => running,
                // The supervisor takes a factory's panic for a failed start and tries again.
                #[allow(clippy::panic)]
                Err(error) => panic!("the listening socket cannot be watched: {error}"),
            }
        });
        self.start_sys();
        Ok(())
    }

    fn cluster_cells(&self) -> (Arc<ActorCell>, Arc<ActorCell>) {
        let shared = Arc::clone(&self.shared);
        let discovery = self.cell("discovery", "DiscoveryActor", |cell| cell);
        let (depth, detail) = (Arc::clone(&self.mailboxes), shared);
        let peers = self.cell("peers", "PeersActor", |cell| {
            cell.with_depth(move || depth.peers.len()).with_detail(move || {
                detail.cluster.as_ref().map_or_else(String::new, |c| describe_peers(c))
            })
        });
        (discovery, peers)
    }

    /// Joins the cluster; returns when every member has told what it wants and holds, so that no
    /// client of this node finds less than there is.
    async fn join(
        &mut self,
        parts: ClusterParts,
        (discovery, peers): (Arc<ActorCell>, Arc<ActorCell>),
        on_failure: &OnFailure,
    ) -> Result<(), StartError> {
        let Some(cluster) = self.shared.cluster.clone() else { return Ok(()) };
        let arbiter = self.arbiter("peers");
        let (shared, known) = (Arc::clone(&self.shared), Arc::clone(&cluster));
        let mailboxes = Arc::clone(&self.mailboxes);
        let (store, on_failure) = (Arc::clone(&parts.store), Arc::clone(on_failure));
        let (done, prepared) = oneshot::channel();
        let listener = parts.listener.try_clone().map_err(|error| {
            StartError::Cluster(format!("the peer port cannot be watched: {error}"))
        })?;
        arbiter.spawn_fn(move || {
            PeersActor::prepare(&known, &shared, &mailboxes, listener, &store, &on_failure);
            let _ = done.send(());
        });
        let _ = prepared.await;
        self.child(peers, &arbiter, PeersActor::build);
        let (protocol_low, protocol_high) = hydrant_protocol::cluster::link::VERSIONS;
        let me = Member {
            node_id: Arc::clone(&cluster.node_id),
            incarnation: cluster.incarnation,
            peer: parts.settings.peer.clone(),
            mqtt: parts.settings.mqtt.clone(),
            version: parts.settings.version.clone(),
            protocol: (protocol_low, protocol_high),
            load: Load::default(),
            draining: false,
        };
        // Before it is joined: who is interrupted leaves, however far it is.
        self.membership = Some(Arc::clone(&parts.membership));
        let views = parts.membership.join(me).await.map_err(StartError::Cluster)?;
        self.views = Some(views.clone());
        let (shared, mailboxes) = (Arc::clone(&self.shared), Arc::clone(&self.mailboxes));
        let known = Arc::clone(&cluster);
        let membership = Arc::clone(&parts.membership);
        self.child(discovery, &arbiter, move |cell| {
            DiscoveryActor::build(&shared, &mailboxes, &known, &membership, &views, cell)
        });
        // Nothing but what is waited for ends it: a time-out would let clients publish past sessions.
        let mut told = Instant::now();
        while !cluster.status.is_synced() {
            if told.elapsed() > parts.settings.repair {
                told = Instant::now();
                let what = cluster.status.waits_for();
                say::warn!("this start waits for {what}, and lets no client in before");
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    fn cell(
        &self,
        path: &str,
        kind: &'static str,
        build: impl FnOnce(ActorCell) -> ActorCell,
    ) -> Arc<ActorCell> {
        let cell = build(ActorCell::new(path, kind)).shared();
        self.registry.add(Arc::clone(&cell));
        cell
    }

    fn manager_cell(&self, n: usize) -> Arc<ActorCell> {
        let (inbox, metrics) =
            (self.mailboxes.managers[n].clone(), Arc::clone(&self.shared.metrics.workers[n]));
        self.cell(&format!("connection-manager/{n}"), "ConnectionManager", |cell| {
            cell.with_depth(move || inbox.len()).with_detail(move || {
                let (open, offline) = (metrics.connections.get(), metrics.sessions_offline.get());
                format!("{open} connections, {offline} sessions offline")
            })
        })
    }

    fn router_cell(&self, n: usize) -> Arc<ActorCell> {
        let inbox = self.mailboxes.routers[n].clone();
        self.cell(&format!("topic-router/{n}"), "TopicRouter", |cell| {
            cell.with_depth(move || inbox.len())
        })
    }

    fn child(
        &self,
        cell: Arc<ActorCell>,
        arbiter: &ArbiterHandle,
        factory: impl Fn(&Arc<ActorCell>) -> crate::supervision::Running + Send + Sync + 'static,
    ) {
        self.supervisor.add(Child { cell, arbiter: arbiter.clone(), factory: Arc::new(factory) });
    }

    fn arbiter(&mut self, name: &str) -> ArbiterHandle {
        let arbiter = Arbiter::new();
        let handle = arbiter.handle();
        self.arbiters.push(arbiter);
        self.watch(name, &handle);
        handle
    }

    fn watch(&self, name: &str, arbiter: &ArbiterHandle) {
        if let Some(watchdog) = &self.watchdog {
            watchdog.watch(name, arbiter);
        }
    }
}
