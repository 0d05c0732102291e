//! What a worker does as a part of a cluster: publishes to and from other nodes, and sessions that
//! change hands.

use std::num::NonZeroU32;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hydrant_protocol::QoS;
use hydrant_protocol::cluster::message::{
    self, Control, Handed, Prepared, Publish, Publishes, Recipients,
};
use hydrant_protocol::cluster::stream_marker::{MarkedStreams, PublishStream};

use crate::cluster::NodeIndex;
use crate::messages::{AckSource, InboundPeerBatch, PeerWork, SMALL};
use crate::metrics::{CloseReason, DropReason};
use crate::ports::{ClusterOp, StoredSession};
use crate::say;

use super::conn::AckKind;
use super::state::effects::begin_step;
use super::state::handover::Offer;
use super::state::pending_acks::MOST_PEERS;
use super::state::phase::Reached;
use super::state::publication::Publication;
use super::state::replica::Coming;
use super::state::routes::Route;
use super::state::sessions::Session;
use super::{AckDependencies, Conn, Continuation, Event, Worker};

/// A claim that takes longer than this is held up by something.
const USUAL_MS: u64 = 1000;

impl Worker {
    pub(super) fn to_peers(&self, work: PeerWork, bytes: usize) {
        if self.shared.cluster.is_some() {
            self.outside.peers(work, bytes);
        }
    }

    /// Subscribers on other nodes. A publish waits for those whose queues it is for, and for those
    /// that can be reached: so a slow node slows its publishers down, and one that is away does not.
    pub(super) fn fan_out_to_nodes(
        &self,
        route: &Route,
        publication: &Publication<'_>,
        durable: bool,
        deps: &mut AckDependencies,
    ) {
        if route.nodes.is_empty() {
            return;
        }
        let Some(cluster) = &self.shared.cluster else { return };
        let held = publication.held();
        let recipients = if held { Recipients::Queues } else { Recipients::All };
        let (topic, payload, qos, prepared) =
            (publication.topic, publication.payload, publication.qos, publication.prepared);
        let publish = Publish { topic, payload, qos, durable, recipients, prepared, shows: 0 };
        let prepared =
            prepared.map_or(0, |prepared| match prepared.id.incarnation == cluster.incarnation {
                true => prepared.id.number,
                false => u64::MAX,
            });
        let mut effects = self.effects.borrow_mut();
        for (to, queues) in &route.nodes {
            let queues = *queues && publication.qos != QoS::AtMostOnce;
            if held && !queues {
                continue;
            }
            effects.peer(*to).push(self.index, &publish, durable && queues, prepared);
            let waits =
                publication.qos != QoS::AtMostOnce && (durable && queues || cluster.is_up(to.node));
            if waits && deps.peers.len() < MOST_PEERS {
                deps.peers.push(*to);
            }
        }
    }

    /// The same for a QoS 2 message that is stored: who was not served by its queues. Only a prepared one waits
    /// for that.
    pub(super) fn deliver_live_to_nodes(
        &self,
        route: &Route,
        publication: &Publication<'_>,
        deps: &mut AckDependencies,
    ) {
        let (topic, payload, qos, prepared) =
            (publication.topic, publication.payload, publication.qos, publication.prepared);
        let (durable, recipients) = (true, Recipients::Live);
        let shows = publication.shows;
        let publish = Publish { topic, payload, qos, durable, recipients, prepared, shows };
        let mut effects = self.effects.borrow_mut();
        for (to, _) in &route.nodes {
            effects.peer(*to).push(self.index, &publish, false, 0);
            if prepared.is_some() && deps.peers.len() < MOST_PEERS {
                deps.peers.push(*to);
            }
        }
        drop(effects);
        if let Some(topic) = publication.owned.as_ref().map(|message| &message.topic) {
            self.retained_reached_elsewhere(topic, shows, Some(route));
        }
    }

    /// A retained message, or its end, for every other node; `ahead` of live subscribers.
    pub(super) fn retained_elsewhere(
        &self,
        publication: &Publication<'_>,
        removed: bool,
        version: u64,
        ahead: bool,
    ) {
        let Some(cluster) = &self.shared.cluster else { return };
        cluster.retained.lock().is_newest(publication.topic, version);
        let payload = if removed { &[] } else { publication.payload };
        self.effects.borrow_mut().broadcast.push(Control::Retained {
            topic: Arc::from(publication.topic),
            payload: bytes::Bytes::copy_from_slice(payload),
            qos: publication.qos as u8,
            version,
            ahead,
        });
    }

    /// SUBACK and UNSUBACK: once the store has it, and every other node knows what is wanted here.
    pub(super) fn answer_known(&self, conn: &Rc<Conn>, kind: AckKind, must_wait: bool) {
        let unsettled = self.shared.cluster.as_ref().filter(|cluster| cluster.is_unsettled());
        if unsettled.is_none() {
            return self.answer_stored(conn, kind, must_wait);
        }
        let index = conn.owe(kind);
        let pending =
            self.pend(must_wait, false, 1, Continuation::Answer { conn: Rc::clone(conn), index });
        if must_wait {
            self.effects.borrow_mut().tokens.push(self.token(AckSource::Store, pending));
        }
        self.to_peers(PeerWork::Interest(Some(self.token(AckSource::Peer, pending))), SMALL);
    }

    /// Publishes of another node for the subscribers here. A router that died on one of them goes on
    /// behind the last that was done.
    pub fn route_peer(&self, batch: &mut InboundPeerBatch, before_each: impl Fn()) -> u64 {
        let first = batch.done;
        let body = batch.body.clone();
        let Some((number, router, orphan, publishes)) = message::publishes(&body) else { return 0 };
        let known = orphan != 0 && self.was_stored_by_all((batch.incarnation, number));
        let publishes = if known { Publishes::default() } else { publishes };
        for publish in publishes.skip(first) {
            before_each();
            let step = begin_step(&self.effects);
            let route = self.route(publish.topic);
            let mut publication =
                Publication::new(publish.topic, publish.payload, publish.qos, publish.durable);
            publication.shared_topic = Some(&route.topic);
            (publication.stream, publication.orphan, publication.prepared) =
                (PublishStream::new(batch.node, router), orphan, publish.prepared);
            publication.shows = publish.shows;
            publication.batch = if number == 0 { (0, 0) } else { (batch.incarnation, number) };
            // What is sent again for the sessions of a lost node they have not got, unless it is that one's own and
            // was queued for them.
            let resent = |prepared: &Prepared| orphan != 0 && orphan != prepared.id.incarnation;
            let prepared = publish.prepared.filter(|prepared| !resent(prepared));
            if publish.recipients == Recipients::Live {
                if !prepared.is_some_and(|prepared| self.was_live(&prepared)) {
                    self.deliver_live(&route, &mut publication);
                } else {
                    self.retained_reached(publish.topic, publish.shows);
                }
            } else {
                let coming = publish.prepared.and_then(|prepared| {
                    let coming = self.coming(&prepared, batch.incarnation)?;
                    Some(Coming { resent: resent(&prepared), ..coming })
                });
                publication.coming = coming;
                let deps = self.fan_out(&route, &mut publication, publish.durable);
                batch.add(&deps, publication.held(), coming.map(|coming| coming.id));
                if let Some(coming) = coming {
                    self.note_prepared(coming, publication.stream, orphan);
                }
            }
            step.keep();
            if let Some(prepared) = publish.prepared.filter(|_| orphan == 0) {
                self.note_routed(&prepared, publish.recipients);
            }
            batch.done += 1;
        }
        let (node, incarnation) = (batch.node, batch.incarnation);
        let kept = batch.exact && number != 0;
        if kept {
            let prepared = std::mem::take(&mut batch.prepared);
            let stored = ClusterOp::PutPeerBatch { origin: incarnation, batch: number, prepared };
            self.effects.borrow_mut().ops.push(stored.into());
        }
        if number != 0 {
            let others = batch.arriving.len() + batch.late.len();
            if batch.store || others > 0 {
                let kind = Continuation::Peer { node, incarnation, batch: number };
                let pending = self.pend(batch.store, false, others, kind);
                if batch.store {
                    self.effects.borrow_mut().tokens.push(self.token(AckSource::Store, pending));
                }
                self.wait_for_late(&std::mem::take(&mut batch.late), pending);
                for slot in std::mem::take(&mut batch.arriving) {
                    self.wait_for_arrival(slot, self.token(AckSource::Peer, pending));
                }
            } else {
                self.peer_stored(node, incarnation, number);
            }
        }
        self.flush();
        let bytes = body.len() as u64;
        self.to_peers(PeerWork::Consumed { node, incarnation, bytes, kept }, SMALL);
        (batch.done - first) as u64
    }

    /// A lost node, whose sessions are here now, has stored this batch for all of them.
    fn was_stored_by_all(&self, batch: (u64, u64)) -> bool {
        let cluster = self.shared.cluster.as_ref();
        cluster.is_some_and(|cluster| cluster.was_stored_by_all(batch))
    }

    /// A lost node has stored this batch, also for the session of this client.
    pub(super) fn was_stored(&self, batch: (u64, u64), client: &Arc<str>) -> bool {
        let cluster = self.shared.cluster.as_ref();
        cluster.is_some_and(|cluster| cluster.was_stored(batch, client))
    }

    /// A publish of another node makes the router panic again and again: it is given up.
    pub fn skip_poisoned_peer(&self, batch: &mut InboundPeerBatch) {
        let given_up =
            message::publishes(&batch.body).and_then(|(.., mut all)| all.nth(batch.done));
        if let Some(publish) = given_up {
            self.retained_reached(publish.topic, publish.shows);
        }
        say::error!(target: "hydrant::router", "gave up a publish of another node: it made the router panic again and again");
        self.metrics.drop_messages(DropReason::Poisoned, 1, format_args!(""));
        batch.done += 1;
    }

    pub(super) fn peer_stored(&self, node: NodeIndex, incarnation: u64, batch: u64) {
        self.to_peers(PeerWork::Stored { node, incarnation, batch }, SMALL);
    }

    /// Asks whether a client may be let in; its CONNECT is looked at again then.
    pub(super) fn claim(&self, conn: &Rc<Conn>, client: &Arc<str>, clean: bool) {
        let claim = NonZeroU32::new(self.next_number()).unwrap_or(NonZeroU32::MIN);
        conn.enter(Event::Asks(claim));
        conn.claiming_ms.set(self.now_ms());
        *conn.client_id.borrow_mut() = Some(Arc::clone(client));
        let work = PeerWork::Claim {
            worker: self.index,
            conn: (conn.key(), claim.get()),
            client: Arc::clone(client),
            clean,
            known: self.sessions.borrow().by_client.contains_key(client),
        };
        self.to_peers(work, SMALL);
    }

    /// Whether a client whose connection has ended, as the socket says, has left for good: nobody is let in for it.
    /// Where packets of it stand behind its CONNECT, it may have left without waiting for CONNACK: it is let in
    /// if that takes no longer than usual, for what it has sent.
    pub fn has_left(&self, conn: &Conn, packets: bool) -> bool {
        !packets || self.now_ms().saturating_sub(conn.claiming_ms.get()) > USUAL_MS
    }

    /// The answer: no other node has the client's session. One that was taken over comes with it.
    pub fn granted(
        &self,
        (conn, claim): (usize, u32),
        client: &Arc<str>,
        taken: Option<&StoredSession>,
        admission: u64,
    ) {
        self.admitted.set(admission);
        self.abort_offer(client);
        let known = || self.sessions.borrow().by_client.contains_key(client);
        match taken {
            Some(taken) if !known() => self.arrived(client, taken),
            // Its holder had none any more, or it is here.
            _ => self.forget_expected(client),
        }
        let conn = self.conns.borrow().get(conn).map(Rc::clone);
        let claim = NonZeroU32::new(claim);
        let granted =
            |conn: &Rc<Conn>| claim.is_some_and(|claim| conn.enter(Event::Granted(claim)));
        match conn.filter(granted) {
            Some(conn) => {
                let before =
                    self.arriving.borrow_mut().insert(Arc::clone(client), Rc::clone(&conn));
                if let Some(before) = before {
                    self.close(&before, CloseReason::Takeover);
                }
                self.wake(&conn);
            }
            None if !known() && !self.arriving.borrow().contains_key(client) => {
                self.send_gone(client);
            }
            None => {}
        }
    }

    /// A client is let in whose session here was about to be given up: it stays.
    fn abort_offer(&self, client: &Arc<str>) {
        let offer = {
            let mut sessions = self.sessions.borrow_mut();
            let slot = sessions.by_client.get(client).copied();
            slot.filter(|slot| {
                let session = sessions.get(*slot);
                let leaves = session.as_ref().and_then(|session| session.handover.as_ref());
                let leaves = leaves.is_some_and(|handover| handover.offer.is_some());
                if leaves && let Some(session) = session {
                    self.send_abort(session);
                }
                leaves
            })
        };
        if let Some(slot) = offer {
            drop(self.keep(slot, None));
        }
    }

    /// A connection has ended before it was let in, or before its session was made.
    pub(super) fn never_arrived(&self, conn: &Rc<Conn>, reached: Reached) {
        if let Reached::Claiming(claim) = reached {
            self.to_peers(PeerWork::Unclaim { worker: self.index, claim: claim.get() }, SMALL);
        }
        if reached != Reached::LetIn {
            return;
        }
        let Some(client) = conn.client_id.borrow().clone() else { return };
        let mut arriving = self.arriving.borrow_mut();
        if arriving.get(&client).is_some_and(|known| Rc::ptr_eq(known, conn)) {
            arriving.remove(&client);
            if !self.sessions.borrow().by_client.contains_key(&client) {
                self.send_gone(&client);
            }
        }
    }

    /// Another node lets a client of ours in: its connection ends ([MQTT-3.1.4-2]), and its session
    /// is given up once all of it is stored.
    pub fn give_up_session(&self, owner: &Arc<str>, ticket: u64, client: &Arc<str>, to: &Arc<str>) {
        let arriving = self.arriving.borrow_mut().remove(client);
        if let Some(conn) = arriving {
            self.close(&conn, CloseReason::Takeover);
        }
        let slot = || self.sessions.borrow().by_client.get(client).copied();
        if let Some(slot) = slot() {
            let _back = self.reconnecting();
            self.take_over(slot);
        }
        match slot() {
            Some(slot) => self.begin_offer(slot, owner, ticket, to),
            None if self.given_up.borrow().contains_key(client) => {
                self.ask_for_given_up(owner, ticket, client, to);
            }
            None => self.answer_release(owner, ticket, client, None),
        }
    }

    fn begin_offer(&self, slot: u32, owner: &Arc<str>, ticket: u64, to: &Arc<str>) {
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
            let handover = sessions.get(slot).and_then(|session| session.handover.as_mut());
            let under_way = handover.and_then(|handover| {
                let id = handover.transit.leave.as_ref()?.id;
                Some((id, handover.offer.as_mut()?))
            });
            match under_way {
                Some((_, offer)) if offer.to == *to => {
                    return offer.asked.push((Arc::clone(owner), ticket));
                }
                under_way => under_way.map(|(id, _)| id),
            }
        };
        if let Some(id) = abandoned {
            // For another node than before: that one does not get it, and whoever asked for it knows so.
            self.to_peers(PeerWork::Abort { id }, SMALL);
            drop(self.keep(slot, None));
        }
        self.flag_handover(slot, true);
        let id = cluster.next_move.fetch_add(1, Ordering::Relaxed);
        let (client, filters, orphan) = {
            let mut sessions = self.sessions.borrow_mut();
            let Some(session) = sessions.get(slot) else { return };
            let handover = session.handover.get_or_insert_default();
            handover.transit.leave = Some(MarkedStreams::new(id));
            let (to, asked) = (Arc::clone(to), vec![(Arc::clone(owner), ticket)]);
            handover.offer = Some(Offer { to, asked, read: None, later: Vec::new() });
            let subscriber = self.subscriber(slot, session);
            let table = self.shared.subscriptions.read();
            let granted = |filter| table.granted(filter, subscriber).unwrap_or(QoS::AtMostOnce);
            let filters: Vec<(Arc<str>, u8)> = session
                .filters
                .iter()
                .map(|filter| (Arc::clone(filter.arc()), granted(filter) as u8))
                .collect();
            let orphan = session.stored.as_ref().map_or(0, |stored| stored.orphan);
            (Arc::clone(&session.client_id), filters, orphan)
        };
        self.flush();
        let to = Arc::clone(to);
        self.to_peers(PeerWork::Offer { id, client, to, filters, orphan }, 256);
    }

    /// A session that is given up already and that the node it was given to does not have yet.
    fn ask_for_given_up(&self, owner: &Arc<str>, ticket: u64, client: &Arc<str>, to: &Arc<str>) {
        let Some(slot) = self.given_up.borrow().get(client).copied() else { return };
        let recover = {
            let mut sessions = self.sessions.borrow_mut();
            let Some(session) = sessions.get(slot) else { return };
            let handed = self.handed(session);
            let Some(handover) = &mut session.handover else { return };
            let Some(offer) = &mut handover.offer else { return };
            if offer.to == *to {
                return self.answer_release(owner, ticket, client, handed);
            }
            offer.later.push((Arc::clone(owner), ticket, Arc::clone(to)));
            handover.transit.leave.as_ref().map(|marked| marked.id)
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
        let (session, given_up) = (stored.id, stored.given_up);
        Some(Handed { session, incarnation: cluster.incarnation, given_up })
    }

    /// Everything of a session that is given up is stored: the other node may take it. What is
    /// published for it stays here until that has done so.
    pub(super) fn hand_over(&self, slot: u32) {
        let (client, handed, asked, to) = {
            let mut sessions = self.sessions.borrow_mut();
            let Some(session) = sessions.get(slot) else { return };
            let client = Arc::clone(&session.client_id);
            if let (Some(stored), Some(cluster)) = (&mut session.stored, &self.shared.cluster) {
                stored.given_up = cluster.give_up(stored.id);
            }
            let handed = self.handed(session);
            let offer = session.handover.as_mut().and_then(|handover| handover.offer.as_mut());
            let (asked, to) = offer
                .map(|offer| (std::mem::take(&mut offer.asked), Arc::clone(&offer.to)))
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

    /// A session of this node has ended, for the owner of its client id.
    pub(super) fn session_ended(&self, client: &Arc<str>) {
        if !self.reconnecting.get() {
            self.send_gone(client);
        }
    }

    fn send_gone(&self, client: &Arc<str>) {
        let (client, seen) = (Arc::clone(client), self.admitted.get());
        self.to_peers(PeerWork::Gone { client, seen }, SMALL);
    }
}
