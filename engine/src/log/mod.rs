//! In front of the message log: what becomes of records, without the log itself.

pub mod dead;
mod gate;

pub use dead::{DeadBook, DeadLetters, DeadState, Marked, Settled, Which};
pub use gate::{Gate, TopicGate};
