//! The cursor over one lane of the outbox: the position below which everything is acknowledged.
//!
//! Acknowledgements may come out of order; the cursor never passes a hole. Bounds: as many marks as
//! there are positions between the cursor and the highest acknowledged one, a byte each: records
//! that the outbox holds, within `storage.outbox_max_bytes`.

use std::collections::VecDeque;

/// See the module.
#[derive(Debug, Default)]
pub struct LaneCursor {
    cursor: u64,
    /// `marks[i]`: position `cursor + i` is acknowledged. The front is never true.
    marks: VecDeque<bool>,
    /// How many of them are true.
    ahead: u64,
}

impl LaneCursor {
    /// A cursor that starts at `position`.
    pub fn new(position: u64) -> Self {
        Self { cursor: position, marks: VecDeque::new(), ahead: 0 }
    }

    /// First position that is not acknowledged.
    pub fn position(&self) -> u64 {
        self.cursor
    }

    /// Positions before `end` that are not acknowledged.
    pub fn outstanding(&self, end: u64) -> u64 {
        end.saturating_sub(self.cursor).saturating_sub(self.ahead)
    }

    /// `position` is acknowledged. True when the cursor has moved. A position below the cursor, or
    /// acknowledged before, changes nothing: records may be sent twice.
    pub fn acknowledge(&mut self, position: u64) -> bool {
        let Some(offset) = position.checked_sub(self.cursor) else {
            return false;
        };
        let Ok(offset) = usize::try_from(offset) else {
            return false;
        };
        if offset == 0 && self.marks.is_empty() {
            self.cursor += 1;
            return true;
        }
        if self.marks.len() <= offset {
            self.marks.resize(offset + 1, false);
        }
        if !std::mem::replace(&mut self.marks[offset], true) {
            self.ahead += 1;
        }
        let before = self.cursor;
        while self.marks.front() == Some(&true) {
            self.marks.pop_front();
            self.cursor += 1;
            self.ahead -= 1;
        }
        self.cursor != before
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_cursor_never_passes_a_hole() {
        let mut lane = LaneCursor::new(10);
        assert!(!lane.acknowledge(11));
        assert!(!lane.acknowledge(9));
        assert_eq!(lane.position(), 10);
        assert!(lane.acknowledge(10));
        assert_eq!(lane.position(), 12);
        assert!(!lane.acknowledge(10));
    }

    proptest! {
        #[test]
        fn any_order_with_repeats_ends_at_the_first_hole(acks in prop::collection::vec(0_u64..40, 0..120)) {
            let mut lane = LaneCursor::new(0);
            let mut seen = std::collections::BTreeSet::new();
            for position in acks {
                lane.acknowledge(position);
                seen.insert(position);
                let hole = (0..).find(|n| !seen.contains(n));
                prop_assert_eq!(Some(lane.position()), hole);
                prop_assert_eq!(lane.outstanding(40), 40 - seen.len() as u64);
            }
        }
    }
}
