//! The tier of whole clusters: nodes of the real binary on a real ZooKeeper, Cassandra and Kafka, and
//! behind a real HAProxy. `cargo test --features servers --test cluster`, after `scripts/setup-haproxy`
//! and `scripts/setup-jars` for each of the three others.

#![allow(clippy::unwrap_used, clippy::expect_used)]

// Each tier uses a part of it.
#[allow(unused_imports)]
mod support;

#[path = "cluster/bad_input.rs"]
mod bad_input;
#[path = "cluster/balanced.rs"]
mod balanced;
#[path = "cluster/cut.rs"]
mod cut;
#[path = "cluster/dead.rs"]
mod dead;
#[path = "cluster/frozen.rs"]
mod frozen;
#[path = "cluster/hour.rs"]
mod hour;
#[path = "cluster/loss.rs"]
mod loss;
#[path = "cluster/nodes.rs"]
mod nodes;
#[path = "cluster/paths.rs"]
mod paths;
#[path = "cluster/restart.rs"]
mod restart;
#[path = "cluster/routing.rs"]
mod routing;
#[path = "cluster/split.rs"]
mod split;
#[path = "cluster/start.rs"]
mod start;
#[path = "cluster/wills.rs"]
mod wills;
