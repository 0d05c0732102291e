//! A cluster as pure state machines, driven by the node and by simulations alike.
//!
//! - [`directory`]: which node holds which session, and how it changes hands.
//! - [`link`]: the reliable stream of frames between two nodes.
//! - [`stream_marker`]: from where on a stream of publishes is another node's.
//! - [`member`]: what a node says of itself, and the view a node has of all.
//! - [`message`]: what the nodes say to each other.
//! - [`handover`]: who is told what when a session changes hands.
//! - [`ring`]: which member owns a client id or a topic filter.
//! - [`dedup`]: which QoS 2 publishes of other nodes have been routed.

pub mod batch;
pub mod dedup;
pub mod directory;
pub mod handover;
pub mod link;
pub mod member;
pub mod message;
#[cfg(test)]
mod random;
pub mod ring;
#[cfg(test)]
mod simulation;
pub mod stream_marker;

pub use member::{Load, Member, MembershipView};
pub use ring::{Key, Ring};
