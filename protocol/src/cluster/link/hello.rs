//! The first frame of each end of a connection.
//!
//! Magic and versions come first, for ever; a later version may add fields at the end, which this
//! one ignores. So a node talks to those of the release before and after its own.

use bytes::Buf;

use super::LinkError;
use super::frame::{self, MAX_HELLO, kind};

/// Versions of the peer protocol this release speaks: the lowest and the highest.
pub const VERSIONS: (u16, u16) = (3, 3);

pub(super) const MAGIC: &[u8; 4] = b"HYDR";

/// How much an end has of the other's stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Resume {
    /// The incarnation of the other end it received frames from last.
    pub incarnation: u64,
    /// The highest sequence of them; 0 for none, whatever the incarnation.
    pub sequence: u64,
}

/// The hello. On the wire in this order; strings have a u8 length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Lowest and highest version it speaks; u16 each, after the magic `HYDR`.
    pub versions: (u16, u16),
    /// The cluster's id.
    pub cluster: String,
    /// The node's id.
    pub node_id: String,
    /// The number of its start.
    pub incarnation: u64,
    /// What it has of the other end's stream; two u64.
    pub resume: Resume,
    /// Frames the other end may have sent that are not consumed; u32, at least 1.
    pub window_frames: u32,
    /// Bytes of their bodies; u64, at least 1.
    pub window_bytes: u64,
}

impl Hello {
    /// The hello at the start of what a dialler sent, for an acceptor that has to know which link
    /// the bytes are for; `None` while it is incomplete. The bytes are the link's to read again.
    ///
    /// # Errors
    /// Those of framing, [`LinkError::HelloExpected`], [`LinkError::NotAPeer`],
    /// [`LinkError::NoCommonVersion`], [`LinkError::Malformed`].
    pub fn peek(input: &[u8]) -> Result<Option<Self>, LinkError> {
        match frame::split(input, MAX_HELLO)? {
            Some((kind::HELLO, body, _)) => Self::parse(body).map(Some),
            Some((kind, ..)) => Err(LinkError::HelloExpected(kind)),
            None => Ok(None),
        }
    }

    pub(super) fn parse(body: &[u8]) -> Result<Self, LinkError> {
        let malformed = || LinkError::Malformed("hello");
        let Some(mut rest) = body.strip_prefix(MAGIC) else {
            return Err(LinkError::NotAPeer);
        };
        let number = |_| malformed();
        let theirs = (rest.try_get_u16().map_err(number)?, rest.try_get_u16().map_err(number)?);
        // Before the rest, which a version far off may have changed.
        if negotiate(VERSIONS, theirs).is_none() {
            return Err(LinkError::NoCommonVersion { ours: VERSIONS, theirs });
        }
        let hello = Self {
            versions: theirs,
            cluster: take_text(&mut rest).ok_or_else(malformed)?,
            node_id: take_text(&mut rest).ok_or_else(malformed)?,
            incarnation: rest.try_get_u64().map_err(number)?,
            resume: Resume {
                incarnation: rest.try_get_u64().map_err(number)?,
                sequence: rest.try_get_u64().map_err(number)?,
            },
            window_frames: rest.try_get_u32().map_err(number)?,
            window_bytes: rest.try_get_u64().map_err(number)?,
        };
        if hello.window_frames == 0 || hello.window_bytes == 0 {
            return Err(malformed());
        }
        Ok(hello)
    }

    /// Appends the hello as a frame: for an acceptor that has no link to who dials, so that the
    /// other end can say why it is refused. Strings longer than 255 bytes are cut there.
    pub fn put(&self, out: &mut Vec<u8>) {
        let mut body = Vec::with_capacity(128);
        body.extend_from_slice(MAGIC);
        body.extend_from_slice(&self.versions.0.to_be_bytes());
        body.extend_from_slice(&self.versions.1.to_be_bytes());
        for text in [&self.cluster, &self.node_id] {
            put_text(&mut body, text);
        }
        body.extend_from_slice(&self.incarnation.to_be_bytes());
        body.extend_from_slice(&self.resume.incarnation.to_be_bytes());
        body.extend_from_slice(&self.resume.sequence.to_be_bytes());
        body.extend_from_slice(&self.window_frames.to_be_bytes());
        body.extend_from_slice(&self.window_bytes.to_be_bytes());
        frame::put_head(out, kind::HELLO, body.len());
        out.extend_from_slice(&body);
    }
}

/// The highest version that both ranges have.
pub fn negotiate(ours: (u16, u16), theirs: (u16, u16)) -> Option<u16> {
    let highest = ours.1.min(theirs.1);
    (highest >= ours.0.max(theirs.0)).then_some(highest)
}

pub(super) fn put_text(out: &mut Vec<u8>, text: &str) {
    let text = &text.as_bytes()[..text.floor_char_boundary(255)];
    out.push(text.len() as u8);
    out.extend_from_slice(text);
}

pub(super) fn take_text(rest: &mut &[u8]) -> Option<String> {
    let (&len, tail) = rest.split_first()?;
    let (text, tail) = tail.split_at_checked(usize::from(len))?;
    *rest = tail;
    String::from_utf8(text.to_vec()).ok()
}
