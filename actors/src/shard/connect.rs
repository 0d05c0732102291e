//! CONNECT: limits, takeover, session, will, and the CONNACK that follows when what must be
//! durable is.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hydrant_protocol::session::{Inbound, Outbound};
use hydrant_protocol::wire::{self, Connect, Version};
use hydrant_protocol::{Message, topic::TopicFilter};

use crate::metrics::CloseReason;
use crate::ports::{StoreOp, StoredSession, StoredWill};

use super::conn::AckKind;
use super::moving::Moving;
use super::sessions::{Session, Stored, unix_ms};
use super::{Conn, Shard, WaitKind};

/// CONNACK return codes (MQTT 3.1.1 table 3.1).
const IDENTIFIER_REJECTED: u8 = 2;
const SERVER_UNAVAILABLE: u8 = 3;

/// [`Shard::reconnecting`] until dropped, also by a panic.
pub(super) struct Reconnecting<'a>(&'a Cell<bool>);

impl Drop for Reconnecting<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

impl Shard {
    /// Sessions that end from here on end because their client is back or elsewhere.
    pub(super) fn reconnecting(&self) -> Reconnecting<'_> {
        self.reconnecting.set(true);
        Reconnecting(&self.reconnecting)
    }

    /// The first packet of a connection. Either its session is attached, or it is closing.
    pub fn connect(&self, conn: &Rc<Conn>, connect: Connect) {
        let limits = &self.shared.settings.limits;
        let empty = connect.client_id.is_empty();
        let keep_alive = connect.keep_alive;
        let too_slow =
            limits.max_keep_alive > 0 && (keep_alive == 0 || keep_alive > limits.max_keep_alive);
        if connect.client_id.len() > limits.max_client_id_length
            || (empty && !limits.allow_empty_client_id)
            || too_slow
        {
            return self.refuse_connect(conn, IDENTIFIER_REJECTED);
        }
        let shared = &self.shared;
        if self.is_draining()
            || shared.stopping.load(Ordering::Relaxed)
            || shared.draining.load(Ordering::Relaxed)
        {
            return self.refuse_connect(conn, SERVER_UNAVAILABLE);
        }
        let client_id =
            if empty { self.generated_client_id() } else { Arc::clone(&connect.client_id) };
        let home = if empty { self.index } else { self.shared.home(&client_id) };
        if home != self.index {
            // Everything about a client id is on one arbiter: the socket moves, with what was
            // read of it, and its CONNECT is decoded again there.
            conn.handoff.set(Some(home));
            conn.wake();
            return;
        }
        if self.shared.cluster.is_some() && !empty && !conn.claimed.get() {
            return self.claim(conn, &client_id, connect.clean_session);
        }
        if conn.claimed.replace(false) {
            self.arriving.borrow_mut().remove(&client_id);
        }
        let reconnecting = self.reconnecting();
        let known = self.sessions.borrow().by_client.get(&client_id).copied();
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
            return self.refuse_connect(conn, SERVER_UNAVAILABLE);
        }
        drop(reconnecting);
        let known = self.attach_session(conn, &client_id, connect.clean_session);
        conn.v31.set(connect.version == Version::V31);
        // CONNACK has no such flag in MQTT 3.1: the byte is reserved (its section 3.2).
        let session_present = known && connect.version != Version::V31;
        conn.keep_alive_s.set(keep_alive);
        *conn.client_id.borrow_mut() = Some(Arc::clone(&client_id));
        if let Some(will) = connect.will {
            self.store_will(&client_id, &will);
            *conn.will.borrow_mut() = Some(Box::new(will));
            must_wait = true;
        }
        let kind = AckKind::Connack { session_present };
        if must_wait {
            let index = conn.owe(kind);
            self.wait_for_store(WaitKind::Answer { conn: Rc::clone(conn), index });
        } else {
            self.answer(conn, kind);
        }
    }

    /// [MQTT-3.1.4-2]: the connection that a client has is closed.
    pub(super) fn take_over(&self, slot: u32) {
        let old = self.sessions.borrow_mut().get(slot).and_then(|session| session.conn.clone());
        if let Some(old) = old {
            self.close(&old, CloseReason::Takeover);
            self.detach(&old, CloseReason::Takeover);
        }
    }

    fn attach_session(&self, conn: &Rc<Conn>, client_id: &Arc<str>, clean: bool) -> bool {
        let mut sessions = self.sessions.borrow_mut();
        let now = unix_ms();
        let known = sessions.by_client.get(client_id).copied();
        let slot = known.unwrap_or_else(|| {
            let stored = (!clean).then(|| {
                self.shared.persistent_sessions.fetch_add(1, Ordering::Relaxed);
                Box::new(Stored {
                    id: self.shared.next_session.fetch_add(1, Ordering::Relaxed),
                    next_sequence: 1,
                    oldest: 1,
                    queued: 0,
                    queued_bytes: 0,
                    spilled: false,
                    read_from: 0,
                    reading: None,
                    read_until: 0,
                    estate: 0,
                    opening: 0,
                    waits_to_go: false,
                    given_up: 0,
                    roamed: None,
                    disconnected_ms: None,
                })
            });
            sessions.insert(Session {
                client_id: Arc::clone(client_id),
                stamp: self.stamp(),
                epoch: 0,
                inbound: Inbound::default(),
                outbound: Outbound::default(),
                filters: Vec::new(),
                conn: None,
                moving: None,
                stored,
            })
        });
        if let Some(session) = sessions.get(slot) {
            // The epoch of a clean session is not stored; the wall clock keeps it rising.
            session.epoch = now.max(session.epoch + 1);
            session.conn = Some(Rc::clone(conn));
            conn.epoch.set(session.epoch);
            conn.publishes.set(0);
            if let Some(stored) = &mut session.stored {
                stored.disconnected_ms = None;
                conn.replaying.set(stored.spilled);
                self.outgoing.borrow_mut().ops.push(StoreOp::PutSession {
                    id: stored.id,
                    client_id: Arc::clone(client_id),
                    epoch: session.epoch,
                    disconnected_ms: None,
                });
            }
        }
        conn.session.set(Some(slot));
        known.is_some()
    }

    fn store_will(&self, client_id: &Arc<str>, will: &wire::Will) {
        let message = Arc::new(Message {
            topic: Arc::clone(&will.topic),
            payload: will.payload.clone(),
            qos: will.qos,
            retain: will.retain,
            properties: None,
        });
        let will = StoredWill { client_id: Arc::clone(client_id), message };
        self.outgoing.borrow_mut().ops.push(StoreOp::PutWill { will });
    }

    /// [MQTT-3.1.3-6]: a unique id for a client that gives none.
    fn generated_client_id(&self) -> Arc<str> {
        use rand::Rng;
        let random: u64 = rand::rng().random();
        Arc::from(format!("auto-{}-{random:016x}", self.shared.settings.node_id))
    }

    /// [MQTT-3.2.2-4], [MQTT-3.2.2-5]: the return code, and the end of the connection.
    pub fn refuse_connect(&self, conn: &Rc<Conn>, code: u8) {
        self.write(conn, |out| wire::put_connack(out, false, code));
        self.close(conn, CloseReason::Refused);
    }

    /// A session found in the store: offline, its subscriptions in force. The wills that the node
    /// did not see end fire by [`Self::restore_will`]. `estate`: the lost incarnation that held it,
    /// [`ANY_ESTATE`](super::sessions::ANY_ESTATE) at start.
    pub fn restore_session(&self, found: &StoredSession, estate: u64) {
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
        if let Some(stored) = &mut session.stored {
            stored.estate = estate;
        }
        let mut sessions = self.sessions.borrow_mut();
        let slot = sessions.insert(session);
        let subscriber = crate::shared::Subscriber { shard: self.index, persistent: true, slot };
        for (filter, qos) in &filters {
            self.shared.subscribe(filter, subscriber, *qos);
        }
    }

    fn offline_session(&self, client_id: &Arc<str>) -> Session {
        Session {
            client_id: Arc::clone(client_id),
            stamp: self.stamp(),
            epoch: 0,
            inbound: Inbound::default(),
            outbound: Outbound::default(),
            filters: Vec::new(),
            conn: None,
            moving: None,
            stored: Some(Box::new(Stored {
                id: 0,
                next_sequence: 1,
                oldest: 1,
                queued: 0,
                queued_bytes: 0,
                spilled: true,
                read_from: 0,
                reading: None,
                read_until: 0,
                estate: 0,
                opening: 0,
                waits_to_go: false,
                given_up: 0,
                roamed: None,
                disconnected_ms: None,
            })),
        }
    }

    /// A session that another node is about to give up.
    pub(super) fn expected_session(&self, client_id: &Arc<str>) -> Session {
        let mut session = self.offline_session(client_id);
        session.moving = Some(Box::new(Moving::absent()));
        session
    }

    /// What the store has of an offline session.
    pub(super) fn fill_session(&self, session: &mut Session, found: &StoredSession) {
        session.epoch = found.epoch;
        session.inbound = Inbound::restored(&found.receipts);
        if let Some(stored) = &mut session.stored {
            stored.id = found.id;
            stored.next_sequence = found.last_sequence + 1;
            stored.oldest = (found.last_sequence + 1).saturating_sub(found.queued);
            stored.queued = found.queued;
            stored.queued_bytes = found.queued_bytes;
            // The node died with the connection: its absence begins now.
            stored.disconnected_ms = Some(found.disconnected_ms.unwrap_or_else(unix_ms));
        }
        self.shared.persistent_sessions.fetch_add(1, Ordering::Relaxed);
    }

    /// A will whose connection the node did not see end: the network connection is gone, so it
    /// fires ([MQTT-3.1.2-8]).
    pub fn restore_will(&self, will: &StoredWill) {
        let ops = vec![StoreOp::DeleteWill { client_id: Arc::clone(&will.client_id) }];
        let origin = super::Origin::Will(Arc::clone(&will.client_id));
        self.publish_internal(origin, Arc::clone(&will.message), ops);
    }
}
