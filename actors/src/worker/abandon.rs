//! What becomes of a connection and its publish when a step for it panics.

use std::rc::Rc;
use std::sync::Arc;

use hydrant_protocol::PacketId;

use super::state::pending_acks::{Continuation, Place};
use super::state::replica::Preparation;
use super::state::sessions::SessionKey;
use super::{Conn, Worker};

/// Closes a connection when it is dropped before [`Abandon::keep`]: what was begun for it came to
/// no end.
pub(super) struct Abandon<'a> {
    worker: &'a Worker,
    conn: Option<Rc<Conn>>,
    receipt: Option<(SessionKey, PacketId)>,
    /// All that a publish causes is durable: sent again it is known, not repeated.
    durable: bool,
    /// It is prepared.
    prepared: Option<Preparation>,
    /// It stands there.
    place: Option<Place>,
    /// Its retained message is ahead of live subscribers.
    ahead: Option<(Arc<str>, u64)>,
}

impl<'a> Abandon<'a> {
    pub(super) fn conn(worker: &'a Worker, conn: &Rc<Conn>) -> Self {
        let conn = Some(Rc::clone(conn));
        Self {
            worker,
            conn,
            receipt: None,
            durable: false,
            prepared: None,
            place: None,
            ahead: None,
        }
    }

    pub(super) fn wait(worker: &'a Worker, kind: &Continuation, durable: bool) -> Self {
        let conn = match kind {
            Continuation::Answer { conn, .. }
            | Continuation::Outgoing { conn, .. }
            | Continuation::Release { conn, .. } => Some(conn),
            _ => kind.publisher(),
        };
        let (prepared, place, ahead) = (kind.preparation(), kind.place(), kind.ahead());
        Self {
            worker,
            conn: conn.cloned(),
            receipt: kind.receipt(),
            durable,
            prepared,
            place,
            ahead,
        }
    }

    pub(super) fn keep(mut self) {
        (self.conn, self.receipt, self.prepared) = (None, None, None);
        (self.place, self.ahead) = (None, None);
    }
}

impl Drop for Abandon<'_> {
    fn drop(&mut self) {
        match self.receipt {
            Some((session, id)) if self.durable => self.worker.keep_receipt(session, id),
            // The id is free again: a resent PUBLISH is tried anew, not waited for.
            Some((session, id)) => self.worker.forget_receipt(session, id),
            None => {}
        }
        if let Some(preparation) = self.prepared {
            let receipt = self.receipt.filter(|_| !self.durable);
            self.worker.count_opening(receipt.map(|(session, _)| session), false);
            self.worker.close_prepared(preparation);
        }
        if let Some((topic, version)) = &self.ahead {
            self.worker.retained_given_up(topic, *version);
        }
        self.worker.leave_place(self.place);
        if self.worker.has_ready() {
            self.worker.wake_router();
        }
        if let Some(conn) = &self.conn {
            self.worker.close_unanswered(conn);
        }
    }
}
