//! Open publishes: a QoS 2 message that other nodes want is kept in the store before anything is done
//! with it, until all of them have it, so that whoever inherits from this node can finish what it had
//! begun, and nobody takes it twice (docs/decisions/0014-open-publishes.md).
//!
//! Its publisher is a persistent session, or it is a Last Will. A clean session ends with its connection:
//! whatever its client sends again is another message.
//!
//! Bounds: as for the waits ([`super::waits`]), whose publishes these are; [`CLOSING`] for those that only live
//! subscribers of other nodes do not have yet.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use hydrant_protocol::cluster::message::{Audience, Open, PublishId};
use hydrant_protocol::cluster::seen::{Numbers, Roamed, Seen, Stay};
use hydrant_protocol::wire;

use super::publish::Needs;
use super::routes::Route;
use super::sessions::{ANY_ESTATE, Session, Stored};
use super::waits::{Exact, Owed};
use super::{Shard, WaitKind};
use crate::cluster::{PeerWork, SMALL};
use crate::ports::{OpenPublish, StoreOp, StoredWill};

/// Past so many open ones of an arbiter nothing waits for live subscribers elsewhere: they are at a node that is
/// slow, whose messages are dropped past `cluster.max_link_bytes` and counted.
const CLOSING: usize = 4096;

/// Slot and stamp of a session, its client id, and its Last Will.
type Behind = (u32, u32, Arc<str>, wire::Will);

/// What an arbiter keeps of its own ones, and of those it finishes.
#[derive(Debug, Default)]
pub struct Opens {
    /// QoS 2 messages that are begun and whose turn the router has not come to.
    pub begun: RefCell<VecDeque<(Option<Owed>, Exact)>>,
    /// Those of lost nodes, or of earlier starts, while it is not known who wants them.
    pub held: RefCell<Vec<Exact>>,
    /// Last Wills that were found at start, for as long.
    pub wills: RefCell<Vec<StoredWill>>,
    /// Those that other nodes want and may not all have.
    pub numbers: RefCell<Numbers>,
    /// Of all that come here, what this arbiter has done for its sessions.
    pub handled: RefCell<Seen>,
    /// Last Wills behind publishes of the same session that are being opened.
    pub behind: RefCell<Vec<Behind>>,
    /// Below this the store was last told to forget them.
    pub forgot: Cell<u64>,
    /// Sessions that have come from other nodes a while ago: when, slot and stamp.
    pub roaming: RefCell<VecDeque<(Instant, u32, u32)>>,
}

/// How an open publish stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// By which the other nodes know it.
    pub id: PublishId,
    /// It was a lost node's, whose sessions that are here now have it. `None`: it is this node's own.
    pub inherited: Option<bool>,
}

/// An open publish as it comes to the queues of this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Coming {
    /// Which it is.
    pub id: PublishId,
    /// It has come before.
    pub seen: bool,
    /// The sessions that its own incarnation held have it.
    pub queued: bool,
    /// An heir publishes it again. What comes from its own node is a session's by the marks alone.
    pub again: bool,
    /// As in [`Open::floor`].
    pub floor: u64,
}

impl Shard {
    /// Whether a QoS 2 message is to be kept before anything is done with it. So is what comes behind one of
    /// the same publisher, which it must not overtake ([MQTT-4.6.0-6]).
    pub(super) fn must_open(&self, route: &Route, exact: &Exact) -> bool {
        exact.open.is_none()
            && self.shared.cluster.is_some()
            && (exact.receipt.is_none() || exact.persistent)
            && (!route.nodes.is_empty() || self.is_opening(exact.receipt))
    }

    fn is_opening(&self, receipt: Option<(u32, u32)>) -> bool {
        receipt.is_some_and(|receipt| {
            self.with_stored(receipt, |stored| stored.opening > 0).unwrap_or(false)
        })
    }

    /// What a session has in the store, by slot and stamp, while it is there and persistent.
    fn with_stored<T>(
        &self,
        (slot, stamp): (u32, u32),
        look: impl FnOnce(&mut Stored) -> T,
    ) -> Option<T> {
        let mut sessions = self.sessions.borrow_mut();
        let session = sessions.get(slot).filter(|session| session.stamp == stamp)?;
        session.stored.as_deref_mut().map(look)
    }

    /// Keeps it; the rest follows when it is stored.
    pub(super) fn open(&self, mut exact: Exact, answer: Option<Owed>) {
        let Some(cluster) = &self.shared.cluster else { return };
        let (incarnation, lane) = (cluster.incarnation, self.index);
        let session = self.stored_session(exact.receipt);
        let number = self.opens.numbers.borrow().next();
        let id = PublishId { incarnation, lane, number };
        exact.open = Some(Opened { id, inherited: None });
        let publish = OpenPublish {
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
        let needs = Needs { store: true, ..Needs::default() };
        {
            let mut outgoing = self.outgoing.borrow_mut();
            // A will that is open is no will any more.
            outgoing.ops.append(&mut exact.ops);
            outgoing.ops.push(StoreOp::PutOpen(Box::new(publish)));
        }
        self.attach(needs, WaitKind::Begun { answer, exact: Box::new(exact) });
        // Last: what panics above is not open.
        self.opens.numbers.borrow_mut().open();
        self.count_opening(receipt, true);
    }

    /// What goes with it to the other nodes.
    pub(super) fn open_for_nodes(&self, opened: Opened) -> Open {
        let floor = match opened.inherited {
            None => self.opens.numbers.borrow().floor(),
            Some(_) => 0,
        };
        Open { id: opened.id, floor, queued: opened.inherited == Some(true) }
    }

    /// Its publisher's session has gone to another node before anything of it was kept: the client sends it again
    /// there, and only that one counts.
    pub(super) fn is_elsewhere(&self, exact: &Exact) -> bool {
        let persistent = exact.persistent && self.shared.cluster.is_some();
        let Some((slot, stamp)) = exact.receipt.filter(|_| persistent) else { return false };
        let mut sessions = self.sessions.borrow_mut();
        let session = sessions.get(slot).filter(|session| session.stamp == stamp);
        session.is_none_or(|session| {
            self.given_up.borrow().get(&session.client_id).is_some_and(|given_up| *given_up == slot)
        })
    }

    /// An open publish for the queues here, as this incarnation sends it.
    pub(super) fn coming(&self, open: &Open, from: u64) -> Option<Coming> {
        let cluster = self.shared.cluster.as_ref()?;
        let Open { id, floor, queued } = *open;
        let own = id.incarnation == cluster.incarnation;
        let seen = !own && cluster.seen.lock().has(id, Audience::Queues);
        Some(Coming { id, seen, queued, again: id.incarnation != from, floor })
    }

    /// One that this node publishes.
    pub(super) fn coming_here(&self, open: &Open) -> Option<Coming> {
        self.coming(open, self.shared.cluster.as_ref()?.incarnation)
    }

    /// Whether this session has it.
    pub(super) fn has_open(&self, session: &Session, coming: Coming) -> bool {
        let Coming { id, seen, queued, again, .. } = coming;
        let Some(stored) = session.stored.as_ref().filter(|_| again) else { return seen };
        if self.was_held_by(stored.estate, id.incarnation) {
            return queued;
        }
        stored.roamed.as_ref().map_or(seen, |roamed| roamed.has(id, seen, queued))
    }

    /// Whether it has come to the live subscribers here.
    pub(super) fn was_live(&self, open: &Open) -> bool {
        let cluster = self.shared.cluster.as_ref();
        cluster.is_some_and(|cluster| cluster.seen.lock().has(open.id, Audience::Live))
    }

    /// It is routed here.
    pub(super) fn is_seen(&self, open: &Open, audience: Audience) {
        if let Some(cluster) = &self.shared.cluster {
            cluster.seen.lock().insert(open.id, audience, open.floor);
        }
        if audience != Audience::Live {
            self.is_handled(open.id, open.floor);
        }
    }

    /// The sessions here have it that take it: what this arbiter knows, which can be behind its node.
    pub(super) fn is_handled(&self, id: PublishId, floor: u64) {
        self.opens.handled.borrow_mut().insert(id, Audience::Queues, floor);
    }

    /// A session that goes to another node takes along what it has of such publishes.
    pub(super) fn send_stays(&self, session: &Session, to: &Arc<str>) {
        let (Some(cluster), Some(stored)) = (&self.shared.cluster, &session.stored) else { return };
        let aside = session.moving.iter().flat_map(|moving| moving.aside());
        let known = self.opens.handled.borrow().known().without(aside);
        let estates = match stored.estate {
            0 => Vec::new(),
            ANY_ESTATE => cluster.continued.clone(),
            estate => vec![estate],
        };
        let stays = match &stored.roamed {
            Some(roamed) => roamed.leaves(estates, known),
            None => Roamed::default().leaves(estates, known),
        };
        if !stays.is_empty() {
            let (to, client) = (Arc::clone(to), Arc::clone(&session.client_id));
            self.to_peers(PeerWork::Stayed { to, client, stays }, SMALL);
        }
    }

    /// Where a session that has come, or is on its way, was before.
    pub fn has_stayed(&self, client: &str, stays: Vec<Stay>) {
        let Some(slot) = self.moving_slot(client) else { return };
        let mut sessions = self.sessions.borrow_mut();
        let stored = sessions.get(slot).and_then(|session| session.stored.as_mut());
        if let Some(stored) = stored {
            stored.roamed.get_or_insert_default().past = stays;
        }
        drop(sessions);
        self.remember_for_a_while(slot);
    }

    /// A session has come from another node: what was routed here before was not for it.
    pub(super) fn has_come(&self, slot: u32) {
        {
            let mut sessions = self.sessions.borrow_mut();
            let Some(session) = sessions.get(slot) else { return };
            let aside = session.moving.iter().flat_map(|moving| moving.aside());
            let arrived = self.opens.handled.borrow().known().without(aside);
            let Some(stored) = &mut session.stored else { return };
            if arrived.is_empty() && stored.roamed.is_none() {
                return;
            }
            stored.roamed.get_or_insert_default().arrived = arrived;
        }
        self.remember_for_a_while(slot);
    }

    fn remember_for_a_while(&self, slot: u32) {
        let stamp = self.sessions.borrow_mut().get(slot).map(|session| session.stamp);
        if let Some(stamp) = stamp {
            self.opens.roaming.borrow_mut().push_back((Instant::now(), slot, stamp));
        }
    }

    /// What lost nodes had begun is finished by then: sessions need not know where they were.
    pub fn forget_stays(&self) {
        let Some(cluster) = &self.shared.cluster else { return };
        let mut roaming = self.opens.roaming.borrow_mut();
        let is_over = |at: &Instant| at.elapsed() > 2 * cluster.settings.repair;
        while let Some((_, slot, stamp)) = roaming.pop_front_if(|(at, ..)| is_over(at)) {
            // It may have moved again since.
            if roaming.iter().any(|(_, other, of)| (*other, *of) == (slot, stamp)) {
                continue;
            }
            self.with_stored((slot, stamp), |stored| stored.roamed = None);
        }
    }

    /// Its session is not given up before what it causes is on its way to the store.
    pub(super) fn count_opening(&self, receipt: Option<(u32, u32)>, begins: bool) {
        let Some((slot, stamp)) = receipt else { return };
        if !begins {
            self.count_opened(slot, stamp);
            return self.publish_behind(slot, stamp);
        }
        self.with_stored((slot, stamp), |stored| stored.opening += 1);
    }

    fn count_opened(&self, slot: u32, stamp: u32) {
        let goes = self.with_stored((slot, stamp), |stored| {
            stored.opening = stored.opening.saturating_sub(1);
            stored.opening == 0 && std::mem::take(&mut stored.waits_to_go)
        });
        if goes == Some(true) {
            self.give_up_when_stored(slot);
        }
    }

    /// A Last Will comes behind what its session has published: here, when that is being opened.
    pub(super) fn publish_will_behind(&self, slot: u32, client_id: Arc<str>, will: wire::Will) {
        let stamp = self.sessions.borrow_mut().get(slot).map_or(0, |session| session.stamp);
        self.opens.behind.borrow_mut().push((slot, stamp, client_id, will));
        self.publish_behind(slot, stamp);
    }

    fn publish_behind(&self, slot: u32, stamp: u32) {
        if self.opens.behind.borrow().is_empty() || self.is_opening(Some((slot, stamp))) {
            return;
        }
        let its = |of: &mut Behind| (of.0, of.1) == (slot, stamp);
        let wills: Vec<_> = self.opens.behind.borrow_mut().extract_if(.., its).collect();
        for (.., client_id, will) in wills {
            self.publish_will(client_id, &will);
        }
    }

    /// All have it, or nobody has and nobody will.
    pub(super) fn close_open(&self, opened: Opened) {
        let id = opened.id;
        if opened.inherited.is_none() {
            return self.opens.numbers.borrow_mut().close(id.number);
        }
        let Some(cluster) = &self.shared.cluster else { return };
        if cluster.closed(id) {
            let (incarnation, lane, below) = (id.incarnation, None, u64::MAX);
            let forget = StoreOp::ForgetOpen { incarnation, lane, below };
            self.outgoing.borrow_mut().ops.push(forget);
        }
    }

    /// Those that are everywhere need not be kept; once in a while.
    pub fn forget_open(&self) {
        let Some(cluster) = &self.shared.cluster else { return };
        let below = self.opens.numbers.borrow().floor();
        if self.opens.forgot.replace(below).max(1) < below {
            let (incarnation, lane) = (cluster.incarnation, Some(self.index));
            let forget = StoreOp::ForgetOpen { incarnation, lane, below };
            self.outgoing.borrow_mut().ops.push(forget);
        }
    }

    /// What lost nodes, or earlier starts of this one, had begun: [`Shard::finish_open`] goes on with it. Their
    /// publishers' sessions are here, or have gone elsewhere.
    pub fn hold_open(&self, publishes: &[OpenPublish]) {
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
                at: Instant::now(),
                // With what is queued its record is in the outbox, or was in the log before.
                record: identity.filter(|_| !publish.queued),
                ops: Vec::new(),
                open: Some(Opened { id: publish.id, inherited: Some(publish.queued) }),
            };
            self.opens.held.borrow_mut().push(exact);
        }
    }

    /// A Last Will that is published by [`Shard::finish_open`].
    pub fn hold_will(&self, will: StoredWill) {
        self.opens.wills.borrow_mut().push(will);
    }

    /// Goes on with all that was held: it is known who wants it.
    pub fn finish_open(&self) {
        let held = std::mem::take(&mut *self.opens.held.borrow_mut());
        self.opens.begun.borrow_mut().extend(held.into_iter().map(|exact| (None, exact)));
        let wills = std::mem::take(&mut *self.opens.wills.borrow_mut());
        wills.iter().for_each(|will| self.restore_will(will));
        self.wake_router();
    }

    /// The receipt that is still to be stored, held from now on, so that a client which sends its message again
    /// waits for this one.
    fn receipt_of(&self, publish: &OpenPublish) -> Option<(u32, u32)> {
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
        Some((slot, session.stamp))
    }

    /// Its live subscribers have it soon, here and elsewhere; then it is everywhere.
    pub(super) fn deliver_open(&self, exact: &Exact, opened: Opened) {
        let message = &exact.message;
        let route = self.route(&message.topic);
        let mut view = self.view_of(message);
        let open = self.open_for_nodes(opened);
        view.open = Some(open);
        let mut needs = Needs::default();
        if !self.was_live(&open) {
            self.deliver_live(&route, &mut view);
            self.is_seen(&open, Audience::Live);
        }
        self.deliver_live_to_nodes(&route, &view, &mut needs);
        let full = self.opens.numbers.borrow().len() > CLOSING;
        if needs.peers.is_empty() || full {
            self.close_open(opened);
        } else {
            self.attach(needs, WaitKind::Closing(opened));
        }
    }
}
