//! What StorageActor has admitted and not answered. It lives outside the actor, so that a rebuilt
//! one writes again what its predecessor had under way: every operation is idempotent by key.
//!
//! Invariants: what one worker asks for is done in its order, also where a transaction of its own
//! waits for other workers' parts: its later writes and reads stand in line behind it. The parts
//! themselves stand in no line, or two workers would wait for each other. A read of a session's
//! queue is begun only when every write admitted before it is done, and when no write of that
//! session is held back (it stands in a line, or the outbox is full). So a reader never sees
//! a hole that is filled later. Batches are answered in their order; after a failure everything from
//! the oldest batch on is written again, in order, before anything new. A request that is held back
//! does not undo what was written meanwhile (`deferred`).
//! Bounds: one batch by `storage.batch_max_ops` and `storage.batch_max_bytes` (one request may go
//! past them), batches under way by `storage.max_in_flight`; requests that are held back by the
//! credits of those who wait for them ([`WriteQueue::parked_bytes`] counts against them).

mod deferred;
mod request;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use crate::messages::{CompletionToken, StorageWork, Transaction};
use crate::ports::{SessionId, StoreOp};
use deferred::DeferredWrites;
use request::{Request, cost};

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
pub(crate) mod tests;

/// One atomic write.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Rises from batch to batch.
    pub id: u64,
    /// What is written.
    pub ops: Arc<Vec<StoreOp>>,
    /// Who waits for it.
    pub tokens: Arc<Vec<CompletionToken>>,
    /// When it was handed to the store, last.
    pub since: Instant,
    /// Sessions to whose queues it adds, in order.
    queues: Arc<[SessionId]>,
    stage: Stage,
}

/// The session to whose queue an operation adds.
fn queue_of(op: &StoreOp) -> Option<SessionId> {
    match op {
        StoreOp::PutQueued { id, .. } => Some(*id),
        _ => None,
    }
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
    pub worker: u16,
    /// See [`StorageWork::ReadQueue`].
    pub slot: u32,
    /// See [`StorageWork::ReadQueue`].
    pub request: u32,
    /// The session.
    pub session: SessionId,
    /// First sequence.
    pub from: u64,
    /// One past the last that is wanted.
    until: u64,
    /// Entries at most.
    pub limit: usize,
    /// See [`StorageWork::ReadQueue`].
    pub max_bytes: usize,
    /// Every batch up to this one is done before the read begins.
    after: u64,
    /// Tells reads apart.
    pub id: u64,
}

#[derive(Debug, Default)]
struct Assembly {
    parts: Vec<Request>,
    /// How many make it up.
    expected: usize,
    /// The worker in whose line it stands.
    origin: Option<u16>,
}

impl Assembly {
    fn is_whole(&self) -> bool {
        self.parts.len() >= self.expected
    }
}

/// What stands in a worker's line.
#[derive(Debug)]
enum InLine {
    /// Its parts are in `assembling`.
    Transaction(u64),
    Write(Request),
    Read(Read),
}

/// See the module.
#[derive(Debug, Default)]
pub struct WriteQueue {
    /// Handed to the store, oldest first.
    pub in_flight: VecDeque<Batch>,
    /// Wanted pages that nobody reads yet, in the order of the requests.
    waiting: Vec<Read>,
    /// Pages that are being read, by the read's id.
    begun: HashMap<u64, Read>,
    assembling: HashMap<u64, Assembly>,
    /// By worker: its oldest transaction that is not written, and what it asked for since. None:
    /// no row.
    lines: HashMap<u16, VecDeque<InLine>>,
    /// Lines at whose front nothing is missing.
    ready: VecDeque<u16>,
    parked: VecDeque<Request>,
    deferred: DeferredWrites,
    next_request: u64,
    next: Request,
    next_batch: u64,
    next_read: u64,
}

impl WriteQueue {
    /// Whether the next batch adds to a queue to which one under way adds, too: a store that several
    /// batches are handed to at once has it wait for that one, since a queue has no holes.
    pub fn follows(&self) -> bool {
        let added = self.next.ops.iter().filter_map(queue_of);
        let mut last = None;
        added.filter(|id| last.replace(*id) != Some(*id)).any(|id| {
            let writing = self.in_flight.iter().filter(|batch| batch.stage == Stage::Writing);
            writing.rev().any(|batch| batch.queues.binary_search(&id).is_ok())
        })
    }

    /// Operations admitted for the next batch.
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

    /// Bytes of all that is admitted and held back.
    pub fn parked_bytes(&self) -> usize {
        self.deferred.bytes()
    }

    /// Admits a request. `outbox_full`: requests with an outbox entry are parked.
    pub fn admit(&mut self, work: StorageWork, outbox_full: bool) {
        match work {
            StorageWork::Write { ops, tokens, transaction, origin } => {
                self.next_request += 1;
                let mut request = Request { ops, tokens, number: self.next_request, bytes: 0 };
                if let Some(transaction) = transaction {
                    self.assemble(request, transaction, origin, outbox_full);
                } else if let Some(line) = origin.and_then(|origin| self.lines.get_mut(&origin)) {
                    self.deferred.hold(&mut request);
                    line.push_back(InLine::Write(request));
                } else {
                    self.gather(request, outbox_full);
                }
            }
            StorageWork::ReadQueue {
                worker,
                slot,
                request,
                session,
                from,
                until,
                limit,
                max_bytes,
            } => {
                self.next_read += 1;
                let id = self.next_read;
                let after = 0;
                let read = Read {
                    worker,
                    slot,
                    request,
                    session,
                    from,
                    until,
                    limit,
                    max_bytes,
                    after,
                    id,
                };
                match self.lines.get_mut(&worker) {
                    Some(line) => line.push_back(InLine::Read(read)),
                    None => self.want(read),
                }
            }
        }
    }

    /// A read waits for what was admitted before it.
    fn want(&mut self, mut read: Read) {
        // What is gathered becomes the next batch.
        read.after = self.next_batch + u64::from(self.has_next());
        // Who asks again has a new connection; the answer to the one before would be thrown away.
        self.waiting.retain(|older| older.session != read.session);
        self.waiting.push(read);
    }

    /// A part of a transaction; gathers it when it was the last and nothing is before it in its
    /// line.
    fn assemble(
        &mut self,
        mut request: Request,
        Transaction { id, parts }: Transaction,
        origin: Option<u16>,
        outbox_full: bool,
    ) {
        self.deferred.hold(&mut request);
        let assembly = self.assembling.entry(id).or_default();
        assembly.expected = usize::from(parts);
        assembly.parts.push(request);
        if let Some(origin) = origin {
            assembly.origin = Some(origin);
            self.lines.entry(origin).or_default().push_back(InLine::Transaction(id));
        }
        if !assembly.is_whole() {
            return;
        }
        let Some(origin) = assembly.origin else {
            if let Some(whole) = self.whole(id) {
                self.gather(whole, outbox_full);
            }
            return;
        };
        let front = self.lines.get(&origin).and_then(VecDeque::front);
        if matches!(front, Some(InLine::Transaction(front)) if *front == id) {
            self.ready.push_back(origin);
            self.advance(outbox_full);
        }
    }

    /// A transaction of which every part is here.
    fn whole(&mut self, id: u64) -> Option<Request> {
        let mut parts = self.assembling.remove(&id)?.parts;
        let number = parts.iter().map(|part| part.number).min().unwrap_or(0);
        let mut whole = Request { number, ..Request::default() };
        for part in &mut parts {
            self.let_go(part);
            whole.ops.append(&mut part.ops);
            whole.tokens.append(&mut part.tokens);
        }
        Some(whole)
    }

    /// One request leaves its line; false when there is none that may.
    pub fn advance(&mut self, outbox_full: bool) -> bool {
        let Some(origin) = self.ready.front().copied() else { return false };
        match self.lines.get_mut(&origin).and_then(VecDeque::pop_front) {
            Some(InLine::Transaction(id)) => {
                if let Some(whole) = self.whole(id) {
                    self.gather(whole, outbox_full);
                }
            }
            Some(InLine::Write(mut request)) => {
                self.let_go(&mut request);
                self.gather(request, outbox_full);
            }
            Some(InLine::Read(read)) => self.want(read),
            None => {}
        }
        match self.lines.get(&origin).and_then(VecDeque::front) {
            None => {
                self.lines.remove(&origin);
                self.ready.pop_front();
            }
            Some(InLine::Transaction(id))
                if !self.assembling.get(id).is_none_or(Assembly::is_whole) =>
            {
                self.ready.pop_front();
            }
            Some(_) => {}
        }
        true
    }

    /// The request is held back no longer; reads of the queues that it adds to wait for it.
    fn let_go(&mut self, request: &mut Request) {
        self.deferred.let_go(request);
        if self.waiting.is_empty() {
            return;
        }
        // By session, the lowest; what a read does not want does not hold it up.
        let mut added: HashMap<SessionId, u64> = HashMap::new();
        for (session, sequence) in request.queued() {
            let lowest = added.entry(session).or_insert(sequence);
            *lowest = sequence.min(*lowest);
        }
        if added.is_empty() {
            return;
        }
        for read in &mut self.waiting {
            if added.get(&read.session).is_some_and(|sequence| *sequence < read.until) {
                read.after = self.next_batch + 1;
            }
        }
    }

    /// Adds a request to the next batch.
    fn add(&mut self, mut request: Request) {
        self.deferred.written_before(&request.ops, request.number);
        self.next.bytes += cost(&request.ops);
        self.next.ops.append(&mut request.ops);
        self.next.tokens.append(&mut request.tokens);
    }

    fn gather(&mut self, mut request: Request, outbox_full: bool) {
        if (outbox_full || !self.parked.is_empty()) && request.has_outbox() {
            let (ops, number) = (request.split_off(), request.number);
            self.deferred.hold(&mut request);
            self.parked.push_back(request);
            // Held first: what ends a session ends what is parked of it.
            self.add(Request { ops, number, ..Request::default() });
            return;
        }
        self.add(request);
    }

    /// The outbox has room again: the oldest parked request joins the next batch.
    pub fn resume(&mut self) -> bool {
        match self.parked.pop_front() {
            Some(mut request) => {
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
        let mut queues: Vec<SessionId> = request.ops.iter().filter_map(queue_of).collect();
        queues.sort_unstable();
        queues.dedup();
        let batch = Batch {
            queues: queues.into(),
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
        let deferred = &self.deferred;
        let ready: Vec<Read> = self
            .waiting
            .extract_if(.., |read| {
                let written = read.after < oldest && !(gathered && read.after >= next);
                written && !deferred.has_entries(read.session, read.until)
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
            && self.parked.is_empty()
            && self.assembling.is_empty()
            && self.lines.is_empty()
            && self.waiting.is_empty()
            && self.begun.is_empty()
    }
}
