//! How a prepared publish stands, how one comes to the queues of this node, and which of them the sessions here have.
//!
//! Bounds: an [`OrphanDedup`] an incarnation that was taken over lately.

use std::sync::Arc;

use hydrant_protocol::cluster::dedup::DedupWindow;
use hydrant_protocol::cluster::message::PublishId;

/// How a prepared publish stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preparation {
    /// By which the other nodes know it.
    pub id: PublishId,
    /// It was a lost node's, whose sessions that are here now have it. `None`: it is this node's own.
    pub taken_over: Option<bool>,
}

/// A prepared publish as it comes to the queues of this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Coming {
    /// Which it is.
    pub id: PublishId,
    /// It has come before.
    pub routed: bool,
    /// The sessions that its own incarnation held have it.
    pub queued: bool,
    /// A successor publishes it again. What comes from its own node is a session's by the markers alone.
    pub again: bool,
    /// It was kept for a lost incarnation and is sent again for the sessions of that one.
    pub resent: bool,
    /// As in [`Prepared::low_watermark`](hydrant_protocol::cluster::message::Prepared::low_watermark).
    pub low_watermark: u64,
}

/// Which prepared publishes the sessions of a lost incarnation have.
#[derive(Debug)]
pub struct OrphanDedup {
    pub window: DedupWindow,
    /// Publishes that stood in a batch of which this client's session had its part buffered only.
    pub except: Vec<(PublishId, Arc<str>)>,
    /// When it was begun, in milliseconds since its worker was made.
    pub since_ms: u64,
}
