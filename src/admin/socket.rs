//! The node's end of the admin socket: binds `<data-dir>/admin.sock` and answers its requests.
//!
//! The file has mode 0600 before anybody can connect to it, so whoever connects is the user the
//! node runs as (or root). A socket that a dead node left is replaced; one a live node answers
//! on, or a file that is no socket, is left alone and is an error.
//!
//! Bounds: connections, tails among them (so that a `tree` always finds room), the request line,
//! and the time of everything but a tail.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener as StdListener;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::{BufReader, BufWriter};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use super::limits::AdminLimits;
use super::peer::Peer;
use super::rates::Rates;
use super::rows::DeadRequest;
use super::tail;
use super::view::NodeView;
use super::wire::{MAX_PAGE_SIZE, Reply, Request, Status, TreeRequest, read_line};
use hydrant_actors::connection::listener::accept_error;
use hydrant_actors::metrics::DropReason;
use hydrant_actors::say;

/// Binds the socket.
///
/// # Errors
/// One sentence for the user: a live node has it, it is no socket, its path is too long, or what
/// the operating system says.
pub(super) fn bind(path: &Path) -> io::Result<StdListener> {
    let shown = path.display();
    let fail = |error: io::Error, what: String| io::Error::new(error.kind(), what);
    let address = SockAddr::unix(path).map_err(|error| {
        let what = format!("the admin socket's path {shown} is too long for a unix socket: choose a shorter --data-dir");
        fail(error, what)
    })?;
    let stream = || Socket::new(Domain::UNIX, Type::STREAM, None);
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => {
            let what = format!("the admin socket {shown} cannot be looked at: {error}");
            return Err(fail(error, what));
        }
        Ok(found) if !found.file_type().is_socket() => {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                format!(
                    "{shown} is where the admin socket belongs and is not a socket: move it away"
                ),
            ));
        }
        Ok(_) => {
            let probe = stream()?;
            // A full backlog must not make us wait: WouldBlock says that somebody listens.
            probe.set_nonblocking(true)?;
            match probe.connect(&address) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    std::fs::remove_file(path)?
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                _ => {
                    return Err(io::Error::new(
                        io::ErrorKind::AddrInUse,
                        format!(
                            "another node answers at {shown}: stop it, or choose another --data-dir"
                        ),
                    ));
                }
            }
        }
    }
    let socket = stream()?;
    let bound = (|| {
        socket.bind(&address)?;
        // Before listen(): until then nobody can connect.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        socket.listen(64)?;
        socket.set_nonblocking(true)
    })();
    bound.map_err(|error: io::Error| {
        let what = format!("the admin socket {shown} cannot be made: {error}");
        fail(error, what)
    })?;
    Ok(StdListener::from(OwnedFd::from(socket)))
}

/// What every connection needs.
pub(super) struct Context {
    pub(super) node: Arc<dyn NodeView>,
    pub(super) limits: AdminLimits,
    pub(super) http: Option<std::net::SocketAddr>,
    pub(super) started: Instant,
    pub(super) tails: Semaphore,
    pub(super) rates: Rates,
}

/// Serves until dropped.
pub(super) async fn serve(listener: UnixListener, context: Arc<Context>) {
    let slots = Arc::new(Semaphore::new(context.limits.socket_connections));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                say::warn!("admin socket: accept failed: {}", accept_error(&error));
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(slot) = slots.clone().try_acquire_owned() else {
            context.node.metrics().admin_bad_requests.inc();
            let most = context.limits.socket_connections;
            say::warn!(
                "admin socket: closing a connection: admin.max_socket_connections = {most} are open"
            );
            continue; // dropping the stream closes it
        };
        let context = context.clone();
        tokio::spawn(async move {
            // A client that goes away is nobody's problem.
            let _ = connection(stream, &context).await;
            drop(slot);
        });
    }
}

async fn connection(stream: UnixStream, context: &Context) -> io::Result<()> {
    let (read, write) = stream.into_split();
    let mut peer = Peer {
        input: BufReader::with_capacity(4096, read),
        line: Vec::new(),
        output: BufWriter::new(write),
    };
    let limits = &context.limits;
    let first = read_line(&mut peer.input, &mut peer.line, limits.max_line);
    let request = match tokio::time::timeout(limits.request_timeout, first).await {
        Ok(Ok(true)) => {
            serde_json::from_slice(&peer.line).map_err(|error| format!("bad request: {error}"))
        }
        Ok(Ok(false)) => return Ok(()), // somebody looked whether we live
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no request came in {:?}", limits.request_timeout)),
    };
    peer.line.clear();
    let request = match request {
        Ok(request) => request,
        Err(error) => {
            context.node.metrics().admin_bad_requests.inc();
            let answer = Reply::Error(error);
            return tokio::time::timeout(limits.request_timeout, peer.finish(&answer)).await?;
        }
    };
    if let Request::Tail(request) = request {
        let outcome = match (context.node.tail(), context.tails.try_acquire()) {
            (None, _) => Err(tail::NO_EMBEDDED_LOG.to_owned()),
            (_, Err(_)) => {
                Err(format!("{} tails are running already: end one first", limits.tails))
            }
            (Some(source), Ok(_slot)) => {
                tail::run(source, request, &mut peer, limits.max_line).await?
            }
        };
        return match outcome {
            Ok(()) => peer.finish(&Reply::End).await,
            Err(error) => peer.finish(&Reply::Error(error)).await,
        };
    }
    let last =
        match tokio::time::timeout(limits.request_timeout, answer(request, &mut peer, context))
            .await
        {
            Ok(answered) => answered?,
            Err(_) => Err(
                "the node did not answer in time: one of its threads may be blocked, see its log"
                    .to_owned(),
            ),
        };
    let last = match last {
        Ok(()) => Reply::End,
        Err(error) => Reply::Error(error),
    };
    tokio::time::timeout(limits.request_timeout, peer.finish(&last)).await?
}

/// Answers all but the last line; the outer error is a client that went away.
async fn answer(
    request: Request,
    peer: &mut Peer,
    context: &Context,
) -> io::Result<Result<(), String>> {
    let node = &context.node;
    match request {
        Request::Tree(TreeRequest { connections, page, page_size }) => {
            if connections && !(1..=MAX_PAGE_SIZE).contains(&page_size) {
                return Ok(Err(format!("page_size is 1 to {MAX_PAGE_SIZE}, not {page_size}")));
            }
            let rows =
                if connections { node.connections(page, page_size).await } else { Vec::new() };
            for row in node.actors() {
                peer.send(&Reply::Actor(row)).await?;
            }
            for row in rows {
                peer.send(&Reply::Connection(row)).await?;
            }
            Ok(Ok(()))
        }
        Request::Status {} => {
            peer.send(&Reply::Status(Box::new(status(context)))).await?;
            Ok(Ok(()))
        }
        Request::Nodes {} => match node.nodes() {
            Ok(nodes) => {
                peer.send(&Reply::Nodes(nodes)).await?;
                Ok(Ok(()))
            }
            Err(why) => Ok(Err(why)),
        },
        Request::Drain { action } => {
            peer.send(&Reply::Drain(node.drain(action).await)).await?;
            Ok(Ok(()))
        }
        Request::Dead { action } => match dead_request(action) {
            Ok(action) => match node.dead(action).await {
                Ok(replies) => {
                    for reply in replies {
                        peer.send(&reply).await?;
                    }
                    Ok(Ok(()))
                }
                Err(why) => Ok(Err(why)),
            },
            Err(why) => Ok(Err(why)),
        },
        Request::Fault { action, path } => Ok(node.fault(action, &path)),
        Request::Tail(_) => Ok(Ok(())), // answered by `connection`
    }
}

fn dead_request(action: DeadRequest) -> Result<DeadRequest, String> {
    match action {
        DeadRequest::List { count, .. } if !(1..=MAX_PAGE_SIZE).contains(&count) => {
            Err(format!("count is 1 to {MAX_PAGE_SIZE}, not {count}"))
        }
        action => Ok(action),
    }
}

fn status(context: &Context) -> Status {
    let node = &context.node;
    let metrics = node.metrics();
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        node: node.identity(),
        uptime_s: context.started.elapsed().as_secs(),
        http: context.http.map(|address| address.to_string()),
        not_ready: node.ready().err().unwrap_or_default(),
        not_healthy: node.healthy().err().unwrap_or_default(),
        connections: metrics.sum(|worker| &worker.connections),
        sessions: metrics.sum(|worker| &worker.sessions),
        subscriptions: metrics.subscriptions.get(),
        retained: metrics.retained.get(),
        outbox_records: metrics.outbox_records.get(),
        outbox_bytes: metrics.outbox_bytes.get(),
        dead_letters: metrics.dead_letters.get(),
        restarts: metrics.restarts.get(),
        rates: context.rates.a_second(),
        dropped: DropReason::ALL
            .iter()
            .map(|r| (r.label().to_owned(), metrics.sum(|worker| &worker.dropped[*r as usize])))
            .filter(|(_, n)| *n > 0)
            .collect(),
    }
}
