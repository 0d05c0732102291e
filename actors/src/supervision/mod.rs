//! Who restarts whom. Actors run as tasks of their own whose end is watched and classified
//! ([`ExitStatus`]); the [`Supervisor`] rebuilds permanent ones with back-off within a limit, the
//! [`Registry`] prints the tree, the [`Watchdog`] looks after blocked threads.
//!
//! What an actor must do to be supervised: keep its work in an [`crate::inbox::Inbox`] outside
//! itself, answer [`Ping`] with [`on_ping`], call [`ActorCell::enter`] in its handlers, and
//! [`ActorCell::fail`] before it stops because it cannot go on.
#[cfg(panic = "abort")]
compile_error!("Hydrant's supervision catches panics: build with panic = \"unwind\"");

mod backoff;
mod cell;
mod children;
mod exit;
mod keeper;
mod running;
mod supervisor;
#[cfg(test)]
mod tests;
mod tree;
mod watchdog;

pub use cell::{ActorCell, ActorState, Entered, Fault, Ping, on_ping};
pub use children::{Child, Factory};
pub use exit::{Caught, ExitStatus, catch, install_panic_hook, payload_text};
pub use running::{Running, spawn_temporary};
pub use supervisor::{Supervisor, SupervisorHandle};
pub use tree::{Registry, TreeRow, render};
pub use watchdog::Watchdog;
