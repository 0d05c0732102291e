//! Who is told what when a session changes hands, and whose markers are waited for.
//!
//! The source tells the target ([`Control::Offer`]); the target expects the session and tells every
//! node ([`Control::Announce`]); each sends its markers to both ([`super::stream_marker`]). When every node has marked
//! it, the source gives the session up in the store, and keeps what came behind the markers until the target
//! has it ([`Control::Complete`]): if the target is lost before, the session stays, and nothing is lost. As
//! long as the target does not have it, whatever it buffered stands at the source as well, unanswered; so
//! it forgets that when the source changes.
//!
//! A node is waited for while it is a member or there is a link to it. One that starts anew is told again. One that
//! is back in the same start, and without whose markers a session has moved, is told so before anything else
//! ([`Handovers::has_missed`]): what it had published for that session would be answered where it is no more.
//! Bounds: a handover by a claim that waits for it, or a store that does not answer; the ids of nodes that ever
//! were members.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::message::Control;

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// This goes to that node.
    Send(Arc<str>, Control),
    /// The filters of a session that comes here are put in force; [`Handovers::expected`] follows. What was
    /// buffered for it before is forgotten.
    Expect {
        /// Number of the handover.
        id: u64,
        /// Client id.
        client: Arc<str>,
        /// Filter, and granted QoS.
        filters: Vec<(Arc<str>, u8)>,
    },
    /// Each router of this node marks it, between two publishes.
    InsertMarkers {
        /// Number of the handover.
        id: u64,
        /// Client id.
        client: Arc<str>,
        /// The session is here, or comes here.
        here: bool,
        /// Nodes that get the markers.
        to: Vec<Arc<str>>,
    },
    /// All streams of a node count as marked: it is not there any more.
    CountAsMarked {
        /// Number of the handover.
        id: u64,
        /// Client id.
        client: Arc<str>,
        /// The node.
        node: Arc<str>,
    },
    /// Every node has marked the session that is here.
    AllMarked {
        /// Number of the handover.
        id: u64,
        /// Client id.
        client: Arc<str>,
    },
    /// The target is lost: the session stays, unless that has taken it from the store.
    KeepSession {
        /// Number of the handover.
        id: u64,
        /// Client id.
        client: Arc<str>,
    },
    /// The target has it: what was kept for it is forgotten.
    Complete {
        /// Number of the handover.
        id: u64,
        /// Client id.
        client: Arc<str>,
    },
    /// It does not come after all.
    Forget {
        /// Number of the handover.
        id: u64,
        /// Client id.
        client: Arc<str>,
    },
}

#[derive(Debug)]
enum Side {
    Source,
    Target {
        filters: Vec<Arc<str>>,
        orphans: Vec<u64>,
        /// The filters are in force here, and every node was told.
        told: bool,
        /// It is here.
        granted: bool,
    },
}

#[derive(Debug)]
struct Handover {
    client: Arc<str>,
    /// Source or target, whichever this node is not.
    other: Arc<str>,
    side: Side,
    /// Nodes whose markers have not come, this one among them.
    awaited: BTreeSet<Arc<str>>,
}

/// See the module.
#[derive(Debug)]
pub struct Handovers {
    me: Arc<str>,
    /// Nodes that are there: members, and others with a link.
    there: BTreeSet<Arc<str>>,
    /// Nodes that were there and are not.
    gone: BTreeSet<Arc<str>>,
    /// Nodes without whose markers a session has moved, or does.
    missed: BTreeSet<Arc<str>>,
    handovers: BTreeMap<u64, Handover>,
    actions: VecDeque<Action>,
}

impl Handovers {
    /// Of this node, alone.
    pub fn new(me: Arc<str>) -> Self {
        let there = BTreeSet::from([Arc::clone(&me)]);
        let (gone, missed) = (BTreeSet::new(), BTreeSet::new());
        Self { me, there, gone, missed, handovers: BTreeMap::new(), actions: VecDeque::new() }
    }

    /// What is to be done next, in order.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Handovers under way.
    pub fn len(&self) -> usize {
        self.handovers.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.handovers.is_empty()
    }

    fn send_control(&mut self, node: &Arc<str>, message: Control) {
        self.actions.push_back(Action::Send(Arc::clone(node), message));
    }

    /// A session of this node is to be given up to another. `orphans`: the lost incarnations that it may have
    /// been taken over from.
    pub fn offer(
        &mut self,
        id: u64,
        client: Arc<str>,
        to: Arc<str>,
        filters: Vec<(Arc<str>, u8)>,
        orphans: Vec<u64>,
    ) {
        if !self.there.contains(&to) {
            return self.actions.push_back(Action::KeepSession { id, client });
        }
        let offer = Control::Offer { id, client: Arc::clone(&client), filters, orphans };
        self.send_control(&to, offer);
        self.who_is_gone_misses_it();
        let awaited = self.there.clone();
        self.handovers.insert(id, Handover { client, other: to, side: Side::Source, awaited });
    }

    /// This node keeps a session that it was about to give up.
    pub fn abort(&mut self, id: u64) {
        if let Some(handover) = self.handovers.remove(&id) {
            let withdrawn = Control::Abort { id, client: handover.client };
            self.send_control(&handover.other, withdrawn);
        }
    }

    /// A control message of another node; those that are not about a handover are ignored.
    pub fn receive(&mut self, from: &Arc<str>, message: Control) {
        match message {
            Control::Offer { id, client, filters, orphans } => {
                self.who_is_gone_misses_it();
                self.handovers.retain(|_, handover| {
                    let before = matches!(handover.side, Side::Target { granted: false, .. });
                    !(before && *handover.client == *client)
                });
                let names = filters.iter().map(|(filter, _)| Arc::clone(filter)).collect();
                let side = Side::Target { filters: names, orphans, told: false, granted: false };
                let (other, awaited) = (Arc::clone(from), self.there.clone());
                let handover = Handover { client: Arc::clone(&client), other, side, awaited };
                self.handovers.insert(id, handover);
                self.actions.push_back(Action::Expect { id, client, filters });
            }
            Control::Abort { id, client } => {
                let comes = |handover: &Handover| {
                    matches!(handover.side, Side::Target { granted: false, .. })
                };
                if self.handovers.get(&id).is_some_and(comes) {
                    self.handovers.remove(&id);
                    self.actions.push_back(Action::Forget { id, client });
                }
            }
            Control::Announce { id, client, from: source, .. } => {
                // This node may be the successor of the source.
                self.who_is_gone_misses_it();
                let here = source == self.me;
                let mut to = vec![Arc::clone(from)];
                if !here && source != *from {
                    to.push(source);
                }
                self.actions.push_back(Action::InsertMarkers { id, client, here, to });
            }
            Control::Complete { id } => {
                let goes = |handover: &Handover| matches!(handover.side, Side::Source);
                if self.handovers.get(&id).is_some_and(goes)
                    && let Some(handover) = self.handovers.remove(&id)
                {
                    // What it was not marked for when it came has no session any more.
                    let came =
                        |it: &Handover| matches!(it.side, Side::Target { granted: true, .. });
                    self.handovers.retain(|_, it| !(came(it) && it.client == handover.client));
                    self.actions.push_back(Action::Complete { id, client: handover.client });
                }
            }
            _ => {}
        }
    }

    /// The filters of a session that comes are in force here: every node may send what matches them.
    pub fn expected(&mut self, id: u64) {
        let Some(handover) = self.handovers.get_mut(&id) else { return };
        if let Side::Target { told, .. } = &mut handover.side {
            *told = true;
        }
        let (client, to) = (Arc::clone(&handover.client), vec![Arc::clone(&handover.other)]);
        let Some(message) = Self::announcement(id, handover) else { return };
        for node in self.there.iter().filter(|node| **node != self.me) {
            self.actions.push_back(Action::Send(Arc::clone(node), message.clone()));
        }
        self.actions.push_back(Action::InsertMarkers { id, client, here: true, to });
    }

    /// What a node is told of a session that comes, once its filters are in force.
    fn announcement(id: u64, handover: &Handover) -> Option<Control> {
        let Side::Target { filters, orphans, told: true, .. } = &handover.side else { return None };
        let (client, from) = (Arc::clone(&handover.client), Arc::clone(&handover.other));
        let (filters, orphans) = (filters.clone(), orphans.clone());
        Some(Control::Announce { id, client, from, filters, orphans })
    }

    /// All streams of a node have marked the session that is here.
    pub fn marked(&mut self, id: u64, origin: &str) {
        let Some(handover) = self.handovers.get_mut(&id) else { return };
        if !handover.awaited.remove(origin) || !handover.awaited.is_empty() {
            return;
        }
        let client = Arc::clone(&handover.client);
        if matches!(handover.side, Side::Target { granted: true, .. }) {
            self.handovers.remove(&id);
        }
        self.actions.push_back(Action::AllMarked { id, client });
    }

    /// A client is let in here: its source is told that it has its session. What has not been marked yet is
    /// only waited for.
    pub fn granted(&mut self, client: &str) {
        let mut done = Vec::new();
        for (id, handover) in &mut self.handovers {
            if *handover.client != *client {
                continue;
            }
            if let Side::Target { granted, .. } = &mut handover.side
                && !std::mem::replace(granted, true)
            {
                let message = Control::Complete { id: *id };
                self.actions.push_back(Action::Send(Arc::clone(&handover.other), message));
                if handover.awaited.is_empty() {
                    let (id, client) = (*id, Arc::clone(&handover.client));
                    self.actions.push_back(Action::AllMarked { id, client });
                    done.push(id);
                }
            }
        }
        done.iter().for_each(|id| drop(self.handovers.remove(id)));
    }

    /// A session that may have been on its way here has come in another way: its source was lost, and this
    /// node has what that held.
    pub fn taken_over(&mut self, client: &str) {
        let comes =
            |handover: &Handover| matches!(handover.side, Side::Target { granted: false, .. });
        self.handovers.retain(|_, handover| !(comes(handover) && *handover.client == *client));
    }

    /// These nodes are there now. Those that are not mark nothing any more; those that have come are
    /// told.
    pub fn there(&mut self, mut nodes: BTreeSet<Arc<str>>) {
        nodes.insert(Arc::clone(&self.me));
        let gone: Vec<Arc<str>> = self.there.difference(&nodes).cloned().collect();
        let new: Vec<Arc<str>> = nodes.difference(&self.there).cloned().collect();
        self.gone.extend(gone.iter().cloned());
        self.gone.retain(|node| !nodes.contains(node));
        self.there = nodes;
        for node in &gone {
            self.target_is_lost(node);
        }
        for (id, handover) in &mut self.handovers {
            for node in gone.iter().filter(|node| handover.awaited.contains(*node)) {
                self.missed.insert(Arc::clone(node));
                let (id, client, node) = (*id, Arc::clone(&handover.client), Arc::clone(node));
                self.actions.push_back(Action::CountAsMarked { id, client, node });
            }
            // One that has given up, or has the session, needs no more markers; while it comes, its source may.
            let comes = matches!(handover.side, Side::Target { granted: false, .. });
            if handover.awaited.is_empty() && !comes {
                continue;
            }
            for node in &new {
                handover.awaited.insert(Arc::clone(node));
                if let Some(message) = Self::announcement(*id, handover) {
                    self.actions.push_back(Action::Send(Arc::clone(node), message));
                }
            }
        }
    }

    fn who_is_gone_misses_it(&mut self) {
        self.missed.extend(self.gone.iter().cloned());
    }

    /// A node has a link again. Whether a session has moved without its markers meanwhile; says so once.
    pub fn has_missed(&mut self, node: &str) -> bool {
        self.missed.remove(node)
    }

    /// A node has another start: that had published nothing before.
    pub fn is_another(&mut self, node: &str) {
        self.gone.remove(node);
        self.missed.remove(node);
    }

    /// A node has started anew: what was said to it and not heard is lost.
    pub fn restarted(&mut self, node: &Arc<str>) {
        self.is_another(node);
        self.target_is_lost(node);
        for (id, handover) in &self.handovers {
            let comes = matches!(handover.side, Side::Target { granted: false, .. });
            if (comes || handover.awaited.contains(node))
                && let Some(message) = Self::announcement(*id, handover)
            {
                self.actions.push_back(Action::Send(Arc::clone(node), message));
            }
        }
    }

    fn target_is_lost(&mut self, node: &str) {
        let lost =
            |handover: &Handover| matches!(handover.side, Side::Source) && *handover.other == *node;
        for (id, handover) in self.handovers.extract_if(.., |_, handover| lost(handover)) {
            let client = Arc::clone(&handover.client);
            // A later start of it may get what was said before there was a link.
            let withdrawn = Control::Abort { id, client };
            self.actions.push_back(Action::Send(handover.other, withdrawn));
            self.actions.push_back(Action::KeepSession { id, client: handover.client });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: u64 = 7;

    fn node(others: [&str; 2]) -> Handovers {
        let mut handovers = Handovers::new("n1".into());
        handovers.there(others.map(Arc::from).into());
        handovers
    }

    fn actions(handovers: &mut Handovers) -> Vec<Action> {
        std::iter::from_fn(|| handovers.poll_action()).collect()
    }

    fn told(handovers: &mut Handovers, node: &str) -> Vec<Control> {
        let its = actions(handovers).into_iter().filter_map(|action| match action {
            Action::Send(to, message) if *to == *node => Some(message),
            _ => None,
        });
        its.collect()
    }

    fn comes(handovers: &mut Handovers) {
        let offer = Control::Offer { id: ID, client: "c".into(), filters: vec![], orphans: vec![] };
        handovers.receive(&"n2".into(), offer);
        handovers.expected(ID);
        actions(handovers);
    }

    /// It may have been told of the session before there was a link to it, by which a later start hears it.
    #[test]
    fn a_target_that_is_lost_is_told_that_nothing_comes() {
        let mut handovers = node(["n2", "n3"]);
        handovers.offer(ID, "c".into(), "n2".into(), vec![], vec![]);
        actions(&mut handovers);
        handovers.there(BTreeSet::from(["n3".into()]));
        let withdrawn = Control::Abort { id: ID, client: "c".into() };
        let stays = Action::KeepSession { id: ID, client: "c".into() };
        assert_eq!(actions(&mut handovers), [Action::Send("n2".into(), withdrawn), stays]);
        assert!(handovers.is_empty());
    }

    #[test]
    fn who_was_gone_while_a_session_moved_has_missed_it() {
        let mut handovers = node(["n2", "n3"]);
        let see = |handovers: &mut Handovers, nodes: &[&str]| {
            handovers.there(nodes.iter().map(|node| Arc::from(*node)).collect());
        };
        // It is gone before, and while its markers are awaited.
        for gone_before in [true, false] {
            for source in [true, false] {
                if gone_before {
                    see(&mut handovers, &["n2"]);
                }
                if source {
                    handovers.offer(ID, "c".into(), "n2".into(), vec![], vec![]);
                } else {
                    comes(&mut handovers);
                }
                see(&mut handovers, &["n2"]);
                see(&mut handovers, &["n2", "n3"]);
                assert!(handovers.has_missed("n3") && !handovers.has_missed("n3"));
                assert!(!handovers.has_missed("n2"));
                handovers.receive(&"n2".into(), Control::Complete { id: ID });
                handovers.taken_over("c");
            }
        }
        // Nothing has moved, or it has started anew.
        see(&mut handovers, &["n2"]);
        see(&mut handovers, &["n2", "n3"]);
        assert!(!handovers.has_missed("n3"));
        see(&mut handovers, &["n2"]);
        comes(&mut handovers);
        handovers.restarted(&"n3".into());
        assert!(!handovers.has_missed("n3"));
    }

    /// The source may wait for a node whose markers the target does not need any more.
    #[test]
    fn who_starts_anew_is_told_of_a_session_as_long_as_it_comes() {
        let mut handovers = node(["n2", "n3"]);
        comes(&mut handovers);
        ["n1", "n2", "n3"].iter().for_each(|origin| handovers.marked(ID, origin));
        actions(&mut handovers);
        handovers.restarted(&"n3".into());
        assert!(matches!(told(&mut handovers, "n3")[..], [Control::Announce { id: ID, .. }]));
        handovers.there(BTreeSet::from(["n2".into()]));
        handovers.there(BTreeSet::from(["n2".into(), "n3".into()]));
        assert!(matches!(told(&mut handovers, "n3")[..], [Control::Announce { id: ID, .. }]));
    }

    #[test]
    fn a_session_that_goes_on_or_was_taken_over_is_not_waited_for() {
        let mut handovers = node(["n2", "n3"]);
        comes(&mut handovers);
        handovers.granted("c");
        handovers.offer(ID + 1, "c".into(), "n3".into(), vec![], vec![]);
        handovers.receive(&"n3".into(), Control::Complete { id: ID + 1 });
        assert!(handovers.is_empty());
        comes(&mut handovers);
        handovers.taken_over("c");
        assert!(handovers.is_empty());
    }
}
