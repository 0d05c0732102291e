//! The outbox's lanes: what is written, what the log actor has taken up, what the log has
//! acknowledged. StorageActor and the log actor meet here, under one lock.
//!
//! Invariants, per lane: `cursor <= next <= durable <= assigned`. While `behind` is false, every
//! durable record has been handed to the log actor; while it is true, those from `next` on are in
//! the store only, and nothing newer overtakes them; they are read once no record before them
//! stands in the log actor's inbox any more (`handed` is 0).
//! Bounds: `storage.outbox_max_bytes` over all lanes. Bytes below the cursor are given back in
//! proportion, so the sum is approximate by the spread of record sizes.

use hydrant_protocol::outbox::LaneCursor;

use crate::ports::LaneState;

#[derive(Debug)]
struct Lane {
    cursor: LaneCursor,
    /// Next position for the log actor.
    next: u64,
    /// One past the last durable position.
    durable: u64,
    /// One past the last position given.
    assigned: u64,
    behind: bool,
    /// Records in the log actor's inbox.
    handed: u64,
    bytes: u64,
}

/// See the module.
#[derive(Debug)]
pub struct LaneBook {
    lanes: Vec<Lane>,
    max_bytes: u64,
}

impl LaneBook {
    /// `lanes` lanes, at least, in the state the store found them.
    pub fn new(lanes: u16, max_bytes: u64, found: &[LaneState]) -> Self {
        // Fewer lanes configured than before: the others still drain.
        let count = found.iter().map(|lane| lane.lane + 1).max().unwrap_or(0).max(lanes).max(1);
        let lanes = (0..count)
            .map(|number| {
                let found =
                    found.iter().find(|lane| lane.lane == number).copied().unwrap_or_default();
                Lane {
                    cursor: LaneCursor::new(found.cursor),
                    next: found.cursor,
                    durable: found.end,
                    assigned: found.end,
                    behind: found.cursor < found.end,
                    handed: 0,
                    bytes: found.bytes,
                }
            })
            .collect();
        Self { lanes, max_bytes }
    }

    /// Records that the log has not acknowledged, and their bytes.
    pub fn backlog(&self) -> (u64, u64) {
        self.lanes.iter().fold((0, 0), |(records, bytes), lane| {
            (records + lane.assigned - lane.cursor.position(), bytes + lane.bytes)
        })
    }

    /// True when nothing may be added.
    pub fn is_full(&self) -> bool {
        self.backlog().1 >= self.max_bytes
    }

    /// Gives the next position of a lane to a record of `cost` bytes.
    pub fn assign(&mut self, lane: u16, cost: u64) -> u64 {
        let lane = &mut self.lanes[usize::from(lane)];
        let position = lane.assigned;
        lane.assigned += 1;
        lane.bytes += cost;
        position
    }

    /// A record is durable. True: the caller hands it to the log actor now; false: the log actor
    /// reads it from the store. `room` says whether the log actor has room.
    pub fn durable(&mut self, lane: u16, position: u64, room: bool) -> bool {
        let lane = &mut self.lanes[usize::from(lane)];
        lane.durable = lane.durable.max(position + 1);
        if lane.behind || !room || position != lane.next {
            lane.behind |= position >= lane.next;
            return false;
        }
        lane.next += 1;
        lane.handed += 1;
        true
    }

    /// The log actor has taken a record that was handed to it out of its inbox.
    pub fn taken_up(&mut self, lane: u16) {
        let lane = &mut self.lanes[usize::from(lane)];
        lane.handed = lane.handed.saturating_sub(1);
    }

    /// A lane with records that have to be read from the store now, and where they begin: in turn,
    /// the first from lane `from` on.
    pub fn next_behind(&self, from: u16) -> Option<(u16, u64)> {
        let behind = (0_u16..).zip(&self.lanes).filter(|(_, lane)| lane.behind && lane.handed == 0);
        let found = behind.map(|(number, lane)| (number, lane.next));
        found.min_by_key(|(number, _)| (*number < from, *number))
    }

    /// True while some lane is behind.
    pub fn any_behind(&self) -> bool {
        self.lanes.iter().any(|lane| lane.behind)
    }

    /// The log actor has read a lane from the store up to before `next`.
    pub fn read(&mut self, lane: u16, next: u64) {
        let lane = &mut self.lanes[usize::from(lane)];
        lane.next = lane.next.max(next);
        lane.behind = lane.next < lane.durable;
    }

    /// The log has acknowledged a record. The new cursor, when it moved.
    pub fn acknowledge(&mut self, lane: u16, position: u64) -> Option<u64> {
        let lane = &mut self.lanes[usize::from(lane)];
        let before = lane.cursor.position();
        let outstanding = lane.assigned.saturating_sub(before).max(1);
        if !lane.cursor.acknowledge(position) {
            return None;
        }
        let moved = lane.cursor.position() - before;
        lane.bytes -= (u128::from(lane.bytes) * u128::from(moved) / u128::from(outstanding)) as u64;
        Some(lane.cursor.position())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_that_found_no_room_is_read_from_the_store_and_nothing_overtakes_it() {
        let mut book = LaneBook::new(2, 1000, &[]);
        for expected in 0..4 {
            assert_eq!(book.assign(1, 100), expected);
        }
        assert!(book.durable(1, 0, true));
        assert!(!book.durable(1, 1, false), "no room");
        assert!(!book.durable(1, 2, true), "room again, but 1 is before it");
        assert_eq!(book.next_behind(0), None, "0 stands in the log actor's inbox");
        book.taken_up(1);
        assert_eq!(book.next_behind(0), Some((1, 1)));
        book.read(1, 3);
        assert!(!book.any_behind());
        assert!(book.durable(1, 3, true), "caught up: handed over directly again");
    }

    #[test]
    fn bytes_are_given_back_as_the_cursor_moves() {
        let mut book = LaneBook::new(1, 300, &[]);
        for _ in 0..3 {
            book.assign(0, 100);
        }
        assert!(book.is_full());
        assert_eq!(book.acknowledge(0, 1), None);
        assert_eq!(book.acknowledge(0, 0), Some(2));
        assert_eq!(book.backlog(), (1, 100));
        assert_eq!(book.acknowledge(0, 2), Some(3));
        assert_eq!(book.backlog(), (0, 0));
    }

    #[test]
    fn lanes_found_at_start_are_behind_and_keep_their_numbers() {
        let found = [LaneState { lane: 5, cursor: 7, end: 9, bytes: 50 }];
        let mut book = LaneBook::new(2, 1000, &found);
        assert_eq!(book.next_behind(0), Some((5, 7)));
        assert_eq!(book.assign(5, 1), 9);
        assert!(!book.durable(5, 9, true));
        book.read(5, 10);
        assert!(!book.any_behind());
    }

    #[test]
    fn lanes_that_are_behind_take_turns() {
        let lane = |lane, cursor| LaneState { lane, cursor, end: 1000, bytes: 50 };
        let book = LaneBook::new(4, 1000, &[lane(0, 1), lane(2, 900)]);
        assert_eq!(book.next_behind(0), Some((0, 1)));
        assert_eq!(book.next_behind(1), Some((2, 900)));
        assert_eq!(book.next_behind(3), Some((0, 1)));
    }
}
