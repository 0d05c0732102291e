//! Hydrant's actor tree and nothing else: who owns what, and who restarts whom.
//!
//! - [`system`]: starts the tree, stops it.
//! - [`supervision`]: how an actor's end is learned, and what is rebuilt.
//! - [`inbox`]: work queues that outlive the actors that work them off.
//! - [`shard`]: the state of one arbiter, on which connections, [`manager`] and [`router`] act;
//!   [`listener`] gives them sockets, [`refusals`] of them is what is turned away, [`drain`] empties
//!   the node; [`sys`] makes the `$SYS` messages.
//! - [`storage`], [`log`]: in front of the session store and of the message log.
//! - [`ports`]: what the tree needs from outside, as traits; `src/` implements them.
//! - [`settings`], [`metrics`], [`shared`]: bounds, counters, what the actors share.

pub mod cluster;
mod connection;
pub mod drain;
mod every;
pub mod inbox;
pub mod listener;
pub mod log;
pub mod manager;
pub mod metrics;
pub mod ports;
pub mod refusals;
pub mod router;
pub mod settings;
pub mod shard;
pub mod shared;
pub mod storage;
pub mod supervision;
pub mod sys;
pub mod system;
