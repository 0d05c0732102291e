//! The connection actor: one client's socket. Temporary: never restarted, the client reconnects
//! and its session is intact.
//!
//! Its stream (`io::ConnectionIo`) reads into the worker's buffer and writes the outgoing one;
//! the handlers (`packets`) decode every whole packet that came. [`listener`] accepts the sockets, [`manager`]
//! starts the connections and looks at their clocks.

mod io;
pub mod listener;
pub mod manager;
mod packets;
mod refused;

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use actix::{Actor, ActorContext, AsyncContext, Context, StreamHandler};

use crate::messages::{ConnectionFault, NewSocket};
use crate::metrics::CloseReason;
use crate::say::{self, cut};
use crate::step::begin;
use crate::supervision::{ExitStatus, spawn_temporary};
use crate::worker::{Conn, Event, Phase, Worker};
use io::{ConnectionIo, IoEvent};

/// See the module.
struct Connection {
    worker: Rc<Worker>,
    conn: Rc<Conn>,
}

impl Actor for Connection {
    type Context = Context<Self>;
}

impl StreamHandler<IoEvent> for Connection {
    fn handle(&mut self, event: IoEvent, ctx: &mut Self::Context) {
        begin(&self.worker);
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
                    self.worker.close(&self.conn, CloseReason::ActorDied);
                    return;
                }
            }
        }
        match event {
            IoEvent::Read(bytes) => packets::read(&self.worker, &self.conn, bytes),
            IoEvent::Resume => packets::resume(&self.worker, &self.conn),
            IoEvent::Drained => {
                self.worker.pump(&self.conn);
                self.worker.flush();
            }
            IoEvent::End(reason) => self.worker.close(&self.conn, reason),
        }
    }

    fn finished(&mut self, ctx: &mut Self::Context) {
        ctx.stop();
    }
}

/// The actor has ended, however: its session goes on without it.
fn ended(worker: &Rc<Worker>, conn: &Rc<Conn>, status: &ExitStatus) {
    let died = !matches!(status, ExitStatus::Stopped);
    let reason = if died { CloseReason::ActorDied } else { CloseReason::Io };
    let reason = conn.phase().closing().unwrap_or(reason);
    let moved = conn.phase() == Phase::Moved;
    begin(worker);
    worker.detach(conn, reason);
    worker.conns.borrow_mut().try_remove(conn.key());
    worker.give_buffers_back(conn);
    worker.metrics.connections.sub(1);
    if moved {
        return;
    }
    worker.shared.connections.fetch_sub(1, Ordering::Relaxed);
    worker.metrics.close(if died { CloseReason::ActorDied } else { reason });
    let client_id = conn.client_id.borrow().clone().unwrap_or_else(|| Arc::from("(no CONNECT)"));
    let manager = worker.index;
    if died {
        let why = conn.killed().map_or_else(|| status.to_string(), |why| format!("killed: {why}"));
        say::warn!(
            target: "hydrant::actors",
            "actor connection-manager/{manager}/connection {} {why}; its client may reconnect", cut(&client_id)
        );
    } else {
        refused::say_cut(conn, reason);
        log::debug!(
            target: "hydrant::actors",
            "actor connection-manager/{manager}/connection {} stopped: {}", cut(&client_id), reason.label()
        );
    }
}

/// Starts a connection actor for a socket, as a task of its own in this worker.
pub fn start(worker: &Rc<Worker>, socket: NewSocket) {
    let stream = match tokio::net::TcpStream::from_std(socket.stream) {
        Ok(stream) => stream,
        Err(error) => {
            log::debug!("connection of {} given up: {error}", socket.peer);
            worker.shared.connections.fetch_sub(1, Ordering::Relaxed);
            worker.metrics.close(CloseReason::Io);
            return;
        }
    };
    let handed_over = !socket.read.is_empty();
    begin(worker);
    let phase = if socket.header_first { Phase::ProxyHeader } else { Phase::AwaitConnect };
    let conn = {
        let mut conns = worker.conns.borrow_mut();
        let slot = conns.vacant_entry();
        let conn = Rc::new(Conn::new(slot.key(), phase, socket.peer, worker.now_ms(), socket.read));
        slot.insert(Rc::clone(&conn));
        conn
    };
    worker.recount_partial(&conn, conn.partial.borrow().len());
    worker.metrics.connections.inc();
    if !handed_over {
        worker.metrics.accepted.inc();
    }
    if worker.is_draining() {
        conn.enter(Event::Drains);
    }
    if !handed_over {
        log::debug!(
            target: "hydrant::actors",
            "actor connection-manager/{}/connection {} started", worker.index, conn.peer.get()
        );
    }
    let mut ctx = Context::new();
    ctx.add_stream(ConnectionIo::new(Rc::clone(worker), Rc::clone(&conn), stream, handed_over));
    let actor = Connection { worker: Rc::clone(worker), conn: Rc::clone(&conn) };
    let (ending_worker, ending) = (Rc::clone(worker), Rc::clone(&conn));
    let abort = spawn_temporary(ctx, actor, move |status| ended(&ending_worker, &ending, &status));
    conn.set_abort(abort);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::tests::{conn, worker};

    /// Connections that the node counts when the actor of one has ended that moves to another worker.
    fn counted(has_moved: bool) -> usize {
        let worker = worker(2);
        worker.shared.connections.store(1, Ordering::Relaxed);
        worker.metrics.connections.inc();
        let conn = conn(&worker);
        assert!(conn.enter(Event::Moves(1)));
        if has_moved {
            assert!(conn.enter(Event::HasMoved));
        }
        ended(&worker, &conn, &ExitStatus::Panicked("injected".to_owned()));
        worker.shared.connections.load(Ordering::Relaxed)
    }

    #[test]
    fn a_connection_that_moves_is_counted_until_it_ends_somewhere() {
        assert_eq!(counted(true), 1, "it is the other worker's");
        assert_eq!(counted(false), 0, "its actor has ended before it could move");
    }
}
