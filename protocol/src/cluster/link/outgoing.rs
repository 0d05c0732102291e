//! The outgoing stream: frames until they are acknowledged, and the peer's grants.
//!
//! Invariants: `acked <= sent <= sent_ever <= last`, and the queue holds the frames after `acked`.
//! Grants are totals since sequence 1, so that one that is lost with a connection is made up for by
//! the next.

use std::collections::VecDeque;

use bytes::Bytes;

use super::frame::{self, Ack};
use super::{Class, LinkError, LinkStats};

/// A frame that the peer did not acknowledge before it was restarted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unacknowledged {
    /// Its sequence in the stream that ended.
    pub sequence: u64,
    /// The application's kind.
    pub kind: u8,
    /// Its body.
    pub body: Bytes,
    /// It was written to a connection: the peer may have acted on it.
    pub sent: bool,
}

#[derive(Debug, Default)]
pub(super) struct Outgoing {
    queue: VecDeque<(u8, Bytes)>,
    /// The highest sequence the peer has, and the bytes up to it.
    acked: u64,
    acked_bytes: u64,
    /// The highest sequence written to this connection, and the bytes up to it.
    sent: u64,
    sent_bytes: u64,
    /// The highest sequence written to any connection.
    sent_ever: u64,
    /// The bytes up to the last frame of the queue.
    last_bytes: u64,
    /// The peer's window; 0 before its first hello.
    window_frames: u64,
    window_bytes: u64,
    granted_frames: u64,
    granted_bytes: u64,
    /// There was room for data after the last frame, or after the window came.
    roomy: bool,
}

impl Outgoing {
    /// Adds a frame; its sequence.
    pub fn push(&mut self, class: Class, kind: u8, body: Bytes, stats: &mut LinkStats) -> u64 {
        if !has(self.room(class)) {
            stats.past_bound += 1;
        }
        self.last_bytes += body.len() as u64;
        self.queue.push_back((kind, body));
        if self.roomy && !has(self.room(Class::Data)) {
            self.roomy = false;
            stats.without_room += 1;
        }
        self.last()
    }

    /// Frames and bytes that the peer's window takes beside what is queued.
    pub fn room(&self, class: Class) -> (u64, u64) {
        let reserve = |window: u64| if class == Class::Data { window / 8 } else { 0 };
        (
            self.granted_frames.saturating_sub(self.last() + reserve(self.window_frames)),
            self.granted_bytes.saturating_sub(self.last_bytes + reserve(self.window_bytes)),
        )
    }

    /// Frames and bytes that are not acknowledged.
    pub fn unacknowledged(&self) -> (u64, u64) {
        (self.queue.len() as u64, self.last_bytes - self.acked_bytes)
    }

    /// A connection is up: what follows `sequence` is sent on it.
    pub fn resume(&mut self, sequence: u64, window_frames: u64, window_bytes: u64) {
        self.acknowledge(sequence);
        self.sent = self.acked;
        self.sent_bytes = self.acked_bytes;
        self.window_frames = window_frames;
        self.window_bytes = window_bytes;
        self.granted_frames = self.granted_frames.max(window_frames);
        self.granted_bytes = self.granted_bytes.max(window_bytes);
    }

    /// What the peer may say that it has, when a connection begins.
    pub fn resumable(&self) -> (u64, u64) {
        (self.acked, self.sent_ever)
    }

    /// # Errors
    /// [`LinkError::AckOutOfRange`], [`LinkError::GrantOutOfRange`].
    pub fn handle_ack(&mut self, ack: Ack) -> Result<(), LinkError> {
        if ack.received < self.acked || ack.received > self.sent {
            return Err(LinkError::AckOutOfRange {
                got: ack.received,
                from: self.acked,
                to: self.sent,
            });
        }
        self.acknowledge(ack.received);
        // Nothing is consumed that has not been received.
        if ack.granted_frames > self.acked.saturating_add(self.window_frames)
            || ack.granted_bytes > self.acked_bytes.saturating_add(self.window_bytes)
        {
            return Err(LinkError::GrantOutOfRange);
        }
        self.granted_frames = self.granted_frames.max(ack.granted_frames);
        self.granted_bytes = self.granted_bytes.max(ack.granted_bytes);
        Ok(())
    }

    /// True once after the room for data had run out and half of the window is free again.
    pub fn take_relief(&mut self) -> bool {
        let frames =
            self.last().saturating_add(self.window_frames).saturating_sub(self.granted_frames);
        let bytes =
            self.last_bytes.saturating_add(self.window_bytes).saturating_sub(self.granted_bytes);
        let relief =
            !self.roomy && frames <= self.window_frames / 2 && bytes <= self.window_bytes / 2;
        self.roomy |= relief;
        relief
    }

    /// A frame can be written now.
    pub fn can_write(&self) -> bool {
        self.next().is_some()
    }

    /// Writes what the grants allow, up to `out.len() == max`; a single frame may go beyond when
    /// nothing stands before it since `start`.
    pub fn write(&mut self, out: &mut Vec<u8>, start: usize, max: usize, stats: &mut LinkStats) {
        while let Some((kind, body)) = self.next() {
            let len = frame::HEAD + frame::DATA_HEAD + body.len();
            if out.len() > start && out.len() + len > max {
                return;
            }
            let bytes = body.len() as u64;
            frame::put_data(out, self.sent + 1, *kind, body);
            self.sent += 1;
            self.sent_bytes += bytes;
            if self.sent > self.sent_ever {
                self.sent_ever = self.sent;
                stats.frames_out += 1;
                stats.bytes_out += bytes;
            } else {
                stats.resent += 1;
            }
        }
    }

    /// The peer has forgotten the stream: a new one begins, and what it did not acknowledge of the
    /// old one goes to `lost`.
    pub fn restart(&mut self, lost: &mut Vec<Unacknowledged>) {
        let old = std::mem::replace(self, Self { roomy: self.roomy, ..Self::default() });
        lost.extend((old.acked + 1..).zip(old.queue).map(|(sequence, (kind, body))| {
            Unacknowledged { sequence, kind, body, sent: sequence <= old.sent_ever }
        }));
    }

    fn last(&self) -> u64 {
        self.acked + self.queue.len() as u64
    }

    fn next(&self) -> Option<&(u8, Bytes)> {
        let next = self.queue.get(usize::try_from(self.sent - self.acked).ok()?)?;
        let granted = self.sent < self.granted_frames
            && self.sent_bytes + next.1.len() as u64 <= self.granted_bytes;
        granted.then_some(next)
    }

    /// `received` is at most `sent_ever`.
    fn acknowledge(&mut self, received: u64) {
        while self.acked < received
            && let Some((_, body)) = self.queue.pop_front()
        {
            self.acked += 1;
            self.acked_bytes += body.len() as u64;
        }
    }
}

/// Room for a frame. Its body may be larger than what is left: then it waits here.
pub(super) fn has((frames, bytes): (u64, u64)) -> bool {
    frames > 0 && bytes > 0
}
