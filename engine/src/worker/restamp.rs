//! After a jump of the wall clock: the store's stamps of the sessions that went offline before it are written again.
//! The next start tells by them how long each was offline.
//!
//! Bounds: [`AT_ONCE`] sessions are looked at in a turn, and none while the store is behind.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Worker;
use super::state::sessions::Walk;
use crate::ports::SessionOp;

/// Sessions looked at in a turn.
const AT_ONCE: usize = 256;

impl Worker {
    /// One turn; without a jump nothing.
    pub fn restamp_sessions(&self) {
        let clock = &self.shared.clock;
        let (before, jumps) = (self.restamp.get(), clock.jumps());
        if before.jumps != jumps {
            // This step's time may have been read before the clock was set. The next step writes the stamps.
            return self.restamp.set(Walk { jumps, next: Some(0) });
        }
        let Some(first) = before.next else { return };
        // What is inherited is not told from what is being written of it; and a store that is behind comes first.
        let pending =
            self.outside.storage_bytes() + self.shared.parked_bytes.load(Ordering::Relaxed);
        let is_behind = pending >= self.shared.settings.storage.max_pending_bytes;
        if is_behind || !self.orphans.borrow().is_empty() {
            return;
        }
        let sessions = self.sessions.borrow();
        let end = sessions.slots.capacity();
        let mut at = first;
        while at < end.min(first + AT_ONCE) {
            if let Some(session) = sessions.slots.get(at)
                && session.conn.is_none()
                && let Some(stored) = &session.stored
                && let Some(since) = stored.offline_since
            {
                // Its row is about to be another node's. If it stays, it is written then.
                if session.handover.is_some() {
                    break;
                }
                self.effects.borrow_mut().ops.push(
                    SessionOp::PutSession {
                        id: stored.id,
                        client_id: Arc::clone(&session.client_id),
                        epoch: session.epoch,
                        disconnected_ms: Some(clock.to_wall(self.now(), since)),
                    }
                    .into(),
                );
            }
            at += 1;
        }
        drop(sessions);
        self.restamp.set(Walk { jumps, next: (at < end).then_some(at) });
        self.flush();
    }
}
