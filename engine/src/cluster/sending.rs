//! What goes out to the other nodes: publishes for what their incarnations want, and what this node wants.
//!
//! Bounds: `cluster.max_link_bytes` for what nobody waits for; what somebody waits for, by the windows of the
//! publishers.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use hydrant_protocol::cluster::message::{self, Control};

use super::coordinator::Coordinator;
use super::state::link::{Pending, Prepared};
use super::{NodeIndex, Recipient};
use crate::messages::CompletionToken;
use crate::metrics::DropReason;

impl Coordinator {
    pub(super) fn publish(
        &mut self,
        to: Recipient,
        mut body: Vec<u8>,
        count: u32,
        tokens: Vec<CompletionToken>,
        queues: Option<u64>,
    ) {
        let (queues, prepared) = (queues.is_some(), queues.unwrap_or_default());
        let max = self.cluster.settings.max_link_bytes as u64;
        let renamed = self.renamed.iter().find(|(from, _)| *from == to.incarnation);
        let Recipient { node, incarnation } = renamed.map_or(to, |(_, to)| *to);
        if self.is_behind_marker(incarnation, &body) {
            return self.complete(tokens);
        }
        let (batch, whole) = (self.next_batch, self.wants.is_whole(incarnation));
        let Some(link) = self.link(node) else { return self.complete(tokens) };
        let waited_for = queues || !tokens.is_empty();
        if !waited_for && link.link.unacknowledged().1 > max {
            let id = Arc::clone(&link.node.id);
            self.shared.metrics.workers[0].drop_messages(
                DropReason::PeerSlow,
                count.into(),
                format_args!("node {id}"),
            );
            return;
        }
        let met = link.link.peer_incarnation() == Some(incarnation);
        if !(queues || met && link.link.is_up()) {
            // Its subscribers cannot be reached: what nobody has to keep is not waited for.
            if met && link.is_member() {
                link.send(body.into());
            }
            return self.complete(tokens);
        }
        if waited_for {
            message::set_head(&mut body, batch, 0);
            if prepared > 0 {
                let router = message::publishes(&body).map_or(0, |(_, router, ..)| router);
                let number = prepared;
                link.prepared.insert(batch, Prepared { router, number, incarnation });
            }
            let body: Bytes = body.into();
            let kept = queues.then(|| body.clone());
            // What is known of one that has not greeted is the store's word: it is kept until it has.
            let sent = met && link.is_there() && (whole || !queues);
            link.pending.insert(batch, Pending { body: kept, tokens, incarnation, sent });
            if sent {
                link.send(body);
            }
            link.sent_since |= queues;
            self.next_batch += 1;
        } else {
            link.send(body.into());
        }
    }

    /// Sends a node what was kept for the incarnation that is there, once that has greeted.
    pub(super) fn send_kept(&mut self, node: NodeIndex) {
        if self.incarnation_of(node).is_some_and(|incarnation| self.wants.is_whole(incarnation))
            && let Some(link) = self.link(node)
        {
            link.send_kept();
        }
    }

    /// Tells the others what changed in what this node wants.
    pub(super) fn announce(&mut self, token: Option<CompletionToken>) {
        let (changes, announced) = {
            let mut interest = self.cluster.interest.lock();
            (interest.take_changes(), self.cluster.announced.load(Ordering::SeqCst))
        };
        if !changes.is_empty() {
            for link in &mut self.links {
                if !link.is_there() {
                    // It is told everything when it is back.
                    link.greeted = 0;
                }
                if link.greeted == 0 {
                    continue;
                }
                for changes in changes.chunks(256) {
                    let request = announced;
                    link.send_control(Control::Interest { request, changes: changes.to_vec() });
                }
            }
        }
        if let Some(token) = token {
            self.settling.push_back((announced, token));
        }
    }

    /// Answers those whose change of interest every member has confirmed that can be reached. One that cannot is
    /// told everything when it can, and until then nothing of its publishers gets here.
    pub(super) fn check_settled(&mut self) {
        let announced = self.cluster.announced.load(Ordering::SeqCst);
        let pending = self.cluster.interest.lock().has_changes();
        let now = self.now.boot;
        let confirmed = self
            .links
            .iter()
            .filter(|link| link.is_member() && !link.is_out_of_reach(now))
            .map(|link| link.confirmed)
            .min()
            .unwrap_or(if pending { 0 } else { announced });
        self.cluster.status.has_confirmed(confirmed);
        let mut tokens = Vec::new();
        while let Some((_, token)) =
            self.settling.pop_front_if(|(request, _)| *request <= confirmed)
        {
            tokens.push(token);
        }
        self.complete(tokens);
    }
}
