//! The coordinator's steps, as PeersActor, the tasks of its sockets and its driver have them done.

use std::sync::Arc;

use hydrant_actors::mailboxes::Mailboxes;
use hydrant_actors::messages::ManagerTask;
use hydrant_engine::cluster::NodeIndex;
use hydrant_engine::cluster::coordinator::Coordinator;
use hydrant_engine::cluster::state::effects::Push;
use hydrant_engine::cluster::state::requests::{Request, RequestId, TakeOverPart};
use hydrant_engine::messages::{Answer, ManagerWork, PeerWork, RouterWork, StorageWork};
use hydrant_engine::now::{Boot, Now};
use hydrant_protocol::cluster::MembershipView;
use hydrant_protocol::cluster::link::{Hello, Role};
use tokio::sync::oneshot;

use super::{Ask, Effect, Node, PeerSocket};

/// What a message counts.
const SMALL: usize = 64;
/// Bytes of a link that are sent at once.
const CHUNK: usize = 4096;

type TakingOver = Vec<(RequestId, Vec<oneshot::Receiver<()>>)>;

struct ToNode<'a> {
    mailboxes: &'a Mailboxes,
    effects: &'a mut Vec<Effect>,
    taking_over: &'a mut TakingOver,
}

impl Push for ToNode<'_> {
    fn manager(&mut self, worker: u16, work: ManagerWork, cost: usize) {
        self.mailboxes.managers[usize::from(worker)].push(work.into(), cost);
    }

    fn router(&mut self, worker: u16, work: RouterWork, cost: usize) {
        self.mailboxes.routers[usize::from(worker)].push(work, cost);
    }

    fn storage(&mut self, work: StorageWork, cost: usize) {
        self.mailboxes.storage.push(work, cost);
    }

    fn coordinator(&mut self, work: PeerWork, cost: usize) {
        self.mailboxes.peers.push(work, cost);
    }

    fn request(&mut self, id: RequestId, request: Request) {
        let Request::TakeOver { incarnation, batches, parts } = request else {
            return self.effects.push(Effect::Ask(Ask::Peers(id, request)));
        };
        let mut told = Vec::new();
        for (manager, part) in self.mailboxes.managers.iter().zip(parts) {
            let TakeOverPart { sessions, wills, prepared } = part;
            let (done, wait) = oneshot::channel();
            let batches = Arc::clone(&batches);
            let work = ManagerWork::TakeOver { sessions, wills, prepared, incarnation, batches };
            manager.push(ManagerTask::Told { work, done }, SMALL);
            told.push(wait);
        }
        self.taking_over.push((id, told));
    }

    fn dial(&mut self, node: NodeIndex) {
        self.effects.push(Effect::Dial(node));
    }

    // Every link is looked at after each step.
    fn link(&mut self, _: NodeIndex) {}

    fn end(&mut self, why: String) {
        self.effects.push(Effect::End(why));
    }
}

impl Node {
    fn step_coordinator<R>(&mut self, act: impl FnOnce(&mut Coordinator, Now) -> R) -> Option<R> {
        let coordinator = self.coordinator.as_mut()?;
        let done = act(coordinator, self.now);
        let Self { mailboxes, effects, taking_over, .. } = self;
        coordinator.hand_out(&mut ToNode { mailboxes, effects, taking_over });
        Some(done)
    }

    /// Up to `most` messages.
    pub(super) fn coordinate(&mut self, most: usize) {
        let mut taken = self.mailboxes.peers.take(most);
        let mut all = Vec::new();
        while let Some(work) = taken.pop() {
            self.note("coordinator", &work);
            all.push(work);
        }
        self.step_coordinator(|coordinator, now| {
            for work in all {
                coordinator.handle_message(now, work);
            }
            coordinator.handle_turn(now);
        });
    }

    /// Half a second has passed.
    pub fn tick_coordinator(&mut self) {
        let may_act = self.may_act();
        self.step_coordinator(|coordinator, now| coordinator.handle_tick(now, may_act));
    }

    pub(super) fn coordinator_deadline(&mut self) {
        self.step_coordinator(|coordinator, now| coordinator.handle_deadline(now));
    }

    /// The answer to a request.
    pub(super) fn answered(&mut self, request: RequestId, answer: Answer) {
        self.mailboxes.peers.push(PeerWork::Answered { request, answer }, SMALL);
    }

    /// Take-overs that every worker has in force.
    pub fn look_at_take_overs(&mut self) {
        let mut done = Vec::new();
        self.taking_over.retain_mut(|(id, told)| {
            let waits = |told: &mut oneshot::Receiver<()>| {
                matches!(told.try_recv(), Err(oneshot::error::TryRecvError::Empty))
            };
            told.retain_mut(waits);
            if told.is_empty() {
                done.push(*id);
            }
            !told.is_empty()
        });
        done.into_iter().for_each(|id| self.answered(id, Answer::TakenOver));
    }

    /// What its coordinator waits for.
    pub fn describe_open(&self) -> String {
        let mut open =
            self.coordinator.as_ref().map_or_else(String::new, Coordinator::describe_open);
        // The ring's points say nothing to a reader.
        if let Some(from) = open.find("points: [")
            && let Some(length) = open[from..].find(']')
        {
            open.replace_range(from..from + length, "");
        }
        open
    }

    /// ZooKeeper shows this.
    pub fn view(&mut self, view: MembershipView) {
        self.mailboxes.peers.push(PeerWork::Members(view), SMALL);
    }

    /// Where a node is reached.
    pub fn address(&self, node: NodeIndex) -> Option<String> {
        self.coordinator.as_ref()?.address(node)
    }

    /// A connection to a node is open from here.
    pub fn dialled(&mut self, number: u64, node: NodeIndex) {
        self.connected(number, node, Role::Dialer);
    }

    fn connected(&mut self, number: u64, node: NodeIndex, role: Role) {
        let connection =
            self.step_coordinator(|it, now| it.handle_connected(now, node, role)).flatten();
        if let Some(connection) = connection {
            self.peers.insert(number, PeerSocket { node, connection });
        }
    }

    /// The first bytes of a connection that another node has dialled. `None`: its hello is not whole; false: it is
    /// refused.
    pub fn first_bytes(&mut self, number: u64, bytes: &[u8]) -> Option<bool> {
        let hello = match Hello::peek(bytes) {
            Ok(hello) => hello?,
            Err(_) => return Some(false),
        };
        let node = self.coordinator.as_ref().and_then(|it| it.node_of(&hello).ok());
        let Some(node) = node else { return Some(false) };
        self.connected(number, node, Role::Acceptor);
        Some(self.received(number, bytes))
    }

    /// Bytes of another node. False: the connection has to be closed.
    pub fn received(&mut self, number: u64, bytes: &[u8]) -> bool {
        let Some(PeerSocket { node, connection }) = self.peers.get(&number).copied() else {
            return false;
        };
        let fine =
            self.step_coordinator(|it, now| it.handle_received(now, node, connection, bytes));
        fine.unwrap_or_default()
    }

    /// A connection has ended. The node, and whether this one dials it again.
    pub fn disconnected(&mut self, number: u64) -> Option<NodeIndex> {
        let PeerSocket { node, connection } = self.peers.remove(&number)?;
        let why = "it ended";
        self.step_coordinator(|it, now| it.handle_disconnected(now, node, connection, why));
        Some(node)
    }

    /// What is to be sent over a connection now, and when to look again. `None`: another has replaced it.
    pub fn transmit(&mut self, number: u64) -> Option<(Vec<u8>, Option<Boot>)> {
        let PeerSocket { node, connection } = self.peers.get(&number).copied()?;
        let mut out = Vec::new();
        let sent = self.step_coordinator(|it, now| {
            loop {
                let before = out.len();
                let next = it.poll_transmit(now, node, connection, &mut out, CHUNK);
                if next.is_err() || out.len() == before {
                    return next;
                }
            }
        })?;
        Some((out, sent.ok()?))
    }

    /// A time-out of a link has come. False: the connection has to be closed.
    pub fn timed_out(&mut self, number: u64) -> bool {
        let Some(PeerSocket { node, connection }) = self.peers.get(&number).copied() else {
            return true;
        };
        let fine = self.step_coordinator(|it, now| it.handle_timed_out(now, node, connection));
        fine.unwrap_or(true)
    }
}
