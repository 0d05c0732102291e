//! A cluster as pure state machines, driven by the node and by simulations alike.
//!
//! - [`member`]: what a node says of itself, and the view a node has of all.
//! - [`ring`]: which member owns a client id or a topic filter.

pub mod member;
pub mod ring;

pub use member::{Load, Member, View};
pub use ring::{Key, Ring};
