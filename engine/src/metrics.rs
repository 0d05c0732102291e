//! What the node counts. Plain atomics, written with relaxed order on the hot path and read by
//! the admin endpoint, by `$SYS` and by tests. Nothing here allocates after start.
//!
//! One [`WorkerMetrics`] a worker, so that two threads never share a cache line; [`Metrics`]
//! holds them all and what belongs to the node as a whole. Dropped messages are counted through [`crate::dropped`],
//! which also tells the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// A number that goes up, or up and down where the field says gauge.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Zero.
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }
    /// Adds one.
    #[inline]
    pub fn inc(&self) {
        self.add(1);
    }
    /// Adds `n`.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }
    /// The same where one thread alone changes the count: no locked instruction, which would wait
    /// for all that was written before it, several times for each message.
    #[inline]
    pub fn add_unshared(&self, n: u64) {
        self.0.store(self.get().wrapping_add(n), Ordering::Relaxed);
    }
    /// Takes `n` away (gauges only); stops at zero.
    #[inline]
    pub fn sub(&self, n: u64) {
        let _ = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |v| Some(v.saturating_sub(n)));
    }
    /// Replaces the value (gauges only).
    #[inline]
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }
    /// Reads it.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Upper bounds of the histogram buckets, in microseconds; one more bucket takes the rest.
pub const BUCKETS_US: [u64; 14] = [
    50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 500_000, 2_000_000,
    10_000_000,
];

/// A histogram of durations with fixed buckets.
#[derive(Debug, Default)]
pub struct Latency {
    buckets: [Count; BUCKETS_US.len() + 1],
    sum_us: Count,
}

impl Latency {
    /// Counts one duration.
    #[inline]
    pub fn record(&self, took: Duration) {
        let (slot, us) = Self::slot(took);
        self.buckets[slot].inc();
        self.sum_us.add(us);
    }
    /// The same where one thread alone counts ([`Count::add_unshared`]).
    #[inline]
    pub fn record_unshared(&self, took: Duration) {
        let (slot, us) = Self::slot(took);
        self.buckets[slot].add_unshared(1);
        self.sum_us.add_unshared(us);
    }
    /// Its bucket, and how many microseconds it is.
    fn slot(took: Duration) -> (usize, u64) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let slot = BUCKETS_US.iter().position(|bound| us <= *bound).unwrap_or(BUCKETS_US.len());
        (slot, us)
    }
    /// Count in each bucket (not cumulative) and the sum in microseconds.
    pub fn read(&self) -> ([u64; BUCKETS_US.len() + 1], u64) {
        (std::array::from_fn(|i| self.buckets[i].get()), self.sum_us.get())
    }
    /// The upper bound of the bucket below which the fraction `q` (0 to 1) of all durations lies:
    /// they took at most so long. `None` when nothing was counted; [`Duration::MAX`] past the last
    /// bound.
    pub fn quantile(&self, q: f64) -> Option<Duration> {
        let (buckets, _) = self.read();
        let total: u64 = buckets.iter().sum();
        if total == 0 {
            return None;
        }
        #[allow(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss
        )]
        let wanted = ((total as f64 * q).ceil() as u64).max(1);
        let mut seen = 0;
        let bucket = buckets.iter().position(|count| {
            seen += count;
            seen >= wanted
        });
        let bound = bucket.and_then(|bucket| BUCKETS_US.get(bucket));
        Some(bound.map_or(Duration::MAX, |us| Duration::from_micros(*us)))
    }
}

macro_rules! labelled {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $label:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum $name { $($(#[$vdoc])* $variant),+ }
        impl $name {
            /// Every value, in the order of the counters.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];
            /// The label in `/metrics`.
            pub const fn label(self) -> &'static str { match self { $(Self::$variant => $label),+ } }
        }
    };
}

labelled! {
    /// Why a message was not passed on. Every drop anywhere is counted under one of these.
    DropReason {
        /// QoS 0 for a connection whose outgoing buffer is full.
        SlowSubscriber = "slow_subscriber",
        /// The session's queue is full.
        QueueFull = "queue_full",
        /// QoS 0 for a session that is offline.
        Offline = "offline_qos0",
        /// QoS 0 that the log has no room for.
        LogFull = "log_full_qos0",
        /// The log refused the record for good.
        LogRefused = "log_refused",
        /// Its topic is beyond a cap of the log, and there is no overflow topic.
        TopicCap = "topic_cap",
        /// Retained message past the bound.
        RetainedFull = "retained_full",
        /// A client published below `$SYS/`, where only the node does.
        NoRoute = "no_route",
        /// A session expired with messages in its queue.
        SessionExpired = "session_expired",
        /// A publish made the router panic twice; its publisher was disconnected.
        Poisoned = "poisoned",
        /// For subscribers on a node that takes too little; nobody waits for it.
        PeerSlow = "peer_slow",
        /// A clean session ended with messages waiting.
        SessionEnded = "clean_session_ended",
    }
}

labelled! {
    /// Why a connection ended.
    CloseReason {
        /// The client sent DISCONNECT.
        Disconnect = "disconnect",
        /// The client closed the socket without DISCONNECT.
        Eof = "eof",
        /// Reading or writing the socket failed.
        Io = "io_error",
        /// A packet broke the standard.
        Violation = "protocol_violation",
        /// A packet was past a configured limit.
        Limit = "limit",
        /// CONNECT was answered with a non-zero return code.
        Refused = "connect_refused",
        /// No CONNECT in time.
        ConnectTimeout = "connect_timeout",
        /// 1.5 times the keep-alive without a packet ([MQTT-3.1.2-24]).
        KeepAlive = "keep_alive",
        PacketTimeout = "packet_timeout",
        /// Another connection took the client id over ([MQTT-3.1.4-2]).
        Takeover = "takeover",
        /// The socket took nothing for `limits.write_timeout`.
        WriteTimeout = "write_timeout",
        /// The connection's actor panicked, failed, stalled or was killed.
        ActorDied = "actor_died",
        /// The node shuts down.
        Shutdown = "shutdown",
        /// `broker drain`.
        Drain = "drain",
        /// Not from `listener.proxy_from`.
        UntrustedProxy = "untrusted_proxy",
        /// No PROXY header, or a wrong one.
        ProxyHeader = "proxy_header",
        /// By `listener.allow` or `listener.deny`.
        Denied = "address_denied",
        /// The node has `limits.max_connections`.
        TooMany = "too_many_connections",
        /// The beginning of a packet is past the connection's share of `limits.max_buffer_bytes`.
        BuffersFull = "buffers_full",
    }
}

/// What one worker counts.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct WorkerMetrics {
    /// Gauge: open sockets, before and after CONNECT.
    pub connections: Count,
    /// Gauge: sessions in memory, connected or not.
    pub sessions: Count,
    /// Gauge: of these persistent and not connected.
    pub sessions_offline: Count,
    /// Persistent sessions removed after `session.expiry`.
    pub sessions_expired: Count,
    /// Sockets accepted.
    pub accepted: Count,
    /// CONNECTs answered with return code 0.
    pub connects: Count,
    /// Bytes read from sockets.
    pub bytes_in: Count,
    /// Bytes written to sockets.
    pub bytes_out: Count,
    /// MQTT packets read.
    pub packets_in: Count,
    /// MQTT packets encoded for sending.
    pub packets_out: Count,
    /// PUBLISH read, by QoS. These, payloads, acknowledgements and their latency are the worker's
    /// thread's alone.
    pub publishes_in: [Count; 3],
    /// PUBLISH encoded for sending, by QoS.
    pub publishes_out: [Count; 3],
    /// Payload bytes of PUBLISH read.
    pub payload_in: Count,
    /// Payload bytes of PUBLISH sent.
    pub payload_out: Count,
    /// PUBACK and PUBREC sent, by acknowledgement level of the route (accepted, stored, kafka).
    pub acks: [Count; 3],
    /// Records for the overflow topic.
    pub overflowed: Count,
    /// Messages dropped, by [`DropReason`].
    pub dropped: [Count; DropReason::ALL.len()],
    /// Connections ended, by [`CloseReason`].
    pub closed: [Count; CloseReason::ALL.len()],
    /// Times that a connection stopped reading its socket for want of credit.
    pub paused: Count,
    /// Gauge: outgoing QoS 1-2 messages in flight.
    pub inflight: Count,
    /// Gauge: messages queued for sessions.
    pub queued: Count,
    /// Route cache: looked up and not found.
    pub route_misses: Count,
    /// Route cache: topics put out because it was full.
    pub route_evictions: Count,
    /// Gauge: route cache, bytes.
    pub route_bytes: Count,
    /// Gauge: buffers of the connections, bytes.
    pub buffered_bytes: Count,
    /// Times that these ran full.
    pub buffers_full: Count,
    /// Topic filters refused because the session or the node is full.
    pub filters_refused: Count,
    /// From reading a PUBLISH of QoS 1-2 to its PUBACK or PUBREC, levels stored and kafka.
    pub ack_latency: Latency,
}

impl WorkerMetrics {
    /// Counts a closed connection.
    #[inline]
    pub fn close(&self, reason: CloseReason) {
        self.closed[reason as usize].inc();
    }
}

/// What the node counts.
#[derive(Debug, Default)]
pub struct Metrics {
    /// One a worker, `connection-manager/0` first.
    pub workers: Vec<Arc<WorkerMetrics>>,
    /// Gauge: what sessions take in memory; `session.max_total_bytes` is held against it.
    pub session_bytes: Arc<AtomicUsize>,
    /// Gauge: subscriptions in the table.
    pub subscriptions: Count,
    /// Gauge: retained messages.
    pub retained: Count,
    /// Gauge: bytes of retained messages, topics and payloads.
    pub retained_bytes: Count,
    /// Batches the session store acknowledged.
    pub storage_batches: Count,
    /// Operations in them.
    pub storage_ops: Count,
    /// Times that a batch was written again.
    pub storage_retries: Count,
    /// Gauge: bytes waiting in StorageActor.
    pub storage_pending_bytes: Count,
    /// From handing a batch to the store to its answer.
    pub storage_latency: Latency,
    /// Gauge: records in the outbox, not acknowledged by the log.
    pub outbox_records: Count,
    /// Gauge: their bytes.
    pub outbox_bytes: Count,
    /// Times that a publish waited because the outbox was full.
    pub outbox_full: Count,
    /// Gauge: records that the log refused for good and that are kept.
    pub dead_letters: Count,
    /// Gauge: their bytes.
    pub dead_letter_bytes: Count,
    /// Dead letters written, also one whose replay was refused again.
    pub dead_letters_written: Count,
    /// Dead letters that the log has taken after all.
    pub dead_letters_replayed: Count,
    /// Dead letters removed by `broker dead drop`.
    pub dead_letters_dropped: Count,
    /// Refused records for which there was no room among the dead letters.
    pub dead_letters_full: Count,
    /// Records handed to the log.
    pub log_appended: Count,
    /// Records the log acknowledged.
    pub log_acked: Count,
    /// Records the log did not take (each is sent again, or dropped and counted as such).
    pub log_failed: Count,
    /// Times that the log was reset and sent to again from the cursor.
    pub log_resets: Count,
    /// Gauge: records in memory, waiting or unacknowledged.
    pub log_pending: Count,
    /// From handing a record to the log to its report.
    pub log_latency: Latency,
    /// Restarts of permanent actors.
    pub restarts: Count,
    /// Failures passed to a parent.
    pub escalations: Count,
    /// Times that the watchdog found a thread blocked.
    pub blocked_threads: Count,
    /// Malformed or over-long requests to the admin endpoints.
    pub admin_bad_requests: Count,
}

impl Metrics {
    /// Counters for `workers` workers.
    pub fn new(workers: usize) -> Arc<Self> {
        Arc::new(Self {
            workers: (0..workers).map(|_| Arc::default()).collect(),
            ..Self::default()
        })
    }

    /// Adds up one counter over the workers.
    pub fn sum(&self, pick: impl Fn(&WorkerMetrics) -> &Count) -> u64 {
        self.workers.iter().map(|worker| pick(worker).get()).sum()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_the_bound_of_its_bucket() {
        let latency = Latency::default();
        assert_eq!(latency.quantile(0.5), None);
        for _ in 0..99 {
            latency.record(Duration::from_micros(1500));
        }
        assert_eq!(latency.quantile(0.99), Some(Duration::from_millis(2)));
        latency.record(Duration::from_secs(60));
        assert_eq!(latency.quantile(0.0), Some(Duration::from_millis(2)));
        assert_eq!(latency.quantile(0.99), Some(Duration::from_millis(2)));
        assert_eq!(latency.quantile(0.991), Some(Duration::MAX));
    }
}
