//! Who goes on once store, log or another node have answered.

/// Who has answered a pending ack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AckSource {
    /// The session store has written it.
    Store,
    /// The log has acknowledged it.
    Log,
    /// Another node has, one of those it waits for.
    Peer,
}

/// Points at a pending ack of one worker: something that goes on when store or log have answered.
#[derive(Debug, Clone, Copy)]
pub struct CompletionToken {
    /// Index of the worker.
    pub worker: u16,
    /// Whose answer is meant.
    pub source: AckSource,
    /// Slot in its table of pending acks.
    pub pending: u32,
    /// Tells a reused slot from the one that was meant.
    pub generation: u32,
}

/// Writes that belong together although several workers contribute to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transaction {
    /// Never used twice in a node's life.
    pub id: u64,
    /// How many requests make it up.
    pub parts: u16,
}
