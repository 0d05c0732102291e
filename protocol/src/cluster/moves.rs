//! Who is told what when a session changes hands, and whose marks are waited for.
//!
//! The holder tells the taker ([`Control::Leaving`]); the taker expects the session and tells every
//! node ([`Control::Move`]); each sends its marks to both ([`super::marks`]). When every node has marked
//! it, the holder gives the session up in the store, and keeps what came behind the marks until the taker
//! has it ([`Control::Taken`]): if the taker is lost before, the session stays, and nothing is lost. As
//! long as the taker does not have it, whatever it put aside stands at the holder as well, unanswered; so
//! it forgets that when the holder changes.
//!
//! A node is waited for while it is a member or there is a link to it. One that starts anew is told again.
//! Bounds: a change of hands by a claim that waits for it, or a store that does not answer.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::message::Control;

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// This goes to that node.
    Send(Arc<str>, Control),
    /// The filters of a session that comes here are put in force; [`Moves::expected`] follows. What was put
    /// aside for it before is forgotten.
    Expect {
        /// Number of the change of hands.
        id: u64,
        /// Client id.
        client: Arc<str>,
        /// Filter, and granted QoS.
        filters: Vec<(Arc<str>, u8)>,
    },
    /// Each router of this node marks it, between two publishes.
    Barrier {
        /// Number of the change of hands.
        id: u64,
        /// Client id.
        client: Arc<str>,
        /// The session is here, or comes here.
        here: bool,
        /// Nodes that get the marks.
        to: Vec<Arc<str>>,
    },
    /// All lanes of a node count as marked: it is not there any more.
    Mark {
        /// Number of the change of hands.
        id: u64,
        /// Client id.
        client: Arc<str>,
        /// The node.
        node: Arc<str>,
    },
    /// Every node has marked the session that is here.
    AllMarked {
        /// Number of the change of hands.
        id: u64,
        /// Client id.
        client: Arc<str>,
    },
    /// The taker is lost: the session stays, unless that has taken it from the store.
    Stays {
        /// Number of the change of hands.
        id: u64,
        /// Client id.
        client: Arc<str>,
    },
    /// The taker has it: what was kept for it is forgotten.
    Taken {
        /// Number of the change of hands.
        id: u64,
        /// Client id.
        client: Arc<str>,
    },
    /// It does not come after all.
    Forget {
        /// Number of the change of hands.
        id: u64,
        /// Client id.
        client: Arc<str>,
    },
}

#[derive(Debug)]
enum Side {
    Holder,
    Taker {
        filters: Vec<Arc<str>>,
        estates: Vec<u64>,
        /// The filters are in force here, and every node was told.
        told: bool,
        /// It is here.
        granted: bool,
    },
}

#[derive(Debug)]
struct Change {
    client: Arc<str>,
    /// Holder or taker, whichever this node is not.
    other: Arc<str>,
    side: Side,
    /// Nodes whose marks have not come, this one among them.
    awaited: BTreeSet<Arc<str>>,
}

/// See the module.
#[derive(Debug)]
pub struct Moves {
    me: Arc<str>,
    /// Nodes that are there: members, and others with a link.
    there: BTreeSet<Arc<str>>,
    changes: BTreeMap<u64, Change>,
    actions: VecDeque<Action>,
}

impl Moves {
    /// Of this node, alone.
    pub fn new(me: Arc<str>) -> Self {
        let there = BTreeSet::from([Arc::clone(&me)]);
        Self { me, there, changes: BTreeMap::new(), actions: VecDeque::new() }
    }

    /// What is to be done next, in order.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Changes of hands under way.
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    fn tell(&mut self, node: &Arc<str>, message: Control) {
        self.actions.push_back(Action::Send(Arc::clone(node), message));
    }

    /// A session of this node is to be given up to another. `estates`: the lost incarnations that it may have
    /// been inherited from.
    pub fn leaving(
        &mut self,
        id: u64,
        client: Arc<str>,
        to: Arc<str>,
        filters: Vec<(Arc<str>, u8)>,
        estates: Vec<u64>,
    ) {
        if !self.there.contains(&to) {
            return self.actions.push_back(Action::Stays { id, client });
        }
        let leaving = Control::Leaving { id, client: Arc::clone(&client), filters, estates };
        self.tell(&to, leaving);
        let awaited = self.there.clone();
        self.changes.insert(id, Change { client, other: to, side: Side::Holder, awaited });
    }

    /// This node keeps a session that it was about to give up.
    pub fn keeps(&mut self, id: u64) {
        if let Some(change) = self.changes.remove(&id) {
            let withdrawn = Control::Withdrawn { id, client: change.client };
            self.tell(&change.other, withdrawn);
        }
    }

    /// A control message of another node; those that are not about a change of hands are ignored.
    pub fn receive(&mut self, from: &Arc<str>, message: Control) {
        match message {
            Control::Leaving { id, client, filters, estates } => {
                self.changes.retain(|_, change| {
                    let before = matches!(change.side, Side::Taker { granted: false, .. });
                    !(before && *change.client == *client)
                });
                let names = filters.iter().map(|(filter, _)| Arc::clone(filter)).collect();
                let side = Side::Taker { filters: names, estates, told: false, granted: false };
                let (other, awaited) = (Arc::clone(from), self.there.clone());
                let change = Change { client: Arc::clone(&client), other, side, awaited };
                self.changes.insert(id, change);
                self.actions.push_back(Action::Expect { id, client, filters });
            }
            Control::Withdrawn { id, client } => {
                let comes =
                    |change: &Change| matches!(change.side, Side::Taker { granted: false, .. });
                if self.changes.get(&id).is_some_and(comes) {
                    self.changes.remove(&id);
                    self.actions.push_back(Action::Forget { id, client });
                }
            }
            Control::Move { id, client, from: holder, .. } => {
                let here = holder == self.me;
                let mut to = vec![Arc::clone(from)];
                if !here && holder != *from {
                    to.push(holder);
                }
                self.actions.push_back(Action::Barrier { id, client, here, to });
            }
            Control::Taken { id } => {
                let goes = |change: &Change| matches!(change.side, Side::Holder);
                if self.changes.get(&id).is_some_and(goes)
                    && let Some(change) = self.changes.remove(&id)
                {
                    // What it was not marked for when it came has no session any more.
                    let came = |it: &Change| matches!(it.side, Side::Taker { granted: true, .. });
                    self.changes.retain(|_, it| !(came(it) && it.client == change.client));
                    self.actions.push_back(Action::Taken { id, client: change.client });
                }
            }
            _ => {}
        }
    }

    /// The filters of a session that comes are in force here: every node may send what matches them.
    pub fn expected(&mut self, id: u64) {
        let Some(change) = self.changes.get_mut(&id) else { return };
        if let Side::Taker { told, .. } = &mut change.side {
            *told = true;
        }
        let (client, to) = (Arc::clone(&change.client), vec![Arc::clone(&change.other)]);
        let Some(message) = Self::announcement(id, change) else { return };
        for node in self.there.iter().filter(|node| **node != self.me) {
            self.actions.push_back(Action::Send(Arc::clone(node), message.clone()));
        }
        self.actions.push_back(Action::Barrier { id, client, here: true, to });
    }

    /// What a node is told of a session that comes, once its filters are in force.
    fn announcement(id: u64, change: &Change) -> Option<Control> {
        let Side::Taker { filters, estates, told: true, .. } = &change.side else { return None };
        let (client, from) = (Arc::clone(&change.client), Arc::clone(&change.other));
        let (filters, estates) = (filters.clone(), estates.clone());
        Some(Control::Move { id, client, from, filters, estates })
    }

    /// All lanes of a node have marked the session that is here.
    pub fn marked(&mut self, id: u64, origin: &str) {
        let Some(change) = self.changes.get_mut(&id) else { return };
        if !change.awaited.remove(origin) || !change.awaited.is_empty() {
            return;
        }
        let client = Arc::clone(&change.client);
        if matches!(change.side, Side::Taker { granted: true, .. }) {
            self.changes.remove(&id);
        }
        self.actions.push_back(Action::AllMarked { id, client });
    }

    /// A client is let in here: its holder is told that it has its session. What has not been marked yet is
    /// only waited for.
    pub fn granted(&mut self, client: &str) {
        let mut done = Vec::new();
        for (id, change) in &mut self.changes {
            if *change.client != *client {
                continue;
            }
            if let Side::Taker { granted, .. } = &mut change.side
                && !std::mem::replace(granted, true)
            {
                let message = Control::Taken { id: *id };
                self.actions.push_back(Action::Send(Arc::clone(&change.other), message));
                if change.awaited.is_empty() {
                    let (id, client) = (*id, Arc::clone(&change.client));
                    self.actions.push_back(Action::AllMarked { id, client });
                    done.push(id);
                }
            }
        }
        done.iter().for_each(|id| drop(self.changes.remove(id)));
    }

    /// A session that may have been on its way here has come in another way: its holder was lost, and this
    /// node has what that held.
    pub fn inherited(&mut self, client: &str) {
        let comes = |change: &Change| matches!(change.side, Side::Taker { granted: false, .. });
        self.changes.retain(|_, change| !(comes(change) && *change.client == *client));
    }

    /// These nodes are there now. Those that are not mark nothing any more; those that have come are
    /// told.
    pub fn there(&mut self, mut nodes: BTreeSet<Arc<str>>) {
        nodes.insert(Arc::clone(&self.me));
        let gone: Vec<Arc<str>> = self.there.difference(&nodes).cloned().collect();
        let new: Vec<Arc<str>> = nodes.difference(&self.there).cloned().collect();
        self.there = nodes;
        for node in &gone {
            self.taker_is_lost(node);
        }
        for (id, change) in &mut self.changes {
            for node in gone.iter().filter(|node| change.awaited.contains(*node)) {
                let (id, client, node) = (*id, Arc::clone(&change.client), Arc::clone(node));
                self.actions.push_back(Action::Mark { id, client, node });
            }
            // One that has given up, or has the session, needs no more marks; while it comes, its holder may.
            let comes = matches!(change.side, Side::Taker { granted: false, .. });
            if change.awaited.is_empty() && !comes {
                continue;
            }
            for node in &new {
                change.awaited.insert(Arc::clone(node));
                if let Some(message) = Self::announcement(*id, change) {
                    self.actions.push_back(Action::Send(Arc::clone(node), message));
                }
            }
        }
    }

    /// A node has started anew: what was said to it and not heard is lost.
    pub fn restarted(&mut self, node: &Arc<str>) {
        self.taker_is_lost(node);
        for (id, change) in &self.changes {
            let comes = matches!(change.side, Side::Taker { granted: false, .. });
            if (comes || change.awaited.contains(node))
                && let Some(message) = Self::announcement(*id, change)
            {
                self.actions.push_back(Action::Send(Arc::clone(node), message));
            }
        }
    }

    fn taker_is_lost(&mut self, node: &str) {
        let lost = |change: &Change| matches!(change.side, Side::Holder) && *change.other == *node;
        for (id, change) in self.changes.extract_if(.., |_, change| lost(change)) {
            let client = Arc::clone(&change.client);
            // A later start of it may get what was said before there was a link.
            let withdrawn = Control::Withdrawn { id, client };
            self.actions.push_back(Action::Send(change.other, withdrawn));
            self.actions.push_back(Action::Stays { id, client: change.client });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: u64 = 7;

    fn node(others: [&str; 2]) -> Moves {
        let mut moves = Moves::new("n1".into());
        moves.there(others.map(Arc::from).into());
        moves
    }

    fn actions(moves: &mut Moves) -> Vec<Action> {
        std::iter::from_fn(|| moves.poll_action()).collect()
    }

    fn told(moves: &mut Moves, node: &str) -> Vec<Control> {
        let its = actions(moves).into_iter().filter_map(|action| match action {
            Action::Send(to, message) if *to == *node => Some(message),
            _ => None,
        });
        its.collect()
    }

    fn comes(moves: &mut Moves) {
        let leaving =
            Control::Leaving { id: ID, client: "c".into(), filters: vec![], estates: vec![] };
        moves.receive(&"n2".into(), leaving);
        moves.expected(ID);
        actions(moves);
    }

    /// It may have been told of the session before there was a link to it, by which a later start hears it.
    #[test]
    fn a_taker_that_is_lost_is_told_that_nothing_comes() {
        let mut moves = node(["n2", "n3"]);
        moves.leaving(ID, "c".into(), "n2".into(), vec![], vec![]);
        actions(&mut moves);
        moves.there(BTreeSet::from(["n3".into()]));
        let withdrawn = Control::Withdrawn { id: ID, client: "c".into() };
        let stays = Action::Stays { id: ID, client: "c".into() };
        assert_eq!(actions(&mut moves), [Action::Send("n2".into(), withdrawn), stays]);
        assert!(moves.is_empty());
    }

    /// The holder may wait for a node whose marks the taker does not need any more.
    #[test]
    fn who_starts_anew_is_told_of_a_session_as_long_as_it_comes() {
        let mut moves = node(["n2", "n3"]);
        comes(&mut moves);
        ["n1", "n2", "n3"].iter().for_each(|origin| moves.marked(ID, origin));
        actions(&mut moves);
        moves.restarted(&"n3".into());
        assert!(matches!(told(&mut moves, "n3")[..], [Control::Move { id: ID, .. }]));
        moves.there(BTreeSet::from(["n2".into()]));
        moves.there(BTreeSet::from(["n2".into(), "n3".into()]));
        assert!(matches!(told(&mut moves, "n3")[..], [Control::Move { id: ID, .. }]));
    }

    #[test]
    fn a_session_that_goes_on_or_was_inherited_is_not_waited_for() {
        let mut moves = node(["n2", "n3"]);
        comes(&mut moves);
        moves.granted("c");
        moves.leaving(ID + 1, "c".into(), "n3".into(), vec![], vec![]);
        moves.receive(&"n3".into(), Control::Taken { id: ID + 1 });
        assert!(moves.is_empty());
        comes(&mut moves);
        moves.inherited("c");
        assert!(moves.is_empty());
    }
}
