//! `broker drain`: a node that takes no new clients and closes those it has at a bounded rate, so
//! that the others take them over without a rush. It can be taken back.
//!
//! A CONNECT is answered with 0x03; what a connection has sent is finished and acknowledged before
//! it is closed, as in a shutdown. The managers close at their ticks, from one budget.
//!
//! Bounds: `node.drain_rate` connections a second (or the rate that was asked for), at most a second's worth of them at once; each
//! waits for its acknowledgements `node.shutdown_deadline` at most.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::messages::ManagerWork;
use crate::shared::NodeTables;

/// The part that is not ready meanwhile.
const PART: &str = "drain";
const SECOND: Duration = Duration::from_secs(1);

/// How many connections may be closed.
#[derive(Debug)]
pub struct Budget {
    /// What came up to here is spent.
    spent: Instant,
}

impl Budget {
    /// Nothing to spend yet.
    pub fn new(now: Instant) -> Self {
        Self { spent: now }
    }

    /// Takes at most `wanted` of what `rate` a second gives.
    pub fn take(&mut self, now: Instant, rate: u32, wanted: usize) -> usize {
        let rate = u128::from(rate.max(1));
        if let Some(a_second_ago) = now.checked_sub(SECOND) {
            self.spent = self.spent.max(a_second_ago);
        }
        let saved = now.saturating_duration_since(self.spent).as_nanos();
        let there = saved * rate / SECOND.as_nanos();
        let taken = wanted.min(usize::try_from(there).unwrap_or(usize::MAX));
        let cost = (taken as u128 * SECOND.as_nanos()).div_ceil(rate);
        self.spent += Duration::from_nanos(u64::try_from(cost).unwrap_or(u64::MAX));
        taken
    }
}

impl NodeTables {
    /// Begins to drain, at `rate` connections a second or `node.drain_rate`. When it does already, a
    /// rate that is given takes the place of the one before.
    pub fn start_drain(&self, rate: Option<u32>) {
        let again = self.draining.load(Ordering::SeqCst);
        if again && rate.is_none() {
            return;
        }
        let rate = rate.unwrap_or(self.settings.drain_rate).max(1);
        self.drain_rate.store(rate, Ordering::Relaxed);
        self.drain_budget.lock().spent = Instant::now();
        if again {
            log::info!("broker drain: connections close at {rate} a second from now on");
            return;
        }
        self.set_ready(PART, Some("the node is drained (broker drain)".to_owned()));
        self.draining.store(true, Ordering::SeqCst);
        log::info!("broker drain: no new clients, connections close at {rate} a second");
    }

    /// Takes clients again; those that were closed stay away until they come back.
    pub fn cancel_drain(&self) {
        if self.draining.swap(false, Ordering::SeqCst) {
            self.set_ready(PART, None);
            log::info!("broker drain --cancel: the node takes clients again");
        }
    }

    /// Connections past their CONNECT. Of a node that drains it only falls.
    pub async fn connected(&self) -> u64 {
        let mut answers = Vec::with_capacity(self.managers.len());
        for manager in &self.managers {
            let (reply, answer) = oneshot::channel();
            manager.push(ManagerWork::Connected { reply }, 64);
            answers.push(answer);
        }
        let mut connected = 0;
        for answer in answers {
            connected += answer.await.unwrap_or_default() as u64;
        }
        connected
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_budget_is_the_rate_and_nothing_is_saved_past_a_second() {
        let start = Instant::now() + 10 * SECOND;
        let mut budget = Budget::new(start);
        assert_eq!(budget.take(start, 1000, 10), 0);
        assert_eq!(budget.take(start + 250 * MS, 1000, 100), 100);
        assert_eq!(budget.take(start + 250 * MS, 1000, 1000), 150);
        assert_eq!(budget.take(start + 250 * MS, 1000, 1000), 0);
        assert_eq!(budget.take(start + 60 * SECOND, 1000, 5000), 1000);
    }

    #[test]
    fn a_rate_below_the_ticks_is_kept_too() {
        let start = Instant::now() + 10 * SECOND;
        let mut budget = Budget::new(start);
        let ticks = 1..=40_u32;
        let taken: usize = ticks.map(|n| budget.take(start + n * 250 * MS, 3, 100)).sum();
        assert!((29..=30).contains(&taken), "{taken} in 10 s at 3 a second");
    }
}
