//! What happens: to nodes, to clients, to the store and to ZooKeeper.

use hydrant_engine::cluster::NodeIndex;
use hydrant_engine::now::Boot;
use hydrant_engine::ports::{LogRecord, Report};
use hydrant_protocol::cluster::MembershipView;

use crate::network::{Chunk, Process};
use crate::node::{Ask, Machine, Reply};

/// See the module.
#[derive(Debug)]
pub enum Event {
    /// To a process.
    At(Process, NodeEvent),
    /// A node starts.
    Start(usize),
    /// What a process has asked of the store comes there.
    Apply(Process, Ask),
    /// Records come to the log, unless it was reset since they left: so many times by then.
    Append(Process, u64, Vec<LogRecord>),
    /// ZooKeeper has not heard of a process since then.
    Expire { process: Process, since: u64 },
    /// Something comes to an end of a connection.
    Arrive { connection: u64, end: usize },
    /// To a client.
    Client(usize, ClientEvent),
    /// Something goes wrong.
    Fault(Fault),
    /// It is looked whether all is at its end.
    Check,
}

/// See the module.
#[derive(Debug)]
pub enum NodeEvent {
    /// A machine steps.
    Run(Machine),
    /// A time that a machine has asked for.
    Deadline(Machine, Boot),
    /// The store answers.
    Reply(Reply),
    /// ZooKeeper shows its members.
    View(MembershipView),
    /// A quarter of a second.
    TickWorker(u16),
    /// Half a second.
    TickCoordinator,
    /// The lease is to be renewed.
    Renew,
    /// It is looked whether the lease runs.
    Look,
    /// A link wants to be looked at.
    Link(u64, Boot),
    /// A node is dialled.
    Dial(NodeIndex),
    /// A client's connection comes.
    Accept(u64),
    /// The log reports.
    Reports(Vec<Report>),
    /// It is looked whether the outbox is behind.
    TickLog,
    /// It wants its entry in ZooKeeper.
    Register,
    /// It stops in order; looked at again and again.
    Stop,
    /// Something comes to an end of a connection of its.
    Heard(u64, usize, Chunk),
}

/// See the module.
#[derive(Debug)]
pub enum ClientEvent {
    /// It connects.
    Connect,
    /// It has something to publish.
    Publish,
    /// It may go elsewhere.
    Roam,
    /// It changes what it is subscribed to.
    Churn,
    /// It waits no longer for an answer to its CONNECT on this connection.
    Impatient(u64),
}

/// What goes wrong, and how it ends.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// A process is gone.
    Crash(usize),
    /// A process is gone, and its node never starts again.
    Leave(usize),
    /// A process stands still.
    Pause(usize),
    Resume(usize),
    /// It reaches nobody: neither nodes, nor store, nor ZooKeeper.
    Isolate(usize),
    Join(usize),
    /// It does not reach the store.
    NoStore(usize),
    StoreAgain(usize),
    /// The connections between two break.
    Cut(usize, usize),
    /// Two do not reach each other.
    Part(usize, usize),
    Heal(usize, usize),
    SlowStore(u64),
    SlowNetwork(u64),
    /// It stops in order, and starts again at once.
    Restart(usize),
    /// Every process is gone, or all but one.
    ColdStart(bool),
    /// The end of all.
    Over,
}
