//! A cluster as pure state machines, driven by the node and by simulations alike.
//!
//! - [`directory`]: which node holds which session, and how it changes hands.
//! - [`link`]: the reliable stream of frames between two nodes.
//! - [`marks`]: from where on a stream of publishes is another node's.
//! - [`member`]: what a node says of itself, and the view a node has of all.
//! - [`message`]: what the nodes say to each other.
//! - [`moves`]: who is told what when a session changes hands.
//! - [`ring`]: which member owns a client id or a topic filter.
//! - [`seen`]: which QoS 2 publishes of other nodes have been routed.

pub mod directory;
pub mod link;
pub mod marks;
pub mod member;
pub mod message;
pub mod moves;
#[cfg(test)]
mod random;
pub mod ring;
pub mod seen;
#[cfg(test)]
mod simulation;

pub use member::{Load, Member, View};
pub use ring::{Key, Ring};
