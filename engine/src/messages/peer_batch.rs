//! A batch of publishes from another node, on its way to a router.

use bytes::Bytes;
use hydrant_protocol::cluster::message::PublishId;
use smallvec::SmallVec;

use crate::cluster::NodeIndex;
use crate::worker::state::dependencies::AckDependencies;

/// See the module.
#[derive(Debug)]
pub struct InboundPeerBatch {
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
    /// The prepared publishes among those, of what was routed.
    pub prepared: Vec<PublishId>,
    /// Sessions that are not here yet and get something of it, by their slots.
    pub arriving: SmallVec<[u32; 1]>,
    /// Workers where there are such.
    pub late: SmallVec<[u16; 1]>,
}

impl InboundPeerBatch {
    /// Not begun.
    pub fn new(node: NodeIndex, incarnation: u64, body: Bytes) -> Self {
        let (arriving, late) = (SmallVec::new(), SmallVec::new());
        let (store, exact, prepared) = (false, false, Vec::new());
        Self { node, incarnation, body, done: 0, store, exact, prepared, arriving, late }
    }

    /// What one of its publishes has to have done.
    pub fn add(&mut self, deps: &AckDependencies, held: bool, prepared: Option<PublishId>) {
        self.store |= deps.store;
        self.exact |= deps.store && held;
        self.prepared.extend(prepared.filter(|_| deps.store && held));
        for slot in &deps.arriving {
            if !self.arriving.contains(slot) {
                self.arriving.push(*slot);
            }
        }
        for worker in &deps.late {
            if !self.late.contains(worker) {
                self.late.push(*worker);
            }
        }
    }
}
