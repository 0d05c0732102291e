//! Why a peer connection cannot go on, or a frame cannot be sent.

use std::sync::Arc;

/// After each of these but [`LinkError::BodyTooLarge`] the caller closes the TCP connection; the
/// streams stay as they are, for the next one. Text from the peer is quoted and escaped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// Another magic.
    #[error("the other end of the peer connection is no Hydrant node: check the peer addresses")]
    NotAPeer,
    /// The ranges of versions do not meet.
    #[error(
        "the node at the other end speaks versions {} to {} of the peer protocol and this node {} to {}: upgrade the older one first to a release between them",
        theirs.0, theirs.1, ours.0, ours.1
    )]
    NoCommonVersion {
        /// Lowest and highest of this node.
        ours: (u16, u16),
        /// Lowest and highest of the peer.
        theirs: (u16, u16),
    },
    /// A node of another cluster.
    #[error(
        "the node at the other end is of cluster {theirs:?} and this one of {ours:?}: check the peer addresses, and that all nodes of a cluster have the same cluster id"
    )]
    WrongCluster {
        /// This node's.
        ours: Arc<str>,
        /// The peer's.
        theirs: String,
    },
    /// The peer says that it is this node.
    #[error(
        "the node at the other end says that it is {0:?}, as this node is: give every node an id of its own (node.id), and check that this node's peer address is not another's"
    )]
    OwnNodeId(Arc<str>),
    /// Not the node that this link is to.
    #[error(
        "the node at the other end is {theirs:?} where {expected:?} was expected: check the peer address that {expected:?} announces"
    )]
    WrongNodeId {
        /// The node the link is to.
        expected: Arc<str>,
        /// Who it is.
        theirs: String,
    },
    /// The peer has been seen in a later life.
    #[error(
        "{node_id:?} says hello as incarnation {theirs} after {known}: stop the older of the two processes that run as {node_id:?}"
    )]
    OlderIncarnation {
        /// The peer.
        node_id: Arc<str>,
        /// The highest seen.
        known: u64,
        /// What it says now.
        theirs: u64,
    },
    /// The peer has seen this node in a later life.
    #[error(
        "the peer knows this node as incarnation {theirs} and this process is {ours}: stop this process, another one runs under its node id"
    )]
    Superseded {
        /// This process's.
        ours: u64,
        /// The one the peer knows.
        theirs: u64,
    },
    /// What the peer has of this end's stream cannot be.
    #[error(
        "{node_id:?} has frames up to {theirs} where {acknowledged} are acknowledged and {sent} were sent: one end has forgotten the link; restart {node_id:?}"
    )]
    ResumeMismatch {
        /// The peer.
        node_id: Arc<str>,
        /// The sequence it names.
        theirs: u64,
        /// The highest that it acknowledged.
        acknowledged: u64,
        /// The highest that was sent.
        sent: u64,
    },
    /// The first frame is another.
    #[error(
        "the first frame is of kind {0} and not a hello: check that the other end is a Hydrant node"
    )]
    HelloExpected(u8),
    /// A hello after the first.
    #[error("a second hello came on one connection: report this as a defect of the peer's release")]
    HelloTwice,
    /// No hello in time.
    #[error(
        "no hello came for {0} ms: check that the other end is a Hydrant node and is not overloaded"
    )]
    HandshakeTimeout(u64),
    /// Length zero.
    #[error("a frame without a kind came: report this as a defect of the peer's release")]
    EmptyFrame,
    /// Longer than allowed; nothing of it was kept.
    #[error(
        "a frame announces {len} bytes where {max} are allowed: check that the other end is a Hydrant node with the same limit"
    )]
    FrameTooLarge {
        /// As announced.
        len: u32,
        /// [`Config::max_frame_bytes`](super::Config::max_frame_bytes), before the handshake
        /// [`MAX_HELLO`](super::MAX_HELLO).
        max: u32,
    },
    /// A kind that the negotiated version has not.
    #[error("a frame of the unknown kind {0} came: report this as a defect of the peer's release")]
    UnknownKind(u8),
    /// Too short, too long, or with an impossible value.
    #[error("the {0} is malformed: report this as a defect of the peer's release")]
    Malformed(&'static str),
    /// A frame from the future.
    #[error(
        "frame {got} came where {expected} was due: report this as a defect of the peer's release"
    )]
    Gap {
        /// The sequence that was due.
        expected: u64,
        /// The sequence that came.
        got: u64,
    },
    /// More than the window.
    #[error("frame {0} is beyond what was granted: report this as a defect of the peer's release")]
    CreditExceeded(u64),
    /// An acknowledgement below an earlier one or above what was sent.
    #[error(
        "the peer acknowledges frame {got} where {from} to {to} can be: report this as a defect of the peer's release"
    )]
    AckOutOfRange {
        /// The sequence it names.
        got: u64,
        /// The highest acknowledged.
        from: u64,
        /// The highest sent.
        to: u64,
    },
    /// A grant above the window.
    #[error("the peer grants more than its window: report this as a defect of the peer's release")]
    GrantOutOfRange,
    /// There is no connection, or it has failed before.
    #[error("the peer connection is not open: close it and connect again")]
    NotConnected,
    /// The body cannot be sent; nothing else has changed.
    #[error("a frame of {len} bytes cannot be sent to a peer, {max} are allowed: split it")]
    BodyTooLarge {
        /// Bytes of the body.
        len: usize,
        /// Largest body.
        max: usize,
    },
}
