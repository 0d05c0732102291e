//! In front of the message log: what becomes of records, without the log itself.

pub mod dead;
mod gate;
pub mod outbox_progress;
pub mod queue;

pub use dead::{DeadBook, DeadLetters, DeadState, Marked, Settled, Which};
pub use gate::{Gate, TopicGate};
pub use outbox_progress::OutboxProgress;
pub use queue::LogQueue;
