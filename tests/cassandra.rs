//! The tier that needs a real Cassandra: `cargo test --features servers --test cassandra`, after
//! `scripts/setup-jars cassandra`. No test skips: without Cassandra's jars each of them fails.

#![allow(clippy::unwrap_used, clippy::expect_used)]

// Each tier uses a part of it.
#[allow(unused_imports)]
mod support;

#[path = "cassandra/faults.rs"]
mod faults;
#[path = "cassandra/incarnation.rs"]
mod incarnation;
#[path = "cassandra/schema.rs"]
mod schema;
#[path = "cassandra/server.rs"]
mod server;
#[path = "cassandra/shared.rs"]
mod shared;
#[path = "cassandra/start.rs"]
mod start;
#[path = "cassandra/store.rs"]
mod store;
#[path = "cassandra/three_nodes.rs"]
mod three_nodes;
#[path = "cassandra/transfer.rs"]
mod transfer;
