//! What the coordinator knows of the cluster, has asked for and decided: nouns, each with its fields. None of them
//! knows [`Coordinator`](super::coordinator).

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
pub mod status;
pub mod survey;
pub mod wants;
