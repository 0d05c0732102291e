//! `$SYS`: the node's own figures as retained messages, under mosquitto's names, so that what
//! watches a mosquitto watches a Hydrant. Never stored, never sent to the log.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hydrant_protocol::{Message, QoS};

use crate::metrics::{Count, Metrics, WorkerMetrics};
use crate::node_tables::NodeTables;

/// The three load averages mosquitto has, and their minutes.
const LOADS: [(&str, f64); 3] = [("1min", 1.0), ("5min", 5.0), ("15min", 15.0)];

/// One counter whose load is averaged.
struct Load {
    name: &'static str,
    read: fn(&Metrics) -> u64,
    last: u64,
    averages: [f64; 3],
}

/// Makes the messages; keeps what the averages need.
pub struct Sys {
    started: Instant,
    last: Instant,
    loads: Vec<Load>,
}

fn sum(metrics: &Metrics, pick: impl Fn(&WorkerMetrics) -> &Count) -> u64 {
    metrics.sum(pick)
}

fn by_qos(metrics: &Metrics, pick: impl Fn(&WorkerMetrics) -> &[Count; 3]) -> u64 {
    metrics.workers.iter().flat_map(|worker| pick(worker)).map(Count::get).sum()
}

fn dropped(metrics: &Metrics) -> u64 {
    metrics.workers.iter().flat_map(|worker| &worker.dropped).map(Count::get).sum()
}

impl Default for Sys {
    fn default() -> Self {
        let load = |name, read| Load { name, read, last: 0, averages: [0.0; 3] };
        let now = Instant::now();
        Self {
            started: now,
            last: now,
            loads: vec![
                load("messages/received", |m| sum(m, |s| &s.packets_in)),
                load("messages/sent", |m| sum(m, |s| &s.packets_out)),
                load("publish/received", |m| by_qos(m, |s| &s.publishes_in)),
                load("publish/sent", |m| by_qos(m, |s| &s.publishes_out)),
                load("publish/dropped", dropped),
                load("bytes/received", |m| sum(m, |s| &s.bytes_in)),
                load("bytes/sent", |m| sum(m, |s| &s.bytes_out)),
                load("connections", |m| sum(m, |s| &s.connects)),
                load("sockets", |m| sum(m, |s| &s.accepted)),
            ],
        }
    }
}

impl Sys {
    /// The messages of one interval.
    pub fn messages(&mut self, shared: &NodeTables) -> Vec<Arc<Message>> {
        let metrics = &shared.metrics;
        let mut out = Vec::new();
        let mut put = |name: &str, value: String| {
            out.push(Arc::new(Message {
                topic: Arc::from(format!("$SYS/broker/{name}")),
                payload: Bytes::from(value),
                qos: QoS::AtMostOnce,
                retain: true,
                properties: None,
            }));
        };
        let connected = sum(metrics, |s| &s.connections);
        let offline = sum(metrics, |s| &s.sessions_offline);
        let peak = shared.connections_peak.load(std::sync::atomic::Ordering::Relaxed);
        put("version", format!("hydrant version {}", env!("CARGO_PKG_VERSION")));
        put("uptime", format!("{} seconds", self.started.elapsed().as_secs()));
        for (name, value) in [
            ("clients/connected", connected),
            ("clients/active", connected),
            ("clients/disconnected", offline),
            ("clients/inactive", offline),
            ("clients/total", connected + offline),
            ("clients/maximum", peak as u64),
            ("clients/expired", sum(metrics, |s| &s.sessions_expired)),
            ("messages/received", sum(metrics, |s| &s.packets_in)),
            ("messages/sent", sum(metrics, |s| &s.packets_out)),
            ("messages/stored", metrics.retained.get()),
            ("store/messages/count", metrics.retained.get()),
            ("store/messages/bytes", metrics.retained_bytes.get()),
            ("retained messages/count", metrics.retained.get()),
            ("subscriptions/count", metrics.subscriptions.get()),
            ("publish/messages/received", by_qos(metrics, |s| &s.publishes_in)),
            ("publish/messages/sent", by_qos(metrics, |s| &s.publishes_out)),
            ("publish/messages/dropped", dropped(metrics)),
            ("publish/bytes/received", sum(metrics, |s| &s.payload_in)),
            ("publish/bytes/sent", sum(metrics, |s| &s.payload_out)),
            ("bytes/received", sum(metrics, |s| &s.bytes_in)),
            ("bytes/sent", sum(metrics, |s| &s.bytes_out)),
        ] {
            put(name, value.to_string());
        }
        let elapsed = self.last.elapsed().max(Duration::from_millis(1)).as_secs_f64() / 60.0;
        self.last = Instant::now();
        for load in &mut self.loads {
            let now = (load.read)(metrics);
            #[allow(clippy::cast_precision_loss)]
            let rate = now.saturating_sub(load.last) as f64 / elapsed;
            load.last = now;
            for (average, (label, minutes)) in load.averages.iter_mut().zip(LOADS) {
                // An exponentially weighted moving average over so many minutes, a minute's rate.
                let keep = (-elapsed / minutes).exp();
                *average = *average * keep + rate * (1.0 - keep);
                put(&format!("load/{}/{label}", load.name), format!("{average:.2}"));
            }
        }
        out
    }
}
