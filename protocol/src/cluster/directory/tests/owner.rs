//! One node alone: what the owner of a client says to what it hears.

use std::sync::Arc;

use super::super::{Action, Control, Directory, Holder, MembershipView};
use super::member;

/// A node alone with a view of its own: what it does is looked at, not carried out.
pub(super) struct Owner(pub(super) Directory);

impl Owner {
    /// Of a client that `n1` owns, with `n2` to `n4` beside it; all have told what they hold.
    pub(super) fn new() -> (Self, Arc<str>) {
        let mut owner = Self(Directory::new("n1".into(), 1));
        owner.see(&[1, 2, 3, 4]);
        let client = (0..).map(|n| Arc::from(format!("c{n}"))).find(|c| owner.0.owns(c)).unwrap();
        (owner, client)
    }

    pub(super) fn see(&mut self, numbers: &[u64]) {
        let members = numbers.iter().map(|n| member(&format!("n{n}"), *n)).collect();
        self.0.members_changed(MembershipView { generation: 0, members, current: true });
        let view = self.0.view.digest();
        for n in numbers.iter().filter(|n| **n != 1) {
            self.hear(*n, Control::Synced { view });
        }
        while self.0.poll_action().is_some() {}
    }

    pub(super) fn hear(&mut self, n: u64, message: Control) {
        self.0.receive(&Holder { node: format!("n{n}").into(), incarnation: n }, message);
    }

    pub(super) fn claim(&mut self, n: u64, request: u64, client: &Arc<str>, hint: Option<u64>) {
        let client = Arc::clone(client);
        self.hear(n, Control::Claim { request, client, clean: false, hint });
    }

    pub(super) fn released(&mut self, n: u64, ticket: u64, client: &Arc<str>) {
        self.hear(n, Control::Released { ticket, client: Arc::clone(client), handed: None });
    }

    /// Releases that it asks for, as node and ticket, and grants, as node and request.
    pub(super) fn says(&mut self) -> Vec<(&'static str, Arc<str>, u64)> {
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

/// A node that was out of sight is the owner again under members that it never saw change, and asks a holder that still
/// sees the members in between.
#[test]
fn an_owner_that_is_refused_under_another_view_hears_when_the_session_is_given_up() {
    let (mut holder, client) = Owner::new();
    holder.see(&[1, 2, 3]);
    holder.0.holds(&client, false);
    while holder.0.poll_action().is_some() {}
    for (ticket, gone) in [(7, false), (8, true)] {
        holder.hear(4, Control::Release { ticket, client: Arc::clone(&client), to: "n2".into() });
        assert_eq!(holder.0.poll_action(), None, "it is not this one's to give up for n4");
        if gone {
            holder.0.holds(&client, false);
            holder.0.gone(&client, 1);
        } else {
            holder.0.released(&"n3".into(), 1, &client, None);
        }
        let mut told = Vec::new();
        while let Some(action) = holder.0.poll_action() {
            told.extend(match action {
                Action::Send(node, Control::Released { ticket, handed: None, .. })
                    if *node == *"n4" =>
                {
                    Some(ticket)
                }
                _ => None,
            });
        }
        assert_eq!(told, [ticket], "once");
        holder.0.holds(&client, false);
        while holder.0.poll_action().is_some() {}
    }
}

/// Its tickets begin anew: one of an earlier start may be that of another request of this one.
#[test]
fn a_later_start_of_a_refused_owner_is_not_told_what_the_earlier_one_asked_for() {
    for (over, back) in [(true, 4), (false, 4), (false, 5)] {
        let (mut holder, client) = Owner::new();
        holder.see(&[1, 2, 3]);
        // The other one stays.
        for client in [&client, &Arc::from(format!("{client}-"))] {
            holder.0.holds(client, false);
            let (client, to) = (Arc::clone(client), "n2".into());
            holder.hear(4, Control::Release { ticket: 7, client, to });
        }
        if over {
            let (incarnation, orphan, lineage) = (4, 4, 1);
            holder.hear(2, Control::TakenOver { incarnation, orphan, lineage });
        }
        // It is out of sight for another change.
        holder.see(&[1, 3]);
        let members = [("n1", 1), ("n3", 3), ("n4", back)].map(|(node, n)| member(node, n));
        let members = members.into_iter().collect();
        holder.0.members_changed(MembershipView { generation: 0, members, current: true });
        while holder.0.poll_action().is_some() {}
        holder.0.released(&"n3".into(), 1, &client, None);
        let told = std::iter::from_fn(|| holder.0.poll_action())
            .filter(|action| matches!(action, Action::Send(to, Control::Released { ticket: 7, .. }) if **to == *"n4"))
            .count();
        assert_eq!(told, usize::from(!over && back == 4), "{over} {back}");
    }
}
