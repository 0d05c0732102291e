//! Starts the actor tree of a node on its arbiters, and stops it.
//!
//! Order at start: store and log are read, sessions restored, permanent actors started, then the
//! listener. At shutdown the other way round: no new sockets, connections drain, batches are
//! written, the log is flushed.

mod children;
mod found;
mod stop;
mod workers;

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use actix_rt::Arbiter;
use hydrant_protocol::cluster::MembershipView;
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

use crate::cluster::Cluster;
use crate::log::{LogActor, LogParts, gate_of};
use crate::mailboxes::Mailboxes;
use crate::messages::{ConnectionInfo, ManagerTask};
use crate::node_tables::NodeTables;
use crate::peers::parts::{AtOnce, beginning};
use crate::peers::{ClusterParts, OnFailure};
use crate::ports::{Membership, MessageLog, SessionStore, StoreError};
use crate::settings::Settings;
use crate::storage::{StorageParts, WriteQueue};
use crate::supervision::{ActorCell, Fault, Registry, Supervisor, SupervisorHandle, Watchdog};
use found::read;

/// How long a tree that did not get whole is given to write what it has.
const UNDONE: Duration = Duration::from_secs(1);

/// What a tree is made of.
pub struct Parts {
    /// Checked settings.
    pub settings: Arc<Settings>,
    /// The session store.
    pub store: Arc<dyn SessionStore>,
    /// The message log; one that refuses everything where `log.kind` is none.
    pub log: Arc<dyn MessageLog>,
    /// The bound listening socket, non-blocking, and its name in the tree.
    pub listener: (Arc<TcpListener>, String),
    /// TCP_NODELAY on accepted sockets.
    pub nodelay: bool,
    /// Other nodes; `None`: this one is alone.
    pub cluster: Option<ClusterParts>,
    /// Called once when the tree cannot be kept up; the node exits non-zero with the sentence.
    pub on_failure: OnFailure,
}

/// Why a tree did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// What stands in the store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The operating system gives no thread.
    #[error("no thread can be started: {0}")]
    Thread(io::Error),
    /// The node cannot join the cluster.
    #[error("{0}")]
    Cluster(String),
    /// What was to interrupt it came first.
    #[error("the start was interrupted")]
    Interrupted,
}

/// A running tree.
pub struct ActorSystem {
    /// What the actors share.
    pub shared: Arc<NodeTables>,
    /// The inboxes of the actors.
    pub mailboxes: Arc<Mailboxes>,
    /// The tree for `broker tree`.
    pub registry: Arc<Registry>,
    supervisor: SupervisorHandle,
    storage: StorageParts,
    log: LogParts,
    arbiters: Vec<Arbiter>,
    watchdog: Option<Watchdog>,
    membership: Option<Arc<dyn Membership>>,
    /// The members as this node sees them; in a cluster.
    pub views: Option<watch::Receiver<MembershipView>>,
}

impl ActorSystem {
    /// [`Self::start_unless`] nothing interrupts it.
    ///
    /// # Errors
    /// See there.
    pub async fn start(parts: Parts) -> Result<Self, StartError> {
        Self::start_unless(parts, std::future::pending()).await
    }

    /// Starts the tree; on the main arbiter, which carries supervisor and listener. Given up once
    /// `interrupted` is ready. What has begun by then, or when it fails, is stopped: nothing is
    /// written any more and the cluster is left.
    ///
    /// # Errors
    /// The store cannot be read, there is no thread to be had, the cluster cannot be joined, or it was
    /// interrupted.
    pub async fn start_unless(
        parts: Parts,
        interrupted: impl Future<Output = ()>,
    ) -> Result<Self, StartError> {
        let mut interrupted = std::pin::pin!(interrupted);
        let found = tokio::select! {
            found = read(&parts.store, parts.cluster.is_some()) => found?,
            () = &mut interrupted => return Err(StartError::Interrupted),
        };
        let settings = Arc::clone(&parts.settings);
        let cluster = parts.cluster.as_ref().map(|cluster| {
            let at_once = Arc::new(AtOnce(Arc::clone(&cluster.store)));
            let beginning = beginning(&*cluster.store);
            Cluster::new(&settings.node_id, beginning, &at_once, cluster.settings.clone())
        });
        let gate = gate_of(Arc::clone(&parts.log));
        let shared = NodeTables::new(&settings, &found, cluster, gate, crate::clock::now());
        let max_link_bytes = |cluster: &ClusterParts| cluster.settings.max_link_bytes;
        let max_link_bytes = parts.cluster.as_ref().map_or(usize::MAX, max_link_bytes);
        let mailboxes = Mailboxes::new(&settings, max_link_bytes);
        let registry = Registry::new(Arc::clone(&settings.node_id));
        let failure = Arc::clone(&parts.on_failure);
        let watchdog = Watchdog::start(
            &settings.supervision,
            Arc::clone(&shared.metrics),
            Box::new(move |why| failure(why)),
        )
        .map_err(StartError::Thread)?;
        let cell = ActorCell::new("supervisor", "Supervisor").shared();
        registry.add(Arc::clone(&cell));
        let failure = Arc::clone(&parts.on_failure);
        let supervisor = Supervisor::start(
            cell,
            settings.supervision.clone(),
            Arc::clone(&shared.metrics),
            Box::new(move |why| failure(why)),
        );
        let storage = StorageParts {
            shared: Arc::clone(&shared),
            mailboxes: Arc::clone(&mailboxes),
            store: Arc::clone(&parts.store),
            queue: Arc::new(Mutex::new(WriteQueue::new(&settings.storage))),
        };
        let log = LogActor::parts(&shared, &mailboxes, parts.log, parts.store);
        let mut system = Self {
            shared,
            mailboxes,
            registry,
            supervisor,
            storage,
            log,
            arbiters: Vec::new(),
            watchdog: Some(watchdog),
            membership: None,
            views: None,
        };
        let started = tokio::select! {
            started = system.start_children(parts.listener, parts.nodelay, found, parts.cluster, &parts.on_failure) => started,
            () = &mut interrupted => Err(StartError::Interrupted),
        };
        match started {
            Ok(()) => Ok(system),
            Err(error) => {
                system.stop(UNDONE).await;
                Err(error)
            }
        }
    }

    /// True when every actor runs.
    pub fn is_whole(&self) -> bool {
        self.supervisor.is_whole()
    }

    /// Makes an actor misbehave, for tests. Connections are `connection/CLIENT-ID`; whether there
    /// is such a connection is not answered.
    ///
    /// # Errors
    /// No such actor.
    pub fn fault(
        shared: &NodeTables,
        mailboxes: &Mailboxes,
        registry: &Registry,
        path: &str,
        fault: Fault,
    ) -> Result<(), String> {
        let Some(client_id) = path.strip_prefix("connection/") else {
            return registry.arm_fault(path, fault);
        };
        let work = ManagerTask::Fault { client_id: client_id.to_owned(), fault };
        mailboxes.managers[usize::from(shared.home(client_id))].push(work, 64);
        Ok(())
    }

    /// One page of the open connections, over all managers in their order.
    pub async fn connections(
        shared: &NodeTables,
        mailboxes: &Mailboxes,
        skip: usize,
        limit: usize,
    ) -> Vec<ConnectionInfo> {
        let mut rows = Vec::new();
        let mut skip = skip;
        for (n, manager) in mailboxes.managers.iter().enumerate() {
            if rows.len() >= limit {
                break;
            }
            let here =
                usize::try_from(shared.metrics.workers[n].connections.get()).unwrap_or(usize::MAX);
            if skip >= here {
                skip -= here;
                continue;
            }
            let (reply, answer) = oneshot::channel();
            manager.push(ManagerTask::List { skip, limit: limit - rows.len(), reply }, 64);
            rows.extend(answer.await.unwrap_or_default());
            skip = 0;
        }
        rows
    }
}
