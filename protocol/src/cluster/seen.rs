//! Which open publishes of other nodes a node has routed, so that it takes none twice.
//!
//! A QoS 2 publish that other nodes want is *open* from before any of them gets it until all have it
//! (docs/decisions/0014-open-publishes.md). When its node is lost in between, the heir publishes it again
//! under the same id; who has it already knows that here.
//!
//! What a node has routed, its sessions have, but for those that have come from another since: these have what
//! they got there ([`Roamed`]).
//!
//! Bounds: [`INCARNATIONS`]; of each lane what is open there, since every publish says below which number
//! nothing is. [`LANES`] and [`STAYS`] for what a session carries along.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use super::message::{Audience, PublishId};

/// Incarnations whose open publishes are remembered, the last to be heard of: a few an outage.
pub const INCARNATIONS: usize = 1024;
/// Lanes of which a session carries along what it has, the last to be heard of: those of some nodes. What another
/// lane had begun when its node was lost can come twice to a session that changes its node in between.
pub const LANES: usize = 64;
/// Nodes that a session remembers to have been at, the last ones.
pub const STAYS: usize = 4;

/// Numbers, as runs without a gap: first and last of each, ascending. Nearly all are one run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Runs(Vec<(u64, u64)>);

impl Runs {
    /// The run that has it, or else the one behind it.
    fn at(&self, number: u64) -> usize {
        self.0.partition_point(|run| run.1 < number)
    }

    fn has(&self, number: u64) -> bool {
        self.0.get(self.at(number)).is_some_and(|run| run.0 <= number)
    }

    fn insert(&mut self, number: u64) {
        let at = self.at(number);
        if self.has(number) {
            return;
        }
        let before = at > 0 && self.0[at - 1].1 + 1 == number;
        let behind = self.0.get(at).is_some_and(|run| run.0 == number + 1);
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

    fn forget_below(&mut self, floor: u64) {
        self.0.drain(..self.at(floor));
        if let Some(first) = self.0.first_mut() {
            first.0 = first.0.max(floor);
        }
    }
}

/// What of one lane has been routed.
#[derive(Debug, Default)]
struct Lane {
    /// All below is.
    floor: u64,
    queues: Runs,
    live: Runs,
    /// When it was heard of last, by a count of all.
    heard: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Seen {
    lanes: BTreeMap<(u64, u16), Lane>,
    incarnations: VecDeque<u64>,
    heard: u64,
}

impl Seen {
    /// Whether this publish has been routed for this audience.
    pub fn has(&self, id: PublishId, audience: Audience) -> bool {
        let Some(lane) = self.lanes.get(&(id.incarnation, id.lane)) else { return false };
        let numbers = if audience == Audience::Live { &lane.live } else { &lane.queues };
        id.number < lane.floor || numbers.has(id.number)
    }

    /// It has been now; nothing of its lane below `floor` will come again.
    pub fn insert(&mut self, id: PublishId, audience: Audience, floor: u64) {
        if !self.incarnations.contains(&id.incarnation) {
            if self.incarnations.len() >= INCARNATIONS
                && let Some(oldest) = self.incarnations.pop_front()
            {
                self.lanes.retain(|(incarnation, _), _| *incarnation != oldest);
            }
            self.incarnations.push_back(id.incarnation);
        }
        self.heard += 1;
        let lane = self.lanes.entry((id.incarnation, id.lane)).or_default();
        lane.heard = self.heard;
        if floor > lane.floor {
            lane.floor = floor;
            lane.queues.forget_below(floor);
            lane.live.forget_below(floor);
        }
        if id.number >= lane.floor {
            let numbers =
                if audience == Audience::Live { &mut lane.live } else { &mut lane.queues };
            numbers.insert(id.number);
        }
    }

    /// What has been routed for queues.
    pub fn known(&self) -> Known {
        let mut lanes: Vec<_> = self.lanes.iter().collect();
        if lanes.len() > LANES {
            lanes.sort_unstable_by_key(|(_, lane)| Reverse(lane.heard));
            lanes.truncate(LANES);
        }
        let known = |((incarnation, lane), of): (&(u64, u16), &Lane)| KnownLane {
            incarnation: *incarnation,
            lane: *lane,
            floor: of.floor,
            above: of.queues.clone(),
        };
        Known { lanes: lanes.into_iter().map(known).collect() }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct KnownLane {
    incarnation: u64,
    lane: u16,
    floor: u64,
    above: Runs,
}

/// Open publishes that a node had routed for queues at some time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    lanes: Vec<KnownLane>,
}

impl Known {
    /// None.
    pub fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    /// Without these, which were put aside for one session and not queued.
    pub fn without(mut self, ids: impl Iterator<Item = PublishId>) -> Self {
        for id in ids {
            let its =
                |lane: &&mut KnownLane| (lane.incarnation, lane.lane) == (id.incarnation, id.lane);
            if let Some(lane) = self.lanes.iter_mut().find(its) {
                lane.above.remove(id.number);
            }
        }
        self
    }

    fn has(&self, id: PublishId) -> bool {
        self.lanes.iter().any(|lane| {
            (lane.incarnation, lane.lane) == (id.incarnation, id.lane)
                && (id.number < lane.floor || lane.above.has(id.number))
        })
    }
}

/// Where a session has been.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stay {
    /// The lost incarnations that it may have been inherited from there.
    pub estates: Vec<u64>,
    /// What that node had routed before it came.
    pub arrived: Known,
    /// And when it went.
    pub left: Known,
}

/// What a session has that has changed its node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Roamed {
    /// Where it was, the last one last.
    pub past: Vec<Stay>,
    /// What this node had routed when it came here.
    pub arrived: Known,
}

impl Roamed {
    /// Whether it has this one, which its present node has `seen` or not; `queued`: it was queued for all
    /// sessions that its incarnation held.
    pub fn has(&self, id: PublishId, seen: bool, queued: bool) -> bool {
        let has = |stay: &Stay| match stay.estates.contains(&id.incarnation) {
            true => queued,
            false => stay.left.has(id) && !stay.arrived.has(id),
        };
        self.past.iter().any(has) || seen && !self.arrived.has(id)
    }

    /// It goes on, from a node where it was one of these estates and that had routed so much.
    pub fn leaves(&self, estates: Vec<u64>, left: Known) -> Vec<Stay> {
        let mut past = self.past.clone();
        if !estates.is_empty() || !left.is_empty() {
            past.push(Stay { estates, arrived: self.arrived.clone(), left });
        }
        past.drain(..past.len().saturating_sub(STAYS));
        past
    }
}

/// Numbers that a lane has given to its open publishes, and the lowest that is still open.
#[derive(Debug)]
pub struct Numbers {
    next: u64,
    open: BTreeSet<u64>,
}

impl Default for Numbers {
    fn default() -> Self {
        Self { next: 1, open: BTreeSet::new() }
    }
}

impl Numbers {
    /// The number that [`Numbers::open`] gives next.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// The next number, open from now on.
    pub fn open(&mut self) -> u64 {
        let number = self.next;
        self.next += 1;
        self.open.insert(number);
        number
    }

    /// It is everywhere, or nowhere and will not be sent.
    pub fn close(&mut self, number: u64) {
        self.open.remove(&number);
    }

    /// Nothing below is open.
    pub fn floor(&self) -> u64 {
        self.open.first().copied().unwrap_or(self.next)
    }

    /// Open ones.
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// True when none is open.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn id(incarnation: u64, lane: u16, number: u64) -> PublishId {
        PublishId { incarnation, lane, number }
    }

    #[test]
    fn a_publish_is_known_by_incarnation_lane_number_and_audience() {
        let mut seen = Seen::default();
        seen.insert(id(7, 0, 3), Audience::Queues, 1);
        assert!(seen.has(id(7, 0, 3), Audience::Queues));
        assert!(!seen.has(id(7, 0, 3), Audience::Live));
        assert!(!seen.has(id(7, 1, 3), Audience::Queues));
        assert!(!seen.has(id(8, 0, 3), Audience::Queues));
        assert!(!seen.has(id(7, 0, 2), Audience::Queues));
    }

    #[test]
    fn what_is_closed_takes_no_memory() {
        let mut seen = Seen::default();
        for number in 1..=1000 {
            seen.insert(id(7, 0, number), Audience::Queues, number.saturating_sub(2));
            seen.insert(id(7, 0, number), Audience::Live, number.saturating_sub(2));
        }
        assert_eq!(seen.lanes[&(7, 0)].queues, Runs(vec![(998, 1000)]));
        assert!(seen.has(id(7, 0, 1), Audience::Live), "below the floor all is known");
        assert!(!seen.has(id(7, 0, 1001), Audience::Queues));
        // An old frame does not lower the floor.
        seen.insert(id(7, 0, 5), Audience::Queues, 1);
        assert!(seen.has(id(7, 0, 400), Audience::Queues));
        for incarnation in 0..=INCARNATIONS as u64 {
            seen.insert(id(100 + incarnation, 0, 1), Audience::Queues, 1);
        }
        assert!(!seen.has(id(7, 0, 1), Audience::Queues), "the oldest is forgotten");
        assert_eq!(seen.lanes.len(), INCARNATIONS);
    }

    #[test]
    fn a_session_has_what_it_got_where_it_was() {
        let (mut first, mut second) = (Seen::default(), Seen::default());
        let queues = Audience::Queues;
        first.insert(id(7, 0, 4), queues, 3);
        let roamed = Roamed::default();
        assert!(roamed.has(id(7, 0, 4), true, false) && !roamed.has(id(7, 0, 5), false, false));
        // At the second node, which has routed 5 before, and routes 6 behind.
        second.insert(id(7, 0, 5), queues, 3);
        let past = roamed.leaves(Vec::new(), first.known());
        let roamed = Roamed { past, arrived: second.known() };
        second.insert(id(7, 0, 6), queues, 3);
        let has = |roamed: &Roamed, of: &Seen, n| {
            let id = id(7, 0, n);
            roamed.has(id, of.has(id, queues), false)
        };
        let at_second: Vec<bool> = (1..8).map(|n| has(&roamed, &second, n)).collect();
        assert_eq!(at_second, [true, true, false, true, false, true, false]);
        // What was put aside for it while it was on its way is its own here, and was not there.
        let aside = || [id(7, 0, 4), id(7, 0, 5)].into_iter();
        let past = Roamed::default().leaves(Vec::new(), first.known().without(aside()));
        let arrived = second.known().without(aside());
        let other = Roamed { past, arrived };
        assert_eq!([4, 5, 6].map(|n| has(&other, &second, n)), [false, true, false]);
        // And back.
        let past = roamed.leaves(Vec::new(), second.known());
        let roamed = Roamed { past, arrived: first.known() };
        let at_first: Vec<bool> = (1..8).map(|n| has(&roamed, &first, n)).collect();
        assert_eq!(at_first, at_second);
        // What it has of the node that it was inherited from, only the store knows.
        let past = Roamed::default().leaves(vec![7], first.known());
        let roamed = Roamed { past, arrived: Known::default() };
        assert!(!roamed.has(id(7, 0, 4), false, false) && roamed.has(id(7, 0, 9), false, true));
    }

    #[test]
    fn runs_are_what_a_set_of_the_numbers_is() {
        let mut random = crate::cluster::random::Random(5);
        let (mut runs, mut set) = (Runs::default(), BTreeSet::new());
        for _ in 0..5000 {
            let number = random.below(60) as u64;
            match random.below(5) {
                0 => {
                    runs.remove(number);
                    set.remove(&number);
                }
                1 if random.one_in(20) => {
                    runs.forget_below(number);
                    set = set.split_off(&number);
                }
                _ => {
                    runs.insert(number);
                    set.insert(number);
                }
            }
            assert!((0..61).all(|number| runs.has(number) == set.contains(&number)));
            assert!(runs.0.iter().all(|(first, last)| first <= last));
            assert!(runs.0.windows(2).all(|two| two[0].1 + 1 < two[1].0), "{runs:?}");
        }
    }

    #[test]
    fn what_a_session_carries_is_bounded() {
        let mut seen = Seen::default();
        for lane in 0..200 {
            seen.insert(id(7, lane, 1), Audience::Queues, 1);
        }
        seen.insert(id(7, 0, 2), Audience::Queues, 1);
        let known = seen.known();
        assert_eq!(known.lanes.len(), LANES);
        assert!(known.has(id(7, 0, 2)) && known.has(id(7, 199, 1)) && !known.has(id(7, 1, 1)));
        let mut roamed = Roamed::default();
        for estate in 1..10 {
            roamed.past = roamed.leaves(vec![estate], Known::default());
        }
        let estates: Vec<u64> = roamed.past.iter().flat_map(|stay| stay.estates.clone()).collect();
        assert_eq!(estates, [6, 7, 8, 9]);
        roamed.past = roamed.leaves(Vec::new(), Known::default());
        assert_eq!(roamed.past.len(), STAYS, "where nothing was routed is not remembered");
    }

    #[test]
    fn the_floor_is_the_lowest_open_number() {
        let mut numbers = Numbers::default();
        assert_eq!(numbers.floor(), 1);
        let (a, b, c) = (numbers.open(), numbers.open(), numbers.open());
        numbers.close(b);
        assert_eq!(numbers.floor(), a);
        numbers.close(a);
        assert_eq!((numbers.floor(), numbers.len()), (c, 1));
        numbers.close(c);
        assert_eq!(numbers.floor(), 4);
        assert!(numbers.is_empty());
    }
}
