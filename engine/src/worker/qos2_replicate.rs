//! Prepared publishes: a QoS 2 message that other nodes want is kept in the store before anything is done
//! with it, until all of them have it, so that whoever takes over from this node can finish what it had
//! begun, and nobody takes it twice (docs/decisions/0014-prepared-publishes.md).
//!
//! Its publisher is a persistent session, or it is a Last Will. A clean session ends with its connection:
//! whatever its client sends again is another message.
//!
//! Bounds: as for the pending acks ([`super::state::pending_acks`]), whose publishes these are; [`CLOSING`] for those that
//! only live subscribers of other nodes do not have yet.

use std::sync::Arc;

use hydrant_protocol::cluster::dedup::{Roamed, Visit};
use hydrant_protocol::cluster::message::{Prepared, PublishId, Recipients};

use super::state::exactly_once::Behind;
use super::state::pending_acks::{Exact, Owed};
use super::state::replica::{Coming, Preparation};
use super::state::routes::Route;
use super::state::sessions::{Session, SessionKey, Stored};
use super::{AckDependencies, Continuation, Worker};
use crate::cluster::EARLIER_STARTS;
use crate::messages::{PeerWork, SMALL};
use crate::now::Boot;
use crate::ports::{ClusterOp, PreparedPublish, StoredWill};

/// Past so many prepared ones of a worker nothing waits for live subscribers elsewhere: they are at a node that is
/// slow, whose messages are dropped past `cluster.max_link_bytes` and counted.
const CLOSING: usize = 4096;

impl Worker {
    /// Whether a QoS 2 message is to be kept before anything is done with it. So is what comes behind one of
    /// the same publisher, which it must not overtake ([MQTT-4.6.0-6]).
    ///
    /// A Last Will is always: a session that is on its way here can want it as well, and its row ends with the
    /// beginning of the prepared publish.
    pub(super) fn must_prepare(&self, route: &Route, exact: &Exact) -> bool {
        let is_will = exact.receipt.is_none();
        exact.prepared.is_none()
            && self.shared.cluster.is_some()
            && (is_will
                || exact.persistent
                    && (!route.nodes.is_empty() || self.is_preparing(exact.receipt)))
    }

    fn is_preparing(&self, receipt: Option<SessionKey>) -> bool {
        receipt.is_some_and(|receipt| {
            self.with_stored(receipt, |stored| stored.preparing > 0).unwrap_or(false)
        })
    }

    /// What a session has in the store, while it is there and persistent.
    fn with_stored<T>(&self, key: SessionKey, look: impl FnOnce(&mut Stored) -> T) -> Option<T> {
        let mut sessions = self.sessions.borrow_mut();
        let session = sessions.find(key)?;
        session.stored.as_deref_mut().map(look)
    }

    /// Keeps it; the rest follows when it is stored.
    pub(super) fn prepared(&self, mut exact: Exact, answer: Option<Owed>) {
        let Some(cluster) = &self.shared.cluster else { return };
        let (incarnation, router) = (cluster.incarnation, self.index);
        let session = self.stored_session(exact.receipt);
        let number = self.prepared.numbers.borrow().next();
        let id = PublishId { incarnation, router, number };
        exact.prepared = Some(Preparation { id, taken_over: None });
        let publish = PreparedPublish {
            id,
            publisher: Arc::clone(&exact.publisher),
            session,
            packet_id: exact.packet_id,
            record: exact.record.as_ref().map(|(_, epoch, sequence)| (*epoch, *sequence)),
            message: Arc::clone(&exact.message),
            retain: exact.retain,
            queued: false,
        };
        let receipt = exact.receipt;
        let deps = AckDependencies { store: true, ..AckDependencies::default() };
        {
            let mut effects = self.effects.borrow_mut();
            // A will that is prepared is no will any more.
            effects.ops.append(&mut exact.ops);
            effects.ops.push(ClusterOp::Prepare(Box::new(publish)).into());
        }
        self.attach(deps, Continuation::Begun { answer, exact: Box::new(exact) });
        // Last: what panics above is not prepared.
        self.prepared.numbers.borrow_mut().prepare();
        self.count_opening(receipt, true);
    }

    /// What goes with it to the other nodes.
    pub(super) fn prepared_for_nodes(&self, preparation: Preparation) -> Prepared {
        let low_watermark = match preparation.taken_over {
            None => self.prepared.numbers.borrow().low_watermark(),
            Some(_) => 0,
        };
        Prepared { id: preparation.id, low_watermark, queued: preparation.taken_over == Some(true) }
    }

    /// Its publisher's session has gone to another node before anything of it was kept: the client sends it again
    /// there, and only that one counts.
    pub(super) fn is_elsewhere(&self, exact: &Exact) -> bool {
        let persistent = exact.persistent && self.shared.cluster.is_some();
        let Some(key) = exact.receipt.filter(|_| persistent) else { return false };
        let mut sessions = self.sessions.borrow_mut();
        sessions.find(key).is_none_or(|session| {
            let given_up = self.given_up.borrow();
            given_up.get(&session.client_id).is_some_and(|given_up| *given_up == key.slot)
        })
    }

    /// A prepared publish for the queues here, as this incarnation sends it.
    pub(super) fn coming(&self, prepared: &Prepared, from: u64) -> Option<Coming> {
        let cluster = self.shared.cluster.as_ref()?;
        let Prepared { id, low_watermark, queued } = *prepared;
        let own = id.incarnation == cluster.incarnation;
        let routed = !own && cluster.dedup.lock().has(id, Recipients::Queues);
        Some(Coming {
            id,
            routed,
            queued,
            again: id.incarnation != from,
            resent: false,
            low_watermark,
        })
    }

    /// One that this node publishes.
    pub(super) fn coming_here(&self, prepared: &Prepared) -> Option<Coming> {
        self.coming(prepared, self.shared.cluster.as_ref()?.incarnation)
    }

    /// Whether this session has it.
    pub(super) fn has_prepared(&self, session: &Session, coming: Coming) -> bool {
        let Coming { id, queued, again, resent, .. } = coming;
        if resent {
            // By its own node, which knows that it was not stored, or by a successor of that one, which does not.
            return self.orphan_has(session, id).unwrap_or(false);
        }
        let Some(stored) = session.stored.as_ref().filter(|_| again) else { return coming.routed };
        if self.was_held_by(stored.orphan, id.incarnation) {
            return queued;
        }
        if let Some(has) = self.orphan_has(session, id) {
            return has;
        }
        stored.roamed.as_ref().map_or(coming.routed, |roamed| roamed.has(id, coming.routed, queued))
    }

    /// Whether it has come to the live subscribers here.
    pub(super) fn was_live(&self, prepared: &Prepared) -> bool {
        let cluster = self.shared.cluster.as_ref();
        cluster.is_some_and(|cluster| cluster.dedup.lock().has(prepared.id, Recipients::Live))
    }

    /// It is routed here.
    pub(super) fn note_routed(&self, prepared: &Prepared, recipients: Recipients) {
        if let Some(cluster) = &self.shared.cluster {
            cluster.dedup.lock().insert(prepared.id, recipients, prepared.low_watermark);
        }
        if recipients != Recipients::Live {
            self.note_handled(prepared.id, prepared.low_watermark);
        }
    }

    /// The sessions here have it that take it: what this worker knows, which can be behind its node.
    pub(super) fn note_handled(&self, id: PublishId, low_watermark: u64) {
        self.prepared.handled.borrow_mut().insert(id, Recipients::Queues, low_watermark);
    }

    /// A session that goes to another node takes along what it has of such publishes.
    pub(super) fn send_stays(&self, session: &Session, to: &Arc<str>) {
        let (Some(cluster), Some(stored)) = (&self.shared.cluster, &session.stored) else { return };
        let buffered = session.handover.iter().flat_map(|handover| handover.buffered_ids());
        let known = self.orphan_known(stored);
        let known =
            known.unwrap_or_else(|| self.prepared.handled.borrow().known()).without(buffered);
        let orphans = match stored.orphan {
            0 => Vec::new(),
            EARLIER_STARTS => cluster.continued.iter().map(|before| before.number).collect(),
            orphan => vec![orphan],
        };
        let visits = match &stored.roamed {
            Some(roamed) => roamed.leaves(orphans, known),
            None => Roamed::default().leaves(orphans, known),
        };
        if !visits.is_empty() {
            let (to, client) = (Arc::clone(to), Arc::clone(&session.client_id));
            self.to_peers(PeerWork::Visited { to, client, visits }, SMALL);
        }
    }

    /// Where a session that has come, or is on its way, was before.
    pub fn has_visited(&self, client: &str, visits: Vec<Visit>) {
        let Some(slot) = self.handover_slot(client) else { return };
        let mut sessions = self.sessions.borrow_mut();
        let stored = sessions.get(slot).and_then(|session| session.stored.as_mut());
        if let Some(stored) = stored {
            stored.roamed.get_or_insert_default().past = visits;
        }
        drop(sessions);
        self.remember_for_a_while(slot);
    }

    /// A session has come from another node: what was routed here before was not for it.
    pub(super) fn has_come(&self, slot: u32) {
        {
            let mut sessions = self.sessions.borrow_mut();
            let Some(session) = sessions.get(slot) else { return };
            let buffered = session.handover.iter().flat_map(|handover| handover.buffered_ids());
            let arrived = self.prepared.handled.borrow().known().without(buffered);
            let Some(stored) = &mut session.stored else { return };
            if arrived.is_empty() && stored.roamed.is_none() {
                return;
            }
            stored.roamed.get_or_insert_default().arrived = arrived;
        }
        self.remember_for_a_while(slot);
    }

    fn remember_for_a_while(&self, slot: u32) {
        let key = self.sessions.borrow_mut().get(slot).map(|session| session.key(slot));
        if let Some(key) = key {
            self.prepared.roaming.borrow_mut().push_back((self.now().boot, key));
        }
    }

    /// What lost nodes had begun is finished by then: sessions need not know where they were.
    pub fn forget_stays(&self) {
        let Some(cluster) = &self.shared.cluster else { return };
        let repair = u64::try_from(cluster.settings.repair.as_millis()).unwrap_or(u64::MAX);
        self.forget_dedup(repair.saturating_mul(2));
        let mut roaming = self.prepared.roaming.borrow_mut();
        let now = self.now().boot;
        let is_over = |at: &Boot| now.since(*at) > 2 * cluster.settings.repair;
        while let Some((_, key)) = roaming.pop_front_if(|(at, _)| is_over(at)) {
            // It may have moved again since.
            if roaming.iter().any(|(_, other)| *other == key) {
                continue;
            }
            self.with_stored(key, |stored| stored.roamed = None);
        }
    }

    /// Its session is not given up before what it causes is on its way to the store.
    pub(super) fn count_opening(&self, receipt: Option<SessionKey>, begins: bool) {
        let Some(key) = receipt else { return };
        if !begins {
            self.count_opened(key);
            return self.publish_behind(key);
        }
        self.with_stored(key, |stored| stored.preparing += 1);
    }

    fn count_opened(&self, key: SessionKey) {
        let goes = self.with_stored(key, |stored| {
            stored.preparing = stored.preparing.saturating_sub(1);
            stored.preparing == 0 && std::mem::take(&mut stored.waits_to_go)
        });
        if goes == Some(true) {
            self.give_up_when_stored(key.slot);
        }
    }

    /// A Last Will comes behind what its session has published: here, when that is being prepared.
    pub(super) fn publish_will_behind(&self, slot: u32, will: StoredWill) {
        let generation =
            self.sessions.borrow_mut().get(slot).map_or(0, |session| session.generation);
        let key = SessionKey { slot, generation };
        self.prepared.behind.borrow_mut().push((key, will));
        self.publish_behind(key);
    }

    fn publish_behind(&self, key: SessionKey) {
        if self.prepared.behind.borrow().is_empty() || self.is_preparing(Some(key)) {
            return;
        }
        let its = |of: &mut Behind| of.0 == key;
        let wills: Vec<_> = self.prepared.behind.borrow_mut().extract_if(.., its).collect();
        wills.iter().for_each(|(_, will)| self.publish_will(will));
    }

    /// All have it, or nobody has and nobody will.
    pub(super) fn close_prepared(&self, preparation: Preparation) {
        let id = preparation.id;
        if preparation.taken_over.is_none() {
            return self.prepared.numbers.borrow_mut().close(id.number);
        }
        let Some(cluster) = &self.shared.cluster else { return };
        if cluster.closed(id) {
            let (incarnation, router, below) = (id.incarnation, None, u64::MAX);
            let forget = ClusterOp::ForgetPrepared { incarnation, router, below };
            self.effects.borrow_mut().ops.push(forget.into());
            self.wait_for_store(Continuation::ToPeers(PeerWork::Finished { incarnation }.into()));
        }
    }

    /// Those that are everywhere need not be kept; once in a while.
    pub fn forget_prepared(&self) {
        let Some(cluster) = &self.shared.cluster else { return };
        let below = self.prepared.numbers.borrow().low_watermark();
        if self.prepared.forgot.replace(below).max(1) < below {
            let (incarnation, router) = (cluster.incarnation, Some(self.index));
            let forget = ClusterOp::ForgetPrepared { incarnation, router, below };
            self.effects.borrow_mut().ops.push(forget.into());
            // Others forget what they have stored of these only then.
            let forgotten = PeerWork::PreparedForgotten { router: self.index, below };
            self.wait_for_store(Continuation::ToPeers(forgotten.into()));
        }
    }

    /// What lost nodes, or earlier starts of this one, had begun: [`Worker::finish_prepared`] goes on with it. Their
    /// publishers' sessions are here, or have gone elsewhere.
    pub fn hold_prepared(&self, publishes: &[PreparedPublish]) {
        for publish in publishes {
            let receipt = self.receipt_of(publish);
            self.count_opening(receipt, true);
            let identity = publish
                .record
                .map(|(epoch, sequence)| (Arc::clone(&publish.publisher), epoch, sequence));
            let route = self.route(&publish.message.topic);
            let exact = Exact {
                message: Arc::clone(&publish.message),
                retain: publish.retain && !publish.queued,
                publisher: Arc::clone(&publish.publisher),
                packet_id: publish.packet_id,
                receipt,
                persistent: receipt.is_some(),
                level: route.level as u8,
                at: self.now().boot,
                // With what is queued its record is in the outbox, or was in the log before.
                record: identity.filter(|_| !publish.queued),
                ops: Vec::new(),
                prepared: Some(Preparation { id: publish.id, taken_over: Some(publish.queued) }),
                place: None,
                shows: 0,
            };
            self.prepared.held.borrow_mut().push((None, exact));
        }
    }

    /// A Last Will that is published by [`Worker::finish_prepared`].
    pub fn hold_will(&self, will: StoredWill) {
        self.prepared.wills.borrow_mut().push(will);
    }

    /// Whether something of the same publisher and topic is held that was begun before this.
    pub(super) fn is_held_up(&self, exact: &Exact) -> bool {
        let taken_over = exact.prepared.is_some_and(|preparation| preparation.taken_over.is_some());
        let topic = &exact.message.topic;
        let its =
            |other: &Exact| other.publisher == exact.publisher && other.message.topic == *topic;
        !taken_over && self.prepared.held.borrow().iter().any(|(_, other)| its(other))
    }

    /// Goes on with all that was held: it is known who wants it.
    pub fn finish_prepared(&self) {
        let held = std::mem::take(&mut *self.prepared.held.borrow_mut());
        self.prepared.begun.borrow_mut().extend(held);
        let wills = std::mem::take(&mut *self.prepared.wills.borrow_mut());
        wills.iter().for_each(|will| self.restore_will(will));
        self.wake_router();
    }

    /// The receipt that is still to be stored, held from now on, so that a client which sends its message again
    /// waits for this one.
    fn receipt_of(&self, publish: &PreparedPublish) -> Option<SessionKey> {
        if publish.queued {
            return None;
        }
        let mut sessions = self.sessions.borrow_mut();
        let slot = sessions.by_client.get(&publish.publisher).copied()?;
        let session = sessions.get(slot)?;
        let stored = session.stored.as_ref()?;
        if Some(stored.id) != publish.session {
            return None;
        }
        session.inbound.hold(publish.packet_id);
        Some(session.key(slot))
    }

    /// Its live subscribers have it soon, here and elsewhere; then it is everywhere.
    pub(super) fn deliver_prepared(&self, exact: &Exact, preparation: Preparation) {
        let message = &exact.message;
        let route = self.route(&message.topic);
        let mut publication = self.publication_of(message);
        let prepared = self.prepared_for_nodes(preparation);
        (publication.prepared, publication.shows) = (Some(prepared), exact.shows);
        let mut deps = AckDependencies::default();
        if !self.was_live(&prepared) {
            self.deliver_live(&route, &mut publication);
            self.note_routed(&prepared, Recipients::Live);
        } else {
            self.retained_reached(&message.topic, exact.shows);
        }
        self.deliver_live_to_nodes(&route, &publication, &mut deps);
        let full = self.prepared.numbers.borrow().len() > CLOSING;
        if deps.peers.is_empty() || full {
            self.close_prepared(preparation);
        } else {
            self.attach(deps, Continuation::Closing(preparation));
        }
    }
}
