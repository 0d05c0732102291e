//! Who is a member, by what was read from ZooKeeper and when.
//!
//! Pure; time is an argument. After ZooKeeper was away, members that were known stay for a session
//! time-out although they are not registered: they may only need to come back themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hydrant_protocol::cluster::{Member, MembershipView};

/// What a change means to others.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    Joined(Member),
    Left(Arc<str>),
}

/// The members as this node sees them.
pub(super) struct Roster {
    me: Member,
    /// False: this node has taken itself out.
    present: bool,
    generation: u64,
    others: BTreeMap<Arc<str>, Member>,
    /// Those of `others` that were known when the session was lost and are not registered now.
    missing: BTreeSet<Arc<str>>,
    /// Those that `grace` is for.
    before: BTreeSet<Arc<str>>,
    grace: Option<Instant>,
}

impl Roster {
    /// This node alone.
    pub(super) fn new(me: Member) -> Self {
        Self {
            me,
            present: true,
            generation: 0,
            others: BTreeMap::new(),
            missing: BTreeSet::new(),
            before: BTreeSet::new(),
            grace: None,
        }
    }

    /// This node, as it shows itself.
    pub(super) fn me(&self) -> &Member {
        &self.me
    }

    /// See [`Self::me`]; its node id and incarnation stay.
    pub(super) fn me_mut(&mut self) -> &mut Member {
        &mut self.me
    }

    /// Whether this node is among the members. True: that is new.
    pub(super) fn stands(&mut self, present: bool) -> bool {
        let news = std::mem::replace(&mut self.present, present) != present;
        self.generation += u64::from(news);
        news
    }

    /// ZooKeeper answers again: who is known now has until `now + grace` to come back.
    pub(super) fn reconnected(&mut self, now: Instant, grace: Duration) {
        self.before = self.others.keys().cloned().collect();
        self.grace = (!self.before.is_empty()).then(|| now + grace);
    }

    /// When [`Self::expire`] has something to do.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.grace.filter(|_| !self.missing.is_empty())
    }

    /// What is registered now. `cversion`: of the node that holds the entries, which other nodes
    /// see alike.
    pub(super) fn apply(&mut self, found: Vec<Member>, cversion: i32, now: Instant) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut registered = BTreeSet::new();
        for member in found.into_iter().filter(|member| member.node_id != self.me.node_id) {
            registered.insert(member.node_id.clone());
            let known = self.others.insert(member.node_id.clone(), member.clone());
            if known.is_none_or(|known| known.incarnation != member.incarnation) {
                changes.push(Change::Joined(member));
            }
        }
        let gone = self.others.keys().filter(|id| !registered.contains(*id));
        self.missing = gone.cloned().collect();
        changes.extend(self.expire(now));
        let cversion = u64::try_from(cversion).unwrap_or(0);
        if self.generation == 0 {
            self.generation = cversion.max(1);
        } else if !changes.is_empty() {
            self.generation = cversion.max(self.generation + 1);
        }
        changes
    }

    /// The same as read last, and time went on.
    pub(super) fn tick(&mut self, now: Instant) -> Vec<Change> {
        let changes = self.expire(now);
        self.generation += u64::from(!changes.is_empty());
        changes
    }

    /// Removes who is missing and has no grace, or none any more.
    fn expire(&mut self, now: Instant) -> Vec<Change> {
        if self.grace.is_some_and(|end| now >= end) {
            self.grace = None;
            self.before.clear();
        }
        let (missing, before) = (std::mem::take(&mut self.missing), &self.before);
        let (stay, left): (BTreeSet<_>, BTreeSet<_>) =
            missing.into_iter().partition(|id| before.contains(id));
        self.missing = stay;
        for id in &left {
            self.others.remove(id);
        }
        left.into_iter().map(Change::Left).collect()
    }

    /// For everybody.
    pub(super) fn view(&self, current: bool) -> MembershipView {
        let mut members: Vec<Member> = self.others.values().cloned().collect();
        let place = members.partition_point(|member| member.node_id < self.me.node_id);
        if self.present {
            members.insert(place, self.me.clone());
        }
        MembershipView { generation: self.generation, members: members.into(), current }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::super::entry::tests::member;
    use super::*;

    const GRACE: Duration = Duration::from_secs(6);

    fn ids(roster: &Roster) -> Vec<String> {
        roster.view(true).members.iter().map(|m| m.node_id.to_string()).collect()
    }

    fn joined(id: &str, incarnation: u64) -> Change {
        Change::Joined(member(id, incarnation))
    }

    #[test]
    fn members_come_and_go_and_the_generation_rises() {
        let now = Instant::now();
        let mut roster = Roster::new(member("n2", 1));
        assert_eq!(roster.apply(vec![member("n2", 1)], 5, now), []);
        assert_eq!((ids(&roster), roster.view(true).generation), (vec!["n2".to_owned()], 5));
        let both = vec![member("n3", 1), member("n1", 4)];
        assert_eq!(roster.apply(both.clone(), 7, now), [joined("n3", 1), joined("n1", 4)]);
        assert_eq!((ids(&roster).join(" "), roster.view(true).generation), ("n1 n2 n3".into(), 7));
        // Nothing changed, whatever ZooKeeper counts.
        assert_eq!(roster.apply(both, 9, now), []);
        assert_eq!(roster.view(true).generation, 7);
        // The node was made anew: ZooKeeper counts from 0, we do not.
        assert_eq!(roster.apply(vec![member("n1", 4)], 1, now), [Change::Left("n3".into())]);
        assert_eq!((ids(&roster).join(" "), roster.view(true).generation), ("n1 n2".into(), 8));
        assert_eq!(roster.apply(vec![member("n1", 5)], 2, now), [joined("n1", 5)]);
        assert_eq!(roster.view(false).generation, 9);
    }

    #[test]
    fn who_has_taken_itself_out_goes_on_seeing_the_others() {
        let now = Instant::now();
        let mut roster = Roster::new(member("n2", 1));
        roster.apply(vec![member("n1", 1)], 5, now);
        assert!(roster.stands(false) && !roster.stands(false));
        assert_eq!((ids(&roster).join(" "), roster.view(true).generation), ("n1".into(), 6));
        assert_eq!(roster.apply(vec![member("n1", 1), member("n3", 2)], 6, now), [joined("n3", 2)]);
        assert!(roster.stands(true));
        assert_eq!(ids(&roster).join(" "), "n1 n2 n3");
    }

    #[test]
    fn after_a_reconnection_the_known_ones_have_a_grace() {
        let now = Instant::now();
        let mut roster = Roster::new(member("n2", 1));
        roster.apply(vec![member("n1", 1), member("n3", 1)], 2, now);
        roster.reconnected(now, GRACE);
        assert_eq!(roster.deadline(), None);
        assert_eq!(roster.apply(vec![member("n3", 2)], 0, now), [joined("n3", 2)]);
        assert_eq!(ids(&roster).join(" "), "n1 n2 n3");
        assert_eq!(roster.deadline(), Some(now + GRACE));
        // One that came since has none.
        roster.apply(vec![member("n3", 2), member("n4", 1)], 0, now);
        assert_eq!(roster.apply(vec![member("n3", 2)], 0, now), [Change::Left("n4".into())]);
        let generation = roster.view(true).generation;
        assert_eq!(roster.tick(now + GRACE / 2), []);
        assert_eq!(roster.view(true).generation, generation);
        assert_eq!(roster.tick(now + GRACE), [Change::Left("n1".into())]);
        assert_eq!(roster.view(true).generation, generation + 1);
        assert_eq!((ids(&roster).join(" "), roster.deadline()), ("n2 n3".into(), None));
        // The grace is over for all.
        assert_eq!(roster.apply(vec![], 0, now + GRACE), [Change::Left("n3".into())]);
    }

    #[test]
    fn who_comes_back_in_time_never_left() {
        let now = Instant::now();
        let mut roster = Roster::new(member("n2", 1));
        roster.apply(vec![member("n1", 1)], 2, now);
        roster.reconnected(now, GRACE);
        assert_eq!(roster.apply(vec![], 0, now), []);
        assert_eq!(roster.apply(vec![member("n1", 1)], 0, now), []);
        assert_eq!((roster.tick(now + GRACE), roster.view(true).generation), (vec![], 2));
    }
}
