//! What a node thinks about its cluster: the links to the other nodes, what each of them wants and holds, and what
//! follows from what is heard.
//!
//! A machine: it has no socket, clock, future or inbox. Its methods are of three families.
//!
//! - It is told what has happened, and when: [`Coordinator::handle_message`] with [`Coordinator::handle_turn`] behind
//!   some of them, [`Coordinator::handle_tick`], [`Coordinator::handle_deadline`], and of a link `handle_connected`,
//!   `handle_received`, `handle_timed_out` and `handle_disconnected`.
//! - It gives what is to be done: [`Coordinator::hand_out`] what it has decided, behind each step;
//!   [`Coordinator::poll_transmit`] what goes out over a link; [`Coordinator::poll_deadline`] when it wants to be called.
//! - The rest observes: the name of a node, its address, the way round to it.
//!
//! The driver (`peers/driver.rs`) is the only one that borrows it. It still reads and writes the tables that the node
//! shares.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use hydrant_protocol::Message;
use hydrant_protocol::cluster::directory::{Action, Directory};
use hydrant_protocol::cluster::handover::Handovers;
use hydrant_protocol::cluster::message::Control;

use super::node_index::SELF;
use super::state::claims::{Claiming, Release};
use super::state::effects::{Effects, Push};
use super::state::failover::Successors;
use super::state::link::{PeerLink, Prepared};
use super::state::lost::Lost;
use super::state::refresh::Refresh;
use super::state::requests::{Purpose, Recover, Request, RequestId, Requests};
use super::state::survey::Survey;
use super::state::wants::Wants;
use super::{Cluster, Node, NodeIndex, Recipient};
use crate::messages::{Answer, CompletionToken, ManagerWork, PeerWork};
use crate::node_tables::NodeTables;
use crate::now::{Boot, Now};
use crate::plants::{self, Plant};
use crate::ports::StoreError;

/// See the module.
pub struct Coordinator {
    pub(super) cluster: Arc<Cluster>,
    pub(super) shared: Arc<NodeTables>,
    /// Workers of this node.
    pub(super) workers: u16,
    pub(super) directory: Directory,
    /// By [`NodeIndex`] less one: the first is this node itself.
    pub(super) links: Vec<PeerLink>,
    pub(super) claims: BTreeMap<u64, Claiming>,
    /// Their numbers, by worker and the number of the claim there.
    pub(super) claimants: BTreeMap<(u16, u32), u64>,
    pub(super) lost: BTreeMap<u64, Lost>,
    /// Those of them that went while this node was no member: they may be members again soon.
    pub(super) undecided: BTreeSet<u64>,
    /// Lost incarnations that are being sealed, or are and whose sessions are not in force here: what the store says
    /// of this node's sessions is not to be relied on.
    pub(super) sealing: usize,
    /// What the incarnations of other nodes want.
    pub(super) wants: Wants,
    /// What the store says of them.
    pub(super) survey: Survey,
    /// Retained messages that are read again.
    pub(super) refresh: Refresh,
    /// What is asked of the store.
    pub(super) requests: Requests,
    /// What was decided and is not handed out.
    pub(super) effects: Effects,
    /// Batches that were sent to a lost node and are for sessions that are here now.
    pub(super) own: BTreeMap<u64, Vec<CompletionToken>>,
    /// The same of batches with prepared publishes.
    pub(super) own_prepared: BTreeMap<u64, Prepared>,
    /// Whose batches lost nodes had stored, as the store remembers for the sessions that are here now.
    pub(super) origins: BTreeSet<u64>,
    /// Sessions on their way.
    pub(super) handovers: Handovers,
    /// Sessions that other nodes take over, once what was for a lost one has been sent again.
    pub(super) deferred_announcements: Vec<(NodeIndex, Control)>,
    /// Sessions to be given up, once they are here.
    pub(super) deferred_releases: Vec<Release>,
    /// Sessions that this node should give up and does not have, while it is not sure of that: who asked, the
    /// ticket and the client id.
    pub(super) not_here_yet: Vec<(Arc<str>, u64, Arc<str>)>,
    /// Incarnations that were only found in the store, and the start that has their sessions.
    pub(super) renamed: Vec<(u64, Recipient)>,
    /// Lost incarnations and who has what they held.
    pub(super) successors: Successors,
    /// Number of the last client that was let in.
    pub(super) last_admission: u64,
    pub(super) next_batch: u64,
    /// Every member has told what it wants and holds: the retained messages are read, or were.
    reads: bool,
    /// It has missed something and ends: nobody is answered any more.
    pub(super) ends: bool,
    pub(super) settling: VecDeque<(u64, CompletionToken)>,
    /// Tokens to be answered, by worker.
    completed: BTreeMap<u16, VecDeque<CompletionToken>>,
    /// The time of the step under way, as its driver has read it.
    pub(super) now: Now,
    /// So many control messages panic that come next.
    #[cfg(any(test, feature = "for-tests"))]
    pub panics: u32,
}

impl Coordinator {
    /// Of a node that has no link yet.
    pub fn new(cluster: &Arc<Cluster>, shared: &Arc<NodeTables>, now: Now) -> Self {
        cluster.status.begins(Node::new(&cluster.node_id, true));
        let mut directory = Directory::new(Arc::clone(&cluster.node_id), cluster.incarnation);
        cluster.continued.iter().for_each(|before| directory.taken_over(before.number));
        Self {
            cluster: Arc::clone(cluster),
            shared: Arc::clone(shared),
            workers: u16::try_from(shared.workers()).unwrap_or(u16::MAX),
            directory,
            links: Vec::new(),
            claims: BTreeMap::new(),
            claimants: BTreeMap::new(),
            lost: BTreeMap::new(),
            undecided: BTreeSet::new(),
            sealing: 0,
            wants: Wants::default(),
            survey: Survey::default(),
            refresh: Refresh::default(),
            requests: Requests::default(),
            effects: Effects::default(),
            own: BTreeMap::new(),
            own_prepared: BTreeMap::new(),
            origins: cluster.stored_batches.lock().keys().map(|(origin, _)| *origin).collect(),
            handovers: Handovers::new(Arc::clone(&cluster.node_id)),
            deferred_announcements: Vec::new(),
            deferred_releases: Vec::new(),
            not_here_yet: Vec::new(),
            renamed: Vec::new(),
            successors: Successors::new(&cluster.continued),
            last_admission: 0,
            next_batch: 1,
            reads: false,
            ends: false,
            settling: VecDeque::new(),
            completed: BTreeMap::new(),
            now,
            #[cfg(any(test, feature = "for-tests"))]
            panics: 0,
        }
    }

    /// A step begins at this time. No clock is read in it.
    pub(super) fn begin(&mut self, now: Now) {
        self.now = now;
    }

    /// What the directory and the handovers want done.
    pub(super) fn act(&mut self) {
        while let Some(action) = self.directory.poll_action() {
            match action {
                Action::Send(node, message) => {
                    if let Some(link) = self.link_of(&node) {
                        link.send_control(message);
                    }
                }
                Action::Grant { request, from } => self.grant(request, from),
                Action::Forget { request } => self.forget_claim(request),
                Action::Release { owner, ticket, client, to } => {
                    self.release(Release { owner, ticket, client, to });
                }
            }
        }
        self.act_on_handovers();
    }

    /// What follows from all that was handled: answers, frames, what the node is told of its cluster. Called once
    /// behind some messages, and before [`Coordinator::hand_out`].
    pub fn handle_turn(&mut self, now: Now) {
        self.begin(now);
        self.settle();
    }

    /// What follows from anything: actions of the directory, answers, frames.
    pub(super) fn settle(&mut self) {
        self.act();
        self.check_settled();
        for (worker, tokens) in std::mem::take(&mut self.completed) {
            self.effects.manager(worker, ManagerWork::Completed(tokens), 64);
        }
        for link in &mut self.links {
            link.flush();
        }
        let unstored = self.links.iter().map(|link| link.pending.len()).sum::<usize>();
        self.cluster.status.has_unstored(unstored + self.own.len());
        self.cluster.status.has_absent(!self.nobody_is_absent());
        if !self.reads {
            let waits_for = self.waits_for();
            self.reads = waits_for.is_none();
            self.cluster.status.now_waits_for(waits_for.unwrap_or_default());
            if self.reads {
                self.read_retained();
            }
        }
    }

    /// Asks the store, or this node's workers; the answer is [`PeerWork::Answered`].
    pub(super) fn ask(&mut self, purpose: Purpose, request: Request) {
        let id = self.requests.open(purpose);
        self.effects.request(id, request);
    }

    /// Hands out what was decided: the end of every step.
    pub fn hand_out(&mut self, to: &mut impl Push) {
        self.effects.hand_out(to);
        for link in self.links.iter_mut().filter(|link| link.wakes) {
            link.wakes = false;
            to.link(link.index);
        }
    }

    /// Handovers, claims and lost nodes that are under way, for a reader who looks for what does not end.
    pub fn describe_open(&self) -> String {
        let Self { handovers, directory, lost, .. } = self;
        format!("{handovers:?}; {directory:?}; lost {lost:?}")
    }

    /// When [`Coordinator::handle_deadline`] has to be called.
    pub fn poll_deadline(&self) -> Option<Boot> {
        self.requests.poll_deadline()
    }

    /// That time has come.
    pub fn handle_deadline(&mut self, now: Now) {
        self.begin(now);
        while let Some((id, request)) = self.requests.poll_due(now.boot) {
            self.effects.request(id, request);
        }
    }

    /// An answer. One that comes late, a second time or for nothing changes nothing.
    fn handle_answer(&mut self, id: RequestId, answer: Answer) {
        let Some(purpose) = self.requests.answered(id) else { return };
        match (purpose, answer) {
            (Purpose::Survey, Answer::Incarnations(rows)) => {
                self.surveyed(rows.inspect_err(complain).ok());
            }
            (Purpose::Untold(untold), Answer::Wanted(filters)) => {
                self.wanted_found(&untold, filters.inspect_err(complain).ok());
            }
            (Purpose::FirstRetained, Answer::Retained(found)) => self.retained_read(found),
            (Purpose::RetainedAgain, Answer::Retained(found)) => {
                self.retained_again(found.inspect_err(complain).ok());
            }
            (Purpose::Lookup(lookup), Answer::Located(holder)) => self.located(lookup, holder),
            (Purpose::Lookup(lookup), Answer::Taken(taken)) => self.taken(lookup, taken),
            (Purpose::LongClaim { claim }, Answer::Located(holder)) => {
                self.long_claim_located(claim, holder);
            }
            (Purpose::Recover(of), Answer::Located(holder)) => self.recover_located(of, holder),
            (Purpose::Recover(of), Answer::Taken(taken)) => self.recover_taken(of, taken),
            (Purpose::Seal { incarnation }, Answer::Sealed(sealing)) => {
                self.sealed(incarnation, sealing);
            }
            (Purpose::TakeOver { incarnation, incarnations, clients }, Answer::TakenOver) => {
                self.taken_over(incarnation, incarnations, &clients);
            }
            (purpose, _) => self.requests.put_back(id, purpose),
        }
    }

    pub(super) fn started(&mut self, found: Vec<(Arc<Message>, u64)>) {
        self.retained_found(found);
        // Now it is known who wants them; and before any client is let in.
        self.cluster.status.is_synced_now();
        for worker in 0..self.workers {
            self.effects.manager(worker, ManagerWork::FinishOpen, 64);
        }
        self.release_all();
        self.refresh_retained();
    }

    /// Answers tokens, soon.
    pub(super) fn complete(&mut self, tokens: impl IntoIterator<Item = CompletionToken>) {
        for token in tokens.into_iter().filter(|_| !self.ends) {
            self.completed.entry(token.worker).or_default().push_back(token);
        }
    }

    pub(super) fn link(&mut self, node: NodeIndex) -> Option<&mut PeerLink> {
        self.links.get_mut(usize::from(node).checked_sub(1)?)
    }

    pub(super) fn link_of(&mut self, node: &str) -> Option<&mut PeerLink> {
        self.links.iter_mut().find(|link| *link.node.id == *node)
    }

    /// Work for this node's part in the cluster, the answers of the store among it. What follows from several is done
    /// once, by [`Coordinator::handle_turn`].
    pub fn handle_message(&mut self, now: Now, work: PeerWork) {
        self.begin(now);
        match work {
            PeerWork::Publishes { to, body, count, tokens, queues, prepared } => {
                self.publish(to, body, count, tokens, queues.then_some(prepared));
            }
            PeerWork::Interest(token) => self.announce(token),
            PeerWork::Broadcast(message) => self.broadcast(&message),
            PeerWork::RetainedReached { topic, version, router, routed } => {
                self.retained_reached(&topic, version, router, routed.as_deref());
            }
            PeerWork::Consumed { node, incarnation, bytes, kept } => {
                let now = self.now.boot.ms();
                if let Some(link) = self.link(node) {
                    if kept {
                        link.keeps_batches();
                    }
                    link.link.consumed(now, incarnation, 1, bytes);
                    link.wakes = true;
                }
            }
            PeerWork::Stored { node: SELF, batch, .. } => {
                let tokens = self.own.remove(&batch).unwrap_or_default();
                self.complete(tokens);
            }
            PeerWork::Stored { node, incarnation, batch } => {
                if let Some(link) = self.link(node)
                    && link.link.peer_incarnation() == Some(incarnation)
                {
                    link.send_control(Control::Done { batches: vec![batch] });
                }
            }
            PeerWork::Members(view) => self.members_changed(view),
            PeerWork::Claim { worker, conn, client, clean, known } => {
                self.claim(worker, conn, client, clean, known);
            }
            PeerWork::Unclaim { worker, claim } => self.unclaim(worker, claim),
            PeerWork::Gone { client, seen } => self.directory.gone(&client, seen),
            PeerWork::Holds(clients) => {
                clients.iter().for_each(|client| self.directory.holds(client, false));
            }
            PeerWork::Offer { id, client, to, filters, orphan } => {
                if plants::is(Plant::NoMarkers) {
                    let (home, client) = (self.shared.home(&client), Arc::clone(&client));
                    self.effects.manager(home, ManagerWork::AllMarked { id, client }, 64);
                }
                let orphans = self.successors.orphans(orphan);
                self.handovers.offer(id, client, to, filters, orphans);
            }
            PeerWork::Abort { id } => self.handovers.abort(id),
            PeerWork::Recover { worker, id, client, session } => {
                self.recover(Recover { worker, id, client, session });
            }
            PeerWork::Expected { id } => self.handovers.expected(id),
            PeerWork::Visited { to, client, visits } => {
                if let Some(link) = self.link_of(&to) {
                    link.send_control(Control::Visited { client, visits });
                }
            }
            PeerWork::MarkerPassed { marker, router } => self.marker_passed(&marker, router),
            PeerWork::NodeMarked { id, origin } => self.marked(id, origin),
            PeerWork::ResentSeen { incarnation, worker, origin } => {
                self.resent_seen(incarnation, worker, origin);
            }
            PeerWork::Released { owner, ticket, client, handed } => {
                self.is_not_here(&client);
                if handed.is_none() && self.sealing > 0 {
                    // It may be among what this node is about to take over.
                    self.not_here_yet.push((owner, ticket, client));
                } else {
                    self.directory.released(&owner, ticket, &client, handed);
                }
            }
            PeerWork::PreparedForgotten { router, below } => {
                let left = |_: &u64, it: &mut Prepared| it.router != router || it.number >= below;
                self.links.iter_mut().for_each(|link| link.prepared.retain(left));
                self.own_prepared.retain(left);
            }
            PeerWork::Finished { incarnation } => self.finished(incarnation),
            PeerWork::Answered { request, answer } => self.handle_answer(request, answer),
        }
        // In order with what the next work says.
        self.act();
    }

    /// Sessions are given up once what was begun for them before this start goes on.
    pub(super) fn may_give_up(&self) -> bool {
        self.cluster.status.is_synced()
    }

    /// Half a second has passed. `may_act`: the lease in the store runs.
    pub fn handle_tick(&mut self, now: Now, may_act: bool) {
        self.begin(now);
        self.release_all();
        self.ask_again();
        self.survey_tick();
        self.flush_parked();
        self.refresh_retained();
        if may_act {
            self.seal_lost();
        }
        self.show_lost();
        self.send_answered();
        self.settle();
    }
}

fn complain(why: &StoreError) {
    log::debug!(target: "hydrant::peers", "the store does not say what other nodes left there, it is asked again: {why}");
}
