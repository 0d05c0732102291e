//! The settings of a test's nodes: nothing is at a bound or a deadline.

use std::sync::Arc;
use std::time::Duration;

use hydrant_protocol::mapping::Mapping;

use super::DEADLINE;
use crate::cluster::ClusterSettings;
use crate::settings::{LogKind, Settings};

pub fn settings_of(node_id: &str, workers: u16) -> Settings {
    let mut settings = crate::settings::Settings::for_tests(workers.into());
    settings.node_id = node_id.into();
    settings.limits.connect_timeout = DEADLINE;
    settings.limits.write_timeout = DEADLINE;
    settings.limits.max_packet_size = 1 << 20;
    settings.limits.max_retained_messages = 1000;
    settings.limits.max_retained_bytes = 1_000_000;
    settings.limits.max_output_bytes = 1 << 20;
    settings.limits.max_unacknowledged = 100;
    settings.limits.max_router_bytes = 1 << 20;
    settings.limits.connect_rate = 10_000;
    settings.session.max_queued_messages = 1_000_000;
    settings.session.max_queued_in_memory = 100;
    settings.session.max_queued_bytes = 1_000_000_000;
    settings.session.max_sessions = 1000;
    settings.session.max_queued_in_memory_bytes = 1 << 20;
    settings.session.max_total_bytes = 1 << 30;
    settings.limits.max_buffer_bytes = 1 << 30;
    settings.session.max_inflight = 100;
    settings.session.expiry = Duration::ZERO;
    settings.storage.max_pending_bytes = 1 << 20;
    settings.storage.retry_min = Duration::from_millis(10);
    settings.storage.max_in_flight = 4;
    settings.supervision.stall_timeout = DEADLINE;
    settings.supervision.watchdog_warn = DEADLINE;
    settings.supervision.watchdog_exit = Duration::ZERO;
    settings.log.kind = LogKind::None;
    settings.mapping = Arc::new(Mapping::default());
    settings
}

pub fn cluster_settings(peer: String, mqtt: Vec<String>) -> ClusterSettings {
    ClusterSettings {
        id: "test".into(),
        peer,
        mqtt,
        version: "0".to_owned(),
        max_link_bytes: 1 << 20,
        take_over: Duration::from_secs(4),
        repair: Duration::from_secs(5),
    }
}
