//! Work for LogActor.

use hydrant_protocol::OnRefused;

use super::CompletionToken;
use crate::ports::{DeadId, LogRecord, OutboxPosition};

/// Work for the log actor.
#[derive(Debug)]
pub struct LogWork {
    /// The record; its id is given by the log actor.
    pub record: LogRecord,
    /// Who waits for it.
    pub token: Option<CompletionToken>,
    /// What is done when the log refuses it for good.
    pub on_refused: OnRefused,
}

/// What the log actor hears about dead letters.
#[derive(Debug, Clone, Copy)]
pub enum DeadWork {
    /// A dead letter is durable, and the record's place in the outbox is over.
    Written {
        /// Which.
        id: DeadId,
        /// The place.
        outbox: Option<OutboxPosition>,
    },
    /// The removal of one is durable.
    Dropped {
        /// Which.
        id: DeadId,
    },
    /// Some are to be sent again.
    Replay,
}
