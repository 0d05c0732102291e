//! Which writes wait for which. Those that are whole or not at all ([`super::journal`]) and those
//! that change receipts come one after another. Those that add to the queue of one session, too: a
//! node that dies must not leave a message behind without the one before it. All others are done in
//! any order.
//!
//! Invariant: a write is not begun when one that it follows has failed. StorageActor writes both
//! again, in order.
//! Bounds: an entry a write under way (`storage.max_in_flight`), and one a session that it adds to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};

use ahash::AHashMap;
use futures_util::FutureExt as _;
use futures_util::future::Shared;
use hydrant_actors::ports::SessionId;
use tokio::sync::oneshot;

/// Tells every follower how a write ended.
type Over = Shared<oneshot::Receiver<bool>>;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Order {
    planned: u64,
    /// Nobody follows one whose task is gone without a word.
    under_way: BTreeMap<u64, (Over, Weak<()>)>,
    last_in_turn: Option<u64>,
    last_of: AHashMap<SessionId, u64>,
}

/// The place of one write.
#[derive(Debug)]
pub(super) struct Place {
    /// It waits for the one before of its kind.
    pub(super) in_turn: bool,
    number: u64,
    follows: Vec<Over>,
    sessions: Vec<SessionId>,
    done: oneshot::Sender<bool>,
    _alive: Arc<()>,
}

impl Order {
    /// The next write, in the order of the plans. `in_turn`: it waits for the one before of its
    /// kind; `sessions`: to whose queues it adds.
    pub(super) fn begins(&mut self, in_turn: bool, sessions: Vec<SessionId>) -> Place {
        self.planned += 1;
        let number = self.planned;
        let before = sessions.iter().filter_map(|session| self.last_of.insert(*session, number));
        let mut before: BTreeSet<u64> = before.collect();
        if in_turn {
            before.extend(self.last_in_turn.replace(number));
        }
        let follows = before.into_iter().filter_map(|number| {
            let (over, alive) = self.under_way.get(&number)?;
            (alive.strong_count() > 0).then(|| over.clone())
        });
        let follows = follows.collect();
        let ((done, over), alive) = (oneshot::channel(), Arc::new(()));
        self.under_way.insert(number, (over.shared(), Arc::downgrade(&alive)));
        Place { in_turn, number, follows, sessions, done, _alive: alive }
    }

    /// A write is over. True: it was one that comes in turn, and none is behind it.
    pub(super) fn ends(&mut self, place: Place, succeeded: bool) -> bool {
        let Place { number, sessions, done, .. } = place;
        self.under_way.remove(&number);
        for session in sessions {
            if self.last_of.get(&session) == Some(&number) {
                self.last_of.remove(&session);
            }
        }
        let last = self.last_in_turn == Some(number);
        if last {
            self.last_in_turn = None;
        }
        // Whoever follows it.
        let _ = done.send(succeeded);
        last
    }
}

impl Place {
    /// Waits for those that it follows. False: one of them failed.
    pub(super) async fn comes(&mut self) -> bool {
        for over in std::mem::take(&mut self.follows) {
            if !over.await.unwrap_or(false) {
                return false;
            }
        }
        true
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Whether its turn has come, without waiting.
    fn comes(place: &mut Place) -> Option<bool> {
        place
            .follows
            .iter()
            .map(|over| over.clone().now_or_never())
            .try_fold(true, |all, over| Some(all && over?.unwrap_or(false)))
    }

    #[test]
    fn a_session_and_what_comes_in_turn_wait_and_nobody_else() {
        let mut order = Order::default();
        let mut first = order.begins(false, vec![1, 2]);
        let mut other = order.begins(false, vec![3]);
        let mut second = order.begins(true, vec![2, 3]);
        let mut third = order.begins(true, vec![]);
        assert_eq!([comes(&mut first), comes(&mut other)], [Some(true); 2]);
        assert_eq!(comes(&mut second), None);
        assert!(!order.ends(other, true));
        assert_eq!(comes(&mut second), None, "one of two");
        assert!(!order.ends(first, true));
        assert_eq!([comes(&mut second), comes(&mut third)], [Some(true), None]);
        assert!(!order.ends(second, true), "another is behind it");
        assert_eq!(comes(&mut third), Some(true));
        assert!(order.ends(third, true));
        assert!(order.last_of.is_empty() && order.under_way.is_empty());
        assert_eq!(comes(&mut order.begins(true, vec![1, 2, 3])), Some(true));
    }

    #[test]
    fn a_failure_goes_through_to_all_that_follow_and_what_is_planned_again_is_free() {
        let mut order = Order::default();
        let first = order.begins(false, vec![1]);
        let mut second = order.begins(false, vec![1]);
        order.ends(first, false);
        assert_eq!(comes(&mut second), Some(false));
        let mut again = order.begins(false, vec![1]);
        order.ends(second, false);
        assert_eq!(comes(&mut again), Some(false), "planned before that one had ended");
        order.ends(again, false);
        let mut first = order.begins(false, vec![1]);
        assert_eq!(comes(&mut first), Some(true));
        // Its task is gone without a word.
        drop(first);
        assert_eq!(comes(&mut order.begins(false, vec![1])), Some(true));
    }
}
