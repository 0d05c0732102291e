//! The command line's end of the admin socket: blocking calls, one connection each.
//!
//! The results print themselves ([`Tree`], [`Status`] and [`Nodes`] are `Display`); errors are one sentence
//! for the user.

use std::io::{self, BufRead as _, BufReader, BufWriter, Read as _, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::limits::socket_path;
use super::render;
use super::rows::{ConnectionPage, DrainAction, DrainState, FaultAction, Nodes, Tree};
use super::wire::{FollowUp, MAX_REPLY_LINE, Reply, Request, Status, TailRequest, TreeRequest};

/// How long a node may take to answer anything but a tail. Longer than the node's own time-out,
/// whose error says more.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// Between two looks at how far a drain is.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// Nothing is shown of it more often.
const SHOW_AGAIN: Duration = Duration::from_secs(2);
/// A drain without an end in sight: none has gone for so long after the node had to end it.
const STUCK: Duration = Duration::from_secs(15);

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no node answers at {}: is the broker running with this --data-dir?", .0.display())]
    NoNode(PathBuf),
    /// The socket is another user's.
    #[error("the admin socket {} belongs to another user: run this as the user the broker runs as", .0.display())]
    NotAllowed(PathBuf),
    /// The socket cannot be used for another reason.
    #[error("the admin socket {} cannot be used: {source}", .path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// The node says no; its words.
    #[error("{0}")]
    Refused(String),
    /// Time-out.
    #[error("the node did not answer in {ANSWER_TIMEOUT:?}: look for a blocked thread in its log")]
    Silent,
    /// The connection ended early.
    #[error(
        "the node closed the admin connection: it is shutting down, has died, or has too many admin connections"
    )]
    Closed,
    /// Not our protocol.
    #[error(
        "the node's answer was not understood ({0}): use the `broker` of the node's own version"
    )]
    Protocol(String),
    /// The output failed.
    #[error("the records cannot be written: {0}")]
    Output(io::Error),
}

/// The actor tree of the node with this data directory.
///
/// # Errors
/// [`ClientError`].
pub fn tree(data_dir: &Path, request: &TreeRequest) -> Result<Tree, ClientError> {
    let mut actors = Vec::new();
    let mut rows = Vec::new();
    ask(data_dir, &Request::Tree(request.clone()), |reply| match reply {
        Reply::Actor(row) => actors.push(row),
        Reply::Connection(row) => rows.push(row),
        _ => {}
    })?;
    let page = ConnectionPage { page: request.page, page_size: request.page_size, rows };
    Ok(Tree { actors, connections: request.connections.then_some(page) })
}

/// The state of the node with this data directory.
///
/// # Errors
/// [`ClientError`].
pub fn status(data_dir: &Path) -> Result<Status, ClientError> {
    let mut status = None;
    ask(data_dir, &Request::Status {}, |reply| {
        if let Reply::Status(found) = reply {
            status = Some(*found);
        }
    })?;
    status.ok_or_else(|| ClientError::Protocol("no status came".to_owned()))
}

/// The cluster as the node with this data directory sees it.
///
/// # Errors
/// [`ClientError`]; a node that is alone refuses.
pub fn nodes(data_dir: &Path) -> Result<Nodes, ClientError> {
    let mut nodes = None;
    ask(data_dir, &Request::Nodes {}, |reply| {
        if let Reply::Nodes(found) = reply {
            nodes = Some(found);
        }
    })?;
    nodes.ok_or_else(|| ClientError::Protocol("no nodes came".to_owned()))
}

/// Begins, takes back or looks at the emptying of the node with this data directory.
///
/// # Errors
/// [`ClientError`].
pub fn drain(data_dir: &Path, action: DrainAction) -> Result<DrainState, ClientError> {
    let mut state = None;
    ask(data_dir, &Request::Drain { action }, |reply| {
        if let Reply::Drain(found) = reply {
            state = Some(found);
        }
    })?;
    state.ok_or_else(|| ClientError::Protocol("no state of the drain came".to_owned()))
}

/// Shows on `notes` now and then how many clients are left, and returns when none is.
///
/// # Errors
/// [`ClientError`]; also when the drain is taken back meanwhile, and when no client goes any more.
pub fn wait_drained(data_dir: &Path, notes: &mut dyn Write) -> Result<(), ClientError> {
    let mut progress = Progress::new(Instant::now());
    loop {
        let state = drain(data_dir, DrainAction::Look)?;
        if !state.draining {
            return Err(ClientError::Refused(
                "the drain was taken back (broker drain --cancel)".to_owned(),
            ));
        }
        let line = progress.look(Instant::now(), &state).map_err(ClientError::Refused)?;
        if let Some(line) = line {
            let _ = writeln!(notes, "{line}"); // nobody looks: fine
        }
        if state.left == 0 {
            return Ok(());
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// How a drain goes on.
struct Progress {
    least: Option<u64>,
    /// Since when none has gone.
    since: Instant,
    shown: Option<Instant>,
}

impl Progress {
    fn new(now: Instant) -> Self {
        Self { least: None, since: now, shown: None }
    }

    /// What is to be shown. The error is one sentence: none has gone for too long.
    fn look(&mut self, now: Instant, state: &DrainState) -> Result<Option<String>, String> {
        let left = state.left;
        if self.least.is_none_or(|least| left < least) {
            (self.least, self.since) = (Some(left), now);
        }
        let patience = Duration::from_secs(state.deadline_s) + STUCK;
        if left > 0 && now.duration_since(self.since) > patience {
            return Err(format!(
                "{left} connections are left and none has gone for {} s: `broker tree --connections` \
                 shows them, and the drain goes on",
                patience.as_secs()
            ));
        }
        let due = self.shown.is_none_or(|shown| now.duration_since(shown) >= SHOW_AGAIN);
        if left == 0 {
            return Ok(Some("0 connections left".to_owned()));
        }
        if due {
            self.shown = Some(now);
        }
        Ok(due.then(|| format!("{left} connections left")))
    }
}

/// Makes an actor of the node with this data directory misbehave (tests).
///
/// # Errors
/// [`ClientError`]; a node that was not started for it refuses.
pub fn fault(data_dir: &Path, action: FaultAction, path: &str) -> Result<(), ClientError> {
    ask(data_dir, &Request::Fault { action, path: path.to_owned() }, |_| {})
}

/// Prints records of the embedded log, one a line ([`render::record`]), to `out`, and what else a
/// person should know to `notes`. Ends after `request.count` records, else when the node ends or
/// `out` is a closed pipe. With a group each batch is committed after `out` was flushed.
///
/// # Errors
/// [`ClientError`].
pub fn tail(
    data_dir: &Path,
    request: &TailRequest,
    out: &mut dyn Write,
    notes: &mut dyn Write,
) -> Result<(), ClientError> {
    let mut node = Connection::open(data_dir, None)?;
    node.send(&Request::Tail(request.clone()))?;
    let mut out = BufWriter::new(out);
    loop {
        let printed = match node.receive()? {
            Reply::Record(row) => writeln!(out, "{}", render::record(&row)),
            Reply::Batch { next } => match out.flush() {
                Ok(()) if request.group.is_some() => {
                    node.send(&FollowUp::Commit(next))?;
                    Ok(())
                }
                flushed => flushed,
            },
            Reply::Notice(text) => writeln!(notes, "{text}").and_then(|()| notes.flush()),
            Reply::End => return out.flush().map_err(ClientError::Output),
            Reply::Error(text) => return Err(ClientError::Refused(text)),
            _ => Ok(()),
        };
        match printed {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()), // `| head`
            Err(error) => return Err(ClientError::Output(error)),
            Ok(()) => {}
        }
    }
}

/// One request and its replies, to the end.
pub(super) fn ask(
    data_dir: &Path,
    request: &Request,
    mut each: impl FnMut(Reply),
) -> Result<(), ClientError> {
    let mut node = Connection::open(data_dir, Some(ANSWER_TIMEOUT))?;
    node.send(request)?;
    loop {
        match node.receive()? {
            Reply::End => return Ok(()),
            Reply::Error(text) => return Err(ClientError::Refused(text)),
            reply => each(reply),
        }
    }
}

struct Connection {
    path: PathBuf,
    stream: BufReader<UnixStream>,
    line: Vec<u8>,
}

impl Connection {
    fn open(data_dir: &Path, timeout: Option<Duration>) -> Result<Self, ClientError> {
        let path = socket_path(data_dir);
        let stream = UnixStream::connect(&path).and_then(|stream| {
            stream.set_read_timeout(timeout)?;
            stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
            Ok(stream)
        });
        match stream {
            Ok(stream) => Ok(Self { path, stream: BufReader::new(stream), line: Vec::new() }),
            Err(source) => Err(match source.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    ClientError::NoNode(path)
                }
                io::ErrorKind::PermissionDenied => ClientError::NotAllowed(path),
                _ => ClientError::Socket { path, source },
            }),
        }
    }

    fn failed(&self, source: io::Error) -> ClientError {
        match source.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ClientError::Silent,
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => ClientError::Closed,
            _ => ClientError::Socket { path: self.path.clone(), source },
        }
    }

    fn send(&mut self, line: &impl Serialize) -> Result<(), ClientError> {
        let mut text =
            serde_json::to_vec(line).map_err(|error| ClientError::Protocol(error.to_string()))?;
        text.push(b'\n');
        match self.stream.get_mut().write_all(&text) {
            // The node may have said why before it closed: `receive` reads it.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            sent => sent.map_err(|error| self.failed(error)),
        }
    }

    fn receive(&mut self) -> Result<Reply, ClientError> {
        self.line.clear();
        let mut bounded = (&mut self.stream).take(MAX_REPLY_LINE);
        match bounded.read_until(b'\n', &mut self.line) {
            Err(error) => Err(self.failed(error)),
            Ok(0) => Err(ClientError::Closed),
            Ok(_) if self.line.last() != Some(&b'\n') => Err(ClientError::Closed),
            Ok(_) => serde_json::from_slice(&self.line)
                .map_err(|error| ClientError::Protocol(error.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_shows_its_count_now_and_then_and_ends() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let state = |left| DrainState { draining: true, left, rate: 10, deadline_s: 5 };
        let mut progress = Progress::new(start);
        assert_eq!(progress.look(at(0), &state(30)), Ok(Some("30 connections left".to_owned())));
        assert_eq!(progress.look(at(500), &state(25)), Ok(None));
        assert_eq!(progress.look(at(2000), &state(10)), Ok(Some("10 connections left".to_owned())));
        // As long as one may take to have its answers, and then some.
        assert!(progress.look(at(21_900), &state(10)).is_ok());
        assert_eq!(progress.look(at(21_950), &state(9)), Ok(None));
        assert!(progress.look(at(41_900), &state(9)).is_ok());
        let stuck = progress.look(at(42_000), &state(9));
        assert!(stuck.is_err_and(|why| {
            why.starts_with("9 connections are left and none has gone for 20 s")
        }));
        let done = Some("0 connections left".to_owned());
        assert_eq!(progress.look(at(42_500), &state(0)), Ok(done));
    }
}
