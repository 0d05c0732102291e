//! What a step of a request comes to, and what may still come to be of a request that failed.

use std::sync::Arc;

use hydrant_engine::now::Boot;
use hydrant_engine::ports::StoreError;

use super::planned::Epoch;
use super::request::Answer;
use super::tables::{Change, Held};

/// What a step has come to.
#[derive(Debug)]
pub enum Step {
    /// There is more to do, at any time.
    More,
    /// It waits for another request of the same incarnation.
    Blocked,
    /// It is looked at again then.
    Until(Boot),
    /// It is over.
    Done(Result<Answer, StoreError>),
}

/// What was sent of a request that failed, and may still be done: later, in any order, or never.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct Late(pub(super) Vec<LateChange>);

#[derive(Debug, Clone)]
pub(super) enum LateChange {
    Plain(Vec<Change>),
    /// A conditional write of a session's holder, at a CONNECT.
    Holder(Epoch),
    /// The one by which a session moves.
    Give {
        client_id: Arc<str>,
        seen: Held,
        lineage: u64,
        fence: u64,
    },
}

impl Late {
    /// Nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One mutation each.
    pub fn split(self) -> Vec<Self> {
        self.0.into_iter().map(|change| Self(vec![change])).collect()
    }
}
