//! Hydrant's actor tree: what drives the machines of `hydrant-engine`, and who restarts whom. What the broker decides
//! stands in the engine.
//!
//! - [`system`]: starts the tree, stops it.
//! - [`supervision`]: how an actor's end is learned, and what is rebuilt.
//! - [`inbox`]: work queues that outlive the actors that work them off.
//! - `driver`: what drives one [`worker`], on which [`connection`]s, their [`manager`](connection::manager) and the
//!   [`router`](routing::router) act; a [`listener`](connection::listener) gives them sockets, [`drain`] empties the
//!   node; [`sys`] makes the `$SYS` messages.
//! - [`storage`], [`log`]: what drives the queues in front of the session store and of the message log.
//! - [`peers`]: the actors and sockets that drive the coordinator.
//! - [`mailboxes`]: the inboxes of a node; [`messages`]: what the actors give each other to do.
//! - [`clock`]: the clocks, as the engine's steps are told of them.
//! - [`ports`]: what the tree needs from outside, as traits; `src/` implements them.
//!
//! The machines and their data are those of `hydrant-engine`, under the same names: [`worker`], [`cluster`],
//! [`node_tables`], [`settings`], [`metrics`], [`subscriptions`], [`generations`], [`drain_budget`], [`now`],
//! [`step_guard`], [`say`] and [`dropped`].

pub use hydrant_engine::{
    cluster, drain_budget, dropped, generations, metrics, node_tables, now, say, settings,
    step_guard, subscriptions, worker,
};

pub mod clock;
pub mod connection;
pub mod drain;
mod driver;
mod every;
pub mod inbox;
#[cfg(test)]
#[path = "inbox/tests.rs"]
mod inbox_tests;
pub mod log;
pub mod mailboxes;
pub mod messages;
mod monotonic;
pub mod peers;
pub mod ports;
pub mod routing;
pub mod storage;
pub mod supervision;
pub mod sys;
pub mod system;

/// What [`inbox`] is made of.
mod sync {
    pub use parking_lot::Mutex;
    pub use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
}
