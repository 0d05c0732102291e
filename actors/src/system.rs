//! Starts the actor tree of a node on its arbiters, and stops it.
//!
//! Order at start: store and log are read, sessions restored, permanent actors started, then the
//! listener. At shutdown the other way round: no new sockets, connections drain, batches are
//! written, the log is flushed.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use actix_rt::{Arbiter, ArbiterHandle};
use hydrant_protocol::cluster::message::Control;
use hydrant_protocol::cluster::{Load, Member, MembershipView};
use hydrant_protocol::topic::{Retained, SubscriptionTable};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{oneshot, watch};

use crate::clock::Clock;
use crate::cluster::{Cluster, ClusterParts, EARLIER_STARTS};
use crate::connection::listener::Listener;
use crate::connection::manager::ConnectionManager;
use crate::drain_budget::Budget;
use crate::generations::Generations;
use crate::inbox::Inbox;
use crate::log::{self as log_actor, DeadLetters, Gate, LogActor, LogParts, OutboxProgress};
use crate::mailboxes::Mailboxes;
use crate::messages::{ConnectionInfo, ManagerWork, PeerWork};
use crate::metrics::Metrics;
use crate::node_tables::NodeTables;
use crate::peers::{DiscoveryActor, PeersActor, describe as describe_peers};
use crate::ports::{
    DeadId, Lanes, Membership, MessageLog, SessionStore, StoreError, StoredSession, StoredWill,
    UNFINISHED, UNFINISHED_WHY,
};
use crate::routing::router::TopicRouter;
use crate::say;
use crate::settings::Settings;
use crate::storage::{self, StorageActor, StorageParts, WriteQueue};
use crate::supervision::{
    ActorCell, Child, Fault, Registry, Supervisor, SupervisorHandle, Watchdog,
};
use crate::sys::Sys;
use crate::worker::{Origin, Worker};

/// Sessions and connections with a will that one incarnation of a node in a cluster can make: 2 to the power of
/// this.
const SESSION_BITS: u32 = 40;
/// Longest wait for ZooKeeper at shutdown, within the deadline; the others learn of it by the session's
/// end then.
const LEAVE: Duration = Duration::from_secs(2);
/// What flushing the log and leaving the cluster get of a deadline that is over, each.
const LEAST: Duration = Duration::from_millis(100);
/// How long a tree that did not get whole is given to write what it has.
const UNDONE: Duration = Duration::from_secs(1);

thread_local! {
    static WORKER: RefCell<Option<Rc<Worker>>> = const { RefCell::new(None) };
}

/// The worker of this arbiter's thread.
fn current_worker() -> Option<Rc<Worker>> {
    WORKER.with(|worker| worker.borrow().clone())
}

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
    pub on_failure: Arc<dyn Fn(String) + Send + Sync>,
}

/// What was found in the store at start.
struct Found {
    sessions: Vec<StoredSession>,
    wills: Vec<StoredWill>,
    /// In a cluster they are read when the other nodes are heard of, so that no change is missed in between.
    retained: Retained,
    /// The highest version among them.
    retained_clock: u64,
    lanes: Lanes,
    /// Id and cost of each.
    dead_letters: Vec<(DeadId, u64)>,
}

async fn read(store: &Arc<dyn SessionStore>, clustered: bool) -> Result<Found, StoreError> {
    let (mut retained, mut retained_clock) = (Retained::new(), 0);
    if !clustered {
        for (message, version) in store.retained().await? {
            retained.insert(message);
            retained_clock = version.max(retained_clock);
        }
    }
    let sessions = store.sessions().await?;
    if sessions.iter().any(|session| &*session.client_id == UNFINISHED) {
        return Err(StoreError::Unusable(UNFINISHED_WHY.to_owned()));
    }
    let (wills, lanes) = (store.wills().await?, store.lanes().await?);
    let dead_letters = dead_letters(&**store).await?;
    Ok(Found { sessions, wills, retained, retained_clock, lanes, dead_letters })
}

/// Every dead letter, read a page at a time.
async fn dead_letters(store: &dyn SessionStore) -> Result<Vec<(DeadId, u64)>, StoreError> {
    let (mut found, mut from) = (Vec::new(), DeadId::default());
    loop {
        let page = store.dead_letters(from, 1000, 4 << 20).await?;
        let Some(last) = page.last() else { return Ok(found) };
        from = last.id.next();
        found.extend(page.iter().map(|letter| (letter.id, letter.cost())));
    }
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
            let store = Arc::clone(&cluster.store);
            let cluster = Cluster::new(&settings.node_id, store, cluster.settings.clone());
            let _ = cluster.on_failure.set(Arc::clone(&parts.on_failure));
            cluster
        });
        let shared = make_shared(&settings, &found, cluster, Gate::new(Arc::clone(&parts.log)));
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
            started = system.start_children(parts.listener, parts.nodelay, found, parts.cluster) => started,
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

    async fn start_children(
        &mut self,
        listener: (Arc<TcpListener>, String),
        nodelay: bool,
        found: Found,
        cluster: Option<ClusterParts>,
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
        self.restore(&workers, found).await;
        let parts = self.storage.clone();
        self.child(storing, &services, move |cell| StorageActor::build(&parts, cell));
        let parts = self.log.clone();
        self.child(logging, &services, move |cell| LogActor::build(&parts, cell));
        for (n, worker) in workers.iter().enumerate() {
            self.child(Arc::clone(&routers[n]), worker, |cell| {
                with_worker(|worker| TopicRouter::build(worker, cell))
            });
            self.child(Arc::clone(&managers[n]), worker, |cell| {
                with_worker(|worker| ConnectionManager::build(worker, cell))
            });
        }
        if let (Some(parts), Some(cells)) = (cluster, peering) {
            self.join(parts, cells).await?;
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
    ) -> Result<(), StartError> {
        let Some(cluster) = self.shared.cluster.clone() else { return Ok(()) };
        let arbiter = self.arbiter("peers");
        let (shared, known) = (Arc::clone(&self.shared), Arc::clone(&cluster));
        let mailboxes = Arc::clone(&self.mailboxes);
        let (done, prepared) = oneshot::channel();
        let listener = parts.listener.try_clone().map_err(|error| {
            StartError::Cluster(format!("the peer port cannot be watched: {error}"))
        })?;
        arbiter.spawn_fn(move || {
            PeersActor::prepare(&known, &shared, &mailboxes, listener);
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
        while !cluster.synced.load(Ordering::SeqCst) {
            if told.elapsed() > parts.settings.repair {
                told = Instant::now();
                let what = cluster.waits_for.lock().clone();
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

    /// Makes the workers and gives each the sessions and wills whose home it is.
    async fn restore(&self, workers: &[ArbiterHandle], found: Found) {
        let held: Vec<Arc<str>> =
            found.sessions.iter().map(|session| Arc::clone(&session.client_id)).collect();
        let mut sessions = self.shared.by_home(found.sessions, |session| &session.client_id);
        let mut wills = self.shared.by_home(found.wills, |will| &will.client_id);
        let mut restored = Vec::new();
        let mut prepared = HashMap::new();
        if let Some(cluster) = &self.shared.cluster {
            self.mailboxes.peers.push(PeerWork::Holds(held), 1024);
            let begun = cluster.store.prepared_publishes();
            cluster.finishes(&begun);
            prepared = self.shared.by_home(begun, |publish| &publish.publisher);
        }
        for (index, worker) in (0_u16..).zip(workers) {
            let (shared, mailboxes) = (Arc::clone(&self.shared), Arc::clone(&self.mailboxes));
            let sessions = sessions.remove(&index).unwrap_or_default();
            let wills = wills.remove(&index).unwrap_or_default();
            let prepared = prepared.remove(&index).unwrap_or_default();
            let (done, wait) = oneshot::channel();
            worker.spawn_fn(move || {
                let clustered = shared.cluster.is_some();
                let worker = Worker::new(index, shared, mailboxes);
                for session in &sessions {
                    worker.restore_session(session, EARLIER_STARTS);
                }
                worker.await_own_markers();
                if let Some(cluster) = &worker.shared.cluster
                    && let Some(predecessor) = cluster.predecessor()
                {
                    worker.begin_dedup(predecessor, &cluster.store.stored_batches());
                }
                worker.hold_prepared(&prepared);
                for will in wills {
                    // Whom it is for is not known before the other nodes are.
                    match clustered {
                        true => worker.hold_will(will),
                        false => worker.restore_will(&will),
                    }
                }
                WORKER.with(|slot| *slot.borrow_mut() = Some(worker));
                let _ = done.send(());
            });
            restored.push(wait);
        }
        for wait in restored {
            let _ = wait.await;
        }
    }

    /// `$SYS`, on the first worker.
    fn start_sys(&self) {
        let interval = self.shared.settings.sys_interval;
        if interval.is_zero() {
            return;
        }
        let Some(worker) = self.arbiters.get(1) else { return };
        worker.spawn(async move {
            let mut sys = Sys::default();
            let mut timer = tokio::time::interval(interval);
            loop {
                timer.tick().await;
                let Some(worker) = current_worker() else { return };
                for message in sys.messages(&worker.shared) {
                    worker.publish_internal(Origin::Node, message, Vec::new());
                }
            }
        });
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
        let work = ManagerWork::Fault { client_id: client_id.to_owned(), fault };
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
            manager.push(ManagerWork::List { skip, limit: limit - rows.len(), reply }, 64);
            rows.extend(answer.await.unwrap_or_default());
            skip = 0;
        }
        rows
    }

    /// Stops in order: no new sockets, connections drain, batches are written, the log is flushed.
    /// False when the deadline cut it short; what was acknowledged as stored is in the store then
    /// too.
    pub async fn stop(mut self, deadline: Duration) -> bool {
        let until = Instant::now() + deadline;
        self.shared.stopping.store(true, Ordering::SeqCst);
        self.shared.set_ready("shutdown", Some("the node shuts down".to_owned()));
        if self.shared.cluster.is_some() {
            self.mailboxes.peers.push(PeerWork::Broadcast(Control::Stopping), 64);
        }
        self.supervisor.begin_shutdown();
        let waits: Vec<_> = self
            .mailboxes
            .managers
            .iter()
            .map(|manager| {
                let (done, wait) = oneshot::channel();
                manager.push(ManagerWork::Drain { done }, 64);
                wait
            })
            .collect();
        let left = |until: Instant| until.saturating_duration_since(Instant::now());
        let mut whole = true;
        for wait in waits {
            whole &= tokio::time::timeout(left(until), wait).await.is_ok();
        }
        whole &= self.until_written(until).await;
        if self.log.log.is_up() {
            whole &= self.log.log.flush(left(until).max(LEAST));
        } else {
            self.say_what_stays();
        }
        if let Some(membership) = &self.membership {
            // What is left to do others do now.
            let _ = tokio::time::timeout(left(until).clamp(LEAST, LEAVE), membership.leave()).await;
        }
        self.supervisor.finish();
        drop(self.watchdog.take());
        for arbiter in &self.arbiters {
            arbiter.stop();
        }
        whole
    }

    fn say_what_stays(&self) {
        let (records, _) = self.shared.lanes.lock().backlog();
        let pending = self.log.state.lock().len();
        say::warn!(
            "the log is away: {records} records stay in the outbox for the next start, \
             {pending} were waiting in memory (those that are not in the outbox were not acknowledged)"
        );
    }

    /// Waits until StorageActor and the log actor have nothing under way, and other nodes have what was
    /// published here for their queues.
    async fn until_written(&self, until: Instant) -> bool {
        // Twice in a row: work on its way from one actor to the next is in neither's hands.
        let mut idle_before = false;
        loop {
            let storage_idle =
                self.mailboxes.storage.is_empty() && self.storage.queue.lock().is_idle();
            let routers_idle = self.mailboxes.routers.iter().all(Inbox::is_empty);
            // With the log away, what the outbox holds stays there for the next start; nothing else
            // that waits for the log was acknowledged.
            let log_idle = !self.log.log.is_up()
                || (self.mailboxes.log.is_empty() && self.log.state.lock().is_empty());
            let dead_idle = self.mailboxes.dead_letters.is_empty();
            let peers_idle = self.mailboxes.peers.is_empty()
                && self.shared.cluster.as_ref().is_none_or(|cluster| cluster.is_idle());
            let idle = storage_idle && routers_idle && log_idle && dead_idle && peers_idle;
            if idle && idle_before {
                return true;
            }
            idle_before = idle;
            if Instant::now() >= until {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn with_worker<T>(build: impl FnOnce(&Rc<Worker>) -> T) -> T {
    match current_worker() {
        Some(worker) => build(&worker),
        // Children of a worker are added after its worker was made.
        #[allow(clippy::unreachable)]
        None => unreachable!("a worker's actor is built on its worker"),
    }
}

/// What the actors of an empty node share.
#[cfg(test)]
pub(crate) fn shared_for_tests(settings: &Arc<Settings>) -> Arc<NodeTables> {
    shared_before_for_tests(settings, Gate::default())
}

/// The same in front of a log.
#[cfg(test)]
pub(crate) fn shared_before_for_tests(settings: &Arc<Settings>, gate: Gate) -> Arc<NodeTables> {
    let (sessions, wills, retained, lanes) = (Vec::new(), Vec::new(), Retained::new(), Vec::new());
    let found =
        Found { sessions, wills, retained, retained_clock: 0, lanes, dead_letters: Vec::new() };
    make_shared(settings, &found, None, gate)
}

fn make_shared(
    settings: &Arc<Settings>,
    found: &Found,
    cluster: Option<Arc<Cluster>>,
    gate: Gate,
) -> Arc<NodeTables> {
    let workers = settings.workers.max(1);
    // By the clock as well: the number of a session that was removed is not given again while the
    // store still clears up behind it.
    let sessions = found.sessions.iter().map(|session| session.id);
    let highest = sessions.chain(found.wills.iter().map(|will| will.connection)).max().unwrap_or(0);
    let next_session = match &cluster {
        // Two nodes may start in one millisecond; of incarnations each has its own.
        Some(cluster) => (cluster.incarnation << SESSION_BITS) + 1,
        None => (highest + 1).max(crate::worker::unix_ms() << 20),
    };
    let mut retained = Retained::new();
    for message in found.retained.iter() {
        retained.insert(Arc::clone(message));
    }
    let metrics = Metrics::new(workers);
    metrics.retained.set(retained.len() as u64);
    metrics.retained_bytes.set(retained.bytes() as u64);
    let lanes = OutboxProgress::new(
        settings.storage.outbox_lanes,
        settings.storage.outbox_max_bytes,
        &found.lanes,
    );
    let (records, bytes) = lanes.backlog();
    metrics.outbox_records.set(records);
    metrics.outbox_bytes.set(bytes);
    let max_bytes = settings.log.dead_letter_max_bytes;
    let dead_letters = DeadLetters::new(max_bytes, &found.dead_letters);
    dead_letters.show(&metrics);
    Arc::new(NodeTables {
        settings: Arc::clone(settings),
        metrics,
        subscriptions: RwLock::new(SubscriptionTable::new()),
        in_handover: RwLock::default(),
        generations: Generations::default(),
        retained: RwLock::new(retained),
        retained_clock: AtomicU64::new(found.retained_clock),
        gate,
        lanes: Mutex::new(lanes),
        dead_letters,
        parked_bytes: AtomicUsize::new(0),
        next_session: AtomicU64::new(next_session),
        next_transaction: AtomicU64::new(1),
        persistent_sessions: AtomicUsize::new(0),
        connections: AtomicUsize::new(0),
        connections_peak: AtomicUsize::new(0),
        stopping: AtomicBool::new(false),
        cluster,
        draining: AtomicBool::new(false),
        drain_rate: AtomicU32::new(settings.drain_rate),
        drain_budget: Mutex::new(Budget::new(Instant::now())),
        clock: Clock::default(),
        drops: Mutex::default(),
        not_ready: Mutex::new(HashMap::new()),
    })
}
