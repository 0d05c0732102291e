//! What the log queue has decided and not handed out. An entry is gone once it was pushed, so a panic in between
//! repeats it; the store's operations are idempotent by key.
//!
//! Bound: what one step has reported.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::messages::CompletionToken;
use crate::ports::{DeadId, DeadLetter, LogOp, OutboxPosition, StoreOp};

/// A dead letter that is to be written.
#[derive(Debug)]
pub struct Letter {
    /// The dead letter.
    pub letter: Arc<DeadLetter>,
    /// The place in the outbox that ends with it, where nothing before it is left.
    pub passes: Option<OutboxPosition>,
    /// Who waits for it.
    pub token: Option<CompletionToken>,
    /// It was a dead letter, was sent again and is refused again.
    pub replayed: bool,
}

impl Letter {
    /// The write.
    pub fn ops(&self) -> Vec<StoreOp> {
        let mut ops = vec![LogOp::PutDeadLetter { letter: Arc::clone(&self.letter) }.into()];
        ops.extend(self.passes.map(|OutboxPosition { lane, position }| {
            StoreOp::Log(LogOp::MoveCursor { lane, position: position + 1 })
        }));
        ops
    }

    /// Its bytes.
    pub fn cost(&self) -> usize {
        self.letter.record.cost() + 128
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Effects {
    /// Dead letters to be written.
    pub letters: VecDeque<Letter>,
    /// Dead letters to be removed.
    pub removals: Vec<DeadId>,
    /// By lane: where its cursor is now.
    pub cursors: Vec<(u16, u64)>,
}

impl Effects {
    /// A lane's cursor has moved.
    pub fn moved(&mut self, lane: u16, cursor: u64) {
        match self.cursors.iter_mut().find(|(known, _)| *known == lane) {
            Some((_, known)) => *known = cursor,
            None => self.cursors.push((lane, cursor)),
        }
    }
}
