//! What a link is made of: its bounds and times, who it is between, and what it counts.

use std::sync::Arc;

/// Bounds and times of a link. Times are milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Largest frame, without its length field. The same on all nodes of a cluster.
    pub max_frame_bytes: u32,
    /// Frames the peer may have sent that are not consumed here; at least 1.
    pub window_frames: u32,
    /// Bytes of their bodies; what is below `max_frame_bytes` is raised to it, since a larger frame
    /// would never come.
    pub window_bytes: u64,
    /// From the connection to the peer's hello.
    pub handshake_timeout: u64,
    /// A ping goes out when nothing was sent for this long.
    pub ping_interval: u64,
    /// The peer is dead when nothing came for this long; at least two ping intervals.
    pub dead_after: u64,
    /// The longest that an acknowledgement or a grant waits for a frame to go with.
    pub ack_delay: u64,
    /// So many frames are acknowledged at once.
    pub ack_every: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_frame_bytes: 16 << 20,
            window_frames: 4096,
            window_bytes: 32 << 20,
            handshake_timeout: 5000,
            ping_interval: 1000,
            dead_after: 3000,
            ack_delay: 10,
            ack_every: 64,
        }
    }
}

/// Who this end is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The cluster; at most 255 bytes.
    pub cluster: Arc<str>,
    /// `node.id`.
    pub node_id: Arc<str>,
    /// The number of this start of the node, above that of every earlier one.
    pub incarnation: u64,
}

/// Which end of the TCP connection this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It says hello first.
    Dialer,
    /// It answers a whole hello, also one that it refuses: so both ends can say why.
    Acceptor,
}

/// What a frame is, for the window. There is one order for both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Changes of interest, takeovers, replies: may fill the window.
    Control,
    /// Messages: may fill seven eighths of it.
    Data,
}

/// What a link has done since it was made. Bytes are those of the application's bodies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LinkStats {
    /// Frames sent, each counted once.
    pub frames_out: u64,
    /// Bytes of them.
    pub bytes_out: u64,
    /// Frames sent again after a reconnect.
    pub resent: u64,
    /// Frames received, without duplicates.
    pub frames_in: u64,
    /// Bytes of them.
    pub bytes_in: u64,
    /// Frames received again, and dropped.
    pub duplicates: u64,
    /// How often the room for data ran out.
    pub without_room: u64,
    /// Frames that the caller sent although there was no room for their class.
    pub past_bound: u64,
    /// Completed handshakes after the first.
    pub reconnects: u64,
}
