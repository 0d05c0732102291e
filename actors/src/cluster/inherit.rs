//! Nodes that are lost: their heir seals what they held and goes on with it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hydrant_protocol::cluster::{Key, Ring, View};
use tokio::sync::oneshot;

use super::PeerWork;
use super::peers::Peers;
use crate::ports::{Estate, Sealing};
use crate::shared::ManagerWork;

/// An incarnation that was sealed or found alive is looked at again after this.
const AGAIN: Duration = Duration::from_secs(1);

/// An incarnation that is no member any more and whose sessions nobody has yet.
#[derive(Debug)]
pub(crate) struct Lost {
    /// Its node id.
    pub(super) node: Arc<str>,
    /// An attempt to seal it is under way.
    sealing: bool,
    /// No attempt before this.
    next: Instant,
    since: Instant,
}

impl Lost {
    fn now(node: Arc<str>) -> Self {
        let now = Instant::now();
        Self { node, sealing: false, next: now, since: now }
    }

    /// Longer than its heir takes where the store answers.
    pub(super) fn is_long_ago(&self, repair: Duration) -> bool {
        self.since.elapsed() > 2 * repair
    }
}

impl Peers {
    /// Finds who is lost, and who is back with the same start.
    pub(super) fn lose(&mut self, view: &View) {
        let before = self.directory.view();
        for member in before.members.iter() {
            let back = view
                .member(&member.node_id)
                .is_some_and(|now| now.incarnation == member.incarnation);
            let over = self.is_over(member.incarnation);
            if !back && !over && *member.node_id != *self.cluster.node_id {
                let node = Arc::clone(&member.node_id);
                let lost = Lost::now(node);
                self.lost.entry(member.incarnation).or_insert(lost);
            }
        }
        let is_member =
            |incarnation: u64| view.members.iter().any(|m| m.incarnation == incarnation);
        self.lost.retain(|incarnation, _| !is_member(*incarnation));
    }

    /// Another node knows of incarnations that were lost before this start and have no heir yet.
    pub(super) fn are_lost(&mut self, incarnations: Vec<(u64, Arc<str>)>) {
        for (incarnation, node) in incarnations {
            let ours = incarnation == self.cluster.incarnation
                || self.cluster.continued.contains(&incarnation);
            let member = self.directory.view().members.iter().any(|m| m.incarnation == incarnation);
            if !ours && !member && !self.is_over(incarnation) {
                let lost = Lost::now(node);
                self.lost.entry(incarnation).or_insert(lost);
            }
        }
    }

    /// Seals the lost incarnations whose heir this node is: the owner of their node id.
    pub(super) fn seal_lost(&mut self) {
        let view = self.directory.view();
        // A node that is not registered takes nothing new.
        if !view.current || self.lost.is_empty() || !self.cluster.may_act() {
            return;
        }
        let ring = Ring::new(view.members.iter().map(|member| Arc::clone(&member.node_id)));
        let now = Instant::now();
        for (incarnation, lost) in &mut self.lost {
            let ours = ring.owns(&self.cluster.node_id, Key::Client(&lost.node));
            if !ours || lost.sealing || now < lost.next {
                continue;
            }
            lost.sealing = true;
            self.cluster.sealing.fetch_add(1, Ordering::SeqCst);
            let (cluster, incarnation) = (Arc::clone(&self.cluster), *incarnation);
            tokio::task::spawn_local(async move {
                let sealing = match cluster.store.seal(incarnation).await {
                    Ok(sealing) => Some(sealing),
                    Err(error) => {
                        log::warn!(target: "hydrant::peers", "incarnation {incarnation} cannot be sealed yet: {error}");
                        None
                    }
                };
                cluster.work.push(PeerWork::Sealed { incarnation, sealing }, 64);
            });
        }
    }

    /// An attempt to seal is over, and these sessions are here.
    pub(super) fn is_sure_again(&mut self, clients: &[Arc<str>]) {
        // Their owner hears that they are here, and asks again.
        self.not_here_yet.retain(|(.., client)| !clients.contains(client));
        if self.cluster.sealing.fetch_sub(1, Ordering::SeqCst) == 1 {
            for (owner, ticket, client) in std::mem::take(&mut self.not_here_yet) {
                self.directory.released(&owner, ticket, &client, None);
            }
        }
    }

    pub(super) fn sealed(&mut self, incarnation: u64, sealing: Option<Sealing>) {
        if !matches!(sealing, Some(Sealing::Ours(_))) {
            self.is_sure_again(&[]);
        }
        let Some(lost) = self.lost.get_mut(&incarnation) else {
            // It is back; what it held is ours all the same once it is sealed.
            if let Some(Sealing::Ours(estate)) = sealing {
                self.take_estate(incarnation, *estate);
            }
            return;
        };
        (lost.sealing, lost.next) = (false, Instant::now() + AGAIN);
        match sealing {
            Some(Sealing::Ours(estate)) => {
                // Nobody else can: no second attempt.
                lost.sealing = true;
                let node = Arc::clone(&lost.node);
                log::info!(
                    target: "hydrant::peers",
                    "node {node} (incarnation {incarnation}) is lost: {} sessions, {} wills and {} lanes of its outbox are this node's now",
                    estate.sessions.len(), estate.wills.len(), estate.lanes.len()
                );
                self.take_estate(incarnation, *estate);
            }
            // Nothing is left of it.
            Some(Sealing::Others(0)) => drop(self.lost.remove(&incarnation)),
            // Its heir says so to everybody.
            Some(Sealing::Others(_) | Sealing::Alive) | None => {}
        }
    }

    fn take_estate(&mut self, incarnation: u64, estate: Estate) {
        let clients: Vec<Arc<str>> =
            estate.sessions.iter().map(|session| Arc::clone(&session.client_id)).collect();
        let mut sessions = self.shared.by_home(estate.sessions, |session| &session.client_id);
        let mut wills = self.shared.by_home(estate.wills, |will| &will.client_id);
        self.cluster.finishes(&estate.open);
        let mut open = self.shared.by_home(estate.open, |publish| &publish.publisher);
        let mut waits = Vec::new();
        for (index, manager) in (0..).zip(&self.shared.managers) {
            let (done, wait) = oneshot::channel();
            let sessions = sessions.remove(&index).unwrap_or_default();
            let wills = wills.remove(&index).unwrap_or_default();
            let open = open.remove(&index).unwrap_or_default();
            let inherit = ManagerWork::Inherit { sessions, wills, open, incarnation, done };
            manager.push(inherit, 256);
            waits.push(wait);
        }
        self.cluster.stored_batches.lock().extend(estate.batches);
        let incarnations = estate.incarnations;
        self.shared.lanes.lock().inherit(&estate.lanes);
        let cluster = Arc::clone(&self.cluster);
        tokio::task::spawn_local(async move {
            for wait in waits {
                let _ = wait.await;
            }
            let inherited = PeerWork::Inherited { incarnation, incarnations, clients };
            cluster.work.push(inherited, 64);
        });
    }
}
