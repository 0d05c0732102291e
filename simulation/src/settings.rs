//! The settings of a node: small bounds of what makes batches and windows, so that a short history meets them; large
//! ones of what drops.

use std::sync::Arc;
use std::time::Duration;

use hydrant_engine::cluster::ClusterSettings;
use hydrant_engine::settings::{
    Access, Limits, LogKind, LogSettings, Overflow, SessionSettings, Settings, StorageSettings,
    SupervisionSettings,
};
use hydrant_protocol::mapping::Mapping;

use crate::random::Random;

const LONG: Duration = Duration::from_secs(3600);
const SECOND: Duration = Duration::from_secs(1);
const LARGE: usize = 1 << 24;

/// The lease of an incarnation.
pub const LEASE: Duration = Duration::from_millis(1500);
/// ZooKeeper's session time-out.
pub const SESSION: Duration = Duration::from_secs(2);

/// Of one node.
pub fn of_node(id: &str, workers: usize, log: bool, random: &mut Random) -> Settings {
    Settings {
        node_id: id.into(),
        workers,
        shutdown_deadline: SECOND,
        drain_rate: 1000,
        access: Access::default(),
        limits: Limits {
            max_connections: 1000,
            connect_rate: 1_000_000,
            connect_timeout: LONG,
            max_packet_size: 1 << 16,
            max_topic_length: 100,
            max_topic_levels: 10,
            control_characters: false,
            max_filters_per_subscribe: 10,
            max_subscriptions: 100,
            max_client_id_length: 100,
            allow_empty_client_id: true,
            max_keep_alive: 0,
            min_packet_rate: 100,
            packet_timeout: LONG,
            max_unacknowledged: 4 + random.below(20),
            max_output_bytes: 512 + random.below(1 << 14),
            max_buffer_bytes: LARGE,
            write_timeout: LONG,
            max_retained_messages: 1000,
            max_retained_bytes: LARGE,
            route_cache_entries: 1 + random.below(10),
            route_cache_bytes: LARGE,
            max_router_bytes: 1024 + random.below(1 << 14),
        },
        session: SessionSettings {
            max_inflight: 1 + random.below(10) as u16,
            max_queued_messages: 1_000_000,
            max_queued_bytes: LARGE,
            max_queued_in_memory: 1000,
            max_queued_in_memory_bytes: LARGE,
            overflow: Overflow::DropOld,
            queue_qos0: false,
            expiry: Duration::ZERO,
            max_sessions: 10_000,
            max_bytes: LARGE,
            max_total_bytes: LARGE,
        },
        storage: StorageSettings {
            batch_max_ops: 1 + random.below(30),
            batch_max_bytes: 10_000,
            batch_delay: Duration::ZERO,
            max_in_flight: 1 + random.below(4),
            max_pending_bytes: 1 << 16,
            outbox_max_bytes: 1 << 20,
            outbox_lanes: 1 + random.below(2) as u16,
            retry_min: Duration::from_millis(20),
            retry_max: Duration::from_millis(200),
        },
        log: LogSettings {
            kind: if log { LogKind::Kafka } else { LogKind::None },
            max_pending_messages: 100,
            max_pending_bytes: 1 << 16,
            overflow_topic: None,
            dead_letter_max_bytes: 10_000,
            retry_min: Duration::from_millis(20),
            retry_max: Duration::from_millis(200),
        },
        supervision: SupervisionSettings {
            restart_min: SECOND,
            restart_max: SECOND,
            max_restarts: 1,
            restart_window: SECOND,
            stall_timeout: LONG,
            watchdog_warn: LONG,
            watchdog_exit: Duration::ZERO,
        },
        mapping: Arc::new(Mapping::default()),
        sys_interval: Duration::ZERO,
        faults: false,
    }
}

/// Of its part in the cluster. A node is reached under its id.
pub fn of_cluster(id: &str) -> ClusterSettings {
    ClusterSettings {
        id: "simulated".into(),
        peer: id.to_owned(),
        mqtt: Vec::new(),
        version: "0".to_owned(),
        max_link_bytes: LARGE,
        take_over: ClusterSettings::take_over_in(LEASE),
        repair: ClusterSettings::repaired_in(SESSION, LEASE),
    }
}
