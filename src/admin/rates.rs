//! Messages a second, for `broker status`: the counters of the last [`SECONDS`] seconds, looked at once a second.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hydrant_actors::metrics::{Metrics, WorkerMetrics};
use parking_lot::Mutex;

/// The rate is over so many seconds.
const SECONDS: usize = 5;

#[derive(Debug, Clone, Copy)]
struct Sample {
    at: Instant,
    /// PUBLISH read, and sent.
    count: (u64, u64),
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Rates(Mutex<VecDeque<Sample>>);

impl Rates {
    /// Looks at the counters for ever.
    pub async fn keep(&self, metrics: Arc<Metrics>) {
        loop {
            let sum =
                |pick: fn(&WorkerMetrics) -> u64| metrics.workers.iter().map(|s| pick(s)).sum();
            let count = (
                sum(|worker| worker.publishes_in.iter().map(|count| count.get()).sum()),
                sum(|worker| worker.publishes_out.iter().map(|count| count.get()).sum()),
            );
            self.add(Instant::now(), count);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    fn add(&self, at: Instant, count: (u64, u64)) {
        let mut samples = self.0.lock();
        if samples.len() > SECONDS {
            samples.pop_front();
        }
        samples.push_back(Sample { at, count });
    }

    /// PUBLISH a second, read and sent; `None` before the second look.
    pub fn a_second(&self) -> Option<(u64, u64)> {
        let samples = self.0.lock();
        let (first, last) = (samples.front()?, samples.back()?);
        let ms = u64::try_from(last.at.duration_since(first.at).as_millis()).unwrap_or(u64::MAX);
        let rate =
            |last: u64, first: u64| last.saturating_sub(first).saturating_mul(1000).checked_div(ms);
        Some((rate(last.count.0, first.count.0)?, rate(last.count.1, first.count.1)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_last_seconds() {
        let (rates, start) = (Rates::default(), Instant::now());
        assert_eq!(rates.a_second(), None);
        rates.add(start, (1000, 0));
        assert_eq!(rates.a_second(), None);
        rates.add(start + Duration::from_secs(2), (1500, 20));
        assert_eq!(rates.a_second(), Some((250, 10)));
        for second in 3..20 {
            rates.add(start + Duration::from_secs(second), (1500, 20 + 7 * second));
        }
        assert_eq!(rates.a_second(), Some((0, 7)));
        assert_eq!(rates.0.lock().len(), SECONDS + 1);
    }
}
