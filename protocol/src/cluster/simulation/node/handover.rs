//! Sessions on their way (`engine/src/worker/session_handover.rs`).

use std::mem;
use std::sync::Arc;

use super::super::store::Stored;
use super::claims::Release;
use super::deliver::Effects;
use super::sessions::{Handover, Session};
use super::{CompletionToken, ManagerWork, MarkerReason, Node, PeerWork, RouterWork, StreamMarker};
use crate::cluster::handover;
use crate::cluster::message::{Control, Interest};
use crate::cluster::stream_marker::{ALL_STREAMS, MarkedStreams, PublishStream, Transit};

impl Node {
    pub(super) fn act_on_handovers(&mut self) {
        while let Some(action) = self.handovers.poll_action() {
            if !matches!(action, handover::Action::Send(..)) {
                self.note(|| format!("{action:?}"));
            }
            match action {
                handover::Action::Send(node, message) => self.send_control(&node, message),
                handover::Action::Expect { id, client, filters } => {
                    let home = self.home(&client);
                    let work = RouterWork::Expect { id, client, filters };
                    self.worker(home).router.push_back(work);
                }
                handover::Action::InsertMarkers { id, client, here, to } => {
                    let to = to.iter().filter_map(|node| self.index_of(node)).collect();
                    self.insert_markers(&StreamMarker {
                        reason: MarkerReason::Handover { id, client, here },
                        to,
                    });
                }
                handover::Action::CountAsMarked { id, client, node } => {
                    if let Some(node) = self.index_of(&node) {
                        self.forward_marker(node, id, client, (ALL_STREAMS, 1));
                    }
                }
                handover::Action::AllMarked { id, client } => {
                    self.push_home(&client.clone(), ManagerWork::AllMarked { id, client });
                }
                handover::Action::KeepSession { id, client } => {
                    self.push_home(&client.clone(), ManagerWork::KeepSession { id, client });
                }
                handover::Action::Complete { id, client } => {
                    self.push_home(&client.clone(), ManagerWork::HandedOver { id, client });
                }
                handover::Action::Forget { client, .. } => {
                    let home = self.home(&client);
                    self.worker(home).router.push_back(RouterWork::Forget { client });
                }
            }
        }
    }

    /// A node takes a session over from another. What it wants is known before the markers.
    pub(super) fn announced(&mut self, target: usize, message: Control) {
        let Control::Announce { filters, orphans, .. } = &message else { return };
        let wanted: Vec<(Arc<str>, Interest)> =
            filters.iter().map(|filter| (Arc::clone(filter), Interest::Queues)).collect();
        self.wants(target, &wanted);
        if orphans.iter().all(|orphan| self.is_resent(*orphan)) {
            let from = Arc::clone(&self.names[target]);
            self.handovers.receive(&from, message);
        } else {
            self.deferred_announcements.push((target, message));
        }
    }

    pub(super) fn insert_markers(&mut self, marker: &StreamMarker) {
        for worker in &mut self.workers {
            worker.router.push_back(RouterWork::InsertMarker(marker.clone()));
        }
    }

    pub(super) fn marker_passed(&mut self, marker: &StreamMarker, router: (u16, u16)) {
        match &marker.reason {
            MarkerReason::Handover { id, client, .. } => {
                for node in &marker.to {
                    let (id, client) = (*id, Arc::clone(client));
                    if let Some(peer) = self.peer(*node) {
                        peer.send_control(Control::StreamMarker { id, client, router });
                    }
                }
            }
            MarkerReason::Successor { incarnation, successor } => {
                self.resend(*incarnation, *successor, router)
            }
        }
    }

    pub(super) fn forward_marker(
        &mut self,
        node: usize,
        id: u64,
        client: Arc<str>,
        router: (u16, u16),
    ) {
        let (stream, routers) = (PublishStream::new(node as u16, router.0), router.1);
        self.push_router(stream.router, RouterWork::ForwardMarker { id, client, stream, routers });
    }

    pub(super) fn pass_marker(&mut self, worker: u16, marker: StreamMarker) {
        let routers = self.workers();
        if let MarkerReason::Handover { id, client, here: true } = &marker.reason {
            let stream = PublishStream::new(self.index as u16, worker);
            self.send_marker(worker, *id, Arc::clone(client), stream, routers);
        }
        if let MarkerReason::Successor { incarnation, successor } = &marker.reason {
            self.worker(worker).passed.insert(*incarnation);
            if *successor == self.index {
                self.worker(worker).held_up += 1;
            }
        }
        self.work.push_back(PeerWork::MarkerPassed { marker, router: (worker, routers) });
    }

    pub(super) fn send_marker(
        &mut self,
        worker: u16,
        id: u64,
        client: Arc<str>,
        stream: PublishStream,
        routers: u16,
    ) {
        let home = self.home(&client);
        if home == worker {
            return self.stream_marked(worker, id, &client, stream, routers);
        }
        self.worker(home).router.push_back(RouterWork::MarkerArrived {
            id,
            client,
            stream,
            routers,
        });
    }

    pub(super) fn stream_marked(
        &mut self,
        worker: u16,
        id: u64,
        client: &str,
        stream: PublishStream,
        routers: u16,
    ) {
        let Some(slot) = self.handover_slot(worker, client) else { return };
        let handover = self.session(worker, slot).and_then(|session| session.handover.as_mut());
        let Some(Handover { transit, .. }) = handover else { return };
        let mut counts = false;
        for marked in [&mut transit.arrive, &mut transit.leave].into_iter().flatten() {
            counts |= marked.id == id && marked.mark(stream, routers);
        }
        if counts {
            self.work.push_back(PeerWork::NodeMarked { id, origin: usize::from(stream.node) });
        }
    }

    pub(super) fn resent_here(
        &mut self,
        worker: u16,
        incarnation: u64,
        stream: PublishStream,
        routers: u16,
    ) {
        let marked = self.worker(worker).orphans.get_mut(&incarnation);
        if marked.is_none_or(|marked| marked.mark(stream, routers)) {
            let origin = usize::from(stream.node);
            self.work.push_back(PeerWork::ResentSeen { incarnation, worker, origin });
        }
    }

    pub(super) fn settled(&mut self, worker: u16, incarnation: u64) {
        let worker = self.worker(worker);
        if worker.orphans.remove(&incarnation).is_none() {
            return;
        }
        for session in worker.sessions.values_mut() {
            let Some(handover) = &mut session.handover else { continue };
            if handover.successor == Some(incarnation) {
                handover.successor = None;
                if handover.is_over() {
                    session.handover = None;
                }
            }
        }
    }

    fn handover_slot(&mut self, worker: u16, client: &str) -> Option<u32> {
        let worker = self.worker(worker);
        worker.expected.get(client).or_else(|| worker.by_client.get(client)).copied()
    }

    pub(super) fn expect(
        &mut self,
        worker: u16,
        id: u64,
        client: &Arc<str>,
        filters: &[(Arc<str>, u8)],
        out: &mut Effects,
    ) {
        let known = self.worker(worker).expected.get(client).copied();
        let slot = known.unwrap_or_else(|| {
            let transit = Transit { absent: true, ..Transit::default() };
            let handover = Some(Handover { transit, ..Handover::default() });
            let session = Session { client: Arc::clone(client), handover, ..Session::default() };
            let slot = self.insert(worker, session);
            self.worker(worker).expected.insert(Arc::clone(client), slot);
            slot
        });
        self.handover.insert((worker, slot));
        let handover = self.session(worker, slot).and_then(|session| session.handover.as_mut());
        if let Some(handover) = handover {
            handover.transit.arrive = Some(MarkedStreams::new(id));
            handover.buffered.clear();
            out.tokens.append(&mut handover.tokens);
        }
        let filters: Vec<Arc<str>> = filters.iter().map(|(filter, _)| Arc::clone(filter)).collect();
        self.subscribe(worker, slot, &filters);
        self.flush(worker, out);
        self.work.push_back(PeerWork::Expected(id));
    }

    pub(super) fn wait_for_arrival(
        &mut self,
        worker: u16,
        slot: u32,
        token: CompletionToken,
        out: &mut Effects,
    ) {
        match self.session(worker, slot).and_then(|session| session.handover.as_mut()) {
            Some(handover) if !handover.buffered.is_empty() => handover.tokens.push(token),
            _ => out.tokens.push(token),
        }
    }

    /// A session that was expected is here.
    pub(super) fn arrived(
        &mut self,
        worker: u16,
        client: &Arc<str>,
        taken: &Stored,
        out: &mut Effects,
    ) {
        let given_up = self.worker(worker).given_up.remove(client);
        let expected = self.worker(worker).expected.remove(client);
        let Some(slot) = given_up.or(expected) else {
            self.restore(worker, taken, 0);
            return;
        };
        if let (Some(_), Some(expected)) = (given_up, expected) {
            self.forget(worker, expected, out);
        }
        self.worker(worker).by_client.insert(Arc::clone(client), slot);
        if let Some(session) = self.session(worker, slot) {
            session.fill(taken);
        }
        self.subscribe(worker, slot, &taken.filters);
        let handover = self.session(worker, slot).and_then(|session| session.handover.as_mut());
        let (mut later, mut kept) = (None, None);
        if let Some(handover) = handover {
            handover.transit.absent = false;
            kept = handover.transit.leave.take().map(|marked| marked.id);
            later = handover.offer.take().map(|offer| offer.later);
        }
        if let Some(id) = kept {
            // Taken back: whoever should have got it does not.
            self.work.push_back(PeerWork::Abort(id));
        }
        self.queue_buffered(worker, slot, out);
        self.release_again(worker, client, later.unwrap_or_default(), out);
    }

    fn queue_buffered(&mut self, worker: u16, slot: u32, out: &mut Effects) {
        self.handover.remove(&(worker, slot));
        let Some(session) = self.session(worker, slot) else { return };
        let Some(handover) = &mut session.handover else { return };
        let (buffered, tokens) =
            (mem::take(&mut handover.buffered), mem::take(&mut handover.tokens));
        if handover.is_over() {
            session.handover = None;
        }
        for (message, batch) in buffered {
            session.put_queued(slot, message, batch, out);
        }
        out.tokens.extend(tokens);
        self.flush(worker, out);
    }

    fn forget(&mut self, worker: u16, slot: u32, out: &mut Effects) {
        self.handover.remove(&(worker, slot));
        let Some(session) = self.worker(worker).sessions.remove(&slot) else { return };
        self.unsubscribe(&session.filters);
        if let Some(mut handover) = session.handover {
            out.tokens.append(&mut handover.tokens);
        }
        self.flush(worker, out);
    }

    pub(super) fn forget_expected(&mut self, worker: u16, client: &str, out: &mut Effects) {
        if let Some(slot) = self.worker(worker).expected.remove(client) {
            self.forget(worker, slot, out);
        }
    }

    pub(super) fn forget_handover(&mut self, worker: u16, client: &str, out: &mut Effects) {
        self.forget_expected(worker, client, out);
        if let Some(slot) = self.worker(worker).given_up.remove(client) {
            self.forget(worker, slot, out);
        }
    }

    pub(super) fn all_marked(&mut self, worker: u16, id: u64, client: &str) {
        let Some(slot) = self.handover_slot(worker, client) else { return };
        let Some(session) = self.session(worker, slot) else { return };
        let Some(handover) = &mut session.handover else { return };
        let is =
            |marked: &Option<MarkedStreams>| marked.as_ref().is_some_and(|marked| marked.id == id);
        if is(&handover.transit.arrive) && !handover.transit.absent {
            handover.transit.arrive = None;
        }
        let leaves = is(&handover.transit.leave);
        if handover.is_over() {
            session.handover = None;
        }
        if leaves {
            self.give_up_when_stored(worker, slot);
        }
    }

    fn give_up_when_stored(&mut self, worker: u16, slot: u32) {
        let Some(session) = self.session(worker, slot) else { return };
        let (id, next) = (session.id, session.next_sequence);
        let Some(handover) = &mut session.handover else { return };
        if handover.offer.is_none() {
            return;
        }
        if let Some(marked) = &mut handover.transit.leave {
            marked.mark_all();
        }
        let stamp = self.read(worker, slot, id, next);
        let handover = self.session(worker, slot).and_then(|session| session.handover.as_mut());
        if let Some(offer) = handover.and_then(|handover| handover.offer.as_mut()) {
            offer.read = Some(stamp);
        }
    }

    pub(super) fn keep_session(
        &mut self,
        worker: u16,
        id: u64,
        client: &Arc<str>,
        out: &mut Effects,
    ) {
        if let Some(slot) = self.given_up_slot(worker, id, client) {
            return self.recover(worker, slot, id, client);
        }
        let Some(slot) = self.known(worker, client) else { return };
        let asked = self.keep(worker, slot, Some(id), out);
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
        worker: u16,
        slot: u32,
        id: Option<u64>,
        out: &mut Effects,
    ) -> Vec<(Arc<str>, u64)> {
        let handover = self.session(worker, slot).and_then(|session| session.handover.as_mut());
        let Some(handover) = handover else { return Vec::new() };
        if id.is_some() && handover.transit.leave.as_ref().map(|marked| marked.id) != id {
            return Vec::new();
        }
        handover.transit.leave = None;
        let offer = handover.offer.take();
        self.queue_buffered(worker, slot, out);
        offer.map(|offer| offer.asked).unwrap_or_default()
    }

    fn given_up_slot(&mut self, worker: u16, id: u64, client: &str) -> Option<u32> {
        let slot = self.worker(worker).given_up.get(client).copied()?;
        let handover = self.session(worker, slot)?.handover.as_ref()?;
        (handover.transit.leave.as_ref()?.id == id).then_some(slot)
    }

    pub(super) fn recover(&mut self, worker: u16, slot: u32, id: u64, client: &Arc<str>) {
        if let Some(session) = self.session(worker, slot) {
            let (client, session) = (Arc::clone(client), session.handle());
            self.work.push_back(PeerWork::Recover { id, client, session });
        }
    }

    pub(super) fn recovered(
        &mut self,
        worker: u16,
        id: u64,
        client: &Arc<str>,
        taken: Option<Box<Stored>>,
        out: &mut Effects,
    ) {
        match taken {
            Some(taken) if self.given_up_slot(worker, id, client).is_some() => {
                self.work.push_back(PeerWork::Holds(Arc::clone(client)));
                self.arrived(worker, client, &taken, out);
            }
            _ => self.handed_over(worker, id, client, out),
        }
    }

    pub(super) fn handed_over(
        &mut self,
        worker: u16,
        id: u64,
        client: &Arc<str>,
        out: &mut Effects,
    ) {
        let Some(slot) = self.given_up_slot(worker, id, client) else {
            return self.keep_session(worker, id, client, out);
        };
        self.worker(worker).given_up.remove(client);
        let handover = self.session(worker, slot).and_then(|session| session.handover.as_mut());
        let later = handover.and_then(|handover| handover.offer.take()).map(|offer| offer.later);
        self.forget(worker, slot, out);
        self.release_again(worker, client, later.unwrap_or_default(), out);
    }

    fn release_again(
        &mut self,
        worker: u16,
        client: &Arc<str>,
        later: Vec<(Arc<str>, u64, Arc<str>)>,
        out: &mut Effects,
    ) {
        for (owner, ticket, to) in later {
            let release = Release { owner, ticket, client: Arc::clone(client), to };
            self.give_up_session(worker, release, out);
        }
    }
}
