//! Lost incarnations and who has what they held; what of their sessions is this node's own.
//!
//! Bounds: [`REMEMBERED`] of each kind, the oldest go.

use std::collections::{BTreeSet, VecDeque};

use hydrant_protocol::cluster::message::{Control, TakenOver};
use hydrant_protocol::cluster::stream_marker::MarkedStreams;

use crate::cluster::node_index::{EARLIER_STARTS, NodeIndex, SELF};
use crate::ports::SealedIncarnation;

/// Lost incarnations that are known, a few an outage.
pub const REMEMBERED: usize = 16_384;

/// A lost incarnation whose sessions a node has.
#[derive(Debug)]
pub struct Successor {
    pub incarnation: u64,
    /// As which that node knows its sessions.
    pub orphan: u64,
    pub node: NodeIndex,
    /// Which start of it.
    pub by: u64,
    /// Which of this node's routers have sent again what was for the lost one.
    pub marked: MarkedStreams,
    pub resent: bool,
}

/// One whose sessions this node has.
#[derive(Debug)]
pub struct Own {
    pub incarnation: u64,
    /// As which they are known here; [`EARLIER_STARTS`]: they are from before this start.
    pub orphan: u64,
    pub lineage: u64,
    /// Workers that have not seen all markers of a node.
    pub awaited: BTreeSet<(u16, NodeIndex)>,
    /// Nodes not all of whose routers have said that they have sent again what they kept.
    pub unsaid: BTreeSet<NodeIndex>,
    /// The routers that have.
    pub said: MarkedStreams,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Successors {
    pub known: VecDeque<Successor>,
    pub own: VecDeque<Own>,
    /// The last of those that this start goes on with; until the members are known.
    pub unawaited: Option<u64>,
    /// Of whom others have said that every prepared publish is everywhere, the last [`REMEMBERED`].
    pub finished: VecDeque<u64>,
}

impl Successors {
    /// Of a start that goes on with these.
    pub fn new(continued: &[SealedIncarnation]) -> Self {
        let mut successors = Self::default();
        for before in continued {
            successors.has(*before, EARLIER_STARTS, BTreeSet::new());
        }
        successors.unawaited = continued.iter().map(|before| before.number).max();
        successors
    }

    /// It is said again on every connection.
    pub fn first_time_finished(&mut self, incarnation: u64) -> bool {
        let first = !self.finished.contains(&incarnation);
        if first {
            self.finished.push_back(incarnation);
            self.finished.drain(..self.finished.len().saturating_sub(REMEMBERED));
        }
        first
    }

    pub fn has(&mut self, of: SealedIncarnation, orphan: u64, awaited: BTreeSet<(u16, NodeIndex)>) {
        if self.own.len() >= REMEMBERED {
            self.own.pop_front();
        }
        let SealedIncarnation { number, lineage } = of;
        let (unsaid, said) = (others(&awaited), MarkedStreams::new(number));
        let own = Own { incarnation: number, orphan, lineage, awaited, unsaid, said };
        self.own.push_back(own);
    }

    /// What this node has taken over. What it has had from its beginning is one orphaned state, named by the last of
    /// it.
    pub fn taken_over(&self) -> Vec<TakenOver> {
        let first = self.own.iter().filter(|own| own.orphan == EARLIER_STARTS);
        let first = first.map(|own| own.incarnation).max().unwrap_or_default();
        let all = self.own.iter().map(|own| TakenOver {
            incarnation: own.incarnation,
            orphan: if own.orphan == EARLIER_STARTS { first } else { own.orphan },
            lineage: own.lineage,
        });
        all.collect()
    }

    /// Whether others have said that every prepared publish of an incarnation is everywhere.
    pub fn is_finished(&self, incarnation: u64) -> bool {
        self.finished.contains(&incarnation)
    }

    /// Whether this node awaits no markers for what it has taken over.
    pub fn is_settled(&self) -> bool {
        self.unawaited.is_none() && self.own.iter().all(|own| own.awaited.is_empty())
    }

    /// [`Successors::taken_over`] as messages.
    pub fn announcements(&self) -> impl Iterator<Item = Control> {
        self.taken_over().into_iter().map(|TakenOver { incarnation, orphan, lineage }| {
            Control::TakenOver { incarnation, orphan, lineage }
        })
    }

    /// Whether another has what this incarnation held.
    pub fn is_over(&self, incarnation: u64) -> bool {
        self.find(incarnation).is_some()
    }

    pub fn find(&self, incarnation: u64) -> Option<&Successor> {
        self.known.iter().find(|successor| successor.incarnation == incarnation)
    }

    /// Those that a session may come from which is known as this one's: what was for them has to be sent
    /// again before it goes on.
    pub fn orphans(&self, orphan: u64) -> Vec<u64> {
        let its = self.own.iter().filter(|own| own.orphan == orphan);
        its.map(|own| own.incarnation).collect()
    }

    pub fn put(&mut self, successor: Successor) {
        self.known.retain(|known| known.incarnation != successor.incarnation);
        if self.known.len() >= REMEMBERED {
            self.known.pop_front();
        }
        self.known.push_back(successor);
    }

    /// Who has in the end what a lost incarnation held: the node, its start, and as which it is known
    /// there.
    pub fn last(&self, incarnation: u64) -> Option<(NodeIndex, u64, u64)> {
        let mut successor = self.find(incarnation)?;
        // A successor that was lost has one, too. None takes over after that, so there is an end.
        for _ in 0..REMEMBERED {
            let Some(next) = self.find(successor.by) else { break };
            successor = next;
        }
        Some((successor.node, successor.by, successor.orphan))
    }
}

/// Nodes, but this one.
pub fn others(awaited: &BTreeSet<(u16, NodeIndex)>) -> BTreeSet<NodeIndex> {
    awaited.iter().map(|(_, node)| *node).filter(|node| *node != SELF).collect()
}
