//! Reads the clocks, for the drivers of machines: once for a step. What a node makes of them is
//! `Clock`'s, which the engine has.
//!
//! This is the one place that reads `SystemTime`; clippy forbids it elsewhere. The clocks that nobody sets are read in
//! `monotonic.rs`.

use std::time::{SystemTime, UNIX_EPOCH};

pub use hydrant_engine::clock::Clock;

use crate::monotonic::boot_us;
pub use crate::monotonic::coarse_ms;
use crate::now::{Boot, Now, Wall};

/// Reads the clocks for a node's [`Clock`].
pub trait ReadClock {
    /// Reads both clocks, once for a step of a machine that the node's own time is told by.
    fn now(&self) -> Now;
    /// [`Clock::at`] by a look at the clock.
    fn now_ms(&self) -> u64;
}

impl ReadClock for Clock {
    fn now(&self) -> Now {
        let now = now();
        #[cfg(test)]
        let now = self.shifted(now);
        now
    }

    fn now_ms(&self) -> u64 {
        self.at(self.now())
    }
}

/// Reads both clocks, once for a step of a machine.
pub fn now() -> Now {
    Now { boot: Boot(boot_us()), wall: Wall(unix_ns()) }
}

/// Milliseconds since the Unix epoch, for stamps that others read.
pub fn unix_ms() -> u64 {
    since_epoch(|since| since.as_millis())
}

/// Nanoseconds since the Unix epoch.
pub fn unix_ns() -> u64 {
    since_epoch(|since| since.as_nanos())
}

#[allow(clippy::disallowed_methods)]
fn since_epoch(unit: fn(&std::time::Duration) -> u128) -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(unit(&since)).unwrap_or(u64::MAX)
}
