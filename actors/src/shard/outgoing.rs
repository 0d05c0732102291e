//! What the arbiter's handlers have decided to send to StorageActor, the log actor and other
//! arbiters, until it is flushed at the end of the handler: one message each.
//!
//! It outlives a handler's panic. The router marks it before each publish, so that one that was
//! half done is taken back and begun again.

use std::sync::atomic::Ordering;

use smallvec::SmallVec;

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
    /// Set while the queue entries of another arbiter's batch are made.
    pub transaction: Option<Transaction>,
}

/// Where [`Outgoing`] stood before a publish.
#[derive(Debug, Clone)]
pub struct Mark {
    ops: usize,
    tokens: usize,
    log: usize,
    remote: SmallVec<[(usize, usize); 8]>,
}

impl Outgoing {
    pub fn new(shards: usize) -> Self {
        Self {
            ops: Vec::new(),
            tokens: Vec::new(),
            log: Vec::new(),
            remote: (0..shards).map(|_| RemoteBatch::default()).collect(),
            joined: std::iter::repeat_n(false, shards).collect(),
            transaction: None,
        }
    }

    pub fn mark(&self) -> Mark {
        Mark {
            ops: self.ops.len(),
            tokens: self.tokens.len(),
            log: self.log.len(),
            remote: self.remote.iter().map(RemoteBatch::mark).collect(),
        }
    }

    pub fn rollback(&mut self, mark: &Mark) {
        self.ops.truncate(mark.ops);
        self.tokens.truncate(mark.tokens);
        self.log.truncate(mark.log);
        for (batch, (entries, bytes)) in self.remote.iter_mut().zip(&mark.remote) {
            batch.truncate(*entries, *bytes);
        }
    }
}

/// What an operation counts with against `storage.max_pending_bytes`.
pub fn cost(op: &StoreOp) -> usize {
    match op {
        StoreOp::PutQueued { entry, .. } => entry.message.cost(),
        StoreOp::PutRetained { message } => message.cost(),
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
