//! The sum of the bounds in bytes, computed from a configuration: the table of docs/operations.md is written by this and
//! held to it.

use hydrant_actors::worker::{POOLED_BUFFERS, POOLED_CAPACITY, READ_BUFFER};

use super::*;
use crate::admin::MAX_PAGE_SIZE;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
/// What an idle connection takes with its actor: measured 3,361 bytes (docs/scale.md).
const CONNECTION: u64 = 4 * KIB;
/// A message in flight, in memory.
const FLIGHT: u64 = 24;

struct Row {
    what: &'static str,
    keys: &'static str,
    bytes: u64,
    past_it: &'static str,
    seen: &'static str,
}

const fn row(
    what: &'static str,
    keys: &'static str,
    bytes: u64,
    past_it: &'static str,
    seen: &'static str,
) -> Row {
    Row { what, keys, bytes, past_it, seen }
}

#[rustfmt::skip]
fn worker(config: &Config) -> Vec<Row> {
    let limits = &config.settings.limits;
    vec![
        row("topics whose subscribers are known", "`limits.route_cache_bytes`", limits.route_cache_bytes as u64, "emptied; a topic above 1,024 bytes is never in it", "`hydrant_route_cache_bytes`, `…_evictions_total`"),
        row("publishes that wait to be routed: coming, in work, from other workers", "3 x `limits.max_router_bytes`", 3 * limits.max_router_bytes as u64, "connections are not read", "`hydrant_read_pauses_total`"),
        row("buffers that are kept for reuse", "none", (POOLED_BUFFERS * POOLED_CAPACITY + READ_BUFFER) as u64, "freed", ""),
    ]
}

#[rustfmt::skip]
fn node(config: &Config) -> Vec<Row> {
    let Config { settings, admin_limits, .. } = config;
    let page = MAX_PAGE_SIZE * (settings.limits.max_client_id_length + 3072);
    let admin = admin_limits.http_connections * (admin_limits.http_header_bytes + 256 * 1024)
        + admin_limits.socket_connections * (admin_limits.max_line + page)
        + admin_limits.tails * ((1 << 20) + settings.limits.max_packet_size);
    let batches = (settings.storage.max_in_flight + 1) * settings.storage.batch_max_bytes;
    vec![
        row("sessions: client ids, topic filters with their nodes in the tree, incoming QoS 2 packet ids, what an offline session has in flight", "`session.max_total_bytes`; of one session `session.max_bytes`", settings.session.max_total_bytes as u64, "a new session: CONNACK 0x03; a filter: return code 0x80; a QoS 2 PUBLISH: closed (`limit`)", "`hydrant_session_bytes`, `hydrant_subscriptions_refused_total`"),
        row("buffers of all connections: half for packets that are not whole and Last Wills, half for queues in memory and output", "2 x `limits.max_buffer_bytes`; of one connection `limits.max_packet_size`, `session.max_queued_bytes` (clean) or `session.max_queued_in_memory_bytes`, `limits.max_output_bytes`", 2 * settings.limits.max_buffer_bytes as u64, "each connection has its equal share; past that as at its own bound: `slow_subscriber`, `queue_full` or the store, closed (`buffers_full`), CONNACK 0x03 for a will", "`hydrant_buffered_bytes`, `hydrant_buffers_full_total`"),
        row("retained messages", "`limits.max_retained_bytes`", settings.limits.max_retained_bytes as u64, "dropped (`retained_full`)", "`hydrant_retained_bytes`"),
        row("writes that wait for the store, with who waits for them", "8 x `storage.max_pending_bytes`", 8 * settings.storage.max_pending_bytes as u64, "publishers are not read: those who wait for the store at once, the others at 2 to 4 times", "`hydrant_storage_pending_bytes`, `hydrant_read_pauses_total`"),
        row("batches in the store's hands", "`storage.batch_max_bytes` x (`storage.max_in_flight` + 1)", batches as u64, "the next one waits", ""),
        row("embedded store: block cache, memory tables", "`storage.cache_size` + `storage.journal_max_size`", config.store.cache_size + config.store.journal_max_size, "tables are flushed; writes wait", "`hydrant_storage_batch_seconds`"),
        row("records on their way to the log", "2 x `log.max_pending_bytes`", 2 * settings.log.max_pending_bytes as u64, "QoS 0: `log_full_qos0`; `kafka` publishers are not read; `stored` goes on in the outbox, on disk", "`hydrant_log_pending_records`"),
        row("embedded log: block cache, memory tables", "`log.cache_size` + `log.journal_max_size`", config.log.cache_size + config.log.journal_max_size, "as for the store", ""),
        row("what is known of dead letters", "100 bytes each, of the 160 and more that each counts in `log.dead_letter_max_bytes`", settings.log.dead_letter_max_bytes * 100 / 160, "stays in the outbox, or gets no acknowledgement", "`hydrant_dead_letters`, `hydrant_dead_letters_full_total`"),
        row("admin HTTP and socket", "`admin.max_connections`, `…_header_size`, `…_socket_connections`, `…_request_size`, `…_tails`; a page has 1,000 rows of a client id and 3 KiB", admin as u64, "closed", "`hydrant_admin_bad_requests_total`"),
    ]
}

#[rustfmt::skip]
fn connection(config: &Config) -> Vec<Row> {
    vec![
        row("a connection, its actor and socket", "`limits.max_connections`", CONNECTION, "closed (`too_many_connections`)", "`hydrant_connections`"),
        row("QoS 1-2 messages sent to it and not acknowledged, without their payload", "24 bytes x `session.max_inflight`", FLIGHT * u64::from(config.settings.session.max_inflight), "wait in the queue", "`hydrant_messages_inflight`"),
    ]
}

fn size(bytes: u64) -> String {
    if bytes < MIB {
        format!("{} KiB", bytes.div_ceil(KIB))
    } else {
        format!("{} MiB", bytes.div_ceil(MIB))
    }
}

/// The table, and the sums of its three parts.
fn table(config: &Config) -> (String, [u64; 3]) {
    let mut text = String::new();
    let mut sums = [0; 3];
    let parts = [
        ("each worker", worker(config)),
        ("the node", node(config)),
        ("each connection", connection(config)),
    ];
    for ((of, rows), sum) in parts.into_iter().zip(&mut sums) {
        text += &format!(
            "| of {of} | bound | at the defaults | past it | metric |\n|---|---|---|---|---|\n"
        );
        for Row { what, keys, bytes, past_it, seen } in rows {
            *sum += bytes;
            text += &format!("| {what} | {keys} | {} | {past_it} | {seen} |\n", size(bytes));
        }
        text += &format!("| **sum** | | **{}** | | |\n\n", size(*sum));
    }
    let [worker, node, connection] = sums;
    let connections = config.settings.limits.max_connections as u64;
    text += &format!(
        "So W workers and N connections take at most {} + W x {} + N x {}: {} with 2 workers and the {connections} \
         connections of `limits.max_connections`.\n",
        size(node),
        size(worker),
        size(connection),
        size(node + 2 * worker + connections * connection),
    );
    (text, sums)
}

/// `HYDRANT_WRITE_DOCS=1` writes it.
#[test]
fn the_docs_have_the_bounds_and_their_sum() {
    let config = load(&Sources::default()).unwrap().config;
    let (expected, sums) = table(&config);
    assert!(sums.iter().all(|sum| *sum > 0));
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operations.md");
    let docs = std::fs::read_to_string(path).unwrap();
    let [begin, end] = ["<!-- memory:begin -->\n", "<!-- memory:end -->"];
    let (before, rest) = docs.split_once(begin).unwrap();
    let (found, after) = rest.split_once(end).unwrap();
    if std::env::var_os("HYDRANT_WRITE_DOCS").is_some() {
        std::fs::write(path, [before, begin, &expected, end, after].concat()).unwrap();
        return;
    }
    assert_eq!(found, expected, "HYDRANT_WRITE_DOCS=1 writes the table of docs/operations.md");
}

#[test]
fn bounds_that_do_not_fit_together_are_mistakes() {
    let mistakes =
        |text: &str| load(&super::tests::from(text)).map(|_| ()).unwrap_err().to_string();
    let sessions = mistakes("[session]\nmax_bytes = \"2MiB\"\nmax_total_bytes = \"1MiB\"\n");
    assert!(
        sessions.contains("session.max_bytes, of one session, must not be above"),
        "{sessions}"
    );
    let buffers = mistakes("[node]\nworkers = 2\n[limits]\nmax_buffer_bytes = \"1MiB\"\n");
    assert!(buffers.contains("limits.max_packet_size is above a thread's part"), "{buffers}");
}

/// A key in bytes that bounds memory has its place in the table.
#[test]
fn every_size_that_is_about_memory_stands_in_the_table() {
    let elsewhere = [
        // On disk, in the kernel, or of one packet, batch or request within another bound.
        "listener.send_buffer",
        "listener.receive_buffer",
        "admin.max_header_size",
        "admin.max_request_size",
        "storage.outbox_max_bytes",
        "log.retention_bytes",
        "log.segment_size",
        "log.batch_max_bytes",
        // Of Kafka and of other nodes: said below the table.
        "kafka.batch_size",
        "kafka.queue_max_bytes",
        "kafka.message_max_bytes",
        "cluster.max_link_bytes",
    ];
    let (text, _) = table(&load(&Sources::default()).unwrap().config);
    for key in super::keys::KEYS {
        if matches!(key.kind, super::keys::Kind::Size { .. }) && !elsewhere.contains(&key.path) {
            assert!(
                text.contains(key.path),
                "{} bounds memory and is not in docs/operations.md",
                key.path
            );
        }
    }
}
