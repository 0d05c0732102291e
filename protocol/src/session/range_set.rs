//! Which sequences of a session's queue are left, where acknowledgements came in any order: as ranges.
//!
//! Bounds: a range needs a gap before it, and only what is in flight makes one: as many as `session.max_inflight`, and
//! one more. Without a gap nothing is allocated but the one range.

use std::collections::VecDeque;
use std::ops::Range;

/// Ranges of sequences in their order; none touches the next.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RangeSet(VecDeque<Range<u64>>);

impl RangeSet {
    /// Appends a range; one that is empty, or not behind the last, adds nothing.
    pub fn push(&mut self, range: Range<u64>) {
        let end = self.0.back().map_or(0, |last| last.end);
        if range.is_empty() || range.start < end {
            return;
        }
        match self.0.back_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => self.0.push_back(range),
        }
    }

    /// Appends those of `other` from a sequence on.
    pub fn append_from(&mut self, other: &Self, from: u64) {
        for range in &other.0 {
            self.push(range.start.max(from)..range.end);
        }
    }

    /// The lowest sequence.
    pub fn first(&self) -> Option<u64> {
        self.0.front().map(|range| range.start)
    }

    /// Removes the lowest sequence.
    pub fn pop_first(&mut self) -> Option<u64> {
        let range = self.0.front_mut()?;
        let first = range.start;
        range.start += 1;
        if range.is_empty() {
            self.0.pop_front();
        }
        Some(first)
    }

    /// Takes off the range that ends with `end`; it begins there where there is none.
    pub fn take_tail(&mut self, end: u64) -> u64 {
        if self.0.back().is_some_and(|last| last.end == end)
            && let Some(last) = self.0.pop_back()
        {
            return last.start;
        }
        end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_are_runs_and_leave_from_the_front() {
        let mut ranges = RangeSet::default();
        for sequence in [1, 4, 5, 5, 2, 6, 9] {
            ranges.push(sequence..sequence + 1);
        }
        assert_eq!(ranges.0, [1..2, 4..7, 9..10]);
        let mut later = RangeSet::default();
        later.append_from(&ranges, 5);
        assert_eq!(later.0, [5..7, 9..10]);
        assert_eq!((later.take_tail(11), later.take_tail(10)), (11, 9));
        let left: Vec<_> = std::iter::from_fn(|| ranges.pop_first()).collect();
        assert_eq!(left, [1, 4, 5, 6, 9]);
    }
}
