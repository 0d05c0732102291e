//! What becomes of a connection and its publish when a step for it panics.

use std::rc::Rc;
use std::sync::Arc;

use hydrant_protocol::PacketId;

use super::state::pending_acks::{Continuation, Place};
use super::state::replica::Preparation;
use super::state::sessions::SessionKey;
use super::{Conn, Worker};
use crate::step_guard::StepGuard;

/// What was begun for a connection, and comes to no end when its step panics.
#[derive(Default)]
pub(super) struct Begun {
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

impl Begun {
    pub(super) fn for_conn(conn: &Rc<Conn>) -> Self {
        Self { conn: Some(Rc::clone(conn)), ..Self::default() }
    }

    pub(super) fn of(kind: &Continuation, durable: bool) -> Self {
        let conn = match kind {
            Continuation::Answer { conn, .. }
            | Continuation::Outgoing { conn, .. }
            | Continuation::Release { conn, .. } => Some(conn),
            _ => kind.publisher(),
        };
        let (prepared, place, ahead) = (kind.preparation(), kind.place(), kind.ahead());
        Self { conn: conn.cloned(), receipt: kind.receipt(), durable, prepared, place, ahead }
    }
}

impl Worker {
    /// Abandons what was begun unless the step gets to its end.
    pub(super) fn guard_begun(&self, begun: Begun) -> StepGuard<impl FnOnce()> {
        StepGuard::new(move || self.abandon(&begun))
    }

    /// What was begun came to no end: its connection closes.
    pub(super) fn abandon(&self, begun: &Begun) {
        match begun.receipt {
            Some((session, id)) if begun.durable => self.keep_receipt(session, id),
            // The id is free again: a resent PUBLISH is tried anew, not waited for.
            Some((session, id)) => self.forget_receipt(session, id),
            None => {}
        }
        if let Some(preparation) = begun.prepared {
            let receipt = begun.receipt.filter(|_| !begun.durable);
            self.count_opening(receipt.map(|(session, _)| session), false);
            self.close_prepared(preparation);
        }
        if let Some((topic, version)) = &begun.ahead {
            self.retained_given_up(topic, *version);
        }
        self.leave_place(begun.place);
        if self.has_ready() {
            self.wake_router();
        }
        if let Some(conn) = &begun.conn {
            self.close_unanswered(conn);
        }
    }
}
