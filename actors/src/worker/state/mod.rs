//! What a worker is made of: nouns, each with its fields. None of them knows the worker.

pub mod buffers;
pub mod dependencies;
pub mod handover;
pub mod publication;
pub mod replica;
pub mod retained_cursors;
pub mod routes;
pub mod sessions;
