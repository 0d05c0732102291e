//! Dead letters: records that the log refuses for good, as the log queue decides on them.

mod book;
mod letters;

pub use book::{Admission, DeadBook, DeadState, Marked, Settled, Which};
pub use letters::DeadLetters;
