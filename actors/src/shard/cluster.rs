//! What an arbiter does as a part of a cluster: publishes to and from other nodes, and sessions that
//! change hands.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hydrant_protocol::QoS;
use hydrant_protocol::cluster::marks::Marks;
use hydrant_protocol::cluster::message::{self, Audience, Control, Handed, Publish, Publishes};
use tokio::sync::oneshot;

use crate::cluster::{FromPeer, NodeIndex, PeerWork, SMALL};
use crate::metrics::{CloseReason, DropReason};
use crate::ports::{OpenPublish, StoreOp, StoredSession, StoredWill};
use crate::shared::Part;

use super::conn::AckKind;
use super::deliver::View;
use super::moving::{Leaving, Moving};
use super::outgoing::Undo;
use super::publish::Needs;
use super::routes::Route;
use super::sessions::Session;
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
        let (topic, payload, qos, open) = (view.topic, view.payload, view.qos, view.open);
        let publish = Publish { topic, payload, qos, durable, audience, open };
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

    /// The same for a QoS 2 message that is stored: who was not served by its queues. Only an open one waits
    /// for that.
    pub(super) fn deliver_live_to_nodes(&self, route: &Route, view: &View<'_>, needs: &mut Needs) {
        let (topic, payload, qos, open) = (view.topic, view.payload, view.qos, view.open);
        let (durable, audience) = (true, Audience::Live);
        let publish = Publish { topic, payload, qos, durable, audience, open };
        let mut outgoing = self.outgoing.borrow_mut();
        for (node, _) in &route.nodes {
            outgoing.peer(*node).push(self.index, &publish, false);
            if open.is_some() && needs.peers.len() < MOST_PEERS {
                needs.peers.push(*node);
            }
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
        let known = estate != 0 && self.was_stored(batch.incarnation, number);
        let publishes = if known { Publishes::default() } else { publishes };
        for publish in publishes.skip(first) {
            before_each();
            let undo = Undo::new(self);
            let route = self.route(publish.topic);
            let mut view = View::new(publish.topic, publish.payload, publish.qos, publish.durable);
            view.shared_topic = Some(&route.topic);
            (view.lane, view.estate, view.open) = ((batch.node, lane), estate, publish.open);
            // What is sent again for the sessions of a lost node they have not got, unless it is that one's own and
            // was queued for them.
            let open = publish.open.filter(|open| estate == 0 || estate == open.id.incarnation);
            if publish.audience == Audience::Live {
                if !open.is_some_and(|open| self.was_live(&open)) {
                    self.deliver_live(&route, &mut view);
                }
            } else {
                view.coming = open.and_then(|open| self.coming(&open, batch.incarnation));
                let needs = self.fan_out(&route, &mut view, publish.durable);
                batch.add(&needs, view.held());
            }
            undo.keep();
            if let Some(open) = publish.open.filter(|_| estate == 0) {
                self.is_seen(&open, publish.audience);
            }
            batch.done += 1;
        }
        let (node, incarnation) = (batch.node, batch.incarnation);
        if batch.exact && number != 0 && batch.arriving.is_empty() && batch.late.is_empty() {
            // What is put aside for a session on its way is not in this write.
            let stored = StoreOp::PutPeerBatch { origin: incarnation, batch: number };
            self.outgoing.borrow_mut().ops.push(stored);
            if let Some(cluster) = &self.shared.cluster {
                cluster.keeps_batches_of(node);
            }
        }
        if number != 0 {
            let others = batch.arriving.len() + batch.late.len();
            if batch.store || others > 0 {
                let kind = WaitKind::Peer { node, incarnation, batch: number };
                let wait = self.wait(batch.store, false, others, kind);
                if batch.store {
                    self.outgoing.borrow_mut().tokens.push(self.token(Part::Store, wait));
                }
                self.wait_for_late(&std::mem::take(&mut batch.late), wait);
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

    /// A lost node, whose sessions are here now, has stored this batch.
    fn was_stored(&self, origin: u64, number: u64) -> bool {
        let stored = self.shared.cluster.as_ref().map(|cluster| cluster.stored_batches.lock());
        stored.is_some_and(|stored| stored.contains(&(origin, number)))
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
        admission: u64,
    ) {
        self.admitted.set(admission);
        self.stop_leaving(client);
        let known = || self.sessions.borrow().by_client.contains_key(client);
        match taken {
            Some(taken) if !known() => self.arrived(client, taken),
            // Its holder had none any more, or it is here.
            _ => self.forget_expected(client),
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
                self.say_gone(client);
            }
            None => {}
        }
    }

    /// A client is let in whose session here was about to be given up: it stays.
    fn stop_leaving(&self, client: &Arc<str>) {
        let leaving = {
            let mut sessions = self.sessions.borrow_mut();
            let slot = sessions.by_client.get(client).copied();
            slot.filter(|slot| {
                let session = sessions.get(*slot);
                let leaves = session.as_ref().and_then(|session| session.moving.as_ref());
                let leaves = leaves.is_some_and(|moving| moving.leaving.is_some());
                if leaves && let Some(session) = session {
                    self.say_kept(session);
                }
                leaves
            })
        };
        if let Some(slot) = leaving {
            drop(self.keep(slot, None));
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
                self.say_gone(&client);
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
            let _back = self.reconnecting();
            self.take_over(slot);
        }
        match slot() {
            Some(slot) => self.begin_leaving(slot, owner, ticket, to),
            None if self.given_up.borrow().contains_key(client) => {
                self.ask_for_given_up(owner, ticket, client, to);
            }
            None => self.answer_release(owner, ticket, client, None),
        }
    }

    fn begin_leaving(&self, slot: u32, owner: &Arc<str>, ticket: u64, to: &Arc<str>) {
        let Some(cluster) = &self.shared.cluster else { return };
        if ticket == 0 {
            // Its owner is not sure who has it, and was told first of another.
            let mut sessions = self.sessions.borrow_mut();
            if let Some(session) = sessions.get(slot) {
                self.to_peers(PeerWork::Holds(vec![Arc::clone(&session.client_id)]), SMALL);
            }
            return;
        }
        let abandoned = {
            let mut sessions = self.sessions.borrow_mut();
            let moving = sessions.get(slot).and_then(|session| session.moving.as_mut());
            let under_way = moving.and_then(|moving| {
                let id = moving.transit.leave.as_ref()?.id;
                Some((id, moving.leaving.as_mut()?))
            });
            match under_way {
                Some((_, leaving)) if leaving.to == *to => {
                    return leaving.asked.push((Arc::clone(owner), ticket));
                }
                under_way => under_way.map(|(id, _)| id),
            }
        };
        if let Some(id) = abandoned {
            // For another node than before: that one does not get it, and whoever asked for it knows so.
            self.to_peers(PeerWork::Keeps { id }, SMALL);
            drop(self.keep(slot, None));
        }
        self.flag_moving(slot, true);
        let id = cluster.next_move.fetch_add(1, Ordering::Relaxed);
        let (client, filters, estate) = {
            let mut sessions = self.sessions.borrow_mut();
            let Some(session) = sessions.get(slot) else { return };
            let moving = session.moving.get_or_insert_default();
            moving.transit.leave = Some(Marks::new(id));
            let (to, asked) = (Arc::clone(to), vec![(Arc::clone(owner), ticket)]);
            moving.leaving = Some(Leaving { to, asked, read: None, later: Vec::new() });
            let subscriber = self.subscriber(slot, session);
            let table = self.shared.subscriptions.read();
            let granted = |filter| table.granted(filter, subscriber).unwrap_or(QoS::AtMostOnce);
            let filters: Vec<(Arc<str>, u8)> = session
                .filters
                .iter()
                .map(|filter| (Arc::clone(filter.arc()), granted(filter) as u8))
                .collect();
            let estate = session.stored.as_ref().map_or(0, |stored| stored.estate);
            (Arc::clone(&session.client_id), filters, estate)
        };
        self.flush();
        let to = Arc::clone(to);
        self.to_peers(PeerWork::Leaving { id, client, to, filters, estate }, 256);
    }

    /// A session that is given up already and that the node it was given to does not have yet.
    fn ask_for_given_up(&self, owner: &Arc<str>, ticket: u64, client: &Arc<str>, to: &Arc<str>) {
        let Some(slot) = self.given_up.borrow().get(client).copied() else { return };
        let recover = {
            let mut sessions = self.sessions.borrow_mut();
            let Some(session) = sessions.get(slot) else { return };
            let handed = self.handed(session);
            let Some(moving) = &mut session.moving else { return };
            let Some(leaving) = &mut moving.leaving else { return };
            if leaving.to == *to {
                return self.answer_release(owner, ticket, client, handed);
            }
            leaving.later.push((Arc::clone(owner), ticket, Arc::clone(to)));
            moving.transit.leave.as_ref().map(|marks| marks.id)
        };
        if let Some(id) = recover {
            self.recover(slot, id, client);
        }
    }

    pub(super) fn answer_release(
        &self,
        owner: &Arc<str>,
        ticket: u64,
        client: &Arc<str>,
        handed: Option<Handed>,
    ) {
        let (owner, client) = (Arc::clone(owner), Arc::clone(client));
        self.to_peers(PeerWork::Released { owner, ticket, client, handed }, SMALL);
    }

    fn handed(&self, session: &Session) -> Option<Handed> {
        let (stored, cluster) = (session.stored.as_ref()?, self.shared.cluster.as_ref()?);
        let (session, stamp) = (stored.id, stored.given_up);
        Some(Handed { session, incarnation: cluster.incarnation, stamp })
    }

    /// Everything of a session that is given up is stored: the other node may take it. What is
    /// published for it stays here until that has done so.
    pub(super) fn hand_over(&self, slot: u32) {
        let (client, handed, asked, to) = {
            let mut sessions = self.sessions.borrow_mut();
            let Some(session) = sessions.get(slot) else { return };
            let client = Arc::clone(&session.client_id);
            if let (Some(stored), Some(cluster)) = (&mut session.stored, &self.shared.cluster) {
                stored.given_up = cluster.store.give_up(stored.id);
            }
            let handed = self.handed(session);
            let leaving = session.moving.as_mut().and_then(|moving| moving.leaving.as_mut());
            let (asked, to) = leaving
                .map(|leaving| (std::mem::take(&mut leaving.asked), Arc::clone(&leaving.to)))
                .unzip();
            sessions.by_client.remove(&client);
            (client, handed, asked.unwrap_or_default(), to)
        };
        if let Some(to) = to {
            let mut sessions = self.sessions.borrow_mut();
            if let Some(session) = sessions.get(slot) {
                self.send_stays(session, &to);
            }
        }
        self.shared.persistent_sessions.fetch_sub(1, Ordering::Relaxed);
        self.given_up.borrow_mut().insert(Arc::clone(&client), slot);
        for (owner, ticket) in asked {
            self.answer_release(&owner, ticket, &client, handed);
        }
    }

    /// What a lost node held: its sessions are offline ones of this node, its wills fire.
    pub fn inherit(
        &self,
        sessions: &[StoredSession],
        wills: &[StoredWill],
        open: &[OpenPublish],
        incarnation: u64,
        done: oneshot::Sender<()>,
    ) {
        let marks = Rc::new(RefCell::new(Marks::new(incarnation)));
        for session in sessions {
            let client = &session.client_id;
            // What was put aside for it here comes again, from those who had sent it there.
            self.forget_moving(client);
            let known = self.sessions.borrow().by_client.contains_key(client);
            if !known {
                self.restore_session(session, incarnation);
                let mut sessions = self.sessions.borrow_mut();
                let slot = sessions.by_client.get(client).copied();
                if let Some(session) = slot.and_then(|slot| sessions.get(slot)) {
                    session.moving = Some(Box::new(Moving::inherited(Rc::clone(&marks))));
                }
            }
        }
        if !sessions.is_empty() {
            self.estates.borrow_mut().insert(incarnation, marks);
        }
        self.hold_open(open);
        for will in wills {
            self.restore_will(will);
        }
        self.flush();
        let _ = done.send(());
    }

    /// A session of this node has ended, for the owner of its client id.
    pub(super) fn session_ended(&self, client: &Arc<str>) {
        if !self.reconnecting.get() {
            self.say_gone(client);
        }
    }

    fn say_gone(&self, client: &Arc<str>) {
        let (client, seen) = (Arc::clone(client), self.admitted.get());
        self.to_peers(PeerWork::Gone { client, seen }, SMALL);
    }
}
