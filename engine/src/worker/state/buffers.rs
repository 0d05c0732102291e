//! The bytes that the connections of a worker hold, of what comes in or of what goes out.
//!
//! Bounds: half of a worker's part of `limits.max_buffer_bytes` a side; what happens past it says `worker/memory.rs`.

use std::cell::Cell;

/// The buffers of one side.
#[derive(Debug)]
pub struct Buffers {
    pub held: Cell<usize>,
    pub max: usize,
}

impl Buffers {
    pub fn new(max: usize) -> Self {
        Self { held: Cell::new(0), max: max.max(1) }
    }

    pub fn is_full(&self) -> bool {
        self.held.get() >= self.max
    }
}
