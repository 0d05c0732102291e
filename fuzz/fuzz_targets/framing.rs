//! Bytes of a client through framing and decoding: nothing panics, a packet is bounded by the limit
//! before its body is looked at, a split anywhere gives the same packets, and what can be encoded
//! decodes to itself.

#![no_main]

use hydrant_protocol::topic::TopicFilter;
use hydrant_protocol::wire::{self, Frame, Limits, Packet};
use libfuzzer_sys::fuzz_target;

const LIMITS: Limits = Limits {
    max_packet_size: 4096,
    max_topic_length: 512,
    max_topic_levels: 32,
    max_filters: 64,
    control_characters: false,
};

fuzz_target!(|input: &[u8]| {
    let mut at = 0;
    while at < input.len() {
        match wire::next_frame(&input[at..], LIMITS.max_packet_size) {
            Ok(Frame::Incomplete) => return,
            Ok(Frame::Complete { first, body, len }) => {
                assert!(len <= LIMITS.max_packet_size && body.len() < len);
                // Any shorter beginning is incomplete, never an error or another packet.
                for cut in [1, len / 2, len - 1] {
                    if cut < len {
                        assert_eq!(
                            wire::next_frame(&input[at..at + cut], LIMITS.max_packet_size),
                            Ok(Frame::Incomplete)
                        );
                    }
                }
                match wire::decode(first, body, &LIMITS) {
                    Ok(packet) => again(&packet),
                    Err(violation) => assert!(!violation.clause().is_empty()),
                }
                at += len;
            }
            Err(violation) => {
                assert!(!violation.clause().is_empty());
                return;
            }
        }
    }
});

/// Encodes the packet and decodes it again.
fn again(packet: &Packet<'_>) {
    let mut bytes = Vec::new();
    match packet {
        Packet::Connect(connect) => wire::put_connect(&mut bytes, connect),
        Packet::Publish(p) => {
            assert!(!p.topic.is_empty() && p.topic.len() <= LIMITS.max_topic_length);
            wire::put_publish(&mut bytes, p.topic, p.payload, p.qos, p.dup, p.retain, p.packet_id);
            assert_eq!(bytes.len(), wire::publish_len(p.topic.len(), p.payload.len(), p.qos));
        }
        Packet::Puback(id) => wire::put_puback(&mut bytes, *id),
        Packet::Pubrec(id) => wire::put_pubrec(&mut bytes, *id),
        Packet::Pubrel(id) => wire::put_pubrel(&mut bytes, *id),
        Packet::Pubcomp(id) => wire::put_pubcomp(&mut bytes, *id),
        Packet::Subscribe(s) => {
            assert!(!s.filters.is_empty() && s.filters.len() <= LIMITS.max_filters);
            assert!(s.beyond == 0 || s.filters.len() == LIMITS.max_filters);
            let taken: Vec<_> = s.filters.iter().flatten().cloned().collect();
            for (filter, _) in &taken {
                assert_eq!(TopicFilter::parse(filter.as_str(), &LIMITS).as_ref(), Ok(filter));
            }
            if taken.len() < s.filters.len() || s.beyond > 0 {
                // What was refused is not there to be written again.
                return;
            }
            wire::put_subscribe(&mut bytes, s.packet_id, &taken);
        }
        Packet::Unsubscribe(u) => {
            let parse = |filter| TopicFilter::parse(filter, &Limits::PROTOCOL);
            let filters: Vec<_> = u.filters.clone().map(parse).collect::<Result<_, _>>().unwrap();
            assert!(!filters.is_empty());
            wire::put_unsubscribe(&mut bytes, u.packet_id, &filters);
        }
        Packet::Pingreq => wire::put_pingreq(&mut bytes),
        Packet::Disconnect => wire::put_disconnect(&mut bytes),
    }
    // The re-encoded form has the shortest header, so it may be shorter, never longer.
    match wire::next_frame(&bytes, LIMITS.max_packet_size) {
        Ok(Frame::Complete { first, body, len }) => {
            assert_eq!(len, bytes.len());
            assert_eq!(wire::decode(first, body, &LIMITS).as_ref(), Ok(packet));
        }
        other => panic!("{packet:?} was encoded as {bytes:02x?}: {other:?}"),
    }
}
