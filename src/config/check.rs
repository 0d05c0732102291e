//! From resolved values to [`Config`], and what must hold between keys.
//!
//! Every key of the table is read here exactly by its path; a path that is not in the table, or a
//! key nobody reads, fails a test.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hydrant_actors::settings::{
    Limits, LogKind, LogSettings, Overflow, SessionSettings, Settings, StorageSettings,
    SupervisionSettings,
};
use hydrant_protocol::AckLevel;

use super::checked::{Config, ListenerConfig};
use super::error::{ConfigErrors, Origin};
use super::keys::{KEYS, PROPERTIES, parse_address};
use super::reader::Reader;
use super::source::Effective;
use super::value::Value;
use super::{cassandra, cluster, listener, properties, records, routes, servers, switches};
use crate::admin::AdminLimits;
use crate::embedded::{LogOptions, StoreOptions, SyncPolicy};
use crate::kafka::KafkaOptions;

/// The checked configuration; `errors` holds what the layers had already.
///
/// # Errors
/// All of them together.
pub fn config(effective: &Effective, errors: ConfigErrors) -> Result<Config, ConfigErrors> {
    build(effective, errors).map(|(config, _)| config)
}

/// The same, with the paths that were read.
pub(super) fn build(
    effective: &Effective,
    errors: ConfigErrors,
) -> Result<(Config, BTreeSet<&str>), ConfigErrors> {
    let mut r = Reader::new(effective, errors);
    let workers = match r.value("node.workers") {
        Some(Value::Number(None)) => std::thread::available_parallelism().map_or(1, |n| n.get()),
        _ => r.number("node.workers"),
    };
    let sync = match r.text("storage.sync") {
        "never" => SyncPolicy::Never,
        _ => SyncPolicy::Always,
    };
    let mut log = log_settings(&mut r);
    let default_ack = routes::ack_level(r.text("route_default.ack")).unwrap_or_default();
    let on_refused = routes::on_refused(r.text("route_default.on_refused")).unwrap_or_default();
    let mapping = routes::compile(&effective.routes, default_ack, &mut r.errors);
    let mapping = mapping.map(|mapping| mapping.on_refused(on_refused));
    if log.kind == LogKind::None && !effective.bad.contains("log.kind") {
        acks_without_log(&mut r, default_ack);
    }
    log.overflow_topic = records::overflow_topic(&mut r, log.kind, mapping.as_ref());
    let kafka = kafka(&mut r, log.kind)
        .map(|kafka| KafkaOptions { overflow_topic: log.overflow_topic.clone(), ..kafka });
    let cassandra = cassandra::options(&mut r);
    let cluster = cluster::options(&mut r);
    switches::check(&mut r);
    let listener = ListenerConfig {
        address: r.address("listener.address"),
        backlog: r.number("listener.backlog"),
        send_buffer: Some(r.number("listener.send_buffer")).filter(|n| *n > 0),
        receive_buffer: Some(r.number("listener.receive_buffer")).filter(|n| *n > 0),
        nodelay: r.flag("listener.nodelay"),
    };
    let access = listener::access(&mut r);
    let admin_address = r.address("admin.address");
    let admin = r.flag("admin.enabled").then_some(admin_address);
    let agent = parse_address(r.text("admin.agent_listen"));
    let peers = cluster.as_ref().map(|cluster| cluster.listen);
    ports_differ(
        &mut r,
        &[
            ("cluster.listen", peers),
            ("listener.address", Some(listener.address)),
            ("admin.address", admin),
            ("admin.agent_listen", agent),
        ],
    );
    let admin_limits = admin_limits(&mut r);
    let store = StoreOptions {
        sync,
        cache_size: r.number("storage.cache_size"),
        journal_max_size: r.number("storage.journal_max_size"),
        ..StoreOptions::default()
    };
    let embedded_log = LogOptions {
        sync,
        cache_size: r.number("log.cache_size"),
        journal_max_size: r.number("log.journal_max_size"),
        max_pending_bytes: log.max_pending_bytes,
        batch_max_records: r.number("log.batch_max_records"),
        batch_max_bytes: r.number("log.batch_max_bytes"),
        retention_age: r.time("log.retention"),
        retention_bytes: r.number("log.retention_bytes"),
        segment_bytes: r.number("log.segment_size"),
        max_topics: r.number("log.max_topics"),
        ..LogOptions::default()
    };
    let node_id: Arc<str> = r.text("node.id").into();
    let data_dir = PathBuf::from(r.text("node.data_dir"));
    let shutdown_deadline = r.time("node.shutdown_deadline");
    let drain_rate = r.number("node.drain_rate");
    let (limits, session, storage) = (limits(&mut r, workers), session(&mut r), storage(&mut r));
    let supervision = supervision(&mut r);
    let (sys_interval, faults) = (r.time("sys.interval"), r.flag("debug.faults"));
    if mapping.is_none() && r.errors.0.is_empty() {
        r.errors.push(Origin::Default, "the routes were refused without a reason");
    }
    let (errors, read) = (r.errors, r.read);
    let Some(mapping) = mapping else {
        return Err(errors.into_result().err().unwrap_or_default());
    };
    errors.into_result()?;
    let settings = Settings {
        node_id,
        workers,
        shutdown_deadline,
        drain_rate,
        access,
        limits,
        session,
        storage,
        log,
        supervision,
        mapping: Arc::new(mapping),
        sys_interval,
        faults,
    };
    Ok((
        Config {
            settings,
            data_dir,
            listener,
            admin,
            agent,
            admin_limits,
            store,
            log: embedded_log,
            kafka,
            cassandra,
            cluster,
        },
        read,
    ))
}

/// Each port of the node is its own; `None` is not listened on.
fn ports_differ(r: &mut Reader<'_>, ports: &[(&'static str, Option<SocketAddr>)]) {
    for (n, (key, address)) in ports.iter().enumerate() {
        for (other, taken) in &ports[n + 1..] {
            let clash = address.zip(*taken).is_some_and(|(one, two)| overlap(one, two));
            let sentence =
                format!("{key} and {other} take the same port: give one of them another");
            r.cross(!clash, [*key, *other], &sentence);
        }
    }
}

/// Whether two sockets cannot listen on these at the same time.
fn overlap(one: SocketAddr, two: SocketAddr) -> bool {
    // Every address, with `::` those of IPv4 as well.
    let takes = |all: SocketAddr, other: SocketAddr| {
        all.ip().is_unspecified() && (all.is_ipv6() || other.is_ipv4())
    };
    let free = one.port() == 0 || one.port() != two.port();
    !free && (one.ip() == two.ip() || takes(one, two) || takes(two, one))
}

/// `ack = "kafka"` waits for a log; without one such a publish would never be acknowledged.
fn acks_without_log(r: &mut Reader<'_>, default: AckLevel) {
    for route in &r.effective.routes {
        if route.config.ack == Some(AckLevel::Kafka) {
            r.errors.push(route.origin.clone(), "ack = \"kafka\" of this route needs a log, and log.kind is \"none\": use \"stored\" or another log.kind");
        }
    }
    r.cross(
        default != AckLevel::Kafka,
        ["route_default.ack", "log.kind"],
        "route_default.ack = \"kafka\" needs a log, and log.kind is \"none\": use \"stored\" or another log.kind",
    );
}

fn admin_limits(r: &mut Reader<'_>) -> AdminLimits {
    let [connections, tails] = ["admin.max_socket_connections", "admin.max_tails"];
    let (socket_connections, max_tails): (usize, usize) = (r.number(connections), r.number(tails));
    r.cross(
        max_tails < socket_connections,
        [tails, connections],
        "admin.max_tails must be below admin.max_socket_connections, so that `broker tree` finds room beside them",
    );
    AdminLimits {
        http_connections: r.number("admin.max_connections"),
        http_header_bytes: r.number("admin.max_header_size"),
        http_header_timeout: r.time("admin.header_timeout"),
        http_timeout: r.time("admin.timeout"),
        socket_connections,
        tails: max_tails,
        max_line: r.number("admin.max_request_size"),
        request_timeout: r.time("admin.request_timeout"),
    }
}

fn limits(r: &mut Reader<'_>, workers: usize) -> Limits {
    let [packet, buffers] = ["limits.max_packet_size", "limits.max_buffer_bytes"];
    let (max_packet_size, max_buffer_bytes) = (r.number(packet), r.number::<usize>(buffers));
    r.cross(
        max_packet_size <= max_buffer_bytes / 2 / workers.max(1),
        [packet, buffers],
        "limits.max_packet_size is above a thread's part of limits.max_buffer_bytes (half of it, divided by node.workers), and such a packet would never be whole: lower the one or raise the other",
    );
    Limits {
        max_connections: r.number("limits.max_connections"),
        connect_rate: r.number("limits.connect_rate"),
        connect_timeout: r.time("limits.connect_timeout"),
        max_packet_size,
        max_topic_length: r.number("limits.max_topic_length"),
        max_topic_levels: r.number("limits.max_topic_levels"),
        control_characters: r.text("limits.control_characters") == "allow",
        max_filters_per_subscribe: r.number("limits.max_filters_per_subscribe"),
        max_subscriptions: r.number("limits.max_subscriptions"),
        max_client_id_length: r.number("limits.max_client_id_length"),
        allow_empty_client_id: r.flag("limits.allow_empty_client_id"),
        max_keep_alive: r.number("limits.max_keep_alive"),
        min_packet_rate: r.number("limits.min_packet_rate"),
        packet_timeout: r.time("limits.packet_timeout"),
        max_unacknowledged: r.number("limits.max_unacknowledged"),
        max_output_bytes: r.number("limits.max_output_bytes"),
        max_buffer_bytes,
        write_timeout: r.time("limits.write_timeout"),
        max_retained_messages: r.number("limits.max_retained_messages"),
        max_retained_bytes: r.number("limits.max_retained_bytes"),
        route_cache_entries: r.number("limits.route_cache_entries"),
        route_cache_bytes: r.number("limits.route_cache_bytes"),
        max_router_bytes: r.number("limits.max_router_bytes"),
    }
}

fn session(r: &mut Reader<'_>) -> SessionSettings {
    let [one, all] = ["session.max_bytes", "session.max_total_bytes"];
    let (max_bytes, max_total_bytes) = (r.number(one), r.number(all));
    r.cross(
        max_bytes <= max_total_bytes,
        [one, all],
        "session.max_bytes, of one session, must not be above session.max_total_bytes, of all: lower the one or raise the other",
    );
    SessionSettings {
        max_inflight: r.number("session.max_inflight"),
        max_queued_messages: r.number("session.max_queued_messages"),
        max_queued_bytes: r.number("session.max_queued_bytes"),
        max_queued_in_memory: r.number("session.max_queued_in_memory"),
        max_queued_in_memory_bytes: r.number("session.max_queued_in_memory_bytes"),
        overflow: match r.text("session.overflow") {
            "drop_old" => Overflow::DropOld,
            _ => Overflow::DropNew,
        },
        queue_qos0: r.flag("session.queue_qos0"),
        expiry: r.time("session.expiry"),
        max_sessions: r.number("session.max_sessions"),
        max_bytes,
        max_total_bytes,
    }
}

fn storage(r: &mut Reader<'_>) -> StorageSettings {
    let (retry_min, retry_max) = r.ordered("storage.retry_min", "storage.retry_max");
    let max_in_flight = match r.value("storage.max_in_flight") {
        Some(Value::Number(None)) if r.text("storage.kind") == "cassandra" => 16,
        Some(Value::Number(None)) => 1,
        _ => r.number("storage.max_in_flight"),
    };
    StorageSettings {
        batch_max_ops: r.number("storage.batch_max_ops"),
        batch_max_bytes: r.number("storage.batch_max_bytes"),
        batch_delay: r.time("storage.batch_delay"),
        max_in_flight,
        max_pending_bytes: r.number("storage.max_pending_bytes"),
        outbox_max_bytes: r.number("storage.outbox_max_bytes"),
        outbox_lanes: r.number("storage.outbox_lanes"),
        retry_min,
        retry_max,
    }
}

fn log_settings(r: &mut Reader<'_>) -> LogSettings {
    let (retry_min, retry_max) = r.ordered("log.retry_min", "log.retry_max");
    LogSettings {
        kind: match r.text("log.kind") {
            "kafka" => LogKind::Kafka,
            "none" => LogKind::None,
            _ => LogKind::Embedded,
        },
        max_pending_messages: r.number("log.max_pending_messages"),
        max_pending_bytes: r.number("log.max_pending_bytes"),
        dead_letter_max_bytes: r.number("log.dead_letter_max_bytes"),
        overflow_topic: None,
        retry_min,
        retry_max,
    }
}

fn supervision(r: &mut Reader<'_>) -> SupervisionSettings {
    let (restart_min, restart_max) =
        r.ordered("supervision.restart_min", "supervision.restart_max");
    let [warn, exit] = ["supervision.watchdog_warn", "supervision.watchdog_exit"];
    let (watchdog_warn, watchdog_exit) = (r.time(warn), r.time(exit));
    r.cross(
        watchdog_exit.is_zero() || watchdog_exit >= watchdog_warn,
        [warn, exit],
        "supervision.watchdog_exit must not be below supervision.watchdog_warn, or 0s for never",
    );
    SupervisionSettings {
        restart_min,
        restart_max,
        max_restarts: r.number("supervision.max_restarts"),
        restart_window: r.time("supervision.restart_window"),
        stall_timeout: r.time("supervision.stall_timeout"),
        watchdog_warn,
        watchdog_exit,
    }
}

/// `[kafka]` is checked whatever `log.kind` says, and handed on only with "kafka".
fn kafka(r: &mut Reader<'_>, kind: LogKind) -> Option<KafkaOptions> {
    let given = matches!(r.value("kafka.bootstrap_servers"), Some(Value::List(_)));
    let servers = servers::list(r, "kafka.bootstrap_servers", None).join(",");
    let wanted = kind == LogKind::Kafka && !r.effective.bad.contains("log.kind");
    if wanted && !given && !r.effective.bad.contains("kafka.bootstrap_servers") {
        let origin = r.origin("log.kind");
        r.errors.push(origin, "log.kind = \"kafka\" needs kafka.bootstrap_servers: set it to \"host:port\" of your Kafka");
    }
    r.read.insert(PROPERTIES);
    let before = r.errors.0.len();
    let protocol = r.text("kafka.security_protocol");
    let used = Some(protocol).filter(|_| wanted);
    let checked = properties::check(&r.effective.properties, used, &mut r.errors);
    let sound = r.errors.0.len() == before;
    records::fit(r, wanted);
    let fixed = r.effective.routes.iter().map(|route| &route.config.topic);
    let mut options = KafkaOptions {
        bootstrap_servers: servers,
        security_protocol: protocol.to_string(),
        linger: r.time("kafka.linger"),
        batch_size: r.number("kafka.batch_size"),
        batch_num_messages: r.number("kafka.batch_num_messages"),
        compression: r.text("kafka.compression").to_string(),
        queue_max_messages: r.number("kafka.queue_max_messages"),
        queue_max_bytes: r.number("kafka.queue_max_bytes"),
        message_max_bytes: r.number("kafka.message_max_bytes"),
        create_topics: r.flag("kafka.create_topics"),
        partitions: r.number("kafka.partitions"),
        replication_factor: r.number("kafka.replication_factor"),
        max_topics_created: r.number("kafka.max_topics_created"),
        max_topics_per_client: r.number("kafka.max_topics_per_client"),
        overflow_topic: None,
        request_timeout: r.time("kafka.request_timeout"),
        park_time: r.time("kafka.park_time"),
        pending_max: (r.number("log.max_pending_messages"), r.number("log.max_pending_bytes")),
        // The log actor keeps what waits: others must find room there.
        parked_max_messages: r
            .number::<usize>("kafka.queue_max_messages")
            .min(r.number("log.max_pending_messages"))
            / 4,
        message_timeout: Duration::ZERO,
        expected_topics: fixed.filter(|topic| !topic.contains('{')).cloned().collect(),
        properties: BTreeMap::new(),
    };
    if !wanted || options.bootstrap_servers.is_empty() {
        return None;
    }
    let mut sentences = options.mistakes();
    options.properties = checked;
    // With a property refused, what is missing is known already.
    if sound && sentences.is_empty() {
        sentences.extend(options.unsupported());
    }
    for sentence in sentences {
        let is_it = |name: &&String| sentence.starts_with(PROPERTIES) && sentence.contains(*name);
        let origin = match r.effective.properties.keys().find(is_it) {
            Some(name) => r.effective.properties[name].1.clone(),
            None => {
                let key = KEYS.iter().find(|key| sentence.contains(key.path));
                r.origin(key.map_or("log.kind", |key| key.path))
            }
        };
        r.errors.push(origin, sentence);
    }
    Some(options)
}
