//! From a message to its subscribers on this worker: straight into the outgoing buffer where the
//! session's window and buffer have room, else into its queue.

use std::rc::Rc;
use std::sync::Arc;

use hydrant_protocol::cluster::message::Recipients;
use hydrant_protocol::cluster::stream_marker::Whose;
use hydrant_protocol::session::Waiting;
use hydrant_protocol::{QoS, wire};

use crate::cluster::EARLIER_STARTS;
use crate::messages::StorageWork;
use crate::metrics::DropReason;
use crate::ports::{OutgoingStage, QueueEntry, SessionOp};
use crate::settings::Overflow;

use super::state::publication::Publication;
use super::state::sessions::{Session, Stored};
use super::{Conn, Continuation, Worker};

impl Worker {
    /// Encodes a PUBLISH for a connection and counts it.
    pub(super) fn write_publish(&self, conn: &Conn, publish: &wire::Publish<'_>) {
        let &wire::Publish { dup, qos, retain, topic, packet_id, payload } = publish;
        self.write(conn, |out| {
            wire::put_publish(out, topic, payload, qos, dup, retain, packet_id);
        });
        self.count_publish_out(qos, payload.len());
    }

    fn count_publish_out(&self, qos: QoS, payload: usize) {
        self.metrics.publishes_out[qos as usize].add_unshared(1);
        self.metrics.payload_out.add_unshared(payload as u64);
    }

    /// Delivers to one session of this worker. RETAIN is 0: it matches an established
    /// subscription ([MQTT-3.3.1-9]).
    pub(super) fn deliver(
        &self,
        slot: u32,
        granted: QoS,
        recipients: Recipients,
        publication: &mut Publication<'_>,
    ) {
        let qos = granted.min(publication.qos);
        let mut sessions = self.sessions.borrow_mut();
        let Some(session) = sessions.get(slot) else { return };
        if publication.orphan != 0
            && !session
                .stored
                .as_ref()
                .is_some_and(|stored| self.was_held_by(stored.orphan, publication.orphan))
        {
            return;
        }
        if publication.orphan != 0 && self.was_stored(publication.batch, &session.client_id) {
            return;
        }
        // What one that is still elsewhere has is known when it comes.
        let absent = session.handover.as_ref().is_some_and(|handover| handover.transit.absent);
        if !absent && publication.coming.is_some_and(|coming| self.has_prepared(session, coming)) {
            return;
        }
        if self.comes_otherwise(session, publication) {
            return;
        }
        if let Some(handover) = &session.handover {
            match handover.whose(publication.stream) {
                Whose::Ours => {}
                Whose::NotOurs => return,
                Whose::OursSoon | Whose::Targets => {
                    if qos != QoS::AtMostOnce && recipients != Recipients::Live {
                        self.buffer(slot, session, qos, publication);
                    }
                    return;
                }
            }
        }
        if qos == QoS::AtMostOnce {
            if recipients != Recipients::Queues {
                self.deliver_qos0(session, publication);
            }
        } else if session.stored.is_some() {
            if recipients != Recipients::Live {
                self.deliver_stored(slot, session, qos, false, publication);
            }
        } else if recipients != Recipients::Queues {
            self.deliver_clean(session, qos, false, publication);
        }
    }

    /// Whether a session that is known as this orphaned state's was held by this lost incarnation.
    pub(super) fn was_held_by(&self, orphan: u64, incarnation: u64) -> bool {
        if orphan != EARLIER_STARTS {
            return orphan == incarnation;
        }
        let cluster = self.shared.cluster.as_ref();
        cluster.is_some_and(|cluster| cluster.continues(incarnation))
    }

    fn deliver_qos0(&self, session: &mut Session, publication: &mut Publication<'_>) {
        match &session.conn {
            Some(conn) if conn.phase().is_live() => {
                if self.output_is_full(conn, publication.cost()) {
                    self.metrics.drop_one(
                        DropReason::SlowSubscriber,
                        &session.client_id,
                        publication.topic,
                    );
                    return;
                }
                if publication.frame.is_empty() {
                    wire::put_publish(
                        &mut publication.frame,
                        publication.topic,
                        publication.payload,
                        QoS::AtMostOnce,
                        false,
                        false,
                        None,
                    );
                }
                self.write(conn, |out| out.extend_from_slice(&publication.frame));
                self.count_publish_out(QoS::AtMostOnce, publication.payload.len());
            }
            _ if self.shared.settings.session.queue_qos0 && session.stored.is_some() => {
                if let Some(stored) = &mut session.stored
                    && self.has_queue_room(
                        stored,
                        (&session.client_id, session.conn.is_none()),
                        publication,
                    )
                {
                    stored.spilled = true;
                    self.put_queued(stored, QoS::AtMostOnce, false, None, publication);
                }
            }
            _ => self.metrics.drop_one(DropReason::Offline, &session.client_id, publication.topic),
        }
    }

    /// To a session that ends with its connection: nothing is stored.
    pub(super) fn deliver_clean(
        &self,
        session: &mut Session,
        qos: QoS,
        retain: bool,
        publication: &mut Publication<'_>,
    ) {
        let settings = &self.shared.settings;
        let Some(conn) = session.conn.clone() else { return };
        if conn.phase().is_established()
            && session.outbound.can_send(settings.session.max_inflight)
            && !self.output_is_full(&conn, publication.cost())
        {
            let id = session.outbound.send(qos, 0, 0);
            let publish = wire::Publish {
                dup: false,
                qos,
                retain,
                topic: publication.topic,
                packet_id: Some(id),
                payload: publication.payload,
            };
            self.write_publish(&conn, &publish);
            return;
        }
        let never_fits = publication.cost() > settings.session.max_queued_bytes;
        while session.outbound.waiting() >= settings.session.max_queued_messages
            || session.outbound.waiting_bytes() + publication.cost()
                > settings.session.max_queued_bytes
            || self.is_past_share(session.outbound.memory() + publication.cost())
        {
            self.metrics.drop_one(DropReason::QueueFull, &session.client_id, publication.topic);
            if settings.session.overflow == Overflow::DropNew
                || never_fits
                || session.outbound.drop_oldest().is_none()
            {
                return self.recount_waiting(&conn, session.outbound.memory());
            }
        }
        conn.wants_pump.set(true);
        session.outbound.wait(Waiting { sequence: 0, qos, retain, message: publication.message() });
        self.recount_waiting(&conn, session.outbound.memory());
    }

    /// To a persistent session: a queue entry in the store, and at once on the wire where the
    /// window has room.
    pub(super) fn deliver_stored(
        &self,
        slot: u32,
        session: &mut Session,
        qos: QoS,
        retain: bool,
        publication: &mut Publication<'_>,
    ) {
        let settings = &self.shared.settings;
        let Some(stored) = &mut session.stored else { return };
        if !self.has_queue_room(stored, (&session.client_id, session.conn.is_none()), publication) {
            return;
        }
        let conn = session.conn.clone().filter(|conn| conn.phase().is_live());
        let Some(conn) = conn.filter(|_| !stored.spilled) else {
            stored.spilled = true;
            self.put_queued(stored, qos, retain, None, publication);
            return;
        };
        let room = session.outbound.can_send(settings.session.max_inflight)
            && !self.output_is_full(&conn, publication.cost());
        if room {
            let cost = u32::try_from(publication.cost()).unwrap_or(u32::MAX);
            let id = session.outbound.send(qos, stored.next_sequence, cost);
            self.put_queued(stored, qos, retain, Some((id, OutgoingStage::Publish)), publication);
            if qos == QoS::ExactlyOnce || publication.held() {
                let session = session.key(slot);
                let message = publication.message();
                self.wait_for_store(Continuation::Outgoing {
                    session,
                    conn,
                    packet_id: id,
                    qos,
                    retain,
                    message,
                });
            } else {
                let publish = wire::Publish {
                    dup: false,
                    qos,
                    retain,
                    topic: publication.topic,
                    packet_id: Some(id),
                    payload: publication.payload,
                };
                self.write_publish(&conn, &publish);
            }
            return;
        }
        conn.wants_pump.set(true);
        // QoS 2, and what is not stored, does not wait in memory: a place in the window would send it on
        // the strength of its packet id alone, which can be stored before the message is (the outbox
        // is full). A page shows it only once it is stored.
        let outbound = &session.outbound;
        let in_memory = outbound.waiting() < settings.session.max_queued_in_memory
            && outbound.memory() + publication.cost()
                <= settings.session.max_queued_in_memory_bytes
            && !self.is_past_share(outbound.memory() + publication.cost());
        if in_memory && qos != QoS::ExactlyOnce && !publication.held() {
            let sequence = stored.next_sequence;
            self.put_queued(stored, qos, retain, None, publication);
            session.outbound.wait(Waiting {
                sequence,
                qos,
                retain,
                message: publication.message(),
            });
            self.recount_waiting(&conn, session.outbound.memory());
        } else {
            stored.spilled = true;
            stored.read_from = stored.next_sequence;
            self.put_queued(stored, qos, retain, None, publication);
        }
    }

    /// Whether one more message may be queued for a persistent session; `overflow` decides when it
    /// is full.
    fn has_queue_room(
        &self,
        stored: &mut Stored,
        (client, offline): (&str, bool),
        publication: &Publication<'_>,
    ) -> bool {
        let settings = &self.shared.settings.session;
        let never_fits = publication.cost() > settings.max_queued_bytes;
        while stored.queued >= settings.max_queued_messages as u64
            || stored.queued_bytes + publication.cost() as u64 > settings.max_queued_bytes as u64
        {
            self.metrics.drop_one(DropReason::QueueFull, client, publication.topic);
            // A connected session keeps what it has: its oldest may be on the wire.
            if settings.overflow == Overflow::DropNew
                || !offline
                || never_fits
                || stored.queued == 0
            {
                return false;
            }
            self.drop_oldest(stored);
        }
        true
    }

    fn put_queued(
        &self,
        stored: &mut Stored,
        qos: QoS,
        retain: bool,
        outgoing: Option<(hydrant_protocol::PacketId, OutgoingStage)>,
        publication: &mut Publication<'_>,
    ) {
        let sequence = stored.next_sequence;
        stored.next_sequence += 1;
        stored.queued += 1;
        stored.queued_bytes += publication.cost() as u64;
        let entry = QueueEntry { sequence, qos, retain, message: publication.message(), outgoing };
        self.effects.borrow_mut().ops.push(SessionOp::PutQueued { id: stored.id, entry }.into());
    }

    /// `overflow = "drop_old"` of an offline session. An entry's size is not in memory: the average stands for it.
    fn drop_oldest(&self, stored: &mut Stored) {
        let sequence = stored.left.pop_first().unwrap_or_else(|| {
            stored.oldest += 1;
            stored.oldest - 1
        });
        stored.queued_bytes -= stored.queued_bytes / stored.queued.max(1);
        stored.queued = stored.queued.saturating_sub(1);
        self.effects
            .borrow_mut()
            .ops
            .push(SessionOp::DeleteQueued { id: stored.id, sequence }.into());
    }

    /// Sends what waits, as far as window and buffer allow; asks for the next page of a queue that
    /// is in the store.
    pub fn pump(&self, conn: &Rc<Conn>) {
        if !conn.phase().is_live() {
            return;
        }
        let Some(slot) = conn.session.get() else { return };
        let settings = &self.shared.settings;
        let mut sessions = self.sessions.borrow_mut();
        let Some(session) = sessions.get(slot) else { return };
        conn.wants_pump.set(false);
        loop {
            let cost = session.outbound.first_waiting().map_or(0, |next| next.message.cost());
            if self.output_is_full(conn, cost) {
                conn.wants_pump.set(true);
                return self.recount_waiting(conn, session.outbound.memory());
            }
            let Some(next) = session.outbound.next_waiting(settings.session.max_inflight) else {
                break;
            };
            self.send_waiting(slot, session, conn, &next);
        }
        self.recount_waiting(conn, session.outbound.memory());
        self.retained_may_go_on(conn, session);
        if session.outbound.waiting() > 0 {
            // The window is full: the next PUBACK or PUBCOMP goes on, not an empty buffer.
            return;
        }
        session.outbound.shrink();
        if let Some(stored) = &mut session.stored
            && stored.spilled
            && stored.reading.is_none()
        {
            if self.remote_half_done.get() {
                // A router died: a page would not show what is yet to be handed over, and reading
                // would go on behind it. This is called again then.
                return;
            }
            // What is decided and not flushed stands before the read in the store's inbox.
            self.flush();
            // While the buffers are full, what is read back is no more than the connection's share.
            let max_bytes = settings.session.max_queued_in_memory_bytes;
            let max_bytes = if self.is_past_share(max_bytes) { self.share() } else { max_bytes };
            let request = self.next_number();
            stored.reading = Some(request);
            stored.read_until = stored.next_sequence;
            self.outside.storage(
                StorageWork::ReadQueue {
                    worker: self.index,
                    slot,
                    request,
                    session: stored.id,
                    from: stored.read_from,
                    until: stored.read_until,
                    limit: settings.session.max_queued_in_memory,
                    max_bytes,
                },
                64,
            );
        }
    }

    fn send_waiting(&self, slot: u32, session: &mut Session, conn: &Rc<Conn>, next: &Waiting) {
        let message = &next.message;
        if next.qos == QoS::AtMostOnce {
            let publish = wire::Publish {
                dup: false,
                qos: QoS::AtMostOnce,
                retain: next.retain,
                topic: &message.topic,
                packet_id: None,
                payload: &message.payload,
            };
            self.write_publish(conn, &publish);
            if let Some(stored) = &mut session.stored {
                let id = stored.id;
                self.forget_queued(stored, next.sequence, message.cost() as u64);
                self.effects
                    .borrow_mut()
                    .ops
                    .push(SessionOp::DeleteQueued { id, sequence: next.sequence }.into());
            }
            return;
        }
        let cost = u32::try_from(message.cost()).unwrap_or(u32::MAX);
        let packet_id = session.outbound.send(next.qos, next.sequence, cost);
        if let Some(stored) = &session.stored {
            self.effects.borrow_mut().ops.push(
                SessionOp::PutOutgoing {
                    id: stored.id,
                    sequence: next.sequence,
                    packet_id,
                    stage: OutgoingStage::Publish,
                }
                .into(),
            );
            if next.qos == QoS::ExactlyOnce || message.qos == QoS::ExactlyOnce {
                self.wait_for_store(Continuation::Outgoing {
                    session: session.key(slot),
                    conn: Rc::clone(conn),
                    packet_id,
                    qos: next.qos,
                    retain: next.retain,
                    message: Arc::clone(message),
                });
                return;
            }
        }
        let publish = wire::Publish {
            dup: false,
            qos: next.qos,
            retain: next.retain,
            topic: &message.topic,
            packet_id: Some(packet_id),
            payload: &message.payload,
        };
        self.write_publish(conn, &publish);
    }

    pub(super) fn forget_queued(&self, stored: &mut Stored, sequence: u64, cost: u64) {
        stored.queued = stored.queued.saturating_sub(1);
        stored.queued_bytes = stored.queued_bytes.saturating_sub(cost);
        if stored.queued == 0 {
            // Where estimates went into the sum, it begins anew.
            stored.queued_bytes = 0;
        }
        if sequence == stored.oldest {
            stored.oldest += 1;
        }
    }
}
