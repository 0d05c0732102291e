//! What the admin endpoints ask of a node: [`NodeView`] and [`TailSource`], and the plain rows
//! they answer with. The node implements both; nothing here knows how.
//!
//! The rows go over the admin socket as they are, so they are serde types with no reference in
//! them. Bounds are the asker's: a page of connections, a limit of records.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use hydrant_actors::metrics::Metrics;
use hydrant_protocol::cluster::{Member, View};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// A future a [`NodeView`] returns.
pub type ViewFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The answer to a fault request on a node that was not started for it.
pub const FAULTS_OFF: &str = "faults are off: start the node with debug.faults = true";

/// The answer to a question about the cluster on a node that has none.
pub const NO_CLUSTER: &str = "this node is not in a cluster: cluster.kind is \"single\", so there are no other nodes to list";

/// What the admin endpoints see of a node. Called on the admin thread: no method may block.
pub trait NodeView: Send + Sync + 'static {
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

/// What `broker drain` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DrainAction {
    /// No new clients, those that are there closed at so many a second; without, at `node.drain_rate`,
    /// or as before when it does already.
    Start(Option<u32>),
    /// Clients are welcome again.
    Cancel,
    /// Only the state.
    Look,
}

/// How far a node is emptied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DrainState {
    /// It is being emptied, or is empty and takes nobody.
    pub draining: bool,
    /// Connections past their CONNECT that are left.
    pub left: u64,
    /// Connections a second that are closed.
    pub rate: u32,
}

/// An actor of the tree.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ActorRow {
    /// Its path, such as `connection-manager/0`.
    pub path: String,
    /// Its depth in the tree; the root has 0.
    pub indent: usize,
    /// Its state in one word, such as `running` or `backing-off`.
    pub state: String,
    /// Messages waiting in its mailbox.
    pub mailbox: u64,
    /// Restarts since the node started.
    pub restarts: u64,
    /// Messages handled since the node started.
    pub handled: u64,
    /// The longest handler, in microseconds.
    pub longest_us: u64,
    /// Anything else in a few words, such as a manager's count of connections.
    pub detail: String,
    /// How it last ended, if it did.
    pub last_exit: Option<String>,
}

/// A client's connection.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ConnectionRow {
    /// The client id; empty before CONNECT.
    pub client_id: String,
    /// The connection manager it belongs to.
    pub manager: usize,
    /// The peer's address and port.
    pub address: String,
    /// CleanSession was set.
    pub clean: bool,
    /// Milliseconds since it was accepted.
    pub connected_ms: u64,
    /// Outgoing QoS 1-2 messages in flight.
    pub inflight: u64,
    /// Messages queued for it.
    pub queued: u64,
    /// Bytes waiting in its outgoing buffer.
    pub output_bytes: u64,
}

/// A cluster as one of its nodes sees it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Nodes {
    /// Rises with every node that joins or leaves.
    pub generation: u64,
    /// ZooKeeper answers; otherwise the nodes are those known last.
    pub current: bool,
    /// By node id, the asked one among them.
    pub nodes: Vec<NodeRow>,
}

/// A node of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NodeRow {
    /// `node.id`.
    pub node_id: String,
    /// The number of its start.
    pub incarnation: u64,
    /// Where the other nodes reach it.
    pub peer: String,
    /// Where clients reach it.
    pub mqtt: Vec<String>,
    /// Its program's version.
    pub version: String,
    /// Its open client connections, as it said last.
    pub connections: u64,
    /// Its `limits.max_connections`.
    pub max_connections: u64,
    /// Its state in one word: `active` or `draining`.
    pub state: String,
}

impl From<&View> for Nodes {
    fn from(view: &View) -> Self {
        let row = |member: &Member| NodeRow {
            node_id: member.node_id.to_string(),
            incarnation: member.incarnation,
            peer: member.peer.clone(),
            mqtt: member.mqtt.clone(),
            version: member.version.clone(),
            connections: member.load.connections,
            max_connections: member.load.max_connections,
            state: if member.draining { "draining" } else { "active" }.to_owned(),
        };
        let nodes = view.members.iter().map(row).collect();
        Self { generation: view.generation, current: view.current, nodes }
    }
}

/// A record of the embedded log.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TailRow {
    /// Its offset in the topic.
    pub offset: u64,
    /// When it was appended, milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
    /// Its key, if it has one.
    #[serde(with = "super::wire::base64_option")]
    pub key: Option<Vec<u8>>,
    /// The MQTT topic it was published to.
    pub mqtt_topic: String,
    /// The QoS it was published with.
    pub qos: u8,
    /// The retain flag it was published with.
    pub retain: bool,
    /// Who published it.
    pub client_id: String,
    /// The payload.
    #[serde(with = "super::wire::base64_bytes")]
    pub payload: Vec<u8>,
}

/// What a fault request makes an actor do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FaultAction {
    /// Panic in a handler.
    Panic,
    /// Await something that never comes.
    Stall,
    /// End with an error.
    Fail,
}

impl std::str::FromStr for FaultAction {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "panic" => Ok(Self::Panic),
            "stall" => Ok(Self::Stall),
            "fail" => Ok(Self::Fail),
            other => Err(format!("`{other}` is no fault: give panic, stall or fail")),
        }
    }
}
