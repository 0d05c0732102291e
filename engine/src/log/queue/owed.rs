//! What reports have said and nobody was told yet.
//!
//! It is kept until it was handed on, also when the actor dies in between: answering a token and moving a cursor twice
//! changes nothing, forgetting either would leave somebody waiting for ever.
//!
//! Bound: it stems from records that were outstanding, and is handed on at the end of each step.

use std::collections::VecDeque;

use hydrant_protocol::OnRefused;

use crate::messages::CompletionToken;
use crate::ports::{DeadId, LogRecord, OutboxPosition};

/// Where a record comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A publish.
    Publish(OnRefused),
    /// A dead letter that is sent again.
    Replay,
}

/// A record that the log refuses for good.
#[derive(Debug, Clone)]
pub struct Refused {
    /// The record.
    pub record: LogRecord,
    /// The log's words.
    pub why: String,
    /// Who waits for it.
    pub token: Option<CompletionToken>,
    /// Where it comes from.
    pub kind: Kind,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Owed {
    /// Who waited for a record that the log has.
    pub answers: VecDeque<CompletionToken>,
    /// Records that it refuses, of which nobody has decided what becomes of them.
    pub refused: VecDeque<Refused>,
    /// Who waited for one that is refused and kept nowhere.
    pub refusals: VecDeque<CompletionToken>,
    /// Dead letters that it has now.
    pub replayed: Vec<DeadId>,
    /// Places in the outbox that are over.
    pub done: Vec<OutboxPosition>,
    /// Records acknowledged, for the metrics.
    pub acknowledged: u64,
    /// Everything is to be sent again, and why.
    pub failure: Option<String>,
}
