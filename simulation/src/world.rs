//! All of it: the state of a history.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hydrant_engine::now::Boot;
use hydrant_engine::ports::LogRecord;
use parking_lot::Mutex;

use crate::checks::Checks;
use crate::clients::state::Client;
use crate::clock::{Clock, MS, SECOND};
use crate::event::{ClientEvent, Event, NodeEvent};
use crate::kinds::{Counts, Kinds};
use crate::memory::Store;
use crate::network::{Network, Process};
use crate::node::{Ask, Machine, Node};
use crate::random::Random;
use crate::roster::Zookeeper;
use crate::trace::Trace;

/// Until everybody is subscribed.
const PATIENCE: u64 = 60 * SECOND;

/// A node, whether it runs or not.
#[derive(Default)]
pub struct Slot {
    pub node: Option<Node>,
    pub incarnation: u64,
    pub workers: usize,
    pub paused: bool,
    pub isolated: bool,
    pub no_store: bool,
    /// It stays away for good.
    pub away: bool,
    /// A start is on its way.
    pub starting: bool,
    /// Its requests wait with it while it is paused.
    pub stuck: bool,
    pub deferred: Vec<NodeEvent>,
    /// Requests that come late.
    pub held: Vec<(Process, Ask)>,
    pub scheduled: BTreeSet<Machine>,
    pub deadlines: BTreeMap<Machine, Boot>,
    pub timers: BTreeMap<u64, Boot>,
    /// When the last write comes to the store.
    pub last_write: u64,
    /// A record has failed, and none behind it is taken until the log is reset.
    pub log_broken: bool,
    /// How often its log was reset.
    pub log_resets: u64,
    /// Records that are never reported unless the log is reset.
    pub unreported: Vec<u64>,
    /// When the last records come to the log.
    pub last_append: u64,
    /// By how much its boot clock is ahead.
    pub boot: u64,
    /// The same of its wall clock, in milliseconds.
    pub skew: u64,
}

/// See the module.
pub struct World {
    pub clock: Clock<Event>,
    pub random: Random,
    pub trace: Trace,
    pub kinds: Kinds,
    pub store: Arc<Mutex<Store>>,
    /// What the log has, in order.
    pub log: Vec<LogRecord>,
    pub zookeeper: Zookeeper,
    pub network: Network,
    pub nodes: Vec<Slot>,
    pub clients: Vec<Client>,
    pub checks: Checks,
    /// Who watches which lease, and until when.
    pub watches: BTreeMap<(Process, u64), u64>,
    /// All were subscribed, and the faults begin.
    pub begun: bool,
    /// The faults are over.
    pub healed: bool,
    /// How often in a row nothing was open.
    pub quiet: u32,
    pub deadline: u64,
    pub slow_store: u64,
    pub slow_network: u64,
    pub failure: Option<String>,
    pub counts: Counts,
}

impl World {
    /// Of a seed.
    pub fn new(seed: u64, kinds: Kinds, nodes: usize, traced: bool) -> Self {
        let mut random = Random(seed);
        let slots = (0..nodes).map(|_| Slot {
            workers: 1 + random.below(3),
            boot: random.below(1000) as u64 * SECOND,
            skew: random.below(100_000) as u64,
            ..Slot::default()
        });
        let slots = slots.collect();
        let clients = crate::cast::clients(&mut random, kinds);
        let mut world = Self {
            clock: Clock::default(),
            random,
            trace: Trace::new(traced),
            kinds,
            store: Arc::default(),
            log: Vec::new(),
            zookeeper: Zookeeper::default(),
            network: Network::default(),
            nodes: slots,
            clients,
            checks: Checks::new(!kinds.delays_nodes()),
            watches: BTreeMap::new(),
            begun: false,
            healed: false,
            quiet: 0,
            deadline: PATIENCE,
            slow_store: 0,
            slow_network: 0,
            failure: None,
            counts: Counts::default(),
        };
        for node in 0..nodes {
            world.clock.at(0, Event::Start(node));
        }
        for client in 0..world.clients.len() {
            world.clock.at(100 * MS, Event::Client(client, ClientEvent::Connect));
        }
        world.clock.at(200 * MS, Event::Check);
        world
    }

    /// A line of the history.
    pub fn note(&mut self, what: impl FnOnce() -> String) {
        self.trace.note(self.clock.now, what);
    }

    /// Something that has to hold does not.
    pub fn fail(&mut self, why: String) {
        self.note(|| format!("BROKEN: {why}"));
        self.failure.get_or_insert(why);
    }

    /// Whether a process lives, stopped or not.
    pub fn lives(&self, (node, incarnation): Process) -> bool {
        let slot = self.nodes.get(node);
        slot.is_some_and(|slot| slot.node.is_some() && slot.incarnation == incarnation)
    }

    /// The process that a node is now, or was last.
    pub fn process(&self, node: usize) -> Process {
        (node, self.nodes[node].incarnation)
    }

    /// It happens to a process, after that time.
    pub fn later(&mut self, delay: u64, process: Process, event: NodeEvent) {
        self.clock.after(delay, Event::At(process, event));
    }

    /// When a node's boot clock shows this.
    pub fn at_boot(&self, node: usize, boot: Boot) -> u64 {
        boot.0.saturating_sub(self.nodes[node].boot)
    }
}
