//! What a driver does, as the tests do it.

use std::sync::Arc;

use crate::clock::ReadClock as _;
use crate::mailboxes::Mailboxes;
use crate::worker::{Conn, SocketState, Worker};

impl Worker {
    /// The inboxes that it pushes to.
    pub(crate) fn mailboxes(&self) -> &Arc<Mailboxes> {
        self.outside.mailboxes()
    }
}

/// A socket and a task with which nothing is wrong.
pub(crate) fn ready(_: &Conn, _: bool) -> SocketState {
    SocketState::Goes
}

/// A step begins, at the time that it is.
pub(crate) fn tick(worker: &Worker) {
    worker.begin(worker.shared.clock.now());
}
