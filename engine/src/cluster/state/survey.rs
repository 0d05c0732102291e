//! What the store has said of all incarnations.
//!
//! Bounds: one survey at a time; a row an incarnation that the store knows.

use std::collections::BTreeSet;

use crate::ports::KnownIncarnation;

/// See the module.
#[derive(Debug, Default)]
pub struct Survey {
    pub rows: Vec<KnownIncarnation>,
    /// One was begun after this node had joined, and has ended.
    pub done: bool,
    pub running: bool,
    /// The members have changed since it began, or the store did not answer.
    pub again: bool,
    pub ticks: u32,
    /// Incarnations whose lineages are being read.
    pub reading: BTreeSet<u64>,
}

/// Lineages that an incarnation has, whose interest nobody has told.
#[derive(Debug)]
pub struct Untold {
    /// The incarnation, as it stands in the store.
    pub of: KnownIncarnation,
    /// See above.
    pub lineages: Vec<u64>,
}
