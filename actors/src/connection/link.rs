//! What a worker's thread knows of its connections beside their state: the sockets, and who is woken for them.
//!
//! Invariant: a link is in the table from when its connection is accepted until its actor has ended. It is found by
//! the connection's slot and generation, so that a slot that is used again leads to no other client's socket.
//! Bounds: one a connection of the worker ([`Worker::conns`](crate::worker::Worker::conns)).

use std::cell::{Cell, RefCell};
use std::io::Read as _;
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;

use crate::messages::ConnectionFault;
use crate::settings::Settings;
use crate::worker::{Conn, ConnId, Moment, READ_BUFFER, SocketState, moment};

/// Why a task is ended that was woken and never polled.
const STALLED: &str = "stalled: it did not answer its wake-up";

/// One connection's socket and task.
pub struct Link {
    /// Its state in the worker.
    pub conn: Rc<Conn>,
    /// The socket, while the actor has it: the actor alone reads and writes while the connection lasts.
    pub socket: RefCell<Option<TcpStream>>,
    waker: Cell<Option<Waker>>,
    abort: Cell<Option<AbortHandle>>,
    /// Woken and not polled since.
    woken_ms: Cell<Option<Moment>>,
    /// Since when the socket takes nothing.
    write_blocked_ms: Cell<Option<Moment>>,
    /// A fault that a test asked for.
    pub fault: Cell<Option<ConnectionFault>>,
    is_killed: Cell<bool>,
}

impl Link {
    /// The link of a connection without a task.
    pub fn new(conn: Rc<Conn>) -> Self {
        Self {
            conn,
            socket: RefCell::default(),
            waker: Cell::default(),
            abort: Cell::default(),
            woken_ms: Cell::new(None),
            write_blocked_ms: Cell::new(None),
            fault: Cell::new(None),
            is_killed: Cell::new(false),
        }
    }

    /// Keeps the waker of the actor's stream; called at every poll.
    pub fn polled(&self, waker: &Waker) {
        self.conn.polled();
        self.woken_ms.set(None);
        let known = self.waker.take().filter(|known| known.will_wake(waker));
        self.waker.set(Some(known.unwrap_or_else(|| waker.clone())));
    }

    fn wake(&self, now_ms: u64) {
        if self.woken_ms.get().is_none() {
            self.woken_ms.set(Some(moment(now_ms)));
        }
        if let Some(waker) = self.waker.take() {
            waker.wake_by_ref();
            self.waker.set(Some(waker));
        }
    }

    /// The socket takes something.
    pub fn takes(&self) {
        self.write_blocked_ms.set(None);
    }

    /// The socket takes nothing.
    pub fn is_blocked(&self) -> bool {
        self.write_blocked_ms.get().is_some()
    }

    /// The socket takes nothing from now on.
    pub fn blocks(&self, now_ms: u64) {
        self.write_blocked_ms.set(Some(moment(now_ms)));
    }

    /// Keeps the handle by which the actor's task can be ended.
    pub fn set_abort(&self, handle: AbortHandle) {
        self.abort.set(Some(handle));
    }

    /// Looks at the socket's clocks; an actor that stalls is ended. `stood_still`: nobody's silence means anything.
    pub fn look(&self, settings: &Settings, now_ms: u64, stood_still: bool) -> SocketState {
        let is_past = |since: Option<Moment>, most: Duration| {
            let most = u64::try_from(most.as_millis()).unwrap_or(u64::MAX);
            since.is_some_and(|since| now_ms.saturating_sub(since.get()) > most)
        };
        if stood_still {
            if self.conn.is_woken() {
                self.woken_ms.set(Some(moment(now_ms)));
            }
            if self.write_blocked_ms.get().is_some() {
                self.write_blocked_ms.set(Some(moment(now_ms)));
            }
            return SocketState::Goes;
        }
        if is_past(self.woken_ms.get(), settings.supervision.stall_timeout) {
            // Woken and never polled: its actor waits for something that does not come.
            self.is_killed.set(true);
            if let Some(handle) = self.abort.take() {
                handle.abort();
                self.abort.set(Some(handle));
            }
            return SocketState::Stalled;
        }
        match is_past(self.write_blocked_ms.get(), settings.limits.write_timeout) {
            true => SocketState::Blocked,
            false => SocketState::Goes,
        }
    }

    /// Why the task was ended from outside.
    pub fn killed(&self) -> Option<&'static str> {
        self.is_killed.get().then_some(STALLED)
    }

    /// Appends what stands in the socket. The socket itself is asked, and does not block: the runtime may not know yet
    /// that something stands there.
    fn unread(&self, into: &mut Vec<u8>) {
        if let Some(stream) = self.socket.borrow().as_ref() {
            // The thread's buffer may be in use: by the CONNECT that takes this connection over.
            let mut buffer = vec![0; READ_BUFFER];
            if let Ok(n) = (&*SockRef::from(stream)).read(&mut buffer) {
                into.extend_from_slice(&buffer[..n]);
            }
        }
    }
}

/// With [`Conn`]'s 320 bytes what they were together: jemalloc has a class of 128 bytes.
const _: () = assert!(size_of::<Link>() + 2 * size_of::<usize>() <= 128);

/// The links of a worker's thread, and who is woken for its router. See the module.
#[derive(Default)]
pub struct Links {
    links: RefCell<Vec<Option<Rc<Link>>>>,
    router: RefCell<Option<Waker>>,
}

impl Links {
    /// A connection was accepted.
    pub fn insert(&self, link: &Rc<Link>) {
        let mut links = self.links.borrow_mut();
        let at = link.conn.key();
        if links.len() <= at {
            links.resize(at + 1, None);
        }
        if let Some(slot) = links.get_mut(at) {
            *slot = Some(Rc::clone(link));
        }
    }

    /// The actor of a connection has ended.
    pub fn remove(&self, conn: ConnId) {
        if self.get(conn).is_some()
            && let Some(slot) = self.links.borrow_mut().get_mut(conn.key())
        {
            *slot = None;
        }
    }

    /// The link of this very connection.
    pub fn get(&self, conn: ConnId) -> Option<Rc<Link>> {
        let links = self.links.borrow();
        links.get(conn.key())?.as_ref().filter(|link| link.conn.id() == conn).cloned()
    }

    /// Wakes a connection's actor.
    pub fn wake(&self, conn: ConnId, now_ms: u64) {
        let links = self.links.borrow();
        let link = links.get(conn.key()).and_then(Option::as_ref);
        if let Some(link) = link.filter(|link| link.conn.id() == conn) {
            link.wake(now_ms);
        }
    }

    /// See [`Outside::unread`](crate::worker::Outside::unread).
    pub fn unread(&self, conn: ConnId, into: &mut Vec<u8>) {
        if let Some(link) = self.get(conn) {
            link.unread(into);
        }
    }

    /// Keeps the waker of the router's stream.
    pub fn set_router(&self, waker: &Waker) {
        let mut slot = self.router.borrow_mut();
        if !slot.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *slot = Some(waker.clone());
        }
    }

    /// Wakes the router.
    pub fn wake_router(&self) {
        if let Some(waker) = self.router.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;
    use crate::metrics::CloseReason;
    use crate::worker::testing::{conn, connect, settings, tick, worker, worker_with};

    #[derive(Default)]
    struct Counted(AtomicUsize);

    impl Wake for Counted {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_slot_that_is_used_again_leads_to_no_other_connection() {
        let (worker, links) = (worker(1), Links::default());
        let first = conn(&worker);
        links.insert(&Rc::new(Link::new(Rc::clone(&first))));
        assert!(links.get(first.id()).is_some());
        worker.conns.borrow_mut().remove(first.key());
        links.remove(first.id());
        assert!(links.get(first.id()).is_none());
        let second = conn(&worker);
        assert_eq!(second.key(), first.key());
        let link = Rc::new(Link::new(Rc::clone(&second)));
        links.insert(&link);
        let woken = Arc::new(Counted::default());
        link.polled(&Waker::from(Arc::clone(&woken)));
        links.wake(first.id(), 1);
        links.remove(first.id());
        assert_eq!(woken.0.load(Ordering::Relaxed), 0, "it is another's");
        assert!(links.get(first.id()).is_none() && links.get(second.id()).is_some());
        links.wake(second.id(), 1);
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn an_actor_that_stalls_while_it_drains_is_aborted() {
        let mut settings = settings(1);
        settings.shutdown_deadline = Duration::ZERO;
        settings.supervision.stall_timeout = Duration::ZERO;
        let worker = worker_with(settings);
        let client = connect(&worker, true, None);
        let link = Link::new(Rc::clone(&client));
        worker.drain_conn(&client);
        link.wake(worker.now_ms());
        // It is late and never polled: the second look finds that, a millisecond later.
        while link.killed().is_none() {
            let now = worker.now_ms();
            assert!(now < 10_000, "after {now} ms");
            worker.check_timers(|_, still| link.look(&worker.shared.settings, now, still));
            worker.shared.clock.shift(0, 1);
            tick(&worker);
        }
        assert_eq!(client.phase().closing(), Some(CloseReason::ActorDied));
    }
}
