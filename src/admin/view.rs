//! What the admin endpoints ask of a node: [`NodeView`] and [`TailSource`]. The node implements both; nothing here
//! knows how. Bounds are the asker's: a page of connections, a limit of records.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use hydrant_actors::metrics::Metrics;
use tokio::sync::watch;

use super::rows::{
    ActorRow, ConnectionRow, DeadRequest, DrainAction, DrainState, FaultAction, Identity, Nodes,
    TailRow,
};
use super::wire::Reply;

/// A future a [`NodeView`] returns.
pub type ViewFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The answer to a fault request on a node that was not started for it.
pub const FAULTS_OFF: &str = "faults are off: start the node with debug.faults = true";

/// The answer to a question about the cluster on a node that has none.
pub const NO_CLUSTER: &str = "this node is not in a cluster: cluster.kind is \"single\", so there are no other nodes to list";

/// What the admin endpoints see of a node. Called on the admin thread: no method may block.
pub trait NodeView: Send + Sync + 'static {
    /// What the node is and where it listens, for `broker status`.
    fn identity(&self) -> Identity;
    /// The node's counters.
    fn metrics(&self) -> Arc<Metrics>;
    /// The actor tree, parents before their children, without connections.
    fn actors(&self) -> Vec<ActorRow>;
    /// One page of the connections; `page` counts from 0. Shorter than `page_size` on the last page.
    fn connections(&self, page: usize, page_size: usize) -> ViewFuture<Vec<ConnectionRow>>;
    /// Whether clients can be served; otherwise every reason why not.
    fn ready(&self) -> Result<(), Vec<String>>;
    /// Whether new clients may be sent here. Not the same as [`Self::ready`]: an actor that restarts,
    /// for some milliseconds mostly, is no reason against.
    fn takes_clients(&self) -> bool;
    /// Whether no actor has failed for good; otherwise every reason.
    fn healthy(&self) -> Result<(), Vec<String>>;
    /// Whether the node is being emptied (`broker drain`).
    fn draining(&self) -> bool;
    /// What of `limits.max_connections` is free, in percent.
    fn spare_percent(&self) -> u64;
    /// Begins to empty the node, takes that back, or only looks.
    fn drain(&self, action: DrainAction) -> ViewFuture<DrainState>;
    /// Lists, replays or drops dead letters. The error is one sentence for the user.
    fn dead(&self, request: DeadRequest) -> ViewFuture<Result<Vec<Reply>, String>>;
    /// Makes an actor misbehave. The error is one sentence for the user ([`FAULTS_OFF`] where the
    /// node was not started for it, or that no actor has this path).
    fn fault(&self, action: FaultAction, path: &str) -> Result<(), String>;
    /// The cluster's nodes as this one sees them. The error is one sentence for the user
    /// ([`NO_CLUSTER`] where it is alone).
    fn nodes(&self) -> Result<Nodes, String>;
    /// The embedded log; None where `log.kind` is `kafka` or `none`.
    fn tail(&self) -> Option<Arc<dyn TailSource>>;
}

/// The embedded log as `broker tail` reads it. Every call but [`TailSource::changed`] may read or
/// write files: the admin endpoints make them on a thread for blocking work.
pub trait TailSource: Send + Sync + 'static {
    /// At most `limit` records of `topic` from offset `from`, or from the first one there is after
    /// it. Empty at the end and for a topic that does not exist.
    fn read(&self, topic: &str, from: u64, limit: usize) -> Result<Vec<TailRow>, String>;
    /// The first offset that retention has left; 0 for a topic that does not exist.
    fn first(&self, topic: &str) -> u64;
    /// The offset the next record will get.
    fn end(&self, topic: &str) -> u64;
    /// The next offset `group` will read, if it has committed one.
    fn committed(&self, group: &str, topic: &str) -> Option<u64>;
    /// Stores the next offset `group` will read.
    fn commit(&self, group: &str, topic: &str, offset: u64) -> Result<(), String>;
    /// Changes after records were appended to any topic. Closed when the log is.
    fn changed(&self) -> watch::Receiver<u64>;
    /// The topics there are.
    fn topics(&self) -> Vec<String>;
}
