//! What a worker is made of: nouns, each with its fields. None of them knows the worker.

pub mod dependencies;
pub mod publication;
pub mod replica;
