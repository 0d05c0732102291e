//! What is asked of a node and what it answers, as plain rows. They go over the admin socket as they are, so they are
//! serde types with no reference in them. Bounds are the asker's.

use hydrant_actors::cluster::LostNode;
use hydrant_protocol::cluster::{Member, MembershipView};
use serde::{Deserialize, Serialize};

/// What a node is and where it listens.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Identity {
    /// `node.id`.
    pub node_id: String,
    /// Its listeners for clients, as in `tcp/0.0.0.0:1883`.
    pub listeners: Vec<String>,
    /// `log.kind`.
    pub log_kind: String,
    /// The log's state in one lineage, Kafka's among them.
    pub log: String,
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
    /// `node.shutdown_deadline`, in seconds: a connection that is closed waits so long for its answers.
    pub deadline_s: u64,
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
    /// By node id, the asked one among them, and those that were lost of late.
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
    /// Its state: `active` or `draining`, or what becomes of what a lost one held.
    pub state: String,
}

impl Nodes {
    /// And those that were lost of late.
    pub fn add_lost(&mut self, lost: Vec<LostNode>) {
        self.nodes.extend(lost.into_iter().map(|lost| NodeRow {
            node_id: lost.node.to_string(),
            incarnation: lost.incarnation,
            state: lost.state,
            ..NodeRow::default()
        }));
        self.nodes.sort_by(|a, b| (&a.node_id, a.incarnation).cmp(&(&b.node_id, b.incarnation)));
    }
}

impl From<&MembershipView> for Nodes {
    fn from(view: &MembershipView) -> Self {
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
    #[serde(with = "super::encoding::base64_option")]
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
    #[serde(with = "super::encoding::base64_bytes")]
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

/// What is asked of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum DeadRequest {
    /// A page of them, in the order in which the records came.
    List {
        /// Those behind this id.
        after: Option<String>,
        /// At most so many.
        count: usize,
    },
    /// These go to the log again; `None`: all of them.
    Replay {
        /// By their ids.
        ids: Option<Vec<String>>,
    },
    /// These are removed; `None`: all of them.
    Drop {
        /// By their ids.
        ids: Option<Vec<String>>,
    },
}

/// A dead letter.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DeadRow {
    /// Its id.
    pub id: String,
    /// When the log refused it, last; milliseconds since the Unix epoch.
    pub refused_ms: u64,
    /// The publisher.
    pub client_id: String,
    /// The MQTT topic.
    pub mqtt_topic: String,
    /// The log's topic.
    pub topic: String,
    /// QoS of its PUBLISH.
    pub qos: u8,
    /// Bytes of its payload.
    pub bytes: u64,
    /// It is on its way to the log again.
    pub replaying: bool,
    /// Why the log refused it.
    pub reason: String,
}

/// What has become of those that were to be replayed or dropped.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DeadDone {
    /// No dead letters any more.
    pub gone: u64,
    /// Refused again.
    pub kept: u64,
    /// Still under way when the node answered.
    pub pending: u64,
    /// Something else was under way with these.
    pub busy: Vec<String>,
    /// There are no such.
    pub unknown: Vec<String>,
}

/// The actor tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// Parents before children.
    pub actors: Vec<ActorRow>,
    /// The page asked for.
    pub connections: Option<ConnectionPage>,
}

/// A page of connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionPage {
    /// From 0.
    pub page: usize,
    /// The most rows of a page.
    pub page_size: usize,
    /// The rows.
    pub rows: Vec<ConnectionRow>,
}
