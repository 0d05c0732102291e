//! A session on its way from one node to another, at its source or at its target. No message for it is lost
//! and none comes twice: every router of every node says, in the stream of its publishes, from
//! where on they are the target's (a *stream marker*; [`hydrant_protocol::cluster::stream_marker`]).
//!
//! What comes behind the markers is buffered by both: by the target until it has the session, by the source
//! until the target has it. Whoever waits for it waits for both, so that it is somebody's, whichever of
//! them dies.
//!
//! Bounds: `session.max_queued_messages` for what is buffered; past it the new one is dropped.

use std::sync::Arc;

use hydrant_protocol::QoS;
use hydrant_protocol::cluster::stream_marker::MarkedStreams;
use hydrant_protocol::topic::TopicFilter;
use hydrant_protocol::wire;

use crate::messages::{PeerWork, SMALL, StorageWork};
use crate::ports::StoredSession;

use super::Worker;
use super::state::handover::{BufferedMessage, Handover};
use super::state::replica::Coming;
use super::state::sessions::Session;

impl Worker {
    pub(super) fn handover_slot(&self, client: &str) -> Option<u32> {
        let arriving = self.expected.borrow().get(client).copied();
        arriving.or_else(|| self.sessions.borrow().by_client.get(client).copied())
    }

    /// Routes that lead to this session say that it is on its way, or no longer.
    pub(super) fn flag_handover(&self, slot: u32, is: bool) {
        let changed = {
            let mut handover = self.shared.in_handover.write();
            let session = (self.index, slot);
            if is { handover.insert(session) } else { handover.remove(&session) }
        };
        if changed {
            self.shared.generations.all_changed();
        }
    }

    /// A session of this client is coming: what is published behind the markers waits for it here.
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
        self.flag_handover(slot, true);
        {
            let mut sessions = self.sessions.borrow_mut();
            let Some(session) = sessions.get(slot) else { return };
            if let Some(handover) = &mut session.handover {
                handover.transit.arrive = Some(MarkedStreams::new(id));
                // Of another source, before: that has kept it as well, and answers for it.
                handover.buffered.clear();
                handover.buffered_bytes = 0;
                self.effects.borrow_mut().tokens.append(&mut handover.tokens);
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
            if self.set_subscription(&filter, subscriber, qos) {
                session.charge.add(filter.cost());
                session.filters.push(filter);
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
                self.send_abort(session);
            }
            self.fill_session(session, taken);
            session.retained = self.owed(&taken.subscriptions);
            let filters = taken.subscriptions.iter();
            self.subscribe_all(slot, session, filters.map(|known| (&known.filter, known.qos)));
            let Some(handover) = &mut session.handover else { return };
            if let Some(roamed) = session.stored.as_ref().and_then(|stored| stored.roamed.as_ref())
                && given_up.is_none()
            {
                let had = |prepared: Coming| {
                    (prepared.again || prepared.routed)
                        && roamed.has(prepared.id, false, prepared.queued)
                };
                let dropped =
                    handover.buffered.extract_if(.., |buffered| buffered.prepared.is_some_and(had));
                let dropped: Vec<BufferedMessage> = dropped.collect();
                dropped.iter().for_each(|buffered| self.is_complete(buffered, client));
            }
            handover.transit.absent = false;
            handover.transit.leave = None;
            handover.offer.take().map(|offer| offer.later)
        };
        self.queue_buffered(slot);
        self.release_again(client, later.unwrap_or_default());
    }

    /// A session that is not here is not waited for any more, and what was buffered is somebody else's.
    fn forget(&self, slot: u32) {
        self.flag_handover(slot, false);
        let session = self.sessions.borrow_mut().slots.try_remove(slot as usize);
        let Some(mut session) = session else { return };
        let subscriber = self.subscriber(slot, &session);
        for filter in &session.filters {
            self.remove_subscription(filter, subscriber);
        }
        self.end_handover(&mut session);
        self.flush();
    }

    /// A session that was on its way is gone: nobody waits for it.
    pub(super) fn end_handover(&self, session: &mut Session) {
        if let Some(mut handover) = session.handover.take() {
            self.effects.borrow_mut().tokens.append(&mut handover.tokens);
        }
    }

    /// A session that was expected does not come.
    pub fn forget_expected(&self, client: &Arc<str>) {
        let expected = self.expected.borrow_mut().remove(client);
        if let Some(slot) = expected {
            self.forget(slot);
        }
    }

    /// What a lost node held was on its way: the session is here in the end, and what was buffered comes
    /// again to the node that took it over.
    pub(super) fn forget_handover(&self, client: &Arc<str>) {
        self.forget_expected(client);
        let given_up = self.given_up.borrow_mut().remove(client);
        if let Some(slot) = given_up {
            self.forget(slot);
        }
    }

    /// Every origin has marked it.
    pub fn all_marked(&self, id: u64, client: &Arc<str>) {
        let Some(slot) = self.handover_slot(client) else { return };
        let leaves = {
            let mut sessions = self.sessions.borrow_mut();
            let Some(session) = sessions.get(slot) else { return };
            let Some(handover) = &mut session.handover else { return };
            let is = |marked: &Option<MarkedStreams>| {
                marked.as_ref().is_some_and(|marked| marked.id == id)
            };
            if is(&handover.transit.arrive) && !handover.transit.absent {
                handover.transit.arrive = None;
            }
            let leaves = is(&handover.transit.leave);
            if handover.is_over() {
                session.handover = None;
            }
            leaves
        };
        if leaves {
            self.give_up_when_stored(slot);
        }
        self.retained_may_begin(slot);
    }

    /// A read that shows nothing comes back when everything that was pushed for the session before
    /// is stored, also what is a part of another worker's transaction.
    pub(super) fn give_up_when_stored(&self, slot: u32) {
        self.flush();
        let request = self.next_number();
        let mut sessions = self.sessions.borrow_mut();
        let Some(session) = sessions.get(slot) else { return };
        let (Some(handover), Some(stored)) = (&mut session.handover, &mut session.stored) else {
            return;
        };
        let Handover { transit, offer: Some(offer), .. } = &mut **handover else { return };
        stored.waits_to_go = stored.preparing > 0;
        if stored.waits_to_go {
            // It is called again then.
            return;
        }
        if let Some(marked) = &mut transit.leave {
            // Whoever comes now has not been waited for.
            marked.mark_all();
        }
        offer.read = Some(request);
        let next = stored.next_sequence;
        self.outside.storage(
            StorageWork::ReadQueue {
                worker: self.index,
                slot,
                request,
                session: stored.id,
                from: next,
                until: next,
                limit: 1,
                max_bytes: 1,
            },
            64,
        );
    }

    /// The page that a session to be given up waited for has come. False: it is another.
    pub(super) fn gives_up(&self, slot: u32, request: u32) -> bool {
        let is = {
            let mut sessions = self.sessions.borrow_mut();
            let handover = sessions.get(slot).and_then(|session| session.handover.as_mut());
            let offer = handover.and_then(|handover| handover.offer.as_mut());
            offer.and_then(|offer| offer.read.take_if(|read| *read == request)).is_some()
        };
        if is && !self.must_wait_to_go(slot) {
            self.hand_over(slot);
        }
        is
    }

    /// A publish of it is being prepared since it was asked whether all is stored: that is asked again.
    fn must_wait_to_go(&self, slot: u32) -> bool {
        let mut sessions = self.sessions.borrow_mut();
        let stored = sessions.get(slot).and_then(|session| session.stored.as_mut());
        stored.is_some_and(|stored| {
            stored.waits_to_go = stored.preparing > 0;
            stored.waits_to_go
        })
    }

    /// The node that should have got it is lost. It stays, unless that has taken it from the store already.
    pub fn keep_session(&self, id: u64, client: &Arc<str>) {
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
        let offer = {
            let mut sessions = self.sessions.borrow_mut();
            let Some(session) = sessions.get(slot) else { return Vec::new() };
            let Some(handover) = &mut session.handover else { return Vec::new() };
            let leaves = handover.transit.leave.as_ref().map(|marked| marked.id);
            if id.is_some() && leaves != id {
                return Vec::new();
            }
            handover.transit.leave = None;
            if let Some(stored) = &mut session.stored {
                stored.waits_to_go = false;
            }
            handover.offer.take()
        };
        self.queue_buffered(slot);
        offer.map(|offer| offer.asked).unwrap_or_default()
    }

    /// A session that was being given up, or was, stays: nobody waits for it any more.
    pub(super) fn send_abort(&self, session: &Session) {
        let handover = session.handover.as_ref();
        let leave = handover.and_then(|handover| handover.transit.leave.as_ref());
        if let Some(MarkedStreams { id, .. }) = leave {
            self.to_peers(PeerWork::Abort { id: *id }, SMALL);
        }
    }

    fn given_up_slot(&self, id: u64, client: &str) -> Option<u32> {
        let slot = self.given_up.borrow().get(client).copied()?;
        let mut sessions = self.sessions.borrow_mut();
        let leave = sessions.get(slot)?.handover.as_ref()?.transit.leave.as_ref()?;
        (leave.id == id).then_some(slot)
    }

    /// Asks the store whose a session is that was given up, and takes it back if it is nobody's.
    pub(super) fn recover(&self, slot: u32, id: u64, client: &Arc<str>) {
        let mut sessions = self.sessions.borrow_mut();
        let stored = sessions.get(slot).and_then(|session| session.stored.as_ref());
        if let Some(stored) = stored {
            let (worker, client, session) = (self.index, Arc::clone(client), stored.id);
            self.to_peers(PeerWork::Recover { worker, id, client, session }, SMALL);
        }
    }

    /// The answer: the session, or nothing where another has it.
    pub fn recovered(&self, id: u64, client: &Arc<str>, taken: Option<&StoredSession>) {
        match taken {
            Some(taken) if self.given_up_slot(id, client).is_some() => {
                self.to_peers(PeerWork::Holds(vec![Arc::clone(client)]), SMALL);
                self.arrived(client, taken);
            }
            _ => self.handed_over(id, client),
        }
    }

    /// The node that gets it has it.
    pub fn handed_over(&self, id: u64, client: &Arc<str>) {
        let Some(slot) = self.given_up_slot(id, client) else {
            // It has come to terms without it: nobody has to give anything up.
            return self.keep_session(id, client);
        };
        self.given_up.borrow_mut().remove(client);
        let later = {
            let mut sessions = self.sessions.borrow_mut();
            let handover = sessions.get(slot).and_then(|session| session.handover.as_mut());
            handover.and_then(|handover| handover.offer.take()).map(|offer| offer.later)
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
