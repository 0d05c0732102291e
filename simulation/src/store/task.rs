//! A request under way.

use std::sync::Arc;

use hydrant_engine::now::Boot;
use hydrant_engine::ports::StoreError;

use super::moving::Taking;
use super::request::Request;
use super::sealing::{Sealer, Starting};
use super::tables::Held;
use super::writing::Writing;

/// A request under way. Its incarnation has sent it; each step of it is something that the store does at one moment.
#[derive(Debug, Clone)]
pub struct Task {
    pub(super) who: u64,
    pub(super) sent: Boot,
    pub(super) work: Work,
}

#[derive(Debug, Clone)]
pub(super) enum Work {
    Write(Box<Writing>),
    Take(Box<Taking>),
    Seal(Box<Sealer>),
    Start(Box<Starting>),
    Locate {
        client_id: Arc<str>,
        seen: Option<Held>,
    },
    /// One step.
    Other(Request),
    Failed(StoreError),
}

impl Task {
    /// The incarnation that asks; zero of a start that has no number yet.
    pub fn who(&self) -> u64 {
        self.who
    }

    /// When the request was sent.
    pub fn sent(&self) -> Boot {
        self.sent
    }

    /// How many things the next step may choose from: mutations that are under way at once.
    pub fn open(&self) -> usize {
        match &self.work {
            Work::Write(writing) => writing.open(),
            Work::Seal(sealer) => sealer.open(),
            _ => 1,
        }
    }
}

impl Task {
    /// Only its answer is left.
    pub(super) fn is_last_step(&self) -> bool {
        match &self.work {
            Work::Write(writing) => writing.is_last_step(),
            Work::Take(taking) => taking.is_last_step(),
            Work::Seal(sealer) => sealer.is_last_step(),
            _ => false,
        }
    }
}
