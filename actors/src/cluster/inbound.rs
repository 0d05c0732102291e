//! A batch of publishes from another node, on its way to a router.

use bytes::Bytes;
use smallvec::SmallVec;

use super::NodeIndex;
use crate::shard::Needs;

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
    /// It brings QoS 2 to queues.
    pub exact: bool,
    /// Sessions that are not here yet and get something of it, by their slots.
    pub arriving: SmallVec<[u32; 1]>,
    /// Arbiters where there are such.
    pub late: SmallVec<[u16; 1]>,
}

impl FromPeer {
    /// Not begun.
    pub fn new(node: NodeIndex, incarnation: u64, body: Bytes) -> Self {
        let (arriving, late) = (SmallVec::new(), SmallVec::new());
        let (store, exact) = (false, false);
        Self { node, incarnation, body, done: 0, store, exact, arriving, late }
    }

    /// What one of its publishes has to have done.
    pub(crate) fn add(&mut self, needs: &Needs, held: bool) {
        self.store |= needs.store;
        self.exact |= needs.store && held;
        for slot in &needs.arriving {
            if !self.arriving.contains(slot) {
                self.arriving.push(*slot);
            }
        }
        for shard in &needs.late {
            if !self.late.contains(shard) {
                self.late.push(*shard);
            }
        }
    }
}
