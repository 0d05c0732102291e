//! What goes on when store and log have answered: acknowledgements, and QoS 2 messages that may
//! only then be sent.
//!
//! Invariant: a wait that was begun ends. When going on with it panics, what it has decided is taken
//! back and its connection closes: its client asks again, and is not left without an answer.
//!
//! Bounds: a wait belongs to an answer a connection is owed (`limits.max_unacknowledged`), to a
//! flight of a session's window (`session.max_inflight`), or to a Last Will.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use hydrant_protocol::{Message, PacketId, QoS, wire};

use crate::cluster::{NodeIndex, SMALL};
use crate::metrics::CloseReason;
use crate::ports::StoreOp;
use crate::shared::{ManagerWork, Part, Token};

use super::conn::AckKind;
use super::open::Opened;
use super::outgoing::Undo;
use super::{Conn, Shard};

/// A QoS 2 message that was received and is forwarded only once it is durable.
#[derive(Debug)]
pub struct Exact {
    /// The message.
    pub message: Arc<Message>,
    /// RETAIN of its PUBLISH.
    pub retain: bool,
    /// Client id of its publisher, or of whose will it is.
    pub publisher: Arc<str>,
    /// The id whose PUBREC is owed.
    pub packet_id: PacketId,
    /// The publisher's session, slot and stamp; `None` for a will.
    pub receipt: Option<(u32, u32)>,
    /// That session is persistent.
    pub persistent: bool,
    /// Acknowledgement level, for the counters.
    pub level: u8,
    /// When it was routed.
    pub at: Instant,
    /// Its record for the log is still to be made: publisher, epoch and number there.
    pub record: Option<(Arc<str>, u64, u64)>,
    /// Written together with what it causes here.
    pub ops: Vec<StoreOp>,
    /// It is kept until all other nodes that want it have it.
    pub open: Option<Opened>,
}

impl Exact {
    fn receipt_id(&self) -> Option<(u32, u32, PacketId)> {
        self.receipt.map(|(slot, stamp)| (slot, stamp, self.packet_id))
    }
}

/// Who is owed an answer, and its index.
pub type Owed = (Rc<Conn>, u32);

/// What goes on.
#[derive(Debug)]
pub enum WaitKind {
    /// A publish: its PUBACK, or PUBREC where nothing is held back.
    Publish {
        /// Who is owed the answer.
        conn: Rc<Conn>,
        /// Its index.
        index: u32,
        /// QoS 2: slot and stamp of the session that holds the receipt, and its id.
        receipt: Option<(u32, u32, PacketId)>,
        /// When it was routed.
        at: Instant,
        /// Acknowledgement level, for the counters.
        level: u8,
    },
    /// A QoS 2 publish that the log, or the store as an open one, has to have before anything is done
    /// with it.
    Begun {
        /// Who is owed PUBREC, and its index; nobody for a will.
        answer: Option<Owed>,
        /// The message.
        exact: Box<Exact>,
    },
    /// These are written when others have what belongs to them.
    Then(Vec<StoreOp>),
    /// A QoS 2 publish: its live subscribers and its PUBREC.
    Exact {
        /// Who is owed PUBREC, and its index; nobody for a will.
        answer: Option<Owed>,
        /// The message.
        exact: Box<Exact>,
    },
    /// The live subscribers of other nodes have an open publish.
    Closing(Opened),
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
    /// What a batch of another node had to have stored.
    Peer {
        /// The node and its incarnation.
        node: NodeIndex,
        /// See `node`.
        incarnation: u64,
        /// The batch.
        batch: u64,
    },
    /// What another arbiter waits for.
    Forward(Token),
    /// A PUBREL whose stage had to be durable first.
    Release {
        /// The connection it is for.
        conn: Rc<Conn>,
        /// Its id.
        packet_id: PacketId,
    },
}

impl WaitKind {
    /// The connection whose publish this is.
    pub(super) fn publisher(&self) -> Option<&Rc<Conn>> {
        match self {
            Self::Publish { conn, .. } => Some(conn),
            Self::Begun { answer, .. } | Self::Exact { answer, .. } => {
                answer.as_ref().map(|(conn, _)| conn)
            }
            _ => None,
        }
    }

    /// How a publish stands that is open.
    fn opened(&self) -> Option<Opened> {
        match self {
            Self::Begun { exact, .. } | Self::Exact { exact, .. } => exact.open,
            Self::Closing(opened) => Some(*opened),
            _ => None,
        }
    }

    /// The receipt of a publish.
    fn receipt(&self) -> Option<(u32, u32, PacketId)> {
        match self {
            Self::Publish { receipt, .. } => *receipt,
            Self::Begun { exact, .. } | Self::Exact { exact, .. } => exact.receipt_id(),
            _ => None,
        }
    }
}

/// Closes a connection when it is dropped before [`Abandon::keep`]: what was begun for it came to
/// no end.
pub(super) struct Abandon<'a> {
    shard: &'a Shard,
    conn: Option<Rc<Conn>>,
    receipt: Option<(u32, u32, PacketId)>,
    /// All that a publish causes is durable: sent again it is known, not repeated.
    durable: bool,
    /// It is open.
    open: Option<Opened>,
}

impl<'a> Abandon<'a> {
    pub(super) fn conn(shard: &'a Shard, conn: &Rc<Conn>) -> Self {
        Self { shard, conn: Some(Rc::clone(conn)), receipt: None, durable: false, open: None }
    }

    pub(super) fn wait(shard: &'a Shard, kind: &WaitKind, durable: bool) -> Self {
        let conn = match kind {
            WaitKind::Answer { conn, .. }
            | WaitKind::Outgoing { conn, .. }
            | WaitKind::Release { conn, .. } => Some(conn),
            _ => kind.publisher(),
        };
        let open = kind.opened();
        Self { shard, conn: conn.cloned(), receipt: kind.receipt(), durable, open }
    }

    pub(super) fn keep(mut self) {
        (self.conn, self.receipt, self.open) = (None, None, None);
    }
}

impl Drop for Abandon<'_> {
    fn drop(&mut self) {
        match self.receipt {
            Some((slot, stamp, id)) if self.durable => self.shard.keep_receipt(slot, stamp, id),
            // The id is free again: a resent PUBLISH is tried anew, not waited for.
            Some((slot, stamp, id)) => self.shard.forget_receipt(slot, stamp, id),
            None => {}
        }
        if let Some(opened) = self.open {
            let receipt = self.receipt.filter(|_| !self.durable);
            self.shard.count_opening(receipt.map(|(slot, stamp, _)| (slot, stamp)), false);
            self.shard.close_open(opened);
        }
        if let Some(conn) = &self.conn {
            self.shard.close(conn, CloseReason::Limit);
        }
    }
}

const STORE: u16 = 1;
const LOG: u16 = 2;
/// Each other node it waits for counts so much.
const PEER: u16 = 4;
/// Other nodes that one wait can count.
pub(super) const MOST_PEERS: usize = 16_000;

#[derive(Debug)]
pub(super) struct Wait {
    stamp: u32,
    /// What is not over.
    parts: u16,
    /// The log is one of them, or was.
    log: bool,
    kind: WaitKind,
}

impl Wait {
    /// It is over: its publisher waits for the log no longer.
    fn finish(self) -> WaitKind {
        if self.log
            && let Some(conn) = self.kind.publisher()
        {
            conn.log_waits.set(conn.log_waits.get().saturating_sub(1));
        }
        self.kind
    }
}

impl Shard {
    /// Makes a wait; the tokens are for [`Part::Store`], [`Part::Log`] and so many [`Part::Peer`], as
    /// asked, at most [`MOST_PEERS`].
    pub(super) fn wait(&self, store: bool, log: bool, peers: usize, kind: WaitKind) -> (u32, u32) {
        let stamp = self.stamp();
        #[allow(clippy::cast_possible_truncation)]
        let peers = peers.min(MOST_PEERS) as u16 * PEER;
        let parts = if store { STORE } else { 0 } | if log { LOG } else { 0 } | peers;
        let wait = self.waits.borrow_mut().insert(Wait { stamp, parts, log, kind });
        #[allow(clippy::cast_possible_truncation)]
        (wait as u32, stamp)
    }

    pub(super) fn token(&self, part: Part, (wait, stamp): (u32, u32)) -> Token {
        Token { shard: self.index, part, wait, stamp }
    }

    /// A wait for the store, whose token goes with the operations of this handler.
    pub(super) fn wait_for_store(&self, kind: WaitKind) {
        let wait = self.wait(true, false, 0, kind);
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
            match token.part {
                Part::Store => wait.parts &= !STORE,
                Part::Log => wait.parts &= !LOG,
                Part::Peer => wait.parts = wait.parts.saturating_sub(PEER),
            }
            if wait.parts != 0 {
                return;
            }
            waits.remove(token.wait as usize).finish()
        };
        // Of a publish that is only begun nothing is done yet.
        let durable = !matches!(kind, WaitKind::Begun { .. });
        let abandon = Abandon::wait(self, &kind, durable);
        let undo = Undo::new(self);
        self.go_on(kind);
        undo.keep();
        abandon.keep();
    }

    /// The log refuses the record for good: no acknowledgement, and the publisher learns it by
    /// the end of its connection.
    pub fn refuse(&self, token: Token) {
        let kind = {
            let mut waits = self.waits.borrow_mut();
            match waits.get(token.wait as usize) {
                Some(wait) if wait.stamp == token.stamp => {
                    waits.remove(token.wait as usize).finish()
                }
                _ => return,
            }
        };
        match kind {
            // A will has nobody who could send it again: its subscribers get it all the same.
            WaitKind::Begun { answer: None, exact } => self.begun(None, *exact),
            kind => drop(Abandon::wait(self, &kind, false)),
        }
    }

    fn go_on(&self, kind: WaitKind) {
        match kind {
            WaitKind::Publish { conn, index, receipt, at, level } => {
                self.count_ack(level, at);
                if let Some((slot, stamp, id)) = receipt {
                    self.receipt_done(Some((slot, stamp)), id, &conn);
                }
                conn.ack_done(index);
                self.send_acks(&conn);
            }
            WaitKind::Begun { answer, exact } => self.begun(answer, *exact),
            WaitKind::Closing(opened) => self.close_open(opened),
            WaitKind::Then(ops) => self.outgoing.borrow_mut().ops.extend(ops),
            WaitKind::Exact { answer, exact } => {
                let (conn, index) = answer.unzip();
                self.exact_done(conn.as_ref(), index, &exact);
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
            WaitKind::Peer { node, incarnation, batch } => {
                self.peer_stored(node, incarnation, batch);
            }
            WaitKind::Forward(token) => {
                let completed = ManagerWork::Completed([token].into());
                self.shared.managers[usize::from(token.shard)].push(completed, SMALL);
            }
            WaitKind::Release { conn, packet_id } => {
                if conn.closing.get().is_none() {
                    self.write(&conn, |out| wire::put_pubrel(out, packet_id));
                }
            }
        }
    }

    /// A QoS 2 message is durable: its live subscribers, then PUBREC: the one that is owed, by its
    /// index, or one that is owed only now, so that a panic before it leaves none behind.
    pub(super) fn exact_done(&self, conn: Option<&Rc<Conn>>, index: Option<u32>, exact: &Exact) {
        self.count_ack(exact.level, exact.at);
        match exact.open {
            Some(opened) => self.deliver_open(exact, opened),
            None => self.deliver_held(&exact.message),
        }
        let Some(conn) = conn else {
            if let Some((slot, stamp)) = exact.receipt {
                self.receipt_stored(slot, stamp, exact.packet_id, None);
            }
            return;
        };
        self.receipt_done(exact.receipt, exact.packet_id, conn);
        match index {
            Some(index) => conn.ack_done(index),
            None => conn.owe_done(AckKind::Pubrec(exact.packet_id)),
        }
        self.send_acks(conn);
    }

    fn count_ack(&self, level: u8, at: Instant) {
        if let Some(acks) = self.metrics.acks.get(usize::from(level)) {
            acks.inc();
        }
        self.metrics.ack_latency.record(at.elapsed());
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
