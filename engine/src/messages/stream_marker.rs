//! Stream markers, as routers are given them to pass ([`hydrant_protocol::cluster::stream_marker`]).

use std::sync::Arc;

use smallvec::SmallVec;

use crate::cluster::NodeIndex;

/// What the routers of a node pass a [`StreamMarker`] for.
#[derive(Debug)]
pub enum MarkerReason {
    /// A session moves: what they route behind it goes to the target as well.
    Handover {
        /// Number of the handover.
        id: u64,
        /// Whose session it is.
        client: Arc<str>,
        /// The session is here, or comes here.
        here: bool,
    },
    /// What they route behind it for the sessions of a lost node goes to its successor.
    Successor {
        /// The lost incarnation.
        incarnation: u64,
        /// Who has its sessions now.
        successor: NodeIndex,
    },
    /// What they have changed of retained messages before is in the store.
    Retained {
        /// Number of this at the node that waits for it.
        round: u64,
        /// That node.
        by: NodeIndex,
    },
}

/// Passed by each router of a node, between two publishes.
#[derive(Debug)]
pub struct StreamMarker {
    /// What for.
    pub reason: MarkerReason,
    /// Nodes that are told.
    pub to: SmallVec<[NodeIndex; 2]>,
}
