//! What a peer of the admin endpoints can use up, and where their socket is.

use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where the admin socket of the node with this data directory is.
pub fn socket_path(data_dir: &Path) -> PathBuf {
    data_dir.join("admin.sock")
}

/// What a peer of the admin endpoints can use up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminLimits {
    /// `admin.max_connections`: HTTP connections at a time, and agent checks at a time; one more is closed at once.
    pub http_connections: usize,
    /// `admin.max_header_size`: bytes of an HTTP request's header; at least 8 KiB.
    pub http_header_bytes: usize,
    /// `admin.header_timeout`: from accept to the end of the header.
    pub http_header_timeout: Duration,
    /// `admin.timeout`: from accept to the end of the answer.
    pub http_timeout: Duration,
    /// `admin.max_socket_connections` at a time; one more is closed at once.
    pub socket_connections: usize,
    /// `admin.max_tails`: of these, tails.
    pub tails: usize,
    /// `admin.max_request_size`: bytes of a request line on the admin socket.
    pub max_line: usize,
    /// `admin.request_timeout`: from accept to the request, and from there to the end of the answer
    /// of all but a tail.
    pub request_timeout: Duration,
}

impl Default for AdminLimits {
    fn default() -> Self {
        Self {
            http_connections: 64,
            http_header_bytes: 16 * 1024,
            http_header_timeout: Duration::from_secs(5),
            http_timeout: Duration::from_secs(15),
            socket_connections: 32,
            tails: 16,
            max_line: 16 * 1024,
            request_timeout: Duration::from_secs(10),
        }
    }
}
