//! A cluster as pure state machines, driven by the node and by simulations alike.
//!
//! - [`directory`]: which node holds which session, and how it changes hands.
//! - [`link`]: the reliable stream of frames between two nodes.
//! - [`member`]: what a node says of itself, and the view a node has of all.
//! - [`message`]: what the nodes say to each other.
//! - [`ring`]: which member owns a client id or a topic filter.

pub mod directory;
pub mod link;
pub mod member;
pub mod message;
pub mod ring;

pub use member::{Load, Member, View};
pub use ring::{Key, Ring};
