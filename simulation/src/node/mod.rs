//! One start of a node: its machines, each with its inboxes, and what they ask of the world.
//!
//! The machines are those that the node runs. What stands here is their drivers: what `actors/` does with tasks, timers
//! and sockets is done step by step, as the world says. Nothing of a node happens outside a step of one machine.
//!
//! - `start`: what a start finds, and makes of it.
//! - `worker`: the router's and the manager's half of a worker's steps; `socket`: those for its connections.
//! - `storage`, `log`: the queues.
//! - `peers`: the coordinator, its links and its requests.

mod log;
mod parts;
mod peers;
mod reach;
mod socket;
mod start;
mod stop;
mod storage;
mod worker;

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use hydrant_actors::mailboxes::Mailboxes;
use hydrant_engine::cluster::coordinator::Coordinator;
use hydrant_engine::cluster::state::requests::{Request, RequestId};
use hydrant_engine::cluster::{Cluster, NodeIndex};
use hydrant_engine::log::LogQueue;
use hydrant_engine::log::queue::ReadId as LogReadId;
use hydrant_engine::messages::Answer;
use hydrant_engine::node_tables::NodeTables;
use hydrant_engine::now::{Boot, Now, Wall};
use hydrant_engine::ports::{
    DeadId, DeadLetter, LogRecord, QueueEntry, Report, StoreError, StoreOp,
};
use hydrant_engine::storage::WriteQueue;
use hydrant_engine::storage::write_queue::{Read, ReadId, WriteId};
use hydrant_engine::worker::Worker;
use tokio::sync::oneshot;

use crate::memory::Handle;
use crate::network::Process;
use parts::{Socket, Stop};
use reach::Unread;
pub use start::Setup;

/// What steps by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Machine {
    /// A worker, for what its TopicRouter does.
    Router(u16),
    /// A worker, for what its ConnectionManager does.
    Manager(u16),
    /// A worker, for one connection.
    Socket(u64),
    /// The write queue.
    Storage,
    /// The log queue.
    Log,
    /// The coordinator.
    Coordinator,
}

/// What a node asks of the store.
#[derive(Debug)]
pub enum Ask {
    /// The write queue's.
    Write(WriteId, Arc<Vec<StoreOp>>),
    /// The same.
    Page(Read),
    /// The log queue's.
    Outbox { id: LogReadId, lane: u16, from: u64, records: usize },
    /// The same.
    Letters { id: LogReadId, from: DeadId, letters: usize },
    /// The coordinator's.
    Peers(RequestId, Request),
    /// For the lease, sent at this time of the node's boot clock.
    Renew(Boot),
    /// It ends in order.
    Release,
}

/// What the store answers.
#[derive(Debug)]
pub enum Reply {
    /// Whether it is durable.
    Written(WriteId, bool),
    /// `None`: it could not be read.
    Page(ReadId, Option<Vec<QueueEntry>>),
    /// Records of the outbox.
    Outbox(LogReadId, Result<Vec<LogRecord>, StoreError>),
    /// Dead letters.
    Letters(LogReadId, Result<Vec<DeadLetter>, StoreError>),
    /// To the coordinator.
    Peers(RequestId, Answer),
    /// The lease that was asked for then is granted; false: the incarnation is sealed.
    Renewed(Boot, bool),
    /// The lease that is not granted may be.
    NotRenewed,
}

/// What follows from a step outside.
#[derive(Debug)]
pub enum Effect {
    /// The store is asked.
    Ask(Ask),
    /// Bytes for a client.
    Write(u64, Vec<u8>),
    /// A client's connection is closed from here.
    Close(u64),
    /// Records for the log.
    Append(Vec<LogRecord>),
    /// The log gives up what it has not reported.
    ResetLog,
    /// A node is to be dialled.
    Dial(NodeIndex),
    /// The node ends.
    End(String),
}

/// A TCP connection with another node, as this one knows it.
#[derive(Debug, Clone, Copy)]
pub struct PeerSocket {
    /// The node.
    pub node: NodeIndex,
    /// The coordinator's number of the connection.
    pub connection: u64,
}

/// See the module.
pub struct Node {
    /// Which node.
    pub index: usize,
    /// The number of the start.
    pub incarnation: u64,
    pub tables: Arc<NodeTables>,
    pub mailboxes: Arc<Mailboxes>,
    pub cluster: Option<Arc<Cluster>>,
    workers: Vec<Rc<Worker>>,
    ticks: u64,
    write_queue: WriteQueue,
    log_queue: LogQueue,
    coordinator: Option<Coordinator>,
    handle: Arc<Handle>,
    now: Now,
    /// Of clients.
    pub sockets: BTreeMap<u64, Socket>,
    /// Of nodes, by the number of the connection.
    pub peers: BTreeMap<u64, PeerSocket>,
    /// Requests for the workers that wait for each of them.
    taking_over: Vec<(RequestId, Vec<oneshot::Receiver<()>>)>,
    effects: Vec<Effect>,
    /// A router is to step because others have room again.
    has_room: BTreeSet<u16>,
    /// It stops in order.
    stop: Option<Stop>,
    unread: Unread,
    /// What the log has reported.
    reports: Vec<Report>,
    /// What its machines were told, where somebody reads it.
    told: Option<Vec<String>>,
}

impl Node {
    /// Which process it is.
    pub fn process(&self) -> Process {
        (self.index, self.incarnation)
    }

    /// A step begins at this time.
    pub fn begin(&mut self, boot: u64, wall_ns: u64) {
        self.now = Now { boot: Boot(boot), wall: Wall(wall_ns) };
        self.handle.set_now(boot);
        self.workers.iter().for_each(|worker| worker.begin(self.now));
    }

    /// What steps have asked for.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// What its machines were told in the last step.
    pub fn take_told(&mut self) -> Vec<String> {
        self.told.as_mut().map(std::mem::take).unwrap_or_default()
    }

    fn note(&mut self, machine: &str, what: &impl std::fmt::Debug) {
        if let Some(told) = &mut self.told {
            let what: String = format!("{what:?}").chars().take(240).collect();
            told.push(format!("{machine} is told {what}"));
        }
    }

    /// Its clients may come.
    pub fn listens(&self) -> bool {
        let cluster = self.cluster.as_ref();
        cluster.is_none_or(|it| it.status.is_synced())
            && !self.tables.stopping.load(std::sync::atomic::Ordering::SeqCst)
    }

    /// The lease runs.
    pub fn may_act(&self) -> bool {
        self.tables.may_act()
    }

    /// Workers of it.
    pub fn workers(&self) -> u16 {
        self.workers.len() as u16
    }

    /// One step; at most `most` messages. True: a connection that has to be looked at again.
    pub fn step(&mut self, machine: Machine, most: usize) -> bool {
        match machine {
            Machine::Router(worker) => self.route(worker, most),
            Machine::Manager(worker) => self.manage(worker, most),
            Machine::Socket(socket) => return self.poll_socket(socket, most),
            Machine::Storage => self.store(),
            Machine::Log => self.step_log(),
            Machine::Coordinator => self.coordinate(most),
        }
        false
    }

    /// A time has come that a machine has asked for.
    pub fn deadline(&mut self, machine: Machine) {
        match machine {
            Machine::Storage => self.storage_deadline(),
            Machine::Log => self.log_deadline(),
            Machine::Coordinator => self.coordinator_deadline(),
            Machine::Router(_) | Machine::Manager(_) | Machine::Socket(_) => {}
        }
    }

    /// When [`Node::deadline`] is due, by machine.
    pub fn deadlines(&self) -> [(Machine, Option<Boot>); 3] {
        [
            (Machine::Storage, self.write_queue.poll_deadline()),
            (Machine::Log, self.log_queue.poll_deadline()),
            (Machine::Coordinator, self.coordinator.as_ref().and_then(Coordinator::poll_deadline)),
        ]
    }

    /// The store has answered.
    pub fn reply(&mut self, reply: Reply) {
        match reply {
            Reply::Written(id, durable) => self.written(id, durable),
            Reply::Page(id, page) => self.page(id, page),
            Reply::Outbox(id, page) => self.outbox_page(id, page),
            Reply::Letters(id, page) => self.letters(id, page),
            Reply::Peers(id, answer) => self.answered(id, answer),
            Reply::Renewed(sent, true) => {
                let lease = crate::settings::LEASE;
                self.handle.set_lease((sent + lease).0);
            }
            Reply::Renewed(_, false) => {
                self.handle.set_lease(0);
                self.effects.push(Effect::End("it is sealed".to_owned()));
            }
            Reply::NotRenewed => {}
        }
    }

    /// A renewal of the lease is sent.
    pub fn renew(&mut self) {
        self.effects.push(Effect::Ask(Ask::Renew(self.now.boot)));
    }

    /// Machines that have something to do.
    pub fn busy(&mut self) -> Vec<Machine> {
        let mut busy = Vec::new();
        for (index, worker) in (0_u16..).zip(&self.workers) {
            if worker.poll_remote_room(|_| ()) {
                self.has_room.insert(index);
            }
            let inbox = &self.mailboxes.routers[usize::from(index)];
            let routes = worker.has_router_work() && worker.may_route();
            if routes
                || worker.has_retained_to_send()
                || !inbox.is_empty()
                || self.has_room.contains(&index)
            {
                busy.push(Machine::Router(index));
            }
            if !self.mailboxes.managers[usize::from(index)].is_empty() {
                busy.push(Machine::Manager(index));
            }
        }
        if !self.mailboxes.storage.is_empty() && self.write_queue.takes() {
            busy.push(Machine::Storage);
        }
        if self.log_has_work() {
            busy.push(Machine::Log);
        }
        if self.coordinator.is_some() && !self.mailboxes.peers.is_empty() {
            busy.push(Machine::Coordinator);
        }
        let woken = self.sockets.iter().filter(|(_, socket)| socket.is_woken());
        busy.extend(woken.map(|(number, _)| Machine::Socket(*number)));
        busy
    }

    /// The number of the message that is retained at a topic.
    pub fn retained(&self, topic: &str) -> Option<u32> {
        let retained = self.tables.retained.read();
        let message = retained.get(topic)?;
        Some(crate::clients::state::Payload::parse(&message.payload)?.number)
    }

    /// What is not at its end; `None`: nothing.
    pub fn unfinished(&self) -> Option<String> {
        let mailboxes = &self.mailboxes;
        let inboxes = mailboxes.storage.len()
            + mailboxes.log.len()
            + mailboxes.peers.len()
            + mailboxes.routers.iter().chain([]).map(|it| it.len()).sum::<usize>()
            + mailboxes.managers.iter().map(|it| it.len()).sum::<usize>();
        let idle = inboxes == 0
            && self.write_queue.is_idle()
            && self.log_queue.is_empty()
            && self.tables.lanes.lock().backlog().0 == 0
            && self.cluster.as_ref().is_none_or(|cluster| cluster.is_idle())
            && self.workers.iter().all(|worker| !worker.has_router_work());
        let unstored = self.cluster.as_ref().map_or(0, |it| it.status.unstored());
        (!idle).then(|| {
            let (index, writes) = (self.index + 1, self.write_queue.is_idle());
            format!("n{index}: {inboxes} messages, writes done {writes}, {unstored} not stored elsewhere, outbox {}", self.tables.lanes.lock().backlog().0)
        })
    }
}
