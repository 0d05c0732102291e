//! Tests of the directory: nodes beside each other here, one node alone in `owner`, claims that are withdrawn in
//! `withdraw`.

#![allow(clippy::unwrap_used, clippy::panic, clippy::type_complexity)]

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::cluster::{Load, Member};

mod nodes;
mod owner;
mod withdraw;

use nodes::Cluster;

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
