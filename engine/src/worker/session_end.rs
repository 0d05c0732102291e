//! The sessions whose home is this worker, connected or not.
//!
//! Bounds: `session.max_sessions` persistent ones of the node; clean ones by
//! `limits.max_connections`; what they take by `session.max_bytes` and `session.max_total_bytes`.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::metrics::{CloseReason, DropReason};
use crate::ports::{SessionOp, StoreOp, StoredWill};
use crate::say::cut;
use crate::subscriptions::Subscriber;

use super::state::sessions::{Session, SessionKey};
use super::{Conn, Event, Worker};

impl Worker {
    /// Sessions of this worker, connected or not.
    pub fn session_count(&self) -> usize {
        self.sessions.borrow().slots.len()
    }

    /// Sets the gauges that are sums over the sessions of this worker.
    pub fn count_sessions(&self) {
        let sessions = self.sessions.borrow();
        let (mut offline, mut inflight, mut queued) = (0, 0, 0);
        for (_, session) in &sessions.slots {
            offline += u64::from(session.conn.is_none());
            inflight += session.outbound.in_flight() as u64;
            queued += match &session.stored {
                Some(stored) => stored.queued,
                None => session.outbound.waiting() as u64,
            };
        }
        self.metrics.sessions.set(sessions.slots.len() as u64);
        self.metrics.sessions_offline.set(offline);
        self.metrics.inflight.set(inflight);
        self.metrics.queued.set(queued);
    }

    pub(super) fn subscriber(&self, slot: u32, session: &Session) -> Subscriber {
        Subscriber { worker: self.index, persistent: session.stored.is_some(), slot }
    }

    /// True while `conn` is the session's connection.
    pub(super) fn is_current(&self, key: SessionKey, conn: &Rc<Conn>) -> bool {
        conn.phase().closing().is_none()
            && self.sessions.borrow_mut().find(key).is_some_and(|session| {
                session.conn.as_ref().is_some_and(|now| Rc::ptr_eq(now, conn))
            })
    }

    /// Removes a session with everything that belongs to it, here and in the store.
    pub(super) fn remove_session(&self, slot: u32) {
        let (session, subscriber) = {
            let mut sessions = self.sessions.borrow_mut();
            let Some(mut session) = sessions.slots.try_remove(slot as usize) else { return };
            sessions.by_client.remove(&session.client_id);
            self.end_handover(&mut session);
            let subscriber = self.subscriber(slot, &session);
            (session, subscriber)
        };
        for filter in &session.filters {
            self.remove_subscription(filter, subscriber);
        }
        self.session_ended(&session.client_id);
        let lost = session.outbound.waiting() as u64;
        match &session.stored {
            Some(stored) => {
                self.shared.persistent_sessions.fetch_sub(1, Ordering::Relaxed);
                let op = SessionOp::DeleteSession {
                    id: stored.id,
                    client_id: Arc::clone(&session.client_id),
                };
                self.effects.borrow_mut().ops.push(op.into());
            }
            None => self.metrics.drop_messages(
                DropReason::SessionEnded,
                lost,
                format_args!("client {}", cut(&session.client_id)),
            ),
        }
    }

    /// Removes persistent sessions that have been offline for longer than `session.expiry`.
    pub fn expire_sessions(&self) {
        let expiry = self.shared.settings.session.expiry;
        // What others keep for a session that was taken over is on its way to it.
        if expiry.is_zero() || !self.orphans.borrow().is_empty() {
            return;
        }
        let Some(limit) = self
            .shared
            .clock
            .at(self.now())
            .checked_sub(u64::try_from(expiry.as_millis()).unwrap_or(u64::MAX))
        else {
            return;
        };
        let expired: Vec<(u32, u64, Arc<str>)> = self
            .sessions
            .borrow()
            .slots
            .iter()
            .filter(|(_, session)| session.conn.is_none() && session.handover.is_none())
            .filter_map(|(slot, session)| {
                let stored = session.stored.as_ref()?;
                let since = stored.offline_since?;
                #[allow(clippy::cast_possible_truncation)]
                (since < limit)
                    .then(|| (slot as u32, stored.queued, Arc::clone(&session.client_id)))
            })
            .collect();
        for (slot, queued, client) in expired {
            self.metrics.sessions_expired.inc();
            let of = format_args!("client {}", cut(&client));
            self.metrics.drop_messages(DropReason::SessionExpired, queued, of);
            self.remove_session(slot);
        }
        self.flush();
    }

    /// The connection is over: its will, and what becomes of its session. Called exactly once a
    /// connection, by whoever learns first that it ends; the actor's end only removes the socket.
    pub fn detach(&self, conn: &Rc<Conn>, reason: CloseReason) {
        // The first reason counts: a DISCONNECT that a takeover follows discards the will all the same.
        let reason = conn.phase().closing().unwrap_or(reason);
        let reached = conn.phase().reached();
        conn.enter(Event::Detached(reason));
        let Some(slot) = conn.session.take() else { return self.never_arrived(conn, reached) };
        self.recount_waiting(conn, 0);
        self.recount_will(conn, 0);
        if let Some(will) = conn.will.take() {
            // [MQTT-3.14.4-2]: only DISCONNECT discards it.
            if reason == CloseReason::Disconnect {
                let StoredWill { client_id, connection, .. } = *will;
                let end = StoreOp::DeleteWill { client_id, connection };
                self.effects.borrow_mut().ops.push(end);
            } else {
                self.publish_will_behind(slot, *will);
            }
        }
        let persistent = {
            let mut sessions = self.sessions.borrow_mut();
            let Some(session) = sessions.get(slot) else { return };
            session.conn = None;
            match &mut session.stored {
                Some(stored) => {
                    stored.offline_since = Some(self.shared.clock.at(self.now()));
                    // Acknowledgements may have come in any order: below this, nothing is left.
                    let unread =
                        if stored.spilled { stored.read_from } else { stored.next_sequence };
                    let mut left = session.outbound.left();
                    let lowest = left.first().map_or(unread, |known| known.min(unread));
                    left.append_from(&stored.left, unread);
                    left.push(stored.oldest.max(unread)..stored.next_sequence);
                    stored.oldest = left.take_tail(stored.next_sequence);
                    stored.left = left;
                    stored.spilled = true;
                    stored.reading = None;
                    // Not from the first that ever was: a store may have to step over all that are gone.
                    stored.read_from = lowest;
                    session.charge.keep(session.outbound.in_flight());
                    session.outbound.clear();
                    let op = SessionOp::PutSession {
                        id: stored.id,
                        client_id: Arc::clone(&session.client_id),
                        epoch: session.epoch,
                        disconnected_ms: Some(self.unix_ms()),
                    };
                    let mut effects = self.effects.borrow_mut();
                    effects.ops.push(op.into());
                    if let Some(cursors) = &mut session.retained {
                        effects.ops.extend(cursors.leave(stored.id));
                    }
                    true
                }
                None => false,
            }
        };
        if !persistent {
            // [MQTT-3.1.2-6]: a clean session ends with its connection.
            self.remove_session(slot);
        }
        self.flush();
    }
}
