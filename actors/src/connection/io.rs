//! The socket of one connection as a stream of events: what was read stands in the arbiter's
//! buffer while the event is handled; what waits in the outgoing buffer is written at each poll,
//! many packets in one call.
//!
//! Nothing is read without credit ([`Shard::has_credit`]): that is how TCP tells the device.

use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use futures_util::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::packets;
use crate::metrics::CloseReason;
use crate::shard::{Conn, READ_BUFFER, Shard};
use crate::shared::{ManagerWork, NewSocket};

/// What the actor handles.
#[derive(Debug)]
pub enum IoEvent {
    /// So many bytes stand in the arbiter's read buffer.
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
    shard: Rc<Shard>,
    conn: Rc<Conn>,
    stream: Option<TcpStream>,
    /// Bytes of the outgoing buffer that the socket has taken.
    written: usize,
    resume: bool,
    ended: bool,
    /// A whole buffer was read: others get their turn before the next one.
    full_read: bool,
}

impl ConnectionIo {
    pub fn new(shard: Rc<Shard>, conn: Rc<Conn>, stream: TcpStream, resume: bool) -> Self {
        Self {
            shard,
            conn,
            stream: Some(stream),
            written: 0,
            resume,
            ended: false,
            full_read: false,
        }
    }

    /// Writes what waits. Ready when the buffer is empty.
    fn poll_write_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(stream) = self.stream.as_mut() else { return Poll::Ready(Ok(())) };
        if !self.shard.shared.may_act() {
            // Another may have what this node held: nothing leaves it. The clocks look again.
            return Poll::Pending;
        }
        let mut out = self.conn.out.borrow_mut();
        while self.written < out.len() {
            match Pin::new(&mut *stream).poll_write(cx, &out[self.written..]) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(n)) => {
                    self.written += n;
                    self.shard.metrics.bytes_out.add(n as u64);
                    self.conn.write_blocked_ms.set(None);
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    if self.conn.write_blocked_ms.get().is_none() {
                        self.conn.write_blocked_ms.set(Some(self.shard.now_ms()));
                    }
                    // What is out is not kept; the rest moves to the front once it is the smaller
                    // part, so that a slow socket costs no copy a packet.
                    if self.written > out.len() / 2 {
                        out.drain(..self.written);
                        self.written = 0;
                    }
                    return Poll::Pending;
                }
            }
        }
        if self.written > 0 {
            self.written = 0;
            let buffer = std::mem::take(&mut *out);
            drop(out);
            self.shard.give_buffer(buffer);
            self.shard.metrics.packets_out.add(self.conn.packets_out.take());
        }
        Poll::Ready(Ok(()))
    }

    /// The connection is to end: what waits goes out as far as the socket takes it now. Of one that
    /// drained, what its client has said since is looked at for a DISCONNECT, which discards the will
    /// ([MQTT-3.14.4-3]).
    fn end(&mut self) -> Poll<Option<IoEvent>> {
        let abrupt = matches!(
            self.conn.closing.get(),
            Some(CloseReason::Io | CloseReason::WriteTimeout | CloseReason::ActorDied)
        );
        if let Some(stream) = self.stream.take()
            && let Ok(mut stream) = stream.into_std()
        {
            let drained =
                matches!(self.conn.closing.get(), Some(CloseReason::Drain | CloseReason::Shutdown));
            if drained && self.conn.will.borrow().is_some() && self.takes_leave(&mut stream) {
                self.conn.closing.set(Some(CloseReason::Disconnect));
            }
            // Nothing leaves while another may have what this node held.
            if !abrupt && self.shard.shared.may_act() {
                // The socket itself is asked: of one that has just moved here the runtime does not
                // know yet that it can be written. It does not block.
                let out = self.conn.out.borrow();
                let rest = &out[self.written..];
                if stream.write_all(rest).is_ok() {
                    self.shard.metrics.bytes_out.add(rest.len() as u64);
                    self.shard.metrics.packets_out.add(self.conn.packets_out.take());
                }
            }
            let _ = stream.shutdown(Shutdown::Both);
        }
        Poll::Ready(None)
    }

    /// Whether a DISCONNECT is among what has come: one read, which does not block.
    fn takes_leave(&self, stream: &mut std::net::TcpStream) -> bool {
        let mut come = self.conn.partial.take();
        let mut buffer = self.shard.read_buffer.borrow_mut();
        if let Ok(n) = stream.read(&mut buffer) {
            come.extend_from_slice(&buffer[..n]);
        }
        packets::has_disconnect(&self.shard, &self.conn, &come)
    }

    /// The socket moves to another arbiter with what was read of it.
    fn hand_over(&mut self, home: u16) -> Poll<Option<IoEvent>> {
        if let Some(stream) = self.stream.take() {
            match stream.into_std() {
                Ok(stream) => {
                    let read = self.conn.partial.take();
                    let socket =
                        NewSocket { stream, peer: self.conn.peer.get(), read, header_first: false };
                    let shared = &self.shard.shared;
                    shared.managers[usize::from(home)].push(ManagerWork::Accept(socket), 256);
                }
                Err(_) => self.conn.handoff.set(None),
            }
        }
        Poll::Ready(None)
    }
}

impl Stream for ConnectionIo {
    type Item = IoEvent;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<IoEvent>> {
        let this = &mut *self;
        let conn = Rc::clone(&this.conn);
        conn.polled(cx.waker());
        if let Some(home) = conn.handoff.get() {
            return this.hand_over(home);
        }
        if this.ended || conn.closing.get().is_some() {
            return this.end();
        }
        if conn.fault.get().is_some() {
            return Poll::Ready(Some(IoEvent::Resume));
        }
        match this.poll_write_out(cx) {
            Poll::Ready(Ok(())) => {
                if conn.wants_pump.replace(false) {
                    return Poll::Ready(Some(IoEvent::Drained));
                }
                if let Some(reason) = this.shard.drained(&conn) {
                    conn.closing.set(Some(reason));
                    return this.end();
                }
            }
            Poll::Ready(Err(_)) => {
                this.ended = true;
                return Poll::Ready(Some(IoEvent::End(CloseReason::Io)));
            }
            Poll::Pending => {}
        }
        if conn.draining.get() {
            return Poll::Pending;
        }
        if conn.awaits_connack() {
            // Its encoding wakes us.
            return Poll::Pending;
        }
        if !this.shard.has_credit(&conn) {
            this.shard.pause(&conn);
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
        let Some(stream) = this.stream.as_mut() else { return Poll::Ready(None) };
        let mut buffer = this.shard.read_buffer.borrow_mut();
        let mut read = ReadBuf::new(&mut buffer);
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
                this.full_read = n == READ_BUFFER;
                this.shard.metrics.bytes_in.add(n as u64);
                Poll::Ready(Some(IoEvent::Read(n)))
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::TcpListener;
    use std::task::Waker;

    use super::*;
    use crate::ports::StoreOp;
    use crate::shard::tests::{connect, shard, store};

    const DISCONNECT: &[u8] = &[0xe0, 0];
    /// A PUBLISH of QoS 1 and, but for its end, another.
    const PUBLISH: &[u8] = &[0x32, 6, 0, 1, b't', 0, 7, b'x', 0x32, 6, 0, 1];

    /// Its client has sent `sent` since it drains, after `partial`; whether its will is discarded
    /// as it ends for `reason`.
    fn discards_the_will(reason: CloseReason, partial: &[u8], sent: &[u8]) -> bool {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        let _entered = runtime.enter();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (socket, _) = listener.accept().unwrap();
        client.write_all(sent).unwrap();
        // It is there: no other way leads to the socket.
        socket.peek(&mut [0; 1]).unwrap();
        socket.set_nonblocking(true).unwrap();
        let shard = shard(1);
        let conn = connect(&shard, false, Some("gone"));
        store(&shard);
        *conn.partial.borrow_mut() = partial.to_vec();
        conn.draining.set(true);
        conn.closing.set(Some(reason));
        let stream = TcpStream::from_std(socket).unwrap();
        let mut io = ConnectionIo::new(Rc::clone(&shard), Rc::clone(&conn), stream, false);
        let next = Pin::new(&mut io).poll_next(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(next, Poll::Ready(None)));
        shard.detach(&conn, reason);
        shard.flush();
        let discarded = |op: &StoreOp| matches!(op, StoreOp::DeleteWill { .. });
        store(&shard).0.iter().any(discarded)
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
