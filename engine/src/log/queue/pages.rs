//! What the log queue reads from the store, while half its room is free: lanes that are behind, and what is to be sent
//! again.
//!
//! A read that fails is begun again after the pause of the resets.

use super::LogQueue;
use super::happened::Notice;
use super::outside::Outside;
use super::reads::{Again, LanePage, LogOrder, Read, ReadId};
use crate::now::Now;
use crate::ports::{DeadId, DeadLetter, LogRecord, OutboxPosition, StoreError};

/// Records read from a lane in one go, and their bytes.
const READ_RECORDS: usize = 4096;
const READ_BYTES: usize = 4 * 1024 * 1024;
/// Dead letters read in one go.
const READ_LETTERS: usize = 256;

fn missing(at: OutboxPosition) -> StoreError {
    StoreError::Unavailable(format!("no record is found at {at:?} in the outbox"))
}

impl LogQueue {
    /// What the driver is to do next. A read counts as begun; its answer comes with its id.
    pub fn poll_order(&mut self, outside: &impl Outside) -> Option<LogOrder> {
        if self.reset.take_order() {
            return Some(LogOrder::Reset);
        }
        if !self.admitted.is_empty() {
            outside.lanes(|lanes| {
                while let Some(lane) = self.admitted.pop() {
                    lanes.admitted(lane);
                }
            });
        }
        self.read_again(outside).or_else(|| self.read_lane(outside))
    }

    fn next_read(&mut self) -> ReadId {
        self.last_read.0 += 1;
        self.last_read
    }

    /// Half the room is free.
    fn is_half_empty(&self) -> bool {
        self.records.len() * 2 <= self.max_messages && self.records.bytes() * 2 <= self.max_bytes
    }

    /// Reads on in what is to be sent again.
    fn read_again(&mut self, outside: &impl Outside) -> Option<LogOrder> {
        if !self.again.is_idle() || !self.is_half_empty() {
            return None;
        }
        let held = self.held.next().map(Again::Held);
        let letters = || outside.book(|book| book.next_queued()).map(Again::Letters);
        let again = match held.or_else(letters) {
            Some(again) => again,
            None => {
                let (topic, at) = self.late.next(|topic| outside.takes(topic))?;
                Again::Late(topic, at)
            }
        };
        let id = self.next_read();
        let order = match &again {
            Again::Held(OutboxPosition { lane, position }) => {
                LogOrder::ReadOutbox { id, lane: *lane, from: *position, records: 1, bytes: 1 }
            }
            Again::Late(_, OutboxPosition { lane, position }) => {
                let (records, bytes) = (READ_RECORDS, READ_BYTES);
                LogOrder::ReadOutbox { id, lane: *lane, from: *position, records, bytes }
            }
            Again::Letters(from) => {
                let (letters, bytes) = (READ_LETTERS, READ_BYTES);
                LogOrder::ReadLetters { id, from: *from, letters, bytes }
            }
        };
        self.again = Read::UnderWay(id, again);
        Some(order)
    }

    /// Reads on in one lane that is behind.
    fn read_lane(&mut self, outside: &impl Outside) -> Option<LogOrder> {
        if !self.lane.is_idle() || !self.is_half_empty() || self.late.is_full(self.max_bytes) {
            return None;
        }
        let (lane, from) = outside.lanes(|lanes| lanes.next_behind(self.next_lane))?;
        self.next_lane = lane.saturating_add(1);
        let id = self.next_read();
        self.lane = Read::UnderWay(id, LanePage { lane, from });
        let (records, bytes) = (READ_RECORDS, READ_BYTES);
        Some(LogOrder::ReadOutbox { id, lane, from, records, bytes })
    }

    /// The answer to `LogOrder::ReadOutbox`. One that comes a second time, or after [`Self::handle_restart`],
    /// changes nothing.
    pub fn handle_outbox_page(
        &mut self,
        now: Now,
        outside: &impl Outside,
        id: ReadId,
        page: Result<Vec<LogRecord>, StoreError>,
    ) {
        if let Some(read) = self.lane.answered(id) {
            self.lane_page(now, outside, read, page);
        } else if let Some(read) = self.again.answered(id) {
            let done = match read {
                Again::Held(at) => page.and_then(|records| self.held_page(at, records)),
                Again::Late(topic, at) => {
                    page.and_then(|records| self.late_page(&topic, at, records))
                }
                Again::Letters(_) => Ok(()),
            };
            self.again_read(now, done);
        }
    }

    /// The answer to `LogOrder::ReadLetters`; as above.
    pub fn handle_letters(
        &mut self,
        now: Now,
        outside: &impl Outside,
        id: ReadId,
        page: Result<Vec<DeadLetter>, StoreError>,
    ) {
        if let Some(Again::Letters(from)) = self.again.answered(id) {
            let done = page.map(|letters| self.letters_page(outside, from, letters));
            self.again_read(now, done);
        }
    }

    fn lane_page(
        &mut self,
        now: Now,
        outside: &impl Outside,
        LanePage { lane, from }: LanePage,
        page: Result<Vec<LogRecord>, StoreError>,
    ) {
        let nothing = || format!("nothing is found at position {from}");
        let page = page.and_then(|records| match records.is_empty() {
            true => Err(StoreError::Unavailable(nothing())),
            false => Ok(records),
        });
        match page {
            Ok(records) => self.admit_lane(outside, lane, from, records),
            Err(error) => {
                self.lane = Read::Pause(now.boot + self.reset.pause());
                self.notices.push_back(Notice::LaneUnread { lane, error });
            }
        }
    }

    fn admit_lane(
        &mut self,
        outside: &impl Outside,
        lane: u16,
        from: u64,
        records: Vec<LogRecord>,
    ) {
        let last = records.last().and_then(|last| last.outbox);
        let next = last.map_or(from, |at| at.position + 1);
        outside.book(|dead| {
            for record in records {
                if !dead.is_empty() && dead.knows(DeadId::of(&record)) {
                    // An earlier start was refused it, and ended before the cursor had passed it.
                    self.owed.done.extend(record.outbox);
                } else if !self.comes_late(outside, &record) {
                    self.records.push(record, None);
                }
            }
        });
        // Admitted before the lane says so: a panic in between repeats, it does not lose.
        outside.lanes(|lanes| lanes.read(lane, next));
    }

    fn held_page(&mut self, at: OutboxPosition, records: Vec<LogRecord>) -> Result<(), StoreError> {
        let first = records.into_iter().next().filter(|record| record.outbox == Some(at));
        self.records.push(first.ok_or_else(|| missing(at))?, None);
        self.held.was_read();
        Ok(())
    }

    fn late_page(
        &mut self,
        topic: &str,
        at: OutboxPosition,
        records: Vec<LogRecord>,
    ) -> Result<(), StoreError> {
        if records.first().is_none_or(|first| first.outbox != Some(at)) {
            return Err(missing(at));
        }
        for record in records {
            if let Some(at) = record.outbox
                && *record.topic == *topic
                && self.late.take(topic, at)
            {
                self.records.push(record, None);
            }
        }
        Ok(())
    }

    fn letters_page(&mut self, outside: &impl Outside, from: DeadId, letters: Vec<DeadLetter>) {
        let found = outside.book(|book| {
            for letter in letters {
                if book.sending(letter.id) {
                    self.records.push_replay(letter.record);
                }
            }
            let found = book.next_queued() != Some(from);
            if !found {
                book.stays(from);
            }
            found
        });
        if !found {
            self.notices.push_back(Notice::LetterMissing { id: from });
        }
    }

    fn again_read(&mut self, now: Now, done: Result<(), StoreError>) {
        if let Err(error) = done {
            self.again = Read::Pause(now.boot + self.reset.pause());
            self.notices.push_back(Notice::Unread { error });
        }
    }
}
