//! How far the nodes are with a round in which retained messages are read again.
//!
//! Bounds: one round at a time; an entry a node.

use std::collections::{BTreeMap, BTreeSet};

use hydrant_protocol::cluster::stream_marker::MarkedStreams;

use crate::cluster::NodeIndex;

/// See the module.
#[derive(Debug, Default)]
pub struct Refresh {
    /// Something was changed here while there are other nodes: one that is met later may not know.
    pub changed: bool,
    /// Number of the round.
    pub round: u64,
    pub marked: MarkedStreams,
    /// Nodes that have not stored what they had changed, this one among them.
    pub awaited: BTreeSet<NodeIndex>,
    /// Rounds of this node and others that wait for room in the outbox.
    pub parked: BTreeMap<NodeIndex, u64>,
    /// Nodes are asked, or the store is.
    pub running: bool,
    /// Something was missed since this round began, or it has failed.
    pub again: bool,
}
