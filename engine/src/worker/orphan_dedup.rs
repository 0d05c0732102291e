//! Which prepared publishes the sessions of a lost incarnation have, at the successor or at the next start of their
//! node: a successor of their publishers may publish them again under their ids (decisions 0014 and 0015).
//!
//! Invariant: a session has what was put into its queue, not what its node has routed. That is: what its lost holder
//! had stored in named batches, what was sent again for it, and what came directly behind the marker of its router.
//! Bounds: an entry an incarnation that was taken over lately; of each stream what is prepared there, as in
//! [`DedupWindow`].

use std::sync::Arc;

use hydrant_protocol::cluster::dedup::{DedupSnapshot, DedupWindow};
use hydrant_protocol::cluster::message::{PublishId, Recipients};
use hydrant_protocol::cluster::stream_marker::PublishStream;

use crate::plants::{self, Plant};
use crate::ports::StoredBatch;

use super::Worker;
use super::state::replica::{Coming, OrphanDedup};
use super::state::sessions::{Session, Stored};

impl Worker {
    /// The sessions of a lost incarnation are here, and it had stored these.
    pub fn begin_dedup(&self, orphan: u64, batches: &[StoredBatch]) {
        let batches = if plants::is(Plant::SuccessorDoubles) { &[] } else { batches };
        let since_ms = self.now_ms();
        let mut dedup =
            OrphanDedup { window: DedupWindow::default(), except: Vec::new(), since_ms };
        for batch in batches {
            for id in &batch.prepared {
                // Nothing is known about what is no longer prepared.
                dedup.window.insert(*id, Recipients::Queues, 0);
                let except = batch.except.iter().map(|client| (*id, Arc::clone(client)));
                dedup.except.extend(except);
            }
        }
        self.dedup.borrow_mut().insert(orphan, dedup);
    }

    /// A prepared publish has been delivered to the sessions here that take it.
    pub(super) fn note_prepared(&self, coming: Coming, stream: PublishStream, resent_for: u64) {
        let mut dedup = self.dedup.borrow_mut();
        if dedup.is_empty() {
            return;
        }
        let orphans = self.orphans.borrow();
        for (orphan, dedup) in dedup.iter_mut() {
            let got = match resent_for {
                0 => orphans.get(orphan).is_none_or(|marked| marked.borrow().has(stream)),
                of => of == *orphan || self.is_own_orphan(*orphan, of),
            };
            if got {
                dedup.window.insert(coming.id, Recipients::Queues, coming.low_watermark);
            }
        }
    }

    /// Those that this start goes on with are one orphaned state.
    fn is_own_orphan(&self, orphan: u64, of: u64) -> bool {
        let cluster = self.shared.cluster.as_ref();
        cluster
            .is_some_and(|cluster| cluster.predecessor() == Some(orphan) && cluster.continues(of))
    }

    /// Whether a session that was taken over has a publish that comes again; `None`: it is not one that was taken over,
    /// or long here.
    pub(super) fn orphan_has(&self, session: &Session, id: PublishId) -> Option<bool> {
        let orphan = self.orphan(session.stored.as_ref()?.orphan)?;
        let dedup = self.dedup.borrow();
        let dedup = dedup.get(&orphan)?;
        let lacks =
            dedup.except.iter().any(|(of, client)| (*of, client) == (id, &session.client_id));
        Some(!lacks && dedup.window.has(id, Recipients::Queues))
    }

    /// What a session that was taken over takes along that goes to another node.
    pub(super) fn orphan_known(&self, stored: &Stored) -> Option<DedupSnapshot> {
        let orphan = self.orphan(stored.orphan)?;
        Some(self.dedup.borrow().get(&orphan)?.window.known())
    }

    /// Forgets orphaned states after that time: the prepared publishes of lost nodes are finished by then.
    pub(super) fn forget_dedup(&self, after_ms: u64) {
        let now = self.now_ms();
        let mut dedup = self.dedup.borrow_mut();
        dedup.retain(|_, dedup| now.saturating_sub(dedup.since_ms) < after_ms);
    }
}
