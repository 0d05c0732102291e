//! Incoming QoS 2: which publishes are new, when their PUBREC and PUBCOMP may leave.
//!
//! The receipt is durable before PUBREC and its end before PUBCOMP, in a persistent session; in a
//! clean one it lives with the session.
//!
//! Bounds: 65,535 packet ids a session, within `session.max_bytes` and `session.max_total_bytes`; past them the
//! connection is closed.

use std::rc::Rc;

use hydrant_protocol::PacketId;
use hydrant_protocol::session::{Receipt, Release};

use crate::metrics::CloseReason;
use crate::ports::{SessionId, SessionOp};
use crate::say;

use super::conn::AckKind;
use super::state::sessions::SessionKey;
use super::{Conn, Worker};

impl Worker {
    /// A QoS 2 PUBLISH arrives: the session that holds its receipt when it
    /// is new and goes to the router. A repeated one is answered, or its answer is on its way
    /// ([MQTT-4.3.3-2]).
    pub fn handle_qos2_publish(&self, conn: &Rc<Conn>, packet_id: PacketId) -> Option<SessionKey> {
        let slot = conn.session.get()?;
        let (receipt, key) = {
            let mut sessions = self.sessions.borrow_mut();
            let session = sessions.get(slot)?;
            let receipt = session.inbound.publish(packet_id);
            if session.charge.count_ids(&session.inbound)
                && !self.session_may_grow(session.charge.bytes(), 0)
            {
                session.inbound.release(packet_id);
                session.charge.count_ids(&session.inbound);
                self.close(conn, CloseReason::Limit);
                return None;
            }
            (receipt, session.key(slot))
        };
        if receipt == Receipt::Known {
            self.answer(conn, AckKind::Pubrec(packet_id));
        }
        (receipt == Receipt::New).then_some(key)
    }

    /// An incoming QoS 2 message is durable. Its PUBREC goes to the connection it came on; when
    /// the client has reconnected meanwhile and sent it again, to the new one too.
    pub(super) fn receipt_stored(&self, key: SessionKey, id: PacketId, conn: Option<&Rc<Conn>>) {
        let current = {
            let mut sessions = self.sessions.borrow_mut();
            let Some(session) = sessions.find(key) else { return };
            if !session.inbound.stored(id) || !session.inbound.came_again(id) {
                return;
            }
            session.conn.clone()
        };
        if let Some(current) = current
            && current.phase().is_established()
            && !conn.is_some_and(|conn| Rc::ptr_eq(conn, &current))
        {
            self.answer(&current, AckKind::Pubrec(id));
        }
    }

    /// PUBREC may be sent for a receipt, if there is one.
    pub(super) fn receipt_done(&self, receipt: Option<SessionKey>, id: PacketId, conn: &Rc<Conn>) {
        if let Some(session) = receipt {
            self.receipt_stored(session, id, Some(conn));
        }
    }

    /// A publish was refused for good: its packet id is free again.
    pub(super) fn forget_receipt(&self, key: SessionKey, id: PacketId) {
        if let Some(session) = self.sessions.borrow_mut().find(key) {
            session.inbound.release(id);
            session.charge.count_ids(&session.inbound);
        }
    }

    /// A publish is durable and nobody was told: its packet id is known, and who has sent it again
    /// meanwhile and waits sends it once more.
    pub(super) fn keep_receipt(&self, key: SessionKey, id: PacketId) {
        let current = {
            let mut sessions = self.sessions.borrow_mut();
            let Some(session) = sessions.find(key) else { return };
            session.inbound.stored(id);
            session.conn.clone().filter(|_| session.inbound.came_again(id))
        };
        if let Some(conn) = current {
            self.close_unanswered(&conn);
        }
    }

    /// A publish of it gets no acknowledgement: it ends, and sends that one again.
    pub(super) fn close_unanswered(&self, conn: &Rc<Conn>) {
        say::warn!(
            target: "hydrant::mqtt",
            "closing {}: a publish cannot be acknowledged, since the log refused its record or its routing was given up",
            conn.who()
        );
        self.close(conn, CloseReason::Limit);
    }

    /// The number in the store of the session that holds a receipt; `None` when it ended or is not
    /// persistent.
    pub(super) fn stored_session(&self, receipt: Option<SessionKey>) -> Option<SessionId> {
        let mut sessions = self.sessions.borrow_mut();
        let session = sessions.find(receipt?)?;
        session.stored.as_ref().map(|stored| stored.id)
    }

    /// PUBREL: the receipt's end is durable before PUBCOMP.
    pub fn handle_pubrel(&self, conn: &Rc<Conn>, packet_id: PacketId) {
        let Some(slot) = conn.session.get() else { return };
        let must_wait = {
            let mut sessions = self.sessions.borrow_mut();
            let Some(session) = sessions.get(slot) else { return };
            let released = session.inbound.release(packet_id);
            session.charge.count_ids(&session.inbound);
            match (released, &session.stored) {
                (Release::Released, Some(stored)) => {
                    let op = SessionOp::DeleteReceipt { id: stored.id, packet_id };
                    self.effects.borrow_mut().ops.push(op.into());
                    true
                }
                _ => false,
            }
        };
        self.answer_stored(conn, AckKind::Pubcomp(packet_id), must_wait);
    }
}
