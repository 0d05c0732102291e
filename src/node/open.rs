//! Opens what a node stands on: the listening socket, the session store, the message log.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use hydrant_actors::cluster::ClusterSettings;
use hydrant_actors::peers::ClusterParts;
use hydrant_actors::ports::{MessageLog, SessionStore, SharedStore};
use hydrant_actors::settings::LogKind;
use socket2::{Domain, Protocol, Socket, Type};

use super::data_dir::{DataDir, STORE_FOLDER};
use super::error::NodeError;
use super::no_log::NoLog;
use super::status::LogTail;
use crate::admin::TailSource;
use crate::cassandra::{CassandraError, CassandraStore, IN_USE};
use crate::config::{Config, ListenerConfig};
use crate::embedded::{EmbeddedLog, EmbeddedStore};
use crate::kafka::KafkaLog;
use crate::zookeeper::{self, ZookeeperMembership};

/// How long ZooKeeper is asked who has this node's id.
const LOOK: Duration = Duration::from_secs(3);
/// How long a start waits for Kafka's list of topics.
const ACQUAINTED: Duration = Duration::from_secs(2);

/// The session store of a node that does not run elsewhere.
pub struct NodeStore {
    /// The store.
    pub store: Arc<dyn SessionStore>,
    cassandra: Option<Arc<CassandraStore>>,
    /// Locked for as long as this lives.
    _data_dir: DataDir,
}

impl NodeStore {
    /// Makes and locks the data directory, and opens the store that is configured.
    ///
    /// # Errors
    /// [`NodeError`], one sentence each.
    pub async fn open(config: &Config) -> Result<Self, NodeError> {
        let node_id = &config.settings.node_id;
        let data_dir = DataDir::lock(&config.data_dir)?;
        let (store, cassandra): (Arc<dyn SessionStore>, _) = match &config.cassandra {
            Some(options) => {
                goes_with_members(config).await?;
                let opened = CassandraStore::open(options, node_id, &data_dir.instance).await;
                let store = match opened {
                    Ok(store) => store,
                    Err(error) => return Err(say_where(config, error).await.into()),
                };
                (Arc::clone(&store) as Arc<dyn SessionStore>, Some(store))
            }
            None => {
                let folder = config.data_dir.join(STORE_FOLDER);
                (EmbeddedStore::open(&folder, node_id, config.store.clone())?, None)
            }
        };
        Ok(Self { store, cassandra, _data_dir: data_dir })
    }

    /// After the last write: in Cassandra the lease is given back, so that nobody waits for its end.
    pub async fn release(self) {
        if let Some(store) = &self.cassandra {
            store.release().await;
        }
    }
}

/// Before the schema is raised: the members of a cluster of another release could not start on it any more.
async fn goes_with_members(config: &Config) -> Result<(), NodeError> {
    let Some(cluster) = &config.cluster else { return Ok(()) };
    let me = zookeeper::Release {
        node_id: &config.settings.node_id,
        version: env!("CARGO_PKG_VERSION"),
        protocol: hydrant_protocol::cluster::link::VERSIONS,
    };
    let asked = zookeeper::refuses(&cluster.zookeeper, &cluster.id, me);
    match tokio::time::timeout(LOOK, asked).await {
        Ok(Some(why)) => Err(NodeError::Failed(why)),
        Ok(None) | Err(_) => Ok(()),
    }
}

/// Where the other is, if this node's id is in use.
async fn say_where(config: &Config, CassandraError(why): CassandraError) -> CassandraError {
    let Some(cluster) = config.cluster.as_ref().filter(|_| why.contains(IN_USE)) else {
        return CassandraError(why);
    };
    let node_id = &config.settings.node_id;
    let asked = zookeeper::addresses_of(&cluster.zookeeper, &cluster.id, node_id);
    match tokio::time::timeout(LOOK, asked).await {
        Ok(Some(addresses)) => CassandraError(format!("{why}; the other has {addresses}")),
        Ok(None) | Err(_) => CassandraError(why),
    }
}

/// The message log of a node.
pub struct NodeLog {
    pub log: Arc<dyn MessageLog>,
    /// What `broker tail` reads; the embedded log only.
    pub tail: Option<Arc<dyn TailSource>>,
}

/// What joins this node to its cluster; `None` for a single node. `mqtt` is where its listener is
/// bound.
pub fn cluster(
    config: &Config,
    store: &NodeStore,
    mqtt: SocketAddr,
) -> Result<Option<ClusterParts>, NodeError> {
    let (Some(cluster), Some(cassandra), Some(shared)) =
        (&config.cluster, &config.cassandra, &store.cassandra)
    else {
        return Ok(None);
    };
    let address = cluster.listen;
    let peer = std::net::TcpListener::bind(address)
        .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
        .map_err(|source| NodeError::Peer { address, source })?;
    let bound = peer.local_addr().map_err(|source| NodeError::Peer { address, source })?;
    let membership = ZookeeperMembership::new(cluster.zookeeper.clone(), &cluster.id)
        .map_err(NodeError::Failed)?;
    let clients = match &cluster.advertise_mqtt {
        given if given.is_empty() => vec![mqtt.to_string()],
        given => given.clone(),
    };
    Ok(Some(ClusterParts {
        membership: Arc::new(membership),
        store: Arc::clone(shared) as Arc<dyn SharedStore>,
        listener: Arc::new(peer),
        settings: ClusterSettings {
            id: Arc::clone(&cluster.id),
            peer: cluster.advertise.clone().unwrap_or_else(|| bound.to_string()),
            mqtt: clients,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            max_link_bytes: cluster.max_link_bytes,
            take_over: ClusterSettings::take_over_in(cassandra.lease),
            repair: ClusterSettings::repaired_in(
                cluster.zookeeper.session_timeout,
                cassandra.lease,
            ),
        },
    }))
}

/// Binds the MQTT port.
pub fn listen(config: &ListenerConfig) -> Result<TcpListener, NodeError> {
    let address = config.address;
    bind(config).map_err(|source| NodeError::Listen { address, source })
}

fn bind(config: &ListenerConfig) -> std::io::Result<TcpListener> {
    let socket =
        Socket::new(Domain::for_address(config.address), Type::STREAM, Some(Protocol::TCP))?;
    // A restarted node takes its port back although old connections linger in TIME_WAIT.
    socket.set_reuse_address(true)?;
    if let Some(bytes) = config.send_buffer {
        socket.set_send_buffer_size(bytes)?;
    }
    if let Some(bytes) = config.receive_buffer {
        socket.set_recv_buffer_size(bytes)?;
    }
    socket.bind(&config.address.into())?;
    socket.listen(i32::try_from(config.backlog).unwrap_or(i32::MAX))?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

async fn acquainted(log: &KafkaLog) {
    while !log.is_acquainted() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Opens the log that is configured. A Kafka that answers is given time to name its topics: until
/// then each would count as one to be made. `stop` ends the wait.
pub async fn log(config: &Config, stop: impl Future<Output = ()>) -> Result<NodeLog, NodeError> {
    let node_id = &config.settings.node_id;
    let (log, tail): (Arc<dyn MessageLog>, Option<Arc<dyn TailSource>>) =
        match (&config.kafka, config.settings.log.kind) {
            (Some(options), _) => {
                let log = Arc::new(KafkaLog::start(options.clone(), node_id)?);
                tokio::select! {
                    () = acquainted(&log) => {}
                    () = tokio::time::sleep(ACQUAINTED) => {}
                    () = stop => {}
                }
                (log, None)
            }
            (None, LogKind::Embedded) => {
                let log =
                    EmbeddedLog::open(&config.data_dir.join("log"), node_id, config.log.clone())?;
                (Arc::clone(&log) as Arc<dyn MessageLog>, Some(Arc::new(LogTail(log))))
            }
            (None, _) => (Arc::new(NoLog::default()), None),
        };
    Ok(NodeLog { log, tail })
}
