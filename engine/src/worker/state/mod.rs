//! What a worker is made of: nouns, each with its fields. None of them knows the worker.

pub mod buffers;
pub mod dependencies;
pub mod effects;
pub mod exactly_once;
pub mod handover;
pub mod ingress;
pub mod order;
pub mod pending_acks;
pub mod phase;
pub mod publication;
pub mod replica;
pub mod retained_cursors;
pub mod routes;
pub mod sessions;
