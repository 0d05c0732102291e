//! Frames in a stream of bytes. The length is checked as soon as it is there; what is kept of an
//! incomplete frame is bounded by it.

use std::ops::Deref;

use bytes::{Buf, Bytes, BytesMut};

use super::LinkError;

/// Largest frame before the handshake is complete, in bytes without the length field.
pub const MAX_HELLO: u32 = 4096;

/// Kinds of frames.
pub(super) mod kind {
    pub const HELLO: u8 = 1;
    pub const ACK: u8 = 2;
    pub const PING: u8 = 3;
    pub const DATA: u8 = 4;
    pub const RELAY: u8 = 5;
}

/// Bytes of the length field.
const LENGTH: usize = 4;
/// Bytes of length field and kind.
pub(super) const HEAD: usize = LENGTH + 1;
/// Bytes between kind and body of the application's frames: sequence and their own kind.
pub(super) const DATA_HEAD: usize = 8 + 1;

/// The body of a frame: in the input when it was whole there, else put together.
#[derive(Debug)]
pub(super) enum Body<'a> {
    Borrowed(&'a [u8]),
    Owned(Bytes),
}

impl Deref for Body<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            Self::Owned(bytes) => bytes,
        }
    }
}

impl Body<'_> {
    /// What follows the first `skip` bytes: one copy out of the input, none of what was put
    /// together.
    pub fn into_bytes(self, skip: usize) -> Bytes {
        match self {
            Self::Borrowed(bytes) => Bytes::copy_from_slice(bytes.get(skip..).unwrap_or_default()),
            Self::Owned(mut bytes) => {
                bytes.advance(skip.min(bytes.len()));
                bytes
            }
        }
    }
}

/// Takes frames out of the input, and keeps an incomplete rest.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    rest: BytesMut,
}

impl Assembler {
    /// The next whole frame, with its kind; `None` when the input is used up.
    ///
    /// # Errors
    /// [`LinkError::EmptyFrame`], [`LinkError::FrameTooLarge`].
    pub fn next_frame<'a>(
        &mut self,
        input: &mut &'a [u8],
        max: u32,
    ) -> Result<Option<(u8, Body<'a>)>, LinkError> {
        if self.rest.is_empty()
            && let Some((kind, body, rest)) = split(input, max)?
        {
            *input = rest;
            return Ok(Some((kind, Body::Borrowed(body))));
        }
        self.fill(input, LENGTH);
        let Some(len) = length(&self.rest, max)? else {
            return Ok(None);
        };
        self.rest.reserve((LENGTH + len).saturating_sub(self.rest.len()));
        self.fill(input, LENGTH + len);
        if self.rest.len() < LENGTH + len {
            return Ok(None);
        }
        let mut body = std::mem::take(&mut self.rest).freeze();
        body.advance(LENGTH);
        let kind = body.get_u8();
        Ok(Some((kind, Body::Owned(body))))
    }

    /// Moves input into the rest until that has `len` bytes.
    fn fill(&mut self, input: &mut &[u8], len: usize) {
        let take = len.saturating_sub(self.rest.len()).min(input.len());
        let (head, tail) = input.split_at(take);
        self.rest.extend_from_slice(head);
        *input = tail;
    }

    /// Bytes kept of an incomplete frame.
    #[cfg(test)]
    pub fn kept(&self) -> usize {
        self.rest.len()
    }
}

/// Kind and body of a frame, and what follows it.
type Split<'a> = (u8, &'a [u8], &'a [u8]);

/// The frame at the start of the input.
pub(super) fn split(input: &[u8], max: u32) -> Result<Option<Split<'_>>, LinkError> {
    let Some(len) = length(input, max)? else {
        return Ok(None);
    };
    let Some((frame, rest)) = input[LENGTH..].split_at_checked(len) else {
        return Ok(None);
    };
    Ok(frame.split_first().map(|(kind, body)| (*kind, body, rest)))
}

/// The checked length: at least 1.
fn length(input: &[u8], max: u32) -> Result<Option<usize>, LinkError> {
    let Some(bytes) = input.first_chunk() else {
        return Ok(None);
    };
    match u32::from_be_bytes(*bytes) {
        0 => Err(LinkError::EmptyFrame),
        len if len > max => Err(LinkError::FrameTooLarge { len, max }),
        len => Ok(Some(len as usize)),
    }
}

/// Length and kind of a frame whose body has `body` bytes; those were checked against a limit in
/// 32 bits.
pub(super) fn put_head(out: &mut Vec<u8>, kind: u8, body: usize) {
    out.extend_from_slice(&(body as u32 + 1).to_be_bytes());
    out.push(kind);
}

/// A frame of the application.
pub(super) fn put_data(out: &mut Vec<u8>, sequence: u64, kind: u8, body: &[u8]) {
    put_head(out, self::kind::DATA, DATA_HEAD + body.len());
    out.extend_from_slice(&sequence.to_be_bytes());
    out.push(kind);
    out.extend_from_slice(body);
}

/// Sequence and kind of a frame of the application.
pub(super) fn data_head(body: &[u8]) -> Result<(u64, u8), LinkError> {
    match body.split_first_chunk() {
        Some((sequence, [kind, ..])) => Ok((u64::from_be_bytes(*sequence), *kind)),
        _ => Err(LinkError::Malformed("data frame")),
    }
}

/// An acknowledgement; see the table in the module above.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ack {
    pub received: u64,
    pub granted_frames: u64,
    pub granted_bytes: u64,
}

impl Ack {
    const LEN: usize = 24;

    pub fn put(self, out: &mut Vec<u8>) {
        put_head(out, kind::ACK, Self::LEN);
        for number in [self.received, self.granted_frames, self.granted_bytes] {
            out.extend_from_slice(&number.to_be_bytes());
        }
    }

    /// # Errors
    /// [`LinkError::Malformed`].
    pub fn parse(mut body: &[u8]) -> Result<Self, LinkError> {
        if body.len() != Self::LEN {
            return Err(LinkError::Malformed("acknowledgement"));
        }
        Ok(Self {
            received: body.get_u64(),
            granted_frames: body.get_u64(),
            granted_bytes: body.get_u64(),
        })
    }
}
