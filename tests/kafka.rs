//! The tier that needs a real Kafka: `cargo test --features servers --test kafka`, after
//! `scripts/setup-jars kafka`. No test skips: without Kafka's jars each of them fails.

#![allow(clippy::unwrap_used, clippy::expect_used)]

// Each tier uses a part of it.
#[allow(unused_imports)]
mod support;

#[path = "kafka/adapter.rs"]
mod adapter;
#[path = "kafka/bench.rs"]
mod bench;
#[path = "kafka/caps.rs"]
mod caps;
#[path = "kafka/check.rs"]
mod check;
#[path = "kafka/dead.rs"]
mod dead;
#[path = "kafka/driver.rs"]
mod driver;
#[path = "kafka/pipeline.rs"]
mod pipeline;
#[path = "kafka/trouble.rs"]
mod trouble;
