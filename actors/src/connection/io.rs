//! The socket of one connection as a stream of events: what was read stands in the thread's
//! buffer while the event is handled; what waits in the outgoing buffer is written at each poll,
//! many packets in one call.
//!
//! Nothing is read without credit ([`Worker::has_credit`]): that is how TCP tells the device. While its client waits
//! to be let in, the socket is looked at for its end.

use std::io::{self, Write as _};
use std::net::Shutdown;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use futures_util::Stream;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use super::link::Link;
use crate::driver::WorkerDriver;
use crate::messages::{ManagerTask, NewSocket};
use crate::metrics::CloseReason;
use crate::worker::{Event, Phase};

/// What the actor handles.
#[derive(Debug)]
pub enum IoEvent {
    /// So many bytes stand in the thread's read buffer.
    Read(usize),
    /// Bytes that came before (with a handed-over socket, or left undecoded for want of credit)
    /// can be decoded.
    Resume,
    /// The outgoing buffer is empty and something waits for that.
    Drained,
    /// The socket is at its end.
    End(CloseReason),
}

pub struct ConnectionIo {
    driver: Rc<WorkerDriver>,
    link: Rc<Link>,
    /// Bytes of the outgoing buffer that the socket has taken.
    written: usize,
    resume: bool,
    ended: bool,
    /// A whole buffer was read: others get their turn before the next one.
    full_read: bool,
}

impl ConnectionIo {
    pub fn new(driver: Rc<WorkerDriver>, link: Rc<Link>, stream: TcpStream, resume: bool) -> Self {
        *link.socket.borrow_mut() = Some(stream);
        Self { driver, link, written: 0, resume, ended: false, full_read: false }
    }

    /// Writes what waits. Ready when the buffer is empty.
    fn poll_write_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (worker, conn) = (&self.driver.worker, &self.link.conn);
        let mut socket = self.link.socket.borrow_mut();
        let Some(stream) = socket.as_mut() else { return Poll::Ready(Ok(())) };
        if !worker.shared.may_act() {
            // Another may have what this node held: nothing leaves it. The clocks look again.
            return Poll::Pending;
        }
        let mut out = conn.out.borrow_mut();
        while self.written < out.len() {
            match Pin::new(&mut *stream).poll_write(cx, &out[self.written..]) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(n)) => {
                    self.written += n;
                    worker.metrics.bytes_out.add(n as u64);
                    self.link.takes();
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    if !self.link.is_blocked() {
                        self.link.blocks(self.driver.step().now_ms());
                    }
                    // What is out is not kept; the rest moves to the front once it is the smaller
                    // part, so that a slow socket costs no copy a packet.
                    if self.written > out.len() / 2 {
                        let before = out.len();
                        out.drain(..self.written);
                        self.written = 0;
                        worker.output_changed(before, out.len());
                    }
                    return Poll::Pending;
                }
            }
        }
        if self.written > 0 {
            self.written = 0;
            let buffer = std::mem::take(&mut *out);
            drop(out);
            worker.output_changed(buffer.len(), 0);
            worker.give_buffer(buffer);
            worker.metrics.packets_out.add(conn.packets_out.take().into());
        }
        Poll::Ready(Ok(()))
    }

    /// The connection is to end: what waits goes out as far as the socket takes it now. Of one that
    /// drained, what its client has said since is looked at for a DISCONNECT, which discards the will
    /// ([MQTT-3.14.4-3]).
    fn end(&mut self) -> Poll<Option<IoEvent>> {
        let (worker, conn) = (&self.driver.worker, &self.link.conn);
        let abrupt = matches!(
            conn.phase().closing(),
            Some(CloseReason::Io | CloseReason::WriteTimeout | CloseReason::ActorDied)
        );
        let drained =
            matches!(conn.phase().closing(), Some(CloseReason::Drain | CloseReason::Shutdown));
        if drained && conn.has_will() && worker.takes_leave(conn) {
            conn.enter(Event::TakesLeave);
        }
        let stream = self.link.socket.take();
        if let Some(stream) = stream
            && let Ok(mut stream) = stream.into_std()
        {
            // Nothing leaves while another may have what this node held.
            if !abrupt && worker.shared.may_act() {
                // The socket itself is asked: of one that has just moved here the runtime does not
                // know yet that it can be written. It does not block.
                let out = conn.out.borrow();
                let rest = &out[self.written..];
                if stream.write_all(rest).is_ok() {
                    worker.metrics.bytes_out.add(rest.len() as u64);
                    worker.metrics.packets_out.add(conn.packets_out.take().into());
                }
            }
            let _ = stream.shutdown(Shutdown::Both);
        }
        Poll::Ready(None)
    }

    /// Whether the client of a claim has left: it wakes when that shows, and reads nothing. What stands behind the
    /// CONNECT hides an end of it from a look at the bytes; the clocks look again then.
    fn poll_left(&self, cx: &mut Context<'_>) -> Option<CloseReason> {
        let socket = self.link.socket.borrow();
        let stream = socket.as_ref()?;
        let mut byte = [0; 1];
        let (packets, reason) = match stream.poll_peek(cx, &mut ReadBuf::new(&mut byte)) {
            Poll::Pending => return None,
            Poll::Ready(Ok(0)) => {
                (self.driver.worker.has_more_than_connect(&self.link.conn), CloseReason::Eof)
            }
            Poll::Ready(Err(_)) => (false, CloseReason::Io),
            Poll::Ready(Ok(_)) => {
                let mut noop = Context::from_waker(Waker::noop());
                let ready = pin!(stream.ready(Interest::READABLE)).poll(&mut noop);
                let closed = matches!(ready, Poll::Ready(Ok(ready)) if ready.is_read_closed());
                if !closed {
                    self.link.conn.hides_end.set(true);
                    return None;
                }
                (true, CloseReason::Eof)
            }
        };
        self.link.conn.hides_end.set(packets);
        self.driver.step().has_left(&self.link.conn, packets).then_some(reason)
    }

    /// The socket moves to another worker with what was read of it.
    fn hand_over(&mut self, home: u16) -> Poll<Option<IoEvent>> {
        let stream = self.link.socket.take();
        if let Some(stream) = stream {
            // A socket that cannot move ends with its actor.
            if let Ok(stream) = stream.into_std() {
                let conn = &self.link.conn;
                let read = conn.partial.take();
                self.driver.worker.recount_partial(conn, 0);
                let socket = NewSocket { stream, peer: conn.peer.get(), read, header_first: false };
                let managers = &self.driver.mailboxes.managers;
                managers[usize::from(home)].push(ManagerTask::Accept(socket), 256);
                conn.enter(Event::HasMoved);
            }
        }
        Poll::Ready(None)
    }
}

impl Drop for ConnectionIo {
    /// Also of an actor that is ended from outside.
    fn drop(&mut self) {
        drop(self.link.socket.take());
    }
}

impl Stream for ConnectionIo {
    type Item = IoEvent;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<IoEvent>> {
        let this = &mut *self;
        let link = Rc::clone(&this.link);
        let conn = &link.conn;
        link.polled(cx.waker());
        if let Phase::Moving(home) = conn.phase() {
            return this.hand_over(home);
        }
        if this.ended || conn.phase().closing().is_some() {
            return this.end();
        }
        if link.fault.get().is_some() {
            return Poll::Ready(Some(IoEvent::Resume));
        }
        match this.poll_write_out(cx) {
            Poll::Ready(Ok(())) => {
                if conn.wants_pump.replace(false) {
                    return Poll::Ready(Some(IoEvent::Drained));
                }
                if let Some(reason) = this.driver.worker.drained(conn) {
                    conn.enter(Event::Closes(reason));
                    return this.end();
                }
            }
            Poll::Ready(Err(_)) => {
                this.ended = true;
                return Poll::Ready(Some(IoEvent::End(CloseReason::Io)));
            }
            Poll::Pending => {}
        }
        match conn.phase() {
            // CONNACK's encoding wakes us.
            Phase::Draining(_) | Phase::AwaitConnack => return Poll::Pending,
            Phase::Claiming(_) => {
                if let Some(reason) = this.poll_left(cx) {
                    this.ended = true;
                    return Poll::Ready(Some(IoEvent::End(reason)));
                }
            }
            _ => {}
        }
        if !this.driver.worker.has_credit(conn) {
            this.driver.worker.pause(conn);
            return Poll::Pending;
        }
        if std::mem::take(&mut this.full_read) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if this.resume || conn.has_undecoded() {
            this.resume = false;
            conn.set_undecoded(false);
            return Poll::Ready(Some(IoEvent::Resume));
        }
        let mut socket = link.socket.borrow_mut();
        let Some(stream) = socket.as_mut() else { return Poll::Ready(None) };
        let mut buffer = this.driver.read_buffer.borrow_mut();
        let size = this.driver.worker.read_size();
        let mut read = ReadBuf::new(&mut buffer[..size]);
        match Pin::new(stream).poll_read(cx, &mut read) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(_)) => {
                this.ended = true;
                Poll::Ready(Some(IoEvent::End(CloseReason::Io)))
            }
            Poll::Ready(Ok(())) => {
                let n = read.filled().len();
                if n == 0 {
                    this.ended = true;
                    return Poll::Ready(Some(IoEvent::End(CloseReason::Eof)));
                }
                this.full_read = n == size;
                this.driver.worker.metrics.bytes_in.add(n as u64);
                Poll::Ready(Some(IoEvent::Read(n)))
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use std::net::TcpListener;
    use std::time::Duration;

    use super::*;
    use crate::driver::tests::driver;
    use crate::ports::StoreOp;
    use crate::worker::Conn;
    use crate::worker::testing::{connect, store};

    const CONNECT: &[u8] = &[0x10, 13, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 0, 0, 1, b'c'];
    const DISCONNECT: &[u8] = &[0xe0, 0];
    /// A PUBLISH of QoS 1 and, but for its end, another.
    const PUBLISH: &[u8] = &[0x32, 6, 0, 1, b't', 0, 7, b'x', 0x32, 6, 0, 1];

    fn linked(driver: &WorkerDriver, conn: &Rc<Conn>) -> Rc<Link> {
        let link = Rc::new(Link::new(Rc::clone(conn)));
        driver.links.insert(&link);
        link
    }

    /// Its client has sent `sent` since it drains, after `partial`; whether its will is discarded
    /// as it ends for `reason`.
    fn discards_the_will(reason: CloseReason, partial: &[u8], sent: &[u8]) -> bool {
        will_is_discarded(partial, sent, |driver, conn, io| {
            conn.enter(Event::Drains);
            conn.enter(Event::Closes(reason));
            let next = Pin::new(io).poll_next(&mut Context::from_waker(Waker::noop()));
            assert!(matches!(next, Poll::Ready(None)));
            driver.worker.detach(conn, reason);
        })
    }

    fn will_is_discarded(
        partial: &[u8],
        sent: &[u8],
        end: impl FnOnce(&Rc<WorkerDriver>, &Rc<Conn>, &mut ConnectionIo),
    ) -> bool {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        let _entered = runtime.enter();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (socket, _) = listener.accept().unwrap();
        client.write_all(sent).unwrap();
        // It is there: no other way leads to the socket.
        socket.peek(&mut [0; 1]).unwrap();
        socket.set_nonblocking(true).unwrap();
        let driver = driver(1);
        let worker = &driver.worker;
        let conn = connect(worker, false, Some("gone"));
        store(worker);
        conn.partial.set(partial.to_vec());
        let stream = TcpStream::from_std(socket).unwrap();
        let link = linked(&driver, &conn);
        let mut io = ConnectionIo::new(Rc::clone(&driver), link, stream, false);
        end(&driver, &conn, &mut io);
        worker.flush();
        let discarded = |op: &StoreOp| matches!(op, StoreOp::DeleteWill { .. });
        store(worker).0.iter().any(discarded)
    }

    #[test]
    fn who_takes_leave_and_connects_again_has_no_will() {
        let back = |partial: &[u8], sent: &[u8]| {
            will_is_discarded(partial, sent, |driver, old, _| {
                // Its CONNECT stands in the thread's buffer.
                let _in_use = driver.read_buffer.borrow();
                connect(&driver.worker, false, None);
                assert!(old.phase().closing().is_some());
            })
        };
        let elsewhere = |partial: &[u8], sent: &[u8]| {
            will_is_discarded(partial, sent, |driver, old, _| {
                driver.worker.give_up_session(&"n2".into(), 1, &"c".into(), &"n3".into());
                assert!(old.phase().closing().is_some());
            })
        };
        let behind = [&PUBLISH[8..], &[b't', 0, 8, b'y'], DISCONNECT].concat();
        type End<'a> = &'a dyn Fn(&[u8], &[u8]) -> bool;
        for end in [&back as End<'_>, &elsewhere] {
            assert!(end(&[], DISCONNECT));
            assert!(end(DISCONNECT, &[0]), "read, and not handled");
            assert!(end(&PUBLISH[..8], &behind));
            assert!(!end(&[], PUBLISH), "it has not");
        }
    }

    /// Whether a claim is given up whose client has sent `sent`, and has ended its side.
    fn has_left(sent: &[u8], ends: bool, since: Duration) -> bool {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (socket, _) = listener.accept().unwrap();
        client.write_all(sent).unwrap();
        if ends {
            client.shutdown(Shutdown::Write).unwrap();
        }
        socket.set_nonblocking(true).unwrap();
        let driver = driver(1);
        let conn = crate::worker::testing::conn(&driver.worker);
        driver.worker.shared.clock.shift(0, u64::try_from(since.as_millis()).unwrap());
        conn.partial.set(CONNECT.to_vec());
        conn.enter(Event::Asks(std::num::NonZeroU32::MIN));
        runtime.block_on(async {
            let stream = TcpStream::from_std(socket).unwrap();
            let link = linked(&driver, &conn);
            let mut io = ConnectionIo::new(Rc::clone(&driver), link, stream, false);
            let look = std::future::poll_fn(|cx| match Pin::new(&mut io).poll_next(cx) {
                Poll::Ready(Some(IoEvent::End(CloseReason::Eof))) => Poll::Ready(true),
                Poll::Ready(other) => panic!("{other:?}"),
                Poll::Pending => Poll::Pending,
            });
            // Nothing else wakes it: what it does not see in this time it does not see.
            tokio::time::timeout(Duration::from_millis(200), look).await.unwrap_or(false)
        })
    }

    #[test]
    fn who_waits_to_be_let_in_and_leaves_is_noticed() {
        let (at_once, late) = (Duration::ZERO, Duration::from_millis(1100));
        assert!(has_left(&[], true, at_once));
        assert!(!has_left(&[], false, at_once), "it waits");
        assert!(!has_left(PUBLISH, false, late), "it waits, and has sent something");
        assert!(
            !has_left(PUBLISH, true, at_once),
            "it has sent something, and may be let in at once"
        );
        assert!(has_left(PUBLISH, true, late));
    }

    #[test]
    fn who_takes_leave_while_he_is_drained_has_no_will() {
        let behind = [&PUBLISH[8..], &[b't', 0, 8, b'y'], DISCONNECT].concat();
        for reason in [CloseReason::Drain, CloseReason::Shutdown] {
            assert!(discards_the_will(reason, &[], DISCONNECT), "{reason:?}");
            assert!(discards_the_will(reason, &DISCONNECT[..1], &DISCONNECT[1..]), "{reason:?}");
            assert!(discards_the_will(reason, &PUBLISH[..8], &behind), "{reason:?}");
        }
        assert!(!discards_the_will(CloseReason::Drain, &[], &DISCONNECT[..1]), "half of one");
        assert!(!discards_the_will(CloseReason::Drain, &[], PUBLISH));
        // What is no MQTT ends it before, and the will is published.
        let broken = [&[0xe0, 1, 0], DISCONNECT].concat();
        assert!(!discards_the_will(CloseReason::Drain, &[], &broken));
        assert!(!discards_the_will(CloseReason::KeepAlive, &[], DISCONNECT));
    }
}
