//! A whole cluster in virtual time: the machines that the node runs (`Worker`, `WriteQueue`, `LogQueue`, `Coordinator`),
//! driven under loss, delay, partitions, pauses, crashes, restarts and a slow store. Only for tests: nothing depends on
//! this crate.
//!
//! - [`clock`] and [`event`]: what happens next. The scheduler picks which machine steps, never a whole node.
//! - [`network`] and [`links`]: connections that carry bytes, between nodes and from clients.
//! - [`memory`] and [`asks`]: the store that all nodes share, and the way there.
//! - [`store`]: the store as Cassandra does it, in virtual time; it passes the suite of every store.
//! - [`kafka`]: the message log.
//! - [`zookeeper`] with its [`roster`], and [`members`]: who is a member, who starts and who ends.
//! - [`node`]: one start of a node, with drivers around its machines.
//! - [`clients`] and [`cast`]: publishers and subscribers, and which of them a history has.
//! - [`faults`]: what goes wrong. [`checks`]: what has to hold. [`kinds`]: which of it a history has.
//! - [`world`]: all of it. [`run`]: its loop.
//!
//! One seed is one history, for ever: two runs compare by the hash of their [`trace`].
//!
//! Bounds: a history ends a virtual minute after its faults, finished or not.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::indexing_slicing,
    missing_docs,
    reason = "for tests only"
)]

pub mod asks;
pub mod cast;
pub mod checks;
pub mod clients;
pub mod clock;
pub mod event;
pub mod faults;
pub mod kafka;
pub mod kinds;
pub mod links;
pub mod members;
pub mod memory;
pub mod network;
pub mod node;
pub mod random;
pub mod roster;
pub mod run;
pub mod settings;
pub mod store;
#[cfg(test)]
mod tests;
pub mod trace;
pub mod world;
pub mod zookeeper;

use kinds::{Counts, Kinds};
use world::World;

/// How a history ended.
#[derive(Debug)]
pub struct Outcome {
    /// What was broken, if anything.
    pub failure: Option<String>,
    pub counts: Counts,
    /// By which two runs of a seed compare.
    pub hash: u64,
    pub trace: Vec<String>,
}

/// The history of a seed.
pub fn simulate(seed: u64, nodes: usize, kinds: Kinds, traced: bool) -> Outcome {
    let mut world = World::new(seed, kinds, nodes, traced);
    world.run();
    let (failure, counts, hash) = (world.failure, world.counts, world.trace.hash());
    Outcome { failure, counts, hash, trace: world.trace.into_lines() }
}
