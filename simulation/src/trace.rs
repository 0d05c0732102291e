//! What has happened: lines for a reader, kept where somebody reads them, and a hash by which two histories compare.
//!
//! Invariant: everything that a step of a machine shows outside goes into the hash: its time, its machine, and the
//! sizes of what it sends. Real clocks never do.

/// See the module.
#[derive(Debug)]
pub struct Trace {
    lines: Option<Vec<String>>,
    hash: u64,
}

impl Trace {
    /// Keeps lines, or the hash only.
    pub fn new(lines: bool) -> Self {
        Self { lines: lines.then(Vec::new), hash: 0xcbf2_9ce4_8422_2325 }
    }

    /// A line at this time.
    pub fn note(&mut self, now: u64, what: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.lines {
            lines.push(format!("{:>11.3} {}", now as f64 / 1000.0, what()));
        }
    }

    /// Adds to the hash.
    pub fn mix(&mut self, number: u64) {
        for byte in number.to_le_bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// Somebody reads the lines.
    pub fn is_read(&self) -> bool {
        self.lines.is_some()
    }

    /// By which two histories compare.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// The lines.
    pub fn into_lines(self) -> Vec<String> {
        self.lines.unwrap_or_default()
    }
}
