//! The sockets between nodes. Of two nodes the one with the lower id dials; one TCP connection
//! carries both directions.
//!
//! Bounds: [`HANDSHAKES`] connections that have not said whose they are, each for
//! [`FIRST_HELLO`] and [`MAX_HELLO`] bytes.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::TcpListener as StdListener;
use std::rc::Rc;
use std::time::Duration;

use hydrant_protocol::cluster::link::{Hello, MAX_HELLO, Role};
use rand::Rng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::NodeIndex;
use super::peers::Peers;

/// Connections that have not said whose they are.
const HANDSHAKES: usize = 64;
/// How long such a one may take.
const FIRST_HELLO: Duration = Duration::from_secs(5);
/// A dial that is not answered.
const DIAL: Duration = Duration::from_secs(3);
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// Read and written at once.
const CHUNK: usize = 256 * 1024;
/// A socket that takes nothing for so long is given up.
const WRITE: Duration = Duration::from_secs(10);

type Handle = Rc<RefCell<Peers>>;

/// Dials a node for as long as the process lives, whenever it is a member and not connected.
pub(super) async fn dial(peers: Handle, node: NodeIndex) {
    let mut backoff = BACKOFF_MIN;
    let mut failing = false;
    loop {
        let address = peers.borrow().address(node);
        if let Some(address) = address {
            match timeout(DIAL, TcpStream::connect(&address)).await {
                Ok(Ok(stream)) => {
                    let up = run(&peers, node, stream, Role::Dialer, &[]).await;
                    if up {
                        (backoff, failing) = (BACKOFF_MIN, false);
                    }
                }
                Ok(Err(error)) => failed(&peers, node, &address, &mut failing, &error),
                Err(_) => {
                    let error = io::Error::from(io::ErrorKind::TimedOut);
                    failed(&peers, node, &address, &mut failing, &error);
                }
            }
            backoff = (backoff * 2).min(BACKOFF_MAX);
        } else {
            (backoff, failing) = (BACKOFF_MIN, false);
        }
        let jitter = rand::rng().random_range(0.5..1.0);
        sleep(backoff.mul_f64(jitter)).await;
    }
}

fn failed(peers: &Handle, node: NodeIndex, address: &str, failing: &mut bool, error: &io::Error) {
    // Once, not at every attempt.
    if !std::mem::replace(failing, true) {
        let id = peers.borrow().name(node);
        log::warn!(target: "hydrant::peers", "node {id} cannot be reached at {address} ({error}); it is tried again");
    }
}

/// Takes connections of other nodes.
pub(super) async fn accept(peers: Handle, listener: StdListener) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            log::error!(target: "hydrant::peers", "no other node can connect: {error}");
            return;
        }
    };
    let open = Rc::new(Cell::new(0_usize));
    loop {
        match listener.accept().await {
            Ok((stream, from)) if open.get() < HANDSHAKES => {
                open.set(open.get() + 1);
                let (peers, open) = (Rc::clone(&peers), Rc::clone(&open));
                tokio::task::spawn_local(async move {
                    let first = timeout(FIRST_HELLO, first(stream)).await;
                    open.set(open.get() - 1);
                    match first {
                        Ok(Ok((stream, hello, bytes))) => {
                            let node = peers.borrow().node_of(&hello);
                            match node {
                                Ok(node) => {
                                    run(&peers, node, stream, Role::Acceptor, &bytes).await;
                                }
                                Err(why) => refused(&peers, &from.to_string(), &why),
                            }
                        }
                        Ok(Err(why)) => refused(&peers, &from.to_string(), &why),
                        Err(_) => refused(
                            &peers,
                            &from.to_string(),
                            "it did not say whose it is within 5 s",
                        ),
                    }
                });
            }
            Ok((stream, from)) => {
                drop(stream);
                refused(
                    &peers,
                    &from.to_string(),
                    "too many connections have not said whose they are",
                );
            }
            Err(error) => {
                log::warn!(target: "hydrant::peers", "the peer port accepts nothing for now: {error}");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn refused(peers: &Handle, from: &str, why: &str) {
    if peers.borrow_mut().may_complain() {
        log::warn!(target: "hydrant::peers", "a connection from {from} to the peer port is refused: {why}");
    }
}

/// Reads until it is known whose the connection is.
async fn first(mut stream: TcpStream) -> Result<(TcpStream, Hello, Vec<u8>), String> {
    let mut bytes = Vec::with_capacity(1024);
    loop {
        match Hello::peek(&bytes) {
            Ok(Some(hello)) => return Ok((stream, hello, bytes)),
            Ok(None) if bytes.len() > MAX_HELLO as usize + 8 => {
                return Err("its hello is too long".to_owned());
            }
            Ok(None) => {}
            Err(error) => return Err(error.to_string()),
        }
        match stream.read_buf(&mut bytes).await {
            Ok(0) => return Err("it was closed before its hello".to_owned()),
            Ok(_) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
}

/// Carries the link over a connection until that ends. True when it was up.
async fn run(peers: &Handle, node: NodeIndex, stream: TcpStream, role: Role, first: &[u8]) -> bool {
    let _ = stream.set_nodelay(true);
    let Some(connection) = peers.borrow_mut().connected(node, role) else { return false };
    let (reader, writer) = stream.into_split();
    let ended = if first.is_empty() || peers.borrow_mut().received(node, connection, first) {
        tokio::select! {
            why = read(peers, node, connection, reader) => why,
            why = write(peers, node, connection, writer) => why,
        }
    } else {
        // What the other end is told of a refusal has still to go out.
        let _ = timeout(DIAL, write(peers, node, connection, writer)).await;
        "refused"
    };
    peers.borrow_mut().disconnected(node, connection, ended)
}

async fn read(
    peers: &Handle,
    node: NodeIndex,
    connection: u64,
    mut reader: OwnedReadHalf,
) -> &'static str {
    let mut buffer = vec![0; CHUNK];
    loop {
        match reader.read(&mut buffer).await {
            Ok(0) => return "it was closed by the other end",
            Ok(n) => {
                if !peers.borrow_mut().received(node, connection, &buffer[..n]) {
                    return "it broke the peer protocol";
                }
            }
            Err(_) => return "the connection broke",
        }
    }
}

async fn write(
    peers: &Handle,
    node: NodeIndex,
    connection: u64,
    mut writer: OwnedWriteHalf,
) -> &'static str {
    let mut out = Vec::with_capacity(CHUNK);
    loop {
        let Some((notify, next)) = peers.borrow_mut().transmit(node, connection, &mut out, CHUNK)
        else {
            return "another connection replaced it";
        };
        if !out.is_empty() {
            match timeout(WRITE, writer.write_all(&out)).await {
                Ok(Ok(())) => {}
                _ => return "the connection broke",
            }
            out.clear();
            out.shrink_to(4 * CHUNK);
            continue;
        }
        tokio::select! {
            () = notify.notified() => {}
            () = sleep_until(next.unwrap_or_else(|| Instant::now() + WRITE)) => {
                if !peers.borrow_mut().timed_out(node, connection) {
                    return "nothing came of it for too long";
                }
            }
        }
    }
}
