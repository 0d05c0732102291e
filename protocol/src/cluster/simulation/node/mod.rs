//! One start of a node: the machines of the cluster, and between them what `engine/` does, as little of it
//! as there can be.
//!
//! Its parts (peers, storage, and of each worker a router and a manager) have an inbox each, which they
//! work off in order, at times of their own. What it wants of the outside are [`Effect`]s.

mod claims;
mod deliver;
mod handover;
mod peer;
mod peers;
mod sessions;
mod storage;
mod successors;
mod work;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::Mistake;
use super::store::{Answer, Batch, Message, Request, Stored};
use crate::cluster::MembershipView;
use crate::cluster::directory::Directory;
use crate::cluster::handover::Handovers;
use crate::cluster::link::{Config, Identity};
use crate::cluster::message::{Control, Interest};
use crate::cluster::stream_marker::MarkedStreams;
use claims::{Claiming, Look, Release};
use peer::Peer;
use sessions::Session;
use storage::Storage;
use successors::Successors;
pub use work::Effect;
use work::{Continuation, ManagerWork, MarkerReason, PeerWork, Publish, RouterWork, StreamMarker};

/// As an orphaned state: of this node's earlier starts.
const EARLIER_STARTS: u64 = u64::MAX;

/// Of a pending ack: its worker, and its number.
pub type CompletionToken = (u16, u64);

/// A worker: router and manager, and the sessions of its clients.
#[derive(Default)]
struct Worker {
    router: VecDeque<RouterWork>,
    manager: VecDeque<ManagerWork>,
    sessions: BTreeMap<u32, Session>,
    by_client: BTreeMap<Arc<str>, u32>,
    expected: BTreeMap<Arc<str>, u32>,
    given_up: BTreeMap<Arc<str>, u32>,
    orphans: BTreeMap<u64, MarkedStreams>,
    /// Lost incarnations to whose successors this worker sends: no longer to those.
    passed: BTreeSet<u64>,
    /// Lost incarnations whose successor this node is, while this router waits for what it had published for
    /// them itself, and what is published meanwhile.
    held_up: u32,
    held: Vec<Message>,
    pending_acks: BTreeMap<u64, (usize, Continuation)>,
    /// Connections that wait to be let in.
    claiming: BTreeMap<u64, Arc<str>>,
    admitted: u64,
}

/// What has an inbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    Peers,
    Storage,
    Router(u16),
    Manager(u16),
}

/// Why the store is asked.
#[derive(Debug)]
enum Purpose {
    Write,
    Read { worker: u16, slot: u32, stamp: u64 },
    Look(Look),
    Ask { request: u64 },
    Recover { id: u64, client: Arc<str>, session: u64, takes: bool },
    Seal(u64),
    Renew { sent: u64 },
}

/// Workers that have yet to take what a lost incarnation held; with it the incarnations and clients.
type TakingOver = (usize, Vec<u64>, Vec<Arc<str>>);

/// What a node is made of.
pub struct Setup {
    pub index: usize,
    pub names: Arc<[Arc<str>]>,
    pub incarnation: u64,
    pub workers: u16,
    pub config: Config,
    pub mistake: Mistake,
    pub lease_until: u64,
    pub traced: bool,
    /// What its earlier starts held.
    pub continued: Vec<u64>,
    pub sessions: Vec<Stored>,
    /// Incarnations of other nodes that nobody has sealed.
    pub open: Vec<(usize, u64)>,
}

pub struct Node {
    index: usize,
    id: Arc<str>,
    names: Arc<[Arc<str>]>,
    pub incarnation: u64,
    config: Config,
    mistake: Mistake,
    pub now: u64,
    pub lease_until: u64,
    renewing: bool,
    directory: Directory,
    handovers: Handovers,
    pub peers: BTreeMap<usize, Peer>,
    claims: BTreeMap<u64, Claiming>,
    lost: BTreeMap<u64, successors::Lost>,
    /// Incarnations that were open when it started, and of which it has not heard: no client before that.
    unheard: BTreeMap<u64, usize>,
    own: BTreeMap<u64, Vec<CompletionToken>>,
    deferred_announcements: Vec<(usize, Control)>,
    deferred_releases: Vec<Release>,
    /// Sessions that it should give up and does not have, while it is not sure of that.
    not_here_yet: Vec<(Arc<str>, u64, Arc<str>)>,
    successors: Successors,
    taking_over: BTreeMap<u64, TakingOver>,
    last_admission: u64,
    settling: Vec<(u64, CompletionToken)>,
    interest: BTreeMap<Arc<str>, u32>,
    changes: Vec<(Arc<str>, Interest)>,
    announced: u64,
    confirmed: u64,
    next_move: u64,
    /// Counts slots, stamps, pending acks, transactions and questions to the store.
    next: u64,
    /// Sessions on their way.
    handover: BTreeSet<(u16, u32)>,
    workers: Vec<Worker>,
    storage: Storage,
    asked: BTreeMap<u64, Purpose>,
    work: VecDeque<PeerWork>,
    effects: Vec<Effect>,
    /// What is for clients, while the lease is over.
    withheld: Vec<Effect>,
    /// Every member has told what it holds and wants.
    pub synced: bool,
    /// What it heard and decided, for a trace.
    pub log: Option<Vec<String>>,
}

impl Node {
    pub fn new(setup: Setup, now: u64) -> Self {
        let Setup { index, names, incarnation, workers, config, mistake, lease_until, .. } = setup;
        let id = Arc::clone(&names[index]);
        let mut node = Self {
            index,
            names,
            incarnation,
            config,
            mistake,
            now,
            lease_until,
            renewing: false,
            directory: Directory::new(Arc::clone(&id), incarnation),
            handovers: Handovers::new(Arc::clone(&id)),
            id,
            peers: BTreeMap::new(),
            claims: BTreeMap::new(),
            lost: BTreeMap::new(),
            unheard: setup.open.iter().map(|(node, incarnation)| (*incarnation, *node)).collect(),
            own: BTreeMap::new(),
            deferred_announcements: Vec::new(),
            deferred_releases: Vec::new(),
            not_here_yet: Vec::new(),
            successors: Successors::new(&setup.continued),
            taking_over: BTreeMap::new(),
            last_admission: 0,
            settling: Vec::new(),
            interest: BTreeMap::new(),
            changes: Vec::new(),
            announced: 0,
            confirmed: 0,
            next_move: incarnation << 32,
            next: 1,
            handover: BTreeSet::new(),
            workers: (0..workers).map(|_| Worker::default()).collect(),
            storage: Storage::default(),
            asked: BTreeMap::new(),
            work: VecDeque::new(),
            effects: Vec::new(),
            withheld: Vec::new(),
            synced: false,
            log: setup.traced.then(Vec::new),
        };
        setup.continued.iter().for_each(|lost| node.directory.taken_over(*lost));
        for stored in &setup.sessions {
            let worker = node.home(&stored.client);
            node.work.push_back(PeerWork::Holds(Arc::clone(&stored.client)));
            node.restore(worker, stored, EARLIER_STARTS);
        }
        node
    }

    fn identity(&self) -> Identity {
        let node_id = Arc::clone(&self.id);
        Identity { cluster: "c".into(), node_id, incarnation: self.incarnation }
    }

    fn note(&mut self, what: impl FnOnce() -> String) {
        if let Some(log) = &mut self.log {
            log.push(what());
        }
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn workers(&self) -> u16 {
        self.workers.len() as u16
    }

    /// The worker of a client's session.
    fn home(&self, client: &str) -> u16 {
        let number: u16 = client[1..].parse().unwrap();
        number % self.workers()
    }

    fn worker(&mut self, worker: u16) -> &mut Worker {
        &mut self.workers[usize::from(worker)]
    }

    fn ask(&mut self, purpose: Purpose, request: Request) {
        let op = self.number();
        self.asked.insert(op, purpose);
        self.effects.push(Effect::Store { op, request });
    }

    /// The lease is not over.
    pub fn may_act(&self) -> bool {
        self.now < self.lease_until
    }

    fn send_to_client(&mut self, effect: Effect) {
        if self.may_act() {
            self.effects.push(effect);
        } else {
            self.withheld.push(effect);
        }
    }

    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// Those whose inboxes hold something.
    pub fn busy(&self) -> Vec<Part> {
        let mut busy = Vec::new();
        if !self.work.is_empty() {
            busy.push(Part::Peers);
        }
        if self.storage.has_work() {
            busy.push(Part::Storage);
        }
        for (index, worker) in (0..).zip(&self.workers) {
            if !worker.router.is_empty() {
                busy.push(Part::Router(index));
            }
            if !worker.manager.is_empty() {
                busy.push(Part::Manager(index));
            }
        }
        busy
    }

    /// One part works off some of what stands in its inbox.
    pub fn run(&mut self, part: Part, most: usize) {
        match part {
            Part::Peers => {
                for _ in 0..most {
                    let Some(work) = self.work.pop_front() else { break };
                    self.peer_work(work);
                }
                self.settle();
            }
            Part::Storage => self.run_storage(),
            Part::Router(worker) => self.run_router(worker, most),
            Part::Manager(worker) => {
                for _ in 0..most {
                    let Some(work) = self.worker(worker).manager.pop_front() else { break };
                    self.manage(worker, work);
                }
            }
        }
    }

    pub fn publish(&mut self, worker: u16, message: Message) {
        let worker = worker % self.workers();
        self.worker(worker).router.push_back(RouterWork::Publish(message));
    }

    pub fn connect(&mut self, client: Arc<str>, connection: u64) {
        let home = self.home(&client);
        self.worker(home).manager.push_back(ManagerWork::Connect { client, connection });
    }

    pub fn disconnected(&mut self, client: Arc<str>, connection: u64) {
        let home = self.home(&client);
        self.worker(home).manager.push_back(ManagerWork::Disconnected { client, connection });
    }

    pub fn got(&mut self, client: Arc<str>, connection: u64, sequence: u64) {
        let home = self.home(&client);
        self.worker(home).manager.push_back(ManagerWork::Got { client, connection, sequence });
    }

    pub fn view(&mut self, view: MembershipView) {
        self.work.push_back(PeerWork::Members(view));
    }

    pub fn renew(&mut self) {
        if !std::mem::replace(&mut self.renewing, true) {
            self.ask(Purpose::Renew { sent: self.now }, Request::Renew);
        }
    }

    /// The store has answered.
    pub fn answer(&mut self, op: u64, answer: Answer) {
        let Some(purpose) = self.asked.remove(&op) else { return };
        match (purpose, answer) {
            (Purpose::Write, answer) => self.written(matches!(answer, Answer::Written)),
            (Purpose::Read { worker, slot, stamp }, Answer::Page(page)) => {
                self.storage.busy = false;
                self.worker(worker).manager.push_back(ManagerWork::Page { slot, stamp, page });
            }
            (Purpose::Read { worker, slot, stamp }, _) => self.read_again(worker, slot, stamp),
            (Purpose::Look(look), answer) => self.looks(look, answer),
            (Purpose::Ask { request }, Answer::Located(holder)) => {
                self.work.push_back(PeerWork::Looked { request, holder, taken: None });
            }
            (Purpose::Recover { id, client, session, takes }, answer) => {
                self.recovering(id, client, session, takes, answer);
            }
            (Purpose::Seal(incarnation), answer) => {
                let orphaned = match answer {
                    Answer::Sealed(orphaned) => orphaned,
                    _ => None,
                };
                self.work.push_back(PeerWork::Sealed { incarnation, orphaned });
            }
            (Purpose::Renew { sent }, answer) => {
                self.renewing = false;
                match answer {
                    Answer::Renewed(true) => {
                        self.lease_until = sent + super::store::LEASE;
                        if self.may_act() {
                            let withheld = std::mem::take(&mut self.withheld);
                            self.effects.extend(withheld);
                            self.complete_stored();
                        }
                    }
                    Answer::Renewed(false) => self.effects.push(Effect::Exit("it is sealed")),
                    _ => {}
                }
            }
            _ => {}
        }
    }

    fn complete(&mut self, tokens: impl IntoIterator<Item = CompletionToken>) {
        for token in tokens {
            self.worker(token.0).manager.push_back(ManagerWork::Completed(token));
        }
    }

    /// What is not over, for people; `None`: nothing.
    pub fn unfinished(&self) -> Option<String> {
        let mut open = Vec::new();
        let mut note = |what: &str, count: usize| {
            if count > 0 {
                open.push(format!("{count} {what}"));
            }
        };
        note("claims", self.claims.len() + self.directory.sizes().2);
        note(&format!("handovers {:?}", self.handovers), self.handovers.len());
        note(&format!("lost {:?}", self.lost), self.lost.len());
        note("announcements deferred", self.deferred_announcements.len());
        note("releases deferred", self.deferred_releases.len());
        note("batches to itself", self.own.len());
        note("orphaned states being taken over", self.taking_over.len());
        note("SUBACKs", self.settling.len());
        for peer in self.peers.values() {
            note(&format!("batches to {}", peer.id), peer.pending.len());
        }
        for worker in &self.workers {
            note("pending acks", worker.pending_acks.len());
            note("expected sessions", worker.expected.len());
            note("sessions given up", worker.given_up.len());
            note("orphaned states not settled", worker.orphans.len());
            note(
                "sessions on their way",
                worker.sessions.values().filter(|s| s.handover.is_some()).count(),
            );
        }
        note("inboxes", self.busy().len());
        note("questions to the store", self.asked.len());
        (!open.is_empty())
            .then(|| format!("{} ({}): {}", self.id, self.incarnation, open.join(", ")))
    }
}
