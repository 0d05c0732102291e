//! Work for LogActor.

use hydrant_protocol::OnRefused;

use super::CompletionToken;
use crate::ports::LogRecord;

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
