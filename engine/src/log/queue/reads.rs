//! What the log queue has the driver do: resets of the log, and reads of the store, one of a kind at a time.

use std::sync::Arc;

use crate::now::Boot;
use crate::ports::{DeadId, OutboxPosition};

/// Tells reads apart; none is used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReadId(pub u64);

/// What the driver is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogOrder {
    /// `MessageLog::reset`.
    Reset,
    /// `SessionStore::read_outbox`.
    ReadOutbox {
        /// The answer repeats it.
        id: ReadId,
        /// See there.
        lane: u16,
        /// See there.
        from: u64,
        /// At most.
        records: usize,
        /// At most, about.
        bytes: usize,
    },
    /// `SessionStore::dead_letters`.
    ReadLetters {
        /// The answer repeats it.
        id: ReadId,
        /// See there.
        from: DeadId,
        /// At most.
        letters: usize,
        /// At most, about.
        bytes: usize,
    },
}

/// A lane that is behind is read from a position on.
#[derive(Debug, Clone, Copy)]
pub struct LanePage {
    /// Which.
    pub lane: u16,
    /// The position.
    pub from: u64,
}

/// What is read to be sent again.
#[derive(Debug, Clone)]
pub enum Again {
    /// A record of the outbox, for which there was no room among the dead letters.
    Held(OutboxPosition),
    /// Dead letters from this one on.
    Letters(DeadId),
    /// Records of a topic that the log takes again, from this one on.
    Late(Arc<str>, OutboxPosition),
}

/// A read of one kind.
#[derive(Debug, Default)]
pub enum Read<T> {
    /// None is under way.
    #[default]
    Idle,
    /// The store has it.
    UnderWay(ReadId, T),
    /// One has failed; the next may begin then.
    Pause(Boot),
}

impl<T> Read<T> {
    /// One may begin.
    pub fn is_idle(&self) -> bool {
        matches!(self, Self::Idle)
    }

    /// This one is answered; what it was for. `None`: it is another, or was answered before.
    pub fn answered(&mut self, id: ReadId) -> Option<T> {
        match std::mem::take(self) {
            Self::UnderWay(its, what) if its == id => Some(what),
            other => {
                *self = other;
                None
            }
        }
    }

    /// When the pause is over.
    pub fn deadline(&self) -> Option<Boot> {
        match self {
            Self::Pause(until) => Some(*until),
            Self::Idle | Self::UnderWay(..) => None,
        }
    }

    /// One may begin when the pause is over.
    pub fn go_on(&mut self, now: Boot) {
        if self.deadline().is_some_and(|until| until <= now) {
            *self = Self::Idle;
        }
    }
}
