//! What a worker reaches outside of itself: the inboxes of the node's actors, how full these are, and who waits for
//! their sockets; and random numbers. Its driver lends it; the worker pushes and asks, and never waits.
//!
//! Invariant: what is pushed to one inbox stands there in the order of the pushes.

#[cfg(any(test, feature = "for-tests"))]
use std::collections::VecDeque;

use super::ConnId;
use crate::messages::{LogWork, ManagerWork, PeerWork, RouterWork, StorageWork};

/// See the module. `bytes` is what the work counts with against the bound of its inbox.
pub trait Outside {
    /// To StorageActor.
    fn storage(&self, work: StorageWork, bytes: usize);

    /// To the log actor: all of it, in its order.
    fn log(&self, work: &mut Vec<LogWork>);

    /// To the router of a worker.
    fn router(&self, worker: u16, work: RouterWork, bytes: usize);

    /// To the manager of a worker.
    fn manager(&self, worker: u16, work: ManagerWork, bytes: usize);

    /// To PeersActor.
    fn peers(&self, work: PeerWork, bytes: usize);

    /// Bytes that wait for StorageActor.
    fn storage_bytes(&self) -> usize;

    /// The log actor may be given more.
    fn log_has_room(&self) -> bool;

    /// The router of a worker may be given more.
    fn router_has_room(&self, worker: u16) -> bool;

    /// A connection has something to do. The time is the step's, in the worker's milliseconds.
    fn wake(&self, conn: ConnId, now_ms: u64);

    /// This worker's router has something to do.
    fn wake_router(&self);

    /// Appends what has come on a connection and was not given to the worker, at most
    /// [`READ_BUFFER`](super::READ_BUFFER) bytes; without waiting.
    fn unread(&self, conn: ConnId, into: &mut Vec<u8>);

    /// A number that nobody can guess.
    fn random(&self) -> u64;

    /// Takes what stands in the storage's inbox, for tests.
    #[cfg(any(test, feature = "for-tests"))]
    fn take_storage(&self, _: usize) -> VecDeque<StorageWork> {
        VecDeque::new()
    }

    /// Takes what stands in the log's inbox, for tests.
    #[cfg(any(test, feature = "for-tests"))]
    fn take_log(&self, _: usize) -> VecDeque<LogWork> {
        VecDeque::new()
    }

    /// Takes what stands in the inbox of a worker's router, for tests.
    #[cfg(any(test, feature = "for-tests"))]
    fn take_router(&self, _: u16, _: usize) -> VecDeque<RouterWork> {
        VecDeque::new()
    }
}
