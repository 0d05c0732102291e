//! The machine's clocks that nobody sets, since some moment in the past: for differences only.
//!
//! Owns nothing. The log's pauses go by [`coarse_ms`]; [`crate::clock`] reads the boot-time clock for the
//! machines' steps.

/// Milliseconds of a clock that costs little to read and is a few milliseconds late: for the pauses between lines of
/// the log.
pub fn coarse_ms() -> u64 {
    #[cfg(target_os = "linux")]
    let clock = rustix::time::ClockId::MonotonicCoarse;
    #[cfg(not(target_os = "linux"))]
    let clock = rustix::time::ClockId::Monotonic;
    micros(clock) / 1000
}

/// Microseconds since the machine was started, its sleep included.
pub(crate) fn boot_us() -> u64 {
    #[cfg(target_os = "linux")]
    let clock = rustix::time::ClockId::Boottime;
    // Nearest to it elsewhere: for development only.
    #[cfg(not(target_os = "linux"))]
    let clock = rustix::time::ClockId::Monotonic;
    micros(clock)
}

fn micros(clock: rustix::time::ClockId) -> u64 {
    let now = rustix::time::clock_gettime(clock);
    now.tv_sec.cast_unsigned() * 1_000_000 + now.tv_nsec.cast_unsigned() / 1000
}
