//! The log actor: hands records to the message log in order, keeps each until it is acknowledged,
//! and sends again from the first unacknowledged one after a failure. What the log refuses for good
//! becomes a dead letter.
//!
//! [`LogQueue`] decides, in virtual time; [`LogActor`] drives it.

mod actor;
mod dead;
mod gate;
mod outside;
mod steps;
mod tell;
#[cfg(test)]
mod tests;

pub use actor::{LogActor, LogParts, depth, describe};
pub use dead::{DeadBook, DeadLetters, DeadState, Marked, Settled, Which};
pub use gate::gate_of;
pub use hydrant_engine::log::Gate;
use hydrant_engine::log::{outbox_progress, queue};
pub use outbox_progress::OutboxProgress;
pub use queue::LogQueue;
pub use steps::LogSteps;
