//! What goes on when store and log have answered: acknowledgements, and QoS 2 messages that may
//! only then be sent.
//!
//! Bounds: a wait belongs to an answer a connection is owed (`limits.max_unacknowledged`), to a
//! flight of a session's window (`session.max_inflight`), or to a Last Will.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use hydrant_protocol::{Message, PacketId, QoS, wire};

use crate::metrics::CloseReason;
use crate::shared::{Part, Token};

use super::conn::AckKind;
use super::{Conn, Shard};

/// A QoS 2 message that was received and not forwarded yet.
#[derive(Debug)]
pub struct Held {
    /// The message; `None` when nothing is held back (QoS 1).
    pub message: Option<Arc<Message>>,
    /// The publisher's session, and the id whose PUBREC is owed.
    pub receipt: Option<(u32, u32, PacketId)>,
}

/// What goes on.
#[derive(Debug)]
pub enum WaitKind {
    /// A publish: its PUBACK or PUBREC, and for QoS 2 its live subscribers.
    Publish {
        /// Who is owed the answer, and its index; nobody for a will.
        conn: Option<(Rc<Conn>, u32)>,
        /// Present for QoS 2.
        held: Option<Box<Held>>,
        /// When it was routed.
        at: Instant,
        /// Acknowledgement level, for the counters.
        level: u8,
    },
    /// Any other answer.
    Answer {
        /// Who is owed it.
        conn: Rc<Conn>,
        /// Its index.
        index: u32,
    },
    /// An outgoing PUBLISH whose packet id had to be durable first.
    Outgoing {
        /// The session.
        slot: u32,
        /// Tells a reused slot.
        stamp: u32,
        /// The connection it is for; a later one reads it from the store.
        conn: Rc<Conn>,
        /// Its id.
        packet_id: PacketId,
        /// QoS of the delivery.
        qos: QoS,
        /// RETAIN as the subscriber shall see it.
        retain: bool,
        /// The message.
        message: Arc<Message>,
    },
    /// A PUBREL whose stage had to be durable first.
    Release {
        /// The connection it is for.
        conn: Rc<Conn>,
        /// Its id.
        packet_id: PacketId,
    },
}

const STORE: u8 = 1;
const LOG: u8 = 2;

#[derive(Debug)]
pub(super) struct Wait {
    stamp: u32,
    /// Halves that are not over.
    parts: u8,
    kind: WaitKind,
}

impl Shard {
    /// Makes a wait; the tokens are for [`Part::Store`] and [`Part::Log`], as asked.
    pub(super) fn wait(&self, store: bool, log: bool, kind: WaitKind) -> (u32, u32) {
        let stamp = self.stamp();
        let parts = if store { STORE } else { 0 } | if log { LOG } else { 0 };
        let wait = self.waits.borrow_mut().insert(Wait { stamp, parts, kind });
        #[allow(clippy::cast_possible_truncation)]
        (wait as u32, stamp)
    }

    pub(super) fn token(&self, part: Part, (wait, stamp): (u32, u32)) -> Token {
        Token { shard: self.index, part, wait, stamp }
    }

    /// A wait for the store, whose token goes with the operations of this handler.
    pub(super) fn wait_for_store(&self, kind: WaitKind) {
        let wait = self.wait(true, false, kind);
        let token = self.token(Part::Store, wait);
        self.outgoing.borrow_mut().tokens.push(token);
    }

    /// Waits that are not over.
    pub fn waiting(&self) -> usize {
        self.waits.borrow().len()
    }

    /// Store or log have answered. A token that came before changes nothing.
    pub fn complete(&self, token: Token) {
        let kind = {
            let mut waits = self.waits.borrow_mut();
            let Some(wait) = waits.get_mut(token.wait as usize) else { return };
            if wait.stamp != token.stamp {
                return;
            }
            wait.parts &= match token.part {
                Part::Store => !STORE,
                Part::Log => !LOG,
            };
            if wait.parts != 0 {
                return;
            }
            waits.remove(token.wait as usize).kind
        };
        self.go_on(kind);
    }

    /// The log refuses the record for good: no acknowledgement, and the publisher learns it by
    /// the end of its connection.
    pub fn refuse(&self, token: Token) {
        let conn = {
            let mut waits = self.waits.borrow_mut();
            match waits.get(token.wait as usize) {
                Some(wait) if wait.stamp == token.stamp => {}
                _ => return,
            }
            match waits.remove(token.wait as usize).kind {
                WaitKind::Publish { conn, .. } => conn,
                _ => None,
            }
        };
        if let Some((conn, _)) = conn {
            self.close(&conn, CloseReason::Limit);
        }
    }

    fn go_on(&self, kind: WaitKind) {
        match kind {
            WaitKind::Publish { conn, held, at, level } => {
                if let Some(acks) = self.metrics.acks.get(usize::from(level)) {
                    acks.inc();
                }
                self.metrics.ack_latency.record(at.elapsed());
                let mut receipt = None;
                if let Some(held) = held {
                    if let Some(message) = &held.message {
                        self.deliver_held(message);
                    }
                    receipt = held.receipt;
                }
                if let Some((slot, stamp, id)) = receipt {
                    self.receipt_stored(slot, stamp, id, conn.as_ref().map(|(conn, _)| conn));
                }
                if let Some((conn, index)) = conn {
                    conn.ack_done(index);
                    self.send_acks(&conn);
                }
            }
            WaitKind::Answer { conn, index } => {
                conn.ack_done(index);
                self.send_acks(&conn);
            }
            WaitKind::Outgoing { slot, stamp, conn, packet_id, qos, retain, message } => {
                if self.is_current(slot, stamp, &conn) {
                    self.write(&conn, |out| {
                        wire::put_publish(
                            out,
                            &message.topic,
                            &message.payload,
                            qos,
                            false,
                            retain,
                            Some(packet_id),
                        );
                    });
                    self.count_publish_out(qos, message.payload.len());
                }
            }
            WaitKind::Release { conn, packet_id } => {
                if conn.closing.get().is_none() {
                    self.write(&conn, |out| wire::put_pubrel(out, packet_id));
                }
            }
        }
    }

    /// Sends an answer now if none before it waits, else in its turn.
    pub fn answer(&self, conn: &Rc<Conn>, kind: AckKind) {
        if conn.acks_outstanding() == 0 {
            self.send_ack(conn, kind);
        } else {
            conn.owe_done(kind);
            self.send_acks(conn);
        }
    }

    /// Sends the answers whose turn has come.
    pub fn send_acks(&self, conn: &Rc<Conn>) {
        if conn.closing.get().is_some() {
            return;
        }
        while let Some(kind) = conn.next_ack() {
            self.send_ack(conn, kind);
        }
        if conn.paused.get() || conn.draining.get() {
            conn.wake();
        }
    }

    fn send_ack(&self, conn: &Rc<Conn>, kind: AckKind) {
        match kind {
            AckKind::Puback(id) => self.write(conn, |out| wire::put_puback(out, id)),
            AckKind::Pubrec(id) => self.write(conn, |out| wire::put_pubrec(out, id)),
            AckKind::Pubcomp(id) => self.write(conn, |out| wire::put_pubcomp(out, id)),
            AckKind::Unsuback(id) => self.write(conn, |out| wire::put_unsuback(out, id)),
            AckKind::Suback(id, codes, filters) => {
                self.write(conn, |out| wire::put_suback(out, id, &codes));
                self.deliver_retained(conn, &filters);
            }
            AckKind::Connack { session_present } => {
                self.write(conn, |out| wire::put_connack(out, session_present, 0));
                self.opened(conn);
            }
        }
    }
}
