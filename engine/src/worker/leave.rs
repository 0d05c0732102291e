//! Clients that take leave of a connection that is about to end for another reason: who has sent DISCONNECT by
//! then has no will ([MQTT-3.14.4-3]).
//!
//! Bounds: one read of the socket, [`READ_BUFFER`](super::READ_BUFFER) bytes.

use std::rc::Rc;

use hydrant_protocol::wire::{self, Frame, Packet};

use super::{Conn, Event, Worker};
use crate::metrics::CloseReason;

impl Worker {
    /// Whether a DISCONNECT is among what has come on a connection and is not handled any more. Its socket is
    /// asked for that.
    pub fn takes_leave(&self, conn: &Conn) -> bool {
        let mut come = conn.partial.take();
        self.outside.unread(conn.id(), &mut come);
        self.has_disconnect(conn, &come)
    }

    /// Whether a whole DISCONNECT stands in `input`, which is not handled otherwise.
    fn has_disconnect(&self, conn: &Conn, mut input: &[u8]) -> bool {
        while let Ok(Frame::Complete { first, body, len }) =
            wire::next_frame(input, self.wire_limits.max_packet_size)
        {
            let first = if conn.v31.get() { wire::first_byte_of_v31(first) } else { first };
            match wire::decode(first, body, &self.wire_limits) {
                Ok(Packet::Disconnect) => return true,
                Ok(_) => input = &input[len..],
                // It would have ended the connection.
                Err(_) => return false,
            }
        }
        false
    }

    /// Closes a connection whose client is elsewhere now, or back.
    pub(super) fn close_old(&self, old: &Rc<Conn>) {
        let reason = old.phase().closing();
        let ends = matches!(reason, None | Some(CloseReason::Drain | CloseReason::Shutdown));
        if ends && old.has_will() && self.takes_leave(old) {
            old.enter(Event::TakesLeave);
        }
        self.close(old, CloseReason::Takeover);
        self.detach(old, CloseReason::Takeover);
    }
}
