//! The broker as machines without IO, and the data they work on (`docs/decisions/0017-the-engine.md`).
//!
//! Nothing here knows an actor, a socket, a thread or a clock: time is an argument ([`now`]), and what a machine decides
//! is handed to its driver. The drivers are in `hydrant-actors`, which exports these modules under its own name, too.
//!
//! - [`settings`], [`metrics`]: bounds, counters; [`now`]: the time of one step,
//!   [`clock`]: what has passed.
//! - [`say`]: the lines of the log, [`dropped`] those about messages.
//! - [`subscriptions`]: who is subscribed, [`generations`]: which cached routes a change makes stale;
//!   [`drain_budget`]: how many connections a drain may close.
//! - [`ports`]: what the outside is handed and gives back; [`cluster`]: how the other nodes are named.
//! - [`messages`]: what machines and drivers give each other to do; [`worker`]: what a worker decides with.
//! - [`log`], [`storage`]: in front of the message log and of the session store, with a machine each:
//!   [`LogQueue`](log::LogQueue), [`WriteQueue`](storage::WriteQueue).
//! - [`plants`]: mistakes that tests plant.
//! - [`step_guard`]: what a step takes back when it does not get to its end.

pub mod clock;
pub mod cluster;
pub mod drain_budget;
pub mod dropped;
pub mod generations;
pub mod log;
pub mod messages;
pub mod metrics;
pub mod node_tables;
pub mod now;
pub mod plants;
pub mod ports;
pub mod say;
pub mod settings;
pub mod step_guard;
pub mod storage;
pub mod subscriptions;
pub mod worker;
