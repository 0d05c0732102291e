//! In front of the message log: what becomes of records, without the log itself.

pub mod dead;

pub use dead::{DeadBook, DeadState, Marked, Settled, Which};
