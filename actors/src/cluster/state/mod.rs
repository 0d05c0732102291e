//! What PeersActor knows of the cluster: nouns, each with its fields. None of them knows [`Peers`](super::coordinator).

pub mod claims;
pub mod failover;
pub mod lost;
pub mod refresh;
pub mod survey;
