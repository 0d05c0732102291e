//! Some nodes, and what is on its way between them.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use super::super::{Action, Control, Directory, MembershipView};
use super::member;

/// Some nodes, and what is on its way between them: in order from one to another.
pub(super) struct Cluster {
    pub(super) nodes: BTreeMap<Arc<str>, Directory>,
    pub(super) links: BTreeMap<(Arc<str>, Arc<str>), VecDeque<Control>>,
    /// What each node really holds; true: clean.
    pub(super) sessions: HashMap<Arc<str>, BTreeMap<Arc<str>, bool>>,
    /// Client id, CleanSession, and what the store said.
    pub(super) claims: HashMap<(Arc<str>, u64), (Arc<str>, bool, Option<u64>)>,
    /// The incarnation that holds a persistent session, by the store.
    pub(super) store: HashMap<Arc<str>, u64>,
    /// The sessions of lost incarnations.
    pub(super) lost: BTreeMap<u64, Vec<Arc<str>>>,
    pub(super) granted: u64,
}

impl Cluster {
    pub(super) fn new(nodes: &[&str]) -> Self {
        let mut cluster = Self {
            nodes: BTreeMap::new(),
            links: BTreeMap::new(),
            sessions: HashMap::new(),
            claims: HashMap::new(),
            store: HashMap::new(),
            lost: BTreeMap::new(),
            granted: 0,
        };
        for (incarnation, node) in (1..).zip(nodes) {
            let node: Arc<str> = (*node).into();
            cluster.nodes.insert(Arc::clone(&node), Directory::new(Arc::clone(&node), incarnation));
            cluster.sessions.insert(node, BTreeMap::new());
        }
        cluster
    }

    pub(super) fn view(&self) -> MembershipView {
        let members = self.nodes.values().map(|n| member(&n.me.node, n.me.incarnation)).collect();
        MembershipView { generation: 0, members, current: true }
    }

    pub(super) fn see(&mut self, node: &str) {
        let view = self.view();
        if let Some(directory) = self.nodes.get_mut(node) {
            directory.members_changed(view);
        }
        self.act(node);
    }

    pub(super) fn see_all(&mut self) {
        let nodes: Vec<Arc<str>> = self.nodes.keys().cloned().collect();
        nodes.iter().for_each(|node| self.see(node));
    }

    pub(super) fn claim(&mut self, node: &str, client: &str, clean: bool) {
        let client: Arc<str> = client.into();
        let Some(directory) = self.nodes.get_mut(node) else { return };
        let request = directory.claim(&client, clean, None);
        self.claims.insert((node.into(), request), (client, clean, None));
        self.act(node);
    }

    pub(super) fn act(&mut self, node: &str) {
        let node: Arc<str> = node.into();
        while let Some(action) = self.nodes.get_mut(&node).and_then(Directory::poll_action) {
            match action {
                Action::Send(to, message) => {
                    self.links.entry((Arc::clone(&node), to)).or_default().push_back(message);
                }
                Action::Grant { request, .. } => {
                    let (client, clean, asked) = self.claims[&(Arc::clone(&node), request)].clone();
                    // What the node does with a grant: the store may know of another holder.
                    let Some(directory) = self.nodes.get_mut(&node) else { continue };
                    let me = directory.me.incarnation;
                    let other = self.store.get(&client).copied().filter(|other| *other != me);
                    if let Some(other) = other.filter(|other| asked != Some(*other)) {
                        let request = directory.claim(&client, clean, Some(other));
                        self.claims
                            .insert((Arc::clone(&node), request), (client, clean, Some(other)));
                        continue;
                    }
                    self.store.remove(&client);
                    if !clean {
                        self.store.insert(Arc::clone(&client), me);
                    }
                    self.granted += 1;
                    for (other, sessions) in &self.sessions {
                        // A clean one of a lost node may be in two places until that one ends.
                        let elsewhere = *other != node && self.nodes.contains_key(other);
                        assert!(
                            !elsewhere || !sessions.contains_key(&client),
                            "{client} is at {other} and granted to {node}"
                        );
                    }
                    if let Some(sessions) = self.sessions.get_mut(&node) {
                        sessions.insert(client, clean);
                    }
                }
                Action::Forget { request } => {
                    self.claims.remove(&(Arc::clone(&node), request));
                }
                Action::Release { owner, ticket, client, .. } => {
                    if let Some(sessions) = self.sessions.get_mut(&node) {
                        sessions.remove(&client);
                    }
                    if let Some(directory) = self.nodes.get_mut(&node) {
                        directory.released(&owner, ticket, &client, None);
                    }
                }
            }
        }
    }

    /// The client of one of its claims leaves.
    pub(super) fn withdraw(&mut self, node: &str, which: usize) {
        let Some(directory) = self.nodes.get_mut(node) else { return };
        let claims: Vec<u64> = directory.claims.keys().copied().collect();
        if !claims.is_empty() {
            directory.withdraw(claims[which % claims.len()]);
        }
        self.act(node);
    }

    /// A connection between two nodes has ended, and there is another.
    pub(super) fn reconnect(&mut self, one: &str, other: &str) {
        for (node, peer) in [(one, other), (other, one)] {
            if node != peer
                && let Some(directory) = self.nodes.get_mut(node)
            {
                directory.link_up(&peer.into());
                self.act(node);
            }
        }
    }

    /// Delivers the oldest message of one link; false: none has any.
    pub(super) fn deliver(&mut self, which: usize) -> bool {
        let busy: Vec<_> = self
            .links
            .iter()
            .filter(|(_, link)| !link.is_empty())
            .map(|(at, _)| at.clone())
            .collect();
        if busy.is_empty() {
            return false;
        }
        let (from, to) = busy[which % busy.len()].clone();
        let message = self.links.get_mut(&(from.clone(), to.clone())).and_then(VecDeque::pop_front);
        let holder = self.nodes.get(&from).map(|directory| directory.me.clone());
        if let (Some(message), Some(holder), Some(directory)) =
            (message, holder, self.nodes.get_mut(&to))
        {
            directory.receive(&holder, message);
            self.act(&to);
        }
        true
    }

    pub(super) fn settle(&mut self) {
        while self.deliver(0) {}
    }

    /// The node is gone with what was on its way to and from it.
    pub(super) fn lose(&mut self, node: &str) {
        let Some(directory) = self.nodes.remove(node) else { return };
        self.links.retain(|(from, to), _| **from != *node && **to != *node);
        self.sessions.remove(node);
        // By the store: also what it gave up and nobody has taken.
        let incarnation = directory.me.incarnation;
        let stored = self.store.iter().filter(|(_, holder)| **holder == incarnation);
        let stored = stored.map(|(client, _)| Arc::clone(client));
        self.lost.insert(incarnation, stored.collect());
    }

    pub(super) fn take_over(&mut self) {
        let Some(successor) = self.nodes.keys().next().cloned() else { return };
        while let Some((incarnation, clients)) = self.lost.pop_first() {
            let others: Vec<Arc<str>> =
                self.nodes.keys().filter(|n| **n != successor).cloned().collect();
            for client in &clients {
                // Taken meanwhile by who found it in the store.
                if self.store.get(client) != Some(&incarnation) {
                    continue;
                }
                if let Some(directory) = self.nodes.get_mut(&successor) {
                    directory.holds(client, false);
                }
                if let Some(sessions) = self.sessions.get_mut(&successor) {
                    sessions.insert(Arc::clone(client), false);
                }
                let incarnation =
                    self.nodes.get(&successor).map_or(0, |successor| successor.me.incarnation);
                self.store.insert(Arc::clone(client), incarnation);
                self.act(&successor);
            }
            for other in others {
                let link = self.links.entry((successor.clone(), other)).or_default();
                link.push_back(Control::TakenOver {
                    incarnation,
                    orphan: incarnation,
                    lineage: incarnation,
                });
            }
            if let Some(directory) = self.nodes.get_mut(&successor) {
                directory.taken_over(incarnation);
            }
            self.act(&successor);
        }
    }

    /// Who waits long asks the store.
    pub(super) fn ask_the_store(&mut self) {
        for node in self.nodes.keys().cloned().collect::<Vec<_>>() {
            let waiting: Vec<(u64, Arc<str>)> = self.nodes[&node]
                .claims
                .iter()
                .map(|(request, claim)| (*request, Arc::clone(&claim.client)))
                .collect();
            for (request, client) in waiting {
                let hint = self.store.get(&client).copied();
                if let Some(claim) = self.claims.get_mut(&(Arc::clone(&node), request)) {
                    claim.2 = hint;
                }
                self.nodes.get_mut(&node).unwrap().claim_again(request, hint);
                self.act(&node);
            }
        }
        self.settle();
    }

    pub(super) fn holders(&self, client: &str) -> Vec<Arc<str>> {
        let holding = self.sessions.iter().filter(|(_, all)| all.contains_key(client));
        holding.map(|(node, _)| Arc::clone(node)).collect()
    }
}
