//! From a message to its subscribers on this arbiter: straight into the outgoing buffer where the
//! session's window and buffer have room, else into its queue.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use hydrant_protocol::cluster::marks::{Lane, Whose};
use hydrant_protocol::cluster::message::Open;
use hydrant_protocol::session::Waiting;
use hydrant_protocol::{Message, QoS, wire};

use crate::metrics::DropReason;
use crate::ports::{OutgoingStage, QueueEntry, StoreOp};
use crate::settings::Overflow;
use crate::shared::StorageWork;

use super::batch::Phase;
use super::open::Coming;
use super::sessions::{ANY_ESTATE, Session, Stored};
use super::{Conn, Shard, WaitKind};

/// A message as the router sees it: borrowed, and made an owned one only when somebody keeps it.
pub struct View<'a> {
    pub topic: &'a str,
    pub payload: &'a [u8],
    pub qos: QoS,
    /// The route waits for the store.
    pub durable: bool,
    /// Set when `topic` is held somewhere already.
    pub shared_topic: Option<&'a Arc<str>>,
    pub owned: Option<Arc<Message>>,
    /// Where it was published: node and router.
    pub lane: Lane,
    /// Not 0: only for sessions that this lost incarnation held.
    pub estate: u64,
    /// Some of the sessions that match may have it.
    pub coming: Option<Coming>,
    /// It must not be taken twice, by other nodes.
    pub open: Option<Open>,
    /// The packet as a QoS 0 subscriber gets it, encoded once for all of them.
    pub frame: Vec<u8>,
}

impl<'a> View<'a> {
    pub fn new(topic: &'a str, payload: &'a [u8], qos: QoS, durable: bool) -> Self {
        Self {
            topic,
            payload,
            qos,
            durable,
            shared_topic: None,
            owned: None,
            lane: (0, 0),
            estate: 0,
            coming: None,
            open: None,
            frame: Vec::new(),
        }
    }

    /// QoS 2 that is delivered only once stored.
    pub fn held(&self) -> bool {
        self.qos == QoS::ExactlyOnce && self.durable
    }

    pub fn cost(&self) -> usize {
        self.topic.len() + self.payload.len() + 64
    }

    pub fn message(&mut self) -> Arc<Message> {
        let (topic, payload, qos) = (self.topic, self.payload, self.qos);
        let shared = self.shared_topic;
        Arc::clone(self.owned.get_or_insert_with(|| {
            Arc::new(Message {
                topic: shared.map_or_else(|| Arc::from(topic), Arc::clone),
                payload: Bytes::copy_from_slice(payload),
                qos,
                retain: false,
                properties: None,
            })
        }))
    }
}

impl Shard {
    pub(super) fn count_publish_out(&self, qos: QoS, payload: usize) {
        self.metrics.publishes_out[qos as usize].inc();
        self.metrics.payload_out.add(payload as u64);
    }

    /// Delivers to one session of this arbiter. RETAIN is 0: it matches an established
    /// subscription ([MQTT-3.3.1-9]).
    pub(super) fn deliver(&self, slot: u32, granted: QoS, phase: Phase, view: &mut View<'_>) {
        let qos = granted.min(view.qos);
        let mut sessions = self.sessions.borrow_mut();
        let Some(session) = sessions.get(slot) else { return };
        if view.estate != 0
            && !session
                .stored
                .as_ref()
                .is_some_and(|stored| self.was_held_by(stored.estate, view.estate))
        {
            return;
        }
        // What one that is still elsewhere has is known when it comes.
        let absent = session.moving.as_ref().is_some_and(|moving| moving.transit.absent);
        if !absent && view.coming.is_some_and(|coming| self.has_open(session, coming)) {
            return;
        }
        if let Some(moving) = &session.moving {
            match moving.whose(view.lane, view.estate != 0) {
                Whose::Ours => {}
                Whose::NotOurs => return,
                Whose::OursSoon | Whose::Takers => {
                    if qos != QoS::AtMostOnce && phase != Phase::Live {
                        self.put_aside(slot, session, qos, view);
                    }
                    return;
                }
            }
        }
        if qos == QoS::AtMostOnce {
            if phase != Phase::Queues {
                self.deliver_qos0(session, view);
            }
        } else if session.stored.is_some() {
            if phase != Phase::Live {
                self.deliver_stored(slot, session, qos, false, view);
            }
        } else if phase != Phase::Queues {
            self.deliver_clean(session, qos, false, view);
        }
    }

    /// Whether a session that is known as this estate's was held by this lost incarnation.
    pub(super) fn was_held_by(&self, estate: u64, incarnation: u64) -> bool {
        if estate != ANY_ESTATE {
            return estate == incarnation;
        }
        let cluster = self.shared.cluster.as_ref();
        cluster.is_some_and(|cluster| cluster.continued.contains(&incarnation))
    }

    fn deliver_qos0(&self, session: &mut Session, view: &mut View<'_>) {
        match &session.conn {
            Some(conn) if conn.open.get() && conn.closing.get().is_none() => {
                if conn.out.borrow().len() >= self.shared.settings.limits.max_output_bytes {
                    self.metrics.drop_messages(DropReason::SlowSubscriber, 1);
                    return;
                }
                if view.frame.is_empty() {
                    wire::put_publish(
                        &mut view.frame,
                        view.topic,
                        view.payload,
                        QoS::AtMostOnce,
                        false,
                        false,
                        None,
                    );
                }
                self.write(conn, |out| out.extend_from_slice(&view.frame));
                self.count_publish_out(QoS::AtMostOnce, view.payload.len());
            }
            _ if self.shared.settings.session.queue_qos0 && session.stored.is_some() => {
                if let Some(stored) = &mut session.stored
                    && self.has_queue_room(stored, session.conn.is_none(), view)
                {
                    stored.spilled = true;
                    self.put_queued(stored, QoS::AtMostOnce, false, None, view);
                }
            }
            _ => self.metrics.drop_messages(DropReason::Offline, 1),
        }
    }

    /// To a session that ends with its connection: nothing is stored.
    pub(super) fn deliver_clean(
        &self,
        session: &mut Session,
        qos: QoS,
        retain: bool,
        view: &mut View<'_>,
    ) {
        let settings = &self.shared.settings;
        let Some(conn) = session.conn.clone() else { return };
        if conn.open.get()
            && session.outbound.can_send(settings.session.max_inflight)
            && conn.out.borrow().len() < settings.limits.max_output_bytes
        {
            let id = session.outbound.send(qos, 0, 0);
            self.write(&conn, |out| {
                wire::put_publish(out, view.topic, view.payload, qos, false, retain, Some(id));
            });
            self.count_publish_out(qos, view.payload.len());
            return;
        }
        let never_fits = view.cost() > settings.session.max_queued_bytes;
        while session.outbound.waiting() >= settings.session.max_queued_messages
            || session.outbound.waiting_bytes() + view.cost() > settings.session.max_queued_bytes
        {
            self.metrics.drop_messages(DropReason::QueueFull, 1);
            if settings.session.overflow == Overflow::DropNew
                || never_fits
                || session.outbound.drop_oldest().is_none()
            {
                return;
            }
        }
        conn.wants_pump.set(true);
        session.outbound.wait(Waiting { sequence: 0, qos, retain, message: view.message() });
    }

    /// To a persistent session: a queue entry in the store, and at once on the wire where the
    /// window has room.
    pub(super) fn deliver_stored(
        &self,
        slot: u32,
        session: &mut Session,
        qos: QoS,
        retain: bool,
        view: &mut View<'_>,
    ) {
        let settings = &self.shared.settings;
        let Some(stored) = &mut session.stored else { return };
        if !self.has_queue_room(stored, session.conn.is_none(), view) {
            return;
        }
        let conn =
            session.conn.clone().filter(|conn| conn.open.get() && conn.closing.get().is_none());
        let Some(conn) = conn.filter(|_| !stored.spilled) else {
            stored.spilled = true;
            self.put_queued(stored, qos, retain, None, view);
            return;
        };
        let room = session.outbound.can_send(settings.session.max_inflight)
            && conn.out.borrow().len() < settings.limits.max_output_bytes;
        if room {
            let cost = u32::try_from(view.cost()).unwrap_or(u32::MAX);
            let id = session.outbound.send(qos, stored.next_sequence, cost);
            self.put_queued(stored, qos, retain, Some((id, OutgoingStage::Publish)), view);
            if qos == QoS::ExactlyOnce || view.held() {
                let stamp = session.stamp;
                let message = view.message();
                self.wait_for_store(WaitKind::Outgoing {
                    slot,
                    stamp,
                    conn,
                    packet_id: id,
                    qos,
                    retain,
                    message,
                });
            } else {
                self.write(&conn, |out| {
                    wire::put_publish(out, view.topic, view.payload, qos, false, retain, Some(id));
                });
                self.count_publish_out(qos, view.payload.len());
            }
            return;
        }
        conn.wants_pump.set(true);
        // QoS 2, and what is not stored, does not wait in memory: a place in the window would send it on
        // the strength of its packet id alone, which can be stored before the message is (the outbox
        // is full). A page shows it only once it is stored.
        let in_memory = session.outbound.waiting() < settings.session.max_queued_in_memory;
        if in_memory && qos != QoS::ExactlyOnce && !view.held() {
            let sequence = stored.next_sequence;
            self.put_queued(stored, qos, retain, None, view);
            session.outbound.wait(Waiting { sequence, qos, retain, message: view.message() });
        } else {
            stored.spilled = true;
            stored.read_from = stored.next_sequence;
            self.put_queued(stored, qos, retain, None, view);
        }
    }

    /// Whether one more message may be queued for a persistent session; `overflow` decides when it
    /// is full.
    fn has_queue_room(&self, stored: &mut Stored, offline: bool, view: &View<'_>) -> bool {
        let settings = &self.shared.settings.session;
        let never_fits = view.cost() > settings.max_queued_bytes;
        while stored.queued >= settings.max_queued_messages as u64
            || stored.queued_bytes + view.cost() as u64 > settings.max_queued_bytes as u64
        {
            self.metrics.drop_messages(DropReason::QueueFull, 1);
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
        view: &mut View<'_>,
    ) {
        let sequence = stored.next_sequence;
        stored.next_sequence += 1;
        stored.queued += 1;
        stored.queued_bytes += view.cost() as u64;
        let entry = QueueEntry { sequence, qos, retain, message: view.message(), outgoing };
        self.outgoing.borrow_mut().ops.push(StoreOp::PutQueued { id: stored.id, entry });
    }

    /// `overflow = "drop_old"` of an offline session. Where acknowledgements came out of order
    /// before it went offline, an entry between others may be gone already: then nothing is removed
    /// and the queue is over its bound by that one. Its size is not in memory: the average stands for it.
    fn drop_oldest(&self, stored: &mut Stored) {
        let sequence = stored.oldest;
        stored.oldest += 1;
        stored.queued_bytes -= stored.queued_bytes / stored.queued.max(1);
        stored.queued = stored.queued.saturating_sub(1);
        self.outgoing.borrow_mut().ops.push(StoreOp::DeleteQueued { id: stored.id, sequence });
    }

    /// Sends what waits, as far as window and buffer allow; asks for the next page of a queue that
    /// is in the store.
    pub fn pump(&self, conn: &Rc<Conn>) {
        if !conn.open.get() || conn.closing.get().is_some() {
            return;
        }
        let Some(slot) = conn.session.get() else { return };
        let settings = &self.shared.settings;
        let mut sessions = self.sessions.borrow_mut();
        let Some(session) = sessions.get(slot) else { return };
        conn.wants_pump.set(false);
        loop {
            if conn.out.borrow().len() >= settings.limits.max_output_bytes {
                conn.wants_pump.set(true);
                return;
            }
            let Some(next) = session.outbound.next_waiting(settings.session.max_inflight) else {
                break;
            };
            self.send_waiting(slot, session, conn, &next);
        }
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
            let stamp = self.stamp();
            stored.reading = Some(stamp);
            stored.read_until = stored.next_sequence;
            self.shared.storage.push(
                StorageWork::ReadQueue {
                    shard: self.index,
                    slot,
                    stamp,
                    session: stored.id,
                    from: stored.read_from,
                    until: stored.read_until,
                    limit: settings.session.max_queued_in_memory,
                },
                64,
            );
        }
    }

    fn send_waiting(&self, slot: u32, session: &mut Session, conn: &Rc<Conn>, next: &Waiting) {
        let message = &next.message;
        if next.qos == QoS::AtMostOnce {
            self.write(conn, |out| {
                wire::put_publish(
                    out,
                    &message.topic,
                    &message.payload,
                    QoS::AtMostOnce,
                    false,
                    next.retain,
                    None,
                );
            });
            self.count_publish_out(QoS::AtMostOnce, message.payload.len());
            if let Some(stored) = &mut session.stored {
                let id = stored.id;
                self.forget_queued(stored, next.sequence, message.cost() as u64);
                self.outgoing
                    .borrow_mut()
                    .ops
                    .push(StoreOp::DeleteQueued { id, sequence: next.sequence });
            }
            return;
        }
        let cost = u32::try_from(message.cost()).unwrap_or(u32::MAX);
        let packet_id = session.outbound.send(next.qos, next.sequence, cost);
        if let Some(stored) = &session.stored {
            self.outgoing.borrow_mut().ops.push(StoreOp::PutOutgoing {
                id: stored.id,
                sequence: next.sequence,
                packet_id,
                stage: OutgoingStage::Publish,
            });
            if next.qos == QoS::ExactlyOnce || message.qos == QoS::ExactlyOnce {
                self.wait_for_store(WaitKind::Outgoing {
                    slot,
                    stamp: session.stamp,
                    conn: Rc::clone(conn),
                    packet_id,
                    qos: next.qos,
                    retain: next.retain,
                    message: Arc::clone(message),
                });
                return;
            }
        }
        self.write(conn, |out| {
            wire::put_publish(
                out,
                &message.topic,
                &message.payload,
                next.qos,
                false,
                next.retain,
                Some(packet_id),
            );
        });
        self.count_publish_out(next.qos, message.payload.len());
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
