//! Claims whose client has left before they were granted: the owner is told, and what it has granted by then
//! is given back. And what a link that is up again, or begins anew, means for claims.
//!
//! A claim may lie in a link for as long as a partition lasts. Its withdrawal lies behind it then: what an owner
//! hears over a link that is up again waits until the claimant has said that there is nothing more of before
//! ([`Control::Resuming`]). Else the owner would take the session from the newer connection of that client first.
//!
//! A claim that an owner has asked a holder for is not withdrawn any more: a session that is given up has to be
//! somebody's. It comes to this node as one without a connection.

use std::mem;
use std::sync::Arc;

use super::entries::{Claim, Holder, Resuming};
use super::{AT_ONCE, Action, Directory, Key};
use crate::cluster::message::Control;

impl Directory {
    /// The client of a claim has left. [`Action::Grant`] follows all the same where the session of another
    /// holder is given up for it already, else [`Action::Forget`].
    pub fn withdraw(&mut self, request: u64) {
        let Some(claim) = self.claims.get_mut(&request) else { return };
        claim.withdrawn = true;
        let client = Arc::clone(&claim.client);
        match claim.sent.clone() {
            Some(owner) => self.send(&owner.node, Control::Unclaim { request, client }),
            None => self.forget(request),
        }
    }

    pub(super) fn end_claim(&mut self, request: u64) -> Option<Claim> {
        let claim = self.claims.remove(&request)?;
        if let Some(claiming) = self.claiming.get_mut(&claim.client) {
            *claiming -= 1;
            if *claiming == 0 {
                self.claiming.remove(&claim.client);
            }
        }
        Some(claim)
    }

    /// It is granted to nobody.
    pub(super) fn forget(&mut self, request: u64) {
        if self.claims.get(&request).is_some_and(|claim| claim.withdrawn) {
            self.end_claim(request);
            self.actions.push_back(Action::Forget { request });
        }
    }

    /// It was granted, as nobody's, and its client has left.
    pub(super) fn give_back(&mut self, request: u64, client: &Arc<str>) {
        self.actions.push_back(Action::Forget { request });
        // A later claim of that client holds it on, and so does the session that was here before.
        if self.held.contains_key(client) || self.claiming.contains_key(client) {
            return;
        }
        if let Some(owner) = self.owner(client) {
            self.send(&owner.node, Control::Gone { client: Arc::clone(client) });
        }
    }

    /// At the owner.
    pub(super) fn unclaim(&mut self, from: &Holder, request: u64, client: &Arc<str>) {
        let its = |node: &Arc<str>, of: u64| *node == from.node && of == request;
        let before = self.early.len();
        self.early.retain(
            |(node, known)| !matches!(known, Control::Claim { request, .. } if its(node, *request)),
        );
        let mut found = self.early.len() < before;
        // Of a lost holder no answer comes.
        let asked = self.owned.get(client).is_some_and(|owned| self.is_member(&owned.holder));
        if let Some(moving) = self.owned.get_mut(client).and_then(|owned| owned.moving.as_mut()) {
            let asked = asked && moving.to.is_some();
            let at = moving.waiters.iter().position(|waiter| its(&waiter.node, waiter.request));
            if let Some(at) = at.filter(|at| *at > 0 || !asked) {
                moving.waiters.remove(at);
                found = true;
                if !asked {
                    self.go_on(client);
                }
            }
        }
        if found {
            self.answer(&Arc::clone(&from.node), Control::Unclaimed { request });
        }
    }

    /// The link to a member lost what was said on it (it started anew): it is told again.
    pub fn link_renewed(&mut self, node: &str) {
        self.synced.remove(node);
        self.resuming.remove(node);
        let Some(node) = self.others().into_iter().find(|other| **other == *node) else { return };
        let mut clients: Vec<(Arc<str>, bool)> = self
            .held
            .iter()
            .filter(|(client, _)| self.ring.owns(&node, Key::Client(client)))
            .map(|(client, held)| (Arc::clone(client), held.clean))
            .collect();
        clients.sort_unstable();
        while !clients.is_empty() {
            let rest = clients.split_off(clients.len().min(AT_ONCE));
            self.send(&node, Control::Held { clients: std::mem::replace(&mut clients, rest) });
        }
        let synced = Control::Synced { view: self.digest };
        self.actions.push_back(Action::Send(Arc::clone(&node), synced));
        let again: Vec<u64> = self
            .claims
            .iter()
            .filter(|(_, claim)| claim.sent.as_ref().is_some_and(|sent| sent.node == node))
            .map(|(request, _)| *request)
            .collect();
        for request in again {
            if let Some(claim) = self.claims.get_mut(&request) {
                claim.sent = None;
            }
            self.send_claim(request);
        }
    }

    /// The link to a node is up: what it says of claims from here on may be of before.
    pub fn link_up(&mut self, node: &Arc<str>) {
        let number = self.next_question;
        self.next_question += 1;
        let resuming = self.resuming.entry(Arc::clone(node));
        let resuming = resuming.or_insert_with(|| Resuming { number, claims: Vec::new() });
        resuming.number = number;
        self.actions.push_back(Action::Send(Arc::clone(node), Control::Resuming { number }));
    }

    /// Keeps a claim that may be of before, and takes away one that is withdrawn.
    pub(super) fn put_off(&mut self, from: &Holder, message: Control) -> Option<Control> {
        let Some(resuming) = self.resuming.get_mut(&from.node) else { return Some(message) };
        match message {
            Control::Claim { .. } => {
                resuming.claims.push(message);
                None
            }
            Control::Unclaim { request, .. } => {
                let before = resuming.claims.len();
                resuming.claims.retain(
                    |known| !matches!(known, Control::Claim { request: r, .. } if *r == request),
                );
                if resuming.claims.len() == before {
                    return Some(message);
                }
                self.answer(&Arc::clone(&from.node), Control::Unclaimed { request });
                None
            }
            other => Some(other),
        }
    }

    /// Nothing of before is to come from it.
    pub(super) fn resumed(&mut self, from: &Holder, number: u64) {
        let resuming = self.resuming.get_mut(&from.node).filter(|it| it.number == number);
        let Some(resuming) = resuming else { return };
        let claims = mem::take(&mut resuming.claims);
        self.resuming.remove(&from.node);
        claims.into_iter().for_each(|claim| self.receive(from, claim));
    }
}
