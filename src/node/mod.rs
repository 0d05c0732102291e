//! One node from its checked configuration: opens store and log, binds its ports, starts the actor
//! tree and the admin endpoints, waits for a signal, stops in order. A signal that comes earlier ends
//! the start in order, too; a second one ends the process at once.

mod data_dir;
mod dead;
mod error;
mod no_log;
mod open;
mod risks;
mod status;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use hydrant_actors::say;
use hydrant_actors::supervision;
use hydrant_actors::system::{ActorSystem, Parts, StartError};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};

use crate::admin::{self, AdminOptions, AdminPorts, AdminServer};
use crate::config::Config;
use crate::logging;
pub use data_dir::STORE_FOLDER;
pub use error::NodeError;
use open::NodeLog;
pub use open::NodeStore;
use status::NodeStatus;

/// How long a lease may take to be given back, behind `node.shutdown_deadline`.
const RELEASE: std::time::Duration = std::time::Duration::from_secs(2);

/// How long a tree that is not whole is given to write what it has.
const BROKEN: std::time::Duration = std::time::Duration::from_secs(1);

/// Runs a node until a signal ends it.
///
/// # Errors
/// [`NodeError`]; the process then exits non-zero.
pub async fn run(config: Config) -> Result<(), NodeError> {
    supervision::install_panic_hook();
    // Before all that can take its time. And who reads the ready line may send one at once.
    let mut signals = Signals::new().map_err(NodeError::Signals)?;
    let listener = open::listen(&config.listener)?;
    let address = listener
        .local_addr()
        .map_err(|source| NodeError::Listen { address: config.listener.address, source })?;
    let Some(opened) = open_store(&config, &signals).await? else { return Ok(()) };
    let outcome = run_with(&config, (listener, address), &opened, &mut signals).await;
    // A Cassandra that does not answer holds nobody up: the successor waits for the lease.
    let _ = tokio::time::timeout(RELEASE, opened.release()).await;
    if outcome.is_ok() {
        log::info!("node {} stopped", config.settings.node_id);
    }
    outcome
}

/// `None`: a signal came before the store was open.
async fn open_store(config: &Config, signals: &Signals) -> Result<Option<NodeStore>, NodeError> {
    let node_id = &config.settings.node_id;
    let mut open = std::pin::pin!(NodeStore::open(config));
    tokio::select! {
        opened = &mut open => return opened.map(Some),
        () = signals.stop() => {}
    }
    log::info!("node {node_id} stops: it was told to before its store was open");
    // It may have its lease by now, which is given back if that does not take long.
    match tokio::time::timeout(RELEASE, &mut open).await {
        Ok(Ok(opened)) => {
            let _ = tokio::time::timeout(RELEASE, opened.release()).await;
        }
        Ok(Err(_)) => {}
        // Whom it waits for would hold up the end of this process as well.
        Err(_) => {
            logging::finish();
            std::process::exit(0)
        }
    }
    log::info!("node {node_id} stopped");
    Ok(None)
}

async fn run_with(
    config: &Config,
    (listener, address): (TcpListener, SocketAddr),
    opened: &NodeStore,
    signals: &mut Signals,
) -> Result<(), NodeError> {
    let ports = AdminPorts::bind(AdminOptions {
        http: config.admin,
        agent: config.agent,
        socket: admin::socket_path(&config.data_dir),
        limits: config.admin_limits.clone(),
    })
    .map_err(NodeError::Admin)?;
    let cluster = open::cluster(config, opened, address)?;
    let NodeLog { log, tail } = open::log(config, signals.stop()).await?;
    let (failed, mut failures) = mpsc::unbounded_channel();
    let settings = Arc::new(config.settings.clone());
    let parts = Parts {
        settings: Arc::clone(&settings),
        store: Arc::clone(&opened.store),
        log: Arc::clone(&log),
        listener: (Arc::new(listener), format!("tcp/{address}")),
        nodelay: config.listener.nodelay,
        cluster,
        on_failure: Arc::new(move |why| {
            let _ = failed.send(why);
        }),
    };
    let system = match ActorSystem::start_unless(parts, signals.stop()).await {
        Ok(system) => system,
        Err(StartError::Interrupted) => {
            log::info!("node {} stops: it was told to before it was ready", settings.node_id);
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    let view = Arc::new(NodeStatus {
        shared: Arc::clone(&system.shared),
        mailboxes: Arc::clone(&system.mailboxes),
        registry: Arc::clone(&system.registry),
        tail,
        store: Arc::clone(&opened.store),
        log,
        listener: format!("tcp/{address}"),
        members: system.views.clone(),
    });
    let admin = match AdminServer::start(ports, view) {
        Ok(admin) => admin,
        Err(error) => {
            system.stop(BROKEN).await;
            return Err(NodeError::Admin(error));
        }
    };
    announce(config, &system, address, &admin).await;
    if let Err(error) = wait(&system, signals, &mut failures).await {
        // The tree is not whole; what can still be written is, shortly.
        system.stop(BROKEN).await;
        return Err(error);
    }
    log::info!("node {} stops: no new connections, finishing what is in flight", settings.node_id);
    let whole = system.stop(settings.shutdown_deadline).await;
    admin.shutdown();
    if !whole {
        // Nothing that was acknowledged is lost by this: no reason to exit non-zero.
        say::warn!(
            "the shutdown was cut short after node.shutdown_deadline: publishes that waited for an \
             acknowledgement did not get one and are sent again by their clients"
        );
    }
    Ok(())
}

/// A second signal: the node exits at once. What was acknowledged as stored is in the store.
fn at_once() -> ! {
    say::warn!("second signal: exiting at once");
    logging::finish();
    std::process::exit(130)
}

async fn announce(config: &Config, system: &ActorSystem, address: SocketAddr, admin: &AdminServer) {
    // The tree is printed once it stands; an actor that does not come up is escalated.
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(5);
    while !system.is_whole() && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    log::info!("the actor tree:\n{}", system.registry.print());
    let http = admin.bound_address().map_or_else(|| "off".to_owned(), |http| http.to_string());
    let agent = admin.agent_address().map_or_else(String::new, |agent| format!(" agent={agent}"));
    log::info!(
        "ready node={} tcp={address} admin={http}{agent} data_dir={}",
        config.settings.node_id,
        config.data_dir.display()
    );
    risks::warn(config, address, admin.bound_address());
}

/// The signals a node knows.
struct Signals {
    /// True once one has asked for the end.
    stop: watch::Receiver<bool>,
    print: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let (sender, stop) = watch::channel(false);
        actix_rt::spawn(async move {
            let mut next = async || {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
            };
            next().await;
            sender.send_replace(true);
            next().await;
            at_once()
        });
        ignore_others(signal(SignalKind::hangup())?, signal(SignalKind::user_defined2())?);
        Ok(Self { stop, print: signal(SignalKind::user_defined1())? })
    }

    /// Until one asks for the end.
    fn stop(&self) -> impl Future<Output = ()> + use<> {
        let mut stop = self.stop.clone();
        async move {
            // Who sends it lives as long as this thread.
            if stop.wait_for(|stop| *stop).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// SIGHUP and SIGUSR2 end no node: a closed terminal or a service manager's "reload" sends them.
fn ignore_others(mut hangup: Signal, mut user: Signal) {
    actix_rt::spawn(async move {
        loop {
            tokio::select! {
                _ = hangup.recv() => log::info!(
                    "SIGHUP: there is nothing to reopen; the log goes to standard error, and the \
                     configuration is read at start only"
                ),
                _ = user.recv() => {}
            }
        }
    });
}

/// Until a signal asks for the end, or the tree cannot be kept up. SIGUSR1 prints the tree.
async fn wait(
    system: &ActorSystem,
    signals: &mut Signals,
    failures: &mut mpsc::UnboundedReceiver<String>,
) -> Result<(), NodeError> {
    loop {
        tokio::select! {
            () = signals.stop() => return Ok(()),
            _ = signals.print.recv() => log::info!("the actor tree:\n{}", system.registry.print()),
            Some(why) = failures.recv() => return Err(NodeError::Failed(why)),
        }
    }
}
