//! What the adapter is told, already checked by `src/config`.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// How many replicas must have answered. Conditional writes and their reads are always serial, of
/// the same reach (LOCAL_SERIAL or SERIAL).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// One replica: an acknowledged write can be lost with it.
    One,
    /// One replica of the local data centre.
    LocalOne,
    /// A majority over all data centres.
    Quorum,
    /// A majority of the local data centre: the default.
    LocalQuorum,
    /// A majority of every data centre.
    EachQuorum,
    /// Every replica.
    All,
}

/// `[cassandra]`.
#[derive(Clone)]
pub struct CassandraOptions {
    /// `cassandra.contact_points`: "host:port"; without a port 9042.
    pub contact_points: Vec<String>,
    /// `cassandra.local_dc`: the data centre whose nodes are asked; empty takes that of the first
    /// contact point that answers.
    pub local_dc: String,
    /// `cassandra.keyspace`: 1 to 48 of `[a-z0-9_]`, beginning with a letter.
    pub keyspace: String,
    /// `cassandra.create_schema`: make keyspace and tables; false only checks them.
    pub create_schema: bool,
    /// `cassandra.replication_factor`: of a keyspace made here (NetworkTopologyStrategy, local dc).
    pub replication_factor: u16,
    /// `cassandra.write_consistency`.
    pub write_consistency: Level,
    /// `cassandra.read_consistency`.
    pub read_consistency: Level,
    /// `cassandra.username` and `cassandra.password`; `None` logs in as nobody.
    pub credentials: Option<(String, String)>,
    /// `cassandra.tls_ca`: PEM file with the certificate authorities of the servers; `None` is no TLS.
    pub tls_ca: Option<PathBuf>,
    /// `cassandra.request_timeout`: of one request, retries included.
    pub request_timeout: Duration,
    /// `cassandra.connect_timeout`: from start until a contact point answers.
    pub connect_timeout: Duration,
    /// `cassandra.retries`: how often a request that may be done twice is sent again, each time to
    /// another node, within its time-out. Conditional writes never are.
    pub retries: u32,
    /// `cassandra.speculative_delay`: a read that has no answer by then is sent to a second node
    /// too; zero never. Conditional writes never are.
    pub speculative_delay: Duration,
    /// `cassandra.max_requests`: requests under way at once; more wait in StorageActor.
    pub max_requests: usize,
    /// `cassandra.lease`: how long an incarnation may acknowledge without having renewed its lease.
    pub lease: Duration,
    /// Other nodes live in this keyspace: it is a cluster's. Such a node and one that has the
    /// keyspace for itself refuse each other.
    pub shared: bool,
    /// `storage.outbox_lanes`: lanes of this incarnation; adopted ones are numbered from here on.
    pub outbox_lanes: u16,
}

impl fmt::Debug for CassandraOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the password, and without what a log line does not need.
        f.debug_struct("CassandraOptions")
            .field("contact_points", &self.contact_points)
            .field("keyspace", &self.keyspace)
            .field("local_dc", &self.local_dc)
            .finish_non_exhaustive()
    }
}
