//! All of it: what happens next, and to whom.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Mistake;
use super::clients::{Publisher, Subscriber};
use super::clock::{Clock, MS, SECOND};
use super::event::{Event, NodeEvent};
use super::network::{Chunk, Network, Process};
use super::node::{Effect, Node, Part};
use super::store::{Answer, LEASE, Request, Store};
use crate::cluster::link::{Config, Hello, Role};
use crate::cluster::random::Random;

/// From the end of all faults to the end of all that follows from them.
const PATIENCE: u64 = 60 * SECOND;

/// A node, whether it runs or not.
pub struct Slot {
    pub node: Option<Node>,
    pub incarnation: u64,
    pub workers: u16,
    pub starts: Vec<u64>,
    pub paused: bool,
    pub isolated: bool,
    /// Neither paused nor isolated, it is heard of.
    pub silent: Option<u64>,
    pub deferred: Vec<NodeEvent>,
    /// Requests of an isolated node, which come late.
    pub held: Vec<(Process, u64, Request)>,
    pub scheduled: BTreeSet<Part>,
    pub timers: BTreeMap<usize, u64>,
    pub dialling: BTreeSet<usize>,
    /// When the last view comes.
    pub viewed: u64,
}

/// That a simulation meets what it is for.
#[derive(Debug, Default, Clone, Copy)]
pub struct Counts {
    pub events: u64,
    pub acknowledged: u64,
    pub attempts: u64,
    pub takes: u64,
    pub seals: u64,
    pub crashes: u64,
    pub exits: u64,
    pub cuts: u64,
}

pub struct World {
    pub clock: Clock<Event>,
    pub random: Random,
    pub mistake: Mistake,
    pub trace: Option<Vec<String>>,
    pub store: Store,
    pub network: Network,
    pub nodes: Vec<Slot>,
    pub names: Arc<[Arc<str>]>,
    pub config: Config,
    pub members: BTreeMap<usize, u64>,
    pub generation: u64,
    pub incarnations: u64,
    pub connections: u64,
    pub publishers: Vec<Publisher>,
    pub subscribers: Vec<Subscriber>,
    /// All were subscribed, and the faults begin.
    pub begun: bool,
    /// The faults are over.
    pub healed: bool,
    pub deadline: u64,
    pub slow_store: u64,
    pub slow_network: u64,
    pub failure: Option<String>,
    pub counts: Counts,
}

impl World {
    pub fn new(seed: u64, mistake: Mistake, traced: bool) -> Self {
        let mut random = Random(seed);
        let count = 2 + random.below(3);
        let nodes = (0..count).map(|_| Slot {
            node: None,
            incarnation: 0,
            workers: 1 + random.below(2) as u16,
            starts: Vec::new(),
            paused: false,
            isolated: false,
            silent: None,
            deferred: Vec::new(),
            held: Vec::new(),
            scheduled: BTreeSet::new(),
            timers: BTreeMap::new(),
            dialling: BTreeSet::new(),
            viewed: 0,
        });
        let nodes: Vec<Slot> = nodes.collect();
        let config = Config {
            max_frame_bytes: 4096,
            window_bytes: 8192,
            window_frames: 8 + random.below(40) as u32,
            ..Config::default()
        };
        let subscribers = (0..2 + random.below(3)).map(Subscriber::new).collect();
        let publishers = (0..1 + random.below(3)).map(|_| Publisher::default()).collect();
        let mut world = Self {
            clock: Clock::default(),
            random,
            mistake,
            trace: traced.then(Vec::new),
            store: Store::default(),
            network: Network::default(),
            names: (1..=nodes.len()).map(|n| Arc::from(format!("n{n}"))).collect(),
            nodes,
            config,
            members: BTreeMap::new(),
            generation: 0,
            incarnations: 0,
            connections: 0,
            publishers,
            subscribers,
            begun: false,
            healed: false,
            deadline: PATIENCE,
            slow_store: 0,
            slow_network: 0,
            failure: None,
            counts: Counts::default(),
        };
        for node in 0..count {
            world.clock.at(0, Event::Start(node));
        }
        for client in 0..world.subscribers.len() {
            world.clock.at(100 * MS, Event::Reconnect(client));
        }
        world.clock.at(200 * MS, Event::Check);
        world
    }

    pub fn note(&mut self, what: impl FnOnce() -> String) {
        let now = self.clock.now;
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>10.3} {}", now as f64 / 1000.0, what()));
        }
    }

    pub fn fail(&mut self, why: String) {
        self.note(|| format!("BROKEN: {why}"));
        self.failure.get_or_insert(why);
    }

    pub fn run(&mut self) {
        while self.failure.is_none()
            && let Some(event) = self.clock.next()
        {
            self.counts.events += 1;
            if self.clock.now > self.deadline {
                let open = self.unfinished().unwrap_or_default();
                return self.fail(format!("it does not come to an end: {open}"));
            }
            if matches!(event, Event::Check) {
                if self.check() {
                    return self.check_all();
                }
                continue;
            }
            self.handle(event);
            if let Some(why) = self.store.violation.take() {
                self.fail(why);
            }
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::At(process, event) => self.node_event(process, event),
            Event::Start(node) => self.start(node),
            Event::Apply { process, op, request } => self.apply(process, op, request),
            Event::Expire { process, since } => self.expire(process, since),
            Event::Fault(fault) => self.fault(fault),
            Event::Check => {}
            event => self.client_event(event),
        }
    }

    /// Whether a process lives, stopped or not.
    pub fn lives(&self, (node, incarnation): Process) -> bool {
        let slot = self.nodes.get(node);
        slot.is_some_and(|slot| slot.node.is_some() && slot.incarnation == incarnation)
    }

    pub fn process(&self, node: usize) -> Process {
        (node, self.nodes[node].incarnation)
    }

    pub fn later(&mut self, delay: u64, process: Process, event: NodeEvent) {
        self.clock.after(delay, Event::At(process, event));
    }

    fn node_event(&mut self, process: Process, event: NodeEvent) {
        let index = process.0;
        if !self.lives(process) {
            return;
        }
        if self.nodes[index].paused {
            return self.nodes[index].deferred.push(event);
        }
        let most = 1 + self.random.below(6);
        let (now, slot) = (self.clock.now, &mut self.nodes[index]);
        let Some(node) = &mut slot.node else { return };
        node.now = now;
        match event {
            NodeEvent::Run(part) => {
                slot.scheduled.remove(&part);
                node.run(part, most);
            }
            NodeEvent::Answer { op, answer } => node.answer(op, answer),
            NodeEvent::Members(view) => node.view(view),
            NodeEvent::Tick => {
                node.tick();
                self.later(500 * MS, process, NodeEvent::Tick);
            }
            NodeEvent::Renew => {
                node.renew();
                self.later(LEASE / 4, process, NodeEvent::Renew);
            }
            NodeEvent::Timer(peer) => {
                slot.timers.remove(&peer);
                if !node.timed_out(peer) {
                    self.hang_up(process, peer);
                }
            }
            NodeEvent::Dial(peer) => self.dial(process, peer),
            NodeEvent::Arrive { connection, end } => self.arrive(process, connection, end),
            NodeEvent::Register => self.register(process),
            NodeEvent::Publish { worker, message } => {
                if node.may_act() {
                    node.publish(worker, message);
                } else {
                    // It is not read.
                    let event = NodeEvent::Publish { worker, message };
                    self.later(50 * MS, process, event);
                }
            }
            NodeEvent::Connect { client, connection } => {
                if node.may_act() {
                    node.connect(client, connection);
                } else {
                    let event = NodeEvent::Connect { client, connection };
                    self.later(50 * MS, process, event);
                }
            }
            NodeEvent::Disconnected { client, connection } => node.disconnected(client, connection),
            NodeEvent::Got { client, connection, sequence } => {
                node.got(client, connection, sequence);
            }
        }
        self.after(process);
    }

    /// What follows from anything that a node did.
    pub fn after(&mut self, process: Process) {
        if !self.lives(process) {
            return;
        }
        let index = process.0;
        let Some(node) = &mut self.nodes[index].node else { return };
        node.now = self.clock.now;
        let effects = node.take_effects();
        let log = node.log.as_mut().map(std::mem::take).unwrap_or_default();
        let peers: Vec<usize> = node.peers.keys().copied().collect();
        for line in log {
            self.note(|| format!("n{} ({}) {line}", process.0 + 1, process.1));
        }
        for peer in peers {
            self.after_link(process, peer);
        }
        for effect in effects {
            self.effect(process, effect);
        }
        let Some(node) = self.nodes[index].node.as_ref().filter(|_| self.lives(process)) else {
            return;
        };
        for part in node.busy() {
            if self.nodes[index].scheduled.insert(part) {
                let slow = if self.random.one_in(20) { 5 * MS } else { 100 };
                let delay = 10 + self.random.below(slow as usize) as u64;
                self.later(delay, process, NodeEvent::Run(part));
            }
        }
    }

    fn after_link(&mut self, process: Process, peer: usize) {
        let slot = &mut self.nodes[process.0];
        let Some(node) = &mut slot.node else { return };
        let bytes = node.transmit(peer);
        let Some(link) = node.peers.get(&peer) else { return };
        let (connection, timeout) = (link.connection, link.link.next_timeout());
        let dials = link.dialled && connection.is_none() && slot.dialling.insert(peer);
        if let Some(at) = timeout.map(|at| at * MS)
            && slot.timers.get(&peer).is_none_or(|known| at < *known)
        {
            slot.timers.insert(peer, at);
            self.clock.at(at, Event::At(process, NodeEvent::Timer(peer)));
        }
        if dials {
            let delay = self.random.between(5, 200) * MS;
            self.later(delay, process, NodeEvent::Dial(peer));
        }
        if let Some(connection) = connection.filter(|_| !bytes.is_empty()) {
            self.put(connection, process, Chunk::Bytes(bytes));
        }
    }

    /// Into the pipe from one end to the other.
    fn put(&mut self, number: u64, from: Process, chunk: Chunk) {
        let slow = self.slow_network;
        let most = if self.random.one_in(10) { 3000 } else { 200 };
        let delay = 50 + self.random.between(0, most);
        let now = self.clock.now;
        let Some(connection) = self.network.connections.get_mut(&number) else { return };
        let end = usize::from(connection.ends[0] == from);
        let to = connection.ends[end];
        let at = (now + delay + slow).max(connection.last[end]);
        connection.last[end] = at;
        connection.pipes[end].push_back(chunk);
        self.clock.at(at, Event::At(to, NodeEvent::Arrive { connection: number, end }));
    }

    /// One end closes a connection.
    pub fn close(&mut self, number: u64, process: Process) {
        let Some(connection) = self.network.connections.get_mut(&number) else { return };
        let end = usize::from(connection.ends[1] == process);
        if std::mem::replace(&mut connection.closed[end], true) {
            return;
        }
        connection.pipes[end].clear();
        if connection.closed[1 - end] {
            self.network.connections.remove(&number);
        } else {
            self.put(number, process, Chunk::End);
        }
    }

    fn hang_up(&mut self, process: Process, peer: usize) {
        let Some(node) = &mut self.nodes[process.0].node else { return };
        let Some(connection) = node.peers.get(&peer).and_then(|peer| peer.connection) else {
            return;
        };
        node.disconnected_from(peer, connection);
        self.close(connection, process);
    }

    fn dial(&mut self, process: Process, peer: usize) {
        let index = process.0;
        self.nodes[index].dialling.remove(&peer);
        let reachable = self.nodes[peer].node.is_some() && !self.network.is_cut(index, peer);
        let other = self.process(peer);
        let Some(node) = &mut self.nodes[index].node else { return };
        let wants =
            node.peers.get(&peer).is_some_and(|p| p.member.is_some() && p.connection.is_none());
        if reachable && wants {
            let connection = self.network.connect(process, other);
            node.connected(peer, connection, Role::Dialer);
            self.note(|| format!("n{} dials n{}", index + 1, peer + 1));
        }
    }

    fn arrive(&mut self, process: Process, number: u64, end: usize) {
        let Some(connection) = self.network.connections.get_mut(&number) else { return };
        let other = connection.ends[1 - end].0;
        if connection.closed[end] || self.network.is_cut(process.0, other) {
            return;
        }
        let Some(connection) = self.network.connections.get_mut(&number) else { return };
        let chunk = connection.pipes[end].pop_front();
        let Some(node) = &mut self.nodes[process.0].node else { return };
        let fine = match chunk {
            None => return,
            Some(Chunk::End) => {
                node.disconnected_from(other, number);
                false
            }
            Some(Chunk::Bytes(bytes)) => match &mut connection.first[end] {
                None => node.received(other, number, &bytes),
                Some(first) => {
                    first.extend(bytes);
                    match Hello::peek(first) {
                        Ok(None) => true,
                        Ok(Some(hello)) if node.is_welcome(&hello).is_some() => {
                            let first = connection.first[end].take().unwrap_or_default();
                            let before = node.connected(other, number, Role::Acceptor);
                            let fine = node.received(other, number, &first);
                            if let Some(before) = before {
                                self.close(before, process);
                            }
                            fine
                        }
                        _ => false,
                    }
                }
            },
        };
        if !fine {
            if let Some(node) = &mut self.nodes[process.0].node {
                node.disconnected_from(other, number);
            }
            self.close(number, process);
        }
    }

    pub fn effect(&mut self, process: Process, effect: Effect) {
        let delay = self.random.between(50, 500);
        match effect {
            Effect::Store { op, request } => {
                if self.nodes[process.0].isolated {
                    self.nodes[process.0].held.push((process, op, request));
                } else {
                    let delay = self.store_delay();
                    self.clock.after(delay, Event::Apply { process, op, request });
                }
            }
            Effect::Acknowledge(message) => {
                self.clock.after(delay, Event::Acknowledged { process, message });
            }
            Effect::Connected { client, connection, present } => {
                let client = number(&client);
                self.clock.after(delay, Event::Connected { client, connection, present });
            }
            Effect::Deliver { client, connection, sequence, message } => {
                let client = number(&client);
                let event = Event::Deliver { process, client, connection, sequence, message };
                self.clock.after(delay, event);
            }
            Effect::Closed { client, connection } => {
                let client = number(&client);
                self.clock.after(delay, Event::Closed { client, connection });
            }
            Effect::Exit(why) => {
                self.counts.exits += 1;
                self.note(|| format!("n{} ({}) ends: {why}", process.0 + 1, process.1));
                self.crash(process.0);
                if self.random.one_in(2) || self.healed {
                    self.clock.after(300 * MS, Event::Start(process.0));
                }
            }
        }
    }

    pub fn store_delay(&mut self) -> u64 {
        let slow = if self.random.one_in(10) { 10 * MS } else { MS };
        200 + self.random.below(slow as usize) as u64 + self.slow_store
    }

    fn apply(&mut self, process: Process, op: u64, request: Request) {
        let lossy = self.begun
            && !self.healed
            && matches!(request, Request::Write(_) | Request::Take { .. });
        let unlucky = lossy && self.random.one_in(40);
        let mut failed = false;
        let answer = if unlucky && self.random.one_in(2) {
            failed = true;
            Answer::Failed
        } else {
            let name = self.trace.is_some().then(|| format!("{request:?}"));
            let answer = self.store.apply(self.clock.now, process.1, request, self.mistake);
            self.count(process, &answer, name);
            answer
        };
        let (answer, delay) =
            if unlucky { (Answer::Failed, 100 * MS) } else { (answer, self.store_delay()) };
        if unlucky {
            self.note(|| format!("n{}: a request {op} fails, applied: {}", process.0 + 1, !failed));
        }
        self.later(delay, process, NodeEvent::Answer { op, answer });
    }

    fn count(&mut self, process: Process, answer: &Answer, request: Option<String>) {
        match answer {
            Answer::Taken(Some(_)) => self.counts.takes += 1,
            Answer::Sealed(Some(_)) => self.counts.seals += 1,
            _ => {}
        }
        if let Some(request) = request.filter(|it| !it.starts_with("Renew") && it != "Write([])") {
            let answer = match answer {
                Answer::Taken(taken) => format!("taken: {}", taken.is_some()),
                Answer::Sealed(sealed) => format!("sealed: {}", sealed.is_some()),
                Answer::Located(found) => format!("{found:?}"),
                Answer::Page(page) => format!("{} entries", page.len()),
                _ => String::new(),
            };
            self.note(|| format!("store: n{} ({}) {request} {answer}", process.0 + 1, process.1));
        }
    }
}

fn number(client: &str) -> usize {
    client[1..].parse().unwrap()
}
