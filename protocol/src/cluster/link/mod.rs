//! The link between two nodes of a cluster: an ordered stream of frames in each direction that
//! outlives the TCP connections it runs over.
//!
//! One TCP connection carries both directions. The node with the lower id dials; that rule, the
//! sockets and the clock are the caller's. [`Link`] is driven as quinn-proto is: bytes and time are
//! arguments, output goes into a buffer the caller owns, and what happened is polled.
//!
//! A connection starts with one [`Hello`] each way: versions, cluster, node, incarnation, and how
//! much of the peer's stream has come. So a stream goes on where it was cut: frames that the peer
//! has are forgotten, the others are sent again, and nothing is lost or doubled. A peer of a new
//! incarnation has forgotten everything: what it did not acknowledge is given back, and both
//! streams begin anew.
//!
//! On the wire all numbers are big-endian. A frame is a u32 length of what follows, a u8 kind, and
//! a body:
//!
//! | kind | body |
//! |---|---|
//! | 1 hello | see [`Hello`] |
//! | 2 acknowledgement | u64 highest sequence received; u64 highest sequence granted; u64 bytes granted since sequence 1 |
//! | 3 ping | nothing; it needs no answer |
//! | 4 data | u64 sequence, from 1; u8 kind of the application's own; its body |
//!
//! Invariants:
//! - Frames of one incarnation pair arrive in the order of sending, each exactly once.
//! - At no time does a node hold more frames or bytes that it has not [`Link::consumed`] than its
//!   window. What goes beyond waits at the sender.
//! - Both classes of frames are in the one order: a change of interest never overtakes a publish.
//!   An eighth of the window takes control frames only, so that data cannot keep them out.
//! - A [`Link`] lives as long as its node's process, also while the peer is no member. One that is
//!   made anew under the same incarnation cannot go on ([`LinkError::ResumeMismatch`]).
//!
//! Bounds: what is kept for sending is the peer's window and what the caller sends without
//! [`Link::has_room`], which is counted; events, the own window; of an incomplete frame, its
//! announced length, at most [`Config::max_frame_bytes`], before the handshake [`MAX_HELLO`].

mod config;
mod connection;
mod error;
mod frame;
mod hello;
mod incoming;
mod machine;
mod outgoing;
mod relay;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

pub use config::{Class, Config, Identity, LinkStats, Role};
pub use error::LinkError;
pub use frame::MAX_HELLO;
pub use hello::{Hello, Resume, VERSIONS, negotiate};
pub use machine::{Event, Link};
pub use outgoing::Unacknowledged;
pub use relay::Relay;
