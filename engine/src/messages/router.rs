//! Work for a TopicRouter from other workers and from PeersActor.

use std::sync::Arc;

use hydrant_protocol::cluster::stream_marker::PublishStream;

use super::{InboundPeerBatch, RemoteBatch, StreamMarker};

/// Work for a TopicRouter from other workers.
#[derive(Debug)]
pub enum RouterWork {
    /// Publishes whose subscribers are here.
    Deliver(RemoteBatch),
    /// The same from another node.
    PeerBatch(InboundPeerBatch),
    /// To be passed by each router.
    InsertMarker(Arc<StreamMarker>),
    /// A marker of another node's stream, behind what that has published.
    ForwardMarker {
        /// Number of the handover.
        id: u64,
        /// Whose session it is.
        client: Arc<str>,
        /// Whose marker, and how many routers it has.
        stream: PublishStream,
        /// See `stream`.
        routers: u16,
    },
    /// A marker, where the session is.
    MarkerArrived {
        /// Number of the handover.
        id: u64,
        /// Whose session it is.
        client: Arc<str>,
        /// Whose marker, and how many routers it has.
        stream: PublishStream,
        /// See `stream`.
        routers: u16,
    },
    /// A stream of another node has sent again what a lost incarnation had not stored.
    Resent {
        /// The lost one.
        incarnation: u64,
        /// Which, and how many routers that node has.
        stream: PublishStream,
        /// See `stream`.
        routers: u16,
    },
    /// The same, for the sessions of one worker.
    ResentHere {
        /// The lost one.
        incarnation: u64,
        /// Which, and how many routers that node has.
        stream: PublishStream,
        /// See `stream`.
        routers: u16,
    },
    /// A retained message of another node is not ahead of live subscribers any more.
    RetainedReached {
        /// Topic name.
        topic: Arc<str>,
        /// Version of the change.
        version: u64,
        /// Where it was published.
        stream: PublishStream,
        /// Nobody else brings it to whoever has subscribed here meanwhile.
        live: bool,
    },
    /// A session that was expected does not come.
    Forget {
        /// Whose it is.
        client: Arc<str>,
    },
    /// A session is coming.
    Expect {
        /// Number of the handover.
        id: u64,
        /// Whose session it is.
        client: Arc<str>,
        /// Its filters, and the granted QoS of each.
        filters: Vec<(Arc<str>, u8)>,
    },
}
