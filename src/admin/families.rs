//! Writes families of metrics in OpenMetrics text: [`Out`] over prometheus-client's encoder, and
//! what the kernel says of this process. Keeps nothing.

use std::fmt;

use hydrant_actors::metrics::{BUCKETS_US, Latency};
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::Unit;

/// Writes families; the encoder adds `_total`, `_bytes` and `_seconds` to the names.
pub(super) struct Out<'a>(pub(super) DescriptorEncoder<'a>);

const NO_EXEMPLAR: Option<&Exemplar<NoLabelSet, f64>> = None;

impl Out<'_> {
    pub(super) fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.0
            .encode_descriptor(name, help, None, MetricType::Counter)?
            .encode_counter(&value, NO_EXEMPLAR)
    }

    pub(super) fn bytes(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.0
            .encode_descriptor(name, help, Some(&Unit::Bytes), MetricType::Counter)?
            .encode_counter(&value, NO_EXEMPLAR)
    }

    pub(super) fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
    }

    pub(super) fn gauge_bytes(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.0
            .encode_descriptor(name, help, Some(&Unit::Bytes), MetricType::Gauge)?
            .encode_gauge(&value)
    }

    pub(super) fn counters<'l>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl Iterator<Item = (&'l str, u64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (value, count) in values {
            family.encode_family(&[(label, value)])?.encode_counter(&count, NO_EXEMPLAR)?;
        }
        Ok(())
    }

    pub(super) fn gauges<'l>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl Iterator<Item = (&'l str, u64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (value, count) in values {
            family.encode_family(&[(label, value)])?.encode_gauge(&count)?;
        }
        Ok(())
    }

    /// Microseconds, written as seconds.
    pub(super) fn gauges_seconds<'l>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl Iterator<Item = (&'l str, u64)>,
    ) -> fmt::Result {
        let mut family =
            self.0.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Gauge)?;
        for (value, us) in values {
            family.encode_family(&[(label, value)])?.encode_gauge(&seconds(us))?;
        }
        Ok(())
    }

    /// One histogram of the sum of several.
    pub(super) fn latency(&mut self, name: &str, help: &str, parts: &[&Latency]) -> fmt::Result {
        let bounds = BUCKETS_US.iter().map(|us| seconds(*us)).chain([f64::INFINITY]);
        let mut buckets: Vec<(f64, u64)> = bounds.map(|bound| (bound, 0)).collect();
        let mut sum_us = 0_u64;
        for part in parts {
            let (counts, sum) = part.read();
            sum_us = sum_us.saturating_add(sum);
            for (bucket, count) in buckets.iter_mut().zip(counts) {
                bucket.1 += count;
            }
        }
        let count = buckets.iter().map(|bucket| bucket.1).sum();
        self.0
            .encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?
            .encode_histogram::<NoLabelSet>(seconds(sum_us), count, &buckets, None)
    }

    pub(super) fn build_info(&mut self) -> fmt::Result {
        self.0
            .encode_descriptor("hydrant_build", "The program.", None, MetricType::Info)?
            .encode_info(&[("version", env!("CARGO_PKG_VERSION")), ("os", std::env::consts::OS)])
    }

    /// What the kernel says of this process, under the names Prometheus clients agree on.
    #[cfg(target_os = "linux")]
    pub(super) fn process(&mut self) -> fmt::Result {
        use procfs::process::Process;
        // A /proc that cannot be read leaves these out; everything else is still served.
        let Ok(process) = Process::myself() else {
            return Ok(());
        };
        if let Ok(stat) = process.stat() {
            let cpu = (stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64;
            self.0
                .encode_descriptor(
                    "process_cpu",
                    "User and system CPU time spent.",
                    Some(&Unit::Seconds),
                    MetricType::Counter,
                )?
                .encode_counter(&cpu, NO_EXEMPLAR)?;
            self.gauge_bytes(
                "process_resident_memory",
                "Resident memory.",
                stat.rss * procfs::page_size(),
            )?;
            self.gauge_bytes("process_virtual_memory", "Virtual memory.", stat.vsize)?;
            let threads = u64::try_from(stat.num_threads).unwrap_or(0);
            self.gauge("process_threads", "Threads of the operating system.", threads)?;
        }
        if let Ok(open) = process.fd_count() {
            self.gauge("process_open_fds", "Open file descriptors.", open as u64)?;
        }
        Ok(())
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn process(&mut self) -> fmt::Result {
        Ok(())
    }
}

/// Microseconds as seconds. A division, so that 500 us is 0.0005 and not 0.0004999….
fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}
