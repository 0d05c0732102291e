//! A client of the admin socket, as the node sees it.

use std::io;

use tokio::io::{AsyncWriteExt as _, BufReader, BufWriter};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use super::wire::Reply;

/// A client: lines in, lines out.
pub(super) struct Peer {
    pub(super) input: BufReader<OwnedReadHalf>,
    /// What came of the line being read.
    pub(super) line: Vec<u8>,
    pub(super) output: BufWriter<OwnedWriteHalf>,
}

impl Peer {
    /// Writes a line into the buffer, and on when that is full.
    pub(super) async fn send(&mut self, reply: &Reply) -> io::Result<()> {
        let mut line = serde_json::to_vec(reply)?;
        line.push(b'\n');
        self.output.write_all(&line).await
    }

    /// Sends what is in the buffer.
    pub(super) async fn flush(&mut self) -> io::Result<()> {
        self.output.flush().await
    }

    /// Sends the last line, and no more.
    pub(super) async fn finish(&mut self, last: &Reply) -> io::Result<()> {
        self.send(last).await?;
        self.output.shutdown().await
    }
}
