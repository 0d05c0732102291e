//! Claims whose client has left.

use super::owner::Owner;
use super::*;

/// A partition: claim and withdrawal lie in the link while the client connects elsewhere.
#[test]
fn who_has_left_takes_nothing_when_his_node_is_reached_again() {
    let mut cluster = Cluster::new(&["n1", "n2", "n3"]);
    cluster.see_all();
    cluster.settle();
    let owner = cluster.nodes["n1"].ring.owner(Key::Client("device")).cloned().unwrap();
    let others = || ["n1", "n2", "n3"].into_iter().filter(|node| **node != *owner);
    let (away, near) = (others().next().unwrap(), others().nth(1).unwrap());
    // The link keeps what is said, and nothing of it is delivered.
    let cut = |from: &Arc<str>, to: &Arc<str>| **from == *away || **to == *away;
    cluster.claim(away, "device", false);
    let mut kept = std::mem::take(&mut cluster.links);
    kept.retain(|(from, to), _| cut(from, to));
    cluster.claim(near, "device", false);
    cluster.settle();
    assert_eq!(cluster.holders("device"), [near.into()]);
    cluster.withdraw(away, 0);
    for (at, mut link) in std::mem::take(&mut cluster.links) {
        kept.entry(at).or_default().append(&mut link);
    }
    cluster.links = kept;
    cluster.reconnect(away, &owner);
    cluster.settle();
    assert_eq!(cluster.holders("device"), [near.into()]);
    assert_eq!(cluster.granted, 1);
    assert_eq!(cluster.nodes[away].sizes().2, 0);
    // Who comes back is let in, wherever.
    cluster.claim(away, "device", false);
    cluster.settle();
    assert_eq!(cluster.holders("device"), [away.into()]);
}

#[test]
fn who_has_left_while_others_are_served_is_passed_over() {
    let (mut owner, client) = Owner::new();
    owner.claim(2, 1, &client, None);
    owner.claim(3, 1, &client, None);
    owner.claim(4, 1, &client, None);
    assert_eq!(owner.says(), [("grant", "n2".into(), 1), ("release", "n2".into(), 1)]);
    let unclaim = |n: u64, owner: &mut Owner| {
        owner.hear(n, Control::Unclaim { request: 1, client: Arc::clone(&client) });
        std::iter::from_fn(|| owner.0.poll_action()).collect::<Vec<_>>()
    };
    // What is given up for it has to be somebody's.
    assert_eq!(unclaim(3, &mut owner), []);
    let unclaimed = Control::Unclaimed { request: 1 };
    assert_eq!(unclaim(4, &mut owner), [Action::Send("n4".into(), unclaimed)]);
    owner.released(2, 1, &client);
    assert_eq!(owner.says(), [("grant", "n3".into(), 1)]);
}

#[test]
fn of_a_lost_holder_nobody_waits_who_has_left() {
    let (mut owner, client) = Owner::new();
    owner.claim(2, 1, &client, None);
    owner.claim(3, 1, &client, None);
    owner.says();
    owner.see(&[1, 3, 4]);
    owner.hear(3, Control::Unclaim { request: 1, client: Arc::clone(&client) });
    let unclaimed = Action::Send("n3".into(), Control::Unclaimed { request: 1 });
    assert_eq!(owner.0.poll_action(), Some(unclaimed));
    owner.hear(4, Control::Held { clients: vec![(Arc::clone(&client), false)] });
    assert_eq!(owner.says(), []);
}

/// The grant was on its way when the client left.
#[test]
fn what_is_granted_to_who_has_left_is_given_back_or_kept_for_him() {
    let mut node = Owner::new().0;
    let client = (0..).map(|n| Arc::from(format!("c{n}")));
    let theirs = |c: &Arc<str>| node.0.ring.owner(Key::Client(c)).is_some_and(|o| **o == *"n2");
    let client: Arc<str> = client.into_iter().find(theirs).unwrap();
    let mut left = |from: Option<Handed>| {
        let request = node.0.claim(&client, false, None);
        node.0.withdraw(request);
        while node.0.poll_action().is_some() {}
        node.hear(2, Control::Granted { request, from });
        let said: Vec<Action> = std::iter::from_fn(|| node.0.poll_action()).collect();
        (request, said)
    };
    let (request, said) = left(None);
    let gone = Action::Send("n2".into(), Control::Gone { client: Arc::clone(&client) });
    assert_eq!(said, [Action::Forget { request }, gone]);
    // It has been given up for this node: nobody else looks for it before it is taken.
    let from = Some(Handed { session: 7, incarnation: 3, given_up: 9 });
    let (request, said) = left(from);
    assert_eq!(said, [Action::Grant { request, from }]);
    assert!(node.0.is_held(&client));
}
