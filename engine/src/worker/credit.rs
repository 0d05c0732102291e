//! Whose socket is read: a connection has credit while what it has caused is not too much, and while the actors that its
//! publishes wait for have room.
//!
//! Bounds: `limits.max_unacknowledged` answers, twice `limits.max_output_bytes`, `limits.max_router_bytes`,
//! `storage.max_pending_bytes`, and the log actor's inbox.

use std::rc::Rc;
use std::sync::atomic::Ordering;

use hydrant_protocol::wire;

use super::{Conn, Worker};

impl Worker {
    /// Whether a connection may read more: what it has caused itself is not too much, and the actors its
    /// publishes wait for have room.
    pub fn has_credit(&self, conn: &Conn) -> bool {
        self.has_credit_within_read(conn) && self.others_have_room(conn)
    }

    /// The half of [`has_credit`](Self::has_credit) that each packet of a read may change.
    #[inline]
    pub fn has_credit_within_read(&self, conn: &Conn) -> bool {
        let limits = &self.shared.settings.limits;
        if conn.acks_outstanding() >= limits.max_unacknowledged {
            return false;
        }
        if conn.held.get() && (conn.replaying.get() || self.awaits_router(conn)) {
            return false;
        }
        // Deliveries end at max_output_bytes; past twice that it is answers which the client does
        // not read.
        let waits = conn.out.borrow().len();
        if waits >= 2 * limits.max_output_bytes || self.is_past_share(waits) {
            return false;
        }
        conn.phase().claim().is_none() && self.batch.borrow().bytes() < limits.max_router_bytes
    }

    /// The other half: it stands while one read is handled, because what that causes is handed out at its end.
    pub fn others_have_room(&self, conn: &Conn) -> bool {
        if self.remote_full.get() || !self.shared.may_act() {
            return false;
        }
        // A full store or log pauses those who wait for it; the others only far past the bound.
        let waits = conn.acks_outstanding() > 0;
        let stored = self.outside.storage_bytes();
        let pending = stored + self.shared.parked_bytes.load(Ordering::Relaxed);
        let max = self.shared.settings.storage.max_pending_bytes;
        if pending >= max && (waits || stored > 2 * max || pending > 4 * max) {
            return false;
        }
        conn.log_waits.get() == 0 || self.outside.log_has_room()
    }

    /// Whether a packet has to wait, with what is behind it. SUBSCRIBE and UNSUBSCRIBE wait for the
    /// router while it has publishes of their connection: they bear on what comes after them, and
    /// what came before is retained by then ([MQTT-3.3.1-8]). PUBREC waits until what was in flight
    /// has been read back: no PUBREL may precede a PUBLISH that is sent again ([MQTT-4.3.3-1]).
    pub fn must_wait(&self, conn: &Conn, packet: &wire::Packet<'_>) -> bool {
        let waits = match packet {
            wire::Packet::Subscribe(_) | wire::Packet::Unsubscribe(_) => self.awaits_router(conn),
            wire::Packet::Pubrec(_) => conn.replaying.get(),
            _ => false,
        };
        if waits {
            conn.held.set(true);
        }
        waits
    }

    fn awaits_router(&self, conn: &Conn) -> bool {
        conn.unrouted.get() && self.has_router_work()
    }

    /// Remembers a connection that stopped reading for want of credit.
    pub fn pause(&self, conn: &Rc<Conn>) {
        if !conn.paused.replace(true) {
            self.metrics.paused.inc();
            self.paused.borrow_mut().push(Rc::clone(conn));
        }
    }

    /// Lets paused connections that have credit again go on.
    pub fn resume_paused(&self) {
        if self.paused.borrow().is_empty() {
            return;
        }
        let now = self.now_ms();
        let mut paused = self.paused.take();
        paused.retain(|conn| {
            if conn.phase().closing().is_none() && !self.has_credit(conn) {
                return true;
            }
            conn.paused.set(false);
            if conn.held.replace(false) {
                // It has submitted nothing since.
                conn.unrouted.set(false);
            }
            // The keep-alive does not run while we did not read ([MQTT-3.1.2-24]).
            conn.clocks_begin_anew(now);
            self.wake(conn);
            false
        });
        self.paused.replace(paused);
    }

    /// Connections that stopped reading.
    pub fn paused_count(&self) -> usize {
        self.paused.borrow().len()
    }

    /// Another worker's router got more than it has room for: nothing is read here until it has
    /// some again.
    pub(super) fn remote_is_full(&self) {
        if !self.remote_full.replace(true) {
            // It registers for the room ([`Self::poll_remote_room`]).
            self.wake_router();
        }
    }

    /// True once, when every other worker's router that was full has room again. `wait` is called with one that has
    /// none yet, to wait for that. For the router's stream.
    pub fn poll_remote_room(&self, wait: impl FnOnce(u16)) -> bool {
        if !self.remote_full.get() {
            return false;
        }
        let mut others = (0..self.worker_count()).filter(|worker| *worker != self.index);
        match others.find(|worker| !self.outside.router_has_room(*worker)) {
            Some(full) => wait(full),
            None => self.remote_full.set(false),
        }
        !self.remote_full.get()
    }
}
