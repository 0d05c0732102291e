//! What happens on the link to another node, and what that says.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use hydrant_protocol::cluster::directory::Holder;
use hydrant_protocol::cluster::link::{Event, Role};
use hydrant_protocol::cluster::message::{self, Control, Interest, TakenOver};
use hydrant_protocol::cluster::stream_marker::{ALL_STREAMS, PublishStream};
use hydrant_protocol::{Message, QoS};

use super::coordinator::Coordinator;
use super::node_index::SELF;
use super::state::link::{Greeting, PeerLink};
use super::state::retained;
use super::{NodeIndex, Recipient};
use crate::messages::{InboundPeerBatch, ManagerWork, PeerWork, RouterWork};
use crate::now::{Boot, Now};
use crate::plants::{self, Plant};
use crate::say;

/// Another connection has taken the place of this one.
#[derive(Debug)]
pub struct Replaced;

impl Coordinator {
    /// A TCP connection to a node is open; its number.
    pub fn handle_connected(&mut self, now: Now, node: NodeIndex, role: Role) -> Option<u64> {
        self.begin(now);
        let link = self.link(node)?;
        link.connection += 1;
        let connection = link.connection;
        link.link.connected(now.boot.ms(), role);
        self.events(node);
        Some(connection)
    }

    /// It has ended. True when the link was up over it.
    pub fn handle_disconnected(
        &mut self,
        now: Now,
        node: NodeIndex,
        connection: u64,
        why: &str,
    ) -> bool {
        self.begin(now);
        let Some(link) = self.link(node) else { return false };
        if link.connection != connection {
            return false;
        }
        let was_up = link.link.is_up();
        link.link.disconnected(now.boot.ms());
        // Before what is queued, which may panic.
        link.node.is_now_down();
        let id = Arc::clone(&link.node.id);
        if was_up && self.leaves(node) {
            say::info!(each: &id, target: "hydrant::peers", "the link to node {id} is down: it leaves, or has left");
        } else if was_up {
            say::warn!(each: &id, target: "hydrant::peers", "the link to node {id} is down: {why}");
        }
        self.events(node);
        self.settle();
        was_up
    }

    /// Bytes of it. False: it has to be closed.
    pub fn handle_received(
        &mut self,
        now: Now,
        node: NodeIndex,
        connection: u64,
        bytes: &[u8],
    ) -> bool {
        self.begin(now);
        let Some(link) = self.link(node).filter(|link| link.connection == connection) else {
            return false;
        };
        let result = link.link.receive(now.boot.ms(), bytes);
        let id = Arc::clone(&link.node.id);
        let fine = self.events(node);
        self.settle();
        match result {
            Ok(()) => fine,
            Err(error) => {
                say::warn!(each: &id, target: "hydrant::peers", "the connection with node {id} is closed: {error}");
                false
            }
        }
    }

    /// What may be sent now, and when to look again.
    pub fn poll_transmit(
        &mut self,
        now: Now,
        node: NodeIndex,
        connection: u64,
        out: &mut Vec<u8>,
        max: usize,
    ) -> Result<Option<Boot>, Replaced> {
        self.begin(now);
        let its = |link: &&mut PeerLink| link.connection == connection;
        let link = self.link(node).filter(its).ok_or(Replaced)?;
        link.link.transmit(now.boot.ms(), out, max);
        Ok(link.link.next_timeout().map(Boot::from_ms))
    }

    /// A time-out of the link has come. False: the connection has to be closed.
    pub fn handle_timed_out(&mut self, now: Now, node: NodeIndex, connection: u64) -> bool {
        self.begin(now);
        let Some(link) = self.link(node).filter(|link| link.connection == connection) else {
            return false;
        };
        if link.link.handle_timeout(now.boot.ms()).is_err() {
            return false;
        }
        self.events(node)
    }

    /// Handles what has happened on a link. False: its connection has to be closed.
    fn events(&mut self, node: NodeIndex) -> bool {
        let mut fine = true;
        while let Some(event) = self.link(node).and_then(|link| link.link.poll_event()) {
            match event {
                Event::Up { incarnation, version } => self.up(node, incarnation, version),
                Event::Down => self.down(node),
                Event::Dead => fine = false,
                Event::PeerRestarted { .. } => {
                    let Some(link) = self.link(node) else { continue };
                    // What matters of it stands in `pending`.
                    drop(link.link.take_unacknowledged());
                    let id = Arc::clone(&link.node.id);
                    self.directory.link_renewed(&id);
                    self.handovers.restarted(&id);
                    self.successor_hears_nothing(node);
                    self.flushes_nothing(node);
                }
                Event::RoomAgain => {}
                Event::Frame { kind: message::PUBLISHES, body, .. } => self.publishes(node, body),
                Event::Frame { kind: message::CONTROL, body, .. } => {
                    let (now, bytes) = (self.now.boot.ms(), body.len() as u64);
                    let Some(messages) = message::decode(&body) else {
                        let id = self.name(node);
                        say::error!(each: &id, target: "hydrant::peers", "node {id} sent control messages that cannot be read");
                        return false;
                    };
                    for message in messages {
                        self.control(node, message);
                        self.act();
                    }
                    if let Some(link) = self.link(node)
                        && let Some(incarnation) = link.link.peer_incarnation()
                    {
                        link.link.consumed(now, incarnation, 1, bytes);
                        link.wakes = true;
                    }
                }
                // A kind of a later version, which is only sent to those who speak it.
                Event::Frame { .. } => return false,
            }
        }
        fine
    }

    fn up(&mut self, node: NodeIndex, incarnation: u64, version: u16) {
        let Some(link) = self.link(node) else { return };
        link.node.is_now_up();
        link.down_since = None;
        let same = std::mem::replace(&mut link.known, incarnation) == incarnation;
        let id = Arc::clone(&link.node.id);
        if self.handovers.has_missed(&id) && same {
            // Before the answer to anything that comes over this connection.
            say::warn!(each: &id, target: "hydrant::peers", "node {id} was out of sight while sessions moved: it ends, and what its publishers have no acknowledgement for they send again");
            self.link(node)
                .into_iter()
                .for_each(|link| link.send_control(Control::Missed { incarnation }));
        }
        let Some(link) = self.link(node) else { return };
        say::info!(each: &id, target: "hydrant::peers", "the link to node {} is up (incarnation {incarnation}, peer protocol {version})", link.node.id);
        if link.greeted != incarnation {
            let (whole, announced) = {
                let interest = self.cluster.interest.lock();
                // The others have to hear of them as well.
                let changes = interest.has_changes();
                let whole = interest.whole();
                if changes {
                    self.effects.coordinator(PeerWork::Interest(None), 64);
                }
                (whole, self.cluster.announced.load(Ordering::SeqCst))
            };
            let (lineage, taken_over) = (self.cluster.lineage, self.successors.taken_over());
            let settled = self.successors.is_settled();
            if let Some(link) = self.link(node) {
                link.greet(
                    incarnation,
                    Greeting { lineage, taken_over, settled, whole, announced },
                );
            }
        }
        let taken_over: Vec<Control> = self.successors.announcements().collect();
        if let Some(link) = self.link(node) {
            taken_over.into_iter().for_each(|message| link.send_control(message));
        }
        self.send_finished(node);
        self.send_kept(node);
        let id = self.name(node);
        self.directory.link_up(&id);
        self.look_who_is_there();
    }

    fn down(&mut self, node: NodeIndex) {
        let now = self.now.boot;
        let Some(link) = self.link(node) else { return };
        link.node.is_now_down();
        link.down_since = Some(now);
        let tokens = link.give_up_live();
        self.complete(tokens);
        self.look_who_is_there();
    }

    /// A batch of another node goes to a router; those of one router to the same one, in order.
    fn publishes(&mut self, node: NodeIndex, body: Bytes) {
        let Some((_, router, ..)) = message::publishes(&body) else { return };
        let incarnation = self.link(node).and_then(|link| link.link.peer_incarnation());
        let Some(incarnation) = incarnation else { return };
        let bytes = body.len();
        let work = RouterWork::PeerBatch(InboundPeerBatch::new(node, incarnation, body));
        self.effects.router(self.router_of(router), work, bytes);
    }

    /// The router that a marker goes through, or the first of all where it stands for all routers.
    pub(super) fn first_router(&self, router: u16) -> u16 {
        self.router_of(if router == ALL_STREAMS { 0 } else { router })
    }

    /// The router that routes what a router of another node publishes.
    pub(super) fn router_of(&self, router: u16) -> u16 {
        router.checked_rem(self.workers).unwrap_or_default()
    }

    fn control(&mut self, node: NodeIndex, message: Control) {
        #[cfg(any(test, feature = "for-tests"))]
        if let Some(left) = self.panics.checked_sub(1) {
            self.panics = left;
            panic!("as a fault would");
        }
        if self.ends {
            // What is said now may be of sessions that are elsewhere.
            return;
        }
        match message {
            Control::Missed { incarnation } => {
                if incarnation == self.cluster.incarnation {
                    self.has_missed_handovers(node);
                }
            }
            Control::Interest { request, changes } => {
                self.wants(node, &changes);
                if request != 0
                    && let Some(link) = self.link(node)
                {
                    link.send_control(Control::InterestConfirmed { request });
                }
            }
            Control::InterestAnew { lineage, taken_over, settled } => {
                self.mark_unknown(node, &taken_over, settled);
                if let Some(recipient) = self.met(node) {
                    self.wants.begin(recipient, lineage);
                }
            }
            Control::InterestWhole => self.wants_no_more(node),
            Control::Stopping => {
                if let Some(link) = self.link(node) {
                    link.node.has_said_it_stops();
                }
            }
            Control::InterestConfirmed { request } => {
                if let Some(link) = self.link(node) {
                    link.confirmed = link.confirmed.max(request);
                }
            }
            Control::Done { batches } => {
                for batch in batches {
                    if plants::is(Plant::PastHoles) {
                        let holes = self.link(node).map(|link| link.take_below(batch));
                        self.complete(holes.unwrap_or_default());
                    }
                    let done = self.link(node).and_then(|link| link.pending.remove(&batch));
                    self.complete(done.map(|pending| pending.tokens).unwrap_or_default());
                }
            }
            Control::Answered { below } => {
                if !self.has_all_of(node) {
                    // It says so again behind what it sends again.
                    return;
                }
                let Some(link) = self.link(node) else { return };
                let Some(kept) = link.kept.checked_sub(1) else { return };
                link.kept = kept;
                if let Some(origin) = link.link.peer_incarnation() {
                    self.forget_batches(origin, below);
                }
            }
            // A sealed node stores no change any more. One that it had stored before is read from the store.
            Control::Retained { .. } if self.is_sealed(node) => {}
            Control::Retained { topic, payload, qos, version, ahead } => {
                let by = ahead.then_some(node);
                self.retained(topic, payload, qos, version, by);
            }
            Control::RetainedReached { topic, version, router, live } => {
                let stream = PublishStream::new(node, router);
                let reached = RouterWork::RetainedReached { topic, version, stream, live };
                self.effects.router(self.router_of(router), reached, 64);
            }
            Control::RetainedMissed => self.has_missed_retained(node),
            Control::RetainedFlush { round } => self.flush_retained(node, round),
            Control::RetainedFlushed { round, router } => self.flushed(node, round, router),
            // Of one that was frozen, and sealed: the session is another's.
            Control::Offer { .. } if self.is_sealed(node) => {}
            Control::Offer { .. } | Control::Abort { .. } | Control::Complete { .. } => {
                let from = self.name(node);
                self.handovers.receive(&from, message);
            }
            Control::Announce { .. } => self.announced(node, message),
            Control::StreamMarker { id, client, router } => {
                self.forward_marker(node, id, client, router)
            }
            Control::TakenOver { incarnation, orphan, lineage } => {
                self.on_message(node, message);
                self.have_successor(TakenOver { incarnation, orphan, lineage }, node);
            }
            Control::Finished { incarnation } => {
                if self.successors.first_time_finished(incarnation) {
                    self.forget_all_batches(incarnation);
                }
            }
            Control::Resent { incarnation, router } => {
                self.has_said_resent(node, incarnation, router);
                self.resent(node, incarnation, router);
            }
            Control::Visited { client, visits } => {
                let home = self.shared.home(&client);
                self.effects.manager(home, ManagerWork::Visited { client, visits }, 256);
            }
            other => self.on_message(node, other),
        }
    }

    fn is_sealed(&mut self, node: NodeIndex) -> bool {
        self.incarnation_of(node).is_some_and(|incarnation| self.is_over(incarnation))
    }

    fn on_message(&mut self, node: NodeIndex, message: Control) {
        let Some(link) = self.link(node) else { return };
        let Some(incarnation) = link.link.peer_incarnation() else { return };
        let from = Holder { node: Arc::clone(&link.node.id), incarnation };
        self.directory.receive(&from, message);
    }

    /// The start of a node that this one has met last; its own for itself.
    pub(super) fn incarnation_of(&mut self, node: NodeIndex) -> Option<u64> {
        match node {
            SELF => Some(self.cluster.incarnation),
            node => self.link(node)?.link.peer_incarnation(),
        }
    }

    /// The incarnation of a node that is met over its link, unless that is over.
    fn met(&mut self, node: NodeIndex) -> Option<Recipient> {
        let incarnation = self.incarnation_of(node)?;
        // Of one that is over, its successor says what is wanted.
        (!self.is_over(incarnation)).then_some(Recipient { node, incarnation })
    }

    /// Another node wants this now.
    pub(super) fn wants(&mut self, node: NodeIndex, changes: &[(Arc<str>, Interest)]) {
        let Some(recipient) = self.met(node) else { return };
        self.wants.change(recipient, changes);
        self.apply(recipient, changes);
    }

    /// What an incarnation wants is in force for the routers.
    pub(super) fn apply(&self, recipient: Recipient, changes: &[(Arc<str>, Interest)]) {
        let mut remote = self.cluster.remote.write();
        for (filter, level) in changes {
            remote.set(recipient, filter, *level);
        }
        drop(remote);
        for (filter, _) in changes {
            self.shared.generations.changed(filter);
        }
    }

    /// It has said all: what it has not said again is not wanted by this start of it.
    fn wants_no_more(&mut self, node: NodeIndex) {
        let Some(recipient) = self.met(node) else { return };
        let old = self.wants.end(recipient);
        self.apply(recipient, &old);
        self.send_kept(node);
    }

    /// An incarnation is over: its successor has all that it wanted.
    pub(super) fn wants_nothing(&mut self, incarnation: u64) {
        let Some((recipient, all)) = self.wants.remove(incarnation) else { return };
        self.apply(recipient, &all);
        self.cluster.remote.write().forget(incarnation);
    }

    /// What the store has retained. What was heard of later counts.
    pub(super) fn retained_found(&self, found: Vec<(Arc<Message>, u64)>) {
        if let Some(newest) = found.iter().map(|(_, version)| *version).max() {
            self.shared.retained_clock.fetch_max(newest, Ordering::Relaxed);
        }
        retained::insert_found(&self.shared.retained, &self.cluster.retained, found);
        let retained = self.shared.retained.read();
        self.shared.metrics.retained.set(retained.len() as u64);
        self.shared.metrics.retained_bytes.set(retained.bytes() as u64);
    }

    /// Another node has changed a retained message. `ahead`: live subscribers get it later, with that node's publish.
    fn retained(
        &self,
        topic: Arc<str>,
        payload: Bytes,
        qos: u8,
        version: u64,
        ahead: Option<NodeIndex>,
    ) {
        let qos = match qos {
            0 => QoS::AtMostOnce,
            1 => QoS::AtLeastOnce,
            _ => QoS::ExactlyOnce,
        };
        let mut retained = self.shared.retained.write();
        self.shared.retained_clock.fetch_max(version, Ordering::Relaxed);
        if !self.cluster.retained.lock().is_newest(&topic, version) {
            return;
        }
        let message = (!payload.is_empty()).then(|| {
            let topic = Arc::clone(&topic);
            Arc::new(Message { topic, payload, qos, retain: false, properties: None })
        });
        match (ahead, message) {
            (Some(by), message) => {
                let places = usize::from(self.workers);
                retained.change_ahead_by(by, &topic, message, version, places);
            }
            (None, Some(message)) => drop(retained.insert(message)),
            (None, None) => drop(retained.remove(&topic)),
        }
        self.shared.metrics.retained.set(retained.len() as u64);
        self.shared.metrics.retained_bytes.set(retained.bytes() as u64);
    }
}
