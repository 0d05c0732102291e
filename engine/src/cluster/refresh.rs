//! Retained messages that were changed while a link was not there: they are read from the store again.
//!
//! A node remembers, a flag a link, that it has not told a change. Once the link is there it says so
//! ([`Control::RetainedMissed`]). The other one then asks every node that is there to have stored what each of its
//! routers had changed until then ([`Control::RetainedFlush`]), reads the store behind all answers, and removes what
//! it has and the store has not, unless that was changed since it asked.
//!
//! Invariant: what is told over a link before the answer is stored before the read begins, and what is told behind
//! it is known as changed. So what is missing in the store was removed.
//! Bounds: one round at a time; the topics changed meanwhile by [`RetainedVersions`](super::RetainedVersions).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hydrant_protocol::Message;
use hydrant_protocol::cluster::message::Control;
use hydrant_protocol::cluster::stream_marker::{ALL_STREAMS, MarkedStreams, PublishStream};
use smallvec::SmallVec;

use super::coordinator::Coordinator;
use super::node_index::SELF;
use super::state::link::PeerLink;
use super::state::requests::{Purpose, Request};
use super::state::retained;
use super::{NodeIndex, Recipient};
use crate::messages::{MarkerReason, StreamMarker};
use crate::ports::StoreError;
use crate::say;

/// The first read is tried again after this.
const AGAIN: Duration = Duration::from_millis(500);

impl Coordinator {
    /// What others have retained is read when every change from now on is heard of. Behind that, clients may come.
    pub(super) fn read_retained(&mut self) {
        self.ask(Purpose::FirstRetained, Request::Retained);
    }

    /// The store has answered.
    pub(super) fn retained_read(&mut self, found: Result<Vec<(Arc<Message>, u64)>, StoreError>) {
        match found {
            Ok(found) => self.started(found),
            Err(error) => {
                say::warn!(target: "hydrant::peers", "reading the retained messages again: {error}");
                let at = self.now.boot + AGAIN;
                self.requests.open_at(at, Purpose::FirstRetained, Request::Retained);
            }
        }
    }

    /// A retained message was changed here: for every other node.
    pub(super) fn broadcast(&mut self, message: &Control) {
        self.refresh.changed = true;
        for link in &mut self.links {
            if link.is_there() {
                link.send_control(message.clone());
            } else {
                link.untold = true;
            }
        }
    }

    /// A retained message that was told as ahead of live subscribers is not any more.
    pub(super) fn retained_reached(
        &mut self,
        topic: &Arc<str>,
        version: u64,
        router: u16,
        routed: Option<&[Recipient]>,
    ) {
        for link in &mut self.links {
            if !link.is_there() {
                // It may have been told of the change. Where it is back it ends what this node had ahead.
                link.untold = true;
                continue;
            }
            let gets = |to: &Recipient| {
                to.node == link.index && Some(to.incarnation) == link.link.peer_incarnation()
            };
            let live = routed.is_some_and(|routed| !routed.iter().any(gets));
            let topic = Arc::clone(topic);
            link.send_control(Control::RetainedReached { topic, version, router, live });
        }
    }

    /// What these nodes had ahead of live subscribers here: nobody says any more when it is not.
    fn nothing_is_ahead(&self, of: impl Fn(NodeIndex) -> bool) {
        if self.shared.retained.read().has_ahead() {
            self.shared.retained.write().reached_all(|by| by != SELF && of(by));
        }
    }

    /// Whether a node that is met from now on may have read the store before something was stored.
    pub(super) fn may_be_untold(&self) -> bool {
        self.refresh.changed
    }

    /// Who is there has changed.
    pub(super) fn look_who_is_untold(&mut self) {
        for link in self.links.iter_mut().filter(|link| link.is_there()) {
            if std::mem::take(&mut link.untold) {
                link.send_control(Control::RetainedMissed);
            }
        }
        let there = |node: &NodeIndex| {
            let link = self.links.get(usize::from(*node).wrapping_sub(1));
            *node == SELF || link.is_some_and(PeerLink::is_there)
        };
        let gone: Vec<NodeIndex> =
            self.refresh.awaited.iter().filter(|node| !there(node)).copied().collect();
        gone.into_iter().for_each(|node| self.flushes_nothing(node));
        self.nothing_is_ahead(|node| {
            let at = usize::from(node).wrapping_sub(1);
            !self.links.get(at).is_some_and(PeerLink::is_there)
        });
    }

    /// A node is gone or has started anew.
    pub(super) fn flushes_nothing(&mut self, node: NodeIndex) {
        self.nothing_is_ahead(|by| by == node);
        self.flushed(node, self.refresh.round, (ALL_STREAMS, 1));
    }

    /// Another node has changed something that this one was not told.
    pub(super) fn has_missed_retained(&mut self, by: NodeIndex) {
        self.nothing_is_ahead(|node| node == by);
        self.refresh.again = true;
        self.refresh_retained();
    }

    /// Begins a round where one is due: behind the first read, which comes with the start.
    pub(super) fn refresh_retained(&mut self) {
        let synced = self.cluster.status.is_synced();
        if !synced || self.refresh.running || !std::mem::take(&mut self.refresh.again) {
            return;
        }
        // An answer to an earlier start of this node is none to this one.
        let round = self.refresh.round.max(self.cluster.incarnation << 32) + 1;
        (self.refresh.running, self.refresh.round) = (true, round);
        self.refresh.marked = MarkedStreams::new(round);
        self.cluster.retained.lock().watch();
        let successors = &self.successors;
        // One that is over stores nothing any more.
        let over = |link: &PeerLink| {
            link.link.peer_incarnation().is_some_and(|incarnation| successors.is_over(incarnation))
        };
        let there = self.links.iter_mut().filter(|link| link.is_there() && !over(link));
        let asked = there.map(|link| {
            link.send_control(Control::RetainedFlush { round });
            link.index
        });
        self.refresh.awaited = asked.chain([SELF]).collect();
        self.flush_retained(SELF, round);
    }

    /// A node, or this one, wants to read what was changed here.
    pub(super) fn flush_retained(&mut self, by: NodeIndex, round: u64) {
        self.insert_markers(StreamMarker {
            reason: MarkerReason::Retained { round, by },
            to: SmallVec::new(),
        });
    }

    /// What a router had changed before is stored, unless some of it is parked because the outbox is full.
    pub(super) fn retained_stored(&mut self, by: NodeIndex, round: u64, router: (u16, u16)) {
        if self.shared.parked_bytes.load(Ordering::Relaxed) > 0 {
            self.refresh.parked.insert(by, round);
        } else if by == SELF {
            self.flushed(SELF, round, router);
        } else if let Some(link) = self.link(by) {
            link.send_control(Control::RetainedFlushed { round, router });
        }
    }

    /// Asks the routers again that could not answer while something was parked.
    pub(super) fn flush_parked(&mut self) {
        if !self.refresh.parked.is_empty() && self.shared.parked_bytes.load(Ordering::Relaxed) == 0
        {
            let parked = std::mem::take(&mut self.refresh.parked);
            parked.into_iter().for_each(|(by, round)| self.flush_retained(by, round));
        }
    }

    /// A router of a node has stored what it had changed before.
    pub(super) fn flushed(&mut self, node: NodeIndex, round: u64, (router, routers): (u16, u16)) {
        let refresh = &mut self.refresh;
        if round != refresh.round || !refresh.marked.mark(PublishStream::new(node, router), routers)
        {
            return;
        }
        if refresh.awaited.remove(&node) && refresh.awaited.is_empty() {
            self.ask(Purpose::RetainedAgain, Request::Retained);
        }
    }

    /// The store has answered.
    pub(super) fn retained_again(&mut self, found: Option<Vec<(Arc<Message>, u64)>>) {
        self.refresh.running = false;
        let removed = |found: &Vec<(Arc<Message>, u64)>| {
            retained::remove_gone(&self.shared.retained, &self.cluster.retained, found)
        };
        let Some(found) = found.filter(removed) else {
            // With the next tick.
            self.refresh.again = true;
            return;
        };
        self.retained_found(found);
        self.refresh_retained();
    }
}
