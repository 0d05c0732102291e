//! What sessions and connections take in memory, against the bounds of the node.
//!
//! A session has a [`Charge`](super::state::sessions::Charge): its client id, topic filters, incoming packet ids, and
//! messages in flight while it is offline. Connections have *buffers*: what comes in (packets that are not whole, Last
//! Wills), and what goes out (messages that wait in memory, and what waits to be written). Each side has half of the
//! bound, so that subscribers that take nothing hold no publisher up.
//!
//! Invariant: the sum over the connections is what [`Worker::check_timers`] counts at each tick. In between it is kept
//! up by who changes a buffer.
//!
//! Bounds: `session.max_bytes` and `session.max_total_bytes`. `limits.max_buffer_bytes`, of which each worker has an
//! equal part, half a side: past it a connection may hold its equal share of that half, so that all together stay below
//! twice the bound.

use std::cell::Cell;
use std::sync::atomic::Ordering;

use super::state::buffers::Buffers;
use super::{Conn, READ_BUFFER, Worker};

/// A socket is read in pieces of so many bytes at least.
const LEAST_READ: usize = 1024;

impl Worker {
    /// Whether a session that takes `has` bytes may take so many more.
    pub(super) fn session_may_grow(&self, has: usize, by: usize) -> bool {
        let settings = &self.shared.settings.session;
        has + by <= settings.max_bytes
            && self.shared.metrics.session_bytes.load(Ordering::Relaxed) + by
                <= settings.max_total_bytes
    }

    /// All buffers of this worker, in bytes.
    pub fn buffered(&self) -> usize {
        self.incoming.held.get() + self.output.held.get()
    }

    fn changed(&self, buffers: &Buffers, before: usize, now: usize) {
        let was_full = buffers.is_full();
        buffers.held.set((buffers.held.get() + now).saturating_sub(before));
        if buffers.is_full() && !was_full {
            self.metrics.buffers_full.inc();
        }
    }

    /// One of a connection's byte counts has changed; counts stop at 4 GiB.
    fn recount(&self, buffers: &Buffers, counted: &Cell<u32>, now: usize) {
        let now = u32::try_from(now).unwrap_or(u32::MAX);
        self.changed(buffers, counted.replace(now) as usize, now as usize);
    }

    /// What waits to be written to a connection has grown or shrunk.
    #[inline]
    pub fn output_changed(&self, before: usize, now: usize) {
        self.changed(&self.output, before, now);
    }

    /// The beginning of a packet that a connection has takes so many bytes now.
    pub fn recount_partial(&self, conn: &Conn, now: usize) {
        self.recount(&self.incoming, &conn.partial_bytes, now);
    }

    /// So does its will.
    pub(super) fn recount_will(&self, conn: &Conn, now: usize) {
        self.recount(&self.incoming, &conn.will_bytes, now);
    }

    /// So do the messages that wait in memory for it.
    pub(super) fn recount_waiting(&self, conn: &Conn, now: usize) {
        self.recount(&self.output, &conn.waiting_bytes, now);
    }

    /// What a connection may hold of a side that is full.
    fn share_of(&self, buffers: &Buffers) -> usize {
        buffers.max / self.conns.try_borrow().map_or(1, |conns| conns.len().max(1))
    }

    /// What goes out is full, and a connection that holds so many bytes of it is past its share.
    #[inline]
    pub fn is_past_share(&self, holds: usize) -> bool {
        self.output.is_full() && holds > self.share()
    }

    /// What a connection may hold while what goes out is full.
    pub(super) fn share(&self) -> usize {
        self.share_of(&self.output)
    }

    /// The same of what comes in.
    pub fn is_past_incoming_share(&self, holds: usize) -> bool {
        self.incoming.is_full() && holds > self.share_of(&self.incoming)
    }

    /// How much is read of a socket at a time: what cannot be handled at once stays with its connection.
    pub fn read_size(&self) -> usize {
        if self.incoming.is_full() {
            self.share_of(&self.incoming).clamp(LEAST_READ, READ_BUFFER)
        } else {
            READ_BUFFER
        }
    }

    /// No room for a packet of `bytes` bytes to a connection: it takes what is written too slowly.
    #[inline]
    pub(super) fn output_is_full(&self, conn: &Conn, bytes: usize) -> bool {
        let waits = conn.out.borrow().len();
        waits >= self.shared.settings.limits.max_output_bytes || self.is_past_share(waits + bytes)
    }

    /// A connection has ended: it holds nothing more.
    pub fn give_buffers_back(&self, conn: &Conn) {
        self.output_changed(conn.out.take().len(), 0);
        drop(conn.partial.take());
        self.recount_partial(conn, 0);
        self.recount_will(conn, 0);
        self.recount_waiting(conn, 0);
    }

    /// Counts anew; lets those go on that waited for room.
    pub(super) fn count_buffers<'a>(&self, conns: impl Iterator<Item = &'a Conn>) {
        let (mut incoming, mut output) = (0, 0);
        let has_room = !self.output.is_full();
        for conn in conns {
            let out = conn.out.borrow().len();
            incoming += conn.partial_bytes.get() as usize + conn.will_bytes.get() as usize;
            output += out + conn.waiting_bytes.get() as usize;
            // No socket that empties wakes it.
            if has_room && out == 0 && conn.wants_pump.get() {
                self.wake(conn);
            }
        }
        self.incoming.held.set(incoming);
        self.output.held.set(output);
        self.metrics.buffered_bytes.set(self.buffered() as u64);
    }
}
