//! A session on its way from one node to another, at its holder or at its taker. No message for it is lost
//! and none comes twice: every router of every node says, in the stream of its publishes (a *lane*), from
//! where on they are the taker's (a *mark*; [`hydrant_protocol::cluster::marks`]).
//!
//! What comes behind the marks is put aside by both: by the taker until it has the session, by the holder
//! until the taker has it. Whoever waits for it waits for both, so that it is somebody's, whichever of
//! them dies.
//!
//! Bounds: `session.max_queued_messages` for what is put aside; past it the new one is dropped.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use hydrant_protocol::Message;
use hydrant_protocol::QoS;
use hydrant_protocol::cluster::marks::{Lane, Marks, Transit, Whose};
use hydrant_protocol::cluster::message::PublishId;
use hydrant_protocol::topic::TopicFilter;
use hydrant_protocol::wire;

use crate::cluster::{PeerWork, SMALL};
use crate::metrics::DropReason;
use crate::ports::StoredSession;
use crate::shared::{ManagerWork, StorageWork, Token};

use super::deliver::View;
use super::open::Coming;
use super::sessions::Session;
use super::{Shard, WaitKind};

/// A message that is put aside.
#[derive(Debug)]
struct Early {
    qos: QoS,
    message: Arc<Message>,
    durable: bool,
    /// It is an open publish.
    open: Option<Coming>,
}

/// A session that is being given up.
#[derive(Debug)]
pub(super) struct Leaving {
    /// The node that gets it.
    pub to: Arc<str>,
    /// Who asked, and their tickets.
    pub asked: Vec<(Arc<str>, u64)>,
    /// It goes once all of it is stored: the stamp of the read that says so.
    pub read: Option<u32>,
    /// It is given up, and the taker has not said that it has it. Who asked for it since, and for
    /// whom: they get it when that is settled.
    pub later: Vec<(Arc<str>, u64, Arc<str>)>,
}

/// What a session on its way has beside any other.
#[derive(Debug, Default)]
pub struct Moving {
    pub(super) transit: Transit,
    /// It is inherited: who has marked that it has sent again what the lost node had not stored.
    pub(super) heir: Option<Rc<RefCell<Marks>>>,
    pub(super) leaving: Option<Leaving>,
    early: Vec<Early>,
    tokens: Vec<Token>,
}

impl Moving {
    /// Of a session that is not here yet.
    pub fn absent() -> Self {
        let transit = Transit { absent: true, ..Transit::default() };
        Self { transit, ..Self::default() }
    }

    /// Of one that is inherited.
    pub fn inherited(marks: Rc<RefCell<Marks>>) -> Self {
        Self { heir: Some(marks), ..Self::default() }
    }

    /// Whose a message of this lane is; `again`: it was for a lost node and is sent again.
    pub fn whose(&self, lane: Lane, again: bool) -> Whose {
        let marked = |marks: &Rc<RefCell<Marks>>| marks.borrow().has(lane);
        if !again && !self.heir.as_ref().is_none_or(marked) {
            return Whose::NotOurs;
        }
        self.transit.whose(lane)
    }

    /// Open publishes that are put aside.
    pub(super) fn aside(&self) -> impl Iterator<Item = PublishId> {
        self.early.iter().filter_map(|early| Some(early.open?.id))
    }

    pub(super) fn is_over(&self) -> bool {
        self.transit.is_over() && self.heir.is_none()
    }
}

impl Shard {
    pub(super) fn moving_slot(&self, client: &str) -> Option<u32> {
        let arriving = self.expected.borrow().get(client).copied();
        arriving.or_else(|| self.sessions.borrow().by_client.get(client).copied())
    }

    /// Routes that lead to this session say that it is on its way, or no longer.
    pub(super) fn flag_moving(&self, slot: u32, is: bool) {
        let changed = {
            let mut moving = self.shared.moving.write();
            let session = (self.index, slot);
            if is { moving.insert(session) } else { moving.remove(&session) }
        };
        if changed {
            self.shared.generation.fetch_add(1, std::sync::atomic::Ordering::Release);
        }
    }

    /// A session of this client is coming: what is published behind the marks waits for it here.
    pub fn expect(&self, id: u64, client: &Arc<str>, filters: &[(Arc<str>, u8)]) {
        let known = self.expected.borrow().get(client).copied();
        let slot = match known {
            Some(slot) => slot,
            None => {
                let session = self.expected_session(client);
                // Not found by its client id: it is not here.
                #[allow(clippy::cast_possible_truncation)]
                let slot = self.sessions.borrow_mut().slots.insert(Box::new(session)) as u32;
                self.expected.borrow_mut().insert(Arc::clone(client), slot);
                slot
            }
        };
        self.flag_moving(slot, true);
        {
            let mut sessions = self.sessions.borrow_mut();
            let Some(session) = sessions.get(slot) else { return };
            if let Some(moving) = &mut session.moving {
                moving.transit.arrive = Some(Marks::new(id));
                // Of another holder, before: that has kept it as well, and answers for it.
                moving.early.clear();
                self.outgoing.borrow_mut().tokens.append(&mut moving.tokens);
            }
            let qos = |qos: u8| match qos {
                0 => QoS::AtMostOnce,
                1 => QoS::AtLeastOnce,
                _ => QoS::ExactlyOnce,
            };
            let filters = filters.iter().map(|(filter, granted)| (filter, qos(*granted)));
            self.subscribe_all(slot, session, filters);
        }
        self.flush();
        self.to_peers(PeerWork::Expected { id }, SMALL);
    }

    fn subscribe_all<'a>(
        &self,
        slot: u32,
        session: &mut Session,
        filters: impl Iterator<Item = (&'a Arc<str>, QoS)>,
    ) {
        let subscriber = self.subscriber(slot, session);
        for (filter, qos) in filters {
            let parsed = TopicFilter::from_arc(Arc::clone(filter), &wire::Limits::PROTOCOL);
            let Ok(filter) = parsed else { continue };
            if self.shared.subscribe(&filter, subscriber, qos) {
                session.filters.push(filter);
            }
        }
    }

    /// Puts a message aside for a session that is on its way.
    pub(super) fn put_aside(
        &self,
        slot: u32,
        session: &mut Session,
        qos: QoS,
        view: &mut View<'_>,
    ) {
        let Some(moving) = &mut session.moving else { return };
        if moving.early.len() >= self.shared.settings.session.max_queued_messages {
            self.metrics.drop_messages(DropReason::QueueFull, 1);
            return;
        }
        let (message, durable, open) = (view.message(), view.durable, view.coming);
        if !open.is_some_and(|open| moving.aside().any(|id| id == open.id)) {
            moving.early.push(Early { qos, message, durable, open });
        }
        if durable {
            let mut outgoing = self.outgoing.borrow_mut();
            if !outgoing.aside.contains(&slot) {
                outgoing.aside.push(slot);
            }
        }
    }

    /// A wait goes on only when what was put aside for this session is somebody's.
    pub(super) fn wait_for_arrival(&self, slot: u32, token: Token) {
        let mut sessions = self.sessions.borrow_mut();
        match sessions.get(slot).and_then(|session| session.moving.as_mut()) {
            Some(moving) if !moving.early.is_empty() => moving.tokens.push(token),
            // That has come about meanwhile.
            _ => self.outgoing.borrow_mut().tokens.push(token),
        }
    }

    /// What another arbiter waits for, beside the store: the sessions for which something was put aside.
    pub(super) fn wait_for_arrivals(&self, slots: &[u32], late: impl Iterator<Item = Token>) {
        for token in late {
            if slots.is_empty() {
                let completed = ManagerWork::Completed([token].into());
                self.shared.managers[usize::from(token.shard)].push(completed, SMALL);
                continue;
            }
            let wait = self.wait(false, false, slots.len(), WaitKind::Forward(token));
            for slot in slots {
                self.wait_for_arrival(*slot, self.token(crate::shared::Part::Peer, wait));
            }
        }
    }

    /// A session that was expected is here: what waited for it is queued, in order.
    pub(super) fn arrived(&self, client: &Arc<str>, taken: &StoredSession) {
        let given_up = self.given_up.borrow_mut().remove(client);
        let expected = self.expected.borrow_mut().remove(client);
        let Some(slot) = given_up.or(expected) else {
            self.restore_session(taken, 0);
            let slot = self.sessions.borrow().by_client.get(client).copied();
            return slot.into_iter().for_each(|slot| self.has_come(slot));
        };
        if given_up.is_none() {
            self.has_come(slot);
        }
        if let (Some(_), Some(expected)) = (given_up, expected) {
            self.forget(expected);
        }
        let later = {
            let mut sessions = self.sessions.borrow_mut();
            sessions.by_client.insert(Arc::clone(client), slot);
            let Some(session) = sessions.get(slot) else { return };
            if given_up.is_some() {
                self.say_kept(session);
            }
            self.fill_session(session, taken);
            let filters = taken.subscriptions.iter();
            self.subscribe_all(slot, session, filters.map(|known| (&known.filter, known.qos)));
            let Some(moving) = &mut session.moving else { return };
            if let Some(roamed) = session.stored.as_ref().and_then(|stored| stored.roamed.as_ref())
                && given_up.is_none()
            {
                let had = |open: Coming| {
                    (open.again || open.seen) && roamed.has(open.id, false, open.queued)
                };
                moving.early.retain(|early| !early.open.is_some_and(had));
            }
            moving.transit.absent = false;
            moving.transit.leave = None;
            moving.leaving.take().map(|leaving| leaving.later)
        };
        self.queue_aside(slot);
        self.release_again(client, later.unwrap_or_default());
    }

    /// What was put aside is the session's.
    fn queue_aside(&self, slot: u32) {
        self.flag_moving(slot, false);
        let (early, tokens) = {
            let mut sessions = self.sessions.borrow_mut();
            let Some(session) = sessions.get(slot) else { return };
            let Some(moving) = &mut session.moving else { return };
            let aside = (std::mem::take(&mut moving.early), std::mem::take(&mut moving.tokens));
            if moving.is_over() {
                session.moving = None;
            }
            aside
        };
        for early in early {
            let message = &early.message;
            let mut view = View::new(&message.topic, &message.payload, message.qos, early.durable);
            view.owned = Some(Arc::clone(message));
            let mut sessions = self.sessions.borrow_mut();
            let Some(session) = sessions.get(slot) else { return };
            self.deliver_stored(slot, session, early.qos, false, &mut view);
        }
        self.outgoing.borrow_mut().tokens.extend(tokens);
        self.flush();
    }

    /// A session that is not here is not waited for any more, and what was put aside is somebody else's.
    fn forget(&self, slot: u32) {
        self.flag_moving(slot, false);
        let session = self.sessions.borrow_mut().slots.try_remove(slot as usize);
        let Some(mut session) = session else { return };
        let subscriber = self.subscriber(slot, &session);
        for filter in &session.filters {
            self.shared.unsubscribe(filter, subscriber);
        }
        self.end_moving(&mut session);
        self.flush();
    }

    /// A session that was on its way is gone: nobody waits for it.
    pub(super) fn end_moving(&self, session: &mut Session) {
        if let Some(mut moving) = session.moving.take() {
            self.outgoing.borrow_mut().tokens.append(&mut moving.tokens);
        }
    }

    /// A session that was expected does not come.
    pub fn forget_expected(&self, client: &Arc<str>) {
        let expected = self.expected.borrow_mut().remove(client);
        if let Some(slot) = expected {
            self.forget(slot);
        }
    }

    /// What a lost node held was on its way: the session is here in the end, and what was put aside comes
    /// again to whom inherited it.
    pub(super) fn forget_moving(&self, client: &Arc<str>) {
        self.forget_expected(client);
        let given_up = self.given_up.borrow_mut().remove(client);
        if let Some(slot) = given_up {
            self.forget(slot);
        }
    }

    /// Every origin has marked it.
    pub fn all_marked(&self, id: u64, client: &Arc<str>) {
        let Some(slot) = self.moving_slot(client) else { return };
        let leaves = {
            let mut sessions = self.sessions.borrow_mut();
            let Some(session) = sessions.get(slot) else { return };
            let Some(moving) = &mut session.moving else { return };
            let is = |marks: &Option<Marks>| marks.as_ref().is_some_and(|marks| marks.id == id);
            if is(&moving.transit.arrive) && !moving.transit.absent {
                moving.transit.arrive = None;
            }
            let leaves = is(&moving.transit.leave);
            if moving.is_over() {
                session.moving = None;
            }
            leaves
        };
        if leaves {
            self.give_up_when_stored(slot);
        }
    }

    /// A read that shows nothing comes back when everything that was pushed for the session before
    /// is stored, also what is a part of another arbiter's transaction.
    pub(super) fn give_up_when_stored(&self, slot: u32) {
        self.flush();
        let stamp = self.stamp();
        let mut sessions = self.sessions.borrow_mut();
        let Some(session) = sessions.get(slot) else { return };
        let (Some(moving), Some(stored)) = (&mut session.moving, &mut session.stored) else {
            return;
        };
        let Moving { transit, leaving: Some(leaving), .. } = &mut **moving else { return };
        stored.waits_to_go = stored.opening > 0;
        if stored.waits_to_go {
            // It is called again then.
            return;
        }
        if let Some(marks) = &mut transit.leave {
            // Whoever comes now has not been waited for.
            marks.pass_all();
        }
        leaving.read = Some(stamp);
        let next = stored.next_sequence;
        self.shared.storage.push(
            StorageWork::ReadQueue {
                shard: self.index,
                slot,
                stamp,
                session: stored.id,
                from: next,
                until: next,
                limit: 1,
            },
            64,
        );
    }

    /// The page that a session to be given up waited for has come. False: it is another.
    pub(super) fn gives_up(&self, slot: u32, stamp: u32) -> bool {
        let is = {
            let mut sessions = self.sessions.borrow_mut();
            let moving = sessions.get(slot).and_then(|session| session.moving.as_mut());
            let leaving = moving.and_then(|moving| moving.leaving.as_mut());
            leaving.and_then(|leaving| leaving.read.take_if(|read| *read == stamp)).is_some()
        };
        if is && !self.must_wait_to_go(slot) {
            self.hand_over(slot);
        }
        is
    }

    /// A publish of it is being opened since it was asked whether all is stored: that is asked again.
    fn must_wait_to_go(&self, slot: u32) -> bool {
        let mut sessions = self.sessions.borrow_mut();
        let stored = sessions.get(slot).and_then(|session| session.stored.as_mut());
        stored.is_some_and(|stored| {
            stored.waits_to_go = stored.opening > 0;
            stored.waits_to_go
        })
    }

    /// The node that should have got it is lost. It stays, unless that has taken it from the store already.
    pub fn stays(&self, id: u64, client: &Arc<str>) {
        if let Some(slot) = self.given_up_slot(id, client) {
            return self.recover(slot, id, client);
        }
        let slot = self.sessions.borrow().by_client.get(client).copied();
        let Some(slot) = slot else { return };
        let asked = self.keep(slot, Some(id));
        if !asked.is_empty() {
            for (owner, ticket) in asked {
                self.answer_release(&owner, ticket, client, None);
            }
            self.to_peers(PeerWork::Holds(vec![Arc::clone(client)]), SMALL);
        }
    }

    /// A session that was being given up stays here; returns who had asked for it.
    pub(super) fn keep(&self, slot: u32, id: Option<u64>) -> Vec<(Arc<str>, u64)> {
        let leaving = {
            let mut sessions = self.sessions.borrow_mut();
            let Some(session) = sessions.get(slot) else { return Vec::new() };
            let Some(moving) = &mut session.moving else { return Vec::new() };
            let leaves = moving.transit.leave.as_ref().map(|marks| marks.id);
            if id.is_some() && leaves != id {
                return Vec::new();
            }
            moving.transit.leave = None;
            if let Some(stored) = &mut session.stored {
                stored.waits_to_go = false;
            }
            moving.leaving.take()
        };
        self.queue_aside(slot);
        leaving.map(|leaving| leaving.asked).unwrap_or_default()
    }

    /// A session that was being given up, or was, stays: nobody waits for it any more.
    pub(super) fn say_kept(&self, session: &Session) {
        let moving = session.moving.as_ref();
        let leave = moving.and_then(|moving| moving.transit.leave.as_ref());
        if let Some(Marks { id, .. }) = leave {
            self.to_peers(PeerWork::Keeps { id: *id }, SMALL);
        }
    }

    fn given_up_slot(&self, id: u64, client: &str) -> Option<u32> {
        let slot = self.given_up.borrow().get(client).copied()?;
        let mut sessions = self.sessions.borrow_mut();
        let leave = sessions.get(slot)?.moving.as_ref()?.transit.leave.as_ref()?;
        (leave.id == id).then_some(slot)
    }

    /// Asks the store whose a session is that was given up, and takes it back if it is nobody's.
    pub(super) fn recover(&self, slot: u32, id: u64, client: &Arc<str>) {
        let mut sessions = self.sessions.borrow_mut();
        let stored = sessions.get(slot).and_then(|session| session.stored.as_ref());
        if let Some(stored) = stored {
            let (shard, client, session) = (self.index, Arc::clone(client), stored.id);
            self.to_peers(PeerWork::Recover { shard, id, client, session }, SMALL);
        }
    }

    /// The answer: the session, or nothing where another has it.
    pub fn recovered(&self, id: u64, client: &Arc<str>, taken: Option<&StoredSession>) {
        match taken {
            Some(taken) if self.given_up_slot(id, client).is_some() => {
                self.to_peers(PeerWork::Holds(vec![Arc::clone(client)]), SMALL);
                self.arrived(client, taken);
            }
            _ => self.taken(id, client),
        }
    }

    /// The node that gets it has it.
    pub fn taken(&self, id: u64, client: &Arc<str>) {
        let Some(slot) = self.given_up_slot(id, client) else {
            // It has come to terms without it: nobody has to give anything up.
            return self.stays(id, client);
        };
        self.given_up.borrow_mut().remove(client);
        let later = {
            let mut sessions = self.sessions.borrow_mut();
            let moving = sessions.get(slot).and_then(|session| session.moving.as_mut());
            moving.and_then(|moving| moving.leaving.take()).map(|leaving| leaving.later)
        };
        self.forget(slot);
        self.release_again(client, later.unwrap_or_default());
    }

    fn release_again(&self, client: &Arc<str>, later: Vec<(Arc<str>, u64, Arc<str>)>) {
        for (owner, ticket, to) in later {
            self.give_up_session(&owner, ticket, client, &to);
        }
    }
}
