//! What ZooKeeper knows of the members, and what it has shown to whom.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::network::Process;

/// See the module.
#[derive(Debug, Default)]
pub struct Zookeeper {
    /// By node: the incarnation.
    pub members: BTreeMap<usize, u64>,
    pub generation: u64,
    /// Nodes to which a view is on its way.
    pub pending: BTreeSet<usize>,
    /// The generation that a node has seen.
    pub seen: BTreeMap<Process, u64>,
    /// Those that have taken themselves out.
    pub withdrawn: BTreeSet<Process>,
    /// Since when a node is not heard of.
    pub silent: BTreeMap<usize, u64>,
}

/// The name of a node.
pub fn name(index: usize) -> Arc<str> {
    format!("n{}", index + 1).into()
}
