//! The tier that needs a real ZooKeeper: `cargo test --features servers --test zookeeper`, after
//! `scripts/setup-jars zookeeper`. No test skips: without ZooKeeper's jars each of them fails.

#![allow(clippy::unwrap_used, clippy::expect_used)]

// Each tier uses a part of it.
#[allow(unused_imports)]
mod support;

#[path = "zookeeper/absence.rs"]
mod absence;
#[path = "zookeeper/adapter.rs"]
mod adapter;
#[path = "zookeeper/peer.rs"]
mod peer;
#[path = "zookeeper/refused.rs"]
mod refused;
