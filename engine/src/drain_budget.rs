//! How many connections a node that is drained may close. Pure.

use crate::now::Boot;

/// A second.
const MICROS: u64 = 1_000_000;

/// How many connections may be closed.
#[derive(Debug)]
pub struct Budget {
    /// What came up to here is spent.
    spent: Boot,
}

impl Budget {
    /// Nothing to spend yet.
    pub fn new(now: Boot) -> Self {
        Self { spent: now }
    }

    /// Takes at most `wanted` of what `rate` a second gives.
    pub fn take(&mut self, now: Boot, rate: u32, wanted: usize) -> usize {
        let rate = u128::from(rate.max(1));
        let a_second_ago = Boot(now.0.saturating_sub(MICROS));
        self.spent = self.spent.max(a_second_ago);
        let saved = u128::from(now.0.saturating_sub(self.spent.0));
        let there = saved * rate / u128::from(MICROS);
        let taken = wanted.min(usize::try_from(there).unwrap_or(usize::MAX));
        let cost = (taken as u128 * u128::from(MICROS)).div_ceil(rate);
        self.spent.0 = self.spent.0.saturating_add(u64::try_from(cost).unwrap_or(u64::MAX));
        taken
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_budget_is_the_rate_and_nothing_is_saved_past_a_second() {
        let start = Boot::default() + 10 * SECOND;
        let mut budget = Budget::new(start);
        assert_eq!(budget.take(start, 1000, 10), 0);
        assert_eq!(budget.take(start + 250 * MS, 1000, 100), 100);
        assert_eq!(budget.take(start + 250 * MS, 1000, 1000), 150);
        assert_eq!(budget.take(start + 250 * MS, 1000, 1000), 0);
        assert_eq!(budget.take(start + 60 * SECOND, 1000, 5000), 1000);
    }

    #[test]
    fn a_rate_below_the_ticks_is_kept_too() {
        let start = Boot::default() + 10 * SECOND;
        let mut budget = Budget::new(start);
        let ticks = 1..=40_u32;
        let taken: usize = ticks.map(|n| budget.take(start + n * 250 * MS, 3, 100)).sum();
        assert!((29..=30).contains(&taken), "{taken} in 10 s at 3 a second");
    }
}
