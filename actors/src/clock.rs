//! The clocks. While a node runs, what has passed is measured by the boot-time clock, which nobody sets and which
//! counts the machine's sleep. The wall clock says when the node began, what passed before that, and the stamps
//! that others read. A jump of it is noticed and is one line of the log. Nothing expires by it, and the stamps of
//! offline sessions are written again, by the clock as it is set now.
//!
//! This is the one place that reads `SystemTime`; clippy forbids it elsewhere. The clocks that nobody sets are read in
//! `monotonic.rs`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

pub use crate::monotonic::coarse_ms;
use crate::monotonic::{boot_ms, boot_us};
use crate::now::{Boot, Now, Wall};
use crate::say::{self, Reason};

/// The wall clock has been set, rather than adjusted, when it moves against the other by this much between two looks.
const JUMP_MS: u64 = 2000;

/// See the module.
#[derive(Debug)]
pub struct Clock {
    began: Reading,
    /// How far the wall clock is ahead of [`Clock::at`], at the last look.
    ahead_ms: Mutex<i64>,
    /// How often the wall clock was seen to be set.
    jumps: AtomicU64,
    line: Reason,
    #[cfg(test)]
    shift: Mutex<Reading>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Reading {
    wall_ms: u64,
    boot_ms: u64,
}

impl Default for Clock {
    fn default() -> Self {
        let began = Reading { wall_ms: unix_ms(), boot_ms: boot_ms() };
        Self {
            began,
            ahead_ms: Mutex::default(),
            jumps: AtomicU64::new(0),
            line: Reason::new(),
            #[cfg(test)]
            shift: Mutex::default(),
        }
    }
}

impl Clock {
    /// Reads both clocks, once for a step of a machine that the node's own time is told by.
    pub fn now(&self) -> Now {
        let now = now();
        #[cfg(test)]
        let now = {
            let shift = self.shift.lock();
            let (wall, boot) = (shift.wall_ms * 1_000_000, shift.boot_ms * 1_000);
            Now { boot: Boot(now.boot.0 + boot), wall: Wall(now.wall.0 + wall) }
        };
        now
    }

    /// Milliseconds, by which differences are measured: the wall clock at the start, and what has passed since.
    pub fn at(&self, now: Now) -> u64 {
        self.began.wall_ms + now.boot.ms().saturating_sub(self.began.boot_ms)
    }

    /// [`Self::at`] by a look at the clock.
    pub fn now_ms(&self) -> u64 {
        self.at(self.now())
    }

    /// When something was, by [`Self::at`], that has this stamp of the wall clock. No stamp is in the future.
    pub fn of_wall(&self, now: Now, stamp_ms: u64) -> u64 {
        self.at(now).saturating_sub(now.wall.ms().saturating_sub(stamp_ms))
    }

    /// The stamp of the wall clock, as it is set now, of a moment that is told by [`Self::at`].
    pub fn to_wall(&self, now: Now, at_ms: u64) -> u64 {
        now.wall.ms().saturating_sub(self.at(now).saturating_sub(at_ms))
    }

    /// How often the wall clock was seen to be set. What was stamped before has a stamp of the clock as it was.
    pub fn jumps(&self) -> u64 {
        self.jumps.load(Ordering::Acquire)
    }

    /// Looks for a jump of the wall clock; says so.
    pub fn look(&self) {
        let now = self.now();
        let ahead = now.wall.ms().cast_signed() - self.at(now).cast_signed();
        let before = std::mem::replace(&mut *self.ahead_ms.lock(), ahead);
        if ahead.abs_diff(before) >= JUMP_MS {
            self.jumps.fetch_add(1, Ordering::Release);
            say::warn!(
                by: self.line,
                target: "hydrant::actors",
                "the wall clock was set {} s {}; nothing expires or fires by that",
                ahead.abs_diff(before) / 1000,
                if ahead > before { "forward" } else { "back" }
            );
        }
    }

    /// Moves the clocks ahead.
    #[cfg(test)]
    pub fn shift(&self, wall_ms: u64, boot_ms: u64) {
        let mut shift = self.shift.lock();
        shift.wall_ms += wall_ms;
        shift.boot_ms += boot_ms;
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
