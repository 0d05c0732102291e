//! What the port's callers and the session's task share: the view, and what this node wants shown of itself.

use std::time::Instant;

use hydrant_actors::say::{Keyed, Reason};
use hydrant_protocol::cluster::{Load, MembershipView};
use parking_lot::Mutex;
use tokio::sync::watch;

/// Between the port's callers and the session's task.
pub(super) struct FollowerState {
    pub(super) view: watch::Sender<MembershipView>,
    /// What [`Membership::update`](hydrant_actors::ports::Membership::update) said last.
    pub(super) load: watch::Sender<Option<(Load, bool)>>,
    /// What [`Membership::present`](hydrant_actors::ports::Membership::present) said last.
    pub(super) present: watch::Sender<bool>,
    /// True once this node leaves.
    pub(super) leave: watch::Sender<bool>,
    /// Since when ZooKeeper does not answer.
    pub(super) away: Mutex<Option<Instant>>,
    /// What limits its lineages in the log.
    pub(super) said: Said,
}

/// The reasons of a membership's lineages, see [`say`](hydrant_actors::say).
#[derive(Default)]
pub(super) struct Said {
    pub(super) joined: Keyed,
    pub(super) left: Keyed,
    pub(super) ignored: Keyed,
    pub(super) away: Reason,
    pub(super) back: Reason,
}
