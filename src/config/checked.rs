//! The configuration once it is checked: what the rest of the program is given.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use hydrant_actors::settings::Settings;

use crate::admin::AdminLimits;
use crate::cassandra::CassandraOptions;
use crate::embedded::{LogOptions, StoreOptions};
use crate::kafka::KafkaOptions;
use crate::zookeeper::ZookeeperOptions;

/// A checked configuration. Not `Debug`: there are secrets in it.
#[derive(Clone)]
pub struct Config {
    /// What the actor tree works with.
    pub settings: Settings,
    /// `node.data_dir`, as given (relative to the working directory).
    pub data_dir: PathBuf,
    /// `[listener]`.
    pub listener: ListenerConfig,
    /// `admin.address`; `None` when `admin.enabled` is false.
    pub admin: Option<SocketAddr>,
    /// `admin.agent_listen`; `None` is off.
    pub agent: Option<SocketAddr>,
    /// What a peer of the admin endpoints can use up; the rest of `[admin]`.
    pub admin_limits: AdminLimits,
    /// The embedded store's part of `[storage]`.
    pub store: StoreOptions,
    /// The embedded log's part of `[log]`.
    pub log: LogOptions,
    /// `[kafka]`; `Some` exactly when `log.kind` is "kafka".
    pub kafka: Option<KafkaOptions>,
    /// `[cassandra]`; `Some` exactly when `storage.kind` is "cassandra".
    pub cassandra: Option<CassandraOptions>,
    /// `[cluster]` and `[zookeeper]`; `Some` exactly when `cluster.kind` is "zookeeper".
    pub cluster: Option<ClusterConfig>,
}

/// `[cluster]`: this node among others. `Debug` shows no secret.
#[derive(Debug, Clone)]
pub struct ClusterConfig {
    /// `cluster.id`: the same on every node; another cluster's nodes are strangers.
    pub id: Arc<str>,
    /// `cluster.listen`: where other nodes connect; port 0 takes a free one.
    pub listen: SocketAddr,
    /// `cluster.advertise`: host and port as the others reach it; `None` is the bound address.
    pub advertise: Option<String>,
    /// `cluster.advertise_mqtt`: host and port as clients reach this node; empty is the bound
    /// address of `[listener]`.
    pub advertise_mqtt: Vec<String>,
    /// `cluster.max_link_bytes`: waiting for one other node, in memory.
    pub max_link_bytes: usize,
    /// `[zookeeper]`.
    pub zookeeper: ZookeeperOptions,
}

/// `[listener]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerConfig {
    /// `listener.address`; port 0 takes a free one.
    pub address: SocketAddr,
    /// `listener.backlog`: sockets waiting to be accepted.
    pub backlog: u32,
    /// `listener.send_buffer` in bytes; `None` is the system's choice.
    pub send_buffer: Option<usize>,
    /// `listener.receive_buffer` in bytes; `None` is the system's choice.
    pub receive_buffer: Option<usize>,
    /// `listener.nodelay`: TCP_NODELAY.
    pub nodelay: bool,
}
