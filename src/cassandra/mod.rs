//! The session store on Cassandra: what [`hydrant_actors::ports::SessionStore`] asks for, kept so
//! that it outlives a node and can be taken over by another.

mod balancing;
mod begin;
pub mod check;
mod columns;
pub mod db;
mod dead;
mod holder;
pub mod incarnation;
mod inner;
mod journal;
mod memory;
pub mod options;
mod order;
mod orphaned;
mod owned_sessions;
mod plan;
mod planned;
mod queue;
mod read;
mod recover;
pub mod schema;
mod session_index;
mod sessions;
mod shared;
pub mod statements;
mod store;
mod timestamps;
mod transport;
mod wills;
mod write;

pub use db::CassandraError;
pub use incarnation::IN_USE;
pub use options::{CassandraOptions, Level};
pub use store::CassandraStore;
pub use transport::check_tls;
