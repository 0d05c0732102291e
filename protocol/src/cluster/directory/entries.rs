//! What a [`Directory`](super::Directory) keeps of a node's start, a claim, a session held here and a session owned here.
//!
//! Plain data: the directory owns all of it, and bounds it.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::cluster::message::Control;

/// One start of a node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Holder {
    /// Its node id.
    pub node: Arc<str>,
    /// The number of its start.
    pub incarnation: u64,
}

#[derive(Debug)]
pub(super) struct Claim {
    pub(super) client: Arc<str>,
    pub(super) clean: bool,
    pub(super) hint: Option<u64>,
    /// The owner it was sent to; `None`: to be sent again.
    pub(super) sent: Option<Holder>,
    /// Its client has left, and its owner was told so.
    pub(super) withdrawn: bool,
}

#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) node: Arc<str>,
    pub(super) request: u64,
    pub(super) clean: bool,
    /// Whom the store names as the holder: who is asked before this one gets what nobody here holds.
    pub(super) hint: Option<u64>,
}

/// A handover, and who wait for it.
#[derive(Debug)]
pub(super) struct Moving {
    pub(super) ticket: u64,
    /// Whom its holder was told to give it up to.
    pub(super) to: Option<Holder>,
    pub(super) waiters: VecDeque<Waiter>,
}

impl Moving {
    pub(super) fn of(waiter: Waiter) -> Self {
        Self { ticket: 0, to: None, waiters: VecDeque::from([waiter]) }
    }
}

#[derive(Debug)]
pub(super) struct Owned {
    pub(super) holder: Holder,
    pub(super) clean: bool,
    /// The handover under way.
    pub(super) moving: Option<Box<Moving>>,
    /// Another who has said that it holds it, and was asked to give it up to `holder`.
    pub(super) doubted: Option<u64>,
}

/// A session of this node.
#[derive(Debug, Clone, Copy)]
pub(super) struct LocalSession {
    /// It ends with its connection.
    pub(super) clean: bool,
    /// The admission that it was held with last; [`ADMITTING`]: that is still to come. 0: it was not a
    /// connection's.
    pub(super) admission: u64,
}

/// A claim is granted, and its client not let in yet.
pub(super) const ADMITTING: u64 = u64::MAX;

/// What waits for [`Control::Resumed`] with this number.
#[derive(Debug)]
pub(super) struct Resuming {
    pub(super) number: u64,
    pub(super) claims: Vec<Control>,
}
