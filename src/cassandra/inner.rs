//! What the store's calls share: the connection, the incarnation, and what is known of the keyspace.

use std::sync::Arc;

use hydrant_actors::ports::{PreparedPublish, SealedIncarnation, StoredBatch, StoredWill};
use parking_lot::Mutex;

use super::db::Db;
use super::incarnation::Incarnation;
use super::memory::Memory;

pub(super) struct Inner {
    pub(super) db: Db,
    pub(super) incarnation: Arc<Incarnation>,
    pub(super) memory: Mutex<Memory>,
    /// One seal at a time.
    pub(super) sealing: tokio::sync::Mutex<()>,
    /// Lanes that are adopted are numbered from here on.
    pub(super) first_lane: u16,
    pub(super) continued: Continued,
    /// What dead incarnations left.
    pub(super) wills: Vec<StoredWill>,
}

/// What this incarnation goes on with from its beginning.
#[derive(Debug, Default)]
pub(super) struct Continued {
    /// Dead incarnations.
    pub(super) incarnations: Vec<SealedIncarnation>,
    /// Batches of other nodes that they had stored.
    pub(super) batches: Vec<StoredBatch>,
    /// QoS 2 publishes that they had begun.
    pub(super) prepared: Vec<PreparedPublish>,
}
