//! The one table of configuration keys: name, kind, range, default, meaning.
//!
//! Defaults, checking, the search for the nearest key, `config print` and `config.toml` itself are
//! all derived from [`KEYS`]; a test holds `config.toml` to it. A new key is one line here and one
//! read in `check.rs` (a key nobody reads fails a test).
//!
//! Arrays of tables (`[[route]]`) are not keys: see `routes.rs`.

use std::net::SocketAddr;

use hydrant_protocol::mapping::MAX_NAME;

/// What values a key takes.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// `true` or `false`.
    Bool,
    /// A whole number, both bounds inclusive.
    Int { min: u64, max: u64, unit: &'static str },
    /// The same, or the word "auto".
    Auto { min: u64, max: u64, unit: &'static str },
    /// Bytes: "64KiB" or a plain integer.
    Size { min: u64, max: u64 },
    /// "15s", or a plain integer of seconds; at most so many.
    Seconds { max: u64 },
    /// "250ms", "15s", "7d"; bounds in milliseconds. 0 needs no unit.
    Duration { min: u64, max: u64 },
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Text that passes the check; its error says what is expected.
    Text(fn(&str) -> Result<(), &'static str>),
    /// A list of non-empty texts, or one text with commas.
    List,
    /// A list of networks and addresses, or one text with commas; may be empty.
    Networks,
    /// A table of its own, names free: `kafka.properties`.
    Table,
}

/// One key.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// `section.name`.
    pub path: &'static str,
    /// What values it takes.
    pub kind: Kind,
    /// As one writes it in the file, without quotes; `None`: not set.
    pub default: Option<&'static str>,
    /// One line: what it bounds or chooses.
    pub doc: &'static str,
}

/// Prefix of the librdkafka properties passed through.
pub const PROPERTIES: &str = "kafka.properties";
/// The contact points of Cassandra, which have no default.
pub const CONTACT_POINTS: &str = "cassandra.contact_points";
/// The array of tables.
pub const ROUTE: &str = "route";

const MS: u64 = 1;
const S: u64 = 1000 * MS;
const MIN: u64 = 60 * S;
const HOUR: u64 = 60 * MIN;
const DAY: u64 = 24 * HOUR;
/// 100 years of 365.25 days.
const CENTURY: u64 = 36_525 * DAY;
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

type Doc = &'static str;

const fn key(path: Doc, kind: Kind, default: Doc, doc: Doc) -> Key {
    Key { path, kind, default: Some(default), doc }
}
const fn int(path: Doc, default: Doc, min: u64, max: u64, unit: Doc, doc: Doc) -> Key {
    key(path, Kind::Int { min, max, unit }, default, doc)
}
const fn size(path: Doc, default: Doc, min: u64, max: u64, doc: Doc) -> Key {
    key(path, Kind::Size { min, max }, default, doc)
}
const fn time(path: Doc, default: Doc, min: u64, max: u64, doc: Doc) -> Key {
    key(path, Kind::Duration { min, max }, default, doc)
}
const fn flag(path: Doc, default: Doc, doc: Doc) -> Key {
    key(path, Kind::Bool, default, doc)
}
const fn choice(path: Doc, default: Doc, of: &'static [&'static str], doc: Doc) -> Key {
    key(path, Kind::Choice(of), default, doc)
}

/// The acknowledgement levels, as config writes them.
pub const ACKS: &[&str] = &["accepted", "stored", "kafka"];

/// What becomes of a refused record, as config writes it.
pub const ON_REFUSED: &[&str] = &["dead-letter", "disconnect"];

/// Consistency levels, as config writes them.
pub const LEVELS: &[&str] = &["one", "local_one", "quorum", "local_quorum", "each_quorum", "all"];

/// The sections in the order of `config.toml`, each with its meaning.
pub const SECTIONS: &[(&str, &str)] = &[
    ("node", "This node."),
    ("listener", "Where MQTT clients connect."),
    (
        "admin",
        "For operators: HTTP (/metrics, /health, /ready), and the admin socket of `broker tree` and `tail`.",
    ),
    (
        "limits",
        "Limits a client meets. Beyond a limit the connection is closed or made to wait, and a metric counts it.",
    ),
    ("session", "Sessions and their queues."),
    ("storage", "The session store: sessions, queues, retained messages, QoS 2 state, outbox."),
    ("cassandra", "Used when storage.kind is \"cassandra\"."),
    ("log", "Where every published message goes for back-end services."),
    ("kafka", "Used when log.kind is \"kafka\". Always acks=all and an idempotent producer."),
    ("cluster", "Other nodes."),
    ("zookeeper", "Used when cluster.kind is \"zookeeper\"."),
    ("route_default", "For every topic without a [[route]] of its own."),
    ("supervision", "Restarts of actors, and stalls."),
    ("sys", "The $SYS topics."),
    ("debug", "For tests."),
];

/// Every key, in the order of `config.toml`.
#[rustfmt::skip]
pub const KEYS: &[Key] = &[
    key("node.id", Kind::Text(node_id), "n1", "Name of this node; its data directory is tied to it"),
    key("node.data_dir", Kind::Text(not_empty), "data", "Directory of the embedded store, the embedded log and the admin socket; locked by the running node"),
    key("node.workers", Kind::Auto { min: 1, max: 256, unit: "threads" }, "auto", "Threads that carry connections; \"auto\" is one a core"),
    time("node.shutdown_deadline", "15s", 0, HOUR, "From SIGTERM to exit, at most; and what `broker drain` gives a connection for its acknowledgements"),
    int("node.drain_rate", "1000", 1, 1_000_000, "connections a second", "How fast `broker drain` closes connections"),
    key("listener.address", Kind::Text(address), "0.0.0.0:1883", "IP address (or localhost) and port for MQTT over TCP; port 0 takes a free one"),
    int("listener.backlog", "4096", 1, 65_535, "sockets", "Connections that wait in the kernel to be accepted"),
    size("listener.send_buffer", "0", 0, 64 * MIB, "Kernel send buffer of a connection; 0 leaves it to the system"),
    size("listener.receive_buffer", "0", 0, 64 * MIB, "Kernel receive buffer of a connection; 0 leaves it to the system"),
    flag("listener.nodelay", "true", "TCP_NODELAY: small packets leave at once"),
    choice("listener.proxy_protocol", "off", &["off", "required"], "\"required\": each connection begins with a PROXY protocol header (version 1 or 2), which names the client's address. A header is never optional, because clients could then forge their address"),
    key("listener.proxy_from", Kind::Networks, "[\"127.0.0.0/8\", \"::1\"]", "With proxy_protocol: the load balancers, as networks or addresses; a connection from elsewhere is closed"),
    key("listener.allow", Kind::Networks, "[]", "Networks or addresses whose clients may connect; empty is all. With proxy_protocol it is the client's address that counts"),
    key("listener.deny", Kind::Networks, "[]", "The same for those that may not; looked at before allow"),
    flag("admin.enabled", "true", "Serve the admin HTTP port"),
    key("admin.address", Kind::Text(address), "127.0.0.1:9883", "IP address and port; it has no authentication, so keep it on loopback or a private network"),
    key("admin.agent_listen", Kind::Text(address_or_off), "off", "IP address and port for HAProxy's agent-check: a line with the node's weight by its load (0 while it drains), or \"down\"; or \"off\""),
    int("admin.max_connections", "64", 1, 65_535, "connections", "HTTP connections at once, and agent checks at once; one more is closed"),
    size("admin.max_header_size", "16KiB", 8 * KIB, MIB, "Header of an HTTP request"),
    time("admin.header_timeout", "5s", 100 * MS, HOUR, "From accept to the end of an HTTP request's header"),
    time("admin.timeout", "15s", 100 * MS, HOUR, "From accept to the end of the answer over HTTP"),
    int("admin.max_socket_connections", "32", 2, 65_535, "connections", "Connections of the admin socket at once; one more is closed"),
    int("admin.max_tails", "16", 1, 65_534, "tails", "How many of these connections may be tails (`broker tail`); must be less than max_socket_connections"),
    size("admin.max_request_size", "16KiB", KIB, MIB, "A request on the admin socket"),
    time("admin.request_timeout", "10s", 100 * MS, HOUR, "From accept to the request on the admin socket, and from there to the end of the answer of all but a tail"),
    int("limits.max_connections", "100000", 1, 10_000_000, "connections", "Connections at once; past it a new socket is closed. The process's open-files limit bounds it too"),
    int("limits.connect_rate", "5000", 1, 1_000_000, "connections a second", "New connections; more wait in the listen backlog"),
    time("limits.connect_timeout", "10s", 100 * MS, HOUR, "From accept to a whole CONNECT packet; in a cluster, from there until its client is let in as well"),
    size("limits.max_packet_size", "1MiB", 128, 256 * MIB, "One MQTT packet with its header; with log.kind = \"kafka\" its record must fit into kafka.message_max_bytes"),
    int("limits.max_topic_length", "65535", 1, 65_535, "bytes", "A topic name or filter; a longer filter is refused with return code 0x80, a longer name closes"),
    int("limits.max_topic_levels", "256", 1, 65_535, "levels", "Levels of a topic name or filter; a deeper filter is refused with return code 0x80, a deeper name closes"),
    choice("limits.control_characters", "refuse", &["refuse", "allow"], "U+0001 to U+001F, U+007F to U+009F and Unicode's non-characters in topics, filters, client ids and user names: \"refuse\" closes, a filter gets return code 0x80; U+0000 is never taken"),
    int("limits.max_filters_per_subscribe", "1000", 1, 65_535, "filters", "Filters in one SUBSCRIBE; more are refused with return code 0x80"),
    int("limits.max_subscriptions", "10000", 1, 10_000_000, "subscriptions", "Subscriptions of one session; more are refused with return code 0x80"),
    int("limits.max_client_id_length", "1024", 23, 65_535, "bytes", "A client identifier"),
    flag("limits.allow_empty_client_id", "true", "An empty client id with CleanSession=1 gets an id made by the broker"),
    key("limits.max_keep_alive", Kind::Seconds { max: 65_535 }, "0s", "Longest keep-alive accepted; 0s allows every value, none at all included"),
    int("limits.min_packet_rate", "100", 1, GIB, "bytes a second", "A packet that comes at this rate or more counts as a sign of life before it is whole; the keep-alive closes a slower one"),
    time("limits.packet_timeout", "15m", S, DAY, "From the first byte of a packet to its last, whatever the keep-alive; a connection whose packet takes longer is closed"),
    int("limits.max_unacknowledged", "1024", 1, 65_535, "messages", "Publishes of one connection without their PUBACK or PUBREC yet; past it its socket is not read"),
    size("limits.max_output_bytes", "1MiB", KIB, GIB, "Waiting to be written to one connection; past it QoS 0 is dropped and QoS 1-2 queues"),
    size("limits.max_buffer_bytes", "1GiB", MIB, TIB, "Held for all connections together: half of it for packets that are not whole and Last Wills, half for messages that wait in memory and what waits to be written. Past it a connection holds its equal share: a half packet closes it, a CONNECT with a will is refused with 0x03; what goes out is dropped or waits as at its own bound"),
    time("limits.write_timeout", "30s", 100 * MS, DAY, "A connection whose socket takes nothing for this long is closed"),
    int("limits.max_retained_messages", "1000000", 0, 1_000_000_000, "messages", "Retained messages of the node"),
    size("limits.max_retained_bytes", "256MiB", 0, TIB, "Topics and payloads of the retained messages, and 256 bytes for each"),
    int("limits.route_cache_entries", "65536", 1, 100_000_000, "topics", "Topics whose subscribers one thread remembers"),
    size("limits.route_cache_bytes", "32MiB", 64 * KIB, TIB, "The same in bytes, each topic with its subscribers; a topic of more than 1024 bytes is looked up each time"),
    size("limits.max_router_bytes", "4MiB", KIB, 16 * GIB, "Publishes waiting in one topic router; past it connections of its thread are not read"),
    int("session.max_inflight", "256", 1, 65_535, "messages", "QoS 1-2 messages sent to a subscriber and not acknowledged by it"),
    int("session.max_queued_messages", "10000", 1, 1_000_000_000, "messages", "QoS 1-2 messages waiting for one session"),
    size("session.max_queued_bytes", "64MiB", KIB, TIB, "The same in bytes"),
    int("session.max_queued_in_memory", "1000", 1, 1_000_000, "messages", "How many of a session's queued messages are kept in memory; the others of a persistent session are read from the store when needed"),
    size("session.max_queued_in_memory_bytes", "4MiB", KIB, GIB, "The same in bytes, and what is read back at a time"),
    choice("session.overflow", "drop_new", &["drop_new", "drop_old"], "What a full queue drops: the new message, or the oldest waiting one"),
    flag("session.queue_qos0", "false", "Queue QoS 0 messages too while a persistent session is offline"),
    time("session.expiry", "7d", 0, CENTURY, "A persistent session offline for this long is removed; 0s is never"),
    int("session.max_sessions", "1000000", 1, 1_000_000_000, "sessions", "Persistent sessions of the node; past it a new one is refused with CONNACK 0x03"),
    size("session.max_bytes", "16MiB", 4 * KIB, TIB, "One session in memory: client id, topic filters, incoming QoS 2 packet ids. Past it a filter gets return code 0x80, and a QoS 2 PUBLISH closes"),
    size("session.max_total_bytes", "2GiB", MIB, 1024 * TIB, "The same of all sessions; past it a new session is refused with CONNACK 0x03 as well"),
    choice("storage.kind", "embedded", &["embedded", "cassandra"], "Where sessions are kept: on this node's disk, or in [cassandra]"),
    choice("storage.sync", "always", &["always", "never"], "fsync of store and embedded log: \"always\" before an acknowledgement, one a batch; with \"never\" what was acknowledged survives a crash of the process, not of the machine"),
    size("storage.cache_size", "64MiB", MIB, TIB, "Block cache of the embedded store"),
    size("storage.journal_max_size", "512MiB", 64 * MIB, TIB, "Write-ahead journals of the embedded store on disk"),
    int("storage.batch_max_ops", "4096", 1, 1_000_000, "operations", "Operations in one batch"),
    size("storage.batch_max_bytes", "4MiB", KIB, GIB, "Bytes in one batch"),
    time("storage.batch_delay", "0ms", 0, 10 * S, "Extra delay to collect more writes when the disk is idle. While a sync runs, writes collect anyway"),
    key("storage.max_in_flight", Kind::Auto { min: 1, max: 1024, unit: "batches" }, "auto", "Batches handed to the store and not answered; \"auto\" is 1 on the embedded store, 16 on Cassandra"),
    size("storage.max_pending_bytes", "64MiB", KIB, TIB, "Writes waiting in memory; past it publishers pause"),
    size("storage.outbox_max_bytes", "4GiB", MIB, 1024 * TIB, "Messages stored and not yet in Kafka. When it is full, publishers get no PUBACK until Kafka catches up; nothing is lost"),
    int("storage.outbox_lanes", "16", 1, 1024, "lanes", "Hash lanes of the outbox; a topic and key stay in one lane, in order"),
    time("storage.retry_min", "20ms", MS, HOUR, "First wait after the store refused service; doubled up to retry_max"),
    time("storage.retry_max", "2s", MS, HOUR, "Longest such wait"),
    Key { path: CONTACT_POINTS, kind: Kind::List, default: None, doc: "Required with storage.kind = \"cassandra\": \"host\" or \"host:port\" (9042), several as a list or with commas" },
    key("cassandra.local_dc", Kind::Text(any), "", "The data centre whose Cassandra nodes are asked; empty takes that of the first contact point that answers"),
    key("cassandra.keyspace", Kind::Text(keyspace), "hydrant", "The keyspace of the tables"),
    flag("cassandra.create_schema", "true", "Make keyspace and tables, and bring old ones up to date; false only checks them"),
    int("cassandra.replication_factor", "1", 1, 99, "replicas", "Of a keyspace made here, in local_dc; 3 in production"),
    choice("cassandra.write_consistency", "local_quorum", LEVELS, "Replicas that have a write before it is acknowledged"),
    choice("cassandra.read_consistency", "local_quorum", LEVELS, "Replicas that answer a read. Those of a read and of a write together must exceed the replication factor"),
    key("cassandra.username", Kind::Text(any), "", "Empty logs in as nobody"),
    key("cassandra.password", Kind::Text(any), "", "Shown by no command; best set as HYDRANT__CASSANDRA__PASSWORD"),
    key("cassandra.tls_ca", Kind::Text(any), "", "PEM file with the certificate authorities of Cassandra's nodes; empty is no TLS"),
    time("cassandra.request_timeout", "5s", 50 * MS, 15 * MIN, "One request, its retries included"),
    time("cassandra.connect_timeout", "30s", 100 * MS, HOUR, "From start until a contact point answers"),
    int("cassandra.retries", "1", 0, 10, "times", "How often a request that may be done twice is sent again, each time to another node"),
    time("cassandra.speculative_delay", "0s", 0, MIN, "A read without answer by then is sent to a second node too; 0s never"),
    int("cassandra.max_requests", "256", 1, 32_768, "requests", "Requests under way at once; more wait in the node"),
    time("cassandra.lease", "10s", S, 10 * MIN, "Lease time. A node that cannot renew its lease in Cassandra stops acknowledging; another takes over only after the lease has ended"),
    choice("log.kind", "embedded", &["embedded", "kafka", "none"], "\"embedded\": an append-only log on disk, read with `broker tail`; \"kafka\": see [kafka]; \"none\": MQTT subscribers only"),
    time("log.retention", "24h", 0, CENTURY, "Embedded log: records older than this are removed; 0s keeps them whatever their age"),
    size("log.retention_bytes", "1GiB", MIB, 1024 * TIB, "Embedded log: past this size the oldest records are removed"),
    int("log.max_topics", "10000", 1, 10_000_000, "topics", "Embedded log: topics made on first use, at most"),
    size("log.segment_size", "32MiB", 64 * KIB, 4 * GIB, "Embedded log: what is appended to at a time, in memory, and removed whole; at most a quarter of retention_bytes is used"),
    size("log.cache_size", "8MiB", MIB, TIB, "Embedded log: block cache, for reading"),
    size("log.journal_max_size", "128MiB", 64 * MIB, TIB, "Embedded log: write-ahead journals on disk"),
    int("log.batch_max_records", "8192", 1, 1_000_000, "records", "Embedded log: records in one batch, and so in one sync"),
    size("log.batch_max_bytes", "2MiB", KIB, GIB, "Embedded log: bytes in one batch"),
    int("log.max_pending_messages", "200000", 1, 100_000_000, "messages", "Records on their way to the log; past it QoS 0 is dropped and \"kafka\" publishers pause"),
    size("log.max_pending_bytes", "128MiB", KIB, TIB, "The same in bytes"),
    size("log.dead_letter_max_bytes", "64MiB", KIB, TIB, "Records that the log refuses for good, kept in the session store until `broker dead replay` or `broker dead drop`; full means no acknowledgement, never loss"),
    time("log.retry_min", "50ms", MS, HOUR, "First wait after the log refused service; doubled up to retry_max"),
    time("log.retry_max", "5s", MS, HOUR, "Longest such wait"),
    Key { path: "kafka.bootstrap_servers", kind: Kind::List, default: None, doc: "Required with log.kind = \"kafka\": \"host:port\", several as a list or with commas" },
    choice("kafka.security_protocol", "plaintext", &["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"], "How to reach Kafka; sasl needs sasl.mechanism in properties. TLS, SCRAM and OAUTHBEARER need a broker built with the cargo feature kafka-tls"),
    time("kafka.linger", "5ms", 0, 10 * S, "How long a batch waits for more records"),
    size("kafka.batch_size", "1MiB", KIB, 256 * MIB, "Bytes in one batch for one partition"),
    int("kafka.batch_num_messages", "10000", 1, 1_000_000, "records", "Records in one batch"),
    choice("kafka.compression", "lz4", &["none", "gzip", "snappy", "lz4", "zstd"], "Codec of a batch"),
    int("kafka.queue_max_messages", "500000", 1, 100_000_000, "records", "Records in the producer's own queue"),
    size("kafka.queue_max_bytes", "256MiB", MIB, 1024 * GIB, "The same in bytes"),
    size("kafka.message_max_bytes", "1152KiB", KIB, 256 * MIB, "One record with its key and headers. Topics that the node makes take it; others have max.message.bytes of their own, 1048588 by default"),
    flag("kafka.create_topics", "true", "Make a topic on first use; false requires it to exist"),
    int("kafka.partitions", "12", 1, 10_000, "partitions", "Partitions of a topic made on first use"),
    int("kafka.replication_factor", "1", 0, 32, "copies", "Copies of a topic made on first use; 0 takes the Kafka cluster's default; 3 in production"),
    int("kafka.max_topics_created", "1000", 0, 10_000_000, "topics", "Topics this node makes, at most"),
    int("kafka.max_topics_per_client", "20", 0, 1_000_000, "topics", "Topics made for one client id, at most"),
    key("kafka.overflow_topic", Kind::Text(topic_or_off), "mqtt.overflow", "Where records of a topic beyond the two caps above go, with the whole MQTT topic as key; it counts for no cap. Empty: their publishes are refused"),
    time("kafka.request_timeout", "30s", S, 15 * MIN, "How long Kafka may take to answer one request"),
    time("kafka.park_time", "30s", S, 24 * HOUR, "Records of a topic that is missing (create_topics = false) or that Kafka does not let this broker write to wait so long, then they are refused"),
    Key { path: PROPERTIES, kind: Kind::Table, default: None, doc: "More librdkafka properties, passed through by their own names" },
    choice("cluster.kind", "single", &["single", "zookeeper"], "\"single\": this node alone; \"zookeeper\": with those found in [zookeeper], which needs storage.kind = \"cassandra\""),
    key("cluster.id", Kind::Text(node_id), "hydrant", "Name of the cluster, the same on all of its nodes"),
    key("cluster.listen", Kind::Text(address), "127.0.0.1:7883", "IP address and port for the other nodes; port 0 takes a free one. Peers are not authenticated: keep it on a private network"),
    key("cluster.advertise", Kind::Text(any), "", "\"host:port\" by which the other nodes reach this one; empty is the address of cluster.listen"),
    key("cluster.advertise_mqtt", Kind::Text(any), "", "\"host:port\" by which clients reach this node, several with commas; empty is the address of the listener"),
    size("cluster.max_link_bytes", "64MiB", MIB, 16 * GIB, "Bytes on their way to one other node. Beyond it, messages that no publisher waits for are dropped for the subscribers there and counted (peer_slow)"),
    key("zookeeper.servers", Kind::List, "127.0.0.1:2181", "\"host\" or \"host:port\" (2181), several as a list or with commas; all of the ensemble"),
    key("zookeeper.chroot", Kind::Text(chroot), "/hydrant", "The node of ZooKeeper's tree under which the cluster keeps its own; made where it is missing"),
    time("zookeeper.session_timeout", "6s", S, MIN, "A node is declared dead after this time without a heartbeat to ZooKeeper; the server bounds it by its tickTime"),
    time("zookeeper.connect_timeout", "30s", 100 * MS, HOUR, "From start until a server answers"),
    key("zookeeper.username", Kind::Text(any), "", "User of the scheme \"digest\", who owns what is made here; empty logs in as nobody"),
    key("zookeeper.password", Kind::Text(any), "", "Shown by no command; best set as HYDRANT__ZOOKEEPER__PASSWORD"),
    key("zookeeper.tls_ca", Kind::Text(any), "", "PEM file with the certificate authorities of the servers; empty is no TLS"),
    key("zookeeper.tls_cert", Kind::Text(any), "", "PEM file with the certificate that this node shows; a server asks for one unless its ssl.clientAuth is \"none\""),
    key("zookeeper.tls_key", Kind::Text(any), "", "PEM file with the key of tls_cert"),
    choice("route_default.ack", "stored", ACKS, "When a publisher gets PUBACK or PUBREC: once the node has it in memory, the store on disk, or Kafka (the embedded log)"),
    choice("route_default.on_refused", "dead-letter", ON_REFUSED, "Level \"kafka\": what becomes of a record that Kafka refuses for good: \"dead-letter\" acknowledges it once it is one (log.dead_letter_max_bytes), \"disconnect\" never does and closes its publisher's connection"),
    time("supervision.restart_min", "10ms", MS, HOUR, "First wait before an actor is rebuilt, with jitter; doubled up to restart_max"),
    time("supervision.restart_max", "2s", MS, HOUR, "Longest such wait"),
    int("supervision.max_restarts", "10", 0, 1_000_000, "restarts", "Restarts of one actor within restart_window; past it its parent fails, up to the node, which exits"),
    time("supervision.restart_window", "60s", MS, DAY, "The window for max_restarts"),
    time("supervision.stall_timeout", "2s", 50 * MS, DAY, "An actor with work and no progress for this long is killed and rebuilt"),
    time("supervision.watchdog_warn", "1s", 10 * MS, DAY, "A blocked thread is reported after this"),
    time("supervision.watchdog_exit", "0s", 0, DAY, "A thread blocked for this long ends the node; 0s never"),
    time("sys.interval", "10s", 0, DAY, "How often $SYS is published; 0s switches it off"),
    flag("debug.faults", "false", "The admin socket may make an actor panic, stall or fail"),
];

/// The key of that path.
pub fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

/// What is nearest to an unknown `path`: a key where it has two parts, else a section. `None` when
/// nothing is near.
pub fn nearest(path: &str) -> Option<&'static str> {
    let (section, name) = path.split_once('.').unwrap_or((path, ""));
    let score = |candidate: &str| {
        let (its_section, its_name) = candidate.split_once('.').unwrap_or((candidate, ""));
        if name.is_empty() {
            return strsim::normalized_damerau_levenshtein(section, its_section);
        }
        // A right name in the wrong section is nearer than a wrong name in the right one.
        0.3 * strsim::normalized_damerau_levenshtein(section, its_section)
            + 0.7 * strsim::normalized_damerau_levenshtein(name, its_name)
    };
    let keys = KEYS.iter().map(|key| key.path).filter(|_| !name.is_empty());
    let sections =
        SECTIONS.iter().map(|(section, _)| *section).chain([ROUTE]).filter(|_| name.is_empty());
    keys.chain(sections)
        .map(|candidate| (score(candidate), candidate))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .filter(|(score, _)| *score >= 0.5)
        .map(|(_, candidate)| candidate)
}

/// Letters and digits alone, in lower case: `log.kind`, `LOG_KIND` and `Log.Kind` are the same.
pub fn letters(text: &str) -> String {
    text.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// The key whose letters these are, whatever separates them.
pub fn same_letters(text: &str) -> Option<&'static str> {
    let wanted = letters(text);
    KEYS.iter().map(|key| key.path).find(|path| letters(path) == wanted)
}

/// The key whose letters are nearest to these; `None` when nothing is near.
pub fn nearest_letters(wanted: &str) -> Option<&'static str> {
    KEYS.iter()
        .map(|key| (strsim::normalized_damerau_levenshtein(wanted, &letters(key.path)), key.path))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .filter(|(score, _)| *score >= 0.5)
        .map(|(_, path)| path)
}

/// The known word nearest to `word`; `None` when nothing is near.
pub fn near<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|k| (strsim::normalized_damerau_levenshtein(word, k), k))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .filter(|(score, _)| *score >= 0.5)
        .map(|(_, k)| k)
}

/// What to write instead of an unknown name: the nearest, or all there are where nothing is near.
pub fn hint<'a>(word: &str, known: impl Iterator<Item = &'a str> + Clone) -> String {
    match near(word, known.clone()) {
        Some(k) => format!("the nearest is \"{k}\""),
        None => format!("known: {}", known.collect::<Vec<_>>().join(", ")),
    }
}

fn any(_: &str) -> Result<(), &'static str> {
    Ok(())
}

/// Cassandra's rule for unquoted names, in lower case (cql, "keyspace name").
fn keyspace(text: &str) -> Result<(), &'static str> {
    let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    if (1..=48).contains(&text.len())
        && text.as_bytes()[0].is_ascii_lowercase()
        && text.bytes().all(legal)
    {
        Ok(())
    } else {
        Err("must be 1 to 48 of the characters a-z 0-9 _ and begin with a letter")
    }
}

fn not_empty(text: &str) -> Result<(), &'static str> {
    if text.is_empty() { Err("must not be empty") } else { Ok(()) }
}

/// ZooKeeper's rule for paths, and no name that it or a shell would read as something else.
fn chroot(text: &str) -> Result<(), &'static str> {
    let good = |name: &str| name != "." && name != ".." && node_id(name).is_ok();
    match text.strip_prefix('/') {
        Some(names)
            if text.len() <= 255
                && names.split('/').all(good)
                && names.split('/').next() != Some("zookeeper") =>
        {
            Ok(())
        }
        _ => Err(
            "must be a path of names of the characters A-Z a-z 0-9 . _ -, as in \"/hydrant\", with no \"/\" at its end, and not below /zookeeper",
        ),
    }
}

fn node_id(text: &str) -> Result<(), &'static str> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if (1..=64).contains(&text.len()) && text.bytes().all(legal) {
        Ok(())
    } else {
        Err("must be 1 to 64 of the characters A-Z a-z 0-9 . _ -")
    }
}

fn address(text: &str) -> Result<(), &'static str> {
    parse_address(text)
        .map(|_| ())
        .ok_or("must be an IP address and a port, as in \"0.0.0.0:1883\" or \"[::]:1883\"")
}

fn address_or_off(text: &str) -> Result<(), &'static str> {
    if text == "off" || parse_address(text).is_some() {
        Ok(())
    } else {
        Err("must be \"off\", or an IP address and a port, as in \"10.0.0.1:9884\"")
    }
}

/// A name that Kafka takes for a topic, or none.
fn topic_or_off(text: &str) -> Result<(), &'static str> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    match text {
        "" => Ok(()),
        "." | ".." => Err("must be the name of a Kafka topic, and \".\" is none"),
        _ if text.starts_with("__") => Err(
            "must be the name of a Kafka topic that does not begin with \"__\", as Kafka's own do",
        ),
        _ if text.len() < MAX_NAME && text.chars().all(legal) => Ok(()),
        _ => Err("must be empty, or at most 248 letters, digits, '.', '_' and '-'"),
    }
}

/// "localhost" is the one name taken: a listener is bound to an address, not looked up.
pub fn parse_address(text: &str) -> Option<SocketAddr> {
    match text.strip_prefix("localhost:") {
        Some(port) => Some(SocketAddr::from(([127, 0, 0, 1], port.parse().ok()?))),
        None => text.parse().ok(),
    }
}
