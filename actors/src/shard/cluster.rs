//! What an arbiter does as a part of a cluster: publishes to and from other nodes, and sessions that
//! change hands.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hydrant_protocol::QoS;
use hydrant_protocol::cluster::message::{self, Audience, Control, Handed, Publish};
use tokio::sync::oneshot;

use crate::cluster::{FromPeer, NodeIndex, PeerWork, SMALL};
use crate::metrics::{CloseReason, DropReason};
use crate::ports::{StoredSession, StoredWill};
use crate::shared::Part;

use super::conn::AckKind;
use super::deliver::View;
use super::moving::Marks;
use super::outgoing::Undo;
use super::publish::Needs;
use super::routes::Route;
use super::waits::MOST_PEERS;
use super::{Conn, Shard, WaitKind};

impl Shard {
    pub(super) fn to_peers(&self, work: PeerWork, bytes: usize) {
        if let Some(cluster) = &self.shared.cluster {
            cluster.work.push(work, bytes);
        }
    }

    /// Subscribers on other nodes. A publish waits for those whose queues it is for, and for those
    /// that can be reached: so a slow node slows its publishers down, and one that is away does not.
    pub(super) fn fan_out_to_nodes(
        &self,
        route: &Route,
        view: &View<'_>,
        durable: bool,
        needs: &mut Needs,
    ) {
        if route.nodes.is_empty() {
            return;
        }
        let Some(cluster) = &self.shared.cluster else { return };
        let held = view.held();
        let audience = if held { Audience::Queues } else { Audience::All };
        let publish =
            Publish { topic: view.topic, payload: view.payload, qos: view.qos, durable, audience };
        let mut outgoing = self.outgoing.borrow_mut();
        for (node, queues) in &route.nodes {
            let queues = *queues && view.qos != QoS::AtMostOnce;
            if held && !queues {
                continue;
            }
            outgoing.peer(*node).push(self.index, &publish, durable && queues);
            let waits = view.qos != QoS::AtMostOnce && (durable && queues || cluster.is_up(*node));
            if waits && needs.peers.len() < MOST_PEERS {
                needs.peers.push(*node);
            }
        }
    }

    /// The same for a QoS 2 message that is stored: who was not served by its queues.
    pub(super) fn deliver_live_to_nodes(&self, route: &Route, view: &View<'_>) {
        let (topic, payload, qos) = (view.topic, view.payload, view.qos);
        let publish = Publish { topic, payload, qos, durable: true, audience: Audience::Live };
        let mut outgoing = self.outgoing.borrow_mut();
        for (node, _) in &route.nodes {
            outgoing.peer(*node).push(self.index, &publish, false);
        }
    }

    /// A retained message, or its end, for every other node.
    pub(super) fn retained_elsewhere(&self, view: &View<'_>, removed: bool, version: u64) {
        let Some(cluster) = &self.shared.cluster else { return };
        cluster.retained.lock().is_newest(view.topic, version);
        let payload = if removed { &[] } else { view.payload };
        self.outgoing.borrow_mut().broadcast.push(Control::Retained {
            topic: Arc::from(view.topic),
            payload: bytes::Bytes::copy_from_slice(payload),
            qos: view.qos as u8,
            version,
        });
    }

    /// SUBACK and UNSUBACK: once the store has it, and every other node knows what is wanted here.
    pub(super) fn answer_known(&self, conn: &Rc<Conn>, kind: AckKind, must_wait: bool) {
        let unsettled = self.shared.cluster.as_ref().filter(|cluster| cluster.is_unsettled());
        let Some(cluster) = unsettled else {
            return self.answer_stored(conn, kind, must_wait);
        };
        let index = conn.owe(kind);
        let wait =
            self.wait(must_wait, false, 1, WaitKind::Answer { conn: Rc::clone(conn), index });
        if must_wait {
            self.outgoing.borrow_mut().tokens.push(self.token(Part::Store, wait));
        }
        cluster.work.push(PeerWork::Interest(Some(self.token(Part::Peer, wait))), SMALL);
    }

    /// Publishes of another node for the subscribers here. A router that died on one of them goes on
    /// behind the last that was done.
    pub fn route_peer(&self, batch: &mut FromPeer, before_each: impl Fn()) -> u64 {
        let first = batch.done;
        let body = batch.body.clone();
        let Some((number, lane, estate, publishes)) = message::publishes(&body) else { return 0 };
        for publish in publishes.skip(first) {
            before_each();
            let undo = Undo::new(self);
            let route = self.route(publish.topic);
            let mut view = View::new(publish.topic, publish.payload, publish.qos, publish.durable);
            view.shared_topic = Some(&route.topic);
            (view.lane, view.estate) = ((batch.node, lane), estate);
            if publish.audience == Audience::Live {
                self.deliver_live(&route, &mut view);
            } else {
                let needs = self.fan_out(&route, &mut view, publish.durable);
                batch.store |= needs.store;
                batch.arriving.extend(needs.arriving);
            }
            undo.keep();
            batch.done += 1;
        }
        let (node, incarnation) = (batch.node, batch.incarnation);
        if number != 0 {
            if batch.store || !batch.arriving.is_empty() {
                let kind = WaitKind::Peer { node, incarnation, batch: number };
                let wait = self.wait(batch.store, false, batch.arriving.len(), kind);
                if batch.store {
                    self.outgoing.borrow_mut().tokens.push(self.token(Part::Store, wait));
                }
                for slot in std::mem::take(&mut batch.arriving) {
                    self.wait_for_arrival(slot, self.token(Part::Peer, wait));
                }
            } else {
                self.peer_stored(node, incarnation, number);
            }
        }
        self.flush();
        self.to_peers(PeerWork::Consumed { node, incarnation, bytes: body.len() as u64 }, SMALL);
        (batch.done - first) as u64
    }

    /// A publish of another node makes the router panic again and again: it is given up.
    pub fn skip_poisoned_peer(&self, batch: &mut FromPeer) {
        log::error!(target: "hydrant::router", "gave up a publish of another node: it made the router panic again and again");
        self.metrics.drop_messages(DropReason::Poisoned, 1);
        batch.done += 1;
    }

    pub(super) fn peer_stored(&self, node: NodeIndex, incarnation: u64, batch: u64) {
        self.to_peers(PeerWork::Stored { node, incarnation, batch }, SMALL);
    }

    /// Asks whether a client may be let in; its CONNECT is looked at again then.
    pub(super) fn claim(&self, conn: &Rc<Conn>, client: &Arc<str>, clean: bool) {
        let stamp = self.stamp();
        conn.claiming.set(Some(stamp));
        *conn.client_id.borrow_mut() = Some(Arc::clone(client));
        let work = PeerWork::Claim {
            shard: self.index,
            conn: (conn.id, stamp),
            client: Arc::clone(client),
            clean,
            known: self.sessions.borrow().by_client.contains_key(client),
        };
        self.to_peers(work, SMALL);
    }

    /// The answer: no other node has the client's session. One that was taken over comes with it.
    pub fn granted(
        &self,
        (conn, stamp): (usize, u32),
        client: &Arc<str>,
        taken: Option<&StoredSession>,
    ) {
        let known = || self.sessions.borrow().by_client.contains_key(client);
        if let Some(taken) = taken
            && !known()
        {
            self.arrived(client, taken);
        }
        let conn = self.conns.borrow().get(conn).map(Rc::clone);
        match conn.filter(|conn| conn.claiming.get() == Some(stamp)) {
            Some(conn) => {
                conn.claiming.set(None);
                conn.claimed.set(true);
                let before =
                    self.arriving.borrow_mut().insert(Arc::clone(client), Rc::clone(&conn));
                if let Some(before) = before {
                    before.claimed.set(false);
                    self.close(&before, CloseReason::Takeover);
                }
                conn.wake();
            }
            None if !known() && !self.arriving.borrow().contains_key(client) => {
                self.to_peers(PeerWork::Gone(Arc::clone(client)), SMALL);
            }
            None => {}
        }
    }

    /// A connection that was let in has ended before its session was made.
    pub(super) fn never_arrived(&self, conn: &Rc<Conn>) {
        if !conn.claimed.replace(false) {
            return;
        }
        let Some(client) = conn.client_id.borrow().clone() else { return };
        let mut arriving = self.arriving.borrow_mut();
        if arriving.get(&client).is_some_and(|known| Rc::ptr_eq(known, conn)) {
            arriving.remove(&client);
            if !self.sessions.borrow().by_client.contains_key(&client) {
                self.to_peers(PeerWork::Gone(client), SMALL);
            }
        }
    }

    /// Another node lets a client of ours in: its connection ends ([MQTT-3.1.4-2]), and its session
    /// is given up once all of it is stored.
    pub fn give_up_session(&self, owner: &Arc<str>, ticket: u64, client: &Arc<str>, to: &Arc<str>) {
        let arriving = self.arriving.borrow_mut().remove(client);
        if let Some(conn) = arriving {
            conn.claimed.set(false);
            self.close(&conn, CloseReason::Takeover);
        }
        let slot = || self.sessions.borrow().by_client.get(client).copied();
        if let Some(slot) = slot() {
            self.reconnecting.set(true);
            self.take_over(slot);
            self.reconnecting.set(false);
        }
        let Some(cluster) = &self.shared.cluster else { return };
        let filters = slot().and_then(|slot| {
            let id = cluster.next_move.fetch_add(1, Ordering::Relaxed);
            let mut sessions = self.sessions.borrow_mut();
            let session = sessions.get(slot)?;
            let moving = session.moving.get_or_insert_default();
            moving.leave = Some(Marks::new(id));
            let subscriber = self.subscriber(slot, session);
            let table = self.shared.subscriptions.read();
            let granted = |filter| table.granted(filter, subscriber).unwrap_or(QoS::AtMostOnce);
            let filters = session.filters.iter();
            let filters =
                filters.map(|filter| (Arc::clone(filter.arc()), granted(filter) as u8)).collect();
            Some((id, filters))
        });
        self.flush();
        match filters {
            Some((id, filters)) => {
                let (owner, to, client) = (Arc::clone(owner), Arc::clone(to), Arc::clone(client));
                let work = PeerWork::Leaving { id, owner, ticket, client, to, filters };
                self.to_peers(work, 256);
            }
            None => self.answer_release(owner, ticket, client, None),
        }
    }

    fn answer_release(
        &self,
        owner: &Arc<str>,
        ticket: u64,
        client: &Arc<str>,
        handed: Option<Handed>,
    ) {
        let (owner, client) = (Arc::clone(owner), Arc::clone(client));
        self.to_peers(PeerWork::Released { owner, ticket, client, handed }, SMALL);
    }

    /// Everything of a session that is given up is stored: it goes.
    pub(super) fn hand_over(&self, slot: u32, owner: &Arc<str>, ticket: u64) {
        let session = {
            let mut sessions = self.sessions.borrow_mut();
            if sessions.get(slot).is_none() {
                return;
            }
            let session = sessions.slots.remove(slot as usize);
            sessions.by_client.remove(&session.client_id);
            session
        };
        let subscriber = self.subscriber(slot, &session);
        for filter in &session.filters {
            self.shared.unsubscribe(filter, subscriber);
        }
        self.shared.persistent_sessions.fetch_sub(1, Ordering::Relaxed);
        let handed = session.stored.as_ref().and_then(|stored| {
            let cluster = self.shared.cluster.as_ref()?;
            cluster.store.give_up(stored.id);
            Some(Handed { session: stored.id, incarnation: cluster.incarnation })
        });
        self.answer_release(owner, ticket, &session.client_id, handed);
    }

    /// What a lost node held: its sessions are offline ones of this node, its wills fire.
    pub fn inherit(
        &self,
        sessions: &[StoredSession],
        wills: &[StoredWill],
        incarnation: u64,
        done: oneshot::Sender<()>,
    ) {
        for session in sessions {
            let known = self.sessions.borrow().by_client.contains_key(&session.client_id);
            if !known {
                self.restore_session(session, incarnation);
            }
        }
        for will in wills {
            self.restore_will(will);
        }
        self.flush();
        let _ = done.send(());
    }

    /// A session of this node has ended, for the owner of its client id.
    pub(super) fn session_ended(&self, client: &Arc<str>) {
        if !self.reconnecting.get() {
            self.to_peers(PeerWork::Gone(Arc::clone(client)), SMALL);
        }
    }
}
