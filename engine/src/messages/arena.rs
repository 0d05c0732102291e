//! Topics and payloads of a batch of publishes, one behind the other: no allocation a message.
//!
//! Bounds: those of the batch.

use std::ops::Range;

/// Puts `bytes` behind what is there, and says where.
#[inline]
pub fn append(arena: &mut Vec<u8>, bytes: &[u8]) -> Range<u32> {
    let start = arena.len();
    arena.extend_from_slice(bytes);
    // A batch is bounded far below 4 GiB: max_router_bytes plus one packet.
    #[allow(clippy::cast_possible_truncation)]
    {
        start as u32..arena.len() as u32
    }
}

/// What stands there.
#[inline]
pub fn slice<'a>(arena: &'a [u8], range: &Range<u32>) -> &'a [u8] {
    &arena[range.start as usize..range.end as usize]
}

/// The same of a topic.
#[inline]
pub fn topic<'a>(arena: &'a [u8], range: &Range<u32>) -> &'a str {
    // Appended from a &str and cut at its ends, so the check never fails.
    std::str::from_utf8(slice(arena, range)).unwrap_or_default()
}
