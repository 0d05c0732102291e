//! What the arbiter's handlers have decided to send to StorageActor, the log actor and other
//! arbiters, until it is flushed at the end of the handler: one message each.
//!
//! It outlives a handler's panic. The router marks it before each publish, so that one that was
//! half done is taken back and begun again.

use std::sync::atomic::Ordering;

use hydrant_protocol::cluster::message::{self, Control};
use smallvec::SmallVec;

use crate::cluster::{NodeIndex, PeerWork};
use crate::ports::StoreOp;
use crate::shared::{LogWork, RouterWork, StorageWork, Token, Transaction};

use super::{RemoteBatch, Shard};

#[derive(Debug)]
pub struct Outgoing {
    pub ops: Vec<StoreOp>,
    pub tokens: Vec<Token>,
    pub log: Vec<LogWork>,
    pub remote: Vec<RemoteBatch>,
    /// Arbiters whose queue entries are to be written together with `ops`.
    pub joined: SmallVec<[bool; 8]>,
    /// Publishes for other nodes, by their index.
    pub peers: Vec<PeerBatch>,
    /// Slots of sessions that are on their way and for which something was put aside.
    pub aside: SmallVec<[u32; 1]>,
    /// For every other node.
    pub broadcast: Vec<Control>,
    /// Set while the queue entries of another arbiter's batch are made.
    pub transaction: Option<Transaction>,
}

/// Publishes for another node, written as they are sent.
#[derive(Debug, Default)]
pub struct PeerBatch {
    body: Vec<u8>,
    count: u32,
    /// Answered when what they had to have stored there is stored.
    pub tokens: Vec<Token>,
    queues: bool,
}

impl PeerBatch {
    /// Adds a publish; `queues`: it is for queues there.
    pub fn push(&mut self, lane: u16, publish: &message::Publish<'_>, queues: bool) {
        if self.body.is_empty() {
            message::begin(&mut self.body, 0, lane, 0);
        }
        message::append(&mut self.body, publish);
        self.count += 1;
        self.queues |= queues;
    }

    fn mark(&self) -> PeerMark {
        (self.body.len(), self.count, self.tokens.len(), self.queues)
    }

    fn rollback(&mut self, (bytes, count, tokens, queues): PeerMark) {
        self.body.truncate(bytes);
        self.tokens.truncate(tokens);
        (self.count, self.queues) = (count, queues);
    }
}

type PeerMark = (usize, u32, usize, bool);

/// Where [`Outgoing`] stood before a publish.
#[derive(Debug, Clone)]
pub struct Mark {
    ops: usize,
    tokens: usize,
    log: usize,
    remote: SmallVec<[(usize, usize, usize); 8]>,
    peers: SmallVec<[PeerMark; 4]>,
    broadcast: usize,
}

impl Outgoing {
    pub fn new(shards: usize) -> Self {
        Self {
            ops: Vec::new(),
            tokens: Vec::new(),
            log: Vec::new(),
            remote: (0..shards).map(|_| RemoteBatch::default()).collect(),
            joined: std::iter::repeat_n(false, shards).collect(),
            peers: Vec::new(),
            aside: SmallVec::new(),
            broadcast: Vec::new(),
            transaction: None,
        }
    }

    /// The batch for a node.
    pub fn peer(&mut self, node: NodeIndex) -> &mut PeerBatch {
        let at = usize::from(node);
        if self.peers.len() <= at {
            self.peers.resize_with(at + 1, PeerBatch::default);
        }
        &mut self.peers[at]
    }

    pub fn mark(&self) -> Mark {
        Mark {
            ops: self.ops.len(),
            tokens: self.tokens.len(),
            log: self.log.len(),
            remote: self.remote.iter().map(RemoteBatch::mark).collect(),
            peers: self.peers.iter().map(PeerBatch::mark).collect(),
            broadcast: self.broadcast.len(),
        }
    }

    pub fn rollback(&mut self, mark: &Mark) {
        self.ops.truncate(mark.ops);
        self.tokens.truncate(mark.tokens);
        self.log.truncate(mark.log);
        for (batch, mark) in self.remote.iter_mut().zip(&mark.remote) {
            batch.truncate(*mark);
        }
        let empty = (0, 0, 0, false);
        for (at, batch) in self.peers.iter_mut().enumerate() {
            batch.rollback(mark.peers.get(at).copied().unwrap_or(empty));
        }
        self.broadcast.truncate(mark.broadcast);
    }
}

/// What an operation counts with against `storage.max_pending_bytes`.
pub fn cost(op: &StoreOp) -> usize {
    match op {
        StoreOp::PutQueued { entry, .. } => entry.message.cost(),
        StoreOp::PutRetained { message, .. } => message.cost(),
        StoreOp::PutOpen(open) => open.message.cost(),
        StoreOp::PutOutbox { record, .. } => record.cost(),
        _ => 64,
    }
}

impl Shard {
    /// Sends what stands in `Outgoing`. Storage first: another arbiter's part of a transaction
    /// must find ours there.
    pub fn flush(&self) {
        let mut outgoing = self.outgoing.borrow_mut();
        let outgoing = &mut *outgoing;
        let shared = &self.shared;
        let joined = outgoing.joined.iter().filter(|joined| **joined).count();
        let other = outgoing.transaction.take();
        // A part that another arbiter waits for does not wait for what we ask for ourselves.
        let origin = other.is_none().then_some(self.index);
        let transaction = other.or_else(|| {
            (joined > 0).then(|| Transaction {
                id: shared.next_transaction.fetch_add(1, Ordering::Relaxed),
                parts: u16::try_from(joined + 1).unwrap_or(u16::MAX),
            })
        });
        if !outgoing.ops.is_empty() || !outgoing.tokens.is_empty() || transaction.is_some() {
            let ops = std::mem::take(&mut outgoing.ops);
            let bytes = ops.iter().map(cost).sum::<usize>() + 64;
            let tokens = std::mem::take(&mut outgoing.tokens);
            shared.storage.push(StorageWork::Write { ops, tokens, transaction, origin }, bytes);
        }
        if !outgoing.log.is_empty() {
            shared.log.push_all(outgoing.log.drain(..).map(|work| {
                let cost = work.record.cost();
                (work, cost)
            }));
        }
        for (shard, batch) in outgoing.remote.iter_mut().enumerate() {
            let joined = std::mem::take(&mut outgoing.joined[shard]);
            if batch.is_empty() && !joined {
                continue;
            }
            let mut batch = std::mem::take(batch);
            batch.transaction = if joined { transaction } else { None };
            let bytes = batch.bytes();
            shared.routers[shard].push(RouterWork::Deliver(batch), bytes);
            if !shared.routers[shard].has_room() {
                self.remote_is_full();
            }
        }
        if let Some(cluster) = &shared.cluster {
            for message in outgoing.broadcast.drain(..) {
                cluster.work.push(PeerWork::Broadcast(message), 1024);
            }
            for (node, batch) in (0..).zip(&mut outgoing.peers) {
                if batch.count > 0 {
                    let PeerBatch { body, count, tokens, queues } = std::mem::take(batch);
                    let bytes = body.len();
                    let work = PeerWork::Publishes { node, body, count, tokens, queues };
                    cluster.work.push(work, bytes);
                }
            }
        }
    }
}

/// Takes back what a publish has put into [`Outgoing`] when it does not get to
/// its end.
pub struct Undo<'a> {
    shard: &'a Shard,
    mark: Option<Mark>,
}

impl<'a> Undo<'a> {
    pub fn new(shard: &'a Shard) -> Self {
        Self { shard, mark: Some(shard.outgoing.borrow().mark()) }
    }
    pub fn keep(mut self) {
        self.mark = None;
    }
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        if let Some(mark) = &self.mark
            && let Ok(mut outgoing) = self.shard.outgoing.try_borrow_mut()
        {
            outgoing.rollback(mark);
        }
    }
}
