//! The dead letters of the node, as its actors share them.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::{DeadBook, Settled};
use crate::metrics::Metrics;
use crate::ports::DeadId;

/// The dead letters of the node.
#[derive(Debug)]
pub struct DeadLetters {
    /// What is known of each.
    pub book: Mutex<DeadBook>,
    changed: watch::Sender<()>,
}

impl DeadLetters {
    /// With what was found in the store: id and cost of each.
    pub fn new(max_bytes: u64, found: &[(DeadId, u64)]) -> Self {
        let mut book = DeadBook::new(max_bytes);
        book.found(found);
        Self { book: Mutex::new(book), changed: watch::Sender::new(()) }
    }

    /// Those of a lost node are this node's.
    pub fn take_over(&self, found: &[(DeadId, u64)], metrics: &Metrics) {
        self.book.lock().found(found);
        self.show(metrics);
    }

    /// Brings the gauges up to date, and tells those who wait.
    pub fn show(&self, metrics: &Metrics) {
        let (count, bytes) = {
            let book = self.book.lock();
            (book.len() as u64, book.bytes())
        };
        metrics.dead_letters.set(count);
        metrics.dead_letter_bytes.set(bytes);
        self.changed.send_replace(());
    }

    /// Waits until nothing is under way with these, at most so long.
    pub async fn settle(&self, ids: &[DeadId], patience: Duration) -> Settled {
        let mut changed = self.changed.subscribe();
        let settled = || self.book.lock().settled(ids);
        // Who looks at many does so seldom: the log actor waits meanwhile.
        let pause = Duration::from_micros(ids.len() as u64);
        let over = async {
            while settled().pending > 0 && changed.changed().await.is_ok() {
                tokio::time::sleep(pause).await;
            }
        };
        let _ = tokio::time::timeout(patience, over).await;
        settled()
    }
}
