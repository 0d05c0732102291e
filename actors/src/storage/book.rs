//! What StorageActor has taken up and not answered. It lives outside the actor, so that a rebuilt
//! one writes again what its predecessor had under way: every operation is idempotent by key.
//!
//! Invariants: batches are formed in the order of the requests; a read of a session's queue is
//! begun only when every write taken up before it is done, and when no write of that session is
//! held back (a transaction that is not complete, an outbox that is full). So a reader never sees
//! a hole that is filled later. Batches are answered in their order; after a failure everything from
//! the oldest batch on is written again, in order, before anything new. A request that is held back
//! does not undo what was written meanwhile.
//! Bounds: one batch by `storage.batch_max_ops` and `storage.batch_max_bytes` (one request may go
//! past them), batches under way by `storage.max_in_flight`; parked requests by the credits of
//! those who wait for them ([`StorageBook::parked_bytes`] counts against them).

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use crate::ports::{SessionId, StoreOp};
use crate::shard::op_cost;
use crate::shared::{StorageWork, Token, Transaction};

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

/// One atomic write.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Rises from batch to batch.
    pub id: u64,
    /// What is written.
    pub ops: Arc<Vec<StoreOp>>,
    /// Who waits for it.
    pub tokens: Arc<Vec<Token>>,
    /// When it was handed to the store, last.
    pub since: Instant,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// In the store's hands.
    Writing,
    /// Durable; not answered while one before it is not.
    Written,
    /// Unknown whether it was written.
    Failed,
}

/// A page of a queue that is wanted.
#[derive(Debug, Clone)]
pub struct Read {
    /// Where the answer goes.
    pub shard: u16,
    /// See [`StorageWork::ReadQueue`].
    pub slot: u32,
    /// See [`StorageWork::ReadQueue`].
    pub stamp: u32,
    /// The session.
    pub session: SessionId,
    /// First sequence.
    pub from: u64,
    /// Entries at most.
    pub limit: usize,
    /// Every batch up to this one is done before the read begins.
    after: u64,
    /// Tells reads apart.
    pub id: u64,
}

#[derive(Debug, Default)]
struct Request {
    ops: Vec<StoreOp>,
    tokens: Vec<Token>,
    /// Its place among all requests.
    number: u64,
    /// Of what is gathered, and while it is parked.
    bytes: usize,
}

impl Request {
    fn has_outbox(&self) -> bool {
        self.ops.iter().any(|op| matches!(op, StoreOp::PutOutbox { .. }))
    }

    /// The sessions to whose queues it adds, one for each entry.
    fn queues(&self) -> impl Iterator<Item = SessionId> {
        self.ops.iter().filter_map(|op| match op {
            StoreOp::PutQueued { id, .. } => Some(*id),
            _ => None,
        })
    }
}

fn cost(ops: &[StoreOp]) -> usize {
    ops.iter().map(op_cost).sum()
}

#[derive(Debug, Default)]
struct Assembly {
    parts: HashMap<usize, Request>,
    arrived: u16,
}

/// See the module.
#[derive(Debug, Default)]
pub struct StorageBook {
    /// Handed to the store, oldest first.
    pub in_flight: VecDeque<Batch>,
    /// Wanted pages that nobody reads yet, in the order of the requests.
    waiting: Vec<Read>,
    /// Pages that are being read, by the read's id.
    begun: HashMap<u64, Read>,
    assembling: HashMap<u64, Assembly>,
    parked: VecDeque<Request>,
    parked_bytes: usize,
    /// Queue entries of requests that are held back; true: the subscriber has it already.
    held_entries: HashMap<(SessionId, u64), bool>,
    /// How many entries of a session's queue are in requests that are held back; none: no row.
    held_sessions: HashMap<SessionId, usize>,
    /// Clients whose will was replaced while something was held back, by which request.
    new_wills: HashMap<Arc<str>, u64>,
    next_request: u64,
    next: Request,
    next_batch: u64,
    next_read: u64,
}

impl StorageBook {
    /// Operations taken up for the next batch.
    pub fn gathered(&self) -> usize {
        self.next.ops.len()
    }

    /// Their bytes.
    pub fn gathered_bytes(&self) -> usize {
        self.next.bytes
    }

    /// Something is gathered for the next batch.
    pub fn has_next(&self) -> bool {
        !self.next.ops.is_empty() || !self.next.tokens.is_empty()
    }

    /// Requests that wait for room in the outbox.
    pub fn parked(&self) -> usize {
        self.parked.len()
    }

    /// Their bytes.
    pub fn parked_bytes(&self) -> usize {
        self.parked_bytes
    }

    /// Takes a request up. `outbox_full`: requests with an outbox entry are parked.
    pub fn take_up(&mut self, work: StorageWork, outbox_full: bool) {
        match work {
            StorageWork::Write { ops, tokens, transaction } => {
                self.next_request += 1;
                let request = Request { ops, tokens, number: self.next_request, bytes: 0 };
                self.look_ahead(&request);
                if let Some(request) = self.assemble(request, transaction) {
                    self.gather(request, outbox_full);
                }
            }
            StorageWork::ReadQueue { shard, slot, stamp, session, from, limit } => {
                self.next_read += 1;
                // What is gathered becomes the next batch.
                let after = self.next_batch + u64::from(self.has_next());
                let id = self.next_read;
                self.waiting.push(Read { shard, slot, stamp, session, from, limit, after, id });
            }
        }
    }

    /// The whole transaction once its last part is here.
    fn assemble(&mut self, request: Request, transaction: Option<Transaction>) -> Option<Request> {
        let Some(Transaction { id, parts }) = transaction else { return Some(request) };
        self.hold(&request);
        let assembly = self.assembling.entry(id).or_default();
        let at = assembly.parts.len();
        assembly.parts.insert(at, request);
        assembly.arrived += 1;
        if assembly.arrived < parts {
            return None;
        }
        let mut assembly = self.assembling.remove(&id)?;
        let number = assembly.parts.values().map(|part| part.number).min().unwrap_or(0);
        let mut whole = Request { number, ..Request::default() };
        for at in 0..usize::from(assembly.arrived) {
            if let Some(mut part) = assembly.parts.remove(&at) {
                whole.ops.append(&mut part.ops);
                whole.tokens.append(&mut part.tokens);
            }
        }
        self.let_go(&mut whole);
        Some(whole)
    }

    /// Something is held back while requests behind it are written.
    fn holds_back(&self) -> bool {
        !self.parked.is_empty() || !self.assembling.is_empty()
    }

    /// What this request does to those that are held back: it will be written before them.
    fn look_ahead(&mut self, request: &Request) {
        if !self.holds_back() {
            return;
        }
        for op in &request.ops {
            match op {
                StoreOp::DeleteQueued { id, sequence } => {
                    if let Some(gone) = self.held_entries.get_mut(&(*id, *sequence)) {
                        *gone = true;
                    }
                }
                StoreOp::PutWill { will } => {
                    self.new_wills.insert(Arc::clone(&will.client_id), request.number);
                }
                _ => {}
            }
        }
    }

    fn hold(&mut self, request: &Request) {
        for op in &request.ops {
            if let StoreOp::PutQueued { id, entry } = op {
                self.held_entries.insert((*id, entry.sequence), false);
                *self.held_sessions.entry(*id).or_default() += 1;
            }
        }
    }

    /// The request is held back no longer: without what is no longer true, and reads of the queues
    /// that it adds to wait for it.
    fn let_go(&mut self, request: &mut Request) {
        for session in request.queues() {
            if let Entry::Occupied(mut held) = self.held_sessions.entry(session) {
                *held.get_mut() -= 1;
                if *held.get() == 0 {
                    held.remove();
                }
            }
        }
        let (held, wills, number) = (&mut self.held_entries, &self.new_wills, request.number);
        request.ops.retain(|op| match op {
            StoreOp::PutQueued { id, entry } => held.remove(&(*id, entry.sequence)) != Some(true),
            StoreOp::DeleteWill { client_id } => {
                wills.get(client_id).is_none_or(|new| *new < number)
            }
            _ => true,
        });
        if !self.holds_back() {
            self.new_wills.clear();
        }
        if self.waiting.is_empty() {
            return;
        }
        let added: HashSet<SessionId> = request.queues().collect();
        for read in &mut self.waiting {
            if added.contains(&read.session) {
                read.after = self.next_batch + 1;
            }
        }
    }

    /// Adds a request to the next batch.
    fn add(&mut self, mut request: Request) {
        self.next.bytes += cost(&request.ops);
        self.next.ops.append(&mut request.ops);
        self.next.tokens.append(&mut request.tokens);
    }

    fn gather(&mut self, mut request: Request, outbox_full: bool) {
        if (outbox_full || !self.parked.is_empty()) && request.has_outbox() {
            request.bytes = cost(&request.ops);
            self.parked_bytes += request.bytes;
            self.hold(&request);
            self.parked.push_back(request);
            return;
        }
        self.add(request);
    }

    /// The outbox has room again: the oldest parked request joins the next batch.
    pub fn unpark(&mut self) -> bool {
        match self.parked.pop_front() {
            Some(mut request) => {
                self.parked_bytes -= request.bytes;
                self.let_go(&mut request);
                self.add(request);
                true
            }
            None => false,
        }
    }

    /// What is gathered becomes a batch under way. `finish` gives outbox entries their positions.
    pub fn form(&mut self, finish: impl FnOnce(&mut [StoreOp])) -> Option<Batch> {
        if !self.has_next() {
            return None;
        }
        let mut request = std::mem::take(&mut self.next);
        finish(&mut request.ops);
        self.next_batch += 1;
        let batch = Batch {
            id: self.next_batch,
            ops: Arc::new(request.ops),
            tokens: Arc::new(request.tokens),
            since: Instant::now(),
            stage: Stage::Writing,
        };
        self.in_flight.push_back(batch.clone());
        Some(batch)
    }

    /// The store has answered about a batch: it is durable, or nobody knows.
    pub fn answered(&mut self, id: u64, durable: bool) {
        if let Some(batch) = self.in_flight.iter_mut().find(|batch| batch.id == id) {
            batch.stage = if durable { Stage::Written } else { Stage::Failed };
        }
    }

    /// The oldest batch, when it is durable. Its waiters are told, then [`Self::forget_oldest`].
    pub fn oldest_written(&self) -> Option<Batch> {
        self.in_flight.front().filter(|batch| batch.stage == Stage::Written).cloned()
    }

    /// The oldest batch is over.
    pub fn forget_oldest(&mut self) {
        self.in_flight.pop_front();
    }

    /// A batch failed: nothing new is written before it.
    pub fn has_failed(&self) -> bool {
        self.in_flight.iter().any(|batch| batch.stage == Stage::Failed)
    }

    /// A batch failed and the store has answered about every other: all are written again.
    pub fn must_write_again(&self) -> bool {
        self.has_failed() && self.in_flight.iter().all(|batch| batch.stage != Stage::Writing)
    }

    /// Every batch under way, in order, to be handed to the store again.
    pub fn write_again(&mut self) -> Vec<Batch> {
        for batch in &mut self.in_flight {
            batch.stage = Stage::Writing;
            batch.since = Instant::now();
        }
        self.in_flight.iter().cloned().collect()
    }

    /// Reads that may begin now; they count as begun. One look at each read that waits.
    pub fn ready_reads(&mut self) -> Vec<Read> {
        if self.waiting.is_empty() {
            return Vec::new();
        }
        let oldest = self.in_flight.front().map_or(u64::MAX, |batch| batch.id);
        let next = self.next_batch + 1;
        let gathered = self.has_next();
        let held = &self.held_sessions;
        let ready: Vec<Read> = self
            .waiting
            .extract_if(.., |read| {
                let written = read.after < oldest && !(gathered && read.after >= next);
                written && !held.contains_key(&read.session)
            })
            .collect();
        self.begun.extend(ready.iter().map(|read| (read.id, read.clone())));
        ready
    }

    /// A read is answered.
    pub fn read_done(&mut self, id: u64) {
        self.begun.remove(&id);
    }

    /// A read failed, or its actor died (`None`: every one): it begins again.
    pub fn read_again(&mut self, id: Option<u64>) {
        match id {
            Some(id) => self.waiting.extend(self.begun.remove(&id)),
            None => {
                self.waiting.extend(self.begun.drain().map(|(_, read)| read));
                self.waiting.sort_unstable_by_key(|read| read.id);
            }
        }
    }

    /// Nothing is under way or held back.
    pub fn is_idle(&self) -> bool {
        self.in_flight.is_empty()
            && !self.has_next()
            && !self.holds_back()
            && self.waiting.is_empty()
            && self.begun.is_empty()
    }
}
