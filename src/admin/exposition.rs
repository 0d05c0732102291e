//! `/metrics`: the node's counters in OpenMetrics text, which Prometheus reads.
//!
//! Everything is read at the scrape; nothing is kept here. Counters of the workers are added up.
//! Labels have few values, all ours (`reason`, `qos`, `level`, actor `path`): no label comes from
//! a client, so the number of series is bounded by the node's configuration.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hydrant_actors::metrics::{CloseReason, Count, DropReason, Metrics, WorkerMetrics};
use hydrant_actors::say;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, text};
use prometheus_client::registry::Registry;

use super::families::Out;
use super::rows::ActorRow;
use super::view::NodeView;

/// The content type of [`render`]'s text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Labels of [`WorkerMetrics::acks`], in its order.
const LEVELS: [&str; 3] = ["accepted", "stored", "kafka"];
const QOS: [&str; 3] = ["0", "1", "2"];

/// All metrics of the node as text.
///
/// # Errors
/// None in practice: writing to a string does not fail.
pub fn render(node: &dyn NodeView) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Snapshot {
        metrics: node.metrics(),
        actors: node.actors(),
        ready: node.ready().is_ok(),
        draining: node.draining(),
        healthy: node.healthy().is_ok(),
    }));
    let mut out = String::with_capacity(32 * 1024);
    text::encode(&mut out, &registry)?;
    Ok(out)
}

#[derive(Debug)]
struct Snapshot {
    metrics: Arc<Metrics>,
    actors: Vec<ActorRow>,
    ready: bool,
    draining: bool,
    healthy: bool,
}

impl Collector for Snapshot {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut out = Out(encoder);
        out.build_info()?;
        out.process()?;
        out.gauge(
            "hydrant_draining",
            "Whether the node is being emptied (1) or not (0).",
            u64::from(self.draining),
        )?;
        out.gauge(
            "hydrant_ready",
            "Whether clients can be served (1) or not (0).",
            u64::from(self.ready),
        )?;
        out.gauge(
            "hydrant_healthy",
            "Whether no actor has failed for good.",
            u64::from(self.healthy),
        )?;
        out.counters(
            "hydrant_log_lines_left_out",
            "Lines left out of the node's own log: those of a reason that had one less than 10 s ago, and those that \
             nobody read.",
            "reason",
            [("limited", say::LIMITED.get()), ("unread", say::UNREAD.get())].into_iter(),
        )?;
        self.clients(&mut out)?;
        self.messages(&mut out)?;
        self.storage_and_log(&mut out)?;
        self.tree(&mut out)
    }
}

impl Snapshot {
    fn sum(&self, pick: impl Fn(&WorkerMetrics) -> &Count) -> u64 {
        self.metrics.sum(pick)
    }

    fn clients(&self, out: &mut Out) -> fmt::Result {
        let m = &*self.metrics;
        out.gauge(
            "hydrant_connections",
            "Open sockets, before and after CONNECT.",
            self.sum(|s| &s.connections),
        )?;
        out.gauge(
            "hydrant_sessions",
            "Sessions in memory, connected or not.",
            self.sum(|s| &s.sessions),
        )?;
        out.gauge(
            "hydrant_sessions_offline",
            "Persistent sessions in memory that are not connected.",
            self.sum(|s| &s.sessions_offline),
        )?;
        out.counter(
            "hydrant_sessions_expired",
            "Persistent sessions removed after session.expiry.",
            self.sum(|s| &s.sessions_expired),
        )?;
        out.gauge("hydrant_subscriptions", "Subscriptions.", m.subscriptions.get())?;
        out.counter(
            "hydrant_connections_accepted",
            "Sockets accepted.",
            self.sum(|s| &s.accepted),
        )?;
        out.counter(
            "hydrant_connects",
            "CONNECTs answered with return code 0.",
            self.sum(|s| &s.connects),
        )?;
        out.counters(
            "hydrant_connections_closed",
            "Connections ended.",
            "reason",
            CloseReason::ALL.iter().map(|r| (r.label(), self.sum(|s| &s.closed[*r as usize]))),
        )?;
        out.counter(
            "hydrant_read_pauses",
            "Times that a connection stopped reading its socket for want of credit.",
            self.sum(|s| &s.paused),
        )?;
        out.bytes("hydrant_received", "Bytes read from sockets.", self.sum(|s| &s.bytes_in))?;
        out.bytes("hydrant_sent", "Bytes written to sockets.", self.sum(|s| &s.bytes_out))?;
        out.counter("hydrant_packets_received", "MQTT packets read.", self.sum(|s| &s.packets_in))?;
        out.counter(
            "hydrant_packets_sent",
            "MQTT packets encoded for sending.",
            self.sum(|s| &s.packets_out),
        )
    }

    fn messages(&self, out: &mut Out) -> fmt::Result {
        let m = &*self.metrics;
        let by_qos = |pick: fn(&WorkerMetrics) -> &[Count; 3]| {
            QOS.iter().enumerate().map(move |(i, qos)| (*qos, self.sum(|s| &pick(s)[i])))
        };
        out.counters(
            "hydrant_publishes_received",
            "PUBLISH read.",
            "qos",
            by_qos(|s| &s.publishes_in),
        )?;
        out.counters(
            "hydrant_publishes_sent",
            "PUBLISH encoded for sending.",
            "qos",
            by_qos(|s| &s.publishes_out),
        )?;
        out.bytes(
            "hydrant_payload_received",
            "Payload of PUBLISH read.",
            self.sum(|s| &s.payload_in),
        )?;
        out.bytes(
            "hydrant_payload_sent",
            "Payload of PUBLISH sent.",
            self.sum(|s| &s.payload_out),
        )?;
        out.counters(
            "hydrant_acknowledged",
            "PUBACK and PUBREC sent, by the acknowledgement level of the route.",
            "level",
            LEVELS.iter().enumerate().map(|(i, level)| (*level, self.sum(|s| &s.acks[i]))),
        )?;
        let latencies: Vec<_> = m.workers.iter().map(|worker| &worker.ack_latency).collect();
        out.latency(
            "hydrant_acknowledgement",
            "From reading a PUBLISH of QoS 1-2 to its PUBACK or PUBREC, levels stored and kafka.",
            &latencies,
        )?;
        out.counters(
            "hydrant_messages_dropped",
            "Messages dropped.",
            "reason",
            DropReason::ALL.iter().map(|r| (r.label(), self.sum(|s| &s.dropped[*r as usize]))),
        )?;
        out.counter(
            "hydrant_overflow_records",
            "Records that went to kafka.overflow_topic, because their own topic is beyond a cap.",
            self.sum(|s| &s.overflowed),
        )?;
        out.gauge(
            "hydrant_messages_inflight",
            "Outgoing QoS 1-2 messages in flight.",
            self.sum(|s| &s.inflight),
        )?;
        out.gauge(
            "hydrant_messages_queued",
            "Messages queued for sessions.",
            self.sum(|s| &s.queued),
        )?;
        out.gauge("hydrant_retained_messages", "Retained messages.", m.retained.get())?;
        out.gauge_bytes(
            "hydrant_retained",
            "Retained messages, topics and payloads.",
            m.retained_bytes.get(),
        )?;
        out.counter(
            "hydrant_route_cache_misses",
            "Routes looked up and not found in the cache.",
            self.sum(|s| &s.route_misses),
        )?;
        out.counter(
            "hydrant_route_cache_evictions",
            "Topics put out of the route cache because it was full.",
            self.sum(|s| &s.route_evictions),
        )?;
        out.gauge_bytes(
            "hydrant_route_cache",
            "Route caches, topics with their subscribers.",
            self.sum(|s| &s.route_bytes),
        )?;
        out.gauge_bytes(
            "hydrant_buffered",
            "Buffers of the connections.",
            self.sum(|s| &s.buffered_bytes),
        )?;
        out.counter(
            "hydrant_buffers_full",
            "Times that the buffers of a thread's connections ran full.",
            self.sum(|s| &s.buffers_full),
        )?;
        out.gauge_bytes(
            "hydrant_session",
            "Sessions in memory.",
            u64::try_from(m.session_bytes.load(Ordering::Relaxed)).unwrap_or(0),
        )?;
        out.counter(
            "hydrant_subscriptions_refused",
            "Topic filters refused for want of room.",
            self.sum(|s| &s.filters_refused),
        )
    }

    fn storage_and_log(&self, out: &mut Out) -> fmt::Result {
        let m = &*self.metrics;
        for (name, help, count) in [
            (
                "hydrant_storage_batches",
                "Batches the session store acknowledged.",
                &m.storage_batches,
            ),
            ("hydrant_storage_operations", "Operations in them.", &m.storage_ops),
            (
                "hydrant_storage_retries",
                "Times that a batch was written again.",
                &m.storage_retries,
            ),
            (
                "hydrant_outbox_full",
                "Times that a publish waited because the outbox was full.",
                &m.outbox_full,
            ),
            (
                "hydrant_dead_letters_written",
                "Dead letters written, also one that was replayed and refused again.",
                &m.dead_letters_written,
            ),
            (
                "hydrant_dead_letters_replayed",
                "Dead letters that the log has taken after all.",
                &m.dead_letters_replayed,
            ),
            (
                "hydrant_dead_letters_dropped",
                "Dead letters removed by broker dead drop.",
                &m.dead_letters_dropped,
            ),
            (
                "hydrant_dead_letters_full",
                "Refused records that found no room among the dead letters.",
                &m.dead_letters_full,
            ),
            ("hydrant_log_appended", "Records handed to the log.", &m.log_appended),
            ("hydrant_log_acknowledged", "Records the log acknowledged.", &m.log_acked),
            ("hydrant_log_failed", "Records the log did not take.", &m.log_failed),
            (
                "hydrant_log_resets",
                "Times that the log was reset and sent to again from the cursor.",
                &m.log_resets,
            ),
            ("hydrant_restarts", "Restarts of permanent actors.", &m.restarts),
            ("hydrant_escalations", "Failures passed to a parent.", &m.escalations),
            (
                "hydrant_blocked_threads",
                "Times that the watchdog found a thread blocked.",
                &m.blocked_threads,
            ),
            (
                "hydrant_admin_bad_requests",
                "Malformed or over-long admin requests.",
                &m.admin_bad_requests,
            ),
        ] {
            out.counter(name, help, count.get())?;
        }
        out.gauge_bytes(
            "hydrant_storage_pending",
            "Waiting in StorageActor.",
            m.storage_pending_bytes.get(),
        )?;
        out.gauge("hydrant_outbox_records", "Records in the outbox.", m.outbox_records.get())?;
        out.gauge_bytes("hydrant_outbox", "Records in the outbox.", m.outbox_bytes.get())?;
        out.gauge(
            "hydrant_dead_letters",
            "Records that the log refused for good.",
            m.dead_letters.get(),
        )?;
        out.gauge_bytes(
            "hydrant_dead_letter",
            "Records that the log refused for good.",
            m.dead_letter_bytes.get(),
        )?;
        out.gauge(
            "hydrant_log_pending_records",
            "Records waiting or unacknowledged.",
            m.log_pending.get(),
        )?;
        out.latency(
            "hydrant_storage_batch",
            "From handing a batch to the store to its answer.",
            &[&m.storage_latency],
        )?;
        out.latency(
            "hydrant_log_append",
            "From handing a record to the log to its report.",
            &[&m.log_latency],
        )
    }

    fn tree(&self, out: &mut Out) -> fmt::Result {
        let by_path = |pick: fn(&ActorRow) -> u64| {
            self.actors.iter().map(move |row| (row.path.as_str(), pick(row)))
        };
        out.counters("hydrant_actor_restarts", "Restarts.", "path", by_path(|row| row.restarts))?;
        out.counters(
            "hydrant_actor_handled",
            "Messages handled.",
            "path",
            by_path(|row| row.handled),
        )?;
        out.gauges(
            "hydrant_actor_mailbox",
            "Messages waiting.",
            "path",
            by_path(|row| row.mailbox),
        )?;
        out.gauges_seconds(
            "hydrant_actor_longest_handler",
            "The longest handler.",
            "path",
            by_path(|row| row.longest_us),
        )
    }
}
