//! Nodes that are lost: their successor seals what they held and goes on with it.

use std::sync::Arc;
use std::time::Duration;

use hydrant_protocol::cluster::{Key, MembershipView, Ring};

use super::coordinator::Coordinator;
use super::node_index::SELF;
use super::state::lost::Lost;
use super::state::requests::{Purpose, Request, TakeOverPart};
use super::{NodeIndex, known_batch};
use crate::plants::{self, Plant};
use crate::ports::{OrphanedState, Sealing, StoreError, StoredBatch};
use crate::say;

/// An incarnation that was sealed or found alive is looked at again after this.
const AGAIN: Duration = Duration::from_secs(1);

impl Coordinator {
    /// Finds who is lost, and who is back with the same start.
    pub(super) fn lose(&mut self, view: &MembershipView) {
        let before = self.directory.view();
        for member in before.members.iter() {
            let back = view
                .member(&member.node_id)
                .is_some_and(|now| now.incarnation == member.incarnation);
            let over = self.is_over(member.incarnation);
            if !back && !over && *member.node_id != *self.cluster.node_id {
                let node = Arc::clone(&member.node_id);
                let lost = || Lost::after(node, self.now.boot, Duration::ZERO);
                self.lost.entry(member.incarnation).or_insert_with(lost);
            }
        }
        let is_member =
            |incarnation: u64| view.members.iter().any(|m| m.incarnation == incarnation);
        self.lost.retain(|incarnation, _| !is_member(*incarnation));
    }

    /// Seals the lost incarnations whose successor this node is: the owner of their node id. Not without a lease.
    pub(super) fn seal_lost(&mut self) {
        let view = self.directory.view();
        // A node that is not registered takes nothing new.
        if !view.current || self.lost.is_empty() {
            return;
        }
        let ring = Ring::new(view.members.iter().map(|member| Arc::clone(&member.node_id)));
        let now = self.now.boot;
        for (incarnation, lost) in &mut self.lost {
            let ours = ring.owns(&self.cluster.node_id, Key::Client(&lost.node));
            if !ours || lost.sealing || now < lost.next {
                continue;
            }
            lost.sealing = true;
            self.sealing += 1;
            let incarnation = *incarnation;
            let id = self.requests.open(Purpose::Seal { incarnation });
            self.effects.request(id, Request::Seal { incarnation });
        }
    }

    /// An attempt to seal is over, and these sessions are here.
    pub(super) fn is_sure_again(&mut self, clients: &[Arc<str>]) {
        // Their owner hears that they are here, and asks again.
        self.not_here_yet.retain(|(.., client)| !clients.contains(client));
        self.sealing = self.sealing.saturating_sub(1);
        if self.sealing == 0 {
            for (owner, ticket, client) in std::mem::take(&mut self.not_here_yet) {
                self.directory.released(&owner, ticket, &client, None);
            }
        }
    }

    /// An attempt to seal a lost incarnation has ended.
    pub(super) fn sealed(&mut self, incarnation: u64, sealing: Result<Sealing, StoreError>) {
        let complain = |error: &StoreError| {
            say::warn!(target: "hydrant::peers", "incarnation {incarnation} cannot be sealed yet: {error}");
        };
        let sealing = sealing.inspect_err(complain).ok();
        if !matches!(sealing, Some(Sealing::Ours(_))) {
            self.is_sure_again(&[]);
        }
        let Some(lost) = self.lost.get_mut(&incarnation) else {
            // It is back; what it held is ours all the same once it is sealed.
            if let Some(Sealing::Ours(orphaned)) = sealing {
                self.take_over_orphaned(incarnation, *orphaned);
            }
            return;
        };
        (lost.sealing, lost.next) = (false, self.now.boot + AGAIN);
        match sealing {
            Some(Sealing::Ours(orphaned)) => {
                // Nobody else can: no second attempt.
                lost.sealing = true;
                let node = Arc::clone(&lost.node);
                say::info!(
                    each: &node,
                    target: "hydrant::peers",
                    "node {node} (incarnation {incarnation}) is lost: {} sessions, {} wills, {} lanes of its outbox and {} dead letters are this node's now",
                    orphaned.sessions.len(), orphaned.wills.len(), orphaned.lanes.len(), orphaned.dead_letters.len()
                );
                self.take_over_orphaned(incarnation, *orphaned);
            }
            // Nothing is left of it.
            Some(Sealing::Others(0)) => self.is_over_now(incarnation),
            // Its successor says so to everybody.
            Some(Sealing::Others(_) | Sealing::Alive) | None => {}
        }
    }

    fn take_over_orphaned(&mut self, incarnation: u64, orphaned: OrphanedState) {
        let clients: Vec<Arc<str>> =
            orphaned.sessions.iter().map(|session| Arc::clone(&session.client_id)).collect();
        let mut sessions = self.shared.by_home(orphaned.sessions, |session| &session.client_id);
        let mut wills = self.shared.by_home(orphaned.wills, |will| &will.client_id);
        self.cluster.finishes(&orphaned.prepared);
        let mut prepared = self.shared.by_home(orphaned.prepared, |publish| &publish.publisher);
        self.remember_origins(&orphaned.batches);
        let batches: Arc<[StoredBatch]> = orphaned.batches.into();
        let parts = (0..self.workers).map(|worker| TakeOverPart {
            sessions: sessions.remove(&worker).unwrap_or_default(),
            wills: wills.remove(&worker).unwrap_or_default(),
            prepared: prepared.remove(&worker).unwrap_or_default(),
        });
        let (parts, incarnations) = (parts.collect(), orphaned.incarnations);
        let purpose = Purpose::TakeOver { incarnation, incarnations, clients };
        let request = Request::TakeOver { incarnation, batches: Arc::clone(&batches), parts };
        self.ask(purpose, request);
        let known = batches.iter().cloned().map(known_batch);
        if !plants::is(Plant::SuccessorDoubles) {
            self.cluster.stored_batches.lock().extend(known);
        }
        // Before its outbox: what is a dead letter is not sent again.
        self.shared.dead_letters.take_over(&orphaned.dead_letters, &self.shared.metrics);
        self.shared.lanes.lock().take_over(&orphaned.lanes);
    }

    /// Once in a while: for `broker nodes`.
    pub(super) fn show_lost(&self) {
        let lost = self.lost.iter().map(|(incarnation, lost)| (*incarnation, &lost.node));
        self.cluster.status.lost_nodes.waiting(self.now.boot, &self.with_successors(lost));
    }

    fn with_successors<'a>(
        &self,
        lost: impl Iterator<Item = (u64, &'a Arc<str>)>,
    ) -> Vec<(Arc<str>, u64, Arc<str>)> {
        let mut lost = lost.peekable();
        if lost.peek().is_none() {
            return Vec::new();
        }
        let members = self.directory.view().members.iter();
        let ring = Ring::new(members.map(|member| Arc::clone(&member.node_id)));
        let successor = |node: &Arc<str>| ring.owner(Key::Client(node)).cloned();
        lost.map(|(incarnation, node)| {
            (Arc::clone(node), incarnation, successor(node).unwrap_or_else(|| Arc::from("nobody")))
        })
        .collect()
    }

    /// A node has what this one held: for `broker nodes`.
    pub(super) fn show_successor(&self, incarnation: u64, node: NodeIndex) {
        if self.lost.contains_key(&incarnation) {
            // It may be over before anybody has looked.
            self.show_lost();
        }
        let by = self.name_of(node);
        self.cluster.status.lost_nodes.taken(self.now.boot, incarnation, &by);
    }

    fn name_of(&self, node: NodeIndex) -> Arc<str> {
        let own = node == SELF;
        if own { Arc::clone(&self.cluster.node_id) } else { self.name(node) }
    }
}
