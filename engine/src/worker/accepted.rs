//! The beginning and the end of a connection in its worker.
//!
//! Bounds: `limits.max_connections`, kept by the listener.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::Ordering;

use super::{Conn, Event, Phase, Worker};
use crate::metrics::CloseReason;

impl Worker {
    /// A socket is this worker's. `read` has come on it before, at the worker that it comes from; its first phase is
    /// `phase`.
    pub fn handle_accepted(&self, phase: Phase, peer: SocketAddr, read: Vec<u8>) -> Rc<Conn> {
        let conn = {
            let mut conns = self.conns.borrow_mut();
            let slot = conns.vacant_entry();
            let id = (slot.key(), self.next_number());
            let conn = Rc::new(Conn::new(id, phase, peer, self.now_ms(), read));
            slot.insert(Rc::clone(&conn));
            conn
        };
        self.recount_partial(&conn, conn.partial(<[u8]>::len));
        self.metrics.connections.inc();
        if self.is_draining() {
            conn.enter(Event::Drains);
        }
        conn
    }

    /// The socket is gone: the connection's session goes on without it. `reason` counts where none was there before;
    /// `None`: the socket is with another worker.
    pub fn handle_ended(&self, conn: &Rc<Conn>, reason: CloseReason) -> Option<CloseReason> {
        let reason = conn.phase().closing().unwrap_or(reason);
        let moved = conn.phase() == Phase::Moved;
        self.detach(conn, reason);
        self.conns.borrow_mut().try_remove(conn.key());
        self.give_buffers_back(conn);
        self.metrics.connections.sub(1);
        if moved {
            return None;
        }
        self.shared.connections.fetch_sub(1, Ordering::Relaxed);
        Some(reason)
    }
}
