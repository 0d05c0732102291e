//! Which open publishes of other nodes a node has routed, so that it takes none twice.
//!
//! A QoS 2 publish that other nodes want is *open* from before any of them gets it until all have it
//! (docs/decisions/0014-open-publishes.md). When its node is lost in between, the heir publishes it again
//! under the same id; who has it already knows that here.
//!
//! Bounds: [`INCARNATIONS`]; of each lane what is open there, since every publish says below which number
//! nothing is.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::message::{Audience, PublishId};

/// Incarnations whose open publishes are remembered, the last to be heard of: a few an outage.
pub const INCARNATIONS: usize = 1024;

/// What of one lane has been routed.
#[derive(Debug, Default)]
struct Lane {
    /// All below is.
    floor: u64,
    queues: BTreeSet<u64>,
    live: BTreeSet<u64>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Seen {
    lanes: BTreeMap<(u64, u16), Lane>,
    incarnations: VecDeque<u64>,
}

impl Seen {
    /// Whether this publish has been routed for this audience.
    pub fn has(&self, id: PublishId, audience: Audience) -> bool {
        let Some(lane) = self.lanes.get(&(id.incarnation, id.lane)) else { return false };
        let numbers = if audience == Audience::Live { &lane.live } else { &lane.queues };
        id.number < lane.floor || numbers.contains(&id.number)
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
        let lane = self.lanes.entry((id.incarnation, id.lane)).or_default();
        if floor > lane.floor {
            lane.floor = floor;
            lane.queues = lane.queues.split_off(&floor);
            lane.live = lane.live.split_off(&floor);
        }
        if id.number >= lane.floor {
            let numbers =
                if audience == Audience::Live { &mut lane.live } else { &mut lane.queues };
            numbers.insert(id.number);
        }
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
        assert!(seen.lanes[&(7, 0)].queues.len() <= 3);
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
