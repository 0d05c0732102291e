//! What a run says at its end.

use hdrhistogram::Histogram;
use serde::Serialize;

/// Report of every scenario that publishes.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Name of the scenario.
    pub scenario: &'static str,
    /// QoS of publishes and subscriptions.
    pub qos: u8,
    /// Payload, bytes.
    pub payload: u32,
    /// Messages published.
    pub published: u64,
    /// Messages acknowledged to publishers (PUBACK, PUBCOMP); 0 at QoS 0.
    pub acknowledged: u64,
    /// What is counted: deliveries to subscribers or, without a subscriber, acknowledgements.
    pub messages: u64,
    /// First publish to last message or acknowledgement.
    pub seconds: f64,
    /// `messages / seconds`.
    pub msgs_per_second: f64,
    /// Broker's user and system time, until it had nothing left to do.
    pub broker_cpu_seconds: f64,
    /// `messages / broker_cpu_seconds`; 0 without `--pid`.
    pub msgs_per_cpu_second: f64,
    /// Voluntary context switches of the broker's threads, from the first publish to the last message.
    pub broker_switches: u64,
    /// The generator's own time: it must be well below `seconds`, or it is what was measured.
    pub loadgen_cpu_seconds: f64,
    /// Deliveries that never came.
    pub loss: u64,
    /// Deliveries that came after a later one of the same publisher.
    pub out_of_order: u64,
    /// Deliveries of a message that had come before.
    pub duplicates: u64,
    /// Delivery latency.
    #[serde(flatten)]
    pub latency: Percentiles,
    /// Acknowledgement latency (PUBACK, PUBCOMP).
    #[serde(rename = "ack")]
    pub ack_latency: Percentiles,
    /// Broker's memory at the end, KiB.
    pub rss_kb: u64,
    /// Broken promises; empty is good.
    pub problems: Vec<String>,
}

/// Microseconds; all 0 where nothing was recorded.
#[derive(Debug, Default, Clone, Copy, PartialEq, Serialize)]
pub struct Percentiles {
    /// Median.
    pub p50_us: f64,
    /// 99 %.
    pub p99_us: f64,
    /// 99.9 %.
    pub p999_us: f64,
    /// The worst.
    pub max_us: f64,
}

/// Latencies in nanoseconds, 1 us to 10 minutes, two digits.
#[derive(Debug)]
pub struct Latencies(Option<Histogram<u64>>);

impl Latencies {
    /// An empty one.
    pub fn new() -> Latencies {
        Latencies(Histogram::new_with_bounds(1_000, 600_000_000_000, 3).ok())
    }

    /// One latency; beyond the bounds counts as the bound.
    pub fn record(&mut self, ns: u64) {
        if let Some(histogram) = &mut self.0 {
            histogram.saturating_record(ns);
        }
    }

    /// The summary.
    pub fn percentiles(&self) -> Percentiles {
        let Some(histogram) = self.0.as_ref().filter(|h| !h.is_empty()) else {
            return Percentiles::default();
        };
        let at = |quantile| (histogram.value_at_quantile(quantile) / 100) as f64 / 10.0;
        Percentiles {
            p50_us: at(0.5),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: (histogram.max() / 100) as f64 / 10.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_values() {
        let mut latencies = Latencies::new();
        assert_eq!(latencies.percentiles(), Percentiles::default());
        for us in 1..=1_000u64 {
            latencies.record(us * 1_000);
        }
        let p = latencies.percentiles();
        let near = |got: f64, want: f64| (got - want).abs() <= want * 0.002;
        assert!(near(p.p50_us, 500.0) && near(p.p99_us, 990.0) && near(p.p999_us, 999.0), "{p:?}");
        assert!(near(p.max_us, 1000.0), "{p:?}");
    }
}
