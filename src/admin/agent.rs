//! HAProxy's agent-check: a TCP port that says one line a connection, which sets the server's weight
//! and state there (HAProxy's configuration manual, `agent-check`).
//!
//! `up 73%`: the part of `limits.max_connections` that is free, at least 1 %, so that a node with few
//! connections gets more of the new ones. `up 0%` while it is emptied, which gets none; `down` when it
//! wants none for another reason. The words `ready` and `drain` are never said: they set the server's
//! administrative state, which is the operator's, and `ready` would take back a drain or a
//! maintenance of his within a second.
//!
//! Bounds: `admin.max_connections` at a time, each for `admin.timeout`; what a peer sends is thrown
//! away, up to [`MAX_READ`] bytes.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::limits::AdminLimits;
use super::view::NodeView;
use hydrant_actors::connection::listener::accept_error;
use hydrant_actors::say;

/// Longest `agent-send` that is read: a socket closed with bytes unread resets the connection, and
/// the line could be lost.
const MAX_READ: u64 = 1024;

/// Serves until dropped.
pub(super) async fn serve(listener: TcpListener, limits: AdminLimits, node: Arc<dyn NodeView>) {
    let slots = Arc::new(Semaphore::new(limits.http_connections));
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                say::warn!("agent check: accept failed: {}", accept_error(&error));
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(slot) = slots.clone().try_acquire_owned() else {
            node.metrics().admin_bad_requests.inc();
            let most = limits.http_connections;
            say::warn!(
                "agent check: closing the connection from {peer}: admin.max_connections = {most} are open"
            );
            continue; // dropping the stream closes it
        };
        let (line, timeout) = (line(&*node), limits.http_timeout);
        tokio::spawn(async move {
            // A peer that goes away is nobody's problem.
            let _ = tokio::time::timeout(timeout, say(stream, &line)).await;
            drop(slot);
        });
    }
}

fn line(node: &dyn NodeView) -> String {
    if node.draining() {
        "up 0%\n".to_owned()
    } else if node.takes_clients() {
        format!("up {}%\n", node.spare_percent().clamp(1, 100))
    } else {
        "down\n".to_owned()
    }
}

async fn say(mut stream: TcpStream, line: &str) -> std::io::Result<()> {
    stream.write_all(line.as_bytes()).await?;
    stream.shutdown().await?;
    tokio::io::copy(&mut stream.take(MAX_READ), &mut tokio::io::sink()).await?;
    Ok(())
}
