//! What happens: to nodes, clients, the store and ZooKeeper.

use std::sync::Arc;

use super::faults::Fault;
use super::network::Process;
use super::node::Part;
use super::store::{Answer, Message, Request};
use crate::cluster::MembershipView;

#[derive(Debug)]
pub enum Event {
    At(Process, NodeEvent),
    Start(usize),
    Apply {
        process: Process,
        op: u64,
        request: Request,
    },
    /// ZooKeeper has not heard of a process since then.
    Expire {
        process: Process,
        since: u64,
    },
    Publish(usize),
    Acknowledged {
        process: Process,
        message: Message,
    },
    Connected {
        client: usize,
        connection: u64,
        present: bool,
    },
    Deliver {
        process: Process,
        client: usize,
        connection: u64,
        sequence: u64,
        message: Message,
    },
    Closed {
        client: usize,
        connection: u64,
    },
    /// Its node is gone, or does not answer.
    PublisherLost {
        publisher: usize,
        process: Process,
    },
    SubscriberLost {
        client: usize,
        process: Process,
    },
    Reconnect(usize),
    Roam(usize),
    Fault(Fault),
    Check,
}

#[derive(Debug)]
pub enum NodeEvent {
    Run(Part),
    Answer { op: u64, answer: Answer },
    Members(MembershipView),
    Tick,
    Renew,
    Timer(usize),
    Dial(usize),
    Arrive { connection: u64, end: usize },
    Register,
    Publish { worker: u16, message: Message },
    Connect { client: Arc<str>, connection: u64 },
    Disconnected { client: Arc<str>, connection: u64 },
    Got { client: Arc<str>, connection: u64, sequence: u64 },
}
