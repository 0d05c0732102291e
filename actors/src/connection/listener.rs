//! The listener: accepts sockets at a bounded rate and spreads them over the ConnectionManagers.
//!
//! Bounds: `limits.max_connections` open sockets (past it a socket is closed at once and counted),
//! `limits.connect_rate` new ones a second (more wait in the listen backlog). Who may not connect by
//! its address is closed before it counts against either.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use actix::{Actor, ActorContext, Context, Handler, StreamHandler};
use futures_util::Stream;
use hydrant_protocol::access::{canonical, within};
use tokio::time::{Instant, Sleep};

use crate::mailboxes::Mailboxes;
use crate::messages::{ManagerTask, NewSocket};
use crate::metrics::CloseReason;
use crate::node_tables::NodeTables;
use crate::say;
use crate::supervision::{ActorCell, Ping, Running, on_ping};

/// Wait after an error of accept itself (no file descriptors left).
const ERROR_PAUSE: Duration = Duration::from_millis(100);
/// Sockets that are closed for their address before other actors of the arbiter get their turn.
const REFUSED_AT_ONCE: usize = 64;
/// The rate may be used up in bursts of a tenth of a second.
const BURST_PARTS: u32 = 10;

/// See the module.
pub struct Listener {
    shared: Arc<NodeTables>,
    mailboxes: Arc<Mailboxes>,
    cell: Arc<ActorCell>,
    next: usize,
    nodelay: bool,
}

impl Listener {
    /// Prepares the listener; on its arbiter. `socket` stays open when the actor is rebuilt.
    ///
    /// # Errors
    /// The socket cannot be registered with this thread's runtime.
    pub fn build(
        shared: &Arc<NodeTables>,
        mailboxes: &Arc<Mailboxes>,
        socket: &Arc<TcpListener>,
        nodelay: bool,
        cell: &Arc<ActorCell>,
    ) -> io::Result<Running> {
        let rate = shared.settings.limits.connect_rate.max(1);
        let accept = Accept {
            // A handle of its own on the same socket, so that a rebuilt listener finds it open.
            socket: tokio::net::TcpListener::from_std(socket.try_clone()?)?,
            rate,
            // A node that has just started makes nobody wait.
            tokens: (rate / BURST_PARTS).max(1),
            refilled: Instant::now(),
            pause: None,
            rate_reached: false,
            shared: Arc::clone(shared),
        };
        let (shared, mailboxes) = (Arc::clone(shared), Arc::clone(mailboxes));
        let listener = Self { shared, mailboxes, cell: Arc::clone(cell), next: 0, nodelay };
        Ok(Running::new(listener, |ctx| {
            Listener::add_stream(accept, ctx);
        }))
    }
}

/// Why accept failed, and what to do when that is known.
pub fn accept_error(error: &io::Error) -> String {
    use rustix::io::Errno;
    match Errno::from_io_error(error) {
        Some(Errno::MFILE) => format!(
            "{error}; raise this process's limit on open files (ulimit -n), or lower limits.max_connections"
        ),
        Some(Errno::NFILE) => {
            format!("{error}; raise the system's limit on open files (sysctl fs.file-max)")
        }
        _ => error.to_string(),
    }
}

/// Whether a socket of this address is looked at further; one that is not is counted.
fn may_come(shared: &NodeTables, peer: SocketAddr) -> bool {
    let refused = match &shared.settings.access.proxy_from {
        // The client's own address comes with the header.
        Some(trusted) if within(trusted, peer.ip()) => return true,
        Some(_) => {
            say::warn!(
                target: "hydrant::actors",
                "closing the connection from {peer}: it is not in listener.proxy_from, and \
                 listener.proxy_protocol is \"required\""
            );
            CloseReason::UntrustedProxy
        }
        None if shared.admits(peer) => return true,
        None => CloseReason::Denied,
    };
    shared.metrics.workers[0].close(refused);
    false
}

impl Actor for Listener {
    type Context = Context<Self>;
}

impl StreamHandler<NewSocket> for Listener {
    fn handle(&mut self, socket: NewSocket, _: &mut Self::Context) {
        self.cell.enter(1);
        let shared = &self.shared;
        let open = shared.connections.fetch_add(1, Ordering::Relaxed) + 1;
        if open > shared.settings.limits.max_connections {
            shared.connections.fetch_sub(1, Ordering::Relaxed);
            shared.metrics.workers[0].close(CloseReason::TooMany);
            say::warn!(
                target: "hydrant::actors",
                "closing the connection from {}: limits.max_connections = {} are open",
                socket.peer,
                shared.settings.limits.max_connections
            );
            return;
        }
        shared.connections_peak.fetch_max(open, Ordering::Relaxed);
        if self.nodelay {
            let _ = socket.stream.set_nodelay(true);
        }
        let managers = &self.mailboxes.managers;
        self.next = (self.next + 1) % managers.len();
        managers[self.next].push(ManagerTask::Accept(socket), 256);
    }

    fn finished(&mut self, ctx: &mut Self::Context) {
        ctx.stop();
    }
}

impl Handler<Ping> for Listener {
    type Result = ();
    fn handle(&mut self, _: Ping, ctx: &mut Self::Context) {
        on_ping(&self.cell, ctx);
    }
}

struct Accept {
    socket: tokio::net::TcpListener,
    rate: u32,
    tokens: u32,
    refilled: Instant,
    pause: Option<Pin<Box<Sleep>>>,
    /// The rate has been used up since the last pause: who comes next has waited.
    rate_reached: bool,
    shared: Arc<NodeTables>,
}

impl Accept {
    fn pause_for(&mut self, time: Duration) {
        self.pause = Some(Box::pin(tokio::time::sleep(time)));
    }

    /// True when the rate allows one more now; else the pause is set.
    fn may_accept(&mut self) -> bool {
        if self.tokens > 0 {
            return true;
        }
        let burst = (self.rate / BURST_PARTS).max(1);
        let period = Duration::from_secs(1) * burst / self.rate;
        let since = self.refilled.elapsed();
        if since >= period {
            self.refilled = Instant::now();
            self.tokens = burst;
            return true;
        }
        self.pause_for(period - since);
        self.rate_reached = true;
        false
    }
}

impl Stream for Accept {
    type Item = NewSocket;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Option<NewSocket>> {
        let mut refused = 0;
        loop {
            if self.shared.stopping.load(Ordering::Relaxed) {
                // A new connection is refused by the closed socket once the node is gone.
                return Poll::Pending;
            }
            if let Some(pause) = &mut self.pause {
                if pause.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                self.pause = None;
            }
            // First: a socket that is taken cannot be put back.
            if !self.may_accept() {
                continue;
            }
            match self.socket.poll_accept(cx) {
                Poll::Pending => {
                    // Nobody waits.
                    self.rate_reached = false;
                    return Poll::Pending;
                }
                Poll::Ready(Ok((stream, peer))) => {
                    let peer = canonical(peer);
                    if std::mem::take(&mut self.rate_reached) {
                        say::warn!(
                            target: "hydrant::actors",
                            "connections come faster than limits.connect_rate = {} a second: that of {peer} had to wait",
                            self.rate
                        );
                    }
                    if !may_come(&self.shared, peer) {
                        refused += 1;
                        if refused < REFUSED_AT_ONCE {
                            continue;
                        }
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                    self.tokens -= 1;
                    // It is registered again with the arbiter that will own it.
                    if let Ok(stream) = stream.into_std() {
                        let header_first = self.shared.settings.access.proxy_from.is_some();
                        let read = Vec::new();
                        return Poll::Ready(Some(NewSocket { stream, peer, read, header_first }));
                    }
                }
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Poll::Ready(Err(error)) => {
                    say::warn!(
                        target: "hydrant::actors",
                        "no client is accepted for now, tried again every {ERROR_PAUSE:?}: {}",
                        accept_error(&error)
                    );
                    self.pause_for(ERROR_PAUSE);
                }
            }
        }
    }
}
