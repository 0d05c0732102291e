//! Configuration: built-in defaults, `config.toml`, environment, `--set`, flags; each wins over
//! those before it. Past [`load`] everything is checked and nobody checks again.
//!
//! - `keys`: the one table of keys, from which all the rest is derived.
//! - `source`: the layers, and which value wins.
//! - `value`: one value's check.
//! - `routes`, `properties`: the two parts with names of their own.
//! - `cassandra`: `[cassandra]`; `cluster`: `[cluster]` and `[zookeeper]`; `listener`: who may connect.
//! - `check`: from values to [`Config`], and what must hold between keys.
//! - `print`: `broker config print`, and the text of `config.toml`.
//!
//! All mistakes are reported at once, each with line, variable or flag ([`ConfigErrors`]).

mod cassandra;
mod check;
mod cluster;
mod error;
mod keys;
mod listener;
mod print;
mod properties;
mod routes;
mod source;
#[cfg(test)]
mod tests;
mod value;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use hydrant_actors::settings::Settings;

use crate::admin::AdminLimits;
use crate::cassandra::CassandraOptions;
use crate::embedded::{LogOptions, StoreOptions};
use crate::kafka::KafkaOptions;
use crate::zookeeper::ZookeeperOptions;
pub use error::{ConfigError, ConfigErrors, Origin};
pub use print::shipped;
use source::Effective;
pub use source::Sources;

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

/// A checked configuration and where each of its values came from.
#[derive(Clone)]
pub struct Loaded {
    /// The checked configuration.
    pub config: Config,
    effective: Effective,
}

impl Loaded {
    /// The effective configuration as TOML, the source of each value as a comment, secrets as
    /// "***".
    pub fn print(&self) -> String {
        print::effective(&self.effective)
    }
}

impl fmt::Debug for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.print())
    }
}

/// Puts the layers together and checks them.
///
/// # Errors
/// Every mistake in every layer, at once.
pub fn load(sources: &Sources) -> Result<Loaded, ConfigErrors> {
    let mut errors = ConfigErrors::default();
    let effective = source::resolve(sources, &mut errors);
    let config = check::config(&effective, errors)?;
    Ok(Loaded { config, effective })
}
