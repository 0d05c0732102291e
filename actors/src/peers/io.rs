//! The sockets between nodes. Of two nodes the one with the lower id dials; one TCP connection
//! carries both directions. Where it cannot reach the other, it asks a third to carry the connection on.
//!
//! Bounds: [`HANDSHAKES`] connections that have not said whose they are, each for
//! [`FIRST_HELLO`] and [`MAX_HELLO`] bytes; [`RELAYED`] connections that are carried on for others.

use std::cell::Cell;
use std::io;
use std::net::TcpListener as StdListener;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::time::Duration;

use futures_util::FutureExt;
use hydrant_protocol::cluster::link::{Hello, MAX_HELLO, Relay, Role};
use rand::Rng;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::driver::Handle;
use crate::clock;
use crate::cluster::NodeIndex;
use crate::connection::listener::accept_error;
use crate::say;

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

/// Connections that are carried on for others at a time.
const RELAYED: usize = 64;
/// A connection that is still open after this is one with the node.
const OPEN: Duration = Duration::from_millis(200);
/// How often it is looked whether a node that is reached through another can be reached itself again.
const DIRECT_AGAIN: Duration = Duration::from_secs(5);

/// Dials a node for as long as the process lives, whenever it is a member and not connected.
pub(super) async fn dial(peers: Handle, node: NodeIndex) {
    let mut backoff = BACKOFF_MIN;
    let mut failing = false;
    let mut tries = 0_usize;
    loop {
        let address = peers.look(|peers| peers.address(node));
        if let Some(address) = address {
            let up = match connect(&address).await {
                Ok(stream) => run_dialled(&peers, node, stream).await,
                Err(error) => {
                    failed(&peers, node, &address, &mut failing, &error);
                    false
                }
            };
            if up {
                (backoff, failing, tries) = (BACKOFF_MIN, false, 0);
            } else {
                tries += 1;
                // One that has just started, or for which this one has, may not know of it yet.
                if tries > 1
                    && let Some(stream) = through_another(&peers, node, tries).await
                {
                    // Until it can be reached itself.
                    tokio::select! {
                        _ = run_dialled(&peers, node, stream) => {}
                        () = reachable_again(&peers, node) => {}
                    }
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

/// [`run`] over a connection that this node has made. What is queued on the link may panic where the connection begins
/// or ends as well: each time one event less is queued, and the node is dialled again.
async fn run_dialled(peers: &Handle, node: NodeIndex, stream: TcpStream) -> bool {
    let run = run(peers, node, stream, Role::Dialer, &[]);
    AssertUnwindSafe(run).catch_unwind().await.unwrap_or(false)
}

async fn connect(address: &str) -> io::Result<TcpStream> {
    match timeout(DIAL, TcpStream::connect(address)).await {
        Ok(connected) => connected,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// A connection to a node by way of one that can be reached; another one at each try.
async fn through_another(peers: &Handle, node: NodeIndex, tries: usize) -> Option<TcpStream> {
    let (address, relay) = peers.look(|peers| peers.way_round(node, tries))?;
    let mut stream = connect(&address).await.ok()?;
    let mut request = Vec::new();
    relay.put(&mut request);
    stream.write_all(&request).await.ok()?;
    // The first time, and then ever more seldom.
    if (tries - 1).is_power_of_two() {
        let way = tries - 1;
        log::info!(target: "hydrant::peers", "node {} is asked for by way of {address} (attempt {way})", relay.node_id);
    }
    Some(stream)
}

/// It takes a connection, and does not close it at once.
async fn reachable_again(peers: &Handle, node: NodeIndex) {
    loop {
        sleep(DIRECT_AGAIN).await;
        let address = peers.look(|peers| peers.address(node));
        let Some(address) = address else { continue };
        if let Ok(mut stream) = connect(&address).await
            && timeout(OPEN, stream.read_u8()).await.is_err()
        {
            return;
        }
    }
}

/// Carries a connection on to the node that it is for; `bytes` of it have been read.
async fn carry_on(
    peers: &Handle,
    mut stream: TcpStream,
    relay: &Relay,
    bytes: &[u8],
) -> Result<(), String> {
    let address = peers.look(|peers| peers.address_for(relay))?;
    let failed =
        |error: io::Error| format!("node {:?} is not reached for it: {error}", relay.node_id);
    let mut other = connect(&address).await.map_err(failed)?;
    let _ = (stream.set_nodelay(true), other.set_nodelay(true));
    other.write_all(bytes).await.map_err(failed)?;
    // Its two ends look after it: one that nothing comes of is closed by them.
    let _ = copy_bidirectional(&mut stream, &mut other).await;
    Ok(())
}

fn failed(peers: &Handle, node: NodeIndex, address: &str, failing: &mut bool, error: &io::Error) {
    // Once, not at every attempt.
    if !std::mem::replace(failing, true) {
        let (id, leaves) =
            (peers.look(|peers| peers.name(node)), peers.look(|peers| peers.leaves(node)));
        if leaves {
            say::info!(each: &id, target: "hydrant::peers", "node {id} cannot be reached at {address} ({error}); it leaves, or has left");
        } else {
            say::warn!(each: &id, target: "hydrant::peers", "node {id} cannot be reached at {address} ({error}); it is tried again");
        }
    }
}

/// Takes connections of other nodes.
pub(super) async fn accept(peers: Handle, listener: StdListener) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            say::error!(target: "hydrant::peers", "no other node can connect: {error}");
            return;
        }
    };
    let (open, relayed) = (Rc::new(Cell::new(0_usize)), Rc::new(Cell::new(0_usize)));
    loop {
        match listener.accept().await {
            Ok((stream, from)) if open.get() < HANDSHAKES => {
                open.set(open.get() + 1);
                let (peers, open) = (Rc::clone(&peers), Rc::clone(&open));
                let relayed = Rc::clone(&relayed);
                tokio::task::spawn_local(async move {
                    let first = timeout(FIRST_HELLO, first(stream)).await;
                    open.set(open.get() - 1);
                    match first {
                        Ok(Ok((_, First::Relay(_), _))) if relayed.get() >= RELAYED => {
                            refused(&from.to_string(), "too many are carried on for others");
                        }
                        Ok(Ok((stream, First::Relay(relay), bytes))) => {
                            relayed.set(relayed.get() + 1);
                            let carried = carry_on(&peers, stream, &relay, &bytes).await;
                            relayed.set(relayed.get() - 1);
                            if let Err(why) = carried {
                                put_off(&from.to_string(), &why);
                            }
                        }
                        Ok(Ok((stream, First::Hello(hello), bytes))) => {
                            let node = peers.look(|peers| peers.node_of(&hello));
                            match node {
                                Ok(node) => {
                                    run(&peers, node, stream, Role::Acceptor, &bytes).await;
                                }
                                // One that has just started, or has just left.
                                Err(why)
                                    if peers.look(|peers| peers.is_of_this_cluster(&hello)) =>
                                {
                                    put_off(&from.to_string(), &why);
                                }
                                Err(why) => refused(&from.to_string(), &why),
                            }
                        }
                        Ok(Err(why)) => refused(&from.to_string(), &why),
                        Err(_) => {
                            refused(&from.to_string(), "it did not say whose it is within 5 s")
                        }
                    }
                });
            }
            Ok((stream, from)) => {
                drop(stream);
                refused(&from.to_string(), "too many connections have not said whose they are");
            }
            Err(error) => {
                let why = accept_error(&error);
                say::warn!(target: "hydrant::peers", "the peer port accepts nothing for now: {why}");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn refused(from: &str, why: &str) {
    say::warn!(target: "hydrant::peers", "a connection from {from} to the peer port is refused: {why}");
}

/// What is in order while nodes come and go: it is tried again, and comes to nothing or is taken then.
fn put_off(from: &str, why: &str) {
    say::info!(target: "hydrant::peers", "a connection from {from} to the peer port is not taken now: {why}");
}

/// What a connection begins with.
enum First {
    /// It is for this node.
    Hello(Hello),
    /// It is for another.
    Relay(Relay),
}

/// Reads until it is known whose the connection is, and for whom. With the bytes that belong to it.
async fn first(mut stream: TcpStream) -> Result<(TcpStream, First, Vec<u8>), String> {
    let mut bytes = Vec::with_capacity(1024);
    loop {
        match Relay::peek(&bytes) {
            Ok(Some((relay, end))) => {
                bytes.drain(..end);
                return Ok((stream, First::Relay(relay), bytes));
            }
            Ok(None) => {}
            Err(error) => return Err(error.to_string()),
        }
        match Hello::peek(&bytes) {
            Ok(Some(hello)) => return Ok((stream, First::Hello(hello), bytes)),
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

/// Carries the link over a connection until that ends. True when it was up, and nothing that came over it panicked. A
/// step that panics ends the connection and not the task: who dials this node goes on, and the link knows that it is
/// down. The frame whose handling panicked is lost, and keeps its place in the window until either node starts anew.
pub(super) async fn run(
    peers: &Handle,
    node: NodeIndex,
    stream: TcpStream,
    role: Role,
    first: &[u8],
) -> bool {
    let _ = stream.set_nodelay(true);
    let Some(connection) = peers.step(|peers, now| peers.handle_connected(now, node, role)) else {
        return false;
    };
    // The one before ends.
    let socket = peers.socket(node);
    socket.notify_waiters();
    socket.notify_one();
    let (reader, writer) = stream.into_split();
    let heard = Notify::new();
    let carried = async {
        if first.is_empty()
            || peers.step(|peers, now| peers.handle_received(now, node, connection, first))
        {
            tokio::select! {
                why = read(peers, node, connection, reader, &heard) => why,
                why = write(peers, node, connection, writer, &heard) => why,
            }
        } else {
            // What the other end is told of a refusal has still to go out.
            let _ = timeout(DIAL, write(peers, node, connection, writer, &heard)).await;
            "refused"
        }
    };
    let carried = AssertUnwindSafe(carried).catch_unwind().await;
    let fine = carried.is_ok();
    let ended = carried.unwrap_or("what came over it could not be handled");
    let was_up = peers.step(|peers, now| peers.handle_disconnected(now, node, connection, ended));
    // It may panic at once each time: who dials waits longer and longer.
    was_up && fine
}

async fn read(
    peers: &Handle,
    node: NodeIndex,
    connection: u64,
    mut reader: OwnedReadHalf,
    heard: &Notify,
) -> &'static str {
    let mut buffer = vec![0; CHUNK];
    loop {
        match reader.read(&mut buffer).await {
            Ok(0) => return "it was closed by the other end",
            Ok(n) => {
                if !peers
                    .step(|peers, now| peers.handle_received(now, node, connection, &buffer[..n]))
                {
                    return "it broke the peer protocol";
                }
                // With the other end's hello the link has other times: its pings begin.
                heard.notify_one();
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
    heard: &Notify,
) -> &'static str {
    let (mut out, more) = (Vec::with_capacity(CHUNK), peers.socket(node));
    loop {
        let sent =
            peers.step(|peers, now| peers.poll_transmit(now, node, connection, &mut out, CHUNK));
        let Ok(next) = sent else {
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
        let wait = next.map_or(WRITE, |at| at.since(clock::now().boot));
        tokio::select! {
            () = more.notified() => {}
            () = heard.notified() => {}
            () = sleep(wait) => {
                if !peers.step(|peers, now| peers.handle_timed_out(now, node, connection)) {
                    return "nothing came of it for too long";
                }
            }
        }
    }
}
