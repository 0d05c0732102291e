//! What the adapter is told, already checked by `src/config`.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// `[zookeeper]`.
#[derive(Clone)]
pub struct ZookeeperOptions {
    /// `zookeeper.servers`: "host:port", one or more.
    pub servers: Vec<String>,
    /// `zookeeper.chroot`: "/" and names, no "/" at the end; made where it is missing.
    pub chroot: String,
    /// `zookeeper.session_timeout`: as asked for; the server has bounds of its own.
    pub session_timeout: Duration,
    /// `zookeeper.connect_timeout`: from start until a server answers.
    pub connect_timeout: Duration,
    /// `zookeeper.username` and `zookeeper.password`, of the scheme "digest"; with them what is
    /// made here belongs to this user. `None` logs in as nobody.
    pub credentials: Option<(String, String)>,
    /// `zookeeper.tls_ca` and the two beside it; `None` is no TLS.
    pub tls: Option<ZookeeperTls>,
}

/// TLS to the servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZookeeperTls {
    /// `zookeeper.tls_ca`: PEM file with the certificate authorities of the servers.
    pub ca: PathBuf,
    /// `zookeeper.tls_cert` and `zookeeper.tls_key`: PEM files that this node shows, which a
    /// server asks for unless it is told otherwise.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl Default for ZookeeperOptions {
    fn default() -> Self {
        Self {
            servers: vec!["127.0.0.1:2181".to_owned()],
            chroot: "/hydrant".to_owned(),
            session_timeout: Duration::from_secs(6),
            connect_timeout: Duration::from_secs(30),
            credentials: None,
            tls: None,
        }
    }
}

impl fmt::Display for ZookeeperOptions {
    /// "127.0.0.1:2181/hydrant".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.servers.join(","), self.chroot)
    }
}

impl fmt::Debug for ZookeeperOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the password, and without what a log line does not need.
        f.debug_struct("ZookeeperOptions")
            .field("servers", &self.servers)
            .field("chroot", &self.chroot)
            .field("session_timeout", &self.session_timeout)
            .finish_non_exhaustive()
    }
}
