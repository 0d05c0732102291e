//! Into how large rows and buckets queues and lanes are cut.

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Entries of a bucket, which is dropped whole.
    pub bucket: u64,
    /// Entries of a row, which is one mutation.
    pub row: usize,
}

impl Default for Shape {
    fn default() -> Self {
        Self { bucket: 256, row: 256 }
    }
}
