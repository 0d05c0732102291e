//! One MQTT session, both directions, as pure state machines (MQTT 3.1.1 sections 3.1.2.4 and 4.3).
//!
//! - [`Inbound`]: which QoS 2 packet ids a client has sent and not released. Method A of the
//!   standard's figure 4.3 is not used: the receipt is kept until PUBREL, so a resent PUBLISH is
//!   recognised.
//! - [`Outbound`]: the in-flight window towards a client, packet ids, and what waits for the window.
//! - [`RangeSet`]: which entries of a queue are left.
//!
//! None of them knows a socket, a store or a clock. Bounds are arguments.

mod inbound;
mod outbound;
mod range_set;

pub use inbound::{Inbound, Receipt, Release};
pub use outbound::{Acknowledged, Outbound, Waiting};
pub use range_set::RangeSet;
