//! When a permanent actor is rebuilt, and when it is given up; and how long one was silent.
//! Pure: time and chance are arguments.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::settings::SupervisionSettings;

/// The restarts of one actor within the window.
#[derive(Debug, Default)]
pub(super) struct History {
    times: VecDeque<Instant>,
}

impl History {
    /// Counts a restart at `now`: its number within the window (from 1) and the delay before it,
    /// or `None` when the limit is reached. `chance` is in 0.0 ..= 1.0.
    pub(super) fn next(
        &mut self,
        settings: &SupervisionSettings,
        now: Instant,
        chance: f64,
    ) -> Option<(u32, Duration)> {
        while self
            .times
            .front()
            .is_some_and(|t| now.saturating_duration_since(*t) > settings.restart_window)
        {
            self.times.pop_front();
        }
        let before = u32::try_from(self.times.len()).unwrap_or(u32::MAX);
        if before >= settings.max_restarts {
            return None;
        }
        self.times.push_back(now);
        Some((before + 1, delay(settings, before + 1, chance)))
    }
}

/// The delay before restart number `number` (from 1): doubled each time up to `restart_max`, of
/// which at least half is kept and the rest left to chance, so that many actors which died of one
/// cause do not come back in step.
fn delay(settings: &SupervisionSettings, number: u32, chance: f64) -> Duration {
    let factor = 2u32.saturating_pow(number.saturating_sub(1).min(31));
    let full = settings.restart_min.saturating_mul(factor).min(settings.restart_max);
    full.mul_f64(0.5 + 0.5 * chance.clamp(0.0, 1.0))
}

/// Adds up how long an actor left a ping unanswered. A step counts for two intervals at most, so
/// that a process which was stopped and continued finds nobody stalled.
#[derive(Debug)]
pub(super) struct Silence {
    waited: Duration,
    last: Instant,
}

impl Silence {
    pub(super) fn new(now: Instant) -> Self {
        Self { waited: Duration::ZERO, last: now }
    }

    /// One look at the actor. `answered`: nothing is outstanding. `thread_alive`: its arbiter
    /// turned since the last look (a blocked thread is the watchdog's). Returns how long it has
    /// been silent.
    pub(super) fn look(
        &mut self,
        now: Instant,
        interval: Duration,
        answered: bool,
        thread_alive: bool,
    ) -> Duration {
        let step = now.saturating_duration_since(self.last).min(interval * 2);
        self.last = now;
        if answered {
            self.waited = Duration::ZERO;
        } else if thread_alive {
            self.waited += step;
        }
        self.waited
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    pub(crate) fn settings() -> SupervisionSettings {
        SupervisionSettings {
            restart_min: Duration::from_millis(10),
            restart_max: Duration::from_millis(100),
            max_restarts: 5,
            restart_window: Duration::from_secs(60),
            stall_timeout: Duration::from_secs(1),
            watchdog_warn: Duration::from_secs(1),
            watchdog_exit: Duration::ZERO,
        }
    }

    #[test]
    fn the_delay_doubles_within_its_bounds() {
        let s = settings();
        for (number, full) in
            [(1, 10), (2, 20), (3, 40), (4, 80), (5, 100), (40, 100), (u32::MAX, 100)]
        {
            assert_eq!(delay(&s, number, 1.0), Duration::from_millis(full), "{number}");
            assert_eq!(delay(&s, number, 0.0), Duration::from_millis(full) / 2, "{number}");
            let mid = delay(&s, number, 0.3);
            assert!(mid > Duration::from_millis(full) / 2 && mid < Duration::from_millis(full));
        }
    }

    #[test]
    fn the_limit_holds_within_the_window_only() {
        let s = settings();
        let start = Instant::now();
        let mut history = History::default();
        for n in 1..=5 {
            assert_eq!(history.next(&s, start, 0.0).unwrap().0, n);
        }
        assert_eq!(history.next(&s, start + Duration::from_secs(60), 0.0), None);
        assert_eq!(history.next(&s, start + Duration::from_secs(61), 0.0).unwrap().0, 1);
        let none = SupervisionSettings { max_restarts: 0, ..s };
        assert_eq!(History::default().next(&none, start, 0.0), None);
    }

    #[test]
    fn silence_counts_only_while_the_thread_and_the_process_run() {
        let second = Duration::from_secs(1);
        let t0 = Instant::now();
        let mut silence = Silence::new(t0);
        assert_eq!(silence.look(t0 + second, second, false, true), second);
        assert_eq!(silence.look(t0 + second * 2, second, false, false), second, "blocked thread");
        assert_eq!(
            silence.look(t0 + second * 1000, second, false, true),
            second * 3,
            "frozen process"
        );
        assert_eq!(
            silence.look(t0 + second * 1001, second, true, true),
            Duration::ZERO,
            "answered"
        );
        assert_eq!(silence.look(t0 + second * 1002, second, false, true), second);
    }
}
