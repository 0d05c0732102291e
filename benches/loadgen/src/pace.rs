//! When the messages of an open-loop run are due, and a timer finer than epoll's milliseconds.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

/// Message `k` is due `k / rate` seconds after the start, whatever happened to those before it.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    start_ns: u64,
    rate: u64,
}

impl Schedule {
    /// `rate` messages a second, from `start_ns` on the run's clock.
    pub fn new(start_ns: u64, rate: u64) -> Schedule {
        Schedule { start_ns, rate: rate.max(1) }
    }

    /// When message `k` is due, nanoseconds on the run's clock.
    pub fn due(self, k: u64) -> u64 {
        let offset = u128::from(k) * 1_000_000_000 / u128::from(self.rate);
        self.start_ns + u64::try_from(offset).unwrap_or(u64::MAX / 2)
    }
}

/// A timerfd in the run's epoll.
#[derive(Debug)]
pub struct Timer {
    fd: OwnedFd,
}

impl Timer {
    /// Makes it and registers it under `token`.
    pub fn new(registry: &Registry, token: Token) -> io::Result<Timer> {
        let fd = timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC,
        )?;
        registry.register(&mut SourceFd(&fd.as_raw_fd()), token, Interest::READABLE)?;
        Ok(Timer { fd })
    }

    /// Fires once in `ns` nanoseconds; setting it anew forgets the time before. epoll is
    /// edge-triggered here, so an expiry need not be read.
    pub fn fire_in(&self, ns: u64) -> io::Result<()> {
        let ns = ns.max(1);
        let value =
            Timespec { tv_sec: (ns / 1_000_000_000) as i64, tv_nsec: (ns % 1_000_000_000) as _ };
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let spec = Itimerspec { it_interval: zero, it_value: value };
        timerfd_settime(&self.fd, TimerfdTimerFlags::empty(), &spec)?;
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn the_schedule_does_not_drift() {
        let schedule = Schedule::new(5, 3);
        assert_eq!(schedule.due(0), 5);
        assert_eq!(schedule.due(3), 1_000_000_005);
        assert_eq!(schedule.due(3_000_000), 1_000_000_000_000_005);
    }

    #[test]
    fn the_timer_fires_again_and_again() {
        let mut poll = mio::Poll::new().unwrap();
        let timer = Timer::new(poll.registry(), Token(0)).unwrap();
        let mut events = mio::Events::with_capacity(4);
        for _ in 0..3 {
            let start = Instant::now();
            timer.fire_in(2_000_000).unwrap();
            poll.poll(&mut events, Some(Duration::from_secs(20))).unwrap();
            assert_eq!(events.iter().count(), 1);
            assert!(start.elapsed() >= Duration::from_millis(2));
        }
    }
}
