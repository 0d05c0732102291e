//! What a worker is made of: nouns, each with its fields. None of them knows the worker.

pub use hydrant_engine::worker::state::{dependencies, publication, replica};

pub mod buffers;
pub mod effects;
pub mod exactly_once;
pub mod handover;
pub mod ingress;
pub mod order;
pub mod pending_acks;
pub mod phase;
pub mod retained_cursors;
pub mod routes;
pub mod sessions;
