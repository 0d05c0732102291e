//! Batches of other nodes that this node, or a lost one whose sessions it has, had stored: the store names them, so that
//! one that is sent again is known, until nobody sends it again.
//!
//! Invariant: what a node says of its batches ([`Control::Answered`]) counts only when it has sent again all that it kept for a lost node: before that it does not count those among them.
//! Bounds: [`Coordinator::origins`], an entry a node whose batches a lost one had stored.

use std::collections::BTreeSet;

use hydrant_protocol::cluster::message::Control;
use hydrant_protocol::cluster::stream_marker::PublishStream;

use super::NodeIndex;
use super::coordinator::Coordinator;
use super::node_index::SELF;
use super::state::link::PeerLink;
use crate::messages::StorageWork;
use crate::ports::{ClusterOp, StoredBatch};

impl Coordinator {
    /// Tells each node below which number it need not remember what it has stored.
    pub(super) fn send_answered(&mut self) {
        let next = self.next_batch;
        let finishing = self.cluster.has_begun();
        if !finishing {
            self.own_prepared.retain(|_, prepared| prepared.number != u64::MAX);
        }
        for link in self.links.iter_mut().filter(|link| link.link.is_up()) {
            if !finishing {
                link.prepared.retain(|_, prepared| prepared.number != u64::MAX);
            }
            let first = |batches: Option<&u64>| batches.copied().unwrap_or(next);
            // A successor of this node may publish again what it has prepared.
            let below = first(link.pending.keys().next()).min(first(link.prepared.keys().next()));
            // Only where something was sent since.
            if below > link.answered && link.sent_since {
                let open = !link.pending.is_empty() || !link.prepared.is_empty();
                (link.answered, link.sent_since) = (below, open);
                link.send_control(Control::Answered { below });
            }
        }
    }

    /// Nobody sends these again: the store need not know them.
    pub(super) fn forget_batches(&mut self, origin: u64, below: u64) {
        let ops = vec![ClusterOp::ForgetPeerBatches { origin, below }.into()];
        let (tokens, transaction, origin) = (Vec::new(), None, None);
        self.effects.storage(StorageWork::Write { ops, tokens, transaction, origin }, 64);
    }

    /// The same of all of an incarnation.
    pub(super) fn forget_all_batches(&mut self, origin: u64) {
        self.origins.remove(&origin);
        self.forget_batches(origin, u64::MAX);
    }

    /// The store remembers what lost nodes had stored of these. What is finished is not sent again.
    pub(super) fn remember_origins(&mut self, batches: &[StoredBatch]) {
        let origins: BTreeSet<u64> = batches.iter().map(|batch| batch.origin).collect();
        for origin in origins {
            self.origins.insert(origin);
            if self.successors.is_finished(origin) {
                self.forget_all_batches(origin);
            }
        }
    }

    /// Origins that are in no row of the store had nothing left to be finished; nor has this node, once its routers
    /// have passed and nothing is under way.
    pub(super) fn forget_origins(&mut self, exists: impl Fn(u64) -> bool) {
        let me = self.cluster.incarnation;
        let settled = self.own.is_empty()
            && self.own_prepared.is_empty()
            && self.sealing == 0
            && self
                .successors
                .known
                .iter()
                .all(|successor| successor.node != SELF || successor.resent);
        let is_over = |origin: &u64| if *origin == me { settled } else { !exists(*origin) };
        let over: Vec<u64> = self.origins.iter().copied().filter(is_over).collect();
        over.into_iter().for_each(|origin| self.forget_all_batches(origin));
    }

    /// Whether a node has sent again all that it kept for what this node has taken over: what it says of its batches
    /// is of those as well.
    pub(super) fn has_all_of(&self, node: NodeIndex) -> bool {
        self.sealing == 0
            && self.successors.unawaited.is_none()
            && self.successors.own.iter().all(|own| !own.unsaid.contains(&node))
    }

    /// A router of a node has sent again what it had for a lost incarnation.
    pub(super) fn has_said_resent(&mut self, node: NodeIndex, of: u64, router: (u16, u16)) {
        let Some(own) = self.successors.own.iter_mut().find(|own| own.incarnation == of) else {
            return;
        };
        if own.said.mark(PublishStream::new(node, router.0), router.1) {
            own.unsaid.remove(&node);
            self.link(node).into_iter().for_each(PeerLink::keeps_batches);
        }
    }
}
