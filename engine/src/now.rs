//! The time of one step, as a machine is told it. A machine reads no clock: its driver reads both clocks once, and
//! passes what they show (decision 0017, "Time").

use std::ops::Add;
use std::time::Duration;

/// Microseconds since the machine was started, its sleep included. Nobody sets this clock: it measures what has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Boot(pub u64);

/// Nanoseconds since the Unix epoch, for stamps that others read. It may be set, so nothing is measured by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Wall(pub u64);

/// What both clocks show at the beginning of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Now {
    /// Measures.
    pub boot: Boot,
    /// Is written down.
    pub wall: Wall,
}

impl Boot {
    /// What has passed since an earlier moment; nothing where that moment is later.
    #[inline]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    /// Whole milliseconds, in which links count.
    #[inline]
    pub fn ms(self) -> u64 {
        self.0 / 1_000
    }

    /// The beginning of such a millisecond.
    #[inline]
    pub fn from_ms(ms: u64) -> Self {
        Self(ms.saturating_mul(1_000))
    }
}

impl Add<Duration> for Boot {
    type Output = Self;

    fn add(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(wait.as_micros()).unwrap_or(u64::MAX)))
    }
}

impl Wall {
    /// Milliseconds since the Unix epoch.
    pub fn ms(self) -> u64 {
        self.0 / 1_000_000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_never_negative_and_sums_end_at_the_last_moment() {
        let (early, late) = (Boot(1_000), Boot(3_500));
        assert_eq!(
            (late.since(early), early.since(late)),
            (Duration::from_micros(2_500), Duration::ZERO)
        );
        assert_eq!(early + Duration::from_micros(2_500), late);
        assert_eq!(late + Duration::MAX, Boot(u64::MAX));
        assert_eq!(Wall(1_234_567_890).ms(), 1_234);
        assert_eq!(
            (late.ms(), Boot::from_ms(3), Boot::from_ms(u64::MAX)),
            (3, Boot(3_000), Boot(u64::MAX))
        );
    }
}
