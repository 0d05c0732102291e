//! A session goes on: CONNACK is out, its queue comes back from the store page by page, what was
//! in flight is sent again under its packet id ([MQTT-4.4.0-1]).

use std::rc::Rc;
use std::sync::Arc;

use hydrant_protocol::session::{Acknowledged, Outbound, Waiting};
use hydrant_protocol::{PacketId, QoS, Violation, wire};

use crate::metrics::CloseReason;
use crate::ports::{OutgoingStage, QueueEntry, SessionOp};
use crate::say;

use super::abandon::Begun;
use super::{Conn, Continuation, Event, Worker};

impl Worker {
    /// CONNACK is in the outgoing buffer: from here on packets may follow it ([MQTT-3.2.0-1]).
    pub(super) fn connack_sent(&self, conn: &Rc<Conn>) {
        conn.enter(Event::ConnackSent);
        // The keep-alive does not run while nothing behind CONNECT was read.
        conn.last_packet_ms.set(self.now_ms());
        self.metrics.connects.inc();
        self.pump(conn);
    }

    /// A page of a session's queue has been read. When this panics, a second call goes on behind
    /// the last entry that was taken back.
    pub fn queue_page(&self, slot: u32, request: u32, entries: &[QueueEntry]) {
        if self.gives_up(slot, request) {
            return;
        }
        let conn = {
            let mut sessions = self.sessions.borrow_mut();
            let Some(session) = sessions.get(slot) else { return };
            let Some(conn) = session.conn.clone() else { return };
            let Some(stored) = &mut session.stored else { return };
            if stored.reading != Some(request) || !conn.phase().is_established() {
                // An answer to a connection that is gone; the one after it has asked for its own.
                return;
            }
            // The page may show what was written after it was asked for, and not yet what was
            // written before that: what came since is read next, in order.
            let until = stored.read_until;
            let seen = entries.partition_point(|entry| entry.sequence < until);
            let entries = &entries[..seen];
            if entries.is_empty() {
                // Nothing below what there was when it was asked for.
                stored.read_from = stored.read_from.max(until);
            }
            let from = stored.read_from;
            let mut is_full = false;
            for entry in entries.iter().filter(|entry| entry.sequence >= from) {
                // The rest is read once more when the socket has taken this.
                // One goes in any case: an empty buffer calls nobody.
                is_full = entry.outgoing.is_some()
                    && !conn.out.borrow().is_empty()
                    && self.output_is_full(&conn, entry.message.cost());
                // Pages that were asked for before the buffers were full: the rest is read again later.
                let out = &session.outbound;
                let waits = entry.outgoing.is_none() && out.waiting() > 0;
                if is_full || waits && self.is_past_share(out.memory() + entry.message.cost()) {
                    break;
                }
                self.take_back(&mut session.outbound, &conn, entry);
                stored.read_from = entry.sequence + 1;
            }
            stored.reading = None;
            stored.spilled = stored.read_from < stored.next_sequence;
            // What is in flight stands before all that waits.
            let in_flight = is_full || entries.last().is_some_and(|last| last.outgoing.is_some());
            if !stored.spilled || !in_flight {
                conn.replaying.set(false);
            }
            conn
        };
        let begun = self.guard_begun(Begun::for_conn(&conn));
        self.pump(&conn);
        begun.keep();
    }

    /// A page cannot be taken back: its connection ends, and the next one reads it anew.
    pub fn give_up_page(&self, slot: u32, request: u32) {
        if self.gives_up(slot, request) {
            return;
        }
        let conn = {
            let mut sessions = self.sessions.borrow_mut();
            sessions.get(slot).and_then(|session| {
                let reading = session.stored.as_ref()?.reading;
                session.conn.clone().filter(|_| reading == Some(request))
            })
        };
        if let Some(conn) = conn {
            say::warn!(target: "hydrant::mqtt", "closing {}: a page of its queue was given up", conn.who());
            self.close(&conn, CloseReason::Limit);
        }
    }

    fn take_back(&self, outbound: &mut Outbound, conn: &Rc<Conn>, entry: &QueueEntry) {
        let message = &entry.message;
        let Some((packet_id, stage)) = entry.outgoing else {
            outbound.wait(Waiting {
                sequence: entry.sequence,
                qos: entry.qos,
                retain: entry.retain,
                message: Arc::clone(message),
            });
            return;
        };
        let cost = u32::try_from(message.cost()).unwrap_or(u32::MAX);
        let released = stage == OutgoingStage::Release;
        if released {
            self.write(conn, |out| wire::put_pubrel(out, packet_id));
        } else {
            let publish = wire::Publish {
                dup: true,
                qos: entry.qos,
                retain: entry.retain,
                topic: &message.topic,
                packet_id: Some(packet_id),
                payload: &message.payload,
            };
            self.write_publish(conn, &publish);
        }
        // Last: what panics above has not happened.
        outbound.restore(packet_id, entry.qos, released, entry.sequence, cost);
    }

    /// PUBACK: the QoS 1 message is delivered. One for which nothing is in flight changes nothing.
    ///
    /// # Errors
    /// [`Violation::WrongAcknowledgement`]: what is in flight waits for another packet.
    pub fn handle_puback(&self, conn: &Rc<Conn>, packet_id: PacketId) -> Result<(), Violation> {
        self.acknowledged(conn, packet_id, QoS::AtLeastOnce)
    }

    /// PUBCOMP: the QoS 2 message is delivered. One for which nothing is in flight changes nothing.
    ///
    /// # Errors
    /// As [`Worker::handle_puback`].
    pub fn handle_pubcomp(&self, conn: &Rc<Conn>, packet_id: PacketId) -> Result<(), Violation> {
        self.acknowledged(conn, packet_id, QoS::ExactlyOnce)
    }

    fn acknowledged(
        &self,
        conn: &Rc<Conn>,
        packet_id: PacketId,
        qos: QoS,
    ) -> Result<(), Violation> {
        let waits = {
            let Some(slot) = conn.session.get() else { return Ok(()) };
            let mut sessions = self.sessions.borrow_mut();
            let Some(session) = sessions.get(slot) else { return Ok(()) };
            let known = match qos {
                QoS::ExactlyOnce => session.outbound.pubcomp(packet_id),
                _ => session.outbound.puback(packet_id),
            };
            let Acknowledged::Message { sequence, cost } = known else {
                let wrong = session.outbound.is_in_flight(packet_id);
                return if wrong { Err(Violation::WrongAcknowledgement) } else { Ok(()) };
            };
            if let Some(stored) = &mut session.stored {
                let id = stored.id;
                self.forget_queued(stored, sequence, u64::from(cost));
                self.effects.borrow_mut().ops.push(SessionOp::DeleteQueued { id, sequence }.into());
            }
            session.outbound.waiting() > 0 || session.retained.is_some()
        };
        if waits || conn.wants_pump.get() || self.is_spilled(conn) {
            self.pump(conn);
        }
        Ok(())
    }

    fn is_spilled(&self, conn: &Rc<Conn>) -> bool {
        conn.session.get().is_some_and(|slot| {
            self.sessions.borrow_mut().get(slot).is_some_and(|session| {
                session
                    .stored
                    .as_ref()
                    .is_some_and(|stored| stored.spilled && stored.reading.is_none())
            })
        })
    }

    /// PUBREC: from here on only PUBREL is sent; in a persistent session once that is durable. A
    /// PUBREC for an unknown id is answered too, so that the client can finish.
    ///
    /// # Errors
    /// [`Violation::WrongAcknowledgement`]: a QoS 1 message is in flight under this id.
    pub fn handle_pubrec(&self, conn: &Rc<Conn>, packet_id: PacketId) -> Result<(), Violation> {
        let stored = {
            let Some(slot) = conn.session.get() else { return Ok(()) };
            let mut sessions = self.sessions.borrow_mut();
            let Some(session) = sessions.get(slot) else { return Ok(()) };
            match session.outbound.pubrec(packet_id) {
                Acknowledged::Message { sequence, .. } => {
                    session.stored.as_ref().map(|stored| (stored.id, sequence))
                }
                Acknowledged::Unknown if session.outbound.is_in_flight(packet_id) => {
                    return Err(Violation::WrongAcknowledgement);
                }
                Acknowledged::Unknown => None,
            }
        };
        match stored {
            Some((id, sequence)) => {
                let stage = OutgoingStage::Release;
                self.effects
                    .borrow_mut()
                    .ops
                    .push(SessionOp::PutOutgoing { id, sequence, packet_id, stage }.into());
                self.wait_for_store(Continuation::Release { conn: Rc::clone(conn), packet_id });
            }
            None => self.write(conn, |out| wire::put_pubrel(out, packet_id)),
        }
        Ok(())
    }
}
