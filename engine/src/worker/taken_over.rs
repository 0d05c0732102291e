//! Sessions of a lost incarnation, at its successor or at the next start of its own node, until every router of
//! every node has sent again what it kept for that incarnation and has passed its marker (decision 0015).
//!
//! Invariant: a publish is the session's once. Before a router's marker the copy that is sent again counts, behind
//! the marker the direct one does. What only a filter matches that the session got since, nobody keeps: of that the
//! direct one counts at once.
//! Bounds: an entry an unsettled incarnation; the filters of before for a session that changed them meanwhile.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use hydrant_protocol::QoS;
use hydrant_protocol::cluster::stream_marker::{MarkedStreams, PublishStream};
use hydrant_protocol::topic::TopicFilter;

use crate::cluster::EARLIER_STARTS;
use crate::ports::{PreparedPublish, SessionOp, StoredBatch, StoredSession, StoredWill};
use crate::subscriptions::Subscriber;

use super::state::publication::Publication;
use super::state::sessions::Session;
use super::{Conn, Worker};

impl Worker {
    /// What a lost node held: its sessions are offline ones of this node, its wills fire.
    pub fn take_over_sessions(
        &self,
        sessions: &[StoredSession],
        wills: &[StoredWill],
        prepared: &[PreparedPublish],
        (incarnation, batches): (u64, &[StoredBatch]),
    ) {
        if !sessions.is_empty() {
            self.await_markers(incarnation);
            self.begin_dedup(incarnation, batches);
        }
        for session in sessions {
            let client = &session.client_id;
            // What was buffered for it here comes again, from those who had sent it there.
            self.forget_handover(client);
            let known = self.sessions.borrow().by_client.contains_key(client);
            if known {
                // Its client has begun another one here meanwhile, which replaces it ([MQTT-3.1.2-6]).
                let (id, client_id) = (session.id, Arc::clone(client));
                let ended = SessionOp::DeleteSession { id, client_id };
                self.effects.borrow_mut().ops.push(ended.into());
            } else {
                self.restore_session(session, incarnation);
            }
        }
        self.hold_prepared(prepared);
        // Before every member has told what it wants, nobody knows for whom a will is.
        let cluster = self.shared.cluster.as_ref();
        let knows_all = cluster.is_none_or(|cluster| cluster.status.is_synced());
        for will in wills {
            match knows_all {
                true => self.restore_will(will),
                false => self.hold_will(will.clone()),
            }
        }
        self.flush();
    }

    /// Sessions of a lost incarnation are here.
    pub(super) fn await_markers(&self, incarnation: u64) {
        let marked = Rc::new(RefCell::new(MarkedStreams::new(incarnation)));
        self.orphans.borrow_mut().insert(incarnation, marked);
    }

    /// The sessions of earlier starts of this node are here. Its own routers have published nothing for them.
    pub fn await_own_markers(&self) {
        let predecessor = self.shared.cluster.as_ref().and_then(|cluster| cluster.predecessor());
        if let Some(incarnation) = predecessor {
            let mut marked = MarkedStreams::new(incarnation);
            marked.mark(PublishStream::all_of(0), 1);
            self.orphans.borrow_mut().insert(incarnation, Rc::new(RefCell::new(marked)));
        }
    }

    /// Whether a publish comes to a session in another way: the copy of it that is sent again, or the direct one.
    pub(super) fn comes_otherwise(&self, session: &Session, publication: &Publication<'_>) -> bool {
        let orphans = self.orphans.borrow();
        if orphans.is_empty() {
            return false;
        }
        let Some(stored) = &session.stored else { return false };
        let Some(marked) = self.orphan(stored.orphan).and_then(|orphan| orphans.get(&orphan))
        else {
            return false;
        };
        let again = publication.orphan != 0;
        if !again && marked.borrow().has(publication.stream) {
            return false;
        }
        let before = stored.filters_before.as_ref();
        let kept =
            before.is_none_or(|filters| filters.iter().any(|f| f.matches(publication.topic)));
        kept != again
    }

    /// A session is about to change its filters: those of before say what is kept for it.
    pub(super) fn remember_filters(&self, session: &mut Session, subscriber: Subscriber) {
        let orphans = self.orphans.borrow();
        let Some(stored) = &mut session.stored else { return };
        let unsettled =
            self.orphan(stored.orphan).is_some_and(|orphan| orphans.contains_key(&orphan));
        if unsettled && stored.filters_before.is_none() {
            // Of QoS 0 nobody keeps anything.
            let table = self.shared.subscriptions.read();
            let kept = |filter: &&TopicFilter| {
                table.granted(filter, subscriber).is_some_and(|qos| qos != QoS::AtMostOnce)
            };
            stored.filters_before = Some(session.filters.iter().filter(kept).cloned().collect());
        }
    }

    /// The incarnation by whose markers an orphaned state is settled; `None`: it is not a lost one's.
    pub(super) fn orphan(&self, orphan: u64) -> Option<u64> {
        match orphan {
            0 => None,
            EARLIER_STARTS => self.shared.cluster.as_ref()?.predecessor(),
            orphan => Some(orphan),
        }
    }

    /// Whether a claim may wait for the session of a node that is lost: that takes longer than
    /// `limits.connect_timeout`, and no longer than such a loss is felt.
    pub(super) fn waits_for_take_over(&self, now_ms: u64, conn: &Conn) -> bool {
        let Some(cluster) = &self.shared.cluster else { return false };
        let most = cluster.settings.repair + self.shared.settings.limits.connect_timeout;
        let most = u64::try_from(most.as_millis()).unwrap_or(u64::MAX);
        cluster.status.some_are_absent() && now_ms.saturating_sub(conn.accepted_ms) < most
    }

    /// Every node has sent again what a lost incarnation had not stored.
    pub fn settled(&self, incarnation: u64) {
        if self.orphans.borrow_mut().remove(&incarnation).is_none() {
            return;
        }
        let mut may_begin = Vec::new();
        for (_, session) in &mut self.sessions.borrow_mut().slots {
            if let Some(stored) = &mut session.stored
                && self.orphan(stored.orphan) == Some(incarnation)
            {
                stored.filters_before = None;
                may_begin.extend(session.conn.clone().filter(|_| session.retained.is_some()));
            }
        }
        may_begin.iter().for_each(|conn| self.stream_retained(conn));
    }
}
