//! Clocks of the connections: who is silent, stuck, or waits for too long.
//!
//! Bounds: a scan of all connections at each tick of their ConnectionManager.

use std::rc::Rc;
use std::time::Duration;

use super::{Conn, Event, SocketState, Worker};

/// Clocks that were not looked at for so long: the thread was blocked, or the machine asleep.
const STOOD_STILL_MS: u64 = 1000;
/// Session expiry is looked at every so many ticks.
const EXPIRY_TICKS: u64 = 40;
/// The gauges over sessions are set at each tick below so many sessions, else with expiry.
const COUNTED_EACH_TICK: usize = 10_000;

impl Worker {
    /// A quarter of a second has passed, for the time number `ticks`. `look` tells of sockets, as in
    /// [`Self::check_timers`].
    pub fn handle_tick(&self, ticks: u64, look: impl Fn(&Conn, bool) -> SocketState) {
        self.check_timers(look);
        // A rebuilt router or a store that came back may have left credit nobody was told of.
        self.resume_paused();
        if self.index == 0 {
            self.shared.clock.look(self.now());
            self.shared.drops.lock().look(&self.shared.metrics);
        }
        self.restamp_sessions();
        let expiry = ticks.is_multiple_of(EXPIRY_TICKS);
        if expiry {
            self.expire_sessions();
            self.forget_stays();
        }
        // A walk over all sessions: seldom where there are many.
        if expiry || self.session_count() < COUNTED_EACH_TICK {
            self.count_sessions();
        }
        self.drain_some();
        self.forget_prepared();
        self.flush();
    }

    /// Looks at every connection's clocks: CONNECT in time, keep-alive, a socket that takes
    /// nothing, an actor that does not answer. Of the last two `look` tells, which is called for each connection;
    /// true: the thread stood still, and nobody's silence means anything.
    pub fn check_timers(&self, look: impl Fn(&Conn, bool) -> SocketState) {
        use crate::metrics::CloseReason;
        let now = self.now_ms();
        let limits = &self.shared.settings.limits;
        let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        let conns: Vec<Rc<Conn>> =
            self.conns.borrow().iter().map(|(_, conn)| Rc::clone(conn)).collect();
        self.count_buffers(conns.iter().map(|conn| &**conn));
        let acts = self.shared.may_act();
        let again = acts && !self.acted.replace(acts);
        // After this thread itself stood still nobody's silence means anything: one more turn.
        let since_last = now.saturating_sub(self.checked_ms.replace(now));
        let stood_still = since_last > STOOD_STILL_MS;
        for conn in conns {
            let state = look(&conn, stood_still);
            if stood_still {
                conn.stood_still(now, since_last);
                continue;
            }
            if again && !conn.out.borrow().is_empty() {
                // The lease is back, and with it what is on its way to clients.
                self.wake(&conn);
            }
            if conn.phase().is_draining() {
                // What it waits for may have been routed without an answer to it.
                self.wake(&conn);
            }
            if state == SocketState::Stalled {
                conn.enter(Event::Died);
                continue;
            }
            if conn.phase().closing().is_some() {
                // It was woken to end; one that does not is killed a stall later.
                continue;
            }
            if conn.phase().is_draining() && self.drained_late(&conn, now) {
                self.close(&conn, CloseReason::Drain);
                continue;
            }
            if !conn.phase().is_connected() {
                let claims = conn.phase().claim().is_some();
                if claims && self.waits_for_take_over(now, &conn) {
                    conn.patient_ms.set(now);
                }
                let claiming = conn.claiming_ms.get().max(conn.patient_ms.get());
                let since = if claims { claiming } else { conn.accepted_ms };
                if now.saturating_sub(since) > ms(limits.connect_timeout) {
                    // Also of a claim: where the network swallows the end of a connection, nothing else says
                    // that its client has left.
                    self.close(&conn, CloseReason::ConnectTimeout);
                } else if claims && conn.hides_end.get() {
                    self.wake(&conn);
                }
                continue;
            }
            let silent = now.saturating_sub(conn.last_packet_ms.get());
            let patience = u64::from(conn.keep_alive_s.get()) * 1500;
            if patience > 0
                && silent > patience
                && !conn.paused.get()
                && !conn.phase().awaits_connack()
                && !conn.lives_by_bytes(now, patience, limits.min_packet_rate)
            {
                self.close(&conn, CloseReason::KeepAlive);
                continue;
            }
            let since = conn.arrives_since_ms().filter(|_| !conn.paused.get());
            if since.is_some_and(|since| now.saturating_sub(since) > ms(limits.packet_timeout)) {
                self.close(&conn, CloseReason::PacketTimeout);
                continue;
            }
            if state == SocketState::Blocked {
                self.close(&conn, CloseReason::WriteTimeout);
            }
        }
    }
}
