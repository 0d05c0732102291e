//! The tier "node": a whole node over real sockets, no server needed. In plain
//! `cargo test --workspace`.
//!
//! `conformance_*` has one test for each normative statement of MQTT 3.1.1 that binds a server and
//! that a client can see broken, named by its number. Statements without a test, and why:
//!
//! - 2.3.1-2, 2.3.1-3, 3.1.2-23, 3.1.3-7, 3.14.4-1, 4.6.0-1 to -4 (their client half): bind the client.
//! - 2.3.1-5: a packet identifier in a QoS 0 PUBLISH reads as payload.
//! - 3.1.2-1 "continue with another specification": the node closes, which the statement allows.
//! - 3.1.3-1, 3.1.3-2: an order of fields cannot be told from other fields of the same form; the
//!   identifier's use is what every session test shows.
//! - 3.3.5-2: version 0.1 has no authorization, so nothing is refused.
//! - 3.8.3-2: filters with wildcards are supported.
//! - 4.2.0-1, 6.0.0-1 to -4: ordered, lossless transport is TCP's; there is no WebSocket listener.
//! - 4.4.0-1 "PUBREL by the client", 4.5.0-2: bind the client.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

#[path = "node/bad_input.rs"]
mod bad_input;
#[path = "node/bounds.rs"]
mod bounds;
#[path = "node/bounds_at_once.rs"]
mod bounds_at_once;
#[path = "node/conformance_connect.rs"]
mod conformance_connect;
#[path = "node/conformance_format.rs"]
mod conformance_format;
#[path = "node/conformance_publish.rs"]
mod conformance_publish;
#[path = "node/conformance_session.rs"]
mod conformance_session;
#[path = "node/conformance_subscribe.rs"]
mod conformance_subscribe;
#[path = "node/conformance_topics.rs"]
mod conformance_topics;
#[path = "node/conformance_will.rs"]
mod conformance_will;
#[path = "node/crash.rs"]
mod crash;
#[path = "node/dead.rs"]
mod dead;
#[path = "node/drain.rs"]
mod drain;
#[path = "node/flow.rs"]
mod flow;
#[path = "node/log_lines.rs"]
mod log_lines;
#[path = "node/mistakes.rs"]
mod mistakes;
#[path = "node/operate.rs"]
mod operate;
#[path = "node/persistence.rs"]
mod persistence;
#[path = "node/proxy.rs"]
mod proxy;
#[path = "node/retained.rs"]
mod retained;
#[path = "node/start.rs"]
mod start;
#[path = "node/storm.rs"]
mod storm;
#[path = "node/supervision.rs"]
mod supervision;
#[path = "node/sys.rs"]
mod sys;

use std::sync::OnceLock;

use support::Node;

/// The node that tests share which need nothing special: shipped defaults, `$SYS` every second.
fn shared() -> &'static Node {
    static NODE: OnceLock<Node> = OnceLock::new();
    NODE.get_or_init(|| Node::builder().set("sys.interval", "1s").start())
}
