//! PeersActor: the links to the other nodes. Publishes go out and come in, what each node wants is
//! told to every other, and acknowledgements come back.
//!
//! Its state lives in its arbiter and not in the actor: a rebuilt one finds the links as they were,
//! no socket closes. Everything of it is on one thread.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use actix::{Actor, Context, Handler, StreamHandler};
use ahash::AHashMap;
use bytes::Bytes;
use hydrant_protocol::Message;
use hydrant_protocol::cluster::directory::{Action, Directory};
use hydrant_protocol::cluster::message::{self, Control};
use hydrant_protocol::cluster::moves::Moves;

use super::heirs::Heirs;
use super::inherit::Lost;
use super::link::{PeerLink, Pending};
use super::sessions::{Claiming, Release};
use super::{Cluster, Node, NodeIndex, PeerWork, io};
use crate::every::every;
use crate::inbox::Work;
use crate::metrics::DropReason;
use crate::shared::{ManagerWork, Shared, Token};
use crate::supervision::{ActorCell, Ping, Running, on_ping};

/// How often claims that wait long and nodes that are lost are looked at.
const TICK: Duration = Duration::from_millis(500);
/// Work items handled before the sockets get their turn.
const AT_ONCE: usize = 512;
/// Index of this node itself.
pub(super) const SELF: NodeIndex = 0;
/// Refused connections are logged at most so often.
pub(super) const COMPLAIN: Duration = Duration::from_secs(1);

thread_local! {
    static PEERS: RefCell<Option<Rc<RefCell<Peers>>>> = const { RefCell::new(None) };
}

/// See the module.
pub struct PeersActor {
    peers: Rc<RefCell<Peers>>,
    cell: Arc<ActorCell>,
}

impl PeersActor {
    /// Makes the state of the links and opens the peer port, on the thread of its arbiter; before
    /// [`PeersActor::build`].
    pub fn prepare(cluster: &Arc<Cluster>, shared: &Arc<Shared>, listener: TcpListener) {
        let peers = Rc::new(RefCell::new(Peers::new(cluster, shared)));
        tokio::task::spawn_local(io::accept(Rc::clone(&peers), listener));
        PEERS.with(|slot| *slot.borrow_mut() = Some(peers));
    }

    /// Prepares the actor.
    pub fn build(cell: &Arc<ActorCell>) -> Running {
        let Some(peers) = PEERS.with(|slot| slot.borrow().clone()) else {
            // The arbiter's first task has made it.
            #[allow(clippy::panic)]
            {
                panic!("the links are not prepared")
            }
        };
        let work = peers.borrow().cluster.work.stream();
        let actor = Self { peers, cell: Arc::clone(cell) };
        Running::new(actor, |ctx| {
            PeersActor::add_stream(work, ctx);
            every(ctx, TICK, |actor: &mut PeersActor, _| {
                let _entered = actor.cell.enter(0);
                Peers::step(&actor.peers, Peers::tick);
            });
        })
    }
}

impl Actor for PeersActor {
    type Context = Context<Self>;
}

impl StreamHandler<Work> for PeersActor {
    fn handle(&mut self, _: Work, _: &mut Self::Context) {
        let mut entered = self.cell.enter(0);
        let inbox = self.peers.borrow().cluster.work.clone();
        let mut taken = inbox.take(AT_ONCE);
        while taken.front_mut().is_some() {
            self.cell.fault_point();
            let Some(work) = taken.pop() else { break };
            self.peers.borrow_mut().work(work);
            entered.add(1);
        }
        drop(taken);
        Peers::step(&self.peers, |_| {});
    }
}

impl Handler<Ping> for PeersActor {
    type Result = ();
    fn handle(&mut self, _: Ping, ctx: &mut Self::Context) {
        on_ping(&self.cell, ctx);
    }
}

/// For `broker tree`.
pub(crate) fn describe(cluster: &Cluster) -> String {
    let nodes = cluster.nodes.read();
    let others: Vec<String> = nodes
        .iter()
        .skip(1)
        .map(|node| {
            let up = if node.up.load(Ordering::Relaxed) { "up" } else { "down" };
            format!("{} {up}", node.id)
        })
        .collect();
    if others.is_empty() { "no other node".to_owned() } else { others.join(", ") }
}

/// See the module.
pub(super) struct Peers {
    pub cluster: Arc<Cluster>,
    pub shared: Arc<Shared>,
    pub directory: Directory,
    /// By [`NodeIndex`] less one: the first is this node itself.
    pub links: Vec<PeerLink>,
    pub claims: BTreeMap<u64, Claiming>,
    pub lost: BTreeMap<u64, Lost>,
    /// Batches that were sent to a lost node and are for sessions that are here now.
    pub own: BTreeMap<u64, Vec<Token>>,
    /// Sessions on their way.
    pub moves: Moves,
    /// Sessions that other nodes take over, once what was for a lost one has been sent again.
    pub deferred_moves: Vec<(NodeIndex, Control)>,
    /// Sessions to be given up, once they are here.
    pub deferred_releases: Vec<Release>,
    /// Sessions that this node should give up and does not have, while it is not sure of that: who asked, the
    /// ticket and the client id.
    pub not_here_yet: Vec<(Arc<str>, u64, Arc<str>)>,
    /// Lost incarnations and who has what they held.
    pub heirs: Heirs,
    /// Number of the last client that was let in.
    pub last_admission: u64,
    pub next_batch: u64,
    /// Every member has told what it wants and holds: the retained messages are read, or were.
    reads: bool,
    settling: VecDeque<(u64, Token)>,
    pub to_dial: Vec<NodeIndex>,
    /// Tokens to be answered, by arbiter.
    completed: AHashMap<u16, VecDeque<Token>>,
    pub started: Instant,
    pub complained: Option<Instant>,
}

impl Peers {
    fn new(cluster: &Arc<Cluster>, shared: &Arc<Shared>) -> Self {
        *cluster.nodes.write() = vec![Node::new(&cluster.node_id, true)];
        let mut directory = Directory::new(Arc::clone(&cluster.node_id), cluster.incarnation);
        cluster.continued.iter().for_each(|incarnation| directory.inherited(*incarnation));
        Self {
            cluster: Arc::clone(cluster),
            shared: Arc::clone(shared),
            directory,
            links: Vec::new(),
            claims: BTreeMap::new(),
            lost: BTreeMap::new(),
            own: BTreeMap::new(),
            moves: Moves::new(Arc::clone(&cluster.node_id)),
            deferred_moves: Vec::new(),
            deferred_releases: Vec::new(),
            not_here_yet: Vec::new(),
            heirs: Heirs::new(&cluster.continued),
            last_admission: 0,
            next_batch: 1,
            reads: false,
            settling: VecDeque::new(),
            to_dial: Vec::new(),
            completed: AHashMap::new(),
            started: Instant::now(),
            complained: None,
        }
    }

    /// Does something and then what follows from it.
    pub fn step(handle: &Rc<RefCell<Self>>, act: impl FnOnce(&mut Self)) {
        let to_dial = {
            let mut peers = handle.borrow_mut();
            act(&mut peers);
            peers.settle();
            std::mem::take(&mut peers.to_dial)
        };
        for node in to_dial {
            tokio::task::spawn_local(io::dial(Rc::clone(handle), node));
        }
    }

    /// What the directory and the changes of hands want done.
    pub fn act(&mut self) {
        while let Some(action) = self.directory.poll_action() {
            match action {
                Action::Send(node, message) => {
                    if let Some(link) = self.link_of(&node) {
                        link.tell(message);
                    }
                }
                Action::Grant { request, from } => self.grant(request, from),
                Action::Release { owner, ticket, client, to } => {
                    self.release(Release { owner, ticket, client, to });
                }
            }
        }
        self.act_on_moves();
    }

    /// What follows from anything: actions of the directory, answers, frames.
    pub fn settle(&mut self) {
        self.act();
        self.check_settled();
        for (shard, tokens) in self.completed.drain() {
            self.shared.managers[usize::from(shard)].push(ManagerWork::Completed(tokens), 64);
        }
        for link in &mut self.links {
            link.flush();
        }
        let unstored = self.links.iter().map(|link| link.pending.len()).sum::<usize>();
        self.cluster.unstored.store(unstored + self.own.len(), Ordering::SeqCst);
        if !self.reads && self.is_synced() {
            self.reads = true;
            self.read_retained();
        }
    }

    /// What others have retained is read when every change from now on is heard of. Behind that, clients may come.
    fn read_retained(&self) {
        let cluster = Arc::clone(&self.cluster);
        tokio::task::spawn_local(async move {
            let found = loop {
                match cluster.store.retained().await {
                    Ok(found) => break found,
                    Err(error) => {
                        log::warn!(target: "hydrant::peers", "reading the retained messages again: {error}");
                        tokio::time::sleep(TICK).await;
                    }
                }
            };
            cluster.work.push(PeerWork::Retained(found), 1024);
        });
    }

    fn started(&mut self, found: Vec<(Arc<Message>, u64)>) {
        self.retained_found(found);
        // Now it is known who wants them; and before any client is let in.
        self.cluster.synced.store(true, Ordering::SeqCst);
        for manager in &self.shared.managers {
            manager.push(ManagerWork::FinishOpen, 64);
        }
        self.release_all();
    }

    fn is_synced(&self) -> bool {
        let whole = |link: &PeerLink| link.member.as_ref().is_none_or(|m| link.whole == m.1);
        // What a lost one wanted is known here only once its heir wants it.
        !self.directory.view().members.is_empty()
            && self.directory.is_synced()
            && self.lost.values().all(|lost| lost.is_long_ago(self.cluster.settings.repair))
            && self.links.iter().all(whole)
    }

    /// Answers tokens, soon.
    pub fn complete(&mut self, tokens: impl IntoIterator<Item = Token>) {
        for token in tokens {
            self.completed.entry(token.shard).or_default().push_back(token);
        }
    }

    pub fn link(&mut self, node: NodeIndex) -> Option<&mut PeerLink> {
        self.links.get_mut(usize::from(node).checked_sub(1)?)
    }

    pub fn link_of(&mut self, node: &str) -> Option<&mut PeerLink> {
        self.links.iter_mut().find(|link| *link.node.id == *node)
    }

    pub fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn work(&mut self, work: PeerWork) {
        match work {
            PeerWork::Publishes { node, body, count, tokens, queues } => {
                self.publish(node, body, count, tokens, queues);
            }
            PeerWork::Interest(token) => self.announce(token),
            PeerWork::Broadcast(message) => {
                for link in self.links.iter_mut().filter(|link| link.is_there()) {
                    link.tell(message.clone());
                }
            }
            PeerWork::Consumed { node, incarnation, bytes } => {
                let now = self.now();
                if let Some(link) = self.link(node) {
                    link.link.consumed(now, incarnation, 1, bytes);
                    link.notify.notify_one();
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
                    link.tell(Control::Done { batches: vec![batch] });
                }
            }
            PeerWork::View(view) => self.members_changed(view),
            PeerWork::Retained(found) => self.started(found),
            PeerWork::Claim { shard, conn, client, clean, known } => {
                self.claim(shard, conn, client, clean, known);
            }
            PeerWork::Gone { client, seen } => self.directory.gone(&client, seen),
            PeerWork::Holds(clients) => {
                clients.iter().for_each(|client| self.directory.holds(client, false));
            }
            PeerWork::Leaving { id, client, to, filters, estate } => {
                let estates = self.heirs.estates(estate);
                self.moves.leaving(id, client, to, filters, estates);
            }
            PeerWork::Keeps { id } => self.moves.keeps(id),
            PeerWork::Recover { shard, id, client, session } => {
                self.recover(shard, id, client, session);
            }
            PeerWork::Expected { id } => self.moves.expected(id),
            PeerWork::Stayed { to, client, stays } => {
                if let Some(link) = self.link_of(&to) {
                    link.tell(Control::Stayed { client, stays });
                }
            }
            PeerWork::Passed { barrier, lane } => self.passed(&barrier, lane),
            PeerWork::Marked { id, origin } => self.marked(id, origin),
            PeerWork::ResentSeen { incarnation, shard, origin } => {
                self.resent_seen(incarnation, shard, origin);
            }
            PeerWork::Released { owner, ticket, client, handed } => {
                self.is_not_here(&client);
                if handed.is_none() && self.cluster.sealing.load(Ordering::SeqCst) > 0 {
                    // It may be among what this node is about to inherit.
                    self.not_here_yet.push((owner, ticket, client));
                } else {
                    self.directory.released(&owner, ticket, &client, handed);
                }
            }
            PeerWork::Looked { request, holder, taken } => self.looked(request, holder, taken),
            PeerWork::Sealed { incarnation, sealing } => self.sealed(incarnation, sealing),
            PeerWork::Inherited { incarnation, incarnations, clients } => {
                self.inherited(incarnation, incarnations, &clients);
            }
        }
        // In order with what the next work says.
        self.act();
    }

    fn publish(
        &mut self,
        node: NodeIndex,
        mut body: Vec<u8>,
        count: u32,
        tokens: Vec<Token>,
        queues: bool,
    ) {
        let max = self.cluster.settings.max_link_bytes as u64;
        let batch = self.next_batch;
        let Some(link) = self.link(node) else { return self.complete(tokens) };
        let waited_for = queues || !tokens.is_empty();
        // Whose sessions it is for: who wanted it.
        let (whole, met) = (link.whole, link.link.peer_incarnation());
        let member = link.member.as_ref().map(|member| member.1);
        let incarnation = if whole == 0 { met.or(member).unwrap_or(0) } else { whole };
        if self.is_behind_mark(incarnation, &body) {
            return self.complete(tokens);
        }
        let Some(link) = self.link(node) else { return };
        if !waited_for && link.link.unacknowledged().1 > max {
            self.shared.metrics.shards[0].drop_messages(DropReason::PeerSlow, count.into());
            return;
        }
        if !queues && !link.link.is_up() {
            // Its subscribers cannot be reached: what nobody has to keep is not waited for.
            if member.is_some() {
                link.send(body.into());
            }
            return self.complete(tokens);
        }
        if waited_for {
            message::set_head(&mut body, batch, 0);
            let body: Bytes = body.into();
            let kept = queues.then(|| body.clone());
            let there = link.is_there();
            let sent = there && link.link.peer_incarnation().is_none_or(|now| now == incarnation);
            link.pending.insert(batch, Pending { body: kept, tokens, incarnation, sent });
            if sent {
                link.send(body);
            }
            link.sent_since |= queues;
            self.next_batch += 1;
        } else {
            link.send(body.into());
        }
    }

    /// Tells the others what changed in what this node wants.
    pub fn announce(&mut self, token: Option<Token>) {
        let (changes, announced) = {
            let mut interest = self.cluster.interest.lock();
            (interest.take_changes(), self.cluster.announced.load(Ordering::SeqCst))
        };
        if !changes.is_empty() {
            for link in &mut self.links {
                if !link.is_there() {
                    // It is told everything when it is back.
                    link.greeted = 0;
                }
                if link.greeted == 0 {
                    continue;
                }
                for changes in changes.chunks(256) {
                    let request = announced;
                    link.tell(Control::Interest { request, changes: changes.to_vec() });
                }
            }
        }
        if let Some(token) = token {
            self.settling.push_back((announced, token));
        }
    }

    /// Answers those whose change of interest every member has confirmed that can be reached. One that cannot is
    /// told everything when it can, and until then nothing of its publishers gets here.
    fn check_settled(&mut self) {
        let announced = self.cluster.announced.load(Ordering::SeqCst);
        let pending = self.cluster.interest.lock().has_changes();
        let confirmed = self
            .links
            .iter()
            .filter(|link| link.is_member() && !link.is_out_of_reach())
            .map(|link| link.confirmed)
            .min()
            .unwrap_or(if pending { 0 } else { announced });
        self.cluster.confirmed.fetch_max(confirmed, Ordering::SeqCst);
        let mut tokens = Vec::new();
        while let Some((_, token)) =
            self.settling.pop_front_if(|(request, _)| *request <= confirmed)
        {
            tokens.push(token);
        }
        self.complete(tokens);
    }

    /// Sessions are given up once what was begun for them before this start goes on, or is not waited for.
    pub fn may_give_up(&self) -> bool {
        self.cluster.synced.load(Ordering::SeqCst)
            || self.started.elapsed() > self.cluster.settings.repair
    }

    fn tick(&mut self) {
        self.release_all();
        self.ask_again();
        self.seal_lost();
        self.say_what_is_answered();
    }
}
