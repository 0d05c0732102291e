//! [`Membership`](hydrant_actors::ports::Membership) by ZooKeeper.
//!
//! Below `zookeeper.chroot`: the persistent node `cluster` holds the cluster's id, and each node of
//! the cluster an ephemeral one, `members/<node-id>`, which ZooKeeper removes when it has not heard
//! of the node for a session time-out.
//!
//! - `membership`: the port, and the thread that keeps the session; `shared`: what both use.
//! - `follow`: one session after the other; `read`: what it learns from the entries; `dirty`: which of them to read.
//! - `register`: what is written: parents, cluster id, our own entry.
//! - `roster`: who is a member; when one that is missing is believed dead.
//! - `entry`: a member as JSON.
//! - `client`: how a session is begun.
//!
//! The session lives on a runtime of its own: however long an arbiter is blocked, it is kept. While
//! ZooKeeper is away the members known last stay.
//! Bounds: an entry is at most 8 KiB, members at most 1,024, one write a second.

mod client;
mod dirty;
mod entry;
mod follow;
mod membership;
mod options;
mod read;
mod register;
mod roster;
mod shared;

pub use client::check_tls;
pub use membership::ZookeeperMembership;
pub use options::{ZookeeperOptions, ZookeeperTls};
pub use register::{Release, addresses_of, refuses};

/// Of log lines.
const TARGET: &str = "hydrant::discovery";
