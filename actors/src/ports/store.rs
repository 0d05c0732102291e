//! The session store: what outlives a connection and a node's memory. Its rows and operations are data of the engine.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use hydrant_engine::ports::{
    DeadId, DeadLetter, Lanes, LogRecord, QueueEntry, SessionId, StoreError, StoreOp,
    StoredSession, StoredWill,
};
use hydrant_protocol::Message;

/// Client id of the session that stands in a store while an import into it is not finished: one
/// that no client can have ([MQTT-1.5.3-2]).
pub const UNFINISHED: &str = "\0import";

/// Why nothing is done with such a store, and what to do.
pub const UNFINISHED_WHY: &str = "an import into it was not finished: empty it (drop the keyspace, or remove store/ in the data directory) and import again";

/// What a store operation returns.
pub type StoreFuture<T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'static>>;

/// Sessions, queues, retained messages, wills and the outbox, kept durably.
///
/// Order: writes become visible and durable in the order in which `write` is called; a read sees
/// every write whose future has resolved.
pub trait SessionStore: Send + Sync + 'static {
    /// Writes all operations atomically; resolves when they are durable. Shared, because
    /// StorageActor keeps the batch until it knows how it ended and may write it again.
    fn write(&self, ops: Arc<Vec<StoreOp>>) -> StoreFuture<()>;
    /// Every persistent session, at start.
    fn sessions(&self) -> StoreFuture<Vec<StoredSession>>;
    /// Every retained message with its version, at start; zero from a store that no other node
    /// writes to.
    fn retained(&self) -> StoreFuture<Vec<(Arc<Message>, u64)>>;
    /// Every will whose connection the node did not see end, at start: of each client all that are due, in the order
    /// of their connections.
    fn wills(&self) -> StoreFuture<Vec<StoredWill>>;
    /// Up to `limit` entries of a queue with `sequence >= from`, in order, at most about
    /// `max_bytes` (at least one entry when there is one).
    fn read_queue(
        &self,
        id: SessionId,
        from: u64,
        limit: usize,
        max_bytes: usize,
    ) -> StoreFuture<Vec<QueueEntry>>;
    /// The outbox's lanes, at start.
    fn lanes(&self) -> StoreFuture<Lanes>;
    /// Up to `limit` records of a lane from `from` on, in order, with their `outbox` set.
    fn read_outbox(
        &self,
        lane: u16,
        from: u64,
        limit: usize,
        max_bytes: usize,
    ) -> StoreFuture<Vec<LogRecord>>;
    /// Up to `limit` dead letters from `from` on, in order, at most about `max_bytes` (at least one
    /// when there is one). Their records have no `outbox`.
    fn dead_letters(
        &self,
        from: DeadId,
        limit: usize,
        max_bytes: usize,
    ) -> StoreFuture<Vec<DeadLetter>>;
    /// One line for `broker tree`.
    fn describe(&self) -> String;
}
