//! The admin socket's protocol: one JSON object a line each way, the first line from the client.
//!
//! `tree`, `status`, `nodes`, `drain`, `dead` and `fault` are answered by lines up to `end` or `error`. `tail` is answered
//! by batches: `record` lines, then `batch`. With a group the client answers each batch with one
//! `commit` line once it has printed it, and gets `committed` back before the next batch comes: a
//! record is committed only after it was printed, so a group reads at least once. `notice` lines
//! are for people and can come at any time.
//!
//! Bounds: a request line is at most `AdminLimits::max_line` bytes ([`read_line`] never buffers
//! more), a reply line is bounded by the largest record ([`MAX_REPLY_LINE`]).

use std::io;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufRead, AsyncBufReadExt};

use super::rows::{
    ActorRow, ConnectionRow, DeadDone, DeadRequest, DeadRow, DrainAction, DrainState, FaultAction,
    Identity, Nodes, TailRow,
};

/// Longest reply line a client accepts: the largest MQTT packet (256 MB) in base64, and then some.
pub const MAX_REPLY_LINE: u64 = 512 << 20;

/// Largest page of connections.
pub const MAX_PAGE_SIZE: usize = 1_000;

/// The first line of a client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// The actor tree, and a page of connections if asked for.
    Tree(TreeRequest),
    /// Records of the embedded log, until the client goes.
    Tail(TailRequest),
    /// The node's state in a few figures.
    Status {},
    /// The cluster's nodes.
    Nodes {},
    /// The node's emptying.
    Drain {
        /// What about it.
        action: DrainAction,
    },
    /// The node's dead letters.
    Dead {
        /// What about them.
        action: DeadRequest,
    },
    /// Makes an actor misbehave (tests).
    Fault {
        /// What it does.
        action: FaultAction,
        /// The actor's path as `tree` prints it in full.
        path: String,
    },
}

/// What `tree` asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TreeRequest {
    /// Also list connections.
    #[serde(default)]
    pub connections: bool,
    /// Which page of them, from 0.
    #[serde(default)]
    pub page: usize,
    /// Connections on a page, 1 to [`MAX_PAGE_SIZE`].
    #[serde(default = "default_page_size")]
    pub page_size: usize,
}

fn default_page_size() -> usize {
    100
}

impl Default for TreeRequest {
    fn default() -> Self {
        Self { connections: false, page: 0, page_size: default_page_size() }
    }
}

/// What `tail` asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TailRequest {
    /// The Kafka-style topic name, such as `device-thermo`.
    pub topic: String,
    /// Go on where this group left off, and commit what was printed.
    #[serde(default)]
    pub group: Option<String>,
    /// Where there is no committed offset: from the first record instead of only new ones.
    #[serde(default)]
    pub from_start: bool,
    /// Stop after so many records; without it follow until the client goes.
    #[serde(default)]
    pub count: Option<u64>,
}

/// A later line of a client: `tail` with a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FollowUp {
    /// All records before this offset were printed.
    Commit(u64),
}

/// A line of the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// An actor, parents first.
    Actor(ActorRow),
    /// A connection.
    Connection(ConnectionRow),
    /// The node's state.
    Status(Box<Status>),
    /// The cluster's nodes.
    Nodes(Nodes),
    /// How far the node is emptied.
    Drain(DrainState),
    /// A dead letter.
    DeadLetter(DeadRow),
    /// What has become of dead letters.
    DeadDone(DeadDone),
    /// A record.
    Record(TailRow),
    /// The records so far are a batch; `next` is the offset after them.
    Batch {
        /// What a group commits.
        next: u64,
    },
    /// The commit is stored.
    Committed(u64),
    /// Something a person should know.
    Notice(String),
    /// Nothing follows.
    End,
    /// The request failed; nothing follows.
    Error(String),
}

/// The node's state in a few figures.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Status {
    /// The program's version.
    pub version: String,
    /// The process.
    pub pid: u32,
    /// What it is and where it listens.
    pub node: Identity,
    /// Seconds since the admin endpoints started.
    pub uptime_s: u64,
    /// Where `/metrics`, `/health` and `/ready` are, if switched on.
    pub http: Option<String>,
    /// Why the node is not ready; empty if it is.
    pub not_ready: Vec<String>,
    /// Why the node is not healthy; empty if it is.
    pub not_healthy: Vec<String>,
    /// Open sockets.
    pub connections: u64,
    /// Sessions in memory.
    pub sessions: u64,
    /// Subscriptions.
    pub subscriptions: u64,
    /// Retained messages.
    pub retained: u64,
    /// Records in the outbox.
    pub outbox_records: u64,
    /// Their bytes.
    pub outbox_bytes: u64,
    /// Records that the log refused for good and that are kept.
    #[serde(default)]
    pub dead_letters: u64,
    /// Restarts of permanent actors.
    pub restarts: u64,
    /// PUBLISH a second read and sent over the last few seconds; `None` while the node is too young.
    pub rates: Option<(u64, u64)>,
    /// Messages dropped since the start, by reason; only those that were.
    pub dropped: Vec<(String, u64)>,
}

/// Reads one line of at most `max` bytes into `line`, without its end. False at the end of input
/// before any byte. A longer line is [`io::ErrorKind::InvalidData`], found before it is buffered;
/// a line that the end of input cuts is [`io::ErrorKind::UnexpectedEof`].
///
/// Cancel safe as long as `line` is kept: what came so far stays in it. Clear it after use.
pub async fn read_line<R>(input: &mut R, line: &mut Vec<u8>, max: usize) -> io::Result<bool>
where
    R: AsyncBufRead + Unpin,
{
    loop {
        let available = input.fill_buf().await?;
        if available.is_empty() {
            return if line.is_empty() {
                Ok(false)
            } else {
                Err(io::ErrorKind::UnexpectedEof.into())
            };
        }
        let end = available.iter().position(|byte| *byte == b'\n');
        let taken = end.unwrap_or(available.len());
        if line.len() + taken > max {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("the request is longer than {max} bytes"),
            ));
        }
        line.extend_from_slice(&available[..taken]);
        input.consume(end.map_or(taken, |end| end + 1));
        if end.is_some() {
            return Ok(true);
        }
    }
}
