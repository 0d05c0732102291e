//! Marks: from where on, in the stream of publishes of each router of each node (a *lane*), what it
//! publishes is for another node.
//!
//! A session on its way from its holder to its taker is marked by every lane, at both: what a lane
//! sent before its mark is the holder's, what it sends behind is the taker's
//! (docs/decisions/0012-marks.md). In the same way every lane marks, at the heir of a lost node, that it
//! has sent again what the lost one had not stored.

use smallvec::SmallVec;

/// A lane: a node, by an index that the receiver gives it, and one of its routers.
pub type Lane = (u16, u16);
/// Stands for all lanes of a node.
pub const EVERY: u16 = u16::MAX;

/// Which lanes have marked something.
#[derive(Debug, Clone, Default)]
pub struct Marks {
    /// Number of the change of hands, or a lost incarnation.
    pub id: u64,
    passed: SmallVec<[Lane; 6]>,
    all: bool,
}

impl Marks {
    /// Nobody has marked it.
    pub fn new(id: u64) -> Self {
        Self { id, passed: SmallVec::new(), all: false }
    }

    /// A lane marks it, or with [`EVERY`] a whole node. True once all the origin's `lanes` have, also
    /// when they had before: a node that was restarted may have fewer of them, or more.
    pub fn pass(&mut self, lane: Lane, lanes: u16) -> bool {
        if !self.has(lane) {
            self.passed.push(lane);
        }
        let (node, _) = lane;
        let passed = self.passed.iter().filter(|known| known.0 == node).count();
        let complete = self.has((node, EVERY)) || passed >= usize::from(lanes);
        if complete {
            self.passed.retain(|known| known.0 != node);
            self.passed.push((node, EVERY));
        }
        complete
    }

    /// Whoever comes behind this is counted as marked.
    pub fn pass_all(&mut self) {
        self.all = true;
    }

    /// Whether this lane has.
    pub fn has(&self, lane: Lane) -> bool {
        self.all || self.passed.iter().any(|known| *known == lane || *known == (lane.0, EVERY))
    }
}

/// Whose a message for a session is that changes hands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// This node's: it is queued.
    Ours,
    /// This node's once the session is here.
    OursSoon,
    /// The taker's. This node keeps it until that has the session.
    Takers,
    /// The holder's, or it is sent again by whoever sent it to a lost node: nothing to do.
    NotOurs,
}

/// A session that changes hands, at one of the two nodes.
#[derive(Debug, Clone, Default)]
pub struct Transit {
    /// It comes: only behind its mark a lane's messages are for it here.
    pub arrive: Option<Marks>,
    /// It goes: only before.
    pub leave: Option<Marks>,
    /// It is not here yet.
    pub absent: bool,
}

impl Transit {
    /// Whose a message of this lane is.
    pub fn whose(&self, lane: Lane) -> Whose {
        if self.leave.as_ref().is_some_and(|marks| marks.has(lane)) {
            Whose::Takers
        } else if self.arrive.as_ref().is_some_and(|marks| !marks.has(lane)) {
            Whose::NotOurs
        } else if self.absent {
            Whose::OursSoon
        } else {
            Whose::Ours
        }
    }

    /// It is here as any other is.
    pub fn is_over(&self) -> bool {
        self.arrive.is_none() && self.leave.is_none() && !self.absent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_has_marked_when_all_its_lanes_have() {
        let mut marks = Marks::new(1);
        assert!(!marks.pass((1, 0), 2) && !marks.pass((1, 0), 2));
        assert!(marks.has((1, 0)) && !marks.has((1, 1)));
        assert!(marks.pass((1, 1), 2));
        // Restarted with more routers, it has marked with all of them.
        assert!(marks.has((1, 7)) && !marks.has((2, 0)));
        assert!(marks.pass((2, EVERY), 1) && marks.has((2, 5)));
        // Restarted with fewer.
        assert!(!marks.pass((3, 0), 2) && marks.pass((3, 0), 1));
    }

    #[test]
    fn each_message_of_a_lane_is_one_nodes() {
        let lane = (1, 0);
        let (mut holder, mut taker) = (Transit::default(), Transit::default());
        holder.leave = Some(Marks::new(1));
        (taker.arrive, taker.absent) = (Some(Marks::new(1)), true);
        assert_eq!((holder.whose(lane), taker.whose(lane)), (Whose::Ours, Whose::NotOurs));
        for side in [&mut holder.leave, &mut taker.arrive].into_iter().flatten() {
            side.pass(lane, 1);
        }
        assert_eq!((holder.whose(lane), taker.whose(lane)), (Whose::Takers, Whose::OursSoon));
        taker.absent = false;
        assert_eq!(taker.whose(lane), Whose::Ours);
        // It is asked for again before the last mark of its coming.
        taker.leave = Some(Marks::new(2));
        assert_eq!((taker.whose(lane), taker.whose((2, 0))), (Whose::Ours, Whose::NotOurs));
    }
}
