//! The fields of a body, one after the other, without an allocation.

/// Fields of a body, each held against what is left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    #[inline]
    pub fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(byte)
    }

    #[inline]
    pub fn integer(&mut self) -> Option<u16> {
        let (bytes, rest) = self.0.split_first_chunk::<2>()?;
        self.0 = rest;
        Some(u16::from_be_bytes(*bytes))
    }

    /// Two bytes of length and as many bytes.
    #[inline]
    pub fn binary(&mut self) -> Option<&'a [u8]> {
        let length = self.integer()?;
        let (bytes, rest) = self.0.split_at_checked(usize::from(length))?;
        self.0 = rest;
        Some(bytes)
    }
}
