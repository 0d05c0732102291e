//! The dead letters of the node, as all that decide about them share them.

use parking_lot::Mutex;

use super::book::DeadBook;
use crate::metrics::Metrics;
use crate::ports::DeadId;

/// The dead letters of the node.
#[derive(Debug)]
pub struct DeadLetters {
    /// What is known of each.
    pub book: Mutex<DeadBook>,
}

impl DeadLetters {
    /// With what was found in the store: id and cost of each.
    pub fn new(max_bytes: u64, found: &[(DeadId, u64)]) -> Self {
        let mut book = DeadBook::new(max_bytes);
        book.found(found);
        Self { book: Mutex::new(book) }
    }

    /// Those of a lost node are this node's.
    pub fn take_over(&self, found: &[(DeadId, u64)], metrics: &Metrics) {
        self.book.lock().found(found);
        self.show(metrics);
    }

    /// Brings the gauges up to date.
    pub fn show(&self, metrics: &Metrics) {
        let (count, bytes) = {
            let book = self.book.lock();
            (book.len() as u64, book.bytes())
        };
        metrics.dead_letters.set(count);
        metrics.dead_letter_bytes.set(bytes);
    }
}
