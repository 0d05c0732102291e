//! What goes on when store and log have answered: acknowledgements, and QoS 2 messages that may
//! only then be sent.
//!
//! Invariant: a pending ack that was begun ends. When going on with it panics, what it has decided is taken
//! back and its connection closes: its client asks again, and is not left without an answer.
//!
//! Bounds: a pending ack belongs to an answer a connection is owed (`limits.max_unacknowledged`), to a
//! flight of a session's window (`session.max_inflight`), to a step of a cursor that has filled such a window, or to a
//! Last Will.

use std::rc::Rc;

use hydrant_protocol::wire;

use crate::messages::{AckSource, CompletionToken, ManagerWork, SMALL};
use crate::now::Boot;

use super::abandon::Begun;
use super::conn::AckKind;
use super::state::effects::begin_step;
use super::state::pending_acks::{Continuation, Exact, LOG, MOST_PEERS, PEER, PendingAck, STORE};
use super::{Conn, Worker};

impl Worker {
    /// Makes a pending ack; the tokens are for [`AckSource::Store`], [`AckSource::Log`] and so many
    /// [`AckSource::Peer`], as asked, at most [`MOST_PEERS`].
    pub(super) fn pend(
        &self,
        store: bool,
        log: bool,
        peers: usize,
        kind: Continuation,
    ) -> (u32, u32) {
        let generation = self.next_number();
        #[allow(clippy::cast_possible_truncation)]
        let peers = peers.min(MOST_PEERS) as u16 * PEER;
        let outstanding = if store { STORE } else { 0 } | if log { LOG } else { 0 } | peers;
        let ack = self.pending_acks.borrow_mut().insert(PendingAck {
            generation,
            outstanding,
            log,
            kind,
        });
        #[allow(clippy::cast_possible_truncation)]
        (ack as u32, generation)
    }

    pub(super) fn token(
        &self,
        source: AckSource,
        (pending, generation): (u32, u32),
    ) -> CompletionToken {
        CompletionToken { worker: self.index, source, pending, generation }
    }

    /// A wait for the store, whose token goes with the operations of this handler.
    pub(super) fn wait_for_store(&self, kind: Continuation) {
        let pending = self.pend(true, false, 0, kind);
        let token = self.token(AckSource::Store, pending);
        self.effects.borrow_mut().tokens.push(token);
    }

    /// Waits that are not over.
    pub fn waiting(&self) -> usize {
        self.pending_acks.borrow().len()
    }

    /// Store or log have answered. A token that came before changes nothing.
    pub fn complete(&self, token: CompletionToken) {
        let kind = {
            let mut acks = self.pending_acks.borrow_mut();
            let Some(ack) = acks.get_mut(token.pending as usize) else { return };
            if ack.generation != token.generation {
                return;
            }
            match token.source {
                AckSource::Store => ack.outstanding &= !STORE,
                AckSource::Log => ack.outstanding &= !LOG,
                AckSource::Peer => ack.outstanding = ack.outstanding.saturating_sub(PEER),
            }
            if ack.outstanding != 0 {
                return;
            }
            acks.remove(token.pending as usize).finish()
        };
        // Of a publish that is only begun nothing is done yet.
        let durable = !matches!(kind, Continuation::Begun { .. });
        let begun = self.guard_begun(Begun::of(&kind, durable));
        let step = begin_step(&self.effects);
        self.go_on(kind);
        step.keep();
        begun.keep();
        self.deliver_ready();
    }

    /// The log refuses the record for good: no acknowledgement, and the publisher learns it by
    /// the end of its connection.
    pub fn refuse(&self, token: CompletionToken) {
        let kind = {
            let mut acks = self.pending_acks.borrow_mut();
            match acks.get(token.pending as usize) {
                // The row of a will ends all the same: its record would be refused again after every start.
                Some(PendingAck { generation, kind: Continuation::Then(_), .. })
                    if *generation == token.generation =>
                {
                    drop(acks);
                    return self.complete(token);
                }
                Some(ack) if ack.generation == token.generation => {
                    acks.remove(token.pending as usize).finish()
                }
                _ => return,
            }
        };
        match kind {
            // A will has nobody who could send it again: its subscribers get it all the same.
            Continuation::Begun { answer: None, exact } => self.begun(None, *exact),
            kind => self.abandon(&Begun::of(&kind, false)),
        }
        self.deliver_ready();
    }

    fn go_on(&self, kind: Continuation) {
        match kind {
            Continuation::Publish { conn, index, receipt, at, level } => {
                self.count_ack(level, at);
                if let Some((session, id)) = receipt {
                    self.receipt_done(Some(session), id, &conn);
                }
                conn.ack_done(index);
                self.send_acks(&conn);
            }
            Continuation::Begun { answer, exact } => self.begun(answer, *exact),
            Continuation::Closing(preparation) => self.close_prepared(preparation),
            Continuation::Then(ops) => self.effects.borrow_mut().ops.extend(ops),
            Continuation::Exact { answer, exact } => self.exact_durable(answer, exact),
            Continuation::Answer { conn, index } => {
                conn.ack_done(index);
                self.send_acks(&conn);
            }
            Continuation::Outgoing { session, conn, packet_id, qos, retain, message } => {
                if self.is_current(session, &conn) {
                    let publish = wire::Publish {
                        dup: false,
                        qos,
                        retain,
                        topic: &message.topic,
                        packet_id: Some(packet_id),
                        payload: &message.payload,
                    };
                    self.write_publish(&conn, &publish);
                }
            }
            Continuation::Peer { node, incarnation, batch } => {
                self.peer_stored(node, incarnation, batch);
            }
            Continuation::RetainedStored { session, number } => {
                self.retained_stored(session, number)
            }
            Continuation::ToPeers(work) => self.to_peers(*work, SMALL),
            Continuation::Forward(token) => {
                let completed = ManagerWork::Completed([token].into());
                self.outside.manager(token.worker, completed, SMALL);
            }
            Continuation::Release { conn, packet_id } => {
                if conn.phase().closing().is_none() {
                    self.write(&conn, |out| wire::put_pubrel(out, packet_id));
                }
            }
        }
    }

    /// A QoS 2 message is durable and its turn has come: its live subscribers, then PUBREC. That is the one that is
    /// owed, by its index, or one that is owed only now, so that a panic before it leaves none behind.
    pub(super) fn exact_done(&self, conn: Option<&Rc<Conn>>, index: Option<u32>, exact: &Exact) {
        self.count_ack(exact.level, exact.at);
        match exact.prepared {
            Some(preparation) => self.deliver_prepared(exact, preparation),
            None => self.deliver_held(exact),
        }
        self.leave_place(exact.place);
        let Some(conn) = conn else {
            if let Some(session) = exact.receipt {
                self.receipt_stored(session, exact.packet_id, None);
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

    fn count_ack(&self, level: u8, at: Boot) {
        if let Some(acks) = self.metrics.acks.get(usize::from(level)) {
            acks.add_unshared(1);
        }
        self.metrics.ack_latency.record_unshared(self.now().boot.since(at));
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
        if conn.phase().closing().is_some() {
            return;
        }
        while let Some(kind) = conn.next_ack() {
            self.send_ack(conn, kind);
        }
        if conn.paused.get() || conn.phase().is_draining() {
            self.wake(conn);
        }
    }

    fn send_ack(&self, conn: &Rc<Conn>, kind: AckKind) {
        match kind {
            AckKind::Puback(id) => self.write(conn, |out| wire::put_puback(out, id)),
            AckKind::Pubrec(id) => self.write(conn, |out| wire::put_pubrec(out, id)),
            AckKind::Pubcomp(id) => self.write(conn, |out| wire::put_pubcomp(out, id)),
            AckKind::Unsuback(id) => self.write(conn, |out| wire::put_unsuback(out, id)),
            AckKind::Suback(id, codes, cursors) => {
                self.write(conn, |out| wire::put_suback(out, id, &codes));
                self.deliver_retained(conn, &cursors);
            }
            AckKind::Connack { session_present } => {
                self.write(conn, |out| wire::put_connack(out, session_present, 0));
                self.connack_sent(conn);
            }
        }
    }
}
