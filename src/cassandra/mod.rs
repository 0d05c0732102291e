//! The session store on Cassandra: what [`hydrant_actors::ports::SessionStore`] asks for, kept so
//! that it outlives a node and can be taken over by another.

mod balancing;
pub mod check;
pub mod db;
mod estate;
mod held;
mod holder;
pub mod incarnation;
mod journal;
mod memory;
pub mod options;
mod order;
mod plan;
mod queue;
mod read;
mod recover;
pub mod schema;
mod sessions;
mod shared;
mod stamps;
pub mod statements;
mod store;
mod transport;

pub use db::CassandraError;
pub use incarnation::IN_USE;
pub use options::{CassandraOptions, Level};
pub use store::CassandraStore;
