//! What every session store must do, written once: the embedded store passes it, the one on Cassandra and the
//! simulated one. What stores must do that nodes share stands in [`shared`].
//!
//! Each of [`CASES`] gets a function that opens an empty store of its own and, called again, opens
//! the same store as a restarted node would. A case drops what it opened before it opens again.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a test suite"
)]

pub mod dead;
mod fixture;
mod outbox;
mod owed;
mod queues;
mod retained;
mod sessions;
pub mod shared;
#[cfg(test)]
mod simulated;
mod writes;

pub use fixture::{Case, Open, message, record, wait, write};

/// Every case with its name.
pub const CASES: &[(&str, Case)] = &[
    ("sessions_and_subscriptions", sessions::sessions_and_subscriptions),
    ("what_subscriptions_are_owed", owed::what_subscriptions_are_owed),
    ("queue_order_and_paging", queues::queue_order_and_paging),
    ("qos2_state", queues::qos2_state),
    ("deleted_session_leaves_nothing", sessions::deleted_session_leaves_nothing),
    ("a_client_begins_anew", sessions::a_client_begins_anew),
    ("retained_and_wills", retained::retained_and_wills),
    ("outbox_lanes_and_cursors", outbox::outbox_lanes_and_cursors),
    ("outbox_written_again", outbox::outbox_written_again),
    ("dead_letters", dead::dead_letters),
    ("every_op_twice", writes::every_op_twice),
    ("order_of_writes", writes::order_of_writes),
    ("concurrent_access", writes::concurrent_access),
    ("large_and_many", queues::large_and_many),
];
