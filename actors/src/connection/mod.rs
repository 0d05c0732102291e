//! The connection actor: one client's socket. Temporary: never restarted, the client reconnects
//! and its session is intact.
//!
//! Its stream (`io::ConnectionIo`) reads into the arbiter's buffer and writes the outgoing one;
//! the handlers (`packets`) decode every whole packet that came.

mod io;
mod packets;

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use actix::{Actor, ActorContext, AsyncContext, Context, StreamHandler};

use crate::metrics::CloseReason;
use crate::shard::{Conn, Shard};
use crate::shared::{ConnectionFault, NewSocket};
use crate::supervision::{ExitStatus, spawn_temporary};
use io::{ConnectionIo, IoEvent};

/// See the module.
struct Connection {
    shard: Rc<Shard>,
    conn: Rc<Conn>,
}

impl Actor for Connection {
    type Context = Context<Self>;
}

impl StreamHandler<IoEvent> for Connection {
    fn handle(&mut self, event: IoEvent, ctx: &mut Self::Context) {
        if let Some(fault) = self.conn.fault.take() {
            match fault {
                // The sentence of a test's fault; supervision is what is tested.
                #[allow(clippy::panic)]
                ConnectionFault::Panic => panic!("injected fault"),
                ConnectionFault::Stall => {
                    ctx.wait(actix::fut::wrap_future(std::future::pending()));
                    return;
                }
                ConnectionFault::Fail => {
                    self.shard.close(&self.conn, CloseReason::ActorDied);
                    return;
                }
            }
        }
        match event {
            IoEvent::Read(bytes) => packets::read(&self.shard, &self.conn, bytes),
            IoEvent::Resume => packets::resume(&self.shard, &self.conn),
            IoEvent::Drained => {
                self.shard.pump(&self.conn);
                self.shard.flush();
            }
            IoEvent::End(reason) => self.shard.close(&self.conn, reason),
        }
    }

    fn finished(&mut self, ctx: &mut Self::Context) {
        ctx.stop();
    }
}

/// The actor has ended, however: its session goes on without it.
fn ended(shard: &Rc<Shard>, conn: &Rc<Conn>, status: &ExitStatus) {
    let died = !matches!(status, ExitStatus::Stopped);
    let reason = if died { CloseReason::ActorDied } else { CloseReason::Io };
    let reason = conn.closing.get().unwrap_or(reason);
    shard.detach(conn, reason);
    shard.conns.borrow_mut().try_remove(conn.id);
    shard.metrics.connections.sub(1);
    if conn.handoff.get().is_some() {
        return;
    }
    shard.shared.connections.fetch_sub(1, Ordering::Relaxed);
    shard.metrics.close(if died { CloseReason::ActorDied } else { reason });
    let client_id = conn.client_id.borrow().clone().unwrap_or_else(|| Arc::from("(no CONNECT)"));
    let manager = shard.index;
    if died {
        let why = conn.killed().map_or_else(|| status.to_string(), |why| format!("killed: {why}"));
        log::warn!(
            target: "hydrant::actors",
            "actor connection-manager/{manager}/connection {client_id} {why}; its client may reconnect"
        );
    } else {
        log::debug!(
            target: "hydrant::actors",
            "actor connection-manager/{manager}/connection {client_id} stopped: {}", reason.label()
        );
    }
}

/// Starts a connection actor for a socket, as a task of its own in this arbiter.
pub fn start(shard: &Rc<Shard>, socket: NewSocket) {
    let stream = match tokio::net::TcpStream::from_std(socket.stream) {
        Ok(stream) => stream,
        Err(error) => {
            log::debug!("connection of {} given up: {error}", socket.peer);
            shard.shared.connections.fetch_sub(1, Ordering::Relaxed);
            shard.metrics.close(CloseReason::Io);
            return;
        }
    };
    let handed_over = !socket.read.is_empty();
    let conn = {
        let mut conns = shard.conns.borrow_mut();
        let slot = conns.vacant_entry();
        let conn = Rc::new(Conn::new(slot.key(), socket.peer, shard.now_ms(), socket.read));
        slot.insert(Rc::clone(&conn));
        conn
    };
    shard.metrics.connections.inc();
    if !handed_over {
        shard.metrics.accepted.inc();
    }
    conn.header_first.set(socket.header_first);
    conn.draining.set(shard.is_draining());
    log::debug!(
        target: "hydrant::actors",
        "actor connection-manager/{}/connection {} started", shard.index, conn.peer.get()
    );
    let mut ctx = Context::new();
    ctx.add_stream(ConnectionIo::new(Rc::clone(shard), Rc::clone(&conn), stream, handed_over));
    let actor = Connection { shard: Rc::clone(shard), conn: Rc::clone(&conn) };
    let (ending_shard, ending) = (Rc::clone(shard), Rc::clone(&conn));
    let abort = spawn_temporary(ctx, actor, move |status| ended(&ending_shard, &ending, &status));
    conn.set_abort(abort);
}
