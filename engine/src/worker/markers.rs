//! Stream markers on their way: what the routers of a node pass between two publishes, and where it counts
//! ([`hydrant_protocol::cluster::stream_marker`]).
//!
//! A marker goes the way that its stream's publishes go, so that it overtakes none and none overtakes it:
//! the link, the router that the stream has at the other node, the worker that holds the session.

use std::sync::Arc;

use hydrant_protocol::cluster::stream_marker::{ALL_STREAMS, PublishStream};

use crate::messages::{MarkerReason, PeerWork, RouterWork, SMALL, StreamMarker};

use super::state::handover::Handover;
use super::{Continuation, Worker};

impl Worker {
    /// This router passes a marker.
    pub fn pass_marker(&self, marker: &Arc<StreamMarker>) {
        self.flush();
        let routers = self.worker_count();
        let passed =
            PeerWork::MarkerPassed { marker: Arc::clone(marker), router: (self.index, routers) };
        match &marker.reason {
            MarkerReason::Handover { id, client, here: true } => {
                let stream = PublishStream::new(0, self.index);
                self.send_marker(*id, client, stream, routers);
            }
            // What was published before comes back to this router, and its marker behind it.
            MarkerReason::Successor { successor: 0, .. } => {
                self.held_up.set(self.held_up.get() + 1)
            }
            MarkerReason::Retained { .. } => {
                // Behind what this router has asked the store for.
                self.wait_for_store(Continuation::ToPeers(passed.into()));
                return self.flush();
            }
            MarkerReason::Handover { .. } | MarkerReason::Successor { .. } => {}
        }
        self.to_peers(passed, SMALL);
    }

    /// The marker of another node's stream, behind what it has published: on to where the session is.
    pub fn pass_marker_on(&self, id: u64, client: &Arc<str>, stream: PublishStream, routers: u16) {
        self.flush();
        let client = Arc::clone(client);
        if stream.router != ALL_STREAMS {
            return self.send_marker(id, &client, stream, routers);
        }
        // Behind what any of them has of that node: through one after the other.
        let next = self.index + 1;
        let (to, work) = if next < self.worker_count() {
            (next, RouterWork::ForwardMarker { id, client, stream, routers })
        } else {
            let home = self.shared.home(&client);
            (home, RouterWork::MarkerArrived { id, client, stream, routers })
        };
        self.outside.router(to, work, SMALL);
    }

    /// To where the session is. Here it counts at once: behind what stands in this router's own inbox
    /// it would come too late for that.
    fn send_marker(&self, id: u64, client: &Arc<str>, stream: PublishStream, routers: u16) {
        let home = self.shared.home(client);
        if home == self.index {
            return self.marked(id, client, stream, routers);
        }
        let marked = RouterWork::MarkerArrived { id, client: Arc::clone(client), stream, routers };
        self.outside.router(home, marked, SMALL);
    }

    /// A stream has marked the session.
    pub fn marked(&self, id: u64, client: &Arc<str>, stream: PublishStream, routers: u16) {
        let slot = self.handover_slot(client);
        let mut sessions = self.sessions.borrow_mut();
        let handover = slot.and_then(|slot| sessions.get(slot)?.handover.as_mut());
        let Some(Handover { transit, .. }) = handover.map(|handover| &mut **handover) else {
            return;
        };
        let mut counts = false;
        for marked in [&mut transit.arrive, &mut transit.leave].into_iter().flatten() {
            counts |= marked.id == id && marked.mark(stream, routers);
        }
        if counts {
            self.to_peers(PeerWork::NodeMarked { id, origin: stream.node }, SMALL);
        }
    }

    /// A stream has sent again what a lost incarnation had not stored: on to every worker.
    pub fn pass_on_resent(&self, incarnation: u64, stream: PublishStream, routers: u16) {
        self.flush();
        let next = self.index + 1;
        if stream.router == ALL_STREAMS && next < self.worker_count() {
            let resent = RouterWork::Resent { incarnation, stream, routers };
            return self.outside.router(next, resent, SMALL);
        }
        if stream == PublishStream::new(0, self.index) {
            self.held_up.set(self.held_up.get().saturating_sub(1));
            self.wake_router();
            let cluster = self.shared.cluster.as_ref();
            if cluster.is_some_and(|cluster| cluster.status.is_synced()) {
                // What the lost one had begun, now that it is published to its sessions here.
                self.finish_prepared();
            }
        }
        for index in 0..self.worker_count() {
            if index == self.index && stream.router != ALL_STREAMS {
                self.resent(incarnation, stream, routers);
            } else {
                let resent = RouterWork::ResentHere { incarnation, stream, routers };
                self.outside.router(index, resent, SMALL);
            }
        }
    }

    /// The same, for the sessions here.
    pub fn resent(&self, incarnation: u64, stream: PublishStream, routers: u16) {
        let complete = match self.orphans.borrow().get(&incarnation) {
            Some(marked) => marked.borrow_mut().mark(stream, routers),
            None => true,
        };
        if complete {
            let (worker, origin) = (self.index, stream.node);
            self.to_peers(PeerWork::ResentSeen { incarnation, worker, origin }, SMALL);
        }
    }
}
