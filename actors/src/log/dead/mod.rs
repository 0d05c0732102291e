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

pub use hydrant_engine::log::dead::{DeadBook, DeadLetters, DeadState, Marked, Settled, Which};

use std::time::Duration;

use crate::mailboxes::Mailboxes;
use crate::messages::{DeadWork, StorageWork};
use crate::node_tables::NodeTables;
use crate::ports::{DeadId, LogOp, StoreOp};

/// Removals in one write.
const DROP_AT_ONCE: usize = 1000;

impl Mailboxes {
    /// Sends dead letters to the log again, behind what their topics have got since. Each is gone
    /// once the log has it.
    pub fn replay_dead_letters(&self, tables: &NodeTables, which: &Which) -> Marked {
        let marked = tables.dead_letters.book.lock().replay(which);
        self.dead_letters.push(DeadWork::Replay, 64);
        marked
    }

    /// Waits until nothing is under way with these dead letters, at most so long.
    pub async fn settle_dead_letters(
        &self,
        tables: &NodeTables,
        ids: &[DeadId],
        patience: Duration,
    ) -> Settled {
        let mut changed = self.dead_letters_changed.subscribe();
        let settled = || tables.dead_letters.book.lock().settled(ids);
        // Who looks at many does so seldom: a step of the log queue that has to do with a dead letter waits meanwhile.
        let pause = Duration::from_micros(ids.len() as u64);
        let over = async {
            while settled().pending > 0 && changed.changed().await.is_ok() {
                tokio::time::sleep(pause).await;
            }
        };
        let _ = tokio::time::timeout(patience, over).await;
        settled()
    }

    /// Removes dead letters.
    pub fn drop_dead_letters(&self, tables: &NodeTables, which: &Which) -> Marked {
        let marked = tables.dead_letters.book.lock().drop_these(which);
        tables.metrics.dead_letters_dropped.add(marked.ids.len() as u64);
        for ids in marked.ids.chunks(DROP_AT_ONCE) {
            self.remove_dead_letters(ids);
        }
        marked
    }

    fn remove_dead_letters(&self, ids: &[DeadId]) {
        let ops: Vec<StoreOp> =
            ids.iter().map(|id| StoreOp::Log(LogOp::DropDeadLetter { id: *id })).collect();
        let bytes = 64 * ops.len();
        let (tokens, transaction, origin) = (Vec::new(), None, None);
        self.storage.push(StorageWork::Write { ops, tokens, transaction, origin }, bytes);
    }
}
