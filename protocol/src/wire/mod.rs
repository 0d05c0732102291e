//! Bytes to checked packets and back: MQTT 3.1.1, and 3.1's CONNECT.
//!
//! The framing is ours ([`next_frame`]): the announced length is held against the limit before a
//! body exists, so nobody makes the broker allocate what he merely announces. [`decode`] sees one
//! complete body and consumes it exactly. PUBLISH, SUBSCRIBE and UNSUBSCRIBE are decoded in place, a
//! PUBLISH without an allocation; the
//! other packets go through the crate `mqtt-protocol`, after checks of our own for what it takes
//! wrongly. Past [`decode`] nobody checks again: strings are UTF-8 without U+0000, topics and
//! filters legal and within [`Limits`], packet identifiers not zero.
//!
//! Encoders append to a `Vec<u8>` of the caller and allocate nothing else.

mod arriving;
mod characters;
mod client;
mod connect;
mod decode;
mod encode;
mod fields;
mod frame;
mod kind;
mod packet;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

pub use crate::limits::Limits;
pub use arriving::Arriving;
pub(crate) use characters::{has_beyond_ascii, has_control_characters};
pub use client::{put_connect, put_disconnect, put_pingreq, put_subscribe, put_unsubscribe};
pub use decode::{decode, first_byte_of_v31};
pub use encode::{
    SUBACK_FAILURE, publish_len, put_connack, put_pingresp, put_puback, put_pubcomp, put_publish,
    put_pubrec, put_pubrel, put_suback, put_unsuback,
};
pub use frame::{Frame, next_frame};
pub use packet::{Connect, Filters, Packet, Publish, Subscribe, Unsubscribe, Version, Will};
