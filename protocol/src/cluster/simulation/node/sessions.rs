//! The sessions of a lane and their clients (`actors/src/shard/{cluster,connect,resume}.rs`).

use std::collections::BTreeSet;
use std::mem;
use std::sync::Arc;

use super::super::store::{Batch, Entry, Message, Op, Stored, handle};
use super::claims::Release;
use super::deliver::Outgoing;
use super::{Effect, ManagerWork, Node, PeerWork, Token, WaitKind};
use crate::cluster::marks::{Marks, Transit};
use crate::cluster::message::{Handed, Interest};

#[derive(Debug)]
pub(super) struct Leaving {
    pub to: Arc<str>,
    pub asked: Vec<(Arc<str>, u64)>,
    pub read: Option<u64>,
    /// Owner, ticket, and for whom.
    pub later: Vec<(Arc<str>, u64, Arc<str>)>,
}

/// What a session on its way has beside any other.
#[derive(Debug, Default)]
pub(super) struct Moving {
    pub transit: Transit,
    pub heir: Option<u64>,
    pub leaving: Option<Leaving>,
    pub early: Vec<(Message, Option<Batch>)>,
    pub tokens: Vec<Token>,
}

impl Moving {
    pub fn is_over(&self) -> bool {
        self.transit.is_over() && self.heir.is_none()
    }
}

#[derive(Debug, Default)]
pub(super) struct Session {
    pub client: Arc<str>,
    pub id: u64,
    pub epoch: u64,
    pub next_sequence: u64,
    pub estate: u64,
    /// What the store knew when it came here.
    pub batches: BTreeSet<Batch>,
    pub filters: Vec<Arc<str>>,
    pub connection: Option<u64>,
    pub read_from: u64,
    pub reading: Option<u64>,
    /// What it reads: what was pushed before.
    pub read_until: u64,
    pub unread: bool,
    pub moving: Option<Moving>,
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
    pub(super) fn session(&mut self, shard: u16, slot: u32) -> Option<&mut Session> {
        self.shard(shard).sessions.get_mut(&slot)
    }

    pub(super) fn known(&self, shard: u16, client: &str) -> Option<u32> {
        self.shards[usize::from(shard)].by_client.get(client).copied()
    }

    pub(super) fn insert(&mut self, shard: u16, session: Session) -> u32 {
        let slot = self.number() as u32;
        self.shard(shard).sessions.insert(slot, session);
        slot
    }

    /// One that was found in the store: it is here, offline.
    pub(super) fn restore(&mut self, shard: u16, stored: &Stored, estate: u64) -> u32 {
        let client = Arc::clone(&stored.client);
        let mut session = Session { client: Arc::clone(&client), estate, ..Session::default() };
        session.fill(stored);
        let slot = self.insert(shard, session);
        self.shard(shard).by_client.insert(client, slot);
        self.subscribe(shard, slot, &stored.filters);
        slot
    }

    pub(super) fn subscribe(&mut self, shard: u16, slot: u32, filters: &[Arc<str>]) {
        for filter in filters {
            let Some(session) = self.session(shard, slot) else { return };
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

    pub(super) fn manage(&mut self, shard: u16, work: ManagerWork) {
        let mut out = Outgoing::default();
        match work {
            ManagerWork::Connect { client, connection } => {
                let known = self.known(shard, &client).is_some();
                self.shard(shard).claiming.insert(connection, Arc::clone(&client));
                self.work.push_back(PeerWork::Claim { shard, connection, client, known });
            }
            ManagerWork::Disconnected { client, connection } => {
                self.shard(shard).claiming.remove(&connection);
                let slot = self.known(shard, &client);
                if let Some(session) = slot.and_then(|slot| self.session(shard, slot))
                    && session.connection == Some(connection)
                {
                    session.connection = None;
                }
            }
            ManagerWork::Got { client, connection, sequence } => {
                let slot = self.known(shard, &client);
                if let Some(session) = slot.and_then(|slot| self.session(shard, slot))
                    && session.connection == Some(connection)
                {
                    out.ops.push(Op::DeleteQueued { id: session.id, sequence });
                }
            }
            ManagerWork::Completed(token) => self.completed(shard, token),
            ManagerWork::Granted { client, connection, taken, admission } => {
                self.granted(shard, &client, connection, taken, admission, &mut out);
            }
            ManagerWork::Release(release) => self.give_up_session(shard, release, &mut out),
            ManagerWork::Page { slot, stamp, page } => self.page(shard, slot, stamp, &page),
            ManagerWork::Inherit { sessions, incarnation } => {
                self.inherit(shard, &sessions, incarnation, &mut out);
            }
            ManagerWork::AllMarked { id, client } => self.all_marked(shard, id, &client),
            ManagerWork::Stays { id, client } => self.stays(shard, id, &client, &mut out),
            ManagerWork::Taken { id, client } => self.taken(shard, id, &client, &mut out),
            ManagerWork::Settled { incarnation } => self.settled(shard, incarnation),
            ManagerWork::Recovered { id, client, taken } => {
                self.recovered(shard, id, &client, taken, &mut out);
            }
        }
        self.flush(shard, &mut out);
    }

    fn completed(&mut self, shard: u16, token: Token) {
        let waits = &mut self.shard(shard).waits;
        let Some((left, _)) = waits.get_mut(&token.1) else { return };
        *left -= 1;
        if *left > 0 {
            return;
        }
        match waits.remove(&token.1).map(|(_, kind)| kind) {
            Some(WaitKind::Publish(message)) => self.tell_client(Effect::Acknowledge(message)),
            Some(WaitKind::Peer { node, incarnation, batch }) => {
                self.work.push_back(PeerWork::Stored { node, incarnation, batch });
            }
            Some(WaitKind::Forward(token)) => self.complete([token]),
            Some(WaitKind::Subscribed { client, connection }) => {
                self.tell_client(Effect::Connected { client, connection, present: false });
            }
            None => {}
        }
    }

    /// A client's claim is granted; its session may come with that.
    fn granted(
        &mut self,
        shard: u16,
        client: &Arc<str>,
        connection: u64,
        taken: Option<Box<Stored>>,
        admission: u64,
        out: &mut Outgoing,
    ) {
        self.shard(shard).admitted = admission;
        match taken {
            Some(taken) if self.known(shard, client).is_none() => {
                self.arrived(shard, client, &taken, out);
            }
            _ => self.forget_expected(shard, client, out),
        }
        let known = self.known(shard, client);
        if self.shard(shard).claiming.remove(&connection).is_none() {
            if known.is_none() {
                let (client, seen) = (Arc::clone(client), admission);
                self.work.push_back(PeerWork::Gone { client, seen });
            }
            return;
        }
        match known {
            Some(slot) => {
                self.take_over(shard, slot);
                self.stay(shard, slot, out);
                if let Some(session) = self.session(shard, slot) {
                    session.connection = Some(connection);
                    (session.read_from, session.reading) = (0, None);
                    let client = Arc::clone(client);
                    self.tell_client(Effect::Connected { client, connection, present: true });
                    self.pump(shard, slot);
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
                let slot = self.insert(shard, session);
                self.shard(shard).by_client.insert(Arc::clone(&client), slot);
                let filters = super::super::filters(&client);
                self.subscribe(shard, slot, &filters);
                out.ops.push(Op::PutSession { id, client: Arc::clone(&client), filters });
                let kind = WaitKind::Subscribed { client, connection: connection.unwrap_or(0) };
                let token = self.wait(shard, 2, kind);
                out.tokens.push(token);
                self.flush(shard, out);
                self.work.push_back(PeerWork::Interest(Some(token)));
            }
        }
    }

    /// Its client is let in here by an owner that knows nothing of its being given up: it stays.
    fn stay(&mut self, shard: u16, slot: u32, out: &mut Outgoing) {
        let Some(session) = self.session(shard, slot) else { return };
        let client = Arc::clone(&session.client);
        let moving = session.moving.as_ref();
        let leaves = moving.and_then(|moving| Some(moving.transit.leave.as_ref()?.id));
        if let Some(id) = leaves {
            self.work.push_back(PeerWork::Keeps(id));
            for (owner, ticket) in self.keep(shard, slot, Some(id), out) {
                self.answer_release(owner, ticket, &client, None);
            }
            self.work.push_back(PeerWork::Holds(client));
        }
    }

    /// The connection that a session has is closed.
    fn take_over(&mut self, shard: u16, slot: u32) {
        let Some(session) = self.session(shard, slot) else { return };
        if let Some(connection) = session.connection.take() {
            let client = Arc::clone(&session.client);
            self.effects.push(Effect::Closed { client, connection });
        }
    }

    /// Reads what is queued, for a client that is connected.
    pub(super) fn pump(&mut self, shard: u16, slot: u32) {
        let Some(session) = self.session(shard, slot) else { return };
        if session.connection.is_none() || session.moving.as_ref().is_some_and(|m| m.transit.absent)
        {
            return;
        }
        session.unread = session.reading.is_some();
        if !session.unread {
            let (id, from) = (session.id, session.read_from);
            session.read_until = session.next_sequence;
            let stamp = self.read(shard, slot, id, from);
            if let Some(session) = self.session(shard, slot) {
                session.reading = Some(stamp);
            }
        }
    }

    fn page(&mut self, shard: u16, slot: u32, stamp: u64, page: &[(u64, Entry)]) {
        let Some(session) = self.session(shard, slot) else { return };
        let leaving = session.moving.as_mut().and_then(|moving| moving.leaving.as_mut());
        if leaving.is_some_and(|leaving| leaving.read.take_if(|read| *read == stamp).is_some()) {
            return self.hand_over(shard, slot);
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
            self.tell_client(Effect::Deliver { client, connection, sequence, message });
        }
        if again {
            self.pump(shard, slot);
        }
    }

    pub(super) fn give_up_session(&mut self, shard: u16, release: Release, out: &mut Outgoing) {
        let Release { owner, ticket, client, to } = release;
        if ticket == 0 && self.known(shard, &client).is_some() {
            // Another has said that it holds it. A persistent session is one node's only, by the store.
            return self.work.push_back(PeerWork::Holds(client));
        }
        if let Some(slot) = self.known(shard, &client) {
            self.take_over(shard, slot);
            self.begin_leaving(shard, slot, owner, ticket, to, out);
        } else if self.shard(shard).given_up.contains_key(&client) {
            self.ask_for_given_up(shard, owner, ticket, &client, to);
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

    fn begin_leaving(
        &mut self,
        shard: u16,
        slot: u32,
        owner: Arc<str>,
        ticket: u64,
        to: Arc<str>,
        out: &mut Outgoing,
    ) {
        let moving = self.session(shard, slot).and_then(|session| session.moving.as_mut());
        let under_way = moving.and_then(|moving| {
            let id = moving.transit.leave.as_ref()?.id;
            Some((id, moving.leaving.as_mut()?))
        });
        let abandoned = match under_way {
            Some((_, leaving)) if leaving.to == to => return leaving.asked.push((owner, ticket)),
            under_way => under_way.map(|(id, _)| id),
        };
        if let Some(id) = abandoned {
            self.work.push_back(PeerWork::Keeps(id));
            drop(self.keep(shard, slot, None, out));
        }
        self.moving.insert((shard, slot));
        self.next_move += 1;
        let id = self.next_move;
        let Some(session) = self.session(shard, slot) else { return };
        let moving = session.moving.get_or_insert_default();
        moving.transit.leave = Some(Marks::new(id));
        let (asked, later) = (vec![(owner, ticket)], Vec::new());
        moving.leaving = Some(Leaving { to: Arc::clone(&to), asked, read: None, later });
        let (client, estate) = (Arc::clone(&session.client), session.estate);
        let filters = super::deliver::granted(&session.filters);
        self.flush(shard, out);
        self.work.push_back(PeerWork::Leaving { id, client, to, filters, estate });
    }

    fn ask_for_given_up(
        &mut self,
        shard: u16,
        owner: Arc<str>,
        ticket: u64,
        client: &Arc<str>,
        to: Arc<str>,
    ) {
        let Some(slot) = self.shard(shard).given_up.get(client).copied() else { return };
        let incarnation = self.incarnation;
        let Some(session) = self.session(shard, slot) else { return };
        let handed = Some(Handed { session: session.handle(), incarnation, stamp: 0 });
        let Some(moving) = &mut session.moving else { return };
        let Some(leaving) = &mut moving.leaving else { return };
        if leaving.to == to {
            return self.answer_release(owner, ticket, client, handed);
        }
        leaving.later.push((owner, ticket, to));
        if let Some(id) = moving.transit.leave.as_ref().map(|marks| marks.id) {
            self.recover(shard, slot, id, client);
        }
    }

    /// Everything of a session that is given up is stored: the other node may take it.
    fn hand_over(&mut self, shard: u16, slot: u32) {
        let incarnation = self.incarnation;
        let drops = self.mistake == super::super::Mistake::HolderForgets;
        let Some(session) = self.session(shard, slot) else { return };
        let client = Arc::clone(&session.client);
        let handed = Some(Handed { session: session.handle(), incarnation, stamp: 0 });
        let mut asked = Vec::new();
        let mut tokens = Vec::new();
        if let Some(moving) = &mut session.moving {
            if let Some(leaving) = &mut moving.leaving {
                asked = mem::take(&mut leaving.asked);
            }
            if drops {
                moving.early.clear();
                tokens = mem::take(&mut moving.tokens);
            }
        }
        self.complete(tokens);
        let shard = self.shard(shard);
        shard.by_client.remove(&client);
        shard.given_up.insert(Arc::clone(&client), slot);
        for (owner, ticket) in asked {
            self.answer_release(owner, ticket, &client, handed);
        }
    }

    /// What a lost node held.
    fn inherit(&mut self, shard: u16, sessions: &[Stored], incarnation: u64, out: &mut Outgoing) {
        for stored in sessions {
            self.forget_moving(shard, &stored.client, out);
            if self.known(shard, &stored.client).is_none() {
                let slot = self.restore(shard, stored, incarnation);
                if let Some(session) = self.session(shard, slot) {
                    session.moving = Some(Moving { heir: Some(incarnation), ..Moving::default() });
                }
            }
        }
        if !sessions.is_empty() {
            self.shard(shard).estates.insert(incarnation, Marks::new(incarnation));
        }
        if let Some((left, ..)) = self.inheriting.get_mut(&incarnation) {
            *left -= 1;
            if *left == 0
                && let Some((_, incarnations, clients)) = self.inheriting.remove(&incarnation)
            {
                self.work.push_back(PeerWork::Inherited { incarnation, incarnations, clients });
            }
        }
    }
}
