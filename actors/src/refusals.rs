//! Connections turned away by their address or their PROXY protocol header. Each is counted under
//! its [`CloseReason`](crate::metrics::CloseReason); the log has a line of them now and then.
//!
//! Bounds: one line a reason every 10 s, however many come.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// At least so long between two lines.
const PAUSE: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug, Default)]
pub struct Refusals {
    /// Not from `listener.proxy_from`.
    pub untrusted: Seldom,
    /// No header, or a wrong one.
    pub header: Seldom,
    /// By `listener.allow` or `listener.deny`.
    pub denied: Seldom,
}

/// A line of the log that is written seldom, and says how often it was not.
#[derive(Debug, Default)]
pub struct Seldom(Mutex<Book>);

#[derive(Debug, Default)]
struct Book {
    last: Option<Instant>,
    silent: u64,
}

impl Seldom {
    /// Warns, or counts that it did not.
    pub fn warn(&self, line: std::fmt::Arguments<'_>) {
        match self.0.lock().due(Instant::now()) {
            Some(0) => log::warn!(target: "hydrant::actors", "{line}"),
            Some(more) => {
                log::warn!(target: "hydrant::actors", "{line} (and {more} more since the last such line)");
            }
            None => {}
        }
    }
}

impl Book {
    /// How many were not written since the last one; `None`: nor is this.
    fn due(&mut self, now: Instant) -> Option<u64> {
        if self.last.is_some_and(|last| now.saturating_duration_since(last) < PAUSE) {
            self.silent += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.silent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_pause_and_the_rest_is_counted() {
        let (mut book, start) = (Book::default(), Instant::now());
        assert_eq!(book.due(start), Some(0));
        for n in 1..=5 {
            assert_eq!(book.due(start + PAUSE / 10 * n), None);
        }
        assert_eq!(book.due(start + PAUSE), Some(5));
        assert_eq!(book.due(start + 3 * PAUSE), Some(0));
    }
}
