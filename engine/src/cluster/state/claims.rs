//! Clients that wait to be let in, here or elsewhere.
//!
//! Bounds: a claim a connection; a release a client whose session another node asks for.

use std::sync::Arc;

use crate::now::Boot;

/// Another node lets a client in whose session this node may have.
#[derive(Debug)]
pub struct Release {
    /// The owner of the client id, who asks.
    pub owner: Arc<str>,
    /// Its ticket.
    pub ticket: u64,
    /// Client id.
    pub client: Arc<str>,
    /// The node that gets it.
    pub to: Arc<str>,
}

/// A client that waits to be let in.
#[derive(Debug)]
pub struct Claiming {
    pub worker: u16,
    pub conn: (usize, u32),
    pub client: Arc<str>,
    pub clean: bool,
    pub known: bool,
    /// What the store said last: the holder's incarnation.
    pub asked: Option<u64>,
    pub since: Boot,
    /// It was granted; the store is being asked.
    pub granted: bool,
    /// Its client has left.
    pub left: bool,
}
