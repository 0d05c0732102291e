//! How the other nodes are named within this one: a node by its index, one start of it by its incarnation too.
//!
//! Bounds: an entry a node id that ever was a member.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Index of a node in `ClusterStatus::nodes`.
pub type NodeIndex = u16;

/// Another node.
#[derive(Debug)]
pub struct Node {
    /// Its node id.
    pub id: Arc<str>,
    up: AtomicBool,
    stops: AtomicBool,
}

impl Node {
    /// Not heard of yet.
    pub fn new(id: &Arc<str>, up: bool) -> Arc<Self> {
        Arc::new(Self { id: Arc::clone(id), up: up.into(), stops: AtomicBool::new(false) })
    }

    /// The link to it is up.
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// It stops in order, as it has said since the link was up last.
    pub fn stops(&self) -> bool {
        self.stops.load(Ordering::SeqCst)
    }

    pub(super) fn is_now_up(&self) {
        self.up.store(true, Ordering::SeqCst);
        self.stops.store(false, Ordering::SeqCst);
    }

    pub(super) fn is_now_down(&self) {
        self.up.store(false, Ordering::SeqCst);
    }

    pub(super) fn has_said_it_stops(&self) {
        self.stops.store(true, Ordering::SeqCst);
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
