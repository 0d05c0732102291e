//! Finds arbiter threads that a handler blocks. Such a thread cannot be interrupted: it is
//! reported, and past a limit the node is ended.
//!
//! Every watched arbiter runs a heartbeat task; one thread of its own looks at the beats.
//! Time is the watchdog's own waking time: each of its looks counts for little more than a period, so
//! that a process which was stopped (SIGSTOP) or starved, watchdog and all, is neither reported nor
//! ended when it goes on.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use actix_rt::ArbiterHandle;
use parking_lot::Mutex;

use crate::metrics::Metrics;
use crate::say;
use crate::settings::SupervisionSettings;

/// Between two beats, and between two looks: this part of `watchdog_warn`, within these bounds. A beat wakes an idle
/// thread, so they are as few as the limit allows.
const PART: u32 = 4;
const SHORTEST: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_millis(250);

#[derive(Debug, Default)]
struct Heart {
    name: String,
    beats: AtomicU64,
    /// The arbiter ended: no beat is expected.
    gone: AtomicBool,
}

/// Marks the heart when the arbiter drops its tasks.
struct Gone(Arc<Heart>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.gone.store(true, Ordering::SeqCst);
    }
}

/// What the watchdog knows of one arbiter.
#[derive(Debug)]
struct Watch {
    heart: Arc<Heart>,
    seen: u64,
    since: Duration,
    reported: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Finding {
    Fine,
    Blocked(Duration),
    Back(Duration),
    TooLong(Duration),
}

impl Watch {
    /// `awake` is the watchdog's own clock.
    fn look(&mut self, awake: Duration, warn: Duration, exit: Duration) -> Finding {
        let beats = self.heart.beats.load(Ordering::SeqCst);
        let silent = awake.saturating_sub(self.since);
        if beats != self.seen {
            self.seen = beats;
            self.since = awake;
            if std::mem::take(&mut self.reported) {
                return Finding::Back(silent);
            }
            Finding::Fine
        } else if !exit.is_zero() && silent >= exit {
            Finding::TooLong(silent)
        } else if silent >= warn && !self.reported {
            self.reported = true;
            Finding::Blocked(silent)
        } else {
            Finding::Fine
        }
    }
}

#[derive(Debug, Default)]
struct State {
    hearts: Mutex<Vec<Arc<Heart>>>,
    stop: AtomicBool,
}

/// Looks after arbiter threads until dropped.
pub struct Watchdog {
    state: Arc<State>,
    period: Duration,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for Watchdog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watchdog").field("hearts", &self.state.hearts.lock().len()).finish()
    }
}

impl Watchdog {
    /// Starts the watchdog's thread. `on_exit` is called there, once, with one sentence, when a
    /// thread was blocked for `watchdog_exit`.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(
        settings: &SupervisionSettings,
        metrics: Arc<Metrics>,
        on_exit: Box<dyn FnOnce(String) + Send>,
    ) -> std::io::Result<Self> {
        let state = Arc::new(State::default());
        let (warn, exit) = (settings.watchdog_warn, settings.watchdog_exit);
        let limit = if exit.is_zero() { warn } else { warn.min(exit) };
        let period = (limit / PART).clamp(SHORTEST, LONGEST);
        let thread = std::thread::Builder::new().name("watchdog".into()).spawn({
            let state = Arc::clone(&state);
            move || run(&state, period, (warn, exit), &metrics, on_exit)
        })?;
        Ok(Self { state, period, thread: Some(thread) })
    }

    /// Watches the thread of `arbiter` under `name`.
    pub fn watch(&self, name: impl Into<String>, arbiter: &ArbiterHandle) {
        let heart = Arc::new(Heart { name: name.into(), ..Heart::default() });
        let beating = Gone(Arc::clone(&heart));
        let period = self.period;
        arbiter.spawn(async move {
            let mut timer = tokio::time::interval(period);
            timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                timer.tick().await;
                beating.0.beats.fetch_add(1, Ordering::SeqCst);
            }
        });
        self.state.hearts.lock().push(heart);
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // `on_exit` may drop the node from the watchdog's own thread.
            if thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

/// What a look counts for. A stop between the beat that a look has missed and the look after it makes three periods and
/// a quarter: the limit has [`PART`] of them.
fn counted(passed: Duration, period: Duration) -> Duration {
    passed.min(period + period / 4)
}

fn run(
    state: &State,
    period: Duration,
    (warn, exit): (Duration, Duration),
    metrics: &Metrics,
    on_exit: Box<dyn FnOnce(String) + Send>,
) {
    let mut on_exit = Some(on_exit);
    let mut watches: Vec<Watch> = Vec::new();
    let mut awake = Duration::ZERO;
    let mut last = Instant::now();
    while !state.stop.load(Ordering::SeqCst) {
        std::thread::park_timeout(period);
        let now = Instant::now();
        awake += counted(now.duration_since(last), period);
        last = now;
        for heart in state.hearts.lock().drain(..) {
            let seen = heart.beats.load(Ordering::SeqCst);
            watches.push(Watch { heart, seen, since: awake, reported: false });
        }
        watches.retain(|watch| !watch.heart.gone.load(Ordering::SeqCst));
        for watch in &mut watches {
            let finding = watch.look(awake, warn, exit);
            let name = &watch.heart.name;
            match finding {
                Finding::Fine => {}
                Finding::Blocked(silent) => {
                    metrics.blocked_threads.inc();
                    say::error!(each: name, target: "hydrant::actors", "thread {name} is blocked for {silent:?}: a handler does not return");
                }
                Finding::Back(silent) => {
                    say::warn!(each: name, target: "hydrant::actors", "thread {name} goes on after {silent:?}");
                }
                Finding::TooLong(silent) => {
                    if let Some(on_exit) = on_exit.take() {
                        on_exit(format!(
                            "thread {name} was blocked for {silent:?}, longer than supervision.watchdog_exit"
                        ));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn one_report_an_episode_and_the_limit() {
        let heart = Arc::new(Heart::default());
        let mut watch =
            Watch { heart: Arc::clone(&heart), seen: 0, since: Duration::ZERO, reported: false };
        let (warn, exit) = (Duration::from_millis(200), Duration::from_millis(500));
        let ms = Duration::from_millis;
        assert_eq!(watch.look(ms(199), warn, exit), Finding::Fine);
        assert_eq!(watch.look(ms(200), warn, exit), Finding::Blocked(ms(200)));
        assert_eq!(watch.look(ms(300), warn, exit), Finding::Fine, "reported once");
        heart.beats.fetch_add(1, Ordering::SeqCst);
        assert_eq!(watch.look(ms(350), warn, exit), Finding::Back(ms(350)));
        assert_eq!(watch.look(ms(600), warn, exit), Finding::Blocked(ms(250)), "a new episode");
        assert_eq!(watch.look(ms(900), warn, exit), Finding::TooLong(ms(550)));
        assert_eq!(watch.look(ms(9000), warn, Duration::ZERO), Finding::Fine, "0 is never");
    }

    #[test]
    fn a_stop_of_the_whole_process_is_no_blocked_thread() {
        let warn = Duration::from_secs(1);
        let period = warn / PART;
        let mut watch =
            Watch { heart: Arc::default(), seen: 0, since: Duration::ZERO, reported: false };
        let mut awake = Duration::ZERO;
        // A beat comes just behind the first look, the stop before the second. At the third the thread has not beaten.
        for passed in [period, Duration::from_secs(3600), period] {
            awake += counted(passed, period);
            assert_eq!(watch.look(awake, warn, warn), Finding::Fine);
        }
    }
}
