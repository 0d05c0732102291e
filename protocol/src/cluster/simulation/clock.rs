//! Virtual time: what happens next. Times are microseconds.

use std::collections::BTreeMap;

pub const MS: u64 = 1000;
pub const SECOND: u64 = 1000 * MS;

/// Events in the order of their times, those of one time in that of their making.
pub struct Clock<E> {
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
    pub fn at(&mut self, at: u64, event: E) {
        self.made += 1;
        self.queue.insert((at.max(self.now), self.made), event);
    }

    pub fn after(&mut self, delay: u64, event: E) {
        self.at(self.now + delay, event);
    }

    pub fn next(&mut self) -> Option<E> {
        let ((at, _), event) = self.queue.pop_first()?;
        self.now = at;
        Some(event)
    }
}
