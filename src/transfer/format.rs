//! The file of `broker storage export`.
//!
//! [`MAGIC`], one byte of version, then records: four bytes of length (big-endian) and an [`Item`]
//! in postcard. A session comes before its subscriptions and its queue. The last record has the
//! counts of all and the XXH3 of every byte before it, so a file that was cut short or changed is
//! refused.
//! Bounds: one record in memory, of [`RECORD_MAX`] bytes at most.

use std::fmt;
use std::io::{Read, Write};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

/// How such a file begins.
pub(super) const MAGIC: &[u8] = b"hydrant export\n";
/// What is written here, and the newest that is read; the oldest is 1, which has no dead letters.
pub(super) const VERSION: u8 = 2;
/// Above the largest MQTT packet (256 MiB) with what belongs to it.
const RECORD_MAX: u32 = 300 << 20;

/// One record.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Item<'a> {
    /// The first: where it comes from.
    Head { node_id: &'a str, broker: &'a str, made_ms: u64 },
    /// See [`hydrant_actors::ports::StoredSession`].
    Session {
        id: u64,
        client_id: &'a str,
        epoch: u64,
        disconnected_ms: Option<u64>,
        receipts: Vec<u16>,
    },
    /// Of the session before it.
    Subscription { filter: &'a str, qos: u8 },
    /// Of the session before it, in order. `outgoing`: packet id, and whether PUBREC came.
    Queued {
        sequence: u64,
        outgoing: Option<(u16, bool)>,
        /// By [`crate::rows::encode_message`].
        #[serde(borrow)]
        message: &'a serde_bytes::Bytes,
    },
    /// A topic's retained message.
    Retained {
        #[serde(borrow)]
        message: &'a serde_bytes::Bytes,
    },
    /// A will whose connection the node did not see end, in the order of the connections.
    Will {
        client_id: &'a str,
        #[serde(borrow)]
        message: &'a serde_bytes::Bytes,
    },
    /// A record that the log has not acknowledged, in the order of its lane: a row of
    /// [`crate::rows::RowBuilder`] with this record alone.
    Outbox {
        lane: u16,
        #[serde(borrow)]
        record: &'a serde_bytes::Bytes,
    },
    /// The last.
    End { counts: Counts, digest: u64 },
    /// A record that the log refused for good. Behind the outbox.
    DeadLetter {
        /// By [`crate::rows::encode_dead_letter`].
        #[serde(borrow)]
        letter: &'a serde_bytes::Bytes,
    },
    /// A `Subscription` that is still owed retained messages: of topics behind this one, of all where it is empty.
    OwedSubscription { filter: &'a str, qos: u8, behind: &'a str },
}

/// How many there are of each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Persistent sessions.
    pub sessions: u64,
    /// Their subscriptions.
    pub subscriptions: u64,
    /// Messages in their queues.
    pub queued: u64,
    /// Retained messages.
    pub retained: u64,
    /// Wills.
    pub wills: u64,
    /// Records of the outbox.
    pub outbox: u64,
    /// Dead letters. Not in the file, whose last record is as in version 1.
    #[serde(skip)]
    pub dead_letters: u64,
}

impl Counts {
    pub(super) fn count(&mut self, item: &Item<'_>) {
        match item {
            Item::Head { .. } | Item::End { .. } => {}
            Item::Session { .. } => self.sessions += 1,
            Item::Subscription { .. } | Item::OwedSubscription { .. } => self.subscriptions += 1,
            Item::Queued { .. } => self.queued += 1,
            Item::Retained { .. } => self.retained += 1,
            Item::Will { .. } => self.wills += 1,
            Item::Outbox { .. } => self.outbox += 1,
            Item::DeadLetter { .. } => self.dead_letters += 1,
        }
    }

    /// All of them.
    pub(super) const fn sum(&self) -> u64 {
        self.sessions
            + self.subscriptions
            + self.queued
            + self.retained
            + self.wills
            + self.outbox
            + self.dead_letters
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sessions, subscriptions, queued, retained, wills, outbox, dead_letters } = self;
        write!(
            f,
            "{sessions} sessions with {subscriptions} subscriptions and {queued} queued messages, \
             {retained} retained messages, {wills} wills, {outbox} outbox records, \
             {dead_letters} dead letters"
        )
    }
}

/// Why a file cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub(super) enum FormatError {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("it was not made by `broker storage export`")]
    Foreign,
    #[error("it has version {0}, and this broker reads up to {VERSION}: use the newer broker")]
    Newer(u8),
    #[error("it is not complete: its end is missing, make the export again")]
    Truncated,
    #[error(
        "the message of {bytes} bytes to \"{topic}\" in it is larger than limits.max_packet_size: raise that"
    )]
    TooLarge { topic: String, bytes: usize },
    #[error("it is damaged ({0}): make the export again")]
    Damaged(String),
}

/// Writes such a file.
pub(super) struct ItemWriter<W> {
    out: W,
    counts: Counts,
    digest: Xxh3,
    buffer: Vec<u8>,
}

impl<W: Write> ItemWriter<W> {
    pub(super) fn new(out: W) -> Result<Self, FormatError> {
        Self::of_version(out, VERSION)
    }

    fn of_version(out: W, version: u8) -> Result<Self, FormatError> {
        let (counts, digest, buffer) = (Counts::default(), Xxh3::new(), Vec::new());
        let mut writer = Self { out, counts, digest, buffer };
        writer.raw(MAGIC)?;
        writer.raw(&[version])?;
        Ok(writer)
    }

    fn raw(&mut self, bytes: &[u8]) -> Result<(), FormatError> {
        self.digest.update(bytes);
        Ok(self.out.write_all(bytes)?)
    }

    pub(super) fn put(&mut self, item: &Item<'_>) -> Result<(), FormatError> {
        self.counts.count(item);
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        buffer = postcard::to_extend(item, buffer)
            .map_err(|error| FormatError::Damaged(error.to_string()))?;
        let length = u32::try_from(buffer.len()).ok().filter(|length| *length <= RECORD_MAX);
        let length = length.ok_or_else(|| FormatError::Damaged("a record is too long".into()))?;
        self.raw(&length.to_be_bytes())?;
        self.raw(&buffer)?;
        self.buffer = buffer;
        Ok(())
    }

    /// Writes the last record. Gives back what was written to, flushed.
    pub(super) fn finish(mut self) -> Result<(W, Counts), FormatError> {
        let (counts, digest) = (self.counts, self.digest.digest());
        self.put(&Item::End { counts, digest })?;
        self.out.flush()?;
        Ok((self.out, counts))
    }
}

/// Reads such a file.
pub(super) struct ItemReader<R> {
    input: R,
    counts: Counts,
    digest: Xxh3,
    buffer: Vec<u8>,
    /// Bytes read so far.
    pub(super) position: u64,
}

impl<R: Read> ItemReader<R> {
    pub(super) fn new(input: R) -> Result<Self, FormatError> {
        let (counts, digest, buffer) = (Counts::default(), Xxh3::new(), Vec::new());
        let mut reader = Self { input, counts, digest, buffer, position: 0 };
        let head = MAGIC.len() + 1;
        if reader.take(head as u64)? < head || !reader.buffer.starts_with(MAGIC) {
            return Err(FormatError::Foreign);
        }
        match reader.buffer[MAGIC.len()] {
            1..=VERSION => {}
            found if found > VERSION => return Err(FormatError::Newer(found)),
            _ => return Err(FormatError::Foreign),
        }
        reader.digest.update(&reader.buffer);
        Ok(reader)
    }

    /// Reads up to so many bytes into the buffer, which never grows beyond what is there.
    fn take(&mut self, bytes: u64) -> Result<usize, FormatError> {
        self.buffer.clear();
        let read = self.input.by_ref().take(bytes).read_to_end(&mut self.buffer)?;
        self.position += bytes.min(read as u64);
        Ok(read)
    }

    /// The next record; `None` after the last, which is checked.
    pub(super) fn next(&mut self) -> Result<Option<Item<'_>>, FormatError> {
        let damaged = |what: &str| FormatError::Damaged(what.to_owned());
        if self.take(4)? < 4 {
            return Err(FormatError::Truncated);
        }
        let mut prefix = [0; 4];
        prefix.copy_from_slice(&self.buffer);
        let length = u32::from_be_bytes(prefix);
        if length > RECORD_MAX {
            return Err(damaged("a record is longer than any can be"));
        }
        if self.take(length.into())? < length as usize {
            return Err(FormatError::Truncated);
        }
        let item: Item<'_> = postcard::from_bytes(&self.buffer)
            .map_err(|error| FormatError::Damaged(error.to_string()))?;
        if let Item::End { counts, digest } = item {
            let counts = Counts { dead_letters: self.counts.dead_letters, ..counts };
            if counts != self.counts || digest != self.digest.digest() {
                return Err(damaged("its content is not what its last record says"));
            }
            return match self.input.read(&mut [0])? {
                0 => Ok(None),
                _ => Err(damaged("something stands behind its end")),
            };
        }
        self.digest.update(&prefix);
        self.digest.update(&self.buffer);
        self.counts.count(&item);
        Ok(Some(item))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_version_1_is_read() {
        let mut writer = ItemWriter::of_version(Vec::new(), 1).unwrap();
        let filter = "a/#";
        writer.put(&Item::Subscription { filter, qos: 1 }).unwrap();
        let (bytes, counts) = writer.finish().unwrap();
        let mut reader = ItemReader::new(&bytes[..]).unwrap();
        assert!(matches!(reader.next().unwrap(), Some(Item::Subscription { .. })));
        assert!(reader.next().unwrap().is_none());
        assert_eq!((counts.subscriptions, counts.sum()), (1, 1));
        let newer = ItemWriter::of_version(Vec::new(), VERSION + 1).unwrap().out;
        assert!(matches!(ItemReader::new(&newer[..]), Err(FormatError::Newer(_))));
    }
}
