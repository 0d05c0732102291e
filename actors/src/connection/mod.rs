//! The connection actor: one client's socket. Temporary: never restarted, the client reconnects
//! and its session is intact.
//!
//! Its stream (`io::ConnectionIo`) reads into the thread's buffer and writes the outgoing one;
//! the worker decodes every whole packet that came. [`listener`] accepts the sockets, [`manager`]
//! starts the connections and looks at their clocks.

mod io;
pub mod link;
pub mod listener;
pub mod manager;

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use actix::{Actor, ActorContext, AsyncContext, Context, StreamHandler};

use crate::driver::WorkerDriver;
use crate::messages::{ConnectionFault, NewSocket};
use crate::metrics::CloseReason;
use crate::say::{self, cut};
use crate::supervision::{ExitStatus, spawn_temporary};
use crate::worker::{Phase, say_cut};
use io::{ConnectionIo, IoEvent};
use link::Link;

/// See the module.
struct Connection {
    driver: Rc<WorkerDriver>,
    link: Rc<Link>,
}

impl Actor for Connection {
    type Context = Context<Self>;
}

impl StreamHandler<IoEvent> for Connection {
    fn handle(&mut self, event: IoEvent, ctx: &mut Self::Context) {
        let (worker, conn) = (self.driver.step(), &self.link.conn);
        if let Some(fault) = self.link.fault.take() {
            match fault {
                // The sentence of a test's fault; supervision is what is tested.
                #[allow(clippy::panic)]
                ConnectionFault::Panic => panic!("injected fault"),
                ConnectionFault::Stall => {
                    ctx.wait(actix::fut::wrap_future(std::future::pending()));
                    return;
                }
                ConnectionFault::Fail => {
                    worker.close(conn, CloseReason::ActorDied);
                    return;
                }
            }
        }
        match event {
            IoEvent::Read(bytes) => {
                let buffer = self.driver.read_buffer.borrow();
                worker.handle_bytes(conn, &buffer[..bytes]);
            }
            IoEvent::Resume => worker.handle_credit(conn),
            IoEvent::Drained => worker.handle_drained(conn),
            IoEvent::End(reason) => worker.close(conn, reason),
        }
    }

    fn finished(&mut self, ctx: &mut Self::Context) {
        ctx.stop();
    }
}

/// The actor has ended, however: its session goes on without it.
fn ended(driver: &WorkerDriver, link: &Link, status: &ExitStatus) {
    let (worker, conn) = (driver.step(), &link.conn);
    let died = !matches!(status, ExitStatus::Stopped);
    let reason = if died { CloseReason::ActorDied } else { CloseReason::Io };
    let ended = worker.handle_ended(conn, reason);
    driver.links.remove(conn.id());
    let Some(reason) = ended else { return };
    worker.metrics.close(if died { CloseReason::ActorDied } else { reason });
    let client_id = conn.client_id.borrow().clone().unwrap_or_else(|| Arc::from("(no CONNECT)"));
    let manager = worker.index;
    if died {
        let why = link.killed().map_or_else(|| status.to_string(), |why| format!("killed: {why}"));
        say::warn!(
            target: "hydrant::actors",
            "actor connection-manager/{manager}/connection {} {why}; its client may reconnect", cut(&client_id)
        );
    } else {
        say_cut(conn, reason);
        log::debug!(
            target: "hydrant::actors",
            "actor connection-manager/{manager}/connection {} stopped: {}", cut(&client_id), reason.label()
        );
    }
}

/// Starts a connection actor for a socket, as a task of its own in this worker.
pub fn start(driver: &Rc<WorkerDriver>, socket: NewSocket) {
    let worker = driver.step();
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
    let phase = if socket.header_first { Phase::ProxyHeader } else { Phase::AwaitConnect };
    let conn = worker.handle_accepted(phase, socket.peer, socket.read);
    if !handed_over {
        worker.metrics.accepted.inc();
    }
    if !handed_over {
        log::debug!(
            target: "hydrant::actors",
            "actor connection-manager/{}/connection {} started", worker.index, conn.peer.get()
        );
    }
    let mut ctx = Context::new();
    let link = Rc::new(Link::new(conn));
    driver.links.insert(&link);
    ctx.add_stream(ConnectionIo::new(Rc::clone(driver), Rc::clone(&link), stream, handed_over));
    let actor = Connection { driver: Rc::clone(driver), link: Rc::clone(&link) };
    let (ending_driver, ending) = (Rc::clone(driver), Rc::clone(&link));
    let abort = spawn_temporary(ctx, actor, move |status| ended(&ending_driver, &ending, &status));
    link.set_abort(abort);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::tests::driver;
    use crate::worker::Event;
    use crate::worker::testing::conn;

    /// Connections that the node counts when the actor of one has ended that moves to another worker.
    fn counted(has_moved: bool) -> usize {
        let driver = driver(2);
        let worker = &driver.worker;
        worker.shared.connections.store(1, Ordering::Relaxed);
        worker.metrics.connections.inc();
        let conn = conn(worker);
        assert!(conn.enter(Event::Moves(1)));
        if has_moved {
            assert!(conn.enter(Event::HasMoved));
        }
        let link = Link::new(conn);
        ended(&driver, &link, &ExitStatus::Panicked("injected".to_owned()));
        worker.shared.connections.load(Ordering::Relaxed)
    }

    #[test]
    fn a_connection_that_moves_is_counted_until_it_ends_somewhere() {
        assert_eq!(counted(true), 1, "it is the other worker's");
        assert_eq!(counted(false), 0, "its actor has ended before it could move");
    }
}
