//! What has passed while a node runs, as its driver reads the clocks and tells it ([`Now`]). It is measured by the
//! boot-time clock, which nobody sets and which counts the machine's sleep. The wall clock says when the node began, what
//! passed before that, and the stamps that others read. A jump of it is noticed and is one line of the log. Nothing
//! expires by it, and the stamps of offline sessions are written again, by the clock as it is set now.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::now::Now;
use crate::say::{self, Reason};

/// The wall clock has been set, rather than adjusted, when it moves against the other by this much between two looks.
const JUMP_MS: u64 = 2000;

/// See the module.
#[derive(Debug)]
pub struct Clock {
    began: Now,
    /// How far the wall clock is ahead of [`Clock::at`], at the last look.
    ahead_ms: Mutex<i64>,
    /// How often the wall clock was seen to be set.
    jumps: AtomicU64,
    line: Reason,
    #[cfg(any(test, feature = "for-tests"))]
    shift: Mutex<Now>,
}

impl Clock {
    /// That of a node that begins now.
    pub fn new(now: Now) -> Self {
        Self {
            began: now,
            ahead_ms: Mutex::default(),
            jumps: AtomicU64::new(0),
            line: Reason::new(),
            #[cfg(any(test, feature = "for-tests"))]
            shift: Mutex::default(),
        }
    }

    /// Milliseconds, by which differences are measured: the wall clock at the start, and what has passed since.
    #[inline]
    pub fn at(&self, now: Now) -> u64 {
        self.began.wall.ms() + now.boot.ms().saturating_sub(self.began.boot.ms())
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
    #[inline]
    pub fn jumps(&self) -> u64 {
        self.jumps.load(Ordering::Acquire)
    }

    /// Looks for a jump of the wall clock; says so.
    pub fn look(&self, now: Now) {
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

    /// Moves both clocks ahead of what they show, for whoever asks [`Self::shifted`].
    #[cfg(any(test, feature = "for-tests"))]
    pub fn shift(&self, wall_ms: u64, boot_ms: u64) {
        let mut shift = self.shift.lock();
        shift.wall.0 += wall_ms * 1_000_000;
        shift.boot.0 += boot_ms * 1_000;
    }

    /// What the clocks show after [`Self::shift`].
    #[cfg(any(test, feature = "for-tests"))]
    pub fn shifted(&self, mut now: Now) -> Now {
        let shift = self.shift.lock();
        now.wall.0 += shift.wall.0;
        now.boot.0 += shift.boot.0;
        now
    }
}
