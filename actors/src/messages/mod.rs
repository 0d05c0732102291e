//! What the actors of a node give each other to do, as plain data.
//!
//! Each message stands in a leaf: it knows the ports' data and the messages that it is made of, and no actor.

mod completion;

pub use completion::{AckSource, CompletionToken, Transaction};
