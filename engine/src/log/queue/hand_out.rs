//! Hands out what the log queue has decided, in one order for all drivers: dead letters, their removals, cursors, and
//! then the tokens. So the store's inbox has what follows from a report before anybody is told of it.

use std::collections::VecDeque;

use super::LogQueue;
use super::outside::{Outside, Push};
use crate::messages::CompletionToken;
use crate::ports::{LogOp, StoreOp};

impl LogQueue {
    /// Hands out everything that is decided. Each may be pushed twice after a panic; nothing is forgotten.
    pub fn hand_out(&mut self, outside: &impl Outside, to: &mut impl Push) {
        self.hand_out_letters(outside, to);
        let removals = &mut self.effects.removals;
        if !removals.is_empty() {
            let ops: Vec<_> =
                removals.iter().map(|&id| StoreOp::Log(LogOp::DropDeadLetter { id })).collect();
            let cost = 64 * ops.len();
            to.storage(ops, Vec::new(), cost);
            removals.clear();
        }
        let cursors = &mut self.effects.cursors;
        if !cursors.is_empty() {
            let moved = cursors.iter();
            let ops =
                moved.map(|&(lane, position)| StoreOp::Log(LogOp::MoveCursor { lane, position }));
            to.storage(ops.collect(), Vec::new(), 64);
            cursors.clear();
        }
        while let Some(token) = self.owed.refusals.front() {
            to.refused(*token);
            self.owed.refusals.pop_front();
        }
        self.hand_out_answers(to);
    }

    fn hand_out_letters(&mut self, outside: &impl Outside, to: &mut impl Push) {
        while let Some(letter) = self.effects.letters.front() {
            to.storage(letter.ops(), letter.token.into_iter().collect(), letter.cost());
            if letter.replayed {
                // It is written over the one that stands there, before anybody may drop it.
                outside.book(|book| book.stays(letter.letter.id));
            }
            self.effects.letters.pop_front();
        }
    }

    /// One message a worker.
    fn hand_out_answers(&mut self, to: &mut impl Push) {
        if self.owed.answers.is_empty() {
            return;
        }
        let mut answers: Vec<VecDeque<CompletionToken>> = vec![VecDeque::new(); self.workers];
        for token in &self.owed.answers {
            if let Some(answers) = answers.get_mut(usize::from(token.worker)) {
                answers.push_back(*token);
            }
        }
        for (worker, tokens) in answers.into_iter().enumerate() {
            if !tokens.is_empty() {
                to.completed(worker, tokens);
            }
        }
        self.owed.answers.clear();
    }
}
