//! What one packet may hold, for the modules that check packets and topics.

/// What one packet may hold. Sizes are bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Whole packet with its fixed header.
    pub max_packet_size: usize,
    /// A topic name or filter.
    pub max_topic_length: usize,
    /// Levels of a topic name or filter.
    pub max_topic_levels: usize,
    /// Filters in one SUBSCRIBE; those past it are refused.
    pub max_filters: usize,
    /// Strings may have control characters and non-characters.
    pub control_characters: bool,
}

impl Limits {
    /// What the standard itself allows; for what was checked before, such as the store's content.
    pub const PROTOCOL: Self = Self {
        max_packet_size: 5 + 268_435_455,
        max_topic_length: 65_535,
        max_topic_levels: 65_536,
        max_filters: usize::MAX,
        control_characters: true,
    };
}
