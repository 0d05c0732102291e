//! One packet out of a stream of bytes. The limit comes first: a length that is too large is
//! refused with the fixed header alone, and nothing is allocated here.

use crate::Violation;

/// What the start of the input holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame<'a> {
    /// Not yet a whole packet; at most the size limit has to be kept.
    Incomplete,
    /// A whole packet.
    Complete {
        /// First byte: packet type and flags.
        first: u8,
        /// What follows the fixed header.
        body: &'a [u8],
        /// Bytes of the whole packet with its fixed header.
        len: usize,
    },
}

/// The packet at the start of `input`. `max_packet_size` counts the whole packet, in bytes.
///
/// # Errors
/// [`Violation::MalformedRemainingLength`] and [`Violation::PacketTooLarge`], as soon as the bytes
/// that show it are there.
#[inline]
pub fn next_frame(input: &[u8], max_packet_size: usize) -> Result<Frame<'_>, Violation> {
    let Some((&first, rest)) = input.split_first() else {
        return Ok(Frame::Incomplete);
    };
    let mut remaining = 0usize;
    let mut bytes = 0usize;
    loop {
        let Some(&byte) = rest.get(bytes) else {
            // What is announced so far can only grow: no need to wait for the last byte.
            if bytes > 0 && 1 + bytes + 1 + remaining > max_packet_size {
                return Err(Violation::PacketTooLarge);
            }
            return Ok(Frame::Incomplete);
        };
        remaining |= usize::from(byte & 0x7f) << (7 * bytes);
        bytes += 1;
        if byte & 0x80 == 0 {
            break;
        }
        if bytes == 4 {
            return Err(Violation::MalformedRemainingLength);
        }
    }
    let len = 1 + bytes + remaining;
    if len > max_packet_size {
        return Err(Violation::PacketTooLarge);
    }
    match input.get(1 + bytes..len) {
        Some(body) => Ok(Frame::Complete { first, body, len }),
        None => Ok(Frame::Incomplete),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames() {
        let long = {
            let mut packet = vec![0x30, 0x80, 0x01];
            packet.extend([7; 128]);
            packet
        };
        let cases: &[(&[u8], Result<Frame<'_>, Violation>)] = &[
            (b"", Ok(Frame::Incomplete)),
            (b"\xc0", Ok(Frame::Incomplete)),
            (b"\xc0\x00", Ok(Frame::Complete { first: 0xc0, body: b"", len: 2 })),
            (
                b"\x40\x02\x00\x01\xc0",
                Ok(Frame::Complete { first: 0x40, body: b"\x00\x01", len: 4 }),
            ),
            (b"\x40\x02\x00", Ok(Frame::Incomplete)),
            (b"\x30\x80", Ok(Frame::Incomplete)),
            (&long, Ok(Frame::Complete { first: 0x30, body: &[7; 128], len: 131 })),
            (&long[..130], Ok(Frame::Incomplete)),
            // Not the shortest form: 3.1.1 doesn't forbid it.
            (b"\xc0\x80\x00", Ok(Frame::Complete { first: 0xc0, body: b"", len: 3 })),
            (b"\x30\xff\xff\xff\xff", Err(Violation::MalformedRemainingLength)),
            (b"\x30\xff\xff\xff\x7f", Err(Violation::PacketTooLarge)),
            (b"\x30\x80\x80\x80\x80\x01", Err(Violation::MalformedRemainingLength)),
        ];
        for (input, expected) in cases {
            assert_eq!(next_frame(input, 1000), *expected, "{input:02x?}");
        }
    }

    #[test]
    fn the_limit_counts_the_whole_packet_and_needs_only_the_header() {
        assert_eq!(next_frame(b"\x30\x62", 100), Ok(Frame::Incomplete));
        assert_eq!(next_frame(b"\x30\x63", 100), Err(Violation::PacketTooLarge));
        // Two of three length bytes already announce 1 + 2 + 1 + 16,256.
        assert_eq!(next_frame(b"\x30\x80\xff", 1000), Err(Violation::PacketTooLarge));
    }
}
