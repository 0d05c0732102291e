//! A client's connection, as its actor drives it: what a poll of the socket comes to.
//!
//! Invariant: nothing is read without credit, and nothing leaves without the lease.

use std::rc::Rc;
use std::sync::atomic::Ordering;

use hydrant_engine::metrics::CloseReason;
use hydrant_engine::worker::{Event, Phase, Worker};

use super::parts::Socket;
use super::{Effect, Node};

impl Node {
    /// A client connects: its connection begins on a worker.
    pub fn accept(&mut self, socket: u64, worker: u16) {
        self.tables.connections.fetch_add(1, Ordering::Relaxed);
        self.begin_connection(socket, worker, Vec::new());
    }

    fn begin_connection(&mut self, socket: u64, index: u16, read: Vec<u8>) {
        let worker = &self.workers[usize::from(index)];
        let resume = !read.is_empty();
        let peer = ([127, 0, 0, 1], (socket % 60_000) as u16 + 1).into();
        let conn = worker.handle_accepted(Phase::AwaitConnect, peer, read);
        let (arrived, eof, ended, ready) = (Vec::new(), false, false, true);
        let new = Socket { worker: index, conn, arrived, eof, resume, ended, ready };
        self.sockets.insert(socket, new);
    }

    /// Bytes have come, or the end.
    pub fn arrived(&mut self, socket: u64, bytes: Option<Vec<u8>>) {
        if let Some(socket) = self.sockets.get_mut(&socket) {
            socket.ready = true;
            match bytes {
                Some(bytes) => socket.arrived.extend(bytes),
                None => socket.eof = true,
            }
            let key = (socket.worker, socket.conn.key());
            self.unread.borrow_mut().insert(key, socket.arrived.clone());
        }
    }

    /// Its worker may ask what has come and was not read.
    fn keep_unread(&self, socket: &Socket) {
        let key = (socket.worker, socket.conn.key());
        self.unread.borrow_mut().insert(key, socket.arrived.clone());
    }

    fn forget_unread(&self, socket: &Socket) {
        self.unread.borrow_mut().remove(&(socket.worker, socket.conn.key()));
    }

    /// One poll; reads and writes at most about `most` packets. True: it is to be polled again.
    pub(super) fn poll_socket(&mut self, number: u64, most: usize) -> bool {
        let Some(mut socket) = self.sockets.remove(&number) else { return false };
        let worker = Rc::clone(&self.workers[usize::from(socket.worker)]);
        socket.ready = false;
        match self.poll(number, &worker, &mut socket, most) {
            Poll::Pending => {}
            Poll::Again => socket.ready = true,
            Poll::Ends => {
                self.end(number, &worker, &mut socket);
                return false;
            }
            Poll::Moves(home) => {
                let read = socket.conn.partial.take();
                worker.recount_partial(&socket.conn, 0);
                socket.conn.enter(Event::HasMoved);
                worker.handle_ended(&socket.conn, CloseReason::Io);
                self.forget_unread(&socket);
                self.begin_connection(number, home, read);
                let (arrived, eof) = (socket.arrived, socket.eof);
                if let Some(mut new) = self.sockets.remove(&number) {
                    (new.arrived, new.eof) = (arrived, eof);
                    self.keep_unread(&new);
                    self.sockets.insert(number, new);
                }
                return true;
            }
        }
        let again = socket.ready;
        self.sockets.insert(number, socket);
        again
    }

    fn poll(&mut self, number: u64, worker: &Rc<Worker>, socket: &mut Socket, most: usize) -> Poll {
        let conn = Rc::clone(&socket.conn);
        conn.polled();
        if let Phase::Moving(home) = conn.phase() {
            return Poll::Moves(home);
        }
        if socket.ended || conn.phase().closing().is_some() {
            return Poll::Ends;
        }
        if self.write_out(number, worker, socket, most) {
            if conn.wants_pump.replace(false) {
                worker.handle_drained(&conn);
                return Poll::Again;
            }
            if let Some(reason) = worker.drained(&conn) {
                conn.enter(Event::Closes(reason));
                return Poll::Ends;
            }
        }
        match conn.phase() {
            Phase::Draining(_) | Phase::AwaitConnack => return Poll::Pending,
            Phase::Claiming(_) => {
                if self.has_left(worker, socket) {
                    socket.ended = true;
                    worker.close(&conn, CloseReason::Eof);
                    return Poll::Again;
                }
                return Poll::Pending;
            }
            _ => {}
        }
        if !worker.has_credit(&conn) {
            worker.pause(&conn);
            return Poll::Pending;
        }
        if std::mem::take(&mut socket.resume) || conn.has_undecoded() {
            conn.set_undecoded(false);
            worker.handle_credit(&conn);
            return Poll::Again;
        }
        if !socket.arrived.is_empty() {
            // Packets of a client of this world have about 30 bytes; so some are cut.
            let n = socket.arrived.len().min(most * 30);
            let bytes: Vec<u8> = socket.arrived.drain(..n).collect();
            self.keep_unread(socket);
            worker.handle_bytes(&conn, &bytes);
            return Poll::Again;
        }
        if socket.eof {
            socket.ended = true;
            worker.close(&conn, CloseReason::Eof);
            return Poll::Again;
        }
        Poll::Pending
    }

    /// Writes what waits, or a part of it; true when nothing waits any more.
    fn write_out(
        &mut self,
        number: u64,
        worker: &Rc<Worker>,
        socket: &mut Socket,
        most: usize,
    ) -> bool {
        if !self.tables.may_act() {
            return false;
        }
        let mut out = socket.conn.out.borrow_mut();
        let before = out.len();
        if before > most * 100 {
            let rest = out.split_off(most * 100);
            let written = std::mem::replace(&mut *out, rest);
            worker.output_changed(before, out.len());
            self.effects.push(Effect::Write(number, written));
            socket.ready = true;
            return false;
        }
        if before > 0 {
            let buffer = std::mem::take(&mut *out);
            drop(out);
            worker.output_changed(before, 0);
            self.effects.push(Effect::Write(number, buffer.clone()));
            worker.give_buffer(buffer);
            socket.conn.packets_out.take();
        }
        true
    }

    /// Whether the client of a claim has left.
    fn has_left(&self, worker: &Worker, socket: &Socket) -> bool {
        let conn = &socket.conn;
        let packets = match (socket.arrived.is_empty(), socket.eof) {
            (true, false) => return false,
            (true, true) => worker.has_more_than_connect(conn),
            (false, false) => {
                conn.hides_end.set(true);
                return false;
            }
            (false, true) => true,
        };
        conn.hides_end.set(packets);
        worker.has_left(conn, packets)
    }

    /// The connection ends: what waits goes out as far as the socket takes it.
    fn end(&mut self, number: u64, worker: &Rc<Worker>, socket: &mut Socket) {
        let conn = &socket.conn;
        let reason = conn.phase().closing();
        let abrupt = matches!(
            reason,
            Some(CloseReason::Io | CloseReason::WriteTimeout | CloseReason::ActorDied)
        );
        let drained = matches!(reason, Some(CloseReason::Drain | CloseReason::Shutdown));
        if drained && conn.has_will() && worker.takes_leave(conn) {
            conn.enter(Event::TakesLeave);
        }
        if !abrupt && self.tables.may_act() {
            let rest = conn.out.borrow().clone();
            if !rest.is_empty() {
                self.effects.push(Effect::Write(number, rest));
            }
        }
        self.effects.push(Effect::Close(number));
        worker.handle_ended(conn, CloseReason::Io);
        self.forget_unread(socket);
    }
}

/// What a poll comes to.
enum Poll {
    /// It waits.
    Pending,
    /// Something was done, there may be more.
    Again,
    /// The connection ends.
    Ends,
    /// It goes on at another worker.
    Moves(u16),
}
