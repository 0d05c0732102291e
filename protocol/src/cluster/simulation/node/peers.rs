//! The links and what goes over them (`engine/src/cluster/{incoming,sending,handovers}.rs`).

use std::collections::BTreeSet;
use std::mem;
use std::sync::Arc;

use bytes::Bytes;

use super::super::Mistake;
use super::super::clock::MS;
use super::deliver::NODE_BITS;
use super::peer::{Peer, Pending};
use super::{CompletionToken, ManagerWork, Node, PeerWork, Purpose, RouterWork};
use crate::cluster::MembershipView;
use crate::cluster::directory::{self, Holder};
use crate::cluster::link::{Event, Hello, Role};
use crate::cluster::message::{self, Control, Interest};
use crate::cluster::stream_marker::ALL_STREAMS;

impl Node {
    pub(super) fn peer(&mut self, node: usize) -> Option<&mut Peer> {
        self.peers.get_mut(&node)
    }

    pub(super) fn index_of(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|known| **known == *name)
    }

    fn millis(&self) -> u64 {
        self.now / MS
    }

    pub(super) fn send_control(&mut self, node: &str, message: Control) {
        if let Some(index) = self.index_of(node)
            && let Some(peer) = self.peer(index)
        {
            peer.send_control(message);
        }
    }

    pub(super) fn act(&mut self) {
        while let Some(action) = self.directory.poll_action() {
            if !matches!(action, directory::Action::Send(..)) {
                self.note(|| format!("{action:?}"));
            }
            match action {
                directory::Action::Send(node, message) => self.send_control(&node, message),
                directory::Action::Grant { request, from } => self.grant(request, from),
                directory::Action::Forget { .. } => {}
                directory::Action::Release { owner, ticket, client, to } => {
                    self.release(super::Release { owner, ticket, client, to });
                }
            }
        }
        self.act_on_handovers();
    }

    pub(super) fn settle(&mut self) {
        self.act();
        self.check_settled();
        self.peers.values_mut().for_each(Peer::flush);
        let whole = |peer: &Peer| peer.member.is_none_or(|member| peer.whole == member);
        self.synced |= !self.directory.view().members.is_empty()
            && self.directory.is_synced()
            && self.unheard.is_empty()
            && self.peers.values().all(whole);
    }

    pub(super) fn peer_work(&mut self, work: PeerWork) {
        let quiet = matches!(
            work,
            PeerWork::Publishes { .. } | PeerWork::Consumed { .. } | PeerWork::Members(_)
        );
        if !quiet {
            self.note(|| format!("{work:?}"));
        }
        match work {
            PeerWork::Publishes { node, group, body, tokens } => {
                self.send_publishes(node, group, body, tokens);
            }
            PeerWork::Interest(token) => self.announce(token),
            PeerWork::Consumed { node, incarnation, bytes } => {
                let now = self.millis();
                if let Some(peer) = self.peer(node) {
                    peer.link.consumed(now, incarnation, 1, bytes);
                }
            }
            PeerWork::Stored { node, batch, .. } if node == self.index => {
                let tokens = self.own.remove(&batch).unwrap_or_default();
                self.complete(tokens);
            }
            PeerWork::Stored { node, incarnation, batch } => {
                if let Some(peer) = self.peer(node)
                    && peer.link.peer_incarnation() == Some(incarnation)
                {
                    peer.send_control(Control::Done { batches: vec![batch] });
                }
            }
            PeerWork::Members(view) => self.members_changed(view),
            PeerWork::Claim { worker, connection, client, known } => {
                self.claim(worker, connection, client, known);
            }
            PeerWork::Gone { client, seen } => self.directory.gone(&client, seen),
            PeerWork::Holds(client) => self.directory.holds(&client, false),
            PeerWork::Offer { id, client, to, filters, orphan } => {
                let orphans = self.successors.orphans(orphan);
                self.handovers.offer(id, client, to, filters, orphans);
            }
            PeerWork::Abort(id) => self.handovers.abort(id),
            PeerWork::Recover { id, client, session } => self.ask_whose(id, client, session),
            PeerWork::Expected(id) => self.handovers.expected(id),
            PeerWork::MarkerPassed { marker, router } => self.marker_passed(&marker, router),
            PeerWork::NodeMarked { id, origin } => {
                let origin = Arc::clone(&self.names[origin]);
                self.handovers.marked(id, &origin);
            }
            PeerWork::ResentSeen { incarnation, worker, origin } => {
                self.resent_seen(incarnation, worker, origin);
            }
            PeerWork::Released { owner, ticket, client, handed } => {
                self.is_released(&client);
                if handed.is_none() && self.is_taking_over() {
                    self.not_here_yet.push((owner, ticket, client));
                } else {
                    self.directory.released(&owner, ticket, &client, handed);
                }
            }
            PeerWork::Looked { request, holder, taken } => self.looked(request, holder, taken),
            PeerWork::Sealed { incarnation, orphaned } => self.sealed(incarnation, orphaned),
            PeerWork::TakenOver { incarnation, incarnations, clients } => {
                self.taken_over(incarnation, incarnations, &clients);
            }
        }
        self.act();
    }

    fn send_publishes(
        &mut self,
        node: usize,
        group: u64,
        mut body: Vec<u8>,
        tokens: Vec<CompletionToken>,
    ) {
        let batch = group << NODE_BITS | node as u64;
        let Some(peer) = self.peer(node) else { return self.complete(tokens) };
        let incarnation = match peer.whole {
            0 => peer.link.peer_incarnation().or(peer.member).unwrap_or(0),
            whole => whole,
        };
        message::set_head(&mut body, batch, 0);
        let body: Bytes = body.into();
        let there = peer.is_there();
        let sent = there && peer.link.peer_incarnation().is_none_or(|now| now == incarnation);
        peer.pending.insert(batch, Pending { body: body.clone(), tokens, incarnation, sent });
        if sent {
            peer.send(body);
        }
        self.send_on_late(incarnation);
    }

    pub(super) fn announce(&mut self, token: Option<CompletionToken>) {
        let (changes, request) = (mem::take(&mut self.changes), self.announced);
        if !changes.is_empty() {
            for peer in self.peers.values_mut() {
                if !peer.is_there() {
                    peer.greeted = 0;
                }
                if peer.greeted != 0 {
                    peer.send_control(Control::Interest { request, changes: changes.clone() });
                }
            }
        }
        if let Some(token) = token {
            self.settling.push((request, token));
        }
    }

    fn check_settled(&mut self) {
        let members = self.peers.values().filter(|peer| peer.member.is_some());
        let none = if self.changes.is_empty() { self.announced } else { 0 };
        let confirmed = members.map(|peer| peer.confirmed).min().unwrap_or(none);
        self.confirmed = self.confirmed.max(confirmed);
        let done = self.settling.extract_if(.., |(request, _)| *request <= confirmed);
        let tokens: Vec<CompletionToken> = done.map(|(_, token)| token).collect();
        self.complete(tokens);
    }

    fn members_changed(&mut self, view: MembershipView) {
        for member in view.members.iter() {
            let Some(index) = self.index_of(&member.node_id).filter(|it| *it != self.index) else {
                continue;
            };
            let (me, config) = (self.identity(), self.config.clone());
            let dials = self.index < index;
            let peer = self
                .peers
                .entry(index)
                .or_insert_with(|| Peer::new(index, Arc::clone(&member.node_id), me, config));
            peer.member = Some(member.incarnation);
            peer.send_kept();
            peer.dialled = dials;
        }
        for peer in self.peers.values_mut() {
            if view.member(&peer.id).is_none() {
                peer.member = None;
            }
        }
        self.look_who_is_there();
        self.lose(&view);
        self.directory.members_changed(view);
    }

    /// Whether a node that dials is one of the members.
    pub fn is_welcome(&self, hello: &Hello) -> Option<usize> {
        let index = self.index_of(&hello.node_id)?;
        self.peers.get(&index).filter(|peer| peer.member.is_some()).map(|peer| peer.index)
    }

    pub fn connected(&mut self, node: usize, connection: u64, role: Role) -> Option<u64> {
        let now = self.millis();
        let peer = self.peer(node)?;
        let before = peer.connection.replace(connection);
        peer.link.connected(now, role);
        self.events(node);
        before
    }

    pub fn disconnected_from(&mut self, node: usize, connection: u64) {
        let now = self.millis();
        let Some(peer) = self.peer(node) else { return };
        if peer.connection == Some(connection) {
            peer.connection = None;
            peer.link.disconnected(now);
            self.events(node);
            self.settle();
        }
    }

    /// Bytes of a connection. False: it has to be closed.
    pub fn received(&mut self, node: usize, connection: u64, bytes: &[u8]) -> bool {
        let now = self.millis();
        let Some(peer) = self.peer(node).filter(|peer| peer.connection == Some(connection)) else {
            return false;
        };
        let result = peer.link.receive(now, bytes);
        let fine = self.events(node);
        self.settle();
        fine && result.is_ok()
    }

    /// What may be sent to a node now.
    pub fn transmit(&mut self, node: usize) -> Vec<u8> {
        let now = self.millis();
        let mut out = Vec::new();
        if let Some(peer) = self.peer(node) {
            while peer.link.transmit(now, &mut out, 4096) > 0 {}
        }
        out
    }

    /// False: the connection has to be closed.
    pub fn timed_out(&mut self, node: usize) -> bool {
        let now = self.millis();
        let Some(peer) = self.peer(node) else { return true };
        if peer.link.next_timeout().is_some_and(|at| at <= now)
            && peer.link.handle_timeout(now).is_err()
        {
            return false;
        }
        self.events(node)
    }

    fn events(&mut self, node: usize) -> bool {
        let mut fine = true;
        while let Some(event) = self.peer(node).and_then(|peer| peer.link.poll_event()) {
            match event {
                Event::Up { incarnation, .. } => self.up(node, incarnation),
                Event::Down => self.look_who_is_there(),
                Event::Dead => fine = false,
                Event::PeerRestarted { .. } => {
                    let Some(peer) = self.peer(node) else { continue };
                    drop(peer.link.take_unacknowledged());
                    let id = Arc::clone(&peer.id);
                    self.directory.link_renewed(&id);
                    self.handovers.restarted(&id);
                    self.successor_hears_nothing(node);
                }
                Event::RoomAgain => {}
                Event::Frame { kind: message::PUBLISHES, body, .. } => {
                    let Some((_, router, ..)) = message::publishes(&body) else { continue };
                    let peer = self.peer(node).and_then(|peer| peer.link.peer_incarnation());
                    let Some(incarnation) = peer else { continue };
                    self.push_router(router, RouterWork::PeerBatch { node, incarnation, body });
                }
                Event::Frame { body, .. } => {
                    for message in message::decode(&body).unwrap() {
                        self.control(node, message);
                        self.act();
                    }
                    let (now, bytes) = (self.millis(), body.len() as u64);
                    if let Some(peer) = self.peer(node)
                        && let Some(incarnation) = peer.link.peer_incarnation()
                    {
                        peer.link.consumed(now, incarnation, 1, bytes);
                    }
                }
            }
        }
        fine
    }

    fn up(&mut self, node: usize, incarnation: u64) {
        let whole = self.interest.keys().map(|it| (Arc::clone(it), Interest::Queues)).collect();
        let announced = self.announced;
        let again = self.mistake == Mistake::NoDeduplication;
        let has_changes = !self.changes.is_empty();
        let taken_over: Vec<Control> = self.successors.announcements().collect();
        let Some(peer) = self.peers.get_mut(&node) else { return };
        if peer.greeted != incarnation {
            if has_changes {
                self.work.push_back(PeerWork::Interest(None));
            }
            peer.greet(incarnation, whole, announced);
        }
        taken_over.into_iter().for_each(|message| peer.send_control(message));
        if again {
            peer.send_again();
        }
        peer.send_kept();
        self.look_who_is_there();
    }

    /// To the router; with [`ALL_STREAMS`] behind all that they have to do.
    pub(super) fn push_router(&mut self, router: u16, work: RouterWork) {
        if router == ALL_STREAMS {
            let work = RouterWork::Behind(Box::new(work));
            return self.worker(0).router.push_back(work);
        }
        let at = router % self.workers();
        self.worker(at).router.push_back(work);
    }

    fn control(&mut self, node: usize, message: Control) {
        self.note(|| format!("hears of n{}: {message:?}", node + 1));
        match message {
            Control::Interest { request, changes } => {
                self.wants(node, &changes);
                if request != 0
                    && let Some(peer) = self.peer(node)
                {
                    peer.send_control(Control::InterestConfirmed { request });
                }
            }
            Control::InterestAnew { .. } => {
                if let Some(peer) = self.peer(node) {
                    peer.anew = Some(BTreeSet::new());
                }
            }
            Control::InterestWhole => self.wants_no_more(node),
            Control::InterestConfirmed { request } => {
                if let Some(peer) = self.peer(node) {
                    peer.confirmed = peer.confirmed.max(request);
                }
            }
            Control::Done { batches } => {
                for batch in batches {
                    self.done(node, batch);
                }
            }
            // It is lost, and does not know it yet: what it held is another's.
            Control::Offer { .. } if self.is_taken_over(node) => {}
            Control::Offer { .. } | Control::Abort { .. } | Control::Complete { .. } => {
                let from = Arc::clone(&self.names[node]);
                self.handovers.receive(&from, message);
            }
            Control::Announce { .. } => self.announced(node, message),
            Control::StreamMarker { id, client, router } => {
                self.forward_marker(node, id, client, router)
            }
            Control::TakenOver { incarnation, orphan, .. } => {
                self.on_message(node, message);
                self.has_successor(incarnation, orphan, node);
            }
            Control::Resent { incarnation, router } => self.resent(node, incarnation, router),
            other => self.on_message(node, other),
        }
    }

    fn done(&mut self, node: usize, batch: u64) {
        let past_holes = self.mistake == Mistake::PastHoles;
        let Some(peer) = self.peer(node) else { return };
        let done = peer.pending.extract_if(..=batch, |number, _| past_holes || *number == batch);
        let tokens: Vec<CompletionToken> = done.flat_map(|(_, pending)| pending.tokens).collect();
        self.complete(tokens);
    }

    fn on_message(&mut self, node: usize, message: Control) {
        let Some(peer) = self.peer(node) else { return };
        let Some(incarnation) = peer.link.peer_incarnation() else { return };
        let from = Holder { node: Arc::clone(&peer.id), incarnation };
        self.directory.receive(&from, message);
    }

    pub(super) fn wants(&mut self, node: usize, changes: &[(Arc<str>, Interest)]) {
        let Some(peer) = self.peer(node) else { return };
        for (filter, interest) in changes {
            if *interest == Interest::None {
                peer.wanted.remove(filter);
                continue;
            }
            peer.wanted.insert(Arc::clone(filter));
            if let Some(anew) = &mut peer.anew {
                anew.insert(Arc::clone(filter));
            }
        }
    }

    fn wants_no_more(&mut self, node: usize) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        let Some(anew) = peer.anew.take() else { return };
        peer.whole = peer.link.peer_incarnation().unwrap_or(0);
        self.unheard.remove(&peer.whole);
        peer.wanted.retain(|filter| anew.contains(filter));
        peer.send_kept();
    }

    pub(super) fn push_home(&mut self, client: &str, work: ManagerWork) {
        let home = self.home(client);
        self.worker(home).manager.push_back(work);
    }

    fn look_who_is_there(&mut self) {
        let there = self.peers.values().filter(|peer| peer.is_there());
        let there = there.map(|peer| Arc::clone(&peer.id)).collect();
        self.handovers.there(there);
        self.successors_go_on();
    }

    /// At each tick.
    pub fn tick(&mut self) {
        self.ask_again();
        self.seal_lost();
        self.settle();
    }

    pub(super) fn seal(&mut self, incarnation: u64) {
        self.ask(Purpose::Seal(incarnation), super::Request::Seal(incarnation));
    }
}
