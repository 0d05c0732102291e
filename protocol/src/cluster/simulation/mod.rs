//! A whole cluster in virtual time: the machines of this module's neighbours, as the node runs them, under
//! loss, delay, partitions, pauses, crashes and a slow store. The code around them is a copy of what `engine/` does.
//!
//! Older than the crate `simulation/`, which plays the engine itself, and replaces this one when it plays all of it.
//!
//! - [`clock`] and [`event`]: what happens next.
//! - [`network`]: the connections that carry the bytes of the links.
//! - [`store`]: sessions, leases and seals, as all nodes share them.
//! - [`node`]: one start of a node, with the glue around the machines.
//! - [`clients`]: publishers that send again, and subscribers that roam.
//! - [`members`]: nodes that start and end, and how ZooKeeper tells the others.
//! - [`world`]: all of it, and [`faults`].
//!
//! One seed is one history, for ever. Checked are:
//! - Of the writes for a session only those of its one holder are accepted.
//! - Every message of QoS 1-2 that was acknowledged comes to every session that was subscribed before.
//! - None of QoS 2 comes twice.
//! - When all faults are over, everything comes to its end: claims, handovers, batches, waits.
//!
//! The glue is what `engine/` does, with these differences, each of which a seed has asked for:
//! - An entry of a queue says of what its publisher's node had sent at once it is a part, and by which node: so a
//!   session's successor skips what it has, wherever it was queued.
//! - A queue knows a QoS 2 message by its identity when its publisher sends it again at another node. The node has
//!   prepared publishes for that, and batches that name them (docs/decisions/0014-prepared-publishes.md and 0015).
//! - A node that starts lets clients in when it has heard of every incarnation that is not sealed, or that another
//!   has sealed. In `engine/` it reads from the store what the sessions of absent nodes want, and waits for no
//!   take-over (docs/decisions/0015-interest-by-incarnation.md).
//! - Interest is kept by node here, and by incarnation in `engine/`: an ordered restart is not played.
//! - A node that finds that it is no member any more ends. In `engine/` it ends when it is back and a session has
//!   moved without its markers.
//! - No client leaves before it is let in: no claim is withdrawn, and none waits for a link to catch up.
//! - Others stand beside the code, in [`node`].
//!
//! Bounds: a history ends a virtual minute after its faults, finished or not.
//!
//! [`Mistake`]s can be planted, to see that they are found.

#![allow(clippy::unwrap_used, clippy::collapsible_match)]

mod clients;
mod clock;
mod event;
mod faults;
mod members;
mod network;
mod node;
mod store;
#[cfg(test)]
mod tests;
mod world;

use std::sync::Arc;

use crate::QoS;
use crate::cluster::message::{self, Recipients};
use store::Message;

/// What is done wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mistake {
    None,
    /// The store accepts writes from whoever sends them.
    NoFencing,
    /// What is not answered is sent again with every connection, as if frames came once anyhow.
    NoDeduplication,
    /// A successor queues again what the lost node had stored.
    SuccessorDoubles,
    /// A publish is acknowledged when its write is begun.
    EarlyAcknowledgement,
    /// The answer to a batch stands for those before it.
    PastHoles,
    /// Source and target do not look at the markers.
    NoMarkers,
    /// The source forgets what came behind the markers when it gives the session up.
    SourceForgets,
}

/// How a history ended.
pub struct Outcome {
    /// What was broken, if anything.
    pub failure: Option<String>,
    pub counts: world::Counts,
    pub trace: Vec<String>,
}

/// The history of a seed.
pub fn simulate(seed: u64, mistake: Mistake, traced: bool) -> Outcome {
    let mut world = world::World::new(seed, mistake, traced);
    world.run();
    Outcome { failure: world.failure, counts: world.counts, trace: world.trace.unwrap_or_default() }
}

/// What a client subscribes to.
fn filters(client: &str) -> Vec<Arc<str>> {
    let number: usize = client[1..].parse().unwrap();
    match number {
        0 => vec!["t0".into()],
        1 => vec!["t1".into()],
        2 => vec!["t0".into(), "t1".into()],
        _ => vec!["t0".into(), "t2".into()],
    }
}

/// Appends a message to a batch.
fn encode(body: &mut Vec<u8>, message: &Message) {
    let mut payload = [0; 9];
    payload[..4].copy_from_slice(&message.id.to_be_bytes());
    payload[4..8].copy_from_slice(&message.attempt.to_be_bytes());
    payload[8] = message.topic;
    let qos = if message.exactly_once { QoS::ExactlyOnce } else { QoS::AtLeastOnce };
    let topic = ["t0", "t1", "t2"][usize::from(message.topic)];
    let recipients = Recipients::Queues;
    let (durable, prepared, payload) = (true, None, &payload[..]);
    let publish = message::Publish { topic, payload, qos, durable, recipients, prepared, shows: 0 };
    message::append(body, &publish);
}

fn decode(publish: &message::Publish<'_>) -> Message {
    let number = |at: usize| u32::from_be_bytes(publish.payload[at..at + 4].try_into().unwrap());
    let exactly_once = publish.qos == QoS::ExactlyOnce;
    Message { id: number(0), attempt: number(4), topic: publish.payload[8], exactly_once }
}
