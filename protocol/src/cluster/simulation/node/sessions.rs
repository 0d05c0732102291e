//! The sessions of a worker and their clients (`engine/src/worker/{connect,session_handover,acknowledge}.rs`).

use std::collections::BTreeSet;
use std::mem;
use std::sync::Arc;

use super::super::store::{Batch, Entry, Message, Op, Stored, handle};
use super::claims::Release;
use super::deliver::Effects;
use super::{CompletionToken, Continuation, Effect, ManagerWork, Node, PeerWork};
use crate::cluster::message::{Handed, Interest};
use crate::cluster::stream_marker::{MarkedStreams, Transit};

#[derive(Debug)]
pub(super) struct Offer {
    pub to: Arc<str>,
    pub asked: Vec<(Arc<str>, u64)>,
    pub read: Option<u64>,
    /// Owner, ticket, and for whom.
    pub later: Vec<(Arc<str>, u64, Arc<str>)>,
}

/// What a session on its way has beside any other.
#[derive(Debug, Default)]
pub(super) struct Handover {
    pub transit: Transit,
    pub successor: Option<u64>,
    pub offer: Option<Offer>,
    pub buffered: Vec<(Message, Option<Batch>)>,
    pub tokens: Vec<CompletionToken>,
}

impl Handover {
    pub fn is_over(&self) -> bool {
        self.transit.is_over() && self.successor.is_none()
    }
}

#[derive(Debug, Default)]
pub(super) struct Session {
    pub client: Arc<str>,
    pub id: u64,
    pub epoch: u64,
    pub next_sequence: u64,
    pub orphan: u64,
    /// What the store knew when it came here.
    pub batches: BTreeSet<Batch>,
    pub filters: Vec<Arc<str>>,
    pub connection: Option<u64>,
    pub read_from: u64,
    pub reading: Option<u64>,
    /// What it reads: what was pushed before.
    pub read_until: u64,
    pub unread: bool,
    pub handover: Option<Handover>,
}

impl Session {
    pub fn handle(&self) -> u64 {
        handle(self.id, self.epoch)
    }

    pub fn fill(&mut self, stored: &Stored) {
        (self.id, self.epoch, self.next_sequence) = (stored.id, stored.epoch, stored.last + 1);
        self.batches.clone_from(&stored.batches);
    }
}

impl Node {
    pub(super) fn session(&mut self, worker: u16, slot: u32) -> Option<&mut Session> {
        self.worker(worker).sessions.get_mut(&slot)
    }

    pub(super) fn known(&self, worker: u16, client: &str) -> Option<u32> {
        self.workers[usize::from(worker)].by_client.get(client).copied()
    }

    pub(super) fn insert(&mut self, worker: u16, session: Session) -> u32 {
        let slot = self.number() as u32;
        self.worker(worker).sessions.insert(slot, session);
        slot
    }

    /// One that was found in the store: it is here, offline.
    pub(super) fn restore(&mut self, worker: u16, stored: &Stored, orphan: u64) -> u32 {
        let client = Arc::clone(&stored.client);
        let mut session = Session { client: Arc::clone(&client), orphan, ..Session::default() };
        session.fill(stored);
        let slot = self.insert(worker, session);
        self.worker(worker).by_client.insert(client, slot);
        self.subscribe(worker, slot, &stored.filters);
        slot
    }

    pub(super) fn subscribe(&mut self, worker: u16, slot: u32, filters: &[Arc<str>]) {
        for filter in filters {
            let Some(session) = self.session(worker, slot) else { return };
            if !session.filters.contains(filter) {
                session.filters.push(Arc::clone(filter));
                *self.interest.entry(Arc::clone(filter)).or_default() += 1;
                if self.interest[filter] == 1 {
                    self.interest_changed(filter, Interest::Queues);
                }
            }
        }
    }

    pub(super) fn unsubscribe(&mut self, filters: &[Arc<str>]) {
        for filter in filters {
            let Some(count) = self.interest.get_mut(filter) else { continue };
            *count -= 1;
            if *count == 0 {
                self.interest.remove(filter);
                self.interest_changed(filter, Interest::None);
            }
        }
    }

    fn interest_changed(&mut self, filter: &Arc<str>, interest: Interest) {
        self.changes.push((Arc::clone(filter), interest));
        self.announced += 1;
        self.work.push_back(PeerWork::Interest(None));
    }

    pub(super) fn manage(&mut self, worker: u16, work: ManagerWork) {
        let mut out = Effects::default();
        match work {
            ManagerWork::Connect { client, connection } => {
                let known = self.known(worker, &client).is_some();
                self.worker(worker).claiming.insert(connection, Arc::clone(&client));
                self.work.push_back(PeerWork::Claim { worker, connection, client, known });
            }
            ManagerWork::Disconnected { client, connection } => {
                self.worker(worker).claiming.remove(&connection);
                let slot = self.known(worker, &client);
                if let Some(session) = slot.and_then(|slot| self.session(worker, slot))
                    && session.connection == Some(connection)
                {
                    session.connection = None;
                }
            }
            ManagerWork::Got { client, connection, sequence } => {
                let slot = self.known(worker, &client);
                if let Some(session) = slot.and_then(|slot| self.session(worker, slot))
                    && session.connection == Some(connection)
                {
                    out.ops.push(Op::DeleteQueued { id: session.id, sequence });
                }
            }
            ManagerWork::Completed(token) => self.completed(worker, token),
            ManagerWork::Granted { client, connection, taken, admission } => {
                self.granted(worker, &client, connection, taken, admission, &mut out);
            }
            ManagerWork::Release(release) => self.give_up_session(worker, release, &mut out),
            ManagerWork::Page { slot, stamp, page } => self.page(worker, slot, stamp, &page),
            ManagerWork::TakeOver { sessions, incarnation } => {
                self.take_over_sessions(worker, &sessions, incarnation, &mut out);
            }
            ManagerWork::AllMarked { id, client } => self.all_marked(worker, id, &client),
            ManagerWork::KeepSession { id, client } => {
                self.keep_session(worker, id, &client, &mut out)
            }
            ManagerWork::HandedOver { id, client } => {
                self.handed_over(worker, id, &client, &mut out)
            }
            ManagerWork::Settled { incarnation } => self.settled(worker, incarnation),
            ManagerWork::Recovered { id, client, taken } => {
                self.recovered(worker, id, &client, taken, &mut out);
            }
        }
        self.flush(worker, &mut out);
    }

    fn completed(&mut self, worker: u16, token: CompletionToken) {
        let waits = &mut self.worker(worker).pending_acks;
        let Some((left, _)) = waits.get_mut(&token.1) else { return };
        *left -= 1;
        if *left > 0 {
            return;
        }
        match waits.remove(&token.1).map(|(_, kind)| kind) {
            Some(Continuation::Publish(message)) => {
                self.send_to_client(Effect::Acknowledge(message))
            }
            Some(Continuation::Peer { node, incarnation, batch }) => {
                self.work.push_back(PeerWork::Stored { node, incarnation, batch });
            }
            Some(Continuation::Forward(token)) => self.complete([token]),
            Some(Continuation::Subscribed { client, connection }) => {
                self.send_to_client(Effect::Connected { client, connection, present: false });
            }
            None => {}
        }
    }

    /// A client's claim is granted; its session may come with that.
    fn granted(
        &mut self,
        worker: u16,
        client: &Arc<str>,
        connection: u64,
        taken: Option<Box<Stored>>,
        admission: u64,
        out: &mut Effects,
    ) {
        self.worker(worker).admitted = admission;
        match taken {
            Some(taken) if self.known(worker, client).is_none() => {
                self.arrived(worker, client, &taken, out);
            }
            _ => self.forget_expected(worker, client, out),
        }
        let known = self.known(worker, client);
        if self.worker(worker).claiming.remove(&connection).is_none() {
            if known.is_none() {
                let (client, seen) = (Arc::clone(client), admission);
                self.work.push_back(PeerWork::Gone { client, seen });
            }
            return;
        }
        match known {
            Some(slot) => {
                self.take_over(worker, slot);
                self.stay(worker, slot, out);
                if let Some(session) = self.session(worker, slot) {
                    session.connection = Some(connection);
                    (session.read_from, session.reading) = (0, None);
                    let client = Arc::clone(client);
                    self.send_to_client(Effect::Connected { client, connection, present: true });
                    self.pump(worker, slot);
                }
            }
            None => {
                let id = self.incarnation << 32 | self.number();
                let (client, connection) = (Arc::clone(client), Some(connection));
                let next_sequence = 1;
                let session = Session {
                    client: Arc::clone(&client),
                    id,
                    connection,
                    next_sequence,
                    ..Session::default()
                };
                let slot = self.insert(worker, session);
                self.worker(worker).by_client.insert(Arc::clone(&client), slot);
                let filters = super::super::filters(&client);
                self.subscribe(worker, slot, &filters);
                out.ops.push(Op::PutSession { id, client: Arc::clone(&client), filters });
                let kind = Continuation::Subscribed { client, connection: connection.unwrap_or(0) };
                let token = self.pend(worker, 2, kind);
                out.tokens.push(token);
                self.flush(worker, out);
                self.work.push_back(PeerWork::Interest(Some(token)));
            }
        }
    }

    /// Its client is let in here by an owner that knows nothing of its being given up: it stays.
    fn stay(&mut self, worker: u16, slot: u32, out: &mut Effects) {
        let Some(session) = self.session(worker, slot) else { return };
        let client = Arc::clone(&session.client);
        let handover = session.handover.as_ref();
        let leaves = handover.and_then(|handover| Some(handover.transit.leave.as_ref()?.id));
        if let Some(id) = leaves {
            self.work.push_back(PeerWork::Abort(id));
            for (owner, ticket) in self.keep(worker, slot, Some(id), out) {
                self.answer_release(owner, ticket, &client, None);
            }
            self.work.push_back(PeerWork::Holds(client));
        }
    }

    /// The connection that a session has is closed.
    fn take_over(&mut self, worker: u16, slot: u32) {
        let Some(session) = self.session(worker, slot) else { return };
        if let Some(connection) = session.connection.take() {
            let client = Arc::clone(&session.client);
            self.effects.push(Effect::Closed { client, connection });
        }
    }

    /// Reads what is queued, for a client that is connected.
    pub(super) fn pump(&mut self, worker: u16, slot: u32) {
        let Some(session) = self.session(worker, slot) else { return };
        if session.connection.is_none()
            || session.handover.as_ref().is_some_and(|m| m.transit.absent)
        {
            return;
        }
        session.unread = session.reading.is_some();
        if !session.unread {
            let (id, from) = (session.id, session.read_from);
            session.read_until = session.next_sequence;
            let stamp = self.read(worker, slot, id, from);
            if let Some(session) = self.session(worker, slot) {
                session.reading = Some(stamp);
            }
        }
    }

    fn page(&mut self, worker: u16, slot: u32, stamp: u64, page: &[(u64, Entry)]) {
        let Some(session) = self.session(worker, slot) else { return };
        let offer = session.handover.as_mut().and_then(|handover| handover.offer.as_mut());
        if offer.is_some_and(|offer| offer.read.take_if(|read| *read == stamp).is_some()) {
            return self.hand_over(worker, slot);
        }
        if session.reading != Some(stamp) {
            return;
        }
        session.reading = None;
        let Some(connection) = session.connection else { return };
        // The page may show what came later, and not yet what stands before that.
        session.read_from = session.read_until;
        let (client, again) = (Arc::clone(&session.client), session.unread);
        let until = session.read_until;
        for (sequence, entry) in page.iter().filter(|(sequence, _)| *sequence < until) {
            let (client, sequence, message) = (Arc::clone(&client), *sequence, entry.message);
            self.send_to_client(Effect::Deliver { client, connection, sequence, message });
        }
        if again {
            self.pump(worker, slot);
        }
    }

    pub(super) fn give_up_session(&mut self, worker: u16, release: Release, out: &mut Effects) {
        let Release { owner, ticket, client, to } = release;
        if ticket == 0 && self.known(worker, &client).is_some() {
            // Another has said that it holds it. A persistent session is one node's only, by the store.
            return self.work.push_back(PeerWork::Holds(client));
        }
        if let Some(slot) = self.known(worker, &client) {
            self.take_over(worker, slot);
            self.begin_offer(worker, slot, owner, ticket, to, out);
        } else if self.worker(worker).given_up.contains_key(&client) {
            self.ask_for_given_up(worker, owner, ticket, &client, to);
        } else {
            self.answer_release(owner, ticket, &client, None);
        }
    }

    pub(super) fn answer_release(
        &mut self,
        owner: Arc<str>,
        ticket: u64,
        client: &Arc<str>,
        handed: Option<Handed>,
    ) {
        let client = Arc::clone(client);
        self.work.push_back(PeerWork::Released { owner, ticket, client, handed });
    }

    fn begin_offer(
        &mut self,
        worker: u16,
        slot: u32,
        owner: Arc<str>,
        ticket: u64,
        to: Arc<str>,
        out: &mut Effects,
    ) {
        let handover = self.session(worker, slot).and_then(|session| session.handover.as_mut());
        let under_way = handover.and_then(|handover| {
            let id = handover.transit.leave.as_ref()?.id;
            Some((id, handover.offer.as_mut()?))
        });
        let abandoned = match under_way {
            Some((_, offer)) if offer.to == to => return offer.asked.push((owner, ticket)),
            under_way => under_way.map(|(id, _)| id),
        };
        if let Some(id) = abandoned {
            self.work.push_back(PeerWork::Abort(id));
            drop(self.keep(worker, slot, None, out));
        }
        self.handover.insert((worker, slot));
        self.next_move += 1;
        let id = self.next_move;
        let Some(session) = self.session(worker, slot) else { return };
        let handover = session.handover.get_or_insert_default();
        handover.transit.leave = Some(MarkedStreams::new(id));
        let (asked, later) = (vec![(owner, ticket)], Vec::new());
        handover.offer = Some(Offer { to: Arc::clone(&to), asked, read: None, later });
        let (client, orphan) = (Arc::clone(&session.client), session.orphan);
        let filters = super::deliver::granted(&session.filters);
        self.flush(worker, out);
        self.work.push_back(PeerWork::Offer { id, client, to, filters, orphan });
    }

    fn ask_for_given_up(
        &mut self,
        worker: u16,
        owner: Arc<str>,
        ticket: u64,
        client: &Arc<str>,
        to: Arc<str>,
    ) {
        let Some(slot) = self.worker(worker).given_up.get(client).copied() else { return };
        let incarnation = self.incarnation;
        let Some(session) = self.session(worker, slot) else { return };
        let handed = Some(Handed { session: session.handle(), incarnation, given_up: 0 });
        let Some(handover) = &mut session.handover else { return };
        let Some(offer) = &mut handover.offer else { return };
        if offer.to == to {
            return self.answer_release(owner, ticket, client, handed);
        }
        offer.later.push((owner, ticket, to));
        if let Some(id) = handover.transit.leave.as_ref().map(|marked| marked.id) {
            self.recover(worker, slot, id, client);
        }
    }

    /// Everything of a session that is given up is stored: the other node may take it.
    fn hand_over(&mut self, worker: u16, slot: u32) {
        let incarnation = self.incarnation;
        let drops = self.mistake == super::super::Mistake::SourceForgets;
        let Some(session) = self.session(worker, slot) else { return };
        let client = Arc::clone(&session.client);
        let handed = Some(Handed { session: session.handle(), incarnation, given_up: 0 });
        let mut asked = Vec::new();
        let mut tokens = Vec::new();
        if let Some(handover) = &mut session.handover {
            if let Some(offer) = &mut handover.offer {
                asked = mem::take(&mut offer.asked);
            }
            if drops {
                handover.buffered.clear();
                tokens = mem::take(&mut handover.tokens);
            }
        }
        self.complete(tokens);
        let worker = self.worker(worker);
        worker.by_client.remove(&client);
        worker.given_up.insert(Arc::clone(&client), slot);
        for (owner, ticket) in asked {
            self.answer_release(owner, ticket, &client, handed);
        }
    }

    /// What a lost node held.
    fn take_over_sessions(
        &mut self,
        worker: u16,
        sessions: &[Stored],
        incarnation: u64,
        out: &mut Effects,
    ) {
        for stored in sessions {
            self.forget_handover(worker, &stored.client, out);
            if self.known(worker, &stored.client).is_none() {
                let slot = self.restore(worker, stored, incarnation);
                if let Some(session) = self.session(worker, slot) {
                    session.handover =
                        Some(Handover { successor: Some(incarnation), ..Handover::default() });
                }
            }
        }
        if !sessions.is_empty() {
            self.worker(worker).orphans.insert(incarnation, MarkedStreams::new(incarnation));
        }
        if let Some((left, ..)) = self.taking_over.get_mut(&incarnation) {
            *left -= 1;
            if *left == 0
                && let Some((_, incarnations, clients)) = self.taking_over.remove(&incarnation)
            {
                self.work.push_back(PeerWork::TakenOver { incarnation, incarnations, clients });
            }
        }
    }
}
