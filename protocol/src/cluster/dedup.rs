//! Which prepared publishes of other nodes a node has routed, so that it takes none twice.
//!
//! A QoS 2 publish that other nodes want is *prepared* from before any of them gets it until all have it
//! (docs/decisions/0014-prepared-publishes.md). When its node is lost in between, the successor publishes it again
//! under the same id; who has it already knows that here.
//!
//! What a node has routed, its sessions have, but for those that have come from another since: these have what
//! they got there ([`Roamed`]).
//!
//! Bounds: [`INCARNATIONS`]; of each router what is prepared there, since every publish says below which number
//! nothing is. [`ROUTERS`] and [`VISITS`] for what a session carries along.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use super::message::{PublishId, Recipients};

/// Incarnations whose prepared publishes are remembered, the last to be heard of: a few an outage.
pub const INCARNATIONS: usize = 1024;
/// Routers of which a session carries along what it has, the last to be heard of: those of some nodes. What another
/// router had begun when its node was lost can come twice to a session that changes its node in between.
pub const ROUTERS: usize = 64;
/// Nodes that a session remembers to have been at, the last ones.
pub const VISITS: usize = 4;

/// Numbers, as ranges without a gap: first and last of each, ascending. Nearly all are one range.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct RangeSet(Vec<(u64, u64)>);

impl RangeSet {
    /// The range that has it, or else the one behind it.
    fn at(&self, number: u64) -> usize {
        self.0.partition_point(|range| range.1 < number)
    }

    fn has(&self, number: u64) -> bool {
        self.0.get(self.at(number)).is_some_and(|range| range.0 <= number)
    }

    fn insert(&mut self, number: u64) {
        let at = self.at(number);
        if self.has(number) {
            return;
        }
        let before = at > 0 && self.0[at - 1].1 + 1 == number;
        let behind = self.0.get(at).is_some_and(|range| range.0 == number + 1);
        match (before, behind) {
            (true, true) => self.0[at - 1].1 = self.0.remove(at).1,
            (true, false) => self.0[at - 1].1 = number,
            (false, true) => self.0[at].0 = number,
            (false, false) => self.0.insert(at, (number, number)),
        }
    }

    fn remove(&mut self, number: u64) {
        if !self.has(number) {
            return;
        }
        let at = self.at(number);
        let (first, last) = self.0.remove(at);
        if number < last {
            self.0.insert(at, (number + 1, last));
        }
        if first < number {
            self.0.insert(at, (first, number - 1));
        }
    }

    fn forget_below(&mut self, low_watermark: u64) {
        self.0.drain(..self.at(low_watermark));
        if let Some(first) = self.0.first_mut() {
            first.0 = first.0.max(low_watermark);
        }
    }
}

/// What of one router has been routed.
#[derive(Debug, Default)]
struct RouterWindow {
    /// All below is.
    low_watermark: u64,
    queues: RangeSet,
    live: RangeSet,
    /// When it was heard of last, by a count of all.
    heard: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub struct DedupWindow {
    routers: BTreeMap<(u64, u16), RouterWindow>,
    incarnations: VecDeque<u64>,
    heard: u64,
}

impl DedupWindow {
    /// Whether this publish has been routed for these recipients.
    pub fn has(&self, id: PublishId, recipients: Recipients) -> bool {
        let Some(router) = self.routers.get(&(id.incarnation, id.router)) else { return false };
        let numbers = if recipients == Recipients::Live { &router.live } else { &router.queues };
        id.number < router.low_watermark || numbers.has(id.number)
    }

    /// It has been now; nothing of its router below `low_watermark` will come again.
    pub fn insert(&mut self, id: PublishId, recipients: Recipients, low_watermark: u64) {
        if !self.incarnations.contains(&id.incarnation) {
            if self.incarnations.len() >= INCARNATIONS
                && let Some(oldest) = self.incarnations.pop_front()
            {
                self.routers.retain(|(incarnation, _), _| *incarnation != oldest);
            }
            self.incarnations.push_back(id.incarnation);
        }
        self.heard += 1;
        let router = self.routers.entry((id.incarnation, id.router)).or_default();
        router.heard = self.heard;
        if low_watermark > router.low_watermark {
            router.low_watermark = low_watermark;
            router.queues.forget_below(low_watermark);
            router.live.forget_below(low_watermark);
        }
        if id.number >= router.low_watermark {
            let numbers =
                if recipients == Recipients::Live { &mut router.live } else { &mut router.queues };
            numbers.insert(id.number);
        }
    }

    /// What has been routed for queues.
    pub fn known(&self) -> DedupSnapshot {
        let mut routers: Vec<_> = self.routers.iter().collect();
        if routers.len() > ROUTERS {
            routers.sort_unstable_by_key(|(_, router)| Reverse(router.heard));
            routers.truncate(ROUTERS);
        }
        let known = |((incarnation, router), of): (&(u64, u16), &RouterWindow)| RouterSnapshot {
            incarnation: *incarnation,
            router: *router,
            low_watermark: of.low_watermark,
            above: of.queues.clone(),
        };
        DedupSnapshot { routers: routers.into_iter().map(known).collect() }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct RouterSnapshot {
    incarnation: u64,
    router: u16,
    low_watermark: u64,
    above: RangeSet,
}

/// Prepared publishes that a node had routed for queues at some time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DedupSnapshot {
    routers: Vec<RouterSnapshot>,
}

impl DedupSnapshot {
    /// None.
    pub fn is_empty(&self) -> bool {
        self.routers.is_empty()
    }

    /// Without these, which were buffered for one session and not queued.
    pub fn without(mut self, ids: impl Iterator<Item = PublishId>) -> Self {
        for id in ids {
            let its = |router: &&mut RouterSnapshot| {
                (router.incarnation, router.router) == (id.incarnation, id.router)
            };
            if let Some(router) = self.routers.iter_mut().find(its) {
                router.above.remove(id.number);
            }
        }
        self
    }

    fn has(&self, id: PublishId) -> bool {
        self.routers.iter().any(|router| {
            (router.incarnation, router.router) == (id.incarnation, id.router)
                && (id.number < router.low_watermark || router.above.has(id.number))
        })
    }
}

/// Where a session has been.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Visit {
    /// The lost incarnations that it may have been taken over from there.
    pub orphans: Vec<u64>,
    /// What that node had routed before it came.
    pub arrived: DedupSnapshot,
    /// And when it went.
    pub left: DedupSnapshot,
}

/// What a session has that has changed its node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Roamed {
    /// Where it was, the last one last.
    pub past: Vec<Visit>,
    /// What this node had routed when it came here.
    pub arrived: DedupSnapshot,
}

impl Roamed {
    /// Whether it has this one, which its present node has routed or not; `queued`: it was queued for all
    /// sessions that its incarnation held.
    pub fn has(&self, id: PublishId, routed: bool, queued: bool) -> bool {
        let has = |visit: &Visit| match visit.orphans.contains(&id.incarnation) {
            true => queued,
            false => visit.left.has(id) && !visit.arrived.has(id),
        };
        self.past.iter().any(has) || routed && !self.arrived.has(id)
    }

    /// It goes on, from a node where it was one of these orphaned states and that had routed so much.
    pub fn leaves(&self, orphans: Vec<u64>, left: DedupSnapshot) -> Vec<Visit> {
        let mut past = self.past.clone();
        if !orphans.is_empty() || !left.is_empty() {
            past.push(Visit { orphans, arrived: self.arrived.clone(), left });
        }
        past.drain(..past.len().saturating_sub(VISITS));
        past
    }
}

/// Numbers that a router has given to its prepared publishes, and the lowest that is still prepared.
#[derive(Debug)]
pub struct PreparedSequence {
    next: u64,
    prepared: BTreeSet<u64>,
}

impl Default for PreparedSequence {
    fn default() -> Self {
        Self { next: 1, prepared: BTreeSet::new() }
    }
}

impl PreparedSequence {
    /// The number that [`PreparedSequence::prepare`] gives next.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// The next number, prepared from now on.
    pub fn prepare(&mut self) -> u64 {
        let number = self.next;
        self.next += 1;
        self.prepared.insert(number);
        number
    }

    /// It is everywhere, or nowhere and will not be sent.
    pub fn close(&mut self, number: u64) {
        self.prepared.remove(&number);
    }

    /// Nothing below is prepared.
    pub fn low_watermark(&self) -> u64 {
        self.prepared.first().copied().unwrap_or(self.next)
    }

    /// Prepared ones.
    pub fn len(&self) -> usize {
        self.prepared.len()
    }

    /// True when none is prepared.
    pub fn is_empty(&self) -> bool {
        self.prepared.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn id(incarnation: u64, router: u16, number: u64) -> PublishId {
        PublishId { incarnation, router, number }
    }

    #[test]
    fn a_publish_is_known_by_incarnation_router_number_and_recipients() {
        let mut window = DedupWindow::default();
        window.insert(id(7, 0, 3), Recipients::Queues, 1);
        assert!(window.has(id(7, 0, 3), Recipients::Queues));
        assert!(!window.has(id(7, 0, 3), Recipients::Live));
        assert!(!window.has(id(7, 1, 3), Recipients::Queues));
        assert!(!window.has(id(8, 0, 3), Recipients::Queues));
        assert!(!window.has(id(7, 0, 2), Recipients::Queues));
    }

    #[test]
    fn what_is_closed_takes_no_memory() {
        let mut window = DedupWindow::default();
        for number in 1..=1000 {
            window.insert(id(7, 0, number), Recipients::Queues, number.saturating_sub(2));
            window.insert(id(7, 0, number), Recipients::Live, number.saturating_sub(2));
        }
        assert_eq!(window.routers[&(7, 0)].queues, RangeSet(vec![(998, 1000)]));
        assert!(window.has(id(7, 0, 1), Recipients::Live), "below the low watermark all is known");
        assert!(!window.has(id(7, 0, 1001), Recipients::Queues));
        // An old frame does not lower the floor.
        window.insert(id(7, 0, 5), Recipients::Queues, 1);
        assert!(window.has(id(7, 0, 400), Recipients::Queues));
        for incarnation in 0..=INCARNATIONS as u64 {
            window.insert(id(100 + incarnation, 0, 1), Recipients::Queues, 1);
        }
        assert!(!window.has(id(7, 0, 1), Recipients::Queues), "the oldest is forgotten");
        assert_eq!(window.routers.len(), INCARNATIONS);
    }

    #[test]
    fn a_session_has_what_it_got_where_it_was() {
        let (mut first, mut second) = (DedupWindow::default(), DedupWindow::default());
        let queues = Recipients::Queues;
        first.insert(id(7, 0, 4), queues, 3);
        let roamed = Roamed::default();
        assert!(roamed.has(id(7, 0, 4), true, false) && !roamed.has(id(7, 0, 5), false, false));
        // At the second node, which has routed 5 before, and routes 6 behind.
        second.insert(id(7, 0, 5), queues, 3);
        let past = roamed.leaves(Vec::new(), first.known());
        let roamed = Roamed { past, arrived: second.known() };
        second.insert(id(7, 0, 6), queues, 3);
        let has = |roamed: &Roamed, of: &DedupWindow, n| {
            let id = id(7, 0, n);
            roamed.has(id, of.has(id, queues), false)
        };
        let at_second: Vec<bool> = (1..8).map(|n| has(&roamed, &second, n)).collect();
        assert_eq!(at_second, [true, true, false, true, false, true, false]);
        // What was buffered for it while it was on its way is its own here, and was not there.
        let buffered = || [id(7, 0, 4), id(7, 0, 5)].into_iter();
        let past = Roamed::default().leaves(Vec::new(), first.known().without(buffered()));
        let arrived = second.known().without(buffered());
        let other = Roamed { past, arrived };
        assert_eq!([4, 5, 6].map(|n| has(&other, &second, n)), [false, true, false]);
        // And back.
        let past = roamed.leaves(Vec::new(), second.known());
        let roamed = Roamed { past, arrived: first.known() };
        let at_first: Vec<bool> = (1..8).map(|n| has(&roamed, &first, n)).collect();
        assert_eq!(at_first, at_second);
        // What it has of the node that it was taken over from, only the store knows.
        let past = Roamed::default().leaves(vec![7], first.known());
        let roamed = Roamed { past, arrived: DedupSnapshot::default() };
        assert!(!roamed.has(id(7, 0, 4), false, false) && roamed.has(id(7, 0, 9), false, true));
    }

    #[test]
    fn runs_are_what_a_set_of_the_numbers_is() {
        let mut random = crate::cluster::random::Random(5);
        let (mut ranges, mut set) = (RangeSet::default(), BTreeSet::new());
        for _ in 0..5000 {
            let number = random.below(60) as u64;
            match random.below(5) {
                0 => {
                    ranges.remove(number);
                    set.remove(&number);
                }
                1 if random.one_in(20) => {
                    ranges.forget_below(number);
                    set = set.split_off(&number);
                }
                _ => {
                    ranges.insert(number);
                    set.insert(number);
                }
            }
            assert!((0..61).all(|number| ranges.has(number) == set.contains(&number)));
            assert!(ranges.0.iter().all(|(first, last)| first <= last));
            assert!(ranges.0.windows(2).all(|two| two[0].1 + 1 < two[1].0), "{ranges:?}");
        }
    }

    #[test]
    fn what_a_session_carries_is_bounded() {
        let mut window = DedupWindow::default();
        for router in 0..200 {
            window.insert(id(7, router, 1), Recipients::Queues, 1);
        }
        window.insert(id(7, 0, 2), Recipients::Queues, 1);
        let known = window.known();
        assert_eq!(known.routers.len(), ROUTERS);
        assert!(known.has(id(7, 0, 2)) && known.has(id(7, 199, 1)) && !known.has(id(7, 1, 1)));
        let mut roamed = Roamed::default();
        for orphan in 1..10 {
            roamed.past = roamed.leaves(vec![orphan], DedupSnapshot::default());
        }
        let orphans: Vec<u64> =
            roamed.past.iter().flat_map(|visit| visit.orphans.clone()).collect();
        assert_eq!(orphans, [6, 7, 8, 9]);
        roamed.past = roamed.leaves(Vec::new(), DedupSnapshot::default());
        assert_eq!(roamed.past.len(), VISITS, "where nothing was routed is not remembered");
    }

    #[test]
    fn the_floor_is_the_lowest_open_number() {
        let mut numbers = PreparedSequence::default();
        assert_eq!(numbers.low_watermark(), 1);
        let (a, b, c) = (numbers.prepare(), numbers.prepare(), numbers.prepare());
        numbers.close(b);
        assert_eq!(numbers.low_watermark(), a);
        numbers.close(a);
        assert_eq!((numbers.low_watermark(), numbers.len()), (c, 1));
        numbers.close(c);
        assert_eq!(numbers.low_watermark(), 4);
        assert!(numbers.is_empty());
    }
}
