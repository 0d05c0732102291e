//! A real Cassandra 5.0: one node of a test's own ([`Cassandra`]), one that all tests share
//! ([`shared`]), or three nodes on 127.0.0.1-3 ([`CassandraCluster`]), each on free ports and in a
//! temporary folder.
//!
//! The jars come from `scripts/setup-jars cassandra`; each process is a [`Server`]. The commit log
//! is synced before a write is acknowledged, so a kill -9 loses nothing. Three nodes run alone:
//! whoever holds a [`Cassandra`] or [`shared`] keeps them from starting, and they keep everybody
//! else waiting.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use super::server::{KEYSTORE_PASSWORD, Server, free_port, make_certificate};
use super::{eventually, unique};

/// The local data centre of every node here (that of SimpleSnitch).
pub const DATACENTER: &str = "datacenter1";

/// How long the nodes of a cluster may take to see each other.
const PATIENCE: Duration = Duration::from_secs(120);

/// The argument file for `java`, and how it logs; benches/storage starts it with the same.
const JAVA_ARGS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/servers/cassandra/java.args");
const LOGBACK: &str = include_str!("../../scripts/servers/cassandra/logback.xml");

/// How a node differs from the ordinary one.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// PasswordAuthenticator: the user is `cassandra`, its password `cassandra`.
    pub password_auth: bool,
    /// `commitlog_sync: batch` instead of `group` with a window of 2 ms.
    pub batch: bool,
    /// More keys of cassandra.yaml, which must not be there already.
    pub settings: Vec<(&'static str, String)>,
    /// TLS on the port for clients too, with a certificate for 127.0.0.1: see [`Cassandra::ca`].
    pub tls: bool,
}

/// One node.
pub struct Cassandra {
    server: Server,
    ip: Ipv4Addr,
    port: u16,
    password_auth: bool,
    /// MiB.
    heap: u32,
    _turn: Option<Turn>,
}

impl Cassandra {
    /// A node of its own, ready.
    pub fn start() -> Self {
        Self::start_with(&Options::default())
    }

    /// The same with other options.
    pub fn start_with(options: &Options) -> Self {
        let turn = Turn::beside();
        let mut node = Self::prepare_with(options);
        node._turn = Some(turn);
        node.restart();
        node
    }

    /// The same without the start, for a Cassandra that is absent at first. `restart` starts it.
    pub fn prepare() -> Self {
        let turn = Turn::beside();
        let mut node = Self::prepare_with(&Options::default());
        node._turn = Some(turn);
        node
    }

    /// The same with other options.
    pub fn prepare_with(options: &Options) -> Self {
        Self::configure(1, 1, free_port(), free_port(), options)
    }

    /// Node `number` of `nodes`, on 127.0.0.`number`; the first is the seed.
    fn configure(number: u8, nodes: u8, port: u16, storage: u16, options: &Options) -> Self {
        let server = Server::new("cassandra");
        let heap = if nodes == 1 { 1024 } else { 512 };
        let ip = Ipv4Addr::new(127, 0, 0, number);
        // Equal shares of the ring, which Murmur3Partitioner makes of all i64.
        let token =
            i128::from(i64::MIN) + (1_i128 << 64) * i128::from(number - 1) / i128::from(nodes);
        let (sync, authenticator) = (
            if options.batch { "batch" } else { "group\ncommitlog_sync_group_window: 2ms" },
            if options.password_auth { "PasswordAuthenticator" } else { "AllowAllAuthenticator" },
        );
        let mut yaml = format!(
            "cluster_name: hydrant\n\
             num_tokens: 1\n\
             initial_token: {token}\n\
             auto_bootstrap: false\n\
             partitioner: org.apache.cassandra.dht.Murmur3Partitioner\n\
             endpoint_snitch: SimpleSnitch\n\
             seed_provider:\n\
             - class_name: org.apache.cassandra.locator.SimpleSeedProvider\n  \
               parameters:\n  \
               - seeds: \"127.0.0.1:{storage}\"\n\
             listen_address: {ip}\n\
             storage_port: {storage}\n\
             ssl_storage_port: {}\n\
             rpc_address: {ip}\n\
             native_transport_port: {port}\n\
             authenticator: {authenticator}\n\
             commitlog_sync: {sync}\n\
             auto_snapshot: false\n\
             phi_convict_threshold: 12\n\
             file_cache_size: 32MiB\n",
            free_port()
        );
        for (key, value) in &options.settings {
            yaml += &format!("{key}: {value}\n");
        }
        let conf = server.folder().join("conf");
        for folder in [&conf, &server.folder().join("tmp")] {
            std::fs::create_dir(folder).expect("a folder");
        }
        if options.tls {
            let store = make_certificate(&conf, ip);
            yaml += &format!(
                "client_encryption_options:\n  enabled: true\n  optional: true\n  \
                 require_client_auth: false\n  keystore: {store}\n  keystore_password: \
                 {KEYSTORE_PASSWORD}\n"
            );
        }
        std::fs::write(conf.join("cassandra.yaml"), yaml).expect("cassandra.yaml");
        std::fs::write(conf.join("logback.xml"), LOGBACK).expect("logback.xml");
        Self { server, ip, port, password_auth: options.password_auth, heap, _turn: None }
    }

    /// One more line of cassandra.yaml, from its next start on.
    pub fn set(&self, key: &str, value: &str) {
        let yaml = self.server.folder().join("conf/cassandra.yaml");
        let text = std::fs::read_to_string(&yaml).expect("cassandra.yaml");
        std::fs::write(&yaml, format!("{text}{key}: {value}\n")).expect("cassandra.yaml");
    }

    /// `host:port` for clients.
    pub fn address(&self) -> String {
        format!("{}:{}", self.ip, self.port)
    }

    /// With [`Options::tls`]: the file with the certificate, which is its own authority.
    pub fn ca(&self) -> PathBuf {
        self.server.folder().join("conf/ca.pem")
    }

    /// Starts it (again): same data, same ports. Waits until it answers a query.
    pub fn restart(&mut self) {
        self.launch();
        self.server.await_ready("Cassandra answers", || {
            self.execute("SELECT key FROM system.local").is_ok()
        });
    }

    fn launch(&mut self) {
        let folder = self.server.folder().to_path_buf();
        let conf = folder.join("conf");
        let java = java_options(&folder, self.heap);
        let java: Vec<&str> = java.iter().map(String::as_str).collect();
        let main = "org.apache.cassandra.service.CassandraDaemon";
        self.server.run(&java, Some(&conf), &[main]);
    }

    /// Makes a keyspace with a name no other test uses, and returns the name.
    pub fn create_keyspace(&self, replication: u8) -> String {
        let name = new_keyspace("test");
        self.execute(&format!(
            "CREATE KEYSPACE {name} WITH replication = \
             {{'class': 'NetworkTopologyStrategy', '{DATACENTER}': {replication}}}"
        ))
        .expect("a keyspace");
        name
    }

    /// Runs one statement at consistency ONE on a connection of its own; the body of the RESULT
    /// frame (CQL binary protocol v4, section 4.2.5). Not for speed.
    ///
    /// # Errors
    /// What the server says, or that it does not answer.
    pub fn execute(&self, statement: &str) -> Result<Vec<u8>, String> {
        self.execute_at(statement, Consistency::One)
    }

    /// The same at another consistency.
    ///
    /// # Errors
    /// As [`Cassandra::execute`].
    pub fn execute_at(&self, statement: &str, consistency: Consistency) -> Result<Vec<u8>, String> {
        query(SocketAddr::from((self.ip, self.port)), self.password_auth, statement, consistency)
    }
}

/// It is ended, frozen and read as every [`Server`] is.
impl Deref for Cassandra {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

impl DerefMut for Cassandra {
    fn deref_mut(&mut self) -> &mut Server {
        &mut self.server
    }
}

/// A consistency of CQL binary protocol v4, section 3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Consistency {
    One = 1,
    All = 5,
    LocalQuorum = 6,
}

fn java_options(folder: &Path, heap: u32) -> Vec<String> {
    let folder = folder.display();
    vec![
        format!("@{JAVA_ARGS}"),
        format!("-Xms{heap}m"),
        format!("-Xmx{heap}m"),
        format!("-XX:MaxDirectMemorySize={}m", heap / 2),
        format!("-Djava.io.tmpdir={folder}/tmp"),
        format!("-Dcassandra.storagedir={folder}"),
        format!("-Dcassandra.config=file://{folder}/conf/cassandra.yaml"),
    ]
}

/// The name of a keyspace that is not there yet.
pub fn new_keyspace(prefix: &str) -> String {
    unique(prefix).replace('-', "_")
}

/// A node that all tests of this binary may use, each in a keyspace of its own, and none may
/// disturb.
pub fn shared() -> Shared {
    static NODE: OnceLock<Cassandra> = OnceLock::new();
    let turn = Turn::beside();
    let node = NODE.get_or_init(|| {
        let mut node = Cassandra::prepare_with(&Options::default());
        // 19 tables a keyspace, of which each takes nearly 1 MiB, and some 60 keyspaces.
        node.heap = 2560;
        node.server.immortal();
        node.restart();
        node
    });
    Shared { node, _turn: turn }
}

/// The use of the shared node.
pub struct Shared {
    node: &'static Cassandra,
    _turn: Turn,
}

impl Deref for Shared {
    type Target = Cassandra;

    fn deref(&self) -> &Cassandra {
        self.node
    }
}

/// Three nodes on 127.0.0.1-3, which see each other. Nothing else runs beside them.
pub struct CassandraCluster {
    pub nodes: Vec<Cassandra>,
    _turn: Turn,
}

impl CassandraCluster {
    /// Starts them one after another.
    pub fn start(nodes: u8) -> Self {
        let turn = Turn::alone();
        let (port, storage) = (free_port_on_all(nodes), free_port_on_all(nodes));
        let mut started = Vec::new();
        for number in 1..=nodes {
            let mut node = Cassandra::configure(number, nodes, port, storage, &Options::default());
            node.restart();
            started.push(node);
        }
        let cluster = Self { nodes: started, _turn: turn };
        cluster.await_all_up();
        cluster
    }

    /// `host:port` of every node.
    pub fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(Cassandra::address).collect()
    }

    /// Waits until every node sees every node up and all have the same schema, for three nodes or
    /// more: each of them serves a read at ALL of a keyspace that Cassandra itself replicates three
    /// times. A node answers a change of the schema before the others have it, so wait after it.
    pub fn await_all_up(&self) {
        let replicated = "SELECT * FROM system_distributed.repair_history LIMIT 1";
        let version = "SELECT schema_version FROM system.local";
        for node in &self.nodes {
            eventually(PATIENCE, "every node sees every node", || {
                node.execute_at(replicated, Consistency::All).is_ok()
            });
        }
        eventually(PATIENCE, "all nodes have one schema", || {
            let versions: Vec<_> = self.nodes.iter().map(|node| node.execute(version)).collect();
            versions.iter().all(|version| version.is_ok() && *version == versions[0])
        });
    }
}

fn free_port_on_all(nodes: u8) -> u16 {
    loop {
        let port = free_port();
        if (1..=nodes)
            .all(|number| TcpListener::bind((Ipv4Addr::new(127, 0, 0, number), port)).is_ok())
        {
            return port;
        }
    }
}

/// Who may run: many beside each other, or one alone. One thread may take several turns beside
/// others, so who waits to be alone holds nobody up (unlike in an `RwLock`).
struct Turn {
    alone: bool,
}

/// Turns taken beside others; -1: one alone.
static TURNS: Mutex<i64> = Mutex::new(0);
static TURN_ENDED: Condvar = Condvar::new();

impl Turn {
    fn beside() -> Self {
        let mut turns = Self::wait_while(|turns| turns < 0);
        *turns += 1;
        Self { alone: false }
    }

    fn alone() -> Self {
        let mut turns = Self::wait_while(|turns| turns != 0);
        *turns = -1;
        Self { alone: true }
    }

    fn wait_while(taken: impl Fn(i64) -> bool) -> std::sync::MutexGuard<'static, i64> {
        let turns = TURNS.lock().unwrap_or_else(PoisonError::into_inner);
        TURN_ENDED.wait_while(turns, |turns| taken(*turns)).unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut turns = TURNS.lock().unwrap_or_else(PoisonError::into_inner);
        *turns = if self.alone { 0 } else { *turns - 1 };
        TURN_ENDED.notify_all();
    }
}

// Opcodes of CQL binary protocol v4, section 2.4.
const ERROR: u8 = 0x00;
const STARTUP: u8 = 0x01;
const AUTHENTICATE: u8 = 0x03;
const QUERY: u8 = 0x07;
const RESULT: u8 = 0x08;
const AUTH_RESPONSE: u8 = 0x0f;

fn query(
    address: SocketAddr,
    password: bool,
    statement: &str,
    consistency: Consistency,
) -> Result<Vec<u8>, String> {
    let error = |error: std::io::Error| error.to_string();
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).map_err(error)?;
    stream.set_read_timeout(Some(Duration::from_secs(20))).map_err(error)?;
    // [string map] with one entry.
    let (opcode, _) = exchange(&mut stream, STARTUP, b"\x00\x01\x00\x0bCQL_VERSION\x00\x053.0.0")?;
    if opcode == AUTHENTICATE {
        if !password {
            return Err("the server wants a password".to_owned());
        }
        exchange(&mut stream, AUTH_RESPONSE, b"\x00\x00\x00\x14\x00cassandra\x00cassandra")?;
    }
    let mut body = (statement.len() as u32).to_be_bytes().to_vec();
    body.extend(statement.as_bytes());
    body.extend((consistency as u16).to_be_bytes());
    body.push(0);
    match exchange(&mut stream, QUERY, &body)? {
        (RESULT, body) => Ok(body),
        (opcode, _) => Err(format!("opcode {opcode}")),
    }
}

/// Sends one frame and reads one; an ERROR frame becomes its message.
fn exchange(stream: &mut TcpStream, opcode: u8, body: &[u8]) -> Result<(u8, Vec<u8>), String> {
    let error = |error: std::io::Error| error.to_string();
    let mut frame = vec![0x04, 0, 0, 0, opcode];
    frame.extend((body.len() as u32).to_be_bytes());
    frame.extend(body);
    stream.write_all(&frame).map_err(error)?;
    let mut header = [0; 9];
    stream.read_exact(&mut header).map_err(error)?;
    let [_, _, _, _, opcode, length @ ..] = header;
    let mut body = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut body).map_err(error)?;
    if opcode == ERROR {
        // [int] code, [string] message, and more that depends on the code.
        let length =
            usize::from(*body.get(4).unwrap_or(&0)) << 8 | usize::from(*body.get(5).unwrap_or(&0));
        let message = body.get(6..6 + length).unwrap_or_default();
        return Err(String::from_utf8_lossy(message).into_owned());
    }
    Ok((opcode, body))
}
