//! The limited log. A line that a client, another node or a server can cause comes out once a *reason* every 10 s,
//! with the count of the lines that were left out since.
//!
//! `say::warn!`, `say::error!` and `say::info!` are used like the macros of the crate `log`. Each call site is a
//! reason of its own; with `each: KEY` it is one reason for each key (an actor, a node, a topic), and with `by: REASON`
//! the reason is the caller's. Clippy forbids `log::warn!` and `log::error!` elsewhere.
//!
//! Lines left out of a reason that goes quiet are told of by [`sweep`], one second after its 10 s are over. A reason
//! that is not a static is not swept: its next line tells of them.
//!
//! The pauses are measured by milliseconds that the program tells ([`measure_by`]): this module reads no clock. Until
//! then no time passes, and a reason has one line.
//!
//! Bounds: [`MAX_LINE`] bytes a line, control characters escaped; [`KEYS`] reasons a call site with keys, so that two
//! keys may share one; two atomics and one short text a reason. Nothing waits: a reason is one compare and swap.

use std::fmt::{self, Write as _};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

pub use ::log::Level;
use parking_lot::Mutex;

use crate::metrics::Count;

pub use crate::{say_error as error, say_info as info, say_warn as warn};

/// At least so long between two lines of a reason.
pub const PAUSE_MS: u64 = 10_000;
/// [`sweep`] leaves a reason so much longer to say its count by itself, with a fresh line.
const GRACE_MS: u64 = 1000;
/// Bytes of a line, without what the logger puts in front of it.
pub const MAX_LINE: usize = 1024;
/// Bytes of text with several lines, such as a backtrace.
const MAX_LINES: usize = 16 * 1024;
/// Bytes of a line that are repeated when its reason is swept.
const MAX_AGAIN: usize = 256;
/// Reasons of a call site with keys.
pub const KEYS: usize = 64;
/// Characters that are shown of a value that a client has chosen.
const SHOWN: usize = 64;

/// Lines left out because their reason had one less than 10 s ago.
pub static LIMITED: Count = Count::new();
/// Lines left out because nobody read the log; counted by whoever writes it.
pub static UNREAD: Count = Count::new();

/// All static reasons that have said something: at most one entry a call site and key.
static SAID: Mutex<Vec<&'static Reason>> = Mutex::new(Vec::new());

/// Tells the milliseconds by which pauses are measured.
static MEASURE: OnceLock<fn() -> u64> = OnceLock::new();

/// From here on pauses are measured by what `now_ms` tells: milliseconds since some moment, cheap to read. Whoever
/// writes the log calls this once, before the first line; a later call changes nothing.
pub fn measure_by(now_ms: fn() -> u64) {
    let _ = MEASURE.set(now_ms);
}

/// The milliseconds by which pauses are measured.
pub(crate) fn now_ms() -> u64 {
    MEASURE.get().map_or(0, |now_ms| now_ms())
}

/// What a line is said for, once in 10 s.
#[derive(Debug)]
pub struct Reason {
    /// No line before this, by [`now_ms`].
    next_ms: AtomicU64,
    left_out: AtomicU64,
    listed: AtomicBool,
    /// Its last line, for the sweep.
    last: Mutex<Option<(Level, &'static str, String)>>,
}

impl Default for Reason {
    fn default() -> Self {
        Self::new()
    }
}

impl Reason {
    /// One that has said nothing.
    pub const fn new() -> Self {
        Self {
            next_ms: AtomicU64::new(0),
            left_out: AtomicU64::new(0),
            listed: AtomicBool::new(false),
            last: Mutex::new(None),
        }
    }

    /// Says the line, or counts it.
    pub fn say(&self, level: Level, target: &str, line: fmt::Arguments<'_>) {
        if ::log::log_enabled!(target: target, level)
            && let Some(more) = self.due(now_ms())
        {
            write(level, target, &one_line(line, MAX_LINE), more);
        }
    }

    /// The same for a reason that is swept.
    pub fn say_swept(&'static self, level: Level, target: &'static str, line: fmt::Arguments<'_>) {
        if !::log::log_enabled!(target: target, level) {
            return;
        }
        let Some(more) = self.due(now_ms()) else { return };
        let line = one_line(line, MAX_LINE);
        write(level, target, &line, more);
        *self.last.lock() = Some((level, target, one_line(format_args!("{line}"), MAX_AGAIN)));
        if !self.listed.swap(true, Ordering::AcqRel) {
            SAID.lock().push(self);
        }
    }

    /// Text of several lines that no client has written, such as a backtrace.
    pub fn say_lines(&self, level: Level, target: &str, text: fmt::Arguments<'_>) {
        if ::log::log_enabled!(target: target, level)
            && let Some(more) = self.due(now_ms())
        {
            let mut lines = Bounded { text: String::new(), max: MAX_LINES, lines: true };
            let _ = lines.write_fmt(text);
            write(level, target, &lines.text, more);
        }
    }

    /// Whether whoever has a line may write it, and how many were left out since the last one.
    pub fn take(&self) -> Option<u64> {
        self.due(now_ms())
    }

    /// How many lines were left out since the last one; `None`: this one is, too.
    fn due(&self, now: u64) -> Option<u64> {
        let next = self.next_ms.load(Ordering::Relaxed);
        if now < next || !self.begins(next, now) {
            self.left_out.fetch_add(1, Ordering::Relaxed);
            LIMITED.inc();
            return None;
        }
        Some(self.left_out.swap(0, Ordering::Relaxed))
    }

    /// Of several threads at once, one.
    fn begins(&self, next: u64, now: u64) -> bool {
        let until = now + PAUSE_MS;
        self.next_ms.compare_exchange(next, until, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// How many lines a reason that went quiet has left out; `None` while it may say so by itself.
    fn owes(&self, now: u64) -> Option<u64> {
        let next = self.next_ms.load(Ordering::Relaxed);
        if self.left_out.load(Ordering::Relaxed) == 0
            || now < next.saturating_add(GRACE_MS)
            || !self.begins(next, now)
        {
            return None;
        }
        Some(self.left_out.swap(0, Ordering::Relaxed)).filter(|more| *more > 0)
    }

    fn sweep(&self, now: u64) {
        if let Some(more) = self.owes(now)
            && let Some((level, target, line)) = self.last.lock().clone()
        {
            let lines = if more == 1 { "line was" } else { "lines were" };
            ::log::log!(target: target, level, "{more} more {lines} left out like: {line}");
        }
    }
}

/// Tells of what was left out for reasons that went quiet. Call it once a second, `now` by `now_ms`; at the end
/// with [`u64::MAX`].
pub fn sweep(now: u64) {
    let now = now.min(u64::MAX - PAUSE_MS);
    let said = SAID.lock().clone();
    said.into_iter().for_each(|reason| reason.sweep(now));
}

/// Reasons of one call site, by a key.
#[derive(Debug)]
pub struct Keyed([Reason; KEYS]);

impl Default for Keyed {
    fn default() -> Self {
        Self::new()
    }
}

impl Keyed {
    /// Ones that have said nothing.
    pub const fn new() -> Self {
        Self([const { Reason::new() }; KEYS])
    }

    /// The key's; another key may have the same.
    pub fn of(&self, key: &str) -> &Reason {
        let hash = key.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| {
            (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
        });
        // FNV leaves names that differ at their end close together.
        let hash = (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        #[allow(clippy::cast_possible_truncation)]
        let place = (hash >> 58) as usize % KEYS;
        &self.0[place]
    }
}

/// A value that a client has chosen, as the log shows it: in quotes, escaped, its first 64 characters and its length.
pub fn cut(value: &str) -> Cut<'_> {
    Cut(value)
}

/// See [`cut`].
#[derive(Debug, Clone, Copy)]
pub struct Cut<'a>(&'a str);

impl fmt::Display for Cut<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = self.0.char_indices().nth(SHOWN).map(|(end, _)| end);
        let shown = &self.0[..end.unwrap_or(self.0.len())];
        write!(f, "{shown:?}")?;
        match end {
            Some(_) => write!(f, "... ({} bytes)", self.0.len()),
            None => Ok(()),
        }
    }
}

fn write(level: Level, target: &str, line: &str, more: u64) {
    match more {
        0 => ::log::log!(target: target, level, "{line}"),
        _ => {
            ::log::log!(target: target, level, "{line} (and {more} more since the last such line)")
        }
    }
}

/// On one line, at most so many bytes of it.
pub fn one_line(line: fmt::Arguments<'_>, max: usize) -> String {
    let mut bounded = Bounded { text: String::new(), max, lines: false };
    // An error: it is full.
    let _ = bounded.write_fmt(line);
    bounded.text
}

struct Bounded {
    text: String,
    max: usize,
    lines: bool,
}

impl fmt::Write for Bounded {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        for c in part.chars() {
            if self.text.len() + 12 > self.max {
                self.text.push_str("...");
                return Err(fmt::Error);
            }
            match c {
                '\n' | '\t' if self.lines => self.text.push(c),
                c if c.is_control() => self.text.extend(c.escape_default()),
                c => self.text.push(c),
            }
        }
        Ok(())
    }
}

/// See [`say`](crate::say).
#[doc(hidden)]
#[macro_export]
macro_rules! say_line {
    ($level:expr, by: $reason:expr, target: $target:expr, $($line:tt)+) => {
        $reason.say($level, $target, ::core::format_args!($($line)+))
    };
    ($level:expr, each: $key:expr, target: $target:expr, $($line:tt)+) => {{
        static REASONS: $crate::say::Keyed = $crate::say::Keyed::new();
        REASONS.of($key).say_swept($level, $target, ::core::format_args!($($line)+))
    }};
    ($level:expr, target: $target:expr, $($line:tt)+) => {{
        static REASON: $crate::say::Reason = $crate::say::Reason::new();
        REASON.say_swept($level, $target, ::core::format_args!($($line)+))
    }};
    ($level:expr, by: $reason:expr, $($line:tt)+) => {
        $crate::say_line!($level, by: $reason, target: ::core::module_path!(), $($line)+)
    };
    ($level:expr, each: $key:expr, $($line:tt)+) => {
        $crate::say_line!($level, each: $key, target: ::core::module_path!(), $($line)+)
    };
    ($level:expr, $($line:tt)+) => {
        $crate::say_line!($level, target: ::core::module_path!(), $($line)+)
    };
}

/// An error, see [`say`](crate::say).
#[doc(hidden)]
#[macro_export]
macro_rules! say_error {
    ($($line:tt)+) => { $crate::say_line!($crate::say::Level::Error, $($line)+) };
}

/// A warning, see [`say`](crate::say).
#[doc(hidden)]
#[macro_export]
macro_rules! say_warn {
    ($($line:tt)+) => { $crate::say_line!($crate::say::Level::Warn, $($line)+) };
}

/// What is in order, see [`say`](crate::say).
#[doc(hidden)]
#[macro_export]
macro_rules! say_info {
    ($($line:tt)+) => { $crate::say_line!($crate::say::Level::Info, $($line)+) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_reason_in_ten_seconds_and_the_rest_is_counted() {
        let reason = Reason::new();
        assert_eq!(reason.due(5), Some(0), "the first comes out at once");
        for n in 1..=500 {
            assert_eq!(reason.due(5 + n), None);
        }
        assert_eq!(reason.due(5 + PAUSE_MS - 1), None);
        assert_eq!(reason.due(5 + PAUSE_MS), Some(501));
        assert_eq!(reason.due(5 + 3 * PAUSE_MS), Some(0), "nothing was left out");
    }

    #[test]
    fn a_reason_that_went_quiet_owes_its_count_once() {
        let reason = Reason::new();
        assert_eq!(reason.owes(0), None, "it has said nothing");
        assert_eq!((reason.due(0), reason.due(1), reason.due(2)), (Some(0), None, None));
        assert_eq!(reason.owes(PAUSE_MS), None, "its next line may say so");
        assert_eq!(reason.owes(PAUSE_MS + GRACE_MS), Some(2));
        assert_eq!(reason.owes(10 * PAUSE_MS), None);
        // The sweep's line is one of the reason's.
        let swept = Reason::new();
        let _ = (swept.due(0), swept.due(1), swept.owes(2 * PAUSE_MS));
        assert_eq!(swept.due(2 * PAUSE_MS + 1), None);
        assert_eq!(swept.due(3 * PAUSE_MS), Some(1));
    }

    #[test]
    fn threads_at_once_say_one_line_and_count_the_others() {
        // In step, so that both often look at the same moment: so many turns, or so many waits for each other.
        const TURNS: u64 = 60_000;
        const PATIENCE: u64 = 5_000_000;
        let (reason, arrived) = (Reason::new(), AtomicU64::new(0));
        // The turns in which a thread has said the line, with what was left out before; how often it looked.
        let run = || {
            let (mut said, mut looks, mut waits) = (Vec::new(), 0, 0);
            for turn in 0..TURNS {
                arrived.fetch_add(1, Ordering::SeqCst);
                while arrived.load(Ordering::SeqCst) < 2 * (turn + 1) {
                    waits += 1;
                    if waits > PATIENCE {
                        return (said, looks);
                    }
                    std::thread::yield_now();
                }
                looks += 1;
                said.extend(reason.due(turn * PAUSE_MS).map(|left_out| (turn, left_out)));
            }
            (said, looks)
        };
        let [one, other] = std::thread::scope(|scope| {
            let threads = [scope.spawn(run), scope.spawn(run)];
            threads.map(|thread| thread.join().unwrap_or_default())
        });
        let (said, looks) = ([one.0, other.0].concat(), one.1 + other.1);
        let turns: std::collections::BTreeSet<u64> = said.iter().map(|(turn, _)| *turn).collect();
        assert_eq!(said.len(), turns.len(), "two lines in one turn");
        let left_out: u64 = said.iter().map(|(_, left_out)| left_out).sum();
        let rest = reason.due(TURNS * PAUSE_MS).unwrap_or_default();
        assert_eq!(said.len() as u64 + left_out + rest, looks, "each is said or counted");
        assert!(looks > 2, "they were never in step");
    }

    #[test]
    fn keys_have_reasons_of_their_own_and_are_bounded() {
        let keyed = Keyed::new();
        assert_eq!(keyed.of("topic-router/0").due(0), Some(0));
        assert_eq!(keyed.of("topic-router/0").due(1), None);
        assert_eq!(keyed.of("storage").due(1), Some(0));
        let nodes = Keyed::new();
        let said = (0..20).filter(|n| nodes.of(&format!("node-{n}")).due(0).is_some()).count();
        assert!(said >= 15, "{said} of 20 names that differ at their end");
        let said = (0..10_000).filter(|n| keyed.of(&n.to_string()).due(2).is_some()).count();
        assert!(said <= KEYS, "{said}");
    }

    #[test]
    fn values_are_cut_and_escaped() {
        assert_eq!(cut("a/b").to_string(), r#""a/b""#);
        assert_eq!(cut("a\n\u{1b}[2J\"").to_string(), r#""a\n\u{1b}[2J\"""#);
        let long = cut(&"é".repeat(500)).to_string();
        assert_eq!(long, format!("\"{}\"... (1000 bytes)", "é".repeat(64)));
        assert_eq!(cut(&"x".repeat(64)).to_string().len(), 66);
    }

    #[test]
    fn a_line_is_one_line_and_bounded() {
        assert_eq!(one_line(format_args!("a\nb\r{}", '\u{7}'), 100), r"a\nb\r\u{7}");
        let long = one_line(format_args!("{}", "y".repeat(100_000)), MAX_LINE);
        assert!(long.len() <= MAX_LINE && long.ends_with("y..."), "{}", long.len());
    }

    /// What a sweep says is the log's, so only what it counts is looked at.
    #[test]
    fn every_static_reason_that_spoke_is_swept() {
        static REASON: Reason = Reason::new();
        assert_eq!((REASON.due(0), REASON.due(1)), (Some(0), None));
        SAID.lock().push(&REASON);
        sweep(u64::MAX);
        assert_eq!(REASON.left_out.load(Ordering::Relaxed), 0);
    }
}
