//! Hydrant's actor tree and nothing else: who owns what, and who restarts whom.
//!
//! - [`system`]: starts the tree, stops it.
//! - [`supervision`]: how an actor's end is learned, and what is rebuilt.
//! - [`inbox`]: work queues that outlive the actors that work them off.
//! - `driver`: what drives one [`worker`], on which [`connection`]s, their [`manager`](connection::manager) and the
//!   [`router`](routing::router) act; a [`listener`](connection::listener) gives them sockets, [`drain`] empties the
//!   node; [`sys`] makes the `$SYS` messages.
//! - [`storage`], [`log`]: in front of the session store and of the message log.
//! - [`cluster`]: what a node knows of the others; [`peers`]: the actors and sockets that drive it.
//! - [`ports`]: what the tree needs from outside, as traits; `src/` implements them.
//! - The machines and their data are those of `hydrant-engine`, under the same names:
//! - [`messages`]: what the actors give each other to do.
//! - [`node_tables`]: what the actors read and write together; [`mailboxes`]: their inboxes.
//! - [`settings`], [`metrics`]: bounds, counters; [`subscriptions`]: who is subscribed; [`clock`]: what has passed;
//!   [`now`]: the time of one step; [`say`]: the lines of the log, [`dropped`] those about messages.

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
