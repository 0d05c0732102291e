//! Every bound and choice the actor tree works with, already checked. `src/config` fills it.
//!
//! Sizes are bytes, times are [`Duration`]s. A bound of 0 is refused by the configuration unless
//! its comment gives 0 a meaning.

use std::sync::Arc;
use std::time::Duration;

use hydrant_protocol::access::{AddressRules, IpNet};
use hydrant_protocol::mapping::Mapping;

/// All settings of one node's actor tree.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `node.id`: 1 to 64 of `[A-Za-z0-9._-]`.
    pub node_id: Arc<str>,
    /// `node.workers`: workers that carry connections.
    pub workers: usize,
    /// `node.shutdown_deadline`: SIGTERM to exit.
    pub shutdown_deadline: Duration,
    /// `node.drain_rate`: connections a second that `broker drain` closes.
    pub drain_rate: u32,
    /// Who may connect.
    pub access: Access,
    /// Limits a peer meets.
    pub limits: Limits,
    /// Sessions.
    pub session: SessionSettings,
    /// The batches of StorageActor.
    pub storage: StorageSettings,
    /// The log actor.
    pub log: LogSettings,
    /// Restarts and stalls.
    pub supervision: SupervisionSettings,
    /// The topic mapping, with an acknowledgement level a route.
    pub mapping: Arc<Mapping>,
    /// `sys.interval`: how often `$SYS` is published; zero switches it off.
    pub sys_interval: Duration,
    /// `debug.faults`: the admin socket may make an actor panic, stall or fail. For tests.
    pub faults: bool,
}

/// Who may connect, by address; the rest of `[listener]`.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// `listener.proxy_from`, with `listener.proxy_protocol = "required"`: the load balancers, whose
    /// word for a client's address is taken. `None`: no PROXY header comes.
    pub proxy_from: Option<Vec<IpNet>>,
    /// `listener.deny` and `listener.allow`, for the client's address.
    pub rules: AddressRules,
}

/// Limits a peer meets. Past each: a clean close and a counter.
#[derive(Debug, Clone)]
pub struct Limits {
    /// `limits.max_connections`: past it a new socket is closed at once.
    pub max_connections: usize,
    /// `limits.connect_rate`: new connections a second; more wait in the listen backlog.
    pub connect_rate: u32,
    /// `limits.connect_timeout`: from accept to a whole CONNECT.
    pub connect_timeout: Duration,
    /// `limits.max_packet_size`: whole packet with its fixed header.
    pub max_packet_size: usize,
    /// `limits.max_topic_length`: bytes of a topic name or filter.
    pub max_topic_length: usize,
    /// `limits.max_topic_levels`: levels of a topic name or filter.
    pub max_topic_levels: usize,
    /// `limits.control_characters`: strings may have control characters and non-characters.
    pub control_characters: bool,
    /// `limits.max_filters_per_subscribe`: filters in one SUBSCRIBE; more get return code 0x80.
    pub max_filters_per_subscribe: usize,
    /// `limits.max_subscriptions`: a session's subscriptions; more get return code 0x80.
    pub max_subscriptions: usize,
    /// `limits.max_client_id_length`: bytes.
    pub max_client_id_length: usize,
    /// `limits.allow_empty_client_id`: a server-made id for an empty one with CleanSession.
    pub allow_empty_client_id: bool,
    /// `limits.max_keep_alive`: seconds; 0 allows every value, also none at all.
    pub max_keep_alive: u16,
    /// `limits.min_packet_rate`: bytes a second of a packet on its way, by which its client counts as alive.
    pub min_packet_rate: u64,
    /// `limits.packet_timeout`: from the first byte of a packet to its last.
    pub packet_timeout: Duration,
    /// `limits.max_unacknowledged`: publishes of one connection whose PUBACK or PUBREC is
    /// outstanding; past it the connection's socket is not read.
    pub max_unacknowledged: usize,
    /// `limits.max_output_bytes`: bytes waiting in one connection's outgoing buffer; past it QoS 0
    /// is dropped and QoS 1-2 queues.
    pub max_output_bytes: usize,
    /// `limits.max_buffer_bytes`: what all connections hold: half for packets that are not whole and Last Wills, half
    /// for messages that wait in memory and output. Past it each holds its equal share.
    pub max_buffer_bytes: usize,
    /// `limits.write_timeout`: a connection whose socket takes nothing for so long is closed.
    pub write_timeout: Duration,
    /// `limits.max_retained_messages`: retained messages of the node.
    pub max_retained_messages: usize,
    /// `limits.max_retained_bytes`: their topics and payloads, and what keeps them.
    pub max_retained_bytes: usize,
    /// `limits.route_cache_entries`: topics whose subscribers one worker remembers.
    pub route_cache_entries: usize,
    /// `limits.route_cache_bytes`: the same in bytes.
    pub route_cache_bytes: usize,
    /// `limits.max_router_bytes`: publishes waiting in one TopicRouter; past it connections of its
    /// worker are not read.
    pub max_router_bytes: usize,
}

/// Sessions.
#[derive(Debug, Clone)]
pub struct SessionSettings {
    /// `session.max_inflight`: outgoing QoS 1-2 messages not acknowledged by the subscriber.
    pub max_inflight: u16,
    /// `session.max_queued_messages`: QoS 1-2 messages waiting for one session.
    pub max_queued_messages: usize,
    /// `session.max_queued_bytes`: the same in bytes.
    pub max_queued_bytes: usize,
    /// `session.max_queued_in_memory`: of a persistent session's queue, entries held in memory;
    /// the rest is read back from the store.
    pub max_queued_in_memory: usize,
    /// `session.max_queued_in_memory_bytes`: the same in bytes.
    pub max_queued_in_memory_bytes: usize,
    /// `session.overflow`: what happens past the bounds.
    pub overflow: Overflow,
    /// `session.queue_qos0`: QoS 0 is queued for offline persistent sessions too.
    pub queue_qos0: bool,
    /// `session.expiry`: a persistent session offline for so long is removed; zero is never.
    pub expiry: Duration,
    /// `session.max_sessions`: persistent sessions of the node; past it a new one is refused
    /// with CONNACK 0x03.
    pub max_sessions: usize,
    /// `session.max_bytes`: client id, filters and incoming packet ids of one session. Past it a filter gets return
    /// code 0x80, and a QoS 2 PUBLISH closes.
    pub max_bytes: usize,
    /// `session.max_total_bytes`: the same of all sessions; a new session is refused with CONNACK 0x03 too.
    pub max_total_bytes: usize,
}

/// What happens to a message for a session whose queue is full. Counted either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overflow {
    /// `drop_new`: the new message is not queued.
    DropNew,
    /// `drop_old`: the oldest waiting one makes room.
    DropOld,
}

/// The batches of StorageActor.
#[derive(Debug, Clone)]
pub struct StorageSettings {
    /// `storage.batch_max_ops`: operations in one batch.
    pub batch_max_ops: usize,
    /// `storage.batch_max_bytes`: bytes in one batch.
    pub batch_max_bytes: usize,
    /// `storage.batch_delay`: how long a batch waits for company once nothing is in flight; zero
    /// writes at once (a batch then fills while the one before it is being synced). With room for more
    /// than one in flight, what is gathered beside another batch waits a millisecond at most.
    pub batch_delay: Duration,
    /// `storage.max_in_flight`: batches handed to the store and not answered.
    pub max_in_flight: usize,
    /// `storage.max_pending_bytes`: bytes waiting in StorageActor; past it publishers pause.
    pub max_pending_bytes: usize,
    /// `storage.outbox_max_bytes`: the outbox on disk; full means no acknowledgement.
    pub outbox_max_bytes: u64,
    /// `storage.outbox_lanes`: hash lanes.
    pub outbox_lanes: u16,
    /// `storage.retry_min` and `storage.retry_max`: back-off after an unavailable store.
    pub retry_min: Duration,
    /// See `retry_min`.
    pub retry_max: Duration,
}

/// Which log there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogKind {
    /// The embedded append-only log: its sync is what both `stored` and `kafka` wait for.
    Embedded,
    /// Kafka: `stored` goes through the outbox.
    Kafka,
    /// None: messages reach MQTT subscribers only.
    None,
}

/// The log actor.
#[derive(Debug, Clone)]
pub struct LogSettings {
    /// `log.kind`.
    pub kind: LogKind,
    /// `log.max_pending_messages`: records waiting in memory or unacknowledged by the log.
    pub max_pending_messages: usize,
    /// `log.max_pending_bytes`: the same in bytes. Past either QoS 0 is dropped, `kafka`
    /// publishers pause, `stored` goes on in the outbox.
    pub max_pending_bytes: usize,
    /// `kafka.overflow_topic`: where records of topics beyond a cap go; `None`: their publishes are
    /// refused.
    pub overflow_topic: Option<Arc<str>>,
    /// `log.dead_letter_max_bytes`: records that the log refused for good and that are kept.
    pub dead_letter_max_bytes: u64,
    /// `log.retry_min` and `log.retry_max`: back-off after the log refused service.
    pub retry_min: Duration,
    /// See `retry_min`.
    pub retry_max: Duration,
}

/// Restarts and stalls.
#[derive(Debug, Clone)]
pub struct SupervisionSettings {
    /// `supervision.restart_min`: first back-off of a permanent actor, doubled up to
    /// `restart_max`, with jitter.
    pub restart_min: Duration,
    /// See `restart_min`.
    pub restart_max: Duration,
    /// `supervision.max_restarts` within `restart_window`; past it the parent fails, up to the
    /// node, which exits non-zero.
    pub max_restarts: u32,
    /// See `max_restarts`.
    pub restart_window: Duration,
    /// `supervision.stall_timeout`: an actor that has work and makes no progress for so long is
    /// killed and rebuilt.
    pub stall_timeout: Duration,
    /// `supervision.watchdog_warn`: a blocked worker thread is reported after this.
    pub watchdog_warn: Duration,
    /// `supervision.watchdog_exit`: and ends the node after this; zero never.
    pub watchdog_exit: Duration,
}

#[cfg(any(test, feature = "for-tests"))]
impl Settings {
    /// Small bounds, and no log.
    pub fn for_tests(workers: usize) -> Self {
        const SECOND: Duration = Duration::from_secs(1);
        Self {
            node_id: "n1".into(),
            workers,
            shutdown_deadline: SECOND,
            drain_rate: 10,
            access: Access::default(),
            limits: Limits {
                max_connections: 100,
                connect_rate: 100,
                connect_timeout: SECOND,
                max_packet_size: 10_000,
                max_topic_length: 100,
                max_topic_levels: 10,
                control_characters: false,
                max_filters_per_subscribe: 10,
                max_subscriptions: 10,
                max_client_id_length: 100,
                allow_empty_client_id: true,
                max_keep_alive: 0,
                min_packet_rate: 100,
                packet_timeout: SECOND,
                max_unacknowledged: 10,
                max_output_bytes: 1000,
                max_buffer_bytes: 1 << 20,
                write_timeout: SECOND,
                max_retained_messages: 2,
                max_retained_bytes: 1400,
                route_cache_entries: 10,
                route_cache_bytes: 1 << 20,
                max_router_bytes: 2000,
            },
            session: SessionSettings {
                max_inflight: 4,
                max_queued_messages: 4,
                max_queued_bytes: 1000,
                max_queued_in_memory: 2,
                max_queued_in_memory_bytes: 1000,
                overflow: Overflow::DropOld,
                queue_qos0: false,
                expiry: SECOND,
                max_sessions: 10,
                max_bytes: 100_000,
                max_total_bytes: 1_000_000,
            },
            storage: StorageSettings {
                batch_max_ops: 100,
                batch_max_bytes: 10_000,
                batch_delay: Duration::ZERO,
                max_in_flight: 1,
                max_pending_bytes: 10_000,
                outbox_max_bytes: 10_000,
                outbox_lanes: 1,
                retry_min: SECOND,
                retry_max: SECOND,
            },
            log: LogSettings {
                kind: LogKind::None,
                max_pending_messages: 100,
                max_pending_bytes: 10_000,
                overflow_topic: None,
                dead_letter_max_bytes: 10_000,
                retry_min: SECOND,
                retry_max: SECOND,
            },
            supervision: SupervisionSettings {
                restart_min: SECOND,
                restart_max: SECOND,
                max_restarts: 1,
                restart_window: SECOND,
                stall_timeout: SECOND,
                watchdog_warn: SECOND,
                watchdog_exit: SECOND,
            },
            mapping: Arc::new(Mapping::default()),
            sys_interval: Duration::ZERO,
            faults: false,
        }
    }
}
