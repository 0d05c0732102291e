//! The admin endpoints of a node: an HTTP port for machines (`/metrics`, `/health`, `/ready`), a
//! port for HAProxy's agent-check, and a unix socket in the data directory for `broker tree`, `tail`,
//! `status`, `nodes`, `drain`, `dead` and the tests' faults.
//!
//! They run on a thread and a runtime of their own, so that they answer while every arbiter is
//! busy or blocked, and ask the node through [`NodeView`] only. Everything a peer can hold open is
//! bounded by [`AdminLimits`]. None of them authenticates: the ports change nothing and are on
//! loopback, or off, unless the configuration says otherwise; the socket has mode 0600.

use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, oneshot};

use rates::Rates;

mod agent;
pub mod client;
pub mod dead;
mod encoding;
mod exposition;
mod families;
mod http;
mod limits;
mod peer;
mod rates;
pub mod render;
mod rows;
mod socket;
mod tail;
#[cfg(test)]
mod tests;
mod view;
mod wire;

pub use limits::{AdminLimits, socket_path};
pub use rows::{
    ActorRow, ConnectionPage, ConnectionRow, DeadDone, DeadRequest, DeadRow, DrainAction,
    DrainState, FaultAction, Identity, NodeRow, Nodes, TailRow, Tree,
};
pub use view::{FAULTS_OFF, NO_CLUSTER, NodeView, TailSource, ViewFuture};
pub use wire::{MAX_PAGE_SIZE, Reply, Status, TailRequest, TreeRequest};

/// What the admin endpoints listen on.
#[derive(Debug, Clone)]
pub struct AdminOptions {
    /// `admin.address`; None switches the HTTP port off.
    pub http: Option<SocketAddr>,
    /// `admin.agent_listen`; None is off.
    pub agent: Option<SocketAddr>,
    /// The admin socket, see [`socket_path`].
    pub socket: PathBuf,
    /// What a peer can use up.
    pub limits: AdminLimits,
}

/// What the admin endpoints listen on, bound: who connects waits until they are served. Dropping it
/// removes the socket.
#[derive(Debug)]
pub struct AdminPorts {
    http: Option<StdTcpListener>,
    agent: Option<StdTcpListener>,
    unix: UnixListener,
    file: SocketFile,
    limits: AdminLimits,
}

/// The admin socket in the file system, as long as it is ours.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    /// Device and inode: only our own is removed.
    identity: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let found = self.path.symlink_metadata();
        if found.is_ok_and(|found| (found.dev(), found.ino()) == self.identity) {
            let _ = std::fs::remove_file(&self.path); // a stale one is replaced at the next start
        }
    }
}

impl AdminPorts {
    /// Binds the ports and the socket.
    ///
    /// # Errors
    /// One of them cannot be bound; the error's text is one sentence for the user, with what to do.
    pub fn bind(options: AdminOptions) -> io::Result<Self> {
        let AdminOptions { http, agent, socket, limits } = options;
        let http = http.map(|address| bind("admin.address", address)).transpose()?;
        let agent = agent.map(|address| bind("admin.agent_listen", address)).transpose()?;
        let unix = socket::bind(&socket)?;
        let made = socket.symlink_metadata()?;
        let file = SocketFile { path: socket, identity: (made.dev(), made.ino()) };
        Ok(Self { http, agent, unix, file, limits })
    }
}

/// The running admin endpoints. Dropping it shuts them down.
#[derive(Debug)]
pub struct AdminServer {
    http: Option<SocketAddr>,
    agent: Option<SocketAddr>,
    file: Option<SocketFile>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl AdminServer {
    /// Starts serving, on a thread of its own.
    ///
    /// # Errors
    /// There is no thread or runtime to be had.
    pub fn start(ports: AdminPorts, node: Arc<dyn NodeView>) -> io::Result<Self> {
        let AdminPorts { http: tcp, agent: checks, unix, file, limits } = ports;
        let http = tcp.as_ref().map(StdTcpListener::local_addr).transpose()?;
        let agent = checks.as_ref().map(StdTcpListener::local_addr).transpose()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(4)
            .build()?;
        let (tcp, checks, unix) = {
            let _entered = runtime.enter();
            (
                tcp.map(tokio::net::TcpListener::from_std).transpose()?,
                checks.map(tokio::net::TcpListener::from_std).transpose()?,
                tokio::net::UnixListener::from_std(unix)?,
            )
        };
        let tails = Semaphore::new(limits.tails);
        let context = Arc::new(socket::Context {
            node,
            limits,
            http,
            started: Instant::now(),
            tails,
            rates: Rates::default(),
        });
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name("admin".to_owned()).spawn(move || {
            runtime.block_on(async {
                let web = async {
                    match tcp {
                        Some(tcp) => {
                            http::serve(tcp, context.limits.clone(), context.node.clone()).await
                        }
                        None => std::future::pending().await,
                    }
                };
                let agent = async {
                    match checks {
                        Some(checks) => {
                            agent::serve(checks, context.limits.clone(), context.node.clone()).await
                        }
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    () = web => {}
                    () = agent => {}
                    () = socket::serve(unix, context.clone()) => {}
                    () = context.rates.keep(context.node.metrics()) => {}
                    _ = stopped => {}
                }
            });
            // A log that never answers must not keep the node from ending.
            runtime.shutdown_timeout(Duration::from_secs(1));
        })?;
        Ok(Self { http, agent, file: Some(file), stop: Some(stop), thread: Some(thread) })
    }

    /// The HTTP port's address, with the port the system chose where the configuration says 0.
    pub fn bound_address(&self) -> Option<SocketAddr> {
        self.http
    }

    /// The same of the agent check.
    pub fn agent_address(&self) -> Option<SocketAddr> {
        self.agent
    }

    /// Closes the ports, the socket and their connections, and removes the socket. Takes at most
    /// about a second.
    pub fn shutdown(mut self) {
        self.end();
    }

    fn end(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(()); // the thread is gone already: fine
        }
        let Some(thread) = self.thread.take() else {
            return;
        };
        drop(self.file.take());
        let _ = thread.join();
    }
}

impl Drop for AdminServer {
    fn drop(&mut self) {
        self.end();
    }
}

fn bind(key: &str, address: SocketAddr) -> io::Result<StdTcpListener> {
    let listener = StdTcpListener::bind(address).map_err(|error| {
        let what = match error.kind() {
            io::ErrorKind::AddrInUse => {
                format!(
                    "{key} {address} is in use by another process: choose another with --set {key}=HOST:PORT"
                )
            }
            _ => format!(
                "{key} {address} cannot be listened on ({error}): choose another with --set {key}=HOST:PORT"
            ),
        };
        io::Error::new(error.kind(), what)
    })?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}
