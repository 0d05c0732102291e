//! How far a transfer has come: a line now and then, which a terminal and a log file show alike.

use std::io::Write;
use std::time::{Duration, Instant};

use super::format::Counts;

/// Between two lines.
const PAUSE: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Progress<'a> {
    out: &'a mut dyn Write,
    what: &'static str,
    next: Instant,
}

impl<'a> Progress<'a> {
    pub(super) fn new(out: &'a mut dyn Write, what: &'static str) -> Self {
        Self { out, what, next: Instant::now() + PAUSE }
    }

    /// Says so when it is time; `done` of `total` is what a percentage is made of.
    pub(super) fn at(&mut self, counts: &Counts, done: u64, total: u64) {
        let now = Instant::now();
        if now < self.next {
            return;
        }
        self.next = now + PAUSE;
        let percent = (u128::from(done) * 100 / u128::from(total.max(1))).min(100);
        self.line(&format!("{} {percent} %: {counts}", self.what));
    }

    /// Writes a line at once.
    pub(super) fn line(&mut self, line: &str) {
        // Who closed standard error does not want to know.
        let _ = writeln!(self.out, "{line}");
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_line_when_it_is_time() {
        let mut out = Vec::new();
        let mut progress = Progress::new(&mut out, "exported");
        progress.at(&Counts::default(), 1, 2);
        progress.next = Instant::now();
        progress.at(&Counts { sessions: 7, ..Counts::default() }, 1, 3);
        progress.at(&Counts::default(), 3, 3);
        let said = String::from_utf8(out).unwrap();
        assert!(
            said.starts_with("exported 33 %: 7 sessions") && said.lines().count() == 1,
            "{said}"
        );
    }
}
