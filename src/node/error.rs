//! Why a node did not start, or could not go on.

use std::net::SocketAddr;
use std::path::PathBuf;

use hydrant_actors::ports::StoreError;
use hydrant_actors::system::StartError;

use crate::cassandra::db::CassandraError;
use crate::embedded::OpenError;
use crate::kafka::KafkaStartError;

/// Why a node did not start, or could not go on. Each is one sentence that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The MQTT port cannot be bound.
    #[error("cannot listen on {address} ({source}): {}", advice(source))]
    Listen {
        /// `listener.address`.
        address: SocketAddr,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// The port for other nodes cannot be bound.
    #[error(
        "cannot listen on {address} for other nodes ({source}): choose another with cluster.listen"
    )]
    Peer {
        /// `cluster.listen`.
        address: SocketAddr,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// Store or log cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// What stands in the store cannot be read.
    #[error("{0}: check the disk below node.data_dir")]
    Store(StoreError),
    /// The operating system gives no thread.
    #[error("no thread can be started ({0}): raise this user's limit on processes (ulimit -u)")]
    Thread(std::io::Error),
    /// Kafka's options cannot work.
    #[error(transparent)]
    Kafka(#[from] KafkaStartError),
    /// The admin endpoints cannot be bound.
    #[error("{0}")]
    Admin(std::io::Error),
    /// The data directory cannot be made or locked.
    #[error("the folder {} cannot be made or written ({source}): choose another with --data-dir", dir.display())]
    DataDir {
        /// `node.data_dir`.
        dir: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// Another process has the data directory.
    #[error("the data directory {} is in use by another broker: stop that one or choose another with --data-dir", dir.display())]
    DataDirTaken {
        /// `node.data_dir`.
        dir: PathBuf,
    },
    /// Cassandra cannot be used.
    #[error(transparent)]
    Cassandra(#[from] CassandraError),
    /// Signals cannot be waited for.
    #[error("signals cannot be handled: {0}")]
    Signals(std::io::Error),
    /// The actor tree could not be kept up.
    #[error("{0}")]
    Failed(String),
}

impl From<StartError> for NodeError {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Store(error) => Self::Store(error),
            StartError::Thread(error) => Self::Thread(error),
            StartError::Cluster(why) => Self::Failed(why),
            StartError::Interrupted => Self::Failed(error.to_string()),
        }
    }
}

fn advice(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            "stop the other program or choose another port with --listen"
        }
        std::io::ErrorKind::PermissionDenied => "choose a port above 1023 with --listen",
        _ => "choose an address of this machine with --listen",
    }
}
