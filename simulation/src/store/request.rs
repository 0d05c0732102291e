//! What is asked of the store and what it answers, as data. What each means is said at the methods of
//! [`SessionStore`](hydrant_engine::ports::SessionStore) and [`SharedStore`](hydrant_engine::ports::SharedStore).

use std::sync::Arc;

use hydrant_engine::ports::{
    DeadId, DeadLetter, Holder, KnownIncarnation, Lanes, LogRecord, QueueEntry, Sealing, SessionId,
    StoreOp, StoredSession, StoredWill,
};
use hydrant_protocol::Message;

/// A request of an incarnation.
#[derive(Debug, Clone)]
pub enum Request {
    /// [`Answer::Written`].
    Write(Arc<Vec<StoreOp>>),
    /// [`Answer::Sessions`].
    Sessions,
    /// [`Answer::Retained`].
    Retained,
    /// [`Answer::Wills`].
    Wills,
    /// [`Answer::Queue`].
    ReadQueue { id: SessionId, from: u64, limit: usize, max_bytes: usize },
    /// [`Answer::Lanes`].
    Lanes,
    /// [`Answer::Records`].
    ReadOutbox { lane: u16, from: u64, limit: usize, max_bytes: usize },
    /// [`Answer::DeadLetters`].
    DeadLetters { from: DeadId, limit: usize, max_bytes: usize },
    /// [`Answer::Incarnations`].
    Incarnations,
    /// Of a lineage: [`Answer::Wanted`].
    Wanted(u64),
    /// [`Answer::Located`].
    Locate(Arc<str>),
    /// [`Answer::Taken`].
    Take { client_id: Arc<str>, from: Holder, until: u64 },
    /// [`Answer::Sealed`]; waits in virtual time.
    Seal(u64),
    /// Raises the lease, from when this was sent: every third of it. [`Answer::Renewed`].
    Renew,
    /// Ends the incarnation in order: [`Answer::Released`].
    Release,
}

/// What a [`Request`] has come to.
#[derive(Debug, Clone)]
pub enum Answer {
    /// It is durable.
    Written,
    /// All sessions of the incarnation.
    Sessions(Vec<StoredSession>),
    /// Each with its version.
    Retained(Vec<(Arc<Message>, u64)>),
    /// All that are due, in the order of their connections.
    Wills(Vec<StoredWill>),
    /// A page.
    Queue(Vec<QueueEntry>),
    /// The lanes of the outbox.
    Lanes(Lanes),
    /// A page.
    Records(Vec<LogRecord>),
    /// A page.
    DeadLetters(Vec<DeadLetter>),
    /// Every other one.
    Incarnations(Vec<KnownIncarnation>),
    /// Filters.
    Wanted(Vec<Arc<str>>),
    /// Who holds it.
    Located(Option<Holder>),
    /// The session, where it is taken.
    Taken(Option<Box<StoredSession>>),
    /// How it ended.
    Sealed(Sealing),
    /// Whether it goes on.
    Renewed(bool),
    /// The lease is given back.
    Released,
    /// The number of the incarnation that has begun.
    Started(u64),
}
