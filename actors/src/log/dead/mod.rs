//! Dead letters: records that the log refuses for good, kept in the session store until somebody
//! replays or drops them (`broker dead`).
//!
//! A record that was acknowledged is in the outbox or a dead letter, never in neither: the dead
//! letter is written with the cursor that passes its place. Where records before it in its lane are
//! not over yet, the cursor follows later; a start in between finds the record in both, and does not
//! send it again.
//! Bounds: `log.dead_letter_max_bytes` (an empty place takes one record of any size), QoS 0 and
//! `accepted` up to a half of it. Past it nothing acknowledged is dropped: a record of the outbox
//! stays there and is tried again when there is room, one of level `kafka` is not acknowledged, QoS 0
//! is dropped and counted. What was taken over may go past the bound. In memory: an entry a dead
//! letter, without its record.

mod actor;
mod book;

use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;

pub use book::{Admission, DeadBook, DeadState, Marked};

use crate::inbox::Inbox;
use crate::messages::StorageWork;
use crate::metrics::Metrics;
use crate::ports::{DeadId, OutboxPosition, StoreOp};
use crate::shared::NodeTables;

/// Removals in one write.
const DROP_AT_ONCE: usize = 1000;

/// What the log actor hears about dead letters.
#[derive(Debug, Clone, Copy)]
pub enum DeadWork {
    /// A dead letter is durable, and the record's place in the outbox is over.
    Written {
        /// Which.
        id: DeadId,
        /// The place.
        outbox: Option<OutboxPosition>,
    },
    /// The removal of one is durable.
    Dropped {
        /// Which.
        id: DeadId,
    },
    /// Some are to be sent again.
    Replay,
}

/// Which dead letters are meant.
#[derive(Debug, Clone)]
pub enum Which {
    /// Every one.
    All,
    /// These.
    These(Vec<DeadId>),
}

/// What has become of those that were to be replayed or dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Settled {
    /// No dead letters any more.
    pub gone: usize,
    /// Refused again.
    pub kept: usize,
    /// Not known yet.
    pub pending: usize,
}

/// The dead letters of the node.
#[derive(Debug)]
pub struct DeadLetters {
    /// What is known of each.
    pub book: Mutex<DeadBook>,
    /// For the log actor.
    pub work: Inbox<DeadWork>,
    changed: watch::Sender<()>,
}

impl DeadLetters {
    /// With what was found in the store: id and cost of each.
    pub fn new(max_bytes: u64, found: &[(DeadId, u64)]) -> Self {
        let mut book = DeadBook::new(max_bytes);
        book.found(found);
        let (work, changed) = (Inbox::new(usize::MAX, usize::MAX), watch::Sender::new(()));
        Self { book: Mutex::new(book), work, changed }
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

impl NodeTables {
    /// Sends dead letters to the log again, behind what their topics have got since. Each is gone
    /// once the log has it.
    pub fn replay_dead_letters(&self, which: &Which) -> Marked {
        let marked = self.dead_letters.book.lock().replay(which);
        self.dead_letters.work.push(DeadWork::Replay, 64);
        marked
    }

    /// Removes dead letters.
    pub fn drop_dead_letters(&self, which: &Which) -> Marked {
        let marked = self.dead_letters.book.lock().drop_these(which);
        self.metrics.dead_letters_dropped.add(marked.ids.len() as u64);
        for ids in marked.ids.chunks(DROP_AT_ONCE) {
            self.remove_dead_letters(ids);
        }
        marked
    }

    fn remove_dead_letters(&self, ids: &[DeadId]) {
        let ops: Vec<StoreOp> = ids.iter().map(|id| StoreOp::DropDeadLetter { id: *id }).collect();
        let bytes = 64 * ops.len();
        let (tokens, transaction, origin) = (Vec::new(), None, None);
        self.storage.push(StorageWork::Write { ops, tokens, transaction, origin }, bytes);
    }
}
