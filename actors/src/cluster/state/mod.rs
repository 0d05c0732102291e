//! What PeersActor knows of the cluster: nouns, each with its fields. None of them knows [`Peers`](super::coordinator).

pub mod claims;
pub mod effects;
pub mod failover;
pub mod interest;
pub mod link;
pub mod lost;
pub mod refresh;
pub mod remote;
pub mod requests;
pub mod retained;
pub mod survey;
pub mod wants;
