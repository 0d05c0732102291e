//! What follows from a durable batch, in the order in which it leaves: outbox entries and dead letters to the log actor,
//! then the tokens of those who wait, one message a worker.
//!
//! Invariants: handing a batch out twice hands no record over twice, since the lane says what was handed over; a second
//! token changes nothing for whoever gets it.
//! Bounds: empty between two batches; the lists keep their room.

use std::collections::VecDeque;
use std::time::Duration;
use std::vec::Drain;

use hydrant_protocol::OnRefused;

use crate::log::OutboxProgress;
use crate::messages::DeadWork;
use crate::messages::{CompletionToken, LogWork, ManagerWork};
use crate::ports::{LogOp, StoreOp};

/// All that a driver does with what is handed out. None of it may fail or wait.
pub trait Push {
    /// Durable records for the log actor and what each costs, in order.
    fn log(&mut self, work: Drain<'_, (LogWork, usize)>);
    /// What has become of a dead letter, for the log actor.
    fn dead_letter(&mut self, work: DeadWork);
    /// A message for the ConnectionManager of a worker.
    fn worker(&mut self, to: u16, work: ManagerWork);
}

/// The outbox's progress, which is shared with the log actor: lent for one call.
pub trait Outbox {
    /// Does something with it.
    fn lanes<R>(&self, act: impl FnOnce(&mut OutboxProgress) -> R) -> R;
}

/// A batch that has been handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answered {
    /// Its operations.
    pub ops: usize,
    /// How long its last write took.
    pub took: Duration,
}

/// See the module.
#[derive(Debug, Default)]
pub struct HandOut {
    records: Vec<(LogWork, usize)>,
    /// By worker.
    tokens: Vec<VecDeque<CompletionToken>>,
}

/// Pushed also when something behind it panics: the lane says that it is handed over.
struct Handed<'a, P: Push> {
    records: &'a mut Vec<(LogWork, usize)>,
    to: &'a mut P,
}

impl<P: Push> Drop for Handed<'_, P> {
    fn drop(&mut self) {
        if !self.records.is_empty() {
            self.to.log(self.records.drain(..));
        }
    }
}

impl HandOut {
    /// Durable outbox entries go to the log actor while it has room; else it reads them later. It hears of dead
    /// letters, too.
    pub fn hand_to_log(
        &mut self,
        ops: &[StoreOp],
        outbox: &mut OutboxProgress,
        log_has_room: bool,
        to: &mut impl Push,
    ) {
        // Pushed before the borrow of the outbox ends: two batches cannot overtake each other.
        let handed = Handed { records: &mut self.records, to };
        for op in ops {
            match op {
                StoreOp::Log(LogOp::PutOutbox { record, position }) => {
                    // Made first, so that nothing stands between the lane's word and the record.
                    let on_refused = OnRefused::DeadLetter;
                    let work = LogWork { record: record.clone(), token: None, on_refused };
                    let work = (work, record.cost());
                    if outbox.durable(position.lane, position.position, log_has_room) {
                        handed.records.push(work);
                    }
                }
                StoreOp::Log(LogOp::PutDeadLetter { letter }) => {
                    let (id, outbox) = (letter.id, letter.record.outbox);
                    handed.to.dead_letter(DeadWork::Written { id, outbox });
                }
                StoreOp::Log(LogOp::DropDeadLetter { id }) => {
                    handed.to.dead_letter(DeadWork::Dropped { id: *id });
                }
                _ => {}
            }
        }
    }

    /// Those who waited.
    pub(super) fn answer(&mut self, tokens: &[CompletionToken], to: &mut impl Push) {
        // A panic may have left some.
        self.tokens.iter_mut().for_each(VecDeque::clear);
        for token in tokens {
            let worker = usize::from(token.worker);
            if self.tokens.len() <= worker {
                self.tokens.resize_with(worker + 1, VecDeque::new);
            }
            if let Some(tokens) = self.tokens.get_mut(worker) {
                tokens.push_back(*token);
            }
        }
        for (worker, tokens) in (0..=u16::MAX).zip(&mut self.tokens) {
            if !tokens.is_empty() {
                to.worker(worker, ManagerWork::Completed(std::mem::take(tokens)));
            }
        }
    }
}
