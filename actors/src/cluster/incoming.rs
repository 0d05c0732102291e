//! What happens on the link to another node, and what that says.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ahash::AHashMap;
use bytes::Bytes;
use hydrant_protocol::cluster::directory::Holder;
use hydrant_protocol::cluster::link::{Event, Role};
use hydrant_protocol::cluster::marks::EVERY;
use hydrant_protocol::cluster::message::{self, Control, Interest};
use hydrant_protocol::topic::TopicFilter;
use hydrant_protocol::{Message, QoS, wire};
use tokio::sync::Notify;

use super::peers::Peers;
use super::{FromPeer, NodeIndex, PeerWork};
use crate::inbox::Inbox;
use crate::shared::{ManagerWork, RouterWork};

impl Peers {
    /// A TCP connection to a node is open; its number.
    pub fn connected(&mut self, node: NodeIndex, role: Role) -> Option<u64> {
        let now = self.now();
        let link = self.link(node)?;
        link.connection += 1;
        let connection = link.connection;
        link.link.connected(now, role);
        // The one before ends.
        link.notify.notify_waiters();
        link.notify.notify_one();
        self.events(node);
        Some(connection)
    }

    /// It has ended. True when the link was up over it.
    pub fn disconnected(&mut self, node: NodeIndex, connection: u64, why: &str) -> bool {
        let now = self.now();
        let Some(link) = self.link(node) else { return false };
        if link.connection != connection {
            return false;
        }
        let was_up = link.link.is_up();
        link.link.disconnected(now);
        if was_up {
            log::warn!(target: "hydrant::peers", "the link to node {} is down: {why}", link.node.id);
        }
        self.events(node);
        self.settle();
        was_up
    }

    /// Bytes of it. False: it has to be closed.
    pub fn received(&mut self, node: NodeIndex, connection: u64, bytes: &[u8]) -> bool {
        let now = self.now();
        let Some(link) = self.link(node).filter(|link| link.connection == connection) else {
            return false;
        };
        let result = link.link.receive(now, bytes);
        let id = Arc::clone(&link.node.id);
        let fine = self.events(node);
        self.settle();
        match result {
            Ok(()) => fine,
            Err(error) => {
                if self.may_complain() {
                    log::warn!(target: "hydrant::peers", "the connection with node {id} is closed: {error}");
                }
                false
            }
        }
    }

    /// What may be sent now, and when to look again. `None`: another connection replaced it.
    pub fn transmit(
        &mut self,
        node: NodeIndex,
        connection: u64,
        out: &mut Vec<u8>,
        max: usize,
    ) -> Option<(Rc<Notify>, Option<tokio::time::Instant>)> {
        let (now, started) = (self.now(), self.started);
        let link = self.link(node).filter(|link| link.connection == connection)?;
        link.link.transmit(now, out, max);
        let next = link.link.next_timeout().map(|at| (started + Duration::from_millis(at)).into());
        Some((Rc::clone(&link.notify), next))
    }

    /// A time-out of the link has come. False: the connection has to be closed.
    pub fn timed_out(&mut self, node: NodeIndex, connection: u64) -> bool {
        let now = self.now();
        let Some(link) = self.link(node).filter(|link| link.connection == connection) else {
            return false;
        };
        if link.link.handle_timeout(now).is_err() {
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
                    self.moves.restarted(&id);
                    self.heir_hears_nothing(node);
                }
                Event::RoomAgain => {}
                Event::Frame { kind: message::PUBLISHES, body, .. } => self.publishes(node, body),
                Event::Frame { kind: message::CONTROL, body, .. } => {
                    let (now, bytes) = (self.now(), body.len() as u64);
                    let Some(messages) = message::decode(&body) else {
                        log::error!(target: "hydrant::peers", "node {} sent control messages that cannot be read", self.name(node));
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
                        link.notify.notify_one();
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
        link.node.up.store(true, Ordering::SeqCst);
        link.down_since = None;
        log::info!(target: "hydrant::peers", "the link to node {} is up (incarnation {incarnation}, peer protocol {version})", link.node.id);
        if link.greeted != incarnation {
            let (whole, announced) = {
                let interest = self.cluster.interest.lock();
                // The others have to hear of them as well.
                let changes = interest.has_changes();
                let whole = interest.whole();
                if changes {
                    self.cluster.work.push(PeerWork::Interest(None), 64);
                }
                (whole, self.cluster.announced.load(Ordering::SeqCst))
            };
            if let Some(link) = self.link(node) {
                link.greet(incarnation, whole, announced);
            }
        }
        let inherited: Vec<Control> = self.heirs.announcements().collect();
        let incarnations = self.lost.iter();
        let incarnations: Vec<(u64, Arc<str>)> =
            incarnations.map(|(lost, of)| (*lost, Arc::clone(&of.node))).collect();
        if let Some(link) = self.link(node) {
            if !incarnations.is_empty() {
                link.tell(Control::Lost { incarnations });
            }
            inherited.into_iter().for_each(|message| link.tell(message));
            link.send_kept();
        }
        self.look_who_is_there();
    }

    fn down(&mut self, node: NodeIndex) {
        let Some(link) = self.link(node) else { return };
        link.node.up.store(false, Ordering::SeqCst);
        link.down_since = Some(Instant::now());
        let tokens = link.give_up_live();
        self.complete(tokens);
        self.look_who_is_there();
    }

    /// A batch of another node goes to a router; those of one lane to the same one, in order.
    fn publishes(&mut self, node: NodeIndex, body: Bytes) {
        let Some((_, lane, ..)) = message::publishes(&body) else { return };
        let incarnation = self.link(node).and_then(|link| link.link.peer_incarnation());
        let Some(incarnation) = incarnation else { return };
        let bytes = body.len();
        let work = RouterWork::FromPeer(FromPeer::new(node, incarnation, body));
        self.router_of(lane).push(work, bytes);
    }

    /// The router that a mark goes through, or the first of all where it stands for all lanes.
    pub fn first_router(&self, lane: u16) -> &Inbox<RouterWork> {
        self.router_of(if lane == EVERY { 0 } else { lane })
    }

    /// The router that routes what a lane of another node publishes.
    pub fn router_of(&self, lane: u16) -> &Inbox<RouterWork> {
        &self.shared.routers[usize::from(lane) % self.shared.routers.len()]
    }

    fn control(&mut self, node: NodeIndex, message: Control) {
        match message {
            Control::Interest { request, changes } => {
                self.wants(node, &changes);
                if request != 0
                    && let Some(link) = self.link(node)
                {
                    link.tell(Control::InterestConfirmed { request });
                }
            }
            Control::InterestAnew => {
                if let Some(link) = self.link(node) {
                    link.anew = Some(AHashMap::new());
                }
            }
            Control::InterestWhole => self.wants_no_more(node),
            Control::InterestConfirmed { request } => {
                if let Some(link) = self.link(node) {
                    link.confirmed = link.confirmed.max(request);
                }
            }
            Control::Done { batches } => {
                for batch in batches {
                    let done = self.link(node).and_then(|link| link.pending.remove(&batch));
                    self.complete(done.map(|pending| pending.tokens).unwrap_or_default());
                }
            }
            Control::Answered { below } => {
                let Some(link) = self.link(node) else { return };
                let less = |kept: u8| kept.checked_sub(1);
                let kept = link.node.kept.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
                if kept.is_ok()
                    && let Some(origin) = link.link.peer_incarnation()
                {
                    self.forget_batches(origin, below);
                }
            }
            Control::Retained { topic, payload, qos, version } => {
                self.retained(&topic, payload, qos, version);
            }
            // Of one that was frozen, and sealed: the session is another's.
            Control::Leaving { .. } if self.is_sealed(node) => {}
            Control::Leaving { .. } | Control::Withdrawn { .. } | Control::Taken { .. } => {
                let from = self.name(node);
                self.moves.receive(&from, message);
            }
            Control::Move { .. } => self.moves(node, message),
            Control::Mark { id, client, lane } => self.mark(node, id, client, lane),
            Control::Lost { incarnations } => self.are_lost(incarnations),
            Control::Inherited { incarnation, estate } => {
                self.told(node, message);
                self.has_heir(incarnation, estate, node);
            }
            Control::Resent { incarnation, lane } => self.resent(node, incarnation, lane),
            Control::Stayed { client, stays } => {
                let home = usize::from(self.shared.home(&client));
                self.shared.managers[home].push(ManagerWork::Stayed { client, stays }, 256);
            }
            other => self.told(node, other),
        }
    }

    fn is_sealed(&mut self, node: NodeIndex) -> bool {
        let incarnation = self.link(node).and_then(|link| link.link.peer_incarnation());
        incarnation.is_some_and(|incarnation| self.is_over(incarnation))
    }

    fn told(&mut self, node: NodeIndex, message: Control) {
        let Some(link) = self.link(node) else { return };
        let Some(incarnation) = link.link.peer_incarnation() else { return };
        let from = Holder { node: Arc::clone(&link.node.id), incarnation };
        self.directory.receive(&from, message);
    }

    /// Another node wants this now.
    pub fn wants(&mut self, node: NodeIndex, changes: &[(Arc<str>, Interest)]) {
        let cluster = Arc::clone(&self.cluster);
        let Some(link) = self.link(node) else { return };
        let mut remote = cluster.remote.write();
        for (filter, interest) in changes {
            let parsed = TopicFilter::from_arc(Arc::clone(filter), &wire::Limits::PROTOCOL);
            let Ok(parsed) = parsed else { continue };
            match interest {
                Interest::None => {
                    remote.unsubscribe(&parsed, node);
                    link.wanted.remove(filter);
                }
                level => {
                    let queues = *level == Interest::Queues;
                    let qos = if queues { QoS::AtLeastOnce } else { QoS::AtMostOnce };
                    remote.subscribe(&parsed, node, qos);
                    link.wanted.insert(Arc::clone(filter), *level);
                    if let Some(anew) = &mut link.anew {
                        anew.insert(Arc::clone(filter), *level);
                    }
                }
            }
        }
        drop(remote);
        self.shared.generation.fetch_add(1, Ordering::Release);
    }

    /// It has said all: what it has not said again is of an earlier incarnation.
    fn wants_no_more(&mut self, node: NodeIndex) {
        let Some(link) = self.link(node) else { return };
        let Some(anew) = link.anew.take() else { return };
        let old: Vec<(Arc<str>, Interest)> = link
            .wanted
            .keys()
            .filter(|filter| !anew.contains_key(*filter))
            .map(|filter| (Arc::clone(filter), Interest::None))
            .collect();
        let incarnation = link.link.peer_incarnation().unwrap_or(0);
        link.whole = incarnation;
        self.wants(node, &old);
        if let Some(link) = self.link(node) {
            link.send_kept();
        }
    }

    /// Nobody is there any more who wants it.
    pub fn wants_nothing(&mut self, node: NodeIndex) {
        let Some(link) = self.link(node) else { return };
        let all: Vec<(Arc<str>, Interest)> =
            link.wanted.keys().map(|filter| (Arc::clone(filter), Interest::None)).collect();
        self.wants(node, &all);
    }

    /// What the store has retained. What was heard of later counts.
    pub fn retained_found(&self, found: Vec<(Arc<Message>, u64)>) {
        let mut retained = self.shared.retained.write();
        let versions = self.cluster.retained.lock();
        for (message, version) in found {
            self.shared.retained_clock.fetch_max(version, Ordering::Relaxed);
            if !versions.has_later(&message.topic, version) {
                retained.insert(message);
            }
        }
        self.shared.metrics.retained.set(retained.len() as u64);
        self.shared.metrics.retained_bytes.set(retained.bytes() as u64);
    }

    fn retained(&mut self, topic: &Arc<str>, payload: Bytes, qos: u8, version: u64) {
        let qos = match qos {
            0 => QoS::AtMostOnce,
            1 => QoS::AtLeastOnce,
            _ => QoS::ExactlyOnce,
        };
        let mut retained = self.shared.retained.write();
        self.shared.retained_clock.fetch_max(version, Ordering::Relaxed);
        if !self.cluster.retained.lock().is_newest(topic, version) {
            return;
        }
        if payload.is_empty() {
            retained.remove(topic);
        } else {
            let topic = Arc::clone(topic);
            let message = Message { topic, payload, qos, retain: false, properties: None };
            retained.insert(Arc::new(message));
        }
        self.shared.metrics.retained.set(retained.len() as u64);
        self.shared.metrics.retained_bytes.set(retained.bytes() as u64);
    }
}
