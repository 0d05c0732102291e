//! CONNECT: limits, takeover, session, will, and the CONNACK that follows when what must be
//! durable is.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hydrant_protocol::session::{Inbound, Outbound, RangeSet};
use hydrant_protocol::wire::{self, Connect, Version};
use hydrant_protocol::{Message, topic::TopicFilter};

use crate::metrics::CloseReason;
use crate::ports::{SessionOp, StoreOp, StoredSession, StoredWill};
use crate::say::{self, cut};

use super::conn::AckKind;
use super::state::handover::Handover;
use super::state::sessions::{Charge, Session, Stored};
use super::{Conn, Continuation, Event, Phase, Worker};

/// CONNACK return codes (MQTT 3.1.1 table 3.1).
const IDENTIFIER_REJECTED: u8 = 2;
const SERVER_UNAVAILABLE: u8 = 3;

const TARGET: &str = "hydrant::mqtt";

fn say_connected(conn: &Conn, connect: &Connect, client_id: &str) {
    let (client, peer) = (cut(client_id), conn.peer.get());
    if connect.username.is_some() {
        let password = if connect.password.is_some() { " and password" } else { "" };
        say::info!(
            target: TARGET,
            "client {client} at {peer} gave a user name{password}: ignored, since this broker has no authentication"
        );
    }
    let session = if connect.clean_session { "clean" } else { "persistent" };
    log::debug!(target: TARGET, "client {client} connected from {peer}, {session}, keep-alive {}", connect.keep_alive);
}

/// What a Last Will takes in memory.
fn will_cost(will: &wire::Will) -> usize {
    will.topic.len() + will.payload.len() + 64
}

/// [`Worker::reconnecting`] until dropped, also by a panic.
pub(super) struct Reconnecting<'a>(&'a Cell<bool>);

impl Drop for Reconnecting<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

impl Worker {
    /// Sessions that end from here on end because their client is back or elsewhere.
    pub(super) fn reconnecting(&self) -> Reconnecting<'_> {
        self.reconnecting.set(true);
        Reconnecting(&self.reconnecting)
    }

    /// The first packet of a connection. Either its session is attached, or it is closing.
    pub fn connect(&self, conn: &Rc<Conn>, connect: Connect) {
        if !conn.phase().takes_connect() {
            return;
        }
        let limits = &self.shared.settings.limits;
        let empty = connect.client_id.is_empty();
        let keep_alive = connect.keep_alive;
        let too_slow =
            limits.max_keep_alive > 0 && (keep_alive == 0 || keep_alive > limits.max_keep_alive);
        if connect.client_id.len() > limits.max_client_id_length
            || (empty && !limits.allow_empty_client_id)
            || too_slow
        {
            let why = match (too_slow, empty) {
                (true, _) => "its keep-alive is 0 or above limits.max_keep_alive",
                (_, true) => "its client id is empty (limits.allow_empty_client_id)",
                _ => "its client id is longer than limits.max_client_id_length",
            };
            say::warn!(target: TARGET, "refusing client {} at {}: {why}", cut(&connect.client_id), conn.peer.get());
            return self.refuse_connect(conn, IDENTIFIER_REJECTED);
        }
        let shared = &self.shared;
        if self.is_draining()
            || shared.stopping.load(Ordering::Relaxed)
            || shared.draining.load(Ordering::Relaxed)
        {
            say::info!(target: TARGET, "refusing client {} at {}: this node drains or stops", cut(&connect.client_id), conn.peer.get());
            return self.refuse_connect(conn, SERVER_UNAVAILABLE);
        }
        let client_id =
            if empty { self.generated_client_id() } else { Arc::clone(&connect.client_id) };
        let home = if empty { self.index } else { self.shared.home(&client_id) };
        if home != self.index {
            // Everything about a client id is on one worker: the socket moves, with what was
            // read of it, and its CONNECT is decoded again there.
            conn.enter(Event::Moves(home));
            self.wake(conn);
            return;
        }
        if self.shared.cluster.is_some() && !empty && conn.phase() != Phase::LetIn {
            return self.claim(conn, &client_id, connect.clean_session);
        }
        if conn.phase() == Phase::LetIn {
            self.arriving.borrow_mut().remove(&client_id);
        }
        let known = self.sessions.borrow().by_client.get(&client_id).copied();
        if !self.has_room_for(&connect, &client_id, known.is_some()) {
            if known.is_none() {
                self.session_ended(&client_id);
            }
            return self.refuse_connect(conn, SERVER_UNAVAILABLE);
        }
        let reconnecting = self.reconnecting();
        if let Some(slot) = known {
            self.take_over(slot);
        }
        let mut must_wait = !connect.clean_session;
        if connect.clean_session {
            // [MQTT-3.1.2-6]: also a persistent session of before is gone, durably before CONNACK.
            let known = self.sessions.borrow().by_client.get(&client_id).copied();
            if let Some(slot) = known {
                self.remove_session(slot);
                must_wait = true;
            }
        } else if self.sessions.borrow().by_client.get(&client_id).is_none()
            && self.shared.persistent_sessions.load(Ordering::Relaxed)
                >= self.shared.settings.session.max_sessions
        {
            drop(reconnecting);
            self.session_ended(&client_id);
            say::warn!(
                target: TARGET,
                "refusing client {} at {}: there are session.max_sessions = {} persistent sessions",
                cut(&client_id), conn.peer.get(), self.shared.settings.session.max_sessions
            );
            return self.refuse_connect(conn, SERVER_UNAVAILABLE);
        }
        drop(reconnecting);
        let known = self.attach_session(conn, &client_id, connect.clean_session);
        conn.v31.set(connect.version == Version::V31);
        // CONNACK has no such flag in MQTT 3.1: the byte is reserved (its section 3.2).
        let session_present = known && connect.version != Version::V31;
        conn.keep_alive_s.set(keep_alive);
        *conn.client_id.borrow_mut() = Some(Arc::clone(&client_id));
        say_connected(conn, &connect, &client_id);
        if let Some(will) = connect.will {
            self.store_will(conn, &client_id, &will);
            must_wait = true;
        }
        let kind = AckKind::Connack { session_present };
        if must_wait {
            let index = conn.owe(kind);
            self.wait_for_store(Continuation::Answer { conn: Rc::clone(conn), index });
        } else {
            self.answer(conn, kind);
        }
    }

    /// Whether a client may have its session and its will in memory. One that takes its session up again needs no
    /// more than it has.
    fn has_room_for(&self, connect: &Connect, client_id: &str, is_known: bool) -> bool {
        let will = connect.will.as_ref().map_or(0, will_cost);
        let may = (is_known || self.session_may_grow(0, Charge::of_new(client_id)))
            && (will == 0 || !self.is_past_incoming_share(will));
        if !may {
            say::warn!(
                target: TARGET,
                "a CONNECT is refused: the node has no room for one more session, or for its will \
                 (session.max_total_bytes, limits.max_buffer_bytes)"
            );
        }
        may
    }

    /// [MQTT-3.1.4-2]: the connection that a client has is closed. What it has sent there last is looked at for a
    /// DISCONNECT.
    pub(super) fn take_over(&self, slot: u32) {
        let old = self.sessions.borrow_mut().get(slot).and_then(|session| session.conn.clone());
        if let Some(old) = old {
            self.close_old(&old);
        }
    }

    fn attach_session(&self, conn: &Rc<Conn>, client_id: &Arc<str>, clean: bool) -> bool {
        let mut sessions = self.sessions.borrow_mut();
        let now = self.unix_ms();
        let known = sessions.by_client.get(client_id).copied();
        let slot = known.unwrap_or_else(|| {
            let stored = (!clean).then(|| {
                self.shared.persistent_sessions.fetch_add(1, Ordering::Relaxed);
                Box::new(Stored {
                    id: self.shared.next_session.fetch_add(1, Ordering::Relaxed),
                    next_sequence: 1,
                    left: RangeSet::default(),
                    oldest: 1,
                    queued: 0,
                    queued_bytes: 0,
                    spilled: false,
                    read_from: 0,
                    reading: None,
                    read_until: 0,
                    orphan: 0,
                    filters_before: None,
                    preparing: 0,
                    waits_to_go: false,
                    given_up: 0,
                    roamed: None,
                    offline_since: None,
                })
            });
            sessions.insert(Session {
                client_id: Arc::clone(client_id),
                generation: self.next_number(),
                epoch: 0,
                inbound: Inbound::default(),
                outbound: Outbound::default(),
                filters: Vec::new(),
                conn: None,
                retained: None,
                handover: None,
                stored,
                charge: Charge::new(&self.shared.metrics.session_bytes, client_id),
            })
        });
        if let Some(session) = sessions.get(slot) {
            // The epoch of a clean session is not stored; the wall clock keeps it rising.
            session.epoch = now.max(session.epoch + 1);
            session.conn = Some(Rc::clone(conn));
            session.charge.keep(0);
            conn.epoch.set(session.epoch);
            conn.publishes.set(0);
            if let Some(stored) = &mut session.stored {
                stored.offline_since = None;
                conn.replaying.set(stored.spilled);
                self.effects.borrow_mut().ops.push(
                    SessionOp::PutSession {
                        id: stored.id,
                        client_id: Arc::clone(client_id),
                        epoch: session.epoch,
                        disconnected_ms: None,
                    }
                    .into(),
                );
            }
        }
        conn.session.set(Some(slot));
        conn.enter(Event::Attached);
        known.is_some()
    }

    /// Under a number of the connection's own: it stands beside what the same client has left before.
    fn store_will(&self, conn: &Conn, client_id: &Arc<str>, will: &wire::Will) {
        let message = Arc::new(Message {
            topic: Arc::clone(&will.topic),
            payload: will.payload.clone(),
            qos: will.qos,
            retain: will.retain,
            properties: None,
        });
        // A CONNECT that is handled again after a panic stores no second one.
        if conn.number.get() == 0 {
            conn.number.set(self.shared.next_session.fetch_add(1, Ordering::Relaxed));
        }
        let connection = conn.number.get();
        let will = StoredWill { client_id: Arc::clone(client_id), connection, message };
        self.recount_will(conn, will.message.cost());
        conn.will.set(Some(Box::new(will.clone())));
        self.effects.borrow_mut().ops.push(StoreOp::PutWill { will });
    }

    /// [MQTT-3.1.3-6]: a unique id for a client that gives none.
    fn generated_client_id(&self) -> Arc<str> {
        let random = self.outside.random();
        Arc::from(format!("auto-{}-{random:016x}", self.shared.settings.node_id))
    }

    /// [MQTT-3.2.2-4], [MQTT-3.2.2-5]: the return code, and the end of the connection.
    pub fn refuse_connect(&self, conn: &Rc<Conn>, code: u8) {
        self.write(conn, |out| wire::put_connack(out, false, code));
        self.close(conn, CloseReason::Refused);
    }

    /// A session found in the store: offline, its subscriptions in force. The wills that the node
    /// did not see end fire by [`Self::restore_will`]. `orphan`: the lost incarnation that held it,
    /// [`EARLIER_STARTS`](crate::cluster::EARLIER_STARTS) at start.
    pub fn restore_session(&self, found: &StoredSession, orphan: u64) {
        let filters: Vec<(TopicFilter, hydrant_protocol::QoS)> = found
            .subscriptions
            .iter()
            .filter_map(|subscription| {
                let filter = TopicFilter::from_arc(
                    Arc::clone(&subscription.filter),
                    &wire::Limits::PROTOCOL,
                );
                filter.ok().map(|filter| (filter, subscription.qos))
            })
            .collect();
        let mut session = self.offline_session(&found.client_id);
        self.fill_session(&mut session, found);
        session.filters = filters.iter().map(|(filter, _)| filter.clone()).collect();
        session.charge.add(session.filters.iter().map(TopicFilter::cost).sum());
        session.retained = self.owed(&found.subscriptions);
        if let Some(stored) = &mut session.stored {
            stored.orphan = orphan;
        }
        let mut sessions = self.sessions.borrow_mut();
        let slot = sessions.insert(session);
        let subscriber =
            crate::subscriptions::Subscriber { worker: self.index, persistent: true, slot };
        for (filter, qos) in &filters {
            self.set_subscription(filter, subscriber, *qos);
        }
    }

    fn offline_session(&self, client_id: &Arc<str>) -> Session {
        Session {
            client_id: Arc::clone(client_id),
            generation: self.next_number(),
            epoch: 0,
            inbound: Inbound::default(),
            outbound: Outbound::default(),
            filters: Vec::new(),
            conn: None,
            retained: None,
            handover: None,
            stored: Some(Box::new(Stored {
                id: 0,
                next_sequence: 1,
                left: RangeSet::default(),
                oldest: 1,
                queued: 0,
                queued_bytes: 0,
                spilled: true,
                read_from: 0,
                reading: None,
                read_until: 0,
                orphan: 0,
                filters_before: None,
                preparing: 0,
                waits_to_go: false,
                given_up: 0,
                roamed: None,
                offline_since: None,
            })),
            charge: Charge::new(&self.shared.metrics.session_bytes, client_id),
        }
    }

    /// A session that another node is about to give up.
    pub(super) fn expected_session(&self, client_id: &Arc<str>) -> Session {
        let mut session = self.offline_session(client_id);
        session.handover = Some(Box::new(Handover::absent()));
        session
    }

    /// What the store has of an offline session.
    pub(super) fn fill_session(&self, session: &mut Session, found: &StoredSession) {
        session.epoch = found.epoch;
        session.inbound = Inbound::restored(&found.receipts);
        session.charge.count_ids(&session.inbound);
        if let Some(stored) = &mut session.stored {
            stored.id = found.id;
            stored.next_sequence = found.last_sequence + 1;
            stored.left = found.left.clone();
            stored.oldest = stored.left.take_tail(stored.next_sequence);
            stored.queued = found.queued;
            stored.queued_bytes = found.queued_bytes;
            // The node died with the connection: its absence begins now.
            let clock = &self.shared.clock;
            let since = found.disconnected_ms.map(|wall_ms| clock.of_wall(self.now(), wall_ms));
            stored.offline_since = Some(since.unwrap_or_else(|| clock.at(self.now())));
        }
        self.shared.persistent_sessions.fetch_add(1, Ordering::Relaxed);
    }

    /// A will whose connection the node did not see end: the network connection is gone, so it
    /// fires ([MQTT-3.1.2-8]).
    pub fn restore_will(&self, will: &StoredWill) {
        self.publish_will(will);
    }
}
