//! Everything in Hydrant that can be a pure state machine: what MQTT says, and how an MQTT topic
//! becomes a Kafka topic and key.
//!
//! No socket, no clock, no actix, no tokio: time is an argument, output goes into a buffer the
//! caller owns. So each rule of the standard is tested in virtual time, without IO.
//!
//! - [`wire`]: bytes to checked packets and back, the length limit first.
//! - [`topic`]: topic names, topic filters, the table of subscriptions.
//! - [`session`]: one MQTT session, both directions.
//! - [`mapping`]: the rules from MQTT topic to Kafka topic and key.
//! - [`outbox`]: the cursor over an append-only lane of records.
//! - [`message`]: one application message, neutral to the protocol version.
//! - [`proxy`]: the PROXY protocol's header, before the first packet; [`access`]: who may connect.
//! - [`cluster`]: who owns what in a cluster, and what its nodes say to each other.
//! - [`violation`]: each way a peer can break the standard, by its number.

pub mod access;
pub mod cluster;
mod limits;
pub mod mapping;
pub mod message;
pub mod outbox;
pub mod proxy;
pub mod session;
pub mod topic;
pub mod violation;
pub mod wire;

pub use message::{AckLevel, Message, OnRefused, PacketId, Properties, QoS};
pub use violation::Violation;
