//! The first frame of a connection that is not for the node it comes to: another cannot be reached
//! from where it comes from, and this one is asked to carry it on.

use super::LinkError;
use super::frame::{self, MAX_HELLO, kind};
use super::hello::{MAGIC, put_text, take_text};

/// What it asks for. On the wire in this order, after the magic `HYDR`; strings have a u8 length. A later
/// version may add fields at the end, which this one ignores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relay {
    /// The cluster's id.
    pub cluster: String,
    /// The node that it is for.
    pub node_id: String,
}

impl Relay {
    /// The request at the start of what a dialler sent, and how many bytes it is; `None` where it is
    /// something else, or incomplete.
    ///
    /// # Errors
    /// Those of framing, [`LinkError::NotAPeer`], [`LinkError::Malformed`].
    pub fn peek(input: &[u8]) -> Result<Option<(Self, usize)>, LinkError> {
        let Some((kind::RELAY, body, rest)) = frame::split(input, MAX_HELLO)? else {
            return Ok(None);
        };
        let malformed = || LinkError::Malformed("relay");
        let mut fields = body.strip_prefix(MAGIC).ok_or(LinkError::NotAPeer)?;
        let relay = Self {
            cluster: take_text(&mut fields).ok_or_else(malformed)?,
            node_id: take_text(&mut fields).ok_or_else(malformed)?,
        };
        Ok(Some((relay, input.len() - rest.len())))
    }

    /// Appends it as a frame. Strings longer than 255 bytes are cut there.
    pub fn put(&self, out: &mut Vec<u8>) {
        let mut body = MAGIC.to_vec();
        put_text(&mut body, &self.cluster);
        put_text(&mut body, &self.node_id);
        frame::put_head(out, kind::RELAY, body.len());
        out.extend_from_slice(&body);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_request_comes_back_as_it_was_and_what_follows_is_left() {
        let relay = Relay { cluster: "hydrant".to_owned(), node_id: "n2".to_owned() };
        let mut input = Vec::new();
        relay.put(&mut input);
        for cut in 0..input.len() {
            assert_eq!(Relay::peek(&input[..cut]), Ok(None));
        }
        let end = input.len();
        input.extend_from_slice(b"hello");
        assert_eq!(Relay::peek(&input), Ok(Some((relay, end))));
    }

    #[test]
    fn what_is_no_request_is_left_alone_or_refused() {
        let frame = |kind, body: &[u8]| {
            let mut input = Vec::new();
            frame::put_head(&mut input, kind, body.len());
            input.extend_from_slice(body);
            input
        };
        assert_eq!(Relay::peek(&frame(kind::HELLO, b"HYDR")), Ok(None));
        assert_eq!(Relay::peek(&frame(kind::RELAY, b"HTTP")), Err(LinkError::NotAPeer));
        let cut = Relay::peek(&frame(kind::RELAY, b"HYDR\x05ab"));
        assert_eq!(cut, Err(LinkError::Malformed("relay")));
        assert!(Relay::peek(&[0xff; 64]).is_err());
    }
}
