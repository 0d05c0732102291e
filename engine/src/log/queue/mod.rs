//! The log queue: decides in which order records are handed to the message log, and what follows from its reports. A
//! machine without IO (decision 0017): LogActor drives it, and it outlives the actor, so that a rebuilt one loses nothing.
//!
//! - `handle_*` takes what has happened: work, reports, pages of the store, dead letters that were written or dropped,
//!   deadlines.
//! - `poll_*` gives what is to be done: records for the log, orders, the next deadline, lines and counts;
//!   [`LogQueue::hand_out`] pushes writes and answers.
//! - The rest observes.
//!
//! A step of the driver is one or more `handle_*`, then [`LogQueue::handle_turn`], `hand_out`, new work while
//! [`LogQueue::has_room`], and every `poll_*` until it gives nothing.
//!
//! Invariants: what a report says is owed until it was handed on, and what is decided stays until it was pushed, so a
//! panic anywhere loses neither. Records are sent in the order in which they came; after a failure all of them that
//! are not acknowledged are sent again, in that order. A record of the outbox is done once the log has it or its dead
//! letter is durable.
//!
//! Bounds: `log.max_pending_messages` and `log.max_pending_bytes`, past which nothing is admitted; a page of the store
//! is read while half of both is free. Records that stay in the outbox: see `late` and `held`. What is owed and
//! not handed out stems from one step.

mod effects;
mod hand_out;
mod happened;
mod held;
mod late;
mod outside;
mod owed;
mod pages;
mod reads;
mod records;
mod refused;
mod reset;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use effects::Effects;
use happened::Happened;
pub use happened::{Fate, Notice};
use held::Held;
use late::Late;
pub use outside::{Outside, Push};
use owed::{Kind, Owed};
use reads::{Again, LanePage, Read};
pub use reads::{LogOrder, ReadId};
pub use records::Outcome;
use records::Records;
use reset::Reset;

use crate::messages::{DeadWork, LogWork};
use crate::now::{Boot, Now};
use crate::ports::{LogRecord, Report};
use crate::settings::LogSettings;

/// Records handed to the log in one call.
const APPEND_AT_ONCE: usize = 4096;

/// See the module.
#[derive(Debug)]
pub struct LogQueue {
    max_messages: usize,
    max_bytes: usize,
    workers: usize,
    /// Records under way.
    records: Records,
    /// What was reported and not handed on.
    owed: Owed,
    /// Refused records that stay in the outbox.
    held: Held,
    /// Dead letters have gone: records that are held may have room.
    has_space: bool,
    /// Records of the outbox that stay there, because the log takes no more of their topics.
    late: Late,
    reset: Reset,
    /// The log has given records back in this step.
    log_is_full: bool,
    /// Lanes of the records that were taken out of the inbox, as the lanes do not know it yet.
    admitted: Vec<u16>,
    /// The lane whose turn it is to be read.
    next_lane: u16,
    lane: Read<LanePage>,
    again: Read<Again>,
    last_read: ReadId,
    effects: Effects,
    happened: Happened,
    notices: VecDeque<Notice>,
}

impl LogQueue {
    /// Empty, on a node with so many workers.
    pub fn new(settings: &LogSettings, workers: usize) -> Self {
        Self {
            max_messages: settings.max_pending_messages,
            max_bytes: settings.max_pending_bytes,
            workers,
            records: Records::default(),
            owed: Owed::default(),
            held: Held::default(),
            has_space: false,
            late: Late::default(),
            reset: Reset::new(settings.retry_min, settings.retry_max),
            log_is_full: false,
            admitted: Vec::new(),
            next_lane: 0,
            lane: Read::default(),
            again: Read::default(),
            last_read: ReadId::default(),
            effects: Effects::default(),
            happened: Happened::default(),
            notices: VecDeque::new(),
        }
    }

    /// The driver is a new one: no read of its predecessor's is answered any more, and its timers are gone.
    pub fn handle_restart(&mut self) {
        self.lane = Read::Idle;
        self.again = Read::Idle;
        self.reset.restart(self.records.in_log() > 0);
    }

    /// A record for the log. To be asked first: [`Self::has_room`].
    pub fn handle_work(&mut self, outside: &impl Outside, work: LogWork) {
        let LogWork { record, token, on_refused } = work;
        let lane = record.outbox.map(|at| at.lane);
        if token.is_some() || !self.comes_late(outside, &record) {
            self.records.push_as(record, token, Kind::Publish(on_refused));
        }
        self.admitted.extend(lane);
    }

    /// Leaves a record in the outbox where the log takes no more of its topic. True: it was left.
    fn comes_late(&mut self, outside: &impl Outside, record: &LogRecord) -> bool {
        let Some(at) = record.outbox else { return false };
        let late = self.late.holds(&record.topic) || !outside.takes(&record.topic);
        if late {
            self.late.put(&record.topic, at);
        }
        late
    }

    /// The log reports on one record. What follows from it is owed; a second report changes nothing.
    pub fn handle_report(&mut self, now: Now, report: Report) -> Outcome {
        self.records.report(report, now.boot, &mut self.owed, &mut self.held)
    }

    /// The log had no room for the records from id `from` on, or nobody knows which of them it took.
    pub fn handle_given_back(&mut self, from: u64) {
        self.records.give_back(from);
        // Room is announced by the next report.
        self.log_is_full = true;
    }

    /// The store has done something with a dead letter, or some are to be sent again.
    pub fn handle_dead_work(&mut self, outside: &impl Outside, work: DeadWork) {
        match work {
            DeadWork::Written { id, outbox } => {
                outside.book(|book| book.written(id));
                self.happened.written += 1;
                self.owed.done.extend(outbox);
            }
            DeadWork::Dropped { id } => {
                outside.book(|book| book.dropped(id));
                self.has_space = true;
            }
            DeadWork::Replay => {}
        }
        self.happened.letters_changed = true;
    }

    /// A moment of [`Self::poll_deadline`] has come.
    pub fn handle_deadline(&mut self, now: Now) {
        self.lane.go_on(now.boot);
        self.again.go_on(now.boot);
        if self.reset.is_over(now.boot) {
            self.records.rewind();
        }
    }

    /// Decides on everything that was reported. Each part may be done twice, none may be forgotten.
    pub fn handle_turn(&mut self, now: Now, outside: &impl Outside) {
        self.log_is_full = false;
        if std::mem::take(&mut self.has_space) {
            self.release_held(outside);
        }
        // A refusal is an answer, too: a log that refuses all there is makes no node unready.
        let answered = !self.owed.refused.is_empty() || self.owed.acknowledged > 0;
        self.bury(now, outside);
        self.remove_replayed(outside);
        self.move_cursors(outside);
        self.happened.acknowledged += std::mem::take(&mut self.owed.acknowledged);
        if answered && self.owed.failure.is_none() {
            self.reset.answered();
            self.happened.readiness = Some(Ok(()));
        }
        if self.held.take_one_over() {
            self.release_held(outside);
        }
        if let Some(why) = self.owed.failure.take() {
            self.begin_reset(why);
        }
        if self.records.in_log() == 0 {
            self.reset.wait(now.boot);
        }
    }

    fn move_cursors(&mut self, outside: &impl Outside) {
        if self.owed.done.is_empty() {
            return;
        }
        let Self { owed, effects, happened, .. } = self;
        outside.lanes(|lanes| {
            let mut has_moved = false;
            for at in &owed.done {
                if let Some(cursor) = lanes.acknowledge(at.lane, at.position) {
                    effects.moved(at.lane, cursor);
                    has_moved = true;
                }
            }
            if has_moved {
                happened.backlog = Some(lanes.backlog());
            }
        });
        owed.done.clear();
    }

    fn begin_reset(&mut self, why: String) {
        self.happened.failed += 1;
        if self.reset.begin() {
            self.happened.resets += 1;
            self.happened.readiness = Some(Err(why.clone()));
            self.notices.push_back(Notice::Reset { why });
        }
    }

    /// Records to be handed to the log now, in order; never none. They count as handed over.
    pub fn poll_append(&mut self, now: Now) -> Option<Vec<LogRecord>> {
        if self.reset.is_under_way() || self.log_is_full {
            return None;
        }
        let batch = self.records.take_unsent(APPEND_AT_ONCE, now.boot);
        (!batch.is_empty()).then_some(batch)
    }

    /// When [`Self::handle_deadline`] is due.
    pub fn poll_deadline(&self) -> Option<Boot> {
        let deadlines = [self.lane.deadline(), self.again.deadline(), self.reset.deadline()];
        deadlines.into_iter().flatten().min()
    }

    /// What has happened since this was asked last.
    pub fn poll_happened(&mut self) -> Happened {
        std::mem::take(&mut self.happened)
    }

    /// Something that an operator is told.
    pub fn poll_notice(&mut self) -> Option<Notice> {
        self.notices.pop_front()
    }

    /// Another record may be admitted.
    pub fn has_room(&self) -> bool {
        self.records.len() < self.max_messages
            && self.records.bytes() < self.max_bytes
            && !self.late.is_full(self.max_bytes)
    }

    /// Nothing is under way but records in the log's hands and their reports: no reset, no read, nothing that is to be
    /// read, and no record that is still to be sent. Then a step gives no order and sets no deadline, unless dead letters
    /// wait to be sent again (`DeadBook::next_queued`): the book, which is held for long, is the driver's to look at.
    pub fn is_plain(&self, outside: &impl Outside) -> bool {
        !self.reset.is_under_way()
            && self.admitted.is_empty()
            && self.lane.is_idle()
            && self.again.is_idle()
            && self.held.is_empty()
            && self.held.tried() == 0
            && self.late.is_empty()
            && !self.records.has_unsent()
            && !outside.lanes(|lanes| lanes.any_behind())
    }

    /// Something waits that no message announces: room in the log, or that it takes more of a topic. A turn is due
    /// once in a while.
    pub fn waits(&self) -> bool {
        self.records.has_unsent() || !self.late.is_empty()
    }

    /// Records outstanding or waiting.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Their bytes.
    pub fn bytes(&self) -> usize {
        self.records.bytes()
    }

    /// Records in the log's hands.
    pub fn in_log(&self) -> usize {
        self.records.in_log()
    }

    /// Refused records that stay in the outbox.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Of these, records that are tried again.
    pub fn tried(&self) -> usize {
        self.held.tried()
    }

    /// Records that stay in the outbox, because the log takes no more of their topics.
    pub fn late(&self) -> usize {
        self.late.len()
    }

    /// Somebody is to be answered.
    pub fn owes_answers(&self) -> bool {
        !self.owed.answers.is_empty()
    }
}
