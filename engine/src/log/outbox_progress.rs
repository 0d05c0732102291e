//! The outbox's lanes: what is written, what the log actor has admitted, what the log has
//! acknowledged. StorageActor and the log actor meet here, under one lock.
//!
//! Invariants, per lane: `cursor <= next <= durable <= assigned`. While `behind` is false, every
//! durable record has been handed to the log actor; while it is true, those from `next` on are in
//! the store only, and nothing newer overtakes them; they are read once no record before them
//! stands in the log actor's inbox any more (`handed` is 0).
//!
//! Lanes with numbers from the configured count on that hold something at start are *adopted*: left
//! by a dead incarnation of a node, or, in the embedded store, by a configuration with more lanes.
//! A key's older records stand there and its newer ones come in an own lane, so until the log has
//! acknowledged every adopted record, own lanes are behind: their records stay in the store, and
//! are read once the last adopted lane is drained. (Own lanes that held something before
//! `storage.outbox_lanes` was raised and lowered again are read after the adopted ones, whichever
//! are older: order per key holds over one change of that number that finds the outbox drained.)
//!
//! Bounds: `storage.outbox_max_bytes` over all lanes, adopted ones too. Bytes below the cursor are
//! given back in proportion, so the sum is approximate by the spread of record sizes.

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
    /// Refused records that stay in the outbox.
    held: u64,
    /// Own lanes wait for it.
    draining: bool,
    bytes: u64,
}

impl Lane {
    fn found(found: &LaneState) -> Self {
        Self {
            cursor: LaneCursor::new(found.cursor),
            next: found.cursor,
            durable: found.end.max(found.cursor),
            assigned: found.end.max(found.cursor),
            behind: found.cursor < found.end,
            handed: 0,
            held: 0,
            draining: false,
            bytes: found.bytes,
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct OutboxProgress {
    lanes: Vec<Lane>,
    /// Lanes from this number on are adopted.
    own: u16,
    /// Adopted lanes with records that the log has not acknowledged.
    draining: usize,
    /// Over all lanes: records not acknowledged, and their bytes.
    records: u64,
    bytes: u64,
    max_bytes: u64,
}

impl OutboxProgress {
    /// `lanes` lanes, at least, in the state the store found them.
    pub fn new(lanes: u16, max_bytes: u64, found: &[LaneState]) -> Self {
        let own = lanes.max(1);
        let highest = found.iter().map(|lane| usize::from(lane.lane) + 1).max().unwrap_or(0);
        let count = highest.max(usize::from(own));
        let mut by_number = vec![LaneState::default(); count];
        for lane in found {
            by_number[usize::from(lane.lane)] = *lane;
        }
        let mut lanes: Vec<Lane> = by_number.iter().map(Lane::found).collect();
        for lane in lanes.iter_mut().skip(usize::from(own)) {
            lane.draining = lane.behind;
        }
        Self {
            own,
            draining: lanes.iter().filter(|lane| lane.draining).count(),
            records: lanes.iter().map(|lane| lane.assigned - lane.cursor.position()).sum(),
            bytes: lanes.iter().map(|lane| lane.bytes).sum(),
            lanes,
            max_bytes,
        }
    }

    /// Adopts lanes of a lost node, whose numbers no lane has. A device that came from it goes on
    /// behind what it had published there.
    pub fn take_over(&mut self, found: &[LaneState]) {
        for state in found {
            let at = usize::from(state.lane);
            if self.lanes.len() <= at {
                self.lanes.resize_with(at + 1, || Lane::found(&LaneState::default()));
            }
            let mut lane = Lane::found(state);
            lane.draining = lane.behind;
            self.draining += usize::from(lane.draining);
            self.records += lane.assigned - lane.cursor.position();
            self.bytes += lane.bytes;
            self.lanes[at] = lane;
        }
    }

    /// Records that the log has not acknowledged, and their bytes.
    pub fn backlog(&self) -> (u64, u64) {
        (self.records, self.bytes)
    }

    /// Adopted lanes that are not drained: own lanes wait for them.
    pub fn draining(&self) -> usize {
        self.draining
    }

    /// True when nothing may be added.
    pub fn is_full(&self) -> bool {
        self.bytes >= self.max_bytes
    }

    /// Gives the next position of a lane to a record of `cost` bytes.
    pub fn assign(&mut self, lane: u16, cost: u64) -> u64 {
        let lane = &mut self.lanes[usize::from(lane)];
        let position = lane.assigned;
        lane.assigned += 1;
        lane.bytes += cost;
        self.records += 1;
        self.bytes += cost;
        position
    }

    /// A record is durable. True: the caller hands it to the log actor now; false: the log actor
    /// reads it from the store. `room` says whether the log actor has room.
    pub fn durable(&mut self, lane: u16, position: u64, room: bool) -> bool {
        // Nothing of this incarnation before what an earlier one left.
        let room = room && (self.draining == 0 || lane >= self.own);
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
    pub fn admitted(&mut self, lane: u16) {
        let lane = &mut self.lanes[usize::from(lane)];
        lane.handed = lane.handed.saturating_sub(1);
    }

    /// A lane with records that have to be read from the store now, and where they begin: in turn,
    /// the first from lane `from` on. Only adopted lanes while one of them is not drained.
    pub fn next_behind(&self, from: u16) -> Option<(u16, u64)> {
        let first = if self.draining > 0 { self.own } else { 0 };
        let behind = (0..=u16::MAX)
            .zip(&self.lanes)
            .skip(usize::from(first))
            .filter(|(_, lane)| lane.behind && lane.handed == 0);
        let found = behind.map(|(number, lane)| (number, lane.next));
        found.min_by_key(|(number, _)| (*number < from, *number))
    }

    /// True while some lane is behind.
    pub fn any_behind(&self) -> bool {
        self.lanes.iter().any(|lane| lane.behind)
    }

    /// The log actor has read a lane from the store up to before `next`.
    pub fn read(&mut self, lane: u16, next: u64) {
        let adopted = lane >= self.own;
        let lane = &mut self.lanes[usize::from(lane)];
        if adopted && next > lane.assigned {
            // The store has found more than it said at start.
            self.records += next - lane.assigned;
            lane.assigned = next;
            lane.durable = next;
        }
        lane.next = lane.next.max(next);
        lane.behind = lane.next < lane.durable;
    }

    /// The log has acknowledged a record. The new cursor, when it moved. A second time, or with a
    /// position that was never given, it changes nothing.
    pub fn acknowledge(&mut self, lane: u16, position: u64) -> Option<u64> {
        let number = lane;
        let lane = &mut self.lanes[usize::from(lane)];
        let before = lane.cursor.position();
        let outstanding = lane.assigned.saturating_sub(before).max(1);
        if position >= lane.assigned {
            return None;
        }
        let has_moved = lane.cursor.acknowledge(position);
        self.settle(number);
        if !has_moved {
            return None;
        }
        let lane = &mut self.lanes[usize::from(number)];
        let moved = lane.cursor.position() - before;
        let freed = (u128::from(lane.bytes) * u128::from(moved) / u128::from(outstanding)) as u64;
        lane.bytes -= freed;
        self.bytes = self.bytes.saturating_sub(freed);
        self.records = self.records.saturating_sub(moved);
        Some(lane.cursor.position())
    }

    /// Everything before this position is acknowledged, and it itself is not.
    pub fn is_next(&self, lane: u16, position: u64) -> bool {
        self.lanes.get(usize::from(lane)).is_some_and(|lane| lane.cursor.position() == position)
    }

    /// A record that the log refuses stays in the outbox: own lanes do not wait for it.
    pub fn hold(&mut self, lane: u16) {
        self.lanes[usize::from(lane)].held += 1;
        self.settle(lane);
    }

    /// It is tried again.
    pub fn release(&mut self, lane: u16) {
        let lane = &mut self.lanes[usize::from(lane)];
        lane.held = lane.held.saturating_sub(1);
    }

    /// Own lanes wait no longer for one of which the log has all that it takes.
    fn settle(&mut self, lane: u16) {
        let lane = &mut self.lanes[usize::from(lane)];
        if lane.draining && lane.cursor.outstanding(lane.assigned) <= lane.held {
            lane.draining = false;
            self.draining = self.draining.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_that_found_no_room_is_read_from_the_store_and_nothing_overtakes_it() {
        let mut progress = OutboxProgress::new(2, 1000, &[]);
        for expected in 0..4 {
            assert_eq!(progress.assign(1, 100), expected);
        }
        assert!(progress.durable(1, 0, true));
        assert!(!progress.durable(1, 1, false), "no room");
        assert!(!progress.durable(1, 2, true), "room again, but 1 is before it");
        assert_eq!(progress.next_behind(0), None, "0 stands in the log actor's inbox");
        progress.admitted(1);
        assert_eq!(progress.next_behind(0), Some((1, 1)));
        progress.read(1, 3);
        assert!(!progress.any_behind());
        assert!(progress.durable(1, 3, true), "caught up: handed over directly again");
    }

    #[test]
    fn bytes_are_given_back_as_the_cursor_moves() {
        let mut progress = OutboxProgress::new(1, 300, &[]);
        for _ in 0..3 {
            progress.assign(0, 100);
        }
        assert!(progress.is_full());
        assert_eq!(progress.acknowledge(0, 1), None);
        assert_eq!(progress.acknowledge(0, 0), Some(2));
        assert_eq!(progress.backlog(), (1, 100));
        assert_eq!(progress.acknowledge(0, 2), Some(3));
        assert_eq!(progress.backlog(), (0, 0));
    }

    #[test]
    fn own_lanes_wait_until_adopted_ones_are_drained() {
        let found = [
            LaneState { lane: 0, cursor: 3, end: 4, bytes: 10 },
            LaneState { lane: 3, cursor: 9, end: 9, bytes: 0 },
            LaneState { lane: 5, cursor: 7, end: 9, bytes: 50 },
            LaneState { lane: 7, cursor: 0, end: 1, bytes: 40 },
        ];
        let mut progress = OutboxProgress::new(2, 1000, &found);
        assert_eq!((progress.draining(), progress.backlog()), (2, (4, 100)));
        assert_eq!(progress.assign(1, 30), 0);
        assert!(!progress.durable(1, 0, true), "an older record of its key may stand in 5 or 7");
        assert_eq!(progress.next_behind(0), Some((5, 7)));
        assert_eq!(progress.next_behind(6), Some((7, 0)));
        progress.read(5, 9);
        progress.read(7, 1);
        assert_eq!(progress.next_behind(0), None, "read, not acknowledged");
        assert!(progress.any_behind());
        assert_eq!(progress.acknowledge(5, 8), None);
        assert_eq!(progress.acknowledge(7, 0), Some(1));
        assert_eq!(progress.acknowledge(7, 0), None, "a second time");
        assert_eq!((progress.draining(), progress.next_behind(0)), (1, None));
        assert_eq!(progress.acknowledge(5, 7), Some(9));
        assert_eq!((progress.draining(), progress.backlog()), (0, (2, 40)));
        assert_eq!(progress.next_behind(0), Some((0, 3)));
        progress.read(0, 4);
        assert_eq!(progress.next_behind(0), Some((1, 0)));
        progress.read(1, 1);
        assert!(!progress.any_behind());
        assert_eq!(progress.assign(1, 1), 1);
        assert!(progress.durable(1, 1, true), "handed over directly again");
    }

    #[test]
    fn adopted_lanes_that_hold_nothing_hold_nothing_up() {
        let found = [LaneState { lane: u16::MAX, cursor: 7, end: 7, bytes: 0 }];
        let mut progress = OutboxProgress::new(2, 1000, &found);
        assert_eq!(progress.assign(0, 1), 0);
        assert!(progress.durable(0, 0, true));
        assert_eq!(progress.next_behind(0), None);
    }

    #[test]
    fn own_lanes_do_not_wait_for_a_refused_record_that_stays() {
        let mut progress =
            OutboxProgress::new(1, 1000, &[LaneState { lane: 1, cursor: 0, end: 3, bytes: 30 }]);
        assert_eq!(progress.assign(0, 1), 0);
        assert!(!progress.durable(0, 0, true));
        progress.read(1, 3);
        progress.hold(1);
        assert_eq!((progress.acknowledge(1, 0), progress.draining()), (Some(1), 1));
        assert!(progress.is_next(1, 1) && !progress.is_next(1, 2) && !progress.is_next(9, 0));
        assert_eq!(
            (progress.acknowledge(1, 2), progress.draining()),
            (None, 0),
            "but for the one held"
        );
        assert_eq!(progress.next_behind(0), Some((0, 0)));
        progress.release(1);
        assert_eq!((progress.acknowledge(1, 1), progress.draining()), (Some(3), 0));
    }

    #[test]
    fn lanes_that_are_behind_take_turns() {
        let lane = |lane, cursor| LaneState { lane, cursor, end: 1000, bytes: 50 };
        let progress = OutboxProgress::new(4, 1000, &[lane(0, 1), lane(2, 900)]);
        assert_eq!(progress.next_behind(0), Some((0, 1)));
        assert_eq!(progress.next_behind(1), Some((2, 900)));
        assert_eq!(progress.next_behind(3), Some((0, 1)));
    }
}
