//! A session on its way from one node to another. No message for it is lost and none comes twice:
//! every router of every node says, in the stream of its publishes (a *lane*), from where on they go
//! to the taker as well (a *mark*). The holder queues what came before the mark of its lane, the taker
//! what came behind.
//!
//! A mark goes the way that its lane's publishes go, so that it overtakes none and none overtakes it:
//! the link, the router that the lane has at the other node, the arbiter that holds the session.
//!
//! Bounds: `session.max_queued_messages` for what waits at the taker; past it the new one is dropped.

use std::sync::Arc;

use hydrant_protocol::QoS;
use hydrant_protocol::topic::TopicFilter;
use hydrant_protocol::wire;
use smallvec::SmallVec;

use crate::cluster::{NodeIndex, PeerWork, SMALL};
use crate::metrics::DropReason;
use crate::ports::StoredSession;
use crate::shared::{RouterWork, StorageWork, Token, Transaction};

use super::Shard;
use super::deliver::View;
use super::sessions::Session;
use crate::ports::StoreOp;
use hydrant_protocol::Message;

/// A lane of an origin: one of its routers.
pub type Lane = (NodeIndex, u16);
/// Stands for all lanes of a node that is lost.
pub const EVERY: u16 = u16::MAX;

/// Which lanes have marked a change of hands.
#[derive(Debug, Default)]
pub struct Marks {
    /// Number of the change of hands.
    pub id: u64,
    passed: SmallVec<[Lane; 6]>,
}

impl Marks {
    /// Nobody has marked it.
    pub fn new(id: u64) -> Self {
        Self { id, passed: SmallVec::new() }
    }

    /// True when it was the last of the origin's `lanes`.
    fn pass(&mut self, lane: Lane, lanes: u16) -> bool {
        if self.has(lane) {
            return false;
        }
        self.passed.push(lane);
        let passed = self.passed.iter().filter(|known| known.0 == lane.0).count();
        lane.1 == EVERY || passed >= usize::from(lanes)
    }

    fn has(&self, lane: Lane) -> bool {
        self.passed.iter().any(|known| *known == lane || *known == (lane.0, EVERY))
    }
}

/// A message for a session that is not here yet.
#[derive(Debug)]
struct Early {
    qos: QoS,
    message: Arc<Message>,
    durable: bool,
    /// The held part of another arbiter's transaction that it belongs to.
    part: Option<usize>,
}

/// A part of another arbiter's transaction that waits for a session to arrive.
#[derive(Debug)]
pub struct HeldPart {
    /// What is in it already.
    pub ops: Vec<StoreOp>,
    /// See `ops`.
    pub tokens: Vec<Token>,
    /// The transaction.
    pub transaction: Transaction,
}

/// What a session on its way has beside any other.
#[derive(Debug, Default)]
pub struct Moving {
    /// It comes: only behind its mark an origin's messages are for it here.
    pub arrive: Option<Marks>,
    /// It goes: only before.
    pub leave: Option<Marks>,
    /// It goes once all of it is stored: the stamp of the read that says so, who asked, and the
    /// ticket.
    pub giving_up: Option<(u32, Arc<str>, u64)>,
    /// It is not here yet.
    pub absent: bool,
    early: Vec<Early>,
    tokens: Vec<Token>,
    parts: Vec<HeldPart>,
}

impl Moving {
    /// Of a session that is not here yet.
    pub fn absent() -> Self {
        Self { absent: true, ..Self::default() }
    }

    /// Whether what this lane publishes is for the session here.
    pub fn takes(&self, lane: Lane) -> bool {
        self.arrive.as_ref().is_none_or(|marks| marks.has(lane))
            && self.leave.as_ref().is_none_or(|marks| !marks.has(lane))
    }
}

/// Passed by each router of a node, between two publishes: what it routes behind it goes to the
/// taker as well.
#[derive(Debug)]
pub struct Barrier {
    /// Number of the change of hands.
    pub id: u64,
    /// Whose session it is.
    pub client: Arc<str>,
    /// The session is here, or comes here.
    pub here: bool,
    /// Nodes that are told.
    pub to: SmallVec<[NodeIndex; 2]>,
}

impl Shard {
    /// This router passes a barrier.
    pub fn pass(&self, barrier: &Arc<Barrier>) {
        self.flush();
        let lanes = u16::try_from(self.shared.routers.len()).unwrap_or(u16::MAX);
        if barrier.here {
            self.send_mark(barrier.id, &barrier.client, (0, self.index), lanes);
        }
        if !barrier.to.is_empty() {
            let (barrier, lane) = (Arc::clone(barrier), (self.index, lanes));
            self.to_peers(PeerWork::Passed { barrier, lane }, SMALL);
        }
    }

    /// The mark of another node's lane, behind what it has published: on to where the session is.
    pub fn pass_on(&self, id: u64, client: &Arc<str>, lane: Lane, lanes: u16) {
        self.flush();
        self.send_mark(id, client, lane, lanes);
    }

    /// To where the session is. Here it counts at once: behind what stands in this router's own inbox
    /// it would come too late for that.
    fn send_mark(&self, id: u64, client: &Arc<str>, lane: Lane, lanes: u16) {
        let home = self.shared.home(client);
        if home == self.index {
            return self.marked(id, client, lane, lanes);
        }
        let marked = RouterWork::Marked { id, client: Arc::clone(client), lane, lanes };
        self.shared.routers[usize::from(home)].push(marked, SMALL);
    }

    /// A lane has marked the session.
    pub fn marked(&self, id: u64, client: &Arc<str>, lane: Lane, lanes: u16) {
        let slot = self.moving_slot(client);
        let mut sessions = self.sessions.borrow_mut();
        let moving = slot.and_then(|slot| sessions.get(slot)?.moving.as_mut());
        let Some(moving) = moving else { return };
        let mut counts = false;
        for marks in [&mut moving.arrive, &mut moving.leave].into_iter().flatten() {
            counts |= marks.id == id && marks.pass(lane, lanes);
        }
        if counts {
            self.to_peers(PeerWork::Marked { id, origin: lane.0 }, SMALL);
        }
    }

    fn moving_slot(&self, client: &str) -> Option<u32> {
        let arriving = self.expected.borrow().get(client).copied();
        arriving.or_else(|| self.sessions.borrow().by_client.get(client).copied())
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
        let mut sessions = self.sessions.borrow_mut();
        let Some(session) = sessions.get(slot) else { return };
        if let Some(moving) = &mut session.moving {
            // Another holder, after the one before was lost: what waits is still for it.
            moving.arrive = Some(Marks::new(id));
        }
        let subscriber = self.subscriber(slot, session);
        for (filter, qos) in filters {
            let parsed = TopicFilter::from_arc(Arc::clone(filter), &wire::Limits::PROTOCOL);
            let Ok(filter) = parsed else { continue };
            let qos = match qos {
                0 => QoS::AtMostOnce,
                1 => QoS::AtLeastOnce,
                _ => QoS::ExactlyOnce,
            };
            if self.shared.subscribe(&filter, subscriber, qos) {
                session.filters.push(filter);
            }
        }
        self.to_peers(PeerWork::Expected { id }, SMALL);
    }

    /// Puts a message aside for a session that is not here yet.
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
        let (message, durable) = (view.message(), view.durable);
        moving.early.push(Early { qos, message, durable, part: None });
        if durable {
            let mut outgoing = self.outgoing.borrow_mut();
            if !outgoing.aside.contains(&slot) {
                outgoing.aside.push(slot);
            }
        }
    }

    /// A wait goes on only when what was put aside for this session is stored.
    pub(super) fn wait_for_arrival(&self, slot: u32, token: Token) {
        let mut sessions = self.sessions.borrow_mut();
        match sessions.get(slot).and_then(|session| session.moving.as_mut()) {
            Some(moving) if moving.absent => moving.tokens.push(token),
            // It has come meanwhile.
            _ => self.outgoing.borrow_mut().tokens.push(token),
        }
    }

    /// The part of a transaction waits for this session.
    pub(super) fn hold_part(&self, slot: u32, part: HeldPart) {
        let mut sessions = self.sessions.borrow_mut();
        let Some(moving) = sessions.get(slot).and_then(|session| session.moving.as_mut()) else {
            return;
        };
        let at = moving.parts.len();
        moving.parts.push(part);
        self.held_parts.set(self.held_parts.get() + 1);
        for early in moving.early.iter_mut().filter(|early| early.durable) {
            early.part.get_or_insert(at);
        }
    }

    /// A session that was expected is here: what waited for it is queued, in order.
    pub(super) fn arrived(&self, client: &Arc<str>, taken: &StoredSession) {
        let Some(slot) = self.expected.borrow_mut().remove(client) else {
            return self.restore_session(taken, 0);
        };
        let (early, tokens, mut parts) = {
            let mut sessions = self.sessions.borrow_mut();
            sessions.by_client.insert(Arc::clone(client), slot);
            let Some(session) = sessions.get(slot) else { return };
            self.fill_session(session, taken);
            let subscriber = self.subscriber(slot, session);
            for subscription in &taken.subscriptions {
                let filter = Arc::clone(&subscription.filter);
                let parsed = TopicFilter::from_arc(filter, &wire::Limits::PROTOCOL);
                let Ok(filter) = parsed else { continue };
                if self.shared.subscribe(&filter, subscriber, subscription.qos) {
                    session.filters.push(filter);
                }
            }
            let Some(moving) = &mut session.moving else { return };
            moving.absent = false;
            let early = std::mem::take(&mut moving.early);
            (early, std::mem::take(&mut moving.tokens), std::mem::take(&mut moving.parts))
        };
        self.flush();
        for early in early {
            let message = &early.message;
            let mut view = View::new(&message.topic, &message.payload, message.qos, early.durable);
            view.owned = Some(Arc::clone(message));
            {
                let mut sessions = self.sessions.borrow_mut();
                let Some(session) = sessions.get(slot) else { return };
                self.deliver_stored(slot, session, early.qos, false, &mut view);
            }
            if let Some(part) = early.part.and_then(|part| parts.get_mut(part)) {
                part.ops.append(&mut self.outgoing.borrow_mut().ops);
            }
        }
        self.outgoing.borrow_mut().tokens.extend(tokens);
        self.flush();
        let held = parts.len();
        for HeldPart { ops, tokens, transaction } in parts {
            let bytes = ops.iter().map(super::op_cost).sum::<usize>() + 64;
            let transaction = Some(transaction);
            let part = StorageWork::Write { ops, tokens, transaction, origin: None };
            self.shared.storage.push(part, bytes);
        }
        if held > 0 {
            self.held_parts.set(self.held_parts.get().saturating_sub(held));
            self.pump_all();
        }
    }

    /// Every origin has marked it.
    pub fn all_marked(&self, id: u64, client: &Arc<str>, owner: Option<(&Arc<str>, u64)>) {
        let Some(slot) = self.moving_slot(client) else { return };
        let left = {
            let mut sessions = self.sessions.borrow_mut();
            let Some(session) = sessions.get(slot) else { return };
            let Some(moving) = &mut session.moving else { return };
            let is = |marks: &Option<Marks>| marks.as_ref().is_some_and(|marks| marks.id == id);
            if is(&moving.arrive) && !moving.absent {
                moving.arrive = None;
            }
            let left = is(&moving.leave);
            if moving.arrive.is_none() && moving.leave.is_none() && !moving.absent {
                session.moving = None;
            }
            left
        };
        if let Some((owner, ticket)) = owner
            && left
        {
            self.give_up_when_stored(slot, Arc::clone(owner), ticket);
        }
    }

    /// A read that shows nothing comes back when everything that was pushed for the session before
    /// is stored, also what is a part of another arbiter's transaction.
    fn give_up_when_stored(&self, slot: u32, owner: Arc<str>, ticket: u64) {
        self.flush();
        let stamp = self.stamp();
        let mut sessions = self.sessions.borrow_mut();
        let Some(session) = sessions.get(slot) else { return };
        let (Some(moving), Some(stored)) = (&mut session.moving, &session.stored) else { return };
        moving.giving_up = Some((stamp, owner, ticket));
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
        let given_up = {
            let mut sessions = self.sessions.borrow_mut();
            let moving = sessions.get(slot).and_then(|session| session.moving.as_mut());
            moving.and_then(|moving| moving.giving_up.take_if(|(read, ..)| *read == stamp))
        };
        let Some((_, owner, ticket)) = given_up else { return false };
        self.hand_over(slot, &owner, ticket);
        true
    }

    /// The node that should have got it is lost: it stays.
    pub fn stays(&self, id: u64, client: &Arc<str>) {
        let Some(slot) = self.moving_slot(client) else { return };
        let mut sessions = self.sessions.borrow_mut();
        let Some(session) = sessions.get(slot) else { return };
        if let Some(moving) = &mut session.moving
            && moving.leave.as_ref().is_some_and(|marks| marks.id == id)
        {
            moving.leave = None;
            if moving.arrive.is_none() && !moving.absent {
                session.moving = None;
            }
        }
    }
}
