//! The log actor: hands records to the message log in order, keeps each until it is acknowledged,
//! and sends again from the first unacknowledged one after a failure. What the log refuses for good
//! becomes a dead letter.

mod actor;
mod dead;
mod gate;
mod late;
mod outbox_progress;
mod state;
#[cfg(test)]
mod tests;

pub use actor::{LogActor, LogParts, depth, describe};
pub use dead::{DeadBook, DeadLetters, DeadState, DeadWork, Marked, Settled, Which};
pub use gate::Gate;
pub use outbox_progress::OutboxProgress;
pub use state::LogState;
