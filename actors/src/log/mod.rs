//! The log actor: hands records to the message log in order, keeps each until it is acknowledged,
//! and sends again from the first unacknowledged one after a failure.

mod actor;
mod lanes;
mod state;
#[cfg(test)]
mod tests;

pub use actor::{LogActor, LogParts, depth, describe};
pub use lanes::LaneBook;
pub use state::LogState;
