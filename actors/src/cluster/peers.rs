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
use hydrant_protocol::cluster::View;
use hydrant_protocol::cluster::directory::{Action, Directory, Holder};
use hydrant_protocol::cluster::link::{Event, Hello, Identity, Relay, Role};
use hydrant_protocol::cluster::marks::EVERY;
use hydrant_protocol::cluster::message::{self, Control, Interest};
use hydrant_protocol::cluster::moves::Moves;
use hydrant_protocol::topic::TopicFilter;
use hydrant_protocol::{Message, QoS, wire};
use tokio::sync::Notify;

use super::heirs::Heirs;
use super::inherit::Lost;
use super::link::{PeerLink, Pending};
use super::sessions::{Claiming, Release};
use super::{Cluster, FromPeer, Node, NodeIndex, PeerWork, io};
use crate::every::every;
use crate::inbox::{Inbox, Work};
use crate::metrics::DropReason;
use crate::shared::{ManagerWork, RouterWork, Shared, Token};
use crate::supervision::{ActorCell, Ping, Running, on_ping};

/// How often claims that wait long and nodes that are lost are looked at.
const TICK: Duration = Duration::from_millis(500);
/// Work items handled before the sockets get their turn.
const AT_ONCE: usize = 512;
/// Index of this node itself.
pub(super) const SELF: NodeIndex = 0;
/// Refused connections are logged at most so often.
const COMPLAIN: Duration = Duration::from_secs(1);

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
    settling: VecDeque<(u64, Token)>,
    to_dial: Vec<NodeIndex>,
    /// Tokens to be answered, by arbiter.
    completed: AHashMap<u16, VecDeque<Token>>,
    started: Instant,
    complained: Option<Instant>,
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
    fn settle(&mut self) {
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
        if !self.cluster.synced.load(Ordering::Relaxed) && self.is_synced() {
            // Now it is known who wants them; and before any client is let in.
            self.take_over_open(self.cluster.store.open_publishes());
            self.cluster.synced.store(true, Ordering::SeqCst);
        }
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

    /// Answers those whose change of interest every member has confirmed.
    fn check_settled(&mut self) {
        let announced = self.cluster.announced.load(Ordering::SeqCst);
        let pending = self.cluster.interest.lock().has_changes();
        let confirmed = self
            .links
            .iter()
            .filter(|link| link.is_member())
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

    /// The members have changed.
    fn members_changed(&mut self, view: View) {
        for member in view.members.iter() {
            if *member.node_id == *self.cluster.node_id {
                continue;
            }
            if self.link_of(&member.node_id).is_none() {
                self.add(&member.node_id);
            }
            let me = Arc::clone(&self.cluster.node_id);
            let mut dial = None;
            if let Some(link) = self.link_of(&member.node_id) {
                link.member = Some((member.peer.clone(), member.incarnation));
                link.send_kept();
                if *me < *member.node_id && !std::mem::replace(&mut link.dialled, true) {
                    dial = Some(link.index);
                }
            }
            self.to_dial.extend(dial);
        }
        let mut gone = Vec::new();
        for link in &mut self.links {
            if view.member(&link.node.id).is_none() && link.member.take().is_some() {
                gone.append(&mut link.give_up_live());
            }
        }
        self.complete(gone);
        self.cluster.members.store(view.members.len(), Ordering::SeqCst);
        self.look_who_is_there();
        self.lose(&view);
        self.directory.members_changed(view);
    }

    fn add(&mut self, id: &Arc<str>) {
        let node = Node::new(id, false);
        let mut nodes = self.cluster.nodes.write();
        let Ok(index) = NodeIndex::try_from(nodes.len()) else { return };
        nodes.push(Arc::clone(&node));
        drop(nodes);
        let me = Identity {
            cluster: Arc::clone(&self.cluster.settings.id),
            node_id: Arc::clone(&self.cluster.node_id),
            incarnation: self.cluster.incarnation,
        };
        self.links.push(PeerLink::new(index, node, me));
    }

    pub fn address(&self, node: NodeIndex) -> Option<String> {
        let link = self.links.get(usize::from(node).checked_sub(1)?)?;
        link.member.as_ref().map(|member| member.0.clone())
    }

    pub fn index_of(&self, node: &str) -> Option<NodeIndex> {
        if *self.cluster.node_id == *node {
            return Some(SELF);
        }
        self.links.iter().find(|link| *link.node.id == *node).map(|link| link.index)
    }

    pub fn name(&self, node: NodeIndex) -> Arc<str> {
        let at = usize::from(node).saturating_sub(1);
        self.links.get(at).map_or_else(|| Arc::from("?"), |link| Arc::clone(&link.node.id))
    }

    /// A member that can be reached, by its address, and what it is asked for: to carry a connection on to
    /// one that cannot.
    pub fn way_round(&self, node: NodeIndex, round: usize) -> Option<(String, Relay)> {
        let up = |link: &&PeerLink| link.index != node && link.link.is_up();
        let ways: Vec<&PeerLink> = self.links.iter().filter(up).collect();
        let way = ways.get(round.checked_rem(ways.len())?)?;
        let (address, _) = way.member.clone()?;
        let (cluster, node_id) =
            (self.cluster.settings.id.to_string(), self.name(node).to_string());
        Some((address, Relay { cluster, node_id }))
    }

    /// Where a connection is carried on to for another node.
    pub fn address_for(&self, relay: &Relay) -> Result<String, String> {
        if relay.cluster != *self.cluster.settings.id {
            return Err(self.foreign(&relay.cluster));
        }
        let link = self.links.iter().find(|link| *link.node.id == *relay.node_id);
        let member = link.and_then(|link| link.member.as_ref());
        member.map(|(address, _)| address.clone()).ok_or_else(|| {
            format!(
                "it is for node {:?}, which is no member of the cluster as it is known here",
                relay.node_id
            )
        })
    }

    fn foreign(&self, cluster: &str) -> String {
        format!(
            "it belongs to cluster \"{cluster}\" and this node to \"{}\": give both the same cluster.id, or point it elsewhere",
            self.cluster.settings.id
        )
    }

    /// Whose connection to the peer port this is.
    pub fn node_of(&self, hello: &Hello) -> Result<NodeIndex, String> {
        let id = &hello.node_id;
        if hello.cluster != *self.cluster.settings.id {
            return Err(self.foreign(&hello.cluster));
        }
        match self.links.iter().find(|link| *link.node.id == **id && link.is_member()) {
            Some(link) => Ok(link.index),
            None if *self.cluster.node_id == **id => {
                Err(format!("it has this node's own id \"{id}\": give each node its own --node-id"))
            }
            None => Err(format!(
                "node \"{id}\" is no member of the cluster as it is known here; it may come again"
            )),
        }
    }

    /// Whether one more line about a refused connection may be logged.
    pub fn may_complain(&mut self) -> bool {
        let may = self.complained.is_none_or(|last| last.elapsed() > COMPLAIN);
        if may {
            self.complained = Some(Instant::now());
        }
        may
    }

    /// A TCP connection to a node is open; its number.
    pub fn connected(&mut self, node: NodeIndex, role: Role) -> Option<u64> {
        let now = self.now();
        let link = self.link(node)?;
        link.connection += 1;
        let connection = link.connection;
        link.link.connected(now, role);
        // The one before ends.
        link.notify.notify_waiters();
        link.notify.notify_one();
        self.events(node);
        Some(connection)
    }

    /// It has ended. True when the link was up over it.
    pub fn disconnected(&mut self, node: NodeIndex, connection: u64, why: &str) -> bool {
        let now = self.now();
        let Some(link) = self.link(node) else { return false };
        if link.connection != connection {
            return false;
        }
        let was_up = link.link.is_up();
        link.link.disconnected(now);
        if was_up {
            log::warn!(target: "hydrant::peers", "the link to node {} is down: {why}", link.node.id);
        }
        self.events(node);
        self.settle();
        was_up
    }

    /// Bytes of it. False: it has to be closed.
    pub fn received(&mut self, node: NodeIndex, connection: u64, bytes: &[u8]) -> bool {
        let now = self.now();
        let Some(link) = self.link(node).filter(|link| link.connection == connection) else {
            return false;
        };
        let result = link.link.receive(now, bytes);
        let id = Arc::clone(&link.node.id);
        let fine = self.events(node);
        self.settle();
        match result {
            Ok(()) => fine,
            Err(error) => {
                if self.may_complain() {
                    log::warn!(target: "hydrant::peers", "the connection with node {id} is closed: {error}");
                }
                false
            }
        }
    }

    /// What may be sent now, and when to look again. `None`: another connection replaced it.
    pub fn transmit(
        &mut self,
        node: NodeIndex,
        connection: u64,
        out: &mut Vec<u8>,
        max: usize,
    ) -> Option<(Rc<Notify>, Option<tokio::time::Instant>)> {
        let (now, started) = (self.now(), self.started);
        let link = self.link(node).filter(|link| link.connection == connection)?;
        link.link.transmit(now, out, max);
        let next = link.link.next_timeout().map(|at| (started + Duration::from_millis(at)).into());
        Some((Rc::clone(&link.notify), next))
    }

    /// A time-out of the link has come. False: the connection has to be closed.
    pub fn timed_out(&mut self, node: NodeIndex, connection: u64) -> bool {
        let now = self.now();
        let Some(link) = self.link(node).filter(|link| link.connection == connection) else {
            return false;
        };
        if link.link.handle_timeout(now).is_err() {
            return false;
        }
        self.events(node)
    }

    /// Handles what has happened on a link. False: its connection has to be closed.
    fn events(&mut self, node: NodeIndex) -> bool {
        let mut fine = true;
        while let Some(event) = self.link(node).and_then(|link| link.link.poll_event()) {
            match event {
                Event::Up { incarnation, version } => self.up(node, incarnation, version),
                Event::Down => self.down(node),
                Event::Dead => fine = false,
                Event::PeerRestarted { .. } => {
                    let Some(link) = self.link(node) else { continue };
                    // What matters of it stands in `pending`.
                    drop(link.link.take_unacknowledged());
                    let id = Arc::clone(&link.node.id);
                    self.directory.link_renewed(&id);
                    self.moves.restarted(&id);
                    self.heir_hears_nothing(node);
                }
                Event::RoomAgain => {}
                Event::Frame { kind: message::PUBLISHES, body, .. } => self.publishes(node, body),
                Event::Frame { kind: message::CONTROL, body, .. } => {
                    let (now, bytes) = (self.now(), body.len() as u64);
                    let Some(messages) = message::decode(&body) else {
                        log::error!(target: "hydrant::peers", "node {} sent control messages that cannot be read", self.name(node));
                        return false;
                    };
                    for message in messages {
                        self.control(node, message);
                        self.act();
                    }
                    if let Some(link) = self.link(node)
                        && let Some(incarnation) = link.link.peer_incarnation()
                    {
                        link.link.consumed(now, incarnation, 1, bytes);
                        link.notify.notify_one();
                    }
                }
                // A kind of a later version, which is only sent to those who speak it.
                Event::Frame { .. } => return false,
            }
        }
        fine
    }

    fn up(&mut self, node: NodeIndex, incarnation: u64, version: u16) {
        let Some(link) = self.link(node) else { return };
        link.node.up.store(true, Ordering::SeqCst);
        log::info!(target: "hydrant::peers", "the link to node {} is up (incarnation {incarnation}, peer protocol {version})", link.node.id);
        if link.greeted != incarnation {
            let (whole, announced) = {
                let interest = self.cluster.interest.lock();
                // The others have to hear of them as well.
                let changes = interest.has_changes();
                let whole = interest.whole();
                if changes {
                    self.cluster.work.push(PeerWork::Interest(None), 64);
                }
                (whole, self.cluster.announced.load(Ordering::SeqCst))
            };
            if let Some(link) = self.link(node) {
                link.greet(incarnation, whole, announced);
            }
        }
        let inherited: Vec<Control> = self.heirs.announcements().collect();
        let incarnations = self.lost.iter();
        let incarnations: Vec<(u64, Arc<str>)> =
            incarnations.map(|(lost, of)| (*lost, Arc::clone(&of.node))).collect();
        if let Some(link) = self.link(node) {
            if !incarnations.is_empty() {
                link.tell(Control::Lost { incarnations });
            }
            inherited.into_iter().for_each(|message| link.tell(message));
            link.send_kept();
        }
        self.look_who_is_there();
    }

    fn down(&mut self, node: NodeIndex) {
        let Some(link) = self.link(node) else { return };
        link.node.up.store(false, Ordering::SeqCst);
        let tokens = link.give_up_live();
        self.complete(tokens);
        self.look_who_is_there();
    }

    /// A batch of another node goes to a router; those of one lane to the same one, in order.
    fn publishes(&mut self, node: NodeIndex, body: Bytes) {
        let Some((_, lane, ..)) = message::publishes(&body) else { return };
        let incarnation = self.link(node).and_then(|link| link.link.peer_incarnation());
        let Some(incarnation) = incarnation else { return };
        let bytes = body.len();
        let work = RouterWork::FromPeer(FromPeer::new(node, incarnation, body));
        self.router_of(lane).push(work, bytes);
    }

    /// The router that a mark goes through, or the first of all where it stands for all lanes.
    pub fn first_router(&self, lane: u16) -> &Inbox<RouterWork> {
        self.router_of(if lane == EVERY { 0 } else { lane })
    }

    /// The router that routes what a lane of another node publishes.
    pub fn router_of(&self, lane: u16) -> &Inbox<RouterWork> {
        &self.shared.routers[usize::from(lane) % self.shared.routers.len()]
    }

    fn control(&mut self, node: NodeIndex, message: Control) {
        match message {
            Control::Interest { request, changes } => {
                self.wants(node, &changes);
                if request != 0
                    && let Some(link) = self.link(node)
                {
                    link.tell(Control::InterestConfirmed { request });
                }
            }
            Control::InterestAnew => {
                if let Some(link) = self.link(node) {
                    link.anew = Some(AHashMap::new());
                }
            }
            Control::InterestWhole => self.wants_no_more(node),
            Control::InterestConfirmed { request } => {
                if let Some(link) = self.link(node) {
                    link.confirmed = link.confirmed.max(request);
                }
            }
            Control::Done { batches } => {
                for batch in batches {
                    let done = self.link(node).and_then(|link| link.pending.remove(&batch));
                    self.complete(done.map(|pending| pending.tokens).unwrap_or_default());
                }
            }
            Control::Answered { below } => {
                let Some(link) = self.link(node) else { return };
                let less = |kept: u8| kept.checked_sub(1);
                let kept = link.node.kept.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
                if kept.is_ok()
                    && let Some(origin) = link.link.peer_incarnation()
                {
                    self.forget_batches(origin, below);
                }
            }
            Control::Retained { topic, payload, qos, version } => {
                self.retained(&topic, payload, qos, version);
            }
            // Of one that was frozen, and sealed: the session is another's.
            Control::Leaving { .. } if self.is_sealed(node) => {}
            Control::Leaving { .. } | Control::Withdrawn { .. } | Control::Taken { .. } => {
                let from = self.name(node);
                self.moves.receive(&from, message);
            }
            Control::Move { .. } => self.moves(node, message),
            Control::Mark { id, client, lane } => self.mark(node, id, client, lane),
            Control::Lost { incarnations } => self.are_lost(incarnations),
            Control::Inherited { incarnation, estate } => {
                self.told(node, message);
                self.has_heir(incarnation, estate, node);
            }
            Control::Resent { incarnation, lane } => self.resent(node, incarnation, lane),
            Control::Stayed { client, stays } => {
                let home = usize::from(self.shared.home(&client));
                self.shared.managers[home].push(ManagerWork::Stayed { client, stays }, 256);
            }
            other => self.told(node, other),
        }
    }

    fn is_sealed(&mut self, node: NodeIndex) -> bool {
        let incarnation = self.link(node).and_then(|link| link.link.peer_incarnation());
        incarnation.is_some_and(|incarnation| self.is_over(incarnation))
    }

    fn told(&mut self, node: NodeIndex, message: Control) {
        let Some(link) = self.link(node) else { return };
        let Some(incarnation) = link.link.peer_incarnation() else { return };
        let from = Holder { node: Arc::clone(&link.node.id), incarnation };
        self.directory.receive(&from, message);
    }

    /// Another node wants this now.
    pub fn wants(&mut self, node: NodeIndex, changes: &[(Arc<str>, Interest)]) {
        let cluster = Arc::clone(&self.cluster);
        let Some(link) = self.link(node) else { return };
        let mut remote = cluster.remote.write();
        for (filter, interest) in changes {
            let parsed = TopicFilter::from_arc(Arc::clone(filter), &wire::Limits::PROTOCOL);
            let Ok(parsed) = parsed else { continue };
            match interest {
                Interest::None => {
                    remote.unsubscribe(&parsed, node);
                    link.wanted.remove(filter);
                }
                level => {
                    let queues = *level == Interest::Queues;
                    let qos = if queues { QoS::AtLeastOnce } else { QoS::AtMostOnce };
                    remote.subscribe(&parsed, node, qos);
                    link.wanted.insert(Arc::clone(filter), *level);
                    if let Some(anew) = &mut link.anew {
                        anew.insert(Arc::clone(filter), *level);
                    }
                }
            }
        }
        drop(remote);
        self.shared.generation.fetch_add(1, Ordering::Release);
    }

    /// It has said all: what it has not said again is of an earlier incarnation.
    fn wants_no_more(&mut self, node: NodeIndex) {
        let Some(link) = self.link(node) else { return };
        let Some(anew) = link.anew.take() else { return };
        let old: Vec<(Arc<str>, Interest)> = link
            .wanted
            .keys()
            .filter(|filter| !anew.contains_key(*filter))
            .map(|filter| (Arc::clone(filter), Interest::None))
            .collect();
        let incarnation = link.link.peer_incarnation().unwrap_or(0);
        link.whole = incarnation;
        self.wants(node, &old);
        if let Some(link) = self.link(node) {
            link.send_kept();
        }
    }

    /// Nobody is there any more who wants it.
    pub fn wants_nothing(&mut self, node: NodeIndex) {
        let Some(link) = self.link(node) else { return };
        let all: Vec<(Arc<str>, Interest)> =
            link.wanted.keys().map(|filter| (Arc::clone(filter), Interest::None)).collect();
        self.wants(node, &all);
    }

    fn retained(&mut self, topic: &Arc<str>, payload: Bytes, qos: u8, version: u64) {
        let qos = match qos {
            0 => QoS::AtMostOnce,
            1 => QoS::AtLeastOnce,
            _ => QoS::ExactlyOnce,
        };
        let mut retained = self.shared.retained.write();
        self.shared.retained_clock.fetch_max(version, Ordering::Relaxed);
        if !self.cluster.retained.lock().is_newest(topic, version) {
            return;
        }
        if payload.is_empty() {
            retained.remove(topic);
        } else {
            let topic = Arc::clone(topic);
            let message = Message { topic, payload, qos, retain: false, properties: None };
            retained.insert(Arc::new(message));
        }
        self.shared.metrics.retained.set(retained.len() as u64);
        self.shared.metrics.retained_bytes.set(retained.bytes() as u64);
    }

    fn tick(&mut self) {
        self.ask_again();
        self.seal_lost();
        self.say_what_is_answered();
    }
}
