//! What machines and messages know of the other nodes of a cluster.

pub mod node_index;

pub use node_index::{EARLIER_STARTS, Node, NodeIndex, Recipient};
