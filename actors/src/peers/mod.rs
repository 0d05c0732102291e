//! The drivers of a node's part in its cluster: PeersActor with the sockets to the other nodes, and DiscoveryActor.
//!
//! What they drive stands in [`cluster`](crate::cluster).

mod actor;
mod discovery;
pub(crate) mod driver;
mod io;
pub(crate) mod parts;
mod requests;

pub use actor::PeersActor;
pub(crate) use actor::describe;
pub use discovery::DiscoveryActor;
pub use parts::{ClusterParts, OnFailure};

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]
mod tests;
