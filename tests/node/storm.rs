//! A storm of connections: more clients at once than `limits.connect_rate` lets in. They wait, and all
//! get in.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::client::Connect;
use crate::support::{Dice, Node, eventually};

/// A try that got no connection in this time is given up, as clients do.
const TRY: Duration = Duration::from_secs(2);
/// At most this, at random, between two tries.
const BETWEEN: u64 = 1000;
/// Until all are in.
const ALL_IN: Duration = Duration::from_secs(120);

/// Tries until the node accepts; the socket, which stays open.
async fn insist(
    node: SocketAddr,
    connect: Vec<u8>,
    mut dice: Dice,
    tries: &AtomicU64,
) -> TcpStream {
    loop {
        tries.fetch_add(1, Ordering::SeqCst);
        if let Ok(Ok(mut stream)) = tokio::time::timeout(TRY, TcpStream::connect(node)).await {
            let mut connack = [0; 4];
            if stream.write_all(&connect).await.is_ok()
                && stream.read_exact(&mut connack).await.is_ok()
            {
                assert_eq!(connack, [0x20, 2, 0, 0], "CONNACK");
                return stream;
            }
        }
        tokio::time::sleep(Duration::from_millis(dice.below(BETWEEN))).await;
    }
}

/// So many clients at once, all of which stay; how long it took until the last was in.
#[track_caller]
fn storm(node: &Node, clients: u64) -> Duration {
    let (address, tries) = (node.mqtt, Arc::new(AtomicU64::new(0)));
    // Who is there already notices nothing.
    let mut resident = node.client("resident");
    let started = Instant::now();
    let crowd = {
        let tries = Arc::clone(&tries);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let each = (0..clients).map(|n| {
                    let connect = Connect::new(&format!("storm-{n}")).bytes();
                    insist(address, connect, Dice::seeded(n), &tries)
                });
                let sockets = futures_util::future::join_all(each).await;
                (started.elapsed(), sockets)
            })
        })
    };
    eventually(ALL_IN, "all are in", || {
        resident.ping();
        crowd.is_finished()
    });
    let (took, sockets) = crowd.join().unwrap();
    let tries = tries.load(Ordering::SeqCst);
    eprintln!("{} clients in {took:?}, {tries} tries", sockets.len());
    assert_eq!(node.metric("hydrant_connections"), (clients + 1) as f64, "all are there");
    took
}

/// A tenth of a second's worth may come at once, and twice so much after a pause.
#[track_caller]
fn keeps_to(rate: u64, clients: u64) {
    let node = Node::builder().set("limits.connect_rate", rate).set("log.kind", "none").start();
    let took = storm(&node, clients);
    let at_once = 2 * (rate / 10).max(1);
    let measured = (clients - at_once) as f64 / took.as_secs_f64();
    assert!(measured <= rate as f64, "{measured} a second instead of {rate}");
}

#[test]
fn a_storm_of_connections_is_let_in_at_the_configured_rate() {
    keeps_to(2000, 10_000);
}

#[test]
fn a_low_connect_rate_is_kept_to() {
    keeps_to(10, 20);
}
