//! Messages that are buffered for a session on its way ([`super::session_handover`]), and who waits until they are somebody's.
//!
//! Invariant: what another node's batch has brought is named in the store as missing for the session, until the write
//! that stores it.
//! Bounds: `session.max_queued_messages` and `session.max_queued_bytes`; past them the new one is dropped.

use std::sync::Arc;

use hydrant_protocol::QoS;

use crate::messages::{AckSource, CompletionToken, ManagerWork, SMALL};
use crate::metrics::DropReason;
use crate::ports::ClusterOp;

use super::state::handover::BufferedMessage;
use super::state::publication::Publication;
use super::state::sessions::Session;
use super::{Continuation, Worker};

impl Worker {
    /// Buffers a message for a session that is on its way.
    pub(super) fn buffer(
        &self,
        slot: u32,
        session: &mut Session,
        qos: QoS,
        publication: &mut Publication<'_>,
    ) {
        let Some(handover) = &mut session.handover else { return };
        let settings = &self.shared.settings.session;
        if handover.buffered.len() >= settings.max_queued_messages
            || handover.buffered_bytes + publication.cost() > settings.max_queued_bytes
        {
            self.metrics.drop_one(DropReason::QueueFull, &session.client_id, publication.topic);
            return;
        }
        let (message, durable, prepared) =
            (publication.message(), publication.durable, publication.coming);
        if !prepared.is_some_and(|prepared| handover.buffered_ids().any(|id| id == prepared.id)) {
            let batch = Some(publication.batch).filter(|batch| publication.held() && batch.1 != 0);
            handover.buffered_bytes += publication.cost();
            handover.buffered.push(BufferedMessage { qos, message, durable, prepared, batch });
            if let Some((origin, batch)) = batch {
                // In the write that says that the batch is stored.
                let client_id = Arc::clone(&session.client_id);
                let except = ClusterOp::ExceptPeerBatch { origin, batch, client_id };
                self.effects.borrow_mut().ops.push(except.into());
            }
        }
        if durable {
            let mut effects = self.effects.borrow_mut();
            if !effects.buffered.contains(&slot) {
                effects.buffered.push(slot);
            }
        }
    }

    /// A wait goes on only when what was buffered for this session is somebody's.
    pub(super) fn wait_for_arrival(&self, slot: u32, token: CompletionToken) {
        let mut sessions = self.sessions.borrow_mut();
        match sessions.get(slot).and_then(|session| session.handover.as_mut()) {
            Some(handover) if !handover.buffered.is_empty() => handover.tokens.push(token),
            // That has come about meanwhile.
            _ => self.effects.borrow_mut().tokens.push(token),
        }
    }

    /// What another worker waits for, beside the store: the sessions for which something was buffered.
    pub(super) fn wait_for_arrivals(
        &self,
        slots: &[u32],
        late: impl Iterator<Item = CompletionToken>,
    ) {
        for token in late {
            if slots.is_empty() {
                let completed = ManagerWork::Completed([token].into());
                self.outside.manager(token.worker, completed, SMALL);
                continue;
            }
            let pending = self.pend(false, false, slots.len(), Continuation::Forward(token));
            for slot in slots {
                self.wait_for_arrival(*slot, self.token(AckSource::Peer, pending));
            }
        }
    }

    /// What was buffered is the session's.
    pub(super) fn queue_buffered(&self, slot: u32) {
        self.flag_handover(slot, false);
        let (buffered, tokens) = {
            let mut sessions = self.sessions.borrow_mut();
            let Some(session) = sessions.get(slot) else { return };
            let Some(handover) = &mut session.handover else { return };
            handover.buffered_bytes = 0;
            let buffered =
                (std::mem::take(&mut handover.buffered), std::mem::take(&mut handover.tokens));
            if handover.is_over() {
                session.handover = None;
            }
            buffered
        };
        for buffered in buffered {
            let message = &buffered.message;
            let mut publication =
                Publication::new(&message.topic, &message.payload, message.qos, buffered.durable);
            publication.owned = Some(Arc::clone(message));
            let mut sessions = self.sessions.borrow_mut();
            let Some(session) = sessions.get(slot) else { return };
            self.deliver_stored(slot, session, buffered.qos, false, &mut publication);
            let client = Arc::clone(&session.client_id);
            self.is_complete(&buffered, &client);
        }
        self.effects.borrow_mut().tokens.extend(tokens);
        self.flush();
        self.retained_may_begin(slot);
    }

    /// What a session gets of a batch is stored, together with what was said before.
    pub(super) fn is_complete(&self, buffered: &BufferedMessage, client: &Arc<str>) {
        if let Some((origin, batch)) = buffered.batch {
            let client_id = Arc::clone(client);
            let complete = ClusterOp::CompletePeerBatch { origin, batch, client_id };
            self.effects.borrow_mut().ops.push(complete.into());
        }
    }
}
