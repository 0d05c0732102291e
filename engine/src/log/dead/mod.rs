//! Dead letters: records that the log refuses for good, as the log queue decides on them.

mod book;

pub use book::{Admission, DeadBook, DeadState, Marked, Settled, Which};
