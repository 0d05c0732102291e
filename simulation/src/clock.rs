//! Virtual time: what happens next. Times are microseconds since the world began.

use std::collections::BTreeMap;

/// Microseconds of a millisecond.
pub const MS: u64 = 1000;
/// And of a second.
pub const SECOND: u64 = 1000 * MS;

/// Events in the order of their times, those of one time in the order of their making.
#[derive(Debug)]
pub struct Clock<E> {
    /// The present.
    pub now: u64,
    made: u64,
    queue: BTreeMap<(u64, u64), E>,
}

impl<E> Default for Clock<E> {
    fn default() -> Self {
        Self { now: 0, made: 0, queue: BTreeMap::new() }
    }
}

impl<E> Clock<E> {
    /// It happens then, or now where that is over.
    pub fn at(&mut self, at: u64, event: E) {
        self.made += 1;
        self.queue.insert((at.max(self.now), self.made), event);
    }

    /// It happens after that time.
    pub fn after(&mut self, delay: u64, event: E) {
        self.at(self.now + delay, event);
    }

    /// The next event; the present is its time from then on.
    pub fn next_event(&mut self) -> Option<E> {
        let ((at, _), event) = self.queue.pop_first()?;
        self.now = at;
        Some(event)
    }
}
