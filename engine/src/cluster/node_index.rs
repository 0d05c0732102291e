//! How the other nodes are named within this one: a node by its index, one start of it by its incarnation too.
//!
//! Bounds: an entry a node id that ever was a member.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8};

/// Index of a node in the node's list of all that it has heard of, itself first.
pub type NodeIndex = u16;

/// Another node.
#[derive(Debug)]
pub struct Node {
    /// Its node id.
    pub id: Arc<str>,
    /// The link to it is up.
    pub up: AtomicBool,
    /// It stops in order, as it has said since the link was up last.
    pub stops: AtomicBool,
    /// Not 0: that batches of it are stored is kept in the store, and may be forgotten when it says so.
    pub kept: AtomicU8,
}

impl Node {
    /// Not heard of yet.
    pub fn new(id: &Arc<str>, up: bool) -> Arc<Self> {
        let (up, stops, kept) = (up.into(), AtomicBool::new(false), AtomicU8::new(0));
        Arc::new(Self { id: Arc::clone(id), up, stops, kept })
    }
}

/// One start of another node: what a publish is addressed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recipient {
    /// The node.
    pub node: NodeIndex,
    /// Which start of it.
    pub incarnation: u64,
}

/// Index of this node itself.
pub const SELF: NodeIndex = 0;

/// Stands for all earlier starts of this node, where a lost incarnation is named.
pub const EARLIER_STARTS: u64 = u64::MAX;
