//! Closing connections in order: all of them in a shutdown, some at a time in `broker drain`. Each
//! is no longer read, and ends when what it sent is routed and its answers are out.
//!
//! Bounds: in `broker drain` a connection waits for that `node.shutdown_deadline` at most.

use std::rc::Rc;
use std::sync::atomic::Ordering;

use super::{Conn, Event, Worker};
use crate::metrics::CloseReason;

impl Worker {
    /// After [`Self::start_draining`]: the last connection is gone, and what it has sent is routed.
    pub fn is_drained(&self) -> bool {
        self.draining.get() && self.conns.borrow().is_empty() && !self.has_router_work()
    }

    /// Stops taking work from sockets; connections close once their acknowledgements are out.
    pub fn start_draining(&self) {
        self.draining.set(true);
        for (_, conn) in self.conns.borrow().iter() {
            self.drain_conn(conn);
        }
    }

    /// True after [`Self::start_draining`].
    pub fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// At each tick: begins to close as many clients' connections as `broker drain` may now. Others
    /// have no CONNECT yet, which is refused.
    pub fn drain_some(&self) {
        if !self.shared.draining.load(Ordering::Relaxed) {
            return;
        }
        let conns = self.conns.borrow();
        // One that closes takes nothing of the budget, whether it was drained or not.
        let whole = |conn: &Rc<Conn>| {
            let phase = conn.phase();
            phase.is_connected() && !phase.is_draining() && phase.closing().is_none()
        };
        let wanted = conns.iter().filter(|(_, conn)| whole(conn)).count();
        if wanted == 0 {
            return;
        }
        let rate = self.shared.drain_rate.load(Ordering::Relaxed);
        let now = self.shared.drain_budget.lock().take(self.now().boot, rate, wanted);
        for (_, conn) in conns.iter().filter(|(_, conn)| whole(conn)).take(now) {
            self.drain_conn(conn);
        }
    }

    pub fn drain_conn(&self, conn: &Conn) {
        conn.drain_at.set(low(self.routed_total.get() + self.router_depth() as u64));
        conn.drain_ms.set(low(self.now_ms()));
        conn.enter(Event::Drains);
        self.wake(conn);
    }

    /// Why a draining connection may close now; `None`: something it sent is not answered.
    pub fn drained(&self, conn: &Conn) -> Option<CloseReason> {
        // What was read and not routed may still owe it an answer.
        let behind = low(self.routed_total.get()).wrapping_sub(conn.drain_at.get());
        let routed = behind < 1 << 31;
        let reason = if self.is_draining() { CloseReason::Shutdown } else { CloseReason::Drain };
        (conn.phase().is_draining() && routed && conn.acks_outstanding() == 0).then_some(reason)
    }

    /// What a connection waits for in `broker drain` has not come within `node.shutdown_deadline`: it
    /// ends without, and its client sends again elsewhere. A shutdown has a deadline of its own.
    pub(super) fn drained_late(&self, conn: &Conn, now_ms: u64) -> bool {
        let patience = self.shared.settings.shutdown_deadline.as_millis();
        let waits = u128::from(low(now_ms).wrapping_sub(conn.drain_ms.get()));
        !self.is_draining() && waits > patience
    }

    /// Connections past their CONNECT.
    pub fn connected(&self) -> usize {
        self.conns.borrow().iter().filter(|(_, conn)| conn.phase().is_connected()).count()
    }
}

/// The lower 32 bits of a time or a count.
#[allow(clippy::cast_possible_truncation, reason = "that is what it is for")]
fn low(ms: u64) -> u32 {
    ms as u32
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use hydrant_protocol::wire::Publish;
    use hydrant_protocol::{PacketId, QoS};

    use super::*;
    use crate::now::Boot;
    use crate::worker::testing::{
        conn, connect, connect_as, now, ready, settings, tick, worker, worker_with,
    };

    fn submit(worker: &Rc<Worker>, conn: &Rc<Conn>) {
        let (topic, payload) = ("t", b"x");
        let packet_id = Some(PacketId::MIN);
        let qos = QoS::AtLeastOnce;
        let publish = Publish { dup: false, qos, retain: false, topic, packet_id, payload };
        worker.submit(conn, &publish, None);
    }

    #[test]
    fn a_draining_connection_waits_for_what_it_sent_and_for_nobody_else() {
        let worker = worker(1);
        let (drained, other) = (connect(&worker, true, None), conn(&worker));
        submit(&worker, &drained);
        assert_eq!(worker.drained(&drained), None, "it is not to be drained");
        worker.drain_conn(&drained);
        assert_eq!(worker.drained(&drained), None, "not routed");
        worker.route_all(|| ());
        submit(&worker, &other);
        assert!(worker.has_router_work());
        assert_eq!(worker.drained(&drained), Some(CloseReason::Drain));
        let waits = drained.owe(super::super::AckKind::Puback(PacketId::MIN));
        assert_eq!(worker.drained(&drained), None, "not acknowledged");
        drained.ack_done(waits);
        let _ = drained.next_ack();
        assert_eq!(worker.drained(&drained), Some(CloseReason::Drain));
        worker.draining.set(true);
        assert_eq!(worker.drained(&drained), Some(CloseReason::Shutdown));
    }

    /// Nothing else says that its client has left where the network swallows that.
    #[test]
    fn a_client_waits_to_be_let_in_no_longer_than_for_its_connect() {
        let mut settings = settings(1);
        settings.limits.connect_timeout = Duration::from_millis(20);
        let worker = worker_with(settings);
        let client = conn(&worker);
        client.enter(Event::Asks(std::num::NonZeroU32::MIN));
        while client.phase().closing().is_none() {
            assert!(worker.now_ms() < 10_000);
            client.polled();
            worker.shared.clock.shift(0, 1);
            tick(&worker);
            worker.check_timers(ready);
        }
        assert_eq!(client.phase().closing(), Some(CloseReason::ConnectTimeout));
        assert!(worker.now_ms() > 20);
    }

    /// Nobody polls those that close: they stay until they are killed, and others have their turn.
    #[test]
    fn a_connection_that_closes_takes_nothing_of_the_budget() {
        let worker = worker(1);
        let client = |n: usize| connect_as(&format!("c{n}"), &worker, true, None);
        let clients: Vec<_> = (0..20).map(client).collect();
        worker.shared.start_drain(now(&worker).boot, None);
        let drain_for_a_second = || {
            let since = Boot(worker.now().boot.0 - 5_000_000);
            *worker.shared.drain_budget.lock() = crate::drain_budget::Budget::new(since);
            worker.drain_some();
            clients.iter().filter(|client| client.phase().is_draining()).collect::<Vec<_>>()
        };
        let first = drain_for_a_second();
        assert_eq!(first.len(), 10);
        first.iter().for_each(|client| worker.close(client, CloseReason::Drain));
        assert_eq!(drain_for_a_second().len(), 10);
    }

    #[test]
    fn only_clients_are_drained_within_the_budget_and_new_ones_refused() {
        let worker = worker(1);
        let client = |n: usize| connect_as(&format!("c{n}"), &worker, true, None);
        let clients: Vec<_> = (0..30).map(client).collect();
        let socket = conn(&worker);
        worker.drain_some();
        assert!(clients.iter().all(|client| !client.phase().is_draining()));
        worker.shared.start_drain(now(&worker).boot, None);
        let since = Boot(worker.now().boot.0 - 5_000_000);
        *worker.shared.drain_budget.lock() = crate::drain_budget::Budget::new(since);
        worker.drain_some();
        let draining = clients.iter().filter(|client| client.phase().is_draining()).count();
        assert_eq!(draining, 10, "a second's worth");
        assert!(!socket.phase().is_draining());
        let late = client(30);
        assert_eq!(late.phase().closing(), Some(CloseReason::Refused));
        assert_eq!(late.out.borrow()[..], [0x20, 2, 0, 3]);
        assert_eq!(worker.connected(), 30);
        worker.shared.cancel_drain();
        assert_eq!(client(31).phase().closing(), None);
        assert!(worker.shared.not_ready.lock().is_empty());
    }
}
