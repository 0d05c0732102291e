//! Sessions on their way (`actors/src/shard/moving.rs`).

use std::mem;
use std::sync::Arc;

use super::super::store::Stored;
use super::claims::Release;
use super::deliver::Outgoing;
use super::sessions::{Moving, Session};
use super::{Barrier, Node, Pass, PeerWork, RouterWork, Token};
use crate::cluster::marks::{Lane, Marks, Transit};
use crate::cluster::message::Control;

impl Node {
    pub(super) fn barrier(&mut self, barrier: &Barrier) {
        for shard in &mut self.shards {
            shard.router.push_back(RouterWork::Barrier(barrier.clone()));
        }
    }

    pub(super) fn passed(&mut self, barrier: &Barrier, lane: (u16, u16)) {
        match &barrier.pass {
            Pass::Move { id, client, .. } => {
                for node in &barrier.to {
                    let (id, client) = (*id, Arc::clone(client));
                    if let Some(peer) = self.peer(*node) {
                        peer.tell(Control::Mark { id, client, lane });
                    }
                }
            }
            Pass::Heir { incarnation, heir } => self.resend(*incarnation, *heir, lane),
        }
    }

    pub(super) fn mark(&mut self, node: usize, id: u64, client: Arc<str>, lane: (u16, u16)) {
        let (lane, lanes) = ((node as u16, lane.0), lane.1);
        self.push_router(lane.1, RouterWork::Mark { id, client, lane, lanes });
    }

    pub(super) fn pass(&mut self, shard: u16, barrier: Barrier) {
        let lanes = self.lanes();
        if let Pass::Move { id, client, here: true } = &barrier.pass {
            let lane = (self.index as u16, shard);
            self.send_mark(shard, *id, Arc::clone(client), lane, lanes);
        }
        if let Pass::Heir { incarnation, heir } = &barrier.pass {
            self.shard(shard).passed.insert(*incarnation);
            if *heir == self.index {
                self.shard(shard).held_up += 1;
            }
        }
        self.work.push_back(PeerWork::Passed { barrier, lane: (shard, lanes) });
    }

    pub(super) fn send_mark(
        &mut self,
        shard: u16,
        id: u64,
        client: Arc<str>,
        lane: Lane,
        lanes: u16,
    ) {
        let home = self.home(&client);
        if home == shard {
            return self.lane_marks(shard, id, &client, lane, lanes);
        }
        self.shard(home).router.push_back(RouterWork::Marked { id, client, lane, lanes });
    }

    pub(super) fn lane_marks(&mut self, shard: u16, id: u64, client: &str, lane: Lane, lanes: u16) {
        let Some(slot) = self.moving_slot(shard, client) else { return };
        let moving = self.session(shard, slot).and_then(|session| session.moving.as_mut());
        let Some(Moving { transit, .. }) = moving else { return };
        let mut counts = false;
        for marks in [&mut transit.arrive, &mut transit.leave].into_iter().flatten() {
            counts |= marks.id == id && marks.pass(lane, lanes);
        }
        if counts {
            self.work.push_back(PeerWork::Marked { id, origin: usize::from(lane.0) });
        }
    }

    pub(super) fn resent_here(&mut self, shard: u16, incarnation: u64, lane: Lane, lanes: u16) {
        let marks = self.shard(shard).estates.get_mut(&incarnation);
        if marks.is_none_or(|marks| marks.pass(lane, lanes)) {
            let origin = usize::from(lane.0);
            self.work.push_back(PeerWork::ResentSeen { incarnation, shard, origin });
        }
    }

    pub(super) fn settled(&mut self, shard: u16, incarnation: u64) {
        let shard = self.shard(shard);
        if shard.estates.remove(&incarnation).is_none() {
            return;
        }
        for session in shard.sessions.values_mut() {
            let Some(moving) = &mut session.moving else { continue };
            if moving.heir == Some(incarnation) {
                moving.heir = None;
                if moving.is_over() {
                    session.moving = None;
                }
            }
        }
    }

    fn moving_slot(&mut self, shard: u16, client: &str) -> Option<u32> {
        let shard = self.shard(shard);
        shard.expected.get(client).or_else(|| shard.by_client.get(client)).copied()
    }

    pub(super) fn expect(
        &mut self,
        shard: u16,
        id: u64,
        client: &Arc<str>,
        filters: &[(Arc<str>, u8)],
        out: &mut Outgoing,
    ) {
        let known = self.shard(shard).expected.get(client).copied();
        let slot = known.unwrap_or_else(|| {
            let transit = Transit { absent: true, ..Transit::default() };
            let moving = Some(Moving { transit, ..Moving::default() });
            let session = Session { client: Arc::clone(client), moving, ..Session::default() };
            let slot = self.insert(shard, session);
            self.shard(shard).expected.insert(Arc::clone(client), slot);
            slot
        });
        self.moving.insert((shard, slot));
        let moving = self.session(shard, slot).and_then(|session| session.moving.as_mut());
        if let Some(moving) = moving {
            moving.transit.arrive = Some(Marks::new(id));
            moving.early.clear();
            out.tokens.append(&mut moving.tokens);
        }
        let filters: Vec<Arc<str>> = filters.iter().map(|(filter, _)| Arc::clone(filter)).collect();
        self.subscribe(shard, slot, &filters);
        self.flush(shard, out);
        self.work.push_back(PeerWork::Expected(id));
    }

    pub(super) fn wait_for_arrival(
        &mut self,
        shard: u16,
        slot: u32,
        token: Token,
        out: &mut Outgoing,
    ) {
        match self.session(shard, slot).and_then(|session| session.moving.as_mut()) {
            Some(moving) if !moving.early.is_empty() => moving.tokens.push(token),
            _ => out.tokens.push(token),
        }
    }

    /// A session that was expected is here.
    pub(super) fn arrived(
        &mut self,
        shard: u16,
        client: &Arc<str>,
        taken: &Stored,
        out: &mut Outgoing,
    ) {
        let given_up = self.shard(shard).given_up.remove(client);
        let expected = self.shard(shard).expected.remove(client);
        let Some(slot) = given_up.or(expected) else {
            self.restore(shard, taken, 0);
            return;
        };
        if let (Some(_), Some(expected)) = (given_up, expected) {
            self.forget(shard, expected, out);
        }
        self.shard(shard).by_client.insert(Arc::clone(client), slot);
        if let Some(session) = self.session(shard, slot) {
            session.fill(taken);
        }
        self.subscribe(shard, slot, &taken.filters);
        let moving = self.session(shard, slot).and_then(|session| session.moving.as_mut());
        let (mut later, mut kept) = (None, None);
        if let Some(moving) = moving {
            moving.transit.absent = false;
            kept = moving.transit.leave.take().map(|marks| marks.id);
            later = moving.leaving.take().map(|leaving| leaving.later);
        }
        if let Some(id) = kept {
            // Taken back: whoever should have got it does not.
            self.work.push_back(PeerWork::Keeps(id));
        }
        self.queue_aside(shard, slot, out);
        self.release_again(shard, client, later.unwrap_or_default(), out);
    }

    fn queue_aside(&mut self, shard: u16, slot: u32, out: &mut Outgoing) {
        self.moving.remove(&(shard, slot));
        let Some(session) = self.session(shard, slot) else { return };
        let Some(moving) = &mut session.moving else { return };
        let (early, tokens) = (mem::take(&mut moving.early), mem::take(&mut moving.tokens));
        if moving.is_over() {
            session.moving = None;
        }
        for (message, batch) in early {
            session.put_queued(slot, message, batch, out);
        }
        out.tokens.extend(tokens);
        self.flush(shard, out);
    }

    fn forget(&mut self, shard: u16, slot: u32, out: &mut Outgoing) {
        self.moving.remove(&(shard, slot));
        let Some(session) = self.shard(shard).sessions.remove(&slot) else { return };
        self.unsubscribe(&session.filters);
        if let Some(mut moving) = session.moving {
            out.tokens.append(&mut moving.tokens);
        }
        self.flush(shard, out);
    }

    pub(super) fn forget_expected(&mut self, shard: u16, client: &str, out: &mut Outgoing) {
        if let Some(slot) = self.shard(shard).expected.remove(client) {
            self.forget(shard, slot, out);
        }
    }

    pub(super) fn forget_moving(&mut self, shard: u16, client: &str, out: &mut Outgoing) {
        self.forget_expected(shard, client, out);
        if let Some(slot) = self.shard(shard).given_up.remove(client) {
            self.forget(shard, slot, out);
        }
    }

    pub(super) fn all_marked(&mut self, shard: u16, id: u64, client: &str) {
        let Some(slot) = self.moving_slot(shard, client) else { return };
        let Some(session) = self.session(shard, slot) else { return };
        let Some(moving) = &mut session.moving else { return };
        let is = |marks: &Option<Marks>| marks.as_ref().is_some_and(|marks| marks.id == id);
        if is(&moving.transit.arrive) && !moving.transit.absent {
            moving.transit.arrive = None;
        }
        let leaves = is(&moving.transit.leave);
        if moving.is_over() {
            session.moving = None;
        }
        if leaves {
            self.give_up_when_stored(shard, slot);
        }
    }

    fn give_up_when_stored(&mut self, shard: u16, slot: u32) {
        let Some(session) = self.session(shard, slot) else { return };
        let (id, next) = (session.id, session.next_sequence);
        let Some(moving) = &mut session.moving else { return };
        if moving.leaving.is_none() {
            return;
        }
        if let Some(marks) = &mut moving.transit.leave {
            marks.pass_all();
        }
        let stamp = self.read(shard, slot, id, next);
        let moving = self.session(shard, slot).and_then(|session| session.moving.as_mut());
        if let Some(leaving) = moving.and_then(|moving| moving.leaving.as_mut()) {
            leaving.read = Some(stamp);
        }
    }

    pub(super) fn stays(&mut self, shard: u16, id: u64, client: &Arc<str>, out: &mut Outgoing) {
        if let Some(slot) = self.given_up_slot(shard, id, client) {
            return self.recover(shard, slot, id, client);
        }
        let Some(slot) = self.known(shard, client) else { return };
        let asked = self.keep(shard, slot, Some(id), out);
        if !asked.is_empty() {
            for (owner, ticket) in asked {
                self.answer_release(owner, ticket, client, None);
            }
            self.work.push_back(PeerWork::Holds(Arc::clone(client)));
        }
    }

    /// A session that was being given up stays here; returns who had asked for it.
    pub(super) fn keep(
        &mut self,
        shard: u16,
        slot: u32,
        id: Option<u64>,
        out: &mut Outgoing,
    ) -> Vec<(Arc<str>, u64)> {
        let moving = self.session(shard, slot).and_then(|session| session.moving.as_mut());
        let Some(moving) = moving else { return Vec::new() };
        if id.is_some() && moving.transit.leave.as_ref().map(|marks| marks.id) != id {
            return Vec::new();
        }
        moving.transit.leave = None;
        let leaving = moving.leaving.take();
        self.queue_aside(shard, slot, out);
        leaving.map(|leaving| leaving.asked).unwrap_or_default()
    }

    fn given_up_slot(&mut self, shard: u16, id: u64, client: &str) -> Option<u32> {
        let slot = self.shard(shard).given_up.get(client).copied()?;
        let moving = self.session(shard, slot)?.moving.as_ref()?;
        (moving.transit.leave.as_ref()?.id == id).then_some(slot)
    }

    pub(super) fn recover(&mut self, shard: u16, slot: u32, id: u64, client: &Arc<str>) {
        if let Some(session) = self.session(shard, slot) {
            let (client, session) = (Arc::clone(client), session.handle());
            self.work.push_back(PeerWork::Recover { id, client, session });
        }
    }

    pub(super) fn recovered(
        &mut self,
        shard: u16,
        id: u64,
        client: &Arc<str>,
        taken: Option<Box<Stored>>,
        out: &mut Outgoing,
    ) {
        match taken {
            Some(taken) if self.given_up_slot(shard, id, client).is_some() => {
                self.work.push_back(PeerWork::Holds(Arc::clone(client)));
                self.arrived(shard, client, &taken, out);
            }
            _ => self.taken(shard, id, client, out),
        }
    }

    pub(super) fn taken(&mut self, shard: u16, id: u64, client: &Arc<str>, out: &mut Outgoing) {
        let Some(slot) = self.given_up_slot(shard, id, client) else {
            return self.stays(shard, id, client, out);
        };
        self.shard(shard).given_up.remove(client);
        let moving = self.session(shard, slot).and_then(|session| session.moving.as_mut());
        let later = moving.and_then(|moving| moving.leaving.take()).map(|leaving| leaving.later);
        self.forget(shard, slot, out);
        self.release_again(shard, client, later.unwrap_or_default(), out);
    }

    fn release_again(
        &mut self,
        shard: u16,
        client: &Arc<str>,
        later: Vec<(Arc<str>, u64, Arc<str>)>,
        out: &mut Outgoing,
    ) {
        for (owner, ticket, to) in later {
            let release = Release { owner, ticket, client: Arc::clone(client), to };
            self.give_up_session(shard, release, out);
        }
    }
}
