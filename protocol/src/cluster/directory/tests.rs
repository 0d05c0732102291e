#![allow(clippy::unwrap_used, clippy::panic, clippy::type_complexity)]

use std::collections::{BTreeMap, BTreeSet, HashMap};

use proptest::prelude::*;

use super::*;
use crate::cluster::{Load, Member};

#[path = "tests/withdraw.rs"]
mod withdraw;

fn member(node: &str, incarnation: u64) -> Member {
    Member {
        node_id: node.into(),
        incarnation,
        peer: String::new(),
        mqtt: Vec::new(),
        version: String::new(),
        protocol: (1, 1),
        load: Load::default(),
        draining: false,
    }
}

/// Some nodes, and what is on its way between them: in order from one to another.
struct Cluster {
    nodes: BTreeMap<Arc<str>, Directory>,
    links: BTreeMap<(Arc<str>, Arc<str>), VecDeque<Control>>,
    /// What each node really holds; true: clean.
    sessions: HashMap<Arc<str>, BTreeMap<Arc<str>, bool>>,
    /// Client id, CleanSession, and what the store said.
    claims: HashMap<(Arc<str>, u64), (Arc<str>, bool, Option<u64>)>,
    /// The incarnation that holds a persistent session, by the store.
    store: HashMap<Arc<str>, u64>,
    /// The sessions of lost incarnations.
    lost: BTreeMap<u64, Vec<Arc<str>>>,
    granted: u64,
}

impl Cluster {
    fn new(nodes: &[&str]) -> Self {
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

    fn view(&self) -> MembershipView {
        let members = self.nodes.values().map(|n| member(&n.me.node, n.me.incarnation)).collect();
        MembershipView { generation: 0, members, current: true }
    }

    fn see(&mut self, node: &str) {
        let view = self.view();
        if let Some(directory) = self.nodes.get_mut(node) {
            directory.members_changed(view);
        }
        self.act(node);
    }

    fn see_all(&mut self) {
        let nodes: Vec<Arc<str>> = self.nodes.keys().cloned().collect();
        nodes.iter().for_each(|node| self.see(node));
    }

    fn claim(&mut self, node: &str, client: &str, clean: bool) {
        let client: Arc<str> = client.into();
        let Some(directory) = self.nodes.get_mut(node) else { return };
        let request = directory.claim(&client, clean, None);
        self.claims.insert((node.into(), request), (client, clean, None));
        self.act(node);
    }

    fn act(&mut self, node: &str) {
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
    fn withdraw(&mut self, node: &str, which: usize) {
        let Some(directory) = self.nodes.get_mut(node) else { return };
        let claims: Vec<u64> = directory.claims.keys().copied().collect();
        if !claims.is_empty() {
            directory.withdraw(claims[which % claims.len()]);
        }
        self.act(node);
    }

    /// A connection between two nodes has ended, and there is another.
    fn reconnect(&mut self, one: &str, other: &str) {
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
    fn deliver(&mut self, which: usize) -> bool {
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

    fn settle(&mut self) {
        while self.deliver(0) {}
    }

    /// The node is gone with what was on its way to and from it.
    fn lose(&mut self, node: &str) {
        let Some(directory) = self.nodes.remove(node) else { return };
        self.links.retain(|(from, to), _| **from != *node && **to != *node);
        self.sessions.remove(node);
        // By the store: also what it gave up and nobody has taken.
        let incarnation = directory.me.incarnation;
        let stored = self.store.iter().filter(|(_, holder)| **holder == incarnation);
        let stored = stored.map(|(client, _)| Arc::clone(client));
        self.lost.insert(incarnation, stored.collect());
    }

    fn take_over(&mut self) {
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
    fn ask_the_store(&mut self) {
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

    fn holders(&self, client: &str) -> Vec<Arc<str>> {
        let holding = self.sessions.iter().filter(|(_, all)| all.contains_key(client));
        holding.map(|(node, _)| Arc::clone(node)).collect()
    }
}

#[test]
fn a_client_that_connects_elsewhere_takes_its_session_along() {
    let mut cluster = Cluster::new(&["n1", "n2", "n3"]);
    cluster.see_all();
    cluster.settle();
    for node in ["n1", "n2", "n3", "n1"] {
        cluster.claim(node, "device-1", false);
        cluster.settle();
        assert_eq!(cluster.holders("device-1"), [node.into()]);
    }
}

#[test]
fn nothing_is_granted_before_every_member_has_told_what_it_holds() {
    let mut cluster = Cluster::new(&["n1", "n2"]);
    cluster.see("n1");
    for n in 0..20 {
        cluster.claim("n1", &format!("device-{n}"), true);
    }
    cluster.settle();
    assert_eq!(cluster.granted, 0);
    cluster.see("n2");
    cluster.settle();
    assert_eq!(cluster.granted, 20);
}

#[test]
fn a_lost_session_waits_for_its_successor_and_a_clean_one_does_not() {
    let mut cluster = Cluster::new(&["n1", "n2", "n3"]);
    cluster.see_all();
    for n in 0..20 {
        cluster.claim("n3", &format!("device-{n}"), n % 2 == 0);
    }
    cluster.settle();
    cluster.lose("n3");
    cluster.see_all();
    cluster.settle();
    cluster.granted = 0;
    for n in 0..20 {
        cluster.claim("n1", &format!("device-{n}"), n % 2 == 0);
    }
    cluster.settle();
    assert_eq!(cluster.granted, 10);
    cluster.take_over();
    cluster.settle();
    assert_eq!(cluster.granted, 20);
}

/// Its holder keeps what came behind the markers for that one, and for nobody else.
#[test]
fn what_was_given_up_for_a_node_that_is_lost_is_given_up_again_for_the_next() {
    let holder = |node: &str, incarnation| Holder { node: node.into(), incarnation };
    let (b, c, d) = (holder("b", 2), holder("c", 3), holder("d", 4));
    let view = |members: &[(&str, u64)]| MembershipView {
        generation: 0,
        members: members.iter().map(|(node, incarnation)| member(node, *incarnation)).collect(),
        current: true,
    };
    let mut a = Directory::new("a".into(), 1);
    let see = |a: &mut Directory, members: &[(&str, u64)]| {
        a.members_changed(view(members));
        for (node, incarnation) in &members[1..] {
            let view = a.digest;
            a.receive(&holder(node, *incarnation), Control::Synced { view });
        }
    };
    let released = |a: &mut Directory| {
        let mut found = None;
        while let Some(action) = a.poll_action() {
            match action {
                Action::Send(node, Control::Release { ticket, to, .. }) => {
                    found = Some((node, ticket, to));
                }
                Action::Send(_, Control::Granted { .. }) => panic!("{action:?}"),
                _ => {}
            }
        }
        found.unwrap()
    };
    see(&mut a, &[("a", 1), ("b", 2), ("c", 3), ("d", 4)]);
    let client = (0..).map(|n| format!("client-{n}")).find(|client| a.owns(client)).unwrap();
    let client: Arc<str> = client.into();
    a.receive(&b, Control::Held { clients: vec![(Arc::clone(&client), false)] });
    for claimant in [&c, &d] {
        let client = Arc::clone(&client);
        a.receive(claimant, Control::Claim { request: 1, client, clean: false, hint: None });
    }
    let (node, ticket, to) = released(&mut a);
    assert_eq!((&*node, &*to), ("b", "c"));
    see(&mut a, &[("a", 1), ("b", 2), ("d", 4)]);
    let handed = Some(Handed { session: 7, incarnation: 2, given_up: 9 });
    a.receive(&b, Control::Released { ticket, client, handed });
    let (node, again, to) = released(&mut a);
    assert_eq!((&*node, &*to), ("b", "d"));
    assert_ne!(again, ticket);
}

/// A device that reconnects while its old connection ends.
#[test]
fn what_an_earlier_attempt_says_does_not_end_a_later_one() {
    let mut cluster = Cluster::new(&["a", "b"]);
    cluster.see_all();
    cluster.settle();
    let client: Arc<str> = "device".into();
    let elsewhere = |cluster: &mut Cluster| {
        cluster.settle();
        cluster.claim("b", "device", true);
        cluster.settle();
        !cluster.holders("device").contains(&"a".into())
    };
    cluster.claim("a", "device", true);
    cluster.settle();
    let node = |cluster: &mut Cluster, act: &dyn Fn(&mut Directory)| {
        cluster.nodes.get_mut("a").into_iter().for_each(act);
        cluster.act("a");
    };
    node(&mut cluster, &|a| a.admitted("device", 1));
    // The second claim is under way, then granted, then let in: each time the first one's end is late.
    cluster.claim("a", "device", true);
    node(&mut cluster, &|a| a.gone(&client, 1));
    cluster.settle();
    node(&mut cluster, &|a| a.gone(&client, 1));
    node(&mut cluster, &|a| a.admitted("device", 2));
    node(&mut cluster, &|a| a.gone(&client, 1));
    assert!(cluster.nodes["a"].is_held("device"));
    assert!(elsewhere(&mut cluster), "its owner knew where it was");
    cluster.claim("a", "device", true);
    cluster.settle();
    node(&mut cluster, &|a| a.admitted("device", 3));
    node(&mut cluster, &|a| a.gone(&client, 3));
    assert!(!cluster.nodes["a"].is_held("device"));
}

#[test]
fn what_the_store_says_counts_where_the_owner_knows_nothing() {
    let mut cluster = Cluster::new(&["n1", "n2"]);
    cluster.see_all();
    cluster.settle();
    let client: Arc<str> = "device-1".into();
    let sessions = cluster.sessions.get_mut("n2").unwrap();
    sessions.insert(Arc::clone(&client), false);
    let request = cluster.nodes.get_mut("n1").unwrap().claim(&client, false, Some(2));
    cluster.claims.insert(("n1".into(), request), (client, false, Some(2)));
    cluster.act("n1");
    cluster.settle();
    assert_eq!(cluster.holders("device-1"), ["n1".into()]);
}

/// A node alone with a view of its own: what it does is looked at, not carried out.
struct Owner(Directory);

impl Owner {
    /// Of a client that `n1` owns, with `n2` to `n4` beside it; all have told what they hold.
    fn new() -> (Self, Arc<str>) {
        let mut owner = Self(Directory::new("n1".into(), 1));
        owner.see(&[1, 2, 3, 4]);
        let client = (0..).map(|n| Arc::from(format!("c{n}"))).find(|c| owner.0.owns(c)).unwrap();
        (owner, client)
    }

    fn see(&mut self, numbers: &[u64]) {
        let members = numbers.iter().map(|n| member(&format!("n{n}"), *n)).collect();
        self.0.members_changed(MembershipView { generation: 0, members, current: true });
        let view = self.0.view.digest();
        for n in numbers.iter().filter(|n| **n != 1) {
            self.hear(*n, Control::Synced { view });
        }
        while self.0.poll_action().is_some() {}
    }

    fn hear(&mut self, n: u64, message: Control) {
        self.0.receive(&Holder { node: format!("n{n}").into(), incarnation: n }, message);
    }

    fn claim(&mut self, n: u64, request: u64, client: &Arc<str>, hint: Option<u64>) {
        let client = Arc::clone(client);
        self.hear(n, Control::Claim { request, client, clean: false, hint });
    }

    fn released(&mut self, n: u64, ticket: u64, client: &Arc<str>) {
        self.hear(n, Control::Released { ticket, client: Arc::clone(client), handed: None });
    }

    /// Releases that it asks for, as node and ticket, and grants, as node and request.
    fn says(&mut self) -> Vec<(&'static str, Arc<str>, u64)> {
        std::iter::from_fn(|| self.0.poll_action())
            .filter_map(|action| match action {
                Action::Send(to, Control::Release { ticket, .. }) => Some(("release", to, ticket)),
                Action::Send(to, Control::Granted { request, .. }) => Some(("grant", to, request)),
                _ => None,
            })
            .collect()
    }
}

/// Whose turn comes with a hint to a lost node waits for its successor: else it takes from the store what nobody
/// has given up.
#[test]
fn a_hint_counts_when_its_claims_turn_comes() {
    let (mut owner, client) = Owner::new();
    owner.see(&[1, 2, 3]);
    owner.claim(2, 1, &client, None);
    assert_eq!(owner.says(), [("grant", "n2".into(), 1)]);
    owner.claim(3, 1, &client, None);
    let release = owner.says();
    assert_eq!(release, [("release", "n2".into(), 1)]);
    // The store has named a lost one to n2, which has nothing itself.
    owner.claim(2, 2, &client, Some(4));
    owner.released(2, 1, &client);
    assert_eq!(owner.says(), [("grant", "n3".into(), 1), ("release", "n3".into(), 2)]);
    owner.released(3, 2, &client);
    assert_eq!(owner.says(), []);
    let client_held = vec![(Arc::clone(&client), false)];
    owner.hear(2, Control::Held { clients: client_held });
    assert_eq!(owner.says(), [("grant", "n2".into(), 2)]);
}

#[test]
fn of_a_claim_that_is_made_again_before_it_may_be_granted_the_last_one_counts() {
    let (mut owner, client) = Owner::new();
    let members = [1, 2, 4].map(|n| member(&format!("n{n}"), n)).into();
    owner.0.members_changed(MembershipView { generation: 0, members, current: true });
    owner.claim(2, 1, &client, None);
    owner.claim(2, 1, &client, Some(3));
    let view = owner.0.view.digest();
    [2, 4].into_iter().for_each(|n| owner.hear(n, Control::Synced { view }));
    assert_eq!(owner.says(), []);
}

#[test]
fn a_holder_that_is_back_is_asked() {
    let (mut owner, client) = Owner::new();
    owner.claim(2, 1, &client, None);
    owner.see(&[1, 3, 4]);
    owner.claim(3, 1, &client, None);
    assert_eq!(owner.says(), []);
    owner.0.members_changed(MembershipView {
        generation: 0,
        members: [1, 2, 3, 4].map(|n| member(&format!("n{n}"), n)).into(),
        current: true,
    });
    assert_eq!(owner.says(), [("release", "n2".into(), 1)]);
}

/// What the one has said was older: it holds nothing, and the other does not give up for it.
#[test]
fn who_says_again_that_it_holds_a_session_does() {
    let (mut owner, client) = Owner::new();
    let held = Control::Held { clients: vec![(Arc::clone(&client), false)] };
    owner.hear(2, held.clone());
    owner.hear(3, held.clone());
    assert_eq!(owner.says(), [("release", "n3".into(), 0)]);
    owner.hear(3, held);
    assert_eq!(owner.says(), []);
    owner.claim(3, 1, &client, None);
    assert_eq!(owner.says(), [("grant", "n3".into(), 1)]);
}

#[test]
fn who_is_asked_by_another_than_the_owner_says_that_it_has_nothing() {
    let (mut node, client) = Owner::new();
    let to = "n3".into();
    node.hear(2, Control::Release { ticket: 5, client: Arc::clone(&client), to });
    let released = Control::Released { ticket: 5, client, handed: None };
    assert_eq!(node.0.poll_action(), Some(Action::Send("n2".into(), released)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Whatever the order: no session is at two nodes, and in the end every claim is granted.
    #[test]
    fn one_session_in_the_whole_cluster(steps in proptest::collection::vec((0..14_u8, 0..1000_usize), 1..200)) {
        let mut cluster = Cluster::new(&["n1", "n2", "n3", "n4"]);
        cluster.see_all();
        cluster.settle();
        let mut made = 0;
        for (step, which) in steps {
            let nodes: Vec<Arc<str>> = cluster.nodes.keys().cloned().collect();
            let node = Arc::clone(&nodes[which % nodes.len()]);
            match step {
                0..=3 => {
                    cluster.claim(&node, &format!("c{}", which % 7), false);
                    made += 1;
                }
                4 if nodes.len() > 2 && cluster.lost.is_empty() => {
                    cluster.lose(&node);
                    let rest: BTreeSet<_> = cluster.nodes.keys().cloned().collect();
                    rest.iter().for_each(|node| cluster.see(node));
                }
                5 => cluster.take_over(),
                6 => cluster.withdraw(&node, which),
                7 => cluster.reconnect(&node, &nodes[(which / 7) % nodes.len()]),
                _ => drop(cluster.deliver(which)),
            }
        }
        cluster.see_all();
        cluster.settle();
        cluster.take_over();
        cluster.settle();
        (0..3).for_each(|_| cluster.ask_the_store());
        let waiting: usize = cluster.nodes.values().map(|node| node.sizes().2).sum();
        prop_assert_eq!(waiting, 0, "of {} claims, {} granted", made, cluster.granted);
    }
}
