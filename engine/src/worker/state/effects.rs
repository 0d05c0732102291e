//! What the worker's handlers have decided to send to StorageActor, the log actor and other
//! workers, until it is flushed at the end of the handler: one message each.
//!
//! It outlives a handler's panic. Each publish that the router begins is a step with a savepoint: one
//! that was half done is taken back and begun again. A batch for another worker or node keeps where it
//! stood when the step first touched it, so a savepoint costs what is touched.

use std::cell::RefCell;
use std::sync::atomic::Ordering;

use hydrant_protocol::cluster::message::{self, Control};
use smallvec::SmallVec;

use crate::cluster::Recipient;
use crate::messages::{
    CompletionToken, LogWork, PeerWork, RemoteBatch, RouterWork, StorageWork, Transaction,
};
use crate::ports::{StoreOp, op_cost};

use crate::node_tables::NodeTables;
use crate::step_guard::StepGuard;
use crate::worker::Outside;

#[derive(Debug)]
pub struct Effects {
    pub ops: Vec<StoreOp>,
    pub tokens: Vec<CompletionToken>,
    pub log: Vec<LogWork>,
    remote: Vec<RemoteBatch>,
    /// Workers whose queue entries are to be written together with `ops`.
    pub joined: SmallVec<[bool; 8]>,
    /// Publishes for other nodes, a batch an incarnation.
    peers: Vec<OutboundPeerBatch>,
    /// Slots of sessions that are on their way and for which something was buffered.
    pub buffered: SmallVec<[u32; 1]>,
    /// For every other node.
    pub broadcast: Vec<Control>,
    /// The same, behind the publishes for other nodes.
    pub reached: Vec<PeerWork>,
    /// Set while the queue entries of another worker's batch are made.
    pub transaction: Option<Transaction>,
    /// Number of the step that is under way, or was the last.
    step: u64,
}

/// Publishes for another node, written as they are sent.
#[derive(Debug)]
pub struct OutboundPeerBatch {
    to: Recipient,
    body: Vec<u8>,
    count: u32,
    /// Answered when what they had to have stored there is stored.
    pub tokens: Vec<CompletionToken>,
    queues: bool,
    /// As in [`PeerWork::Publishes`].
    prepared: u64,
    /// The last step that touched it, and how it stood before: bytes, publishes, tokens, `queues`.
    touched: (u64, (usize, u32, usize, bool)),
}

impl OutboundPeerBatch {
    fn new(to: Recipient) -> Self {
        let (body, tokens) = (Vec::new(), Vec::new());
        let touched = (0, (0, 0, 0, false));
        Self { to, body, count: 0, tokens, queues: false, prepared: 0, touched }
    }

    /// Adds a publish; `queues`: it is for queues there. `prepared` as in [`PeerWork::Publishes`].
    pub fn push(
        &mut self,
        router: u16,
        publish: &message::Publish<'_>,
        queues: bool,
        prepared: u64,
    ) {
        if self.body.is_empty() {
            message::begin(&mut self.body, 0, router, 0);
        }
        message::append(&mut self.body, publish);
        self.count += 1;
        self.queues |= queues;
        // Where it is taken back, the others keep a little longer what they have stored.
        self.prepared = self.prepared.max(prepared);
    }

    fn touch(&mut self, step: u64) {
        if self.touched.0 != step {
            self.touched = (step, (self.body.len(), self.count, self.tokens.len(), self.queues));
        }
    }

    /// Takes back what a step has put in.
    fn rollback(&mut self, step: u64) {
        let (touched, (bytes, count, tokens, queues)) = self.touched;
        if touched == step {
            self.body.truncate(bytes);
            self.tokens.truncate(tokens);
            (self.count, self.queues) = (count, queues);
        }
    }
}

/// Where the lists of [`Effects`] stood before a step. Its batches know themselves.
#[derive(Debug, Clone, Copy)]
struct Savepoint {
    ops: usize,
    tokens: usize,
    log: usize,
    broadcast: usize,
    reached: usize,
}

impl Effects {
    pub fn new(workers: usize) -> Self {
        Self {
            ops: Vec::new(),
            tokens: Vec::new(),
            log: Vec::new(),
            remote: (0..workers).map(|_| RemoteBatch::default()).collect(),
            joined: std::iter::repeat_n(false, workers).collect(),
            peers: Vec::new(),
            buffered: SmallVec::new(),
            broadcast: Vec::new(),
            reached: Vec::new(),
            transaction: None,
            step: 0,
        }
    }

    /// The batch for another worker.
    pub fn remote(&mut self, worker: usize) -> &mut RemoteBatch {
        let batch = &mut self.remote[worker];
        batch.touch(self.step);
        batch
    }

    /// The batch for an incarnation. They are few: the other nodes, and starts of them that are lost.
    pub fn peer(&mut self, to: Recipient) -> &mut OutboundPeerBatch {
        let at = self.peers.iter().position(|batch| batch.to == to);
        let at = at.unwrap_or_else(|| {
            self.peers.push(OutboundPeerBatch::new(to));
            self.peers.len() - 1
        });
        let batch = &mut self.peers[at];
        batch.touch(self.step);
        batch
    }

    fn begin_step(&mut self) -> Savepoint {
        self.step += 1;
        Savepoint {
            ops: self.ops.len(),
            tokens: self.tokens.len(),
            log: self.log.len(),
            broadcast: self.broadcast.len(),
            reached: self.reached.len(),
        }
    }

    fn rollback(&mut self, savepoint: Savepoint) {
        self.ops.truncate(savepoint.ops);
        self.tokens.truncate(savepoint.tokens);
        self.log.truncate(savepoint.log);
        self.remote.iter_mut().for_each(|batch| batch.rollback(self.step));
        self.peers.iter_mut().for_each(|batch| batch.rollback(self.step));
        self.broadcast.truncate(savepoint.broadcast);
        self.reached.truncate(savepoint.reached);
    }

    /// Sends what stands here. Storage first: another worker's part of a transaction must find that of `worker`
    /// there. True: another worker's router got more than it has room for.
    pub fn hand_out(&mut self, worker: u16, shared: &NodeTables, outside: &dyn Outside) -> bool {
        let joined = self.joined.iter().filter(|joined| **joined).count();
        let other = self.transaction.take();
        // A part that another worker waits for does not wait for what we ask for ourselves.
        let origin = other.is_none().then_some(worker);
        let transaction = other.or_else(|| {
            (joined > 0).then(|| Transaction {
                id: shared.next_transaction.fetch_add(1, Ordering::Relaxed),
                parts: u16::try_from(joined + 1).unwrap_or(u16::MAX),
            })
        });
        if !self.ops.is_empty() || !self.tokens.is_empty() || transaction.is_some() {
            let ops = std::mem::take(&mut self.ops);
            let bytes = ops.iter().map(op_cost).sum::<usize>() + 64;
            let tokens = std::mem::take(&mut self.tokens);
            outside.storage(StorageWork::Write { ops, tokens, transaction, origin }, bytes);
        }
        if !self.log.is_empty() {
            outside.log(&mut self.log);
        }
        let mut is_full = false;
        for (to, (batch, joined)) in (0..).zip(self.remote.iter_mut().zip(&mut self.joined)) {
            let joined = std::mem::take(joined);
            if batch.is_empty() && !joined {
                continue;
            }
            let mut batch = std::mem::take(batch);
            batch.transaction = if joined { transaction } else { None };
            let bytes = batch.bytes();
            outside.router(to, RouterWork::Deliver(batch), bytes);
            is_full |= !outside.router_has_room(to);
        }
        if shared.cluster.is_some() {
            for message in self.broadcast.drain(..) {
                outside.peers(PeerWork::Broadcast(message), 1024);
            }
            for batch in self.peers.drain(..).filter(|batch| batch.count > 0) {
                let OutboundPeerBatch { to, body, count, tokens, queues, prepared, .. } = batch;
                let bytes = body.len();
                let work = PeerWork::Publishes { to, body, count, tokens, queues, prepared };
                outside.peers(work, bytes);
            }
            for reached in self.reached.drain(..) {
                outside.peers(reached, 128);
            }
        }
        is_full
    }
}

/// Begins a step: what it puts into [`Effects`] is taken back when it does not get to its end. Steps do not
/// stand within each other.
#[inline]
pub fn begin_step(effects: &RefCell<Effects>) -> StepGuard<impl FnOnce()> {
    let savepoint = effects.borrow_mut().begin_step();
    StepGuard::new(move || {
        if let Ok(mut effects) = effects.try_borrow_mut() {
            effects.rollback(savepoint);
        }
    })
}

#[cfg(test)]
mod tests {
    use hydrant_protocol::QoS;
    use hydrant_protocol::cluster::message::Recipients;

    use super::*;
    use crate::messages::AckSource;
    use crate::worker::state::publication::Publication;

    const TO: Recipient = Recipient { node: 3, incarnation: 9 };

    fn token() -> CompletionToken {
        CompletionToken { worker: 0, source: AckSource::Peer, pending: 0, generation: 0 }
    }

    /// Puts something everywhere.
    fn fill(effects: &mut Effects) {
        let publication = Publication::new("a/b", b"payload", QoS::AtLeastOnce, true);
        effects.tokens.push(token());
        effects.remote(1).push(&publication, true, Recipients::All);
        effects.remote(1).late.push(token());
        let batch = effects.peer(TO);
        batch.body.extend_from_slice(b"publish");
        batch.count += 1;
        batch.queues = true;
        batch.tokens.push(token());
    }

    /// Bytes and counts of everything that [`fill`] puts in.
    fn stands(effects: &Effects) -> [usize; 8] {
        let (remote, peer) = (&effects.remote[1], effects.peers.first());
        [
            effects.tokens.len(),
            remote.len(),
            remote.bytes(),
            remote.late.len(),
            peer.map_or(0, |peer| peer.body.len()),
            peer.map_or(0, |peer| peer.count as usize),
            peer.map_or(0, |peer| peer.tokens.len()),
            peer.map_or(0, |peer| usize::from(peer.queues)),
        ]
    }

    #[test]
    fn a_rollback_takes_back_what_its_step_has_put_in_and_no_more() {
        let mut effects = Effects::new(2);
        let empty = stands(&effects);
        let first = effects.begin_step();
        fill(&mut effects);
        effects.rollback(first);
        assert_eq!(stands(&effects), empty, "what is new in the step is gone");

        effects.begin_step();
        fill(&mut effects);
        let one = stands(&effects);
        let second = effects.begin_step();
        fill(&mut effects);
        fill(&mut effects);
        effects.rollback(second);
        assert_eq!(stands(&effects), one, "the step before stays");

        let third = effects.begin_step();
        effects.rollback(third);
        assert_eq!(stands(&effects), one, "a step that touches nothing takes nothing back");

        let fourth = effects.begin_step();
        fill(&mut effects);
        // As a flush in the middle of a step does.
        (effects.remote[1], effects.peers) = (RemoteBatch::default(), Vec::new());
        fill(&mut effects);
        effects.rollback(fourth);
        assert_eq!(stands(&effects)[1..], empty[1..], "a batch that was sent is another batch");
    }
}
