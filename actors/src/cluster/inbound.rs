//! A batch of publishes from another node, on its way to a router.

use bytes::Bytes;
use smallvec::SmallVec;

use super::NodeIndex;

/// See the module.
#[derive(Debug)]
pub struct FromPeer {
    /// Whose publishers' they are.
    pub node: NodeIndex,
    /// Its incarnation.
    pub incarnation: u64,
    /// As in `hydrant_protocol::cluster::message`.
    pub body: Bytes,
    /// How far the router is, so that its restart does not repeat.
    pub done: usize,
    /// What was routed of it is being stored.
    pub store: bool,
    /// Sessions that are not here yet and get something of it, by their slots.
    pub arriving: SmallVec<[u32; 1]>,
}
