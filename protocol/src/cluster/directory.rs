//! Which node holds which client's session: one session a client in the whole cluster
//! ([MQTT-3.1.4-2]).
//!
//! Every client id has an owner by the [`Ring`]. A node asks it before it lets a client in
//! ([`Directory::claim`]); the owner has the holder give the session up first, one handover
//! after another. What an owner knows is told to it by the holders and stands nowhere else: when
//! the members change, every node tells the new owners what it holds, then says so to everybody,
//! and an owner grants nothing before all members have said it under the view that it has itself.
//!
//! Invariants: an owner has at most one handover under way a client. A grant is given only
//! when nobody else holds the session, or when its holder is lost and everything that it held is
//! another's.
//! Bounds: an entry a session of the cluster, at its owner and at its holder; claims by the
//! connections that wait for them, and those that are being withdrawn by what a link keeps. A refused request is kept
//! once a session held here and a node that asked, until the session goes or that start of the node is over.

mod entries;
mod owner;
mod withdraw;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use ahash::AHashMap;

use super::member::MembershipView;
use super::message::{Control, Handed};
use super::ring::{Key, Ring};
pub use entries::Holder;
use entries::{ADMITTING, Claim, LocalSession, Owned, Resuming, Waiter};

/// Client ids in one [`Control::Held`].
const AT_ONCE: usize = 512;
/// As a hint: the store was asked and knows no holder.
pub const NOBODY: u64 = 0;
/// Lost incarnations that are remembered: a claim with a hint to one is seconds behind at most.
const REMEMBERED: usize = 1024;

#[cfg(not(test))]
fn map<K, V>() -> AHashMap<K, V> {
    AHashMap::new()
}

/// In an order that the seed of a simulation repeats.
#[cfg(test)]
fn map<K, V>() -> AHashMap<K, V> {
    AHashMap::with_hasher(ahash::RandomState::with_seeds(1, 2, 3, 4))
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// This goes to that node.
    Send(Arc<str>, Control),
    /// A claim of this node is granted; it takes the persistent session that another gave up.
    Grant {
        /// The number it was made with.
        request: u64,
        /// See [`Control::Granted`].
        from: Option<Handed>,
    },
    /// A claim that was withdrawn is granted to nobody.
    Forget {
        /// The number it was made with.
        request: u64,
    },
    /// This node gives a session up and answers with [`Directory::released`].
    Release {
        /// Who asks.
        owner: Arc<str>,
        /// Its ticket.
        ticket: u64,
        /// Client id.
        client: Arc<str>,
        /// The node that gets it.
        to: Arc<str>,
    },
}

/// See the module.
#[derive(Debug)]
pub struct Directory {
    me: Holder,
    view: MembershipView,
    digest: u64,
    ring: Ring,
    held: AHashMap<Arc<str>, LocalSession>,
    owned: AHashMap<Arc<str>, Owned>,
    claims: BTreeMap<u64, Claim>,
    /// How many of `claims` a client has.
    claiming: AHashMap<Arc<str>, u32>,
    next_request: u64,
    next_ticket: u64,
    /// The digest under which each member has told what it holds.
    synced: AHashMap<Arc<str>, u64>,
    /// Claims that came before this node may grant.
    early: Vec<(Arc<str>, Control)>,
    /// Nodes whose link is up again and that have not answered since, and their claims.
    resuming: AHashMap<Arc<str>, Resuming>,
    next_question: u64,
    /// Owners under another view that have asked for what this node holds, by client: the start that asked last, and
    /// its last ticket.
    refused: BTreeMap<(Arc<str>, Arc<str>), (u64, u64)>,
    /// Lost incarnations whose sessions have a new holder, the last [`REMEMBERED`].
    taken_over: VecDeque<u64>,
    actions: VecDeque<Action>,
}

impl Directory {
    /// Of this node, before it has joined.
    pub fn new(node: Arc<str>, incarnation: u64) -> Self {
        Self {
            me: Holder { node, incarnation },
            view: MembershipView::default(),
            digest: 0,
            ring: Ring::default(),
            held: map(),
            owned: map(),
            claims: BTreeMap::new(),
            claiming: map(),
            next_request: 1,
            next_ticket: 1,
            synced: map(),
            early: Vec::new(),
            resuming: map(),
            refused: BTreeMap::new(),
            next_question: 1,
            taken_over: VecDeque::new(),
            actions: VecDeque::new(),
        }
    }

    /// What is to be done next, in order.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The members it goes by.
    pub fn view(&self) -> &MembershipView {
        &self.view
    }

    /// The ring of these members.
    pub fn ring(&self) -> &Ring {
        &self.ring
    }

    /// Sessions that this node holds, sessions that it owns, claims of its own under way.
    pub fn sizes(&self) -> (usize, usize, usize) {
        (self.held.len(), self.owned.len(), self.claims.len())
    }

    /// Whether every member has told what it holds: claims are granted.
    pub fn is_synced(&self) -> bool {
        self.missing().is_none()
    }

    /// A member that has not told what it holds.
    pub fn missing(&self) -> Option<&Arc<str>> {
        self.view
            .members
            .iter()
            .map(|member| &member.node_id)
            .find(|node| **node != self.me.node && self.is_missing(node))
    }

    /// Whether this member has not told what it holds.
    pub fn is_missing(&self, node: &str) -> bool {
        self.synced.get(node) != Some(&self.digest)
    }

    fn owner_in(ring: &Ring, view: &MembershipView, client: &str) -> Option<Holder> {
        let node = ring.owner(Key::Client(client))?;
        let incarnation = view.member(node)?.incarnation;
        Some(Holder { node: Arc::clone(node), incarnation })
    }

    fn owner(&self, client: &str) -> Option<Holder> {
        Self::owner_in(&self.ring, &self.view, client)
    }

    fn owns(&self, client: &str) -> bool {
        self.ring.owns(&self.me.node, Key::Client(client))
    }

    /// The members have changed: who owns what now is told what this node holds.
    pub fn members_changed(&mut self, view: MembershipView) {
        let digest = view.digest();
        if digest == self.digest {
            self.view = view;
            return;
        }
        let ring = Ring::new(view.members.iter().map(|member| Arc::clone(&member.node_id)));
        let mut told: BTreeMap<Arc<str>, Vec<(Arc<str>, bool)>> = BTreeMap::new();
        for (client, held) in &self.held {
            let owner = Self::owner_in(&ring, &view, client);
            if let Some(owner) = owner
                && self.owner(client).as_ref() != Some(&owner)
            {
                told.entry(owner.node).or_default().push((Arc::clone(client), held.clean));
            }
        }
        // A later start of who has asked waits for nothing. One that is no member may be one again, and waits.
        self.refused.retain(|(_, owner), (incarnation, _)| {
            view.member(owner).is_none_or(|member| member.incarnation <= *incarnation)
        });
        let before = std::mem::replace(&mut self.view, view);
        (self.ring, self.digest) = (ring, digest);
        // Who waits at an owner that is none any more asks the new one.
        let (me, ring) = (&self.me, &self.ring);
        let mut waiting = Vec::new();
        self.owned.retain(|client, owned| {
            let keep = ring.owns(&me.node, Key::Client(client));
            if !keep && let Some(moving) = owned.moving.take() {
                waiting.extend(moving.waiters);
            }
            keep
        });
        waiting.sort_unstable_by(|a, b| (&a.node, a.request).cmp(&(&b.node, b.request)));
        for waiter in waiting {
            self.answer(&waiter.node, Control::NotOwner { request: waiter.request });
        }
        for (node, mut clients) in told {
            clients.sort_unstable();
            while !clients.is_empty() {
                let rest = clients.split_off(clients.len().min(AT_ONCE));
                self.send(&node, Control::Held { clients: std::mem::replace(&mut clients, rest) });
            }
        }
        let others: Vec<Arc<str>> = self.others();
        for node in others {
            self.actions.push_back(Action::Send(node, Control::Synced { view: digest }));
        }
        let claims: Vec<u64> = self.claims.keys().copied().collect();
        for request in claims {
            self.send_claim(request);
        }
        self.retry(&before);
        self.grant_early();
    }

    fn others(&self) -> Vec<Arc<str>> {
        let all = self.view.members.iter().map(|member| Arc::clone(&member.node_id));
        all.filter(|node| *node != self.me.node).collect()
    }

    /// A client wants to connect here: [`Action::Grant`] follows with the number that is returned.
    /// `hint`: the incarnation that the store names as the holder of its session, where that was asked.
    pub fn claim(&mut self, client: &Arc<str>, clean: bool, hint: Option<u64>) -> u64 {
        let request = self.next_request;
        self.next_request += 1;
        let client_ = Arc::clone(client);
        let claim = Claim { client: client_, clean, hint, sent: None, withdrawn: false };
        self.claims.insert(request, claim);
        *self.claiming.entry(Arc::clone(client)).or_default() += 1;
        self.send_claim(request);
        request
    }

    /// Makes a claim that is not granted yet again, now that the store was asked: what its owner
    /// waits for may have been said by a node that was lost since.
    pub fn claim_again(&mut self, request: u64, holder: Option<u64>) {
        if let Some(claim) = self.claims.get_mut(&request).filter(|claim| !claim.withdrawn) {
            (claim.hint, claim.sent) = (holder.or(Some(NOBODY)), None);
            self.send_claim(request);
        }
    }

    /// Whether a claim is neither granted nor given up.
    pub fn is_claimed(&self, request: u64) -> bool {
        self.claims.contains_key(&request)
    }

    fn send_claim(&mut self, request: u64) {
        let Some(claim) = self.claims.get(&request) else { return };
        let owner = self.owner(&claim.client);
        if claim.withdrawn && owner != claim.sent {
            // Whoever owns it now has not heard of it.
            return self.forget(request);
        }
        if owner.is_none() || owner == claim.sent {
            return;
        }
        let message = Control::Claim {
            request,
            client: Arc::clone(&claim.client),
            clean: claim.clean,
            hint: claim.hint,
        };
        if let Some(claim) = self.claims.get_mut(&request) {
            claim.sent.clone_from(&owner);
        }
        if let Some(owner) = owner {
            self.send(&owner.node, message);
        }
    }

    /// This node holds the session from the start: found in the store, or taken over.
    pub fn holds(&mut self, client: &Arc<str>, clean: bool) {
        self.held.insert(Arc::clone(client), LocalSession { clean, admission: 0 });
        if let Some(owner) = self.owner(client) {
            self.send(&owner.node, Control::Held { clients: vec![(Arc::clone(client), clean)] });
        }
    }

    /// A client whose claim was granted is let in; `admission` rises from one to the next.
    pub fn admitted(&mut self, client: &str, admission: u64) {
        if let Some(held) = self.held.get_mut(client) {
            held.admission = admission;
        }
    }

    /// A session of this node has ended, or its claim came to nothing. `seen`: the last admission that had
    /// been heard of where that was noticed. A later one, or a claim of the same client, holds it on.
    pub fn gone(&mut self, client: &Arc<str>, seen: u64) {
        let Some(held) = self.held.get(client) else { return };
        if held.admission > seen || self.claiming.contains_key(client) {
            return;
        }
        self.held.remove(client);
        self.answer_refused(client);
        if let Some(owner) = self.owner(client) {
            self.send(&owner.node, Control::Gone { client: Arc::clone(client) });
        }
    }

    /// Whether this node holds it.
    pub fn is_held(&self, client: &str) -> bool {
        self.held.contains_key(client)
    }

    /// The answer to [`Action::Release`].
    pub fn released(
        &mut self,
        owner: &Arc<str>,
        ticket: u64,
        client: &Arc<str>,
        handed: Option<Handed>,
    ) {
        self.held.remove(client);
        self.send(owner, Control::Released { ticket, client: Arc::clone(client), handed });
        self.answer_refused(client);
    }

    /// A session is not here any more: the owners whose requests for it were refused wait for nothing.
    fn answer_refused(&mut self, client: &Arc<str>) {
        if self.refused.is_empty() {
            return;
        }
        let first = (Arc::clone(client), Arc::from(""));
        let its = self.refused.range(first..).take_while(|((of, _), _)| of == client);
        let its: Vec<_> = its.map(|(key, (_, ticket))| (key.clone(), *ticket)).collect();
        for (key, _) in &its {
            self.refused.remove(key);
        }
        for ((_, owner), ticket) in its {
            let client = Arc::clone(client);
            self.answer(&owner, Control::Released { ticket, client, handed: None });
        }
    }

    /// To a node, this one included.
    fn send(&mut self, node: &Arc<str>, message: Control) {
        if *node == self.me.node {
            let me = self.me.clone();
            self.receive(&me, message);
        } else {
            self.actions.push_back(Action::Send(Arc::clone(node), message));
        }
    }

    fn answer(&mut self, node: &Arc<str>, message: Control) {
        self.send(node, message);
    }

    /// A control message of another node; those that are not about sessions are ignored.
    pub fn receive(&mut self, from: &Holder, message: Control) {
        let Some(message) = self.put_off(from, message) else { return };
        match message {
            Control::Held { clients } => {
                for (client, clean) in clients {
                    self.held_by(from, &client, clean);
                }
            }
            Control::Synced { view } => {
                self.synced.insert(Arc::clone(&from.node), view);
                self.grant_early();
                // It may be the owner now that it was not when it was asked.
                let refused = self.claims.iter().filter(|(_, claim)| claim.sent.is_none());
                let refused: Vec<u64> = refused.map(|(request, _)| *request).collect();
                refused.into_iter().for_each(|request| self.send_claim(request));
            }
            Control::Claim { request, ref client, clean, hint } => {
                if !self.owns(client) {
                    self.answer(&from.node, Control::NotOwner { request });
                } else if !self.is_synced() {
                    // The last one knows best whom the store names.
                    self.early.retain(|(node, known)| {
                        let same =
                            matches!(known, Control::Claim { request: r, .. } if *r == request);
                        *node != from.node || !same
                    });
                    self.early.push((Arc::clone(&from.node), message));
                } else {
                    let waiter = Waiter { node: Arc::clone(&from.node), request, clean, hint };
                    self.claimed(&Arc::clone(client), waiter);
                }
            }
            Control::Granted { request, from: handed } => {
                // Not of an owner that was asked under an earlier view: the present one knows nothing
                // of it.
                let asked = self.claims.get(&request).and_then(|claim| claim.sent.as_ref());
                if asked == Some(from)
                    && let Some(claim) = self.end_claim(request)
                {
                    if claim.withdrawn && handed.is_none() {
                        return self.give_back(request, &claim.client);
                    }
                    let held = LocalSession { clean: claim.clean, admission: ADMITTING };
                    self.held.insert(claim.client, held);
                    self.actions.push_back(Action::Grant { request, from: handed });
                }
            }
            Control::NotOwner { request } => {
                // One of the two views is the older one: it is sent again when either changes.
                if self.claims.get(&request).is_some_and(|claim| claim.withdrawn) {
                    return self.forget(request);
                }
                let moved = self.claims.get_mut(&request).is_some_and(|claim| {
                    claim.sent.take().is_some_and(|sent| sent.node != from.node)
                });
                if moved {
                    self.send_claim(request);
                }
            }
            Control::Unclaim { request, client } => self.unclaim(from, request, &client),
            Control::Unclaimed { request } => self.forget(request),
            Control::Resuming { number } => {
                self.answer(&Arc::clone(&from.node), Control::Resumed { number });
            }
            Control::Resumed { number } => self.resumed(from, number),
            Control::Release { ticket, client, to } => {
                // Nor does this node give up what it has told another owner of.
                let owner = Arc::clone(&from.node);
                if self.owner(&client).as_ref() != Some(from) {
                    if self.held.contains_key(&client) {
                        // The views may agree only once it is not here any more.
                        self.refused.insert((client, owner), (from.incarnation, ticket));
                    } else {
                        // Who asks waits for it.
                        self.answer(&owner, Control::Released { ticket, client, handed: None });
                    }
                    return;
                }
                self.refused.remove(&(Arc::clone(&client), Arc::clone(&owner)));
                self.actions.push_back(Action::Release { owner, ticket, client, to });
            }
            Control::Released { ticket, client, handed } => self.moved(ticket, &client, handed),
            Control::Gone { client } => self.ended(from, &client),
            Control::TakenOver { incarnation, .. } => self.taken_over(incarnation),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
