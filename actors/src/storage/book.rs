//! What StorageActor has taken up and not answered. It lives outside the actor, so that a rebuilt
//! one writes again what its predecessor had under way: every operation is idempotent by key.
//!
//! Invariants: batches are formed in the order of the requests; a read of a session's queue is
//! begun only when every write taken up before it is done, and when no write of that session is
//! held back (a transaction that is not complete, an outbox that is full). So a reader never sees
//! a hole that is filled later.
//! Bounds: one batch by `storage.batch_max_ops` and `storage.batch_max_bytes` (one request may go
//! past them), batches under way by `storage.max_in_flight`; parked requests by the credits of
//! those who wait for them.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use crate::ports::{SessionId, StoreOp};
use crate::shared::{StorageWork, Token, Transaction};

/// One atomic write.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Rises from batch to batch.
    pub id: u64,
    /// What is written.
    pub ops: Arc<Vec<StoreOp>>,
    /// Who waits for it.
    pub tokens: Vec<Token>,
    /// When it was handed to the store, last.
    pub since: Instant,
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
    /// It has begun.
    pub begun: bool,
    /// Tells reads apart.
    pub id: u64,
}

#[derive(Debug, Default)]
struct Request {
    ops: Vec<StoreOp>,
    tokens: Vec<Token>,
}

impl Request {
    fn has_outbox(&self) -> bool {
        self.ops.iter().any(|op| matches!(op, StoreOp::PutOutbox { .. }))
    }

    fn touches(&self, session: SessionId) -> bool {
        self.ops.iter().any(|op| matches!(op, StoreOp::PutQueued { id, .. } if *id == session))
    }
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
    /// Wanted pages.
    pub reads: Vec<Read>,
    assembling: HashMap<u64, Assembly>,
    parked: VecDeque<Request>,
    next: Request,
    next_batch: u64,
    next_read: u64,
}

impl StorageBook {
    /// Operations taken up for the next batch.
    pub fn gathered(&self) -> usize {
        self.next.ops.len()
    }

    /// Something is gathered for the next batch.
    pub fn has_next(&self) -> bool {
        !self.next.ops.is_empty() || !self.next.tokens.is_empty()
    }

    /// Requests that wait for room in the outbox.
    pub fn parked(&self) -> usize {
        self.parked.len()
    }

    /// Takes a request up. `outbox_full`: requests with an outbox entry are parked.
    pub fn take_up(&mut self, work: StorageWork, outbox_full: bool) {
        match work {
            StorageWork::Write { ops, tokens, transaction } => {
                let request = Request { ops, tokens };
                if let Some(request) = self.assemble(request, transaction) {
                    self.gather(request, outbox_full);
                }
            }
            StorageWork::ReadQueue { shard, slot, stamp, session, from, limit } => {
                self.next_read += 1;
                // What is gathered becomes the next batch.
                let after = self.next_batch + u64::from(self.has_next());
                let id = self.next_read;
                self.reads.push(Read { shard, slot, stamp, session, from, limit, after, begun: false, id });
            }
        }
    }

    /// The whole transaction once its last part is here.
    fn assemble(&mut self, request: Request, transaction: Option<Transaction>) -> Option<Request> {
        let Some(Transaction { id, parts }) = transaction else { return Some(request) };
        let assembly = self.assembling.entry(id).or_default();
        let at = assembly.parts.len();
        assembly.parts.insert(at, request);
        assembly.arrived += 1;
        if assembly.arrived < parts {
            return None;
        }
        let mut assembly = self.assembling.remove(&id)?;
        let mut whole = Request::default();
        for at in 0..usize::from(assembly.arrived) {
            if let Some(mut part) = assembly.parts.remove(&at) {
                whole.ops.append(&mut part.ops);
                whole.tokens.append(&mut part.tokens);
            }
        }
        Some(whole)
    }

    fn gather(&mut self, mut request: Request, outbox_full: bool) {
        if (outbox_full || !self.parked.is_empty()) && request.has_outbox() {
            self.parked.push_back(request);
            return;
        }
        self.next.ops.append(&mut request.ops);
        self.next.tokens.append(&mut request.tokens);
    }

    /// The outbox has room again: the oldest parked request joins the next batch.
    pub fn unpark(&mut self) -> bool {
        match self.parked.pop_front() {
            Some(mut request) => {
                self.next.ops.append(&mut request.ops);
                self.next.tokens.append(&mut request.tokens);
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
            tokens: request.tokens,
            since: Instant::now(),
        };
        self.in_flight.push_back(batch.clone());
        Some(batch)
    }

    /// A batch is durable.
    pub fn done(&mut self, id: u64) -> Option<Batch> {
        let at = self.in_flight.iter().position(|batch| batch.id == id)?;
        self.in_flight.remove(at)
    }

    /// Reads that may begin now; they count as begun.
    pub fn ready_reads(&mut self) -> Vec<Read> {
        let oldest = self.in_flight.front().map_or(u64::MAX, |batch| batch.id);
        let next = self.next_batch + 1;
        let gathered = self.has_next();
        let mut ready = Vec::new();
        for read in &mut self.reads {
            let written = read.after < oldest && !(gathered && read.after >= next);
            let held = self.parked.iter().any(|request| request.touches(read.session))
                || self
                    .assembling
                    .values()
                    .any(|assembly| assembly.parts.values().any(|part| part.touches(read.session)));
            if !read.begun && written && !held {
                read.begun = true;
                ready.push(read.clone());
            }
        }
        ready
    }

    /// A read is answered.
    pub fn read_done(&mut self, id: u64) {
        self.reads.retain(|read| read.id != id);
    }

    /// A read failed, or its actor died: it begins again.
    pub fn read_again(&mut self, id: Option<u64>) {
        for read in &mut self.reads {
            if id.is_none_or(|id| read.id == id) {
                read.begun = false;
            }
        }
    }

    /// Nothing is under way or held back.
    pub fn is_idle(&self) -> bool {
        self.in_flight.is_empty() && !self.has_next() && self.parked.is_empty() && self.reads.is_empty()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::ports::{LogRecord, OutboxPosition, QueueEntry};
    use bytes::Bytes;
    use hydrant_protocol::{Message, QoS};

    fn queued(session: SessionId, sequence: u64) -> StoreOp {
        let message = Arc::new(Message {
            topic: "t".into(),
            payload: Bytes::new(),
            qos: QoS::AtLeastOnce,
            retain: false,
            properties: None,
        });
        let entry =
            QueueEntry { sequence, qos: QoS::AtLeastOnce, retain: false, message, outgoing: None };
        StoreOp::PutQueued { id: session, entry }
    }

    fn outbox() -> StoreOp {
        let record = LogRecord {
            id: 0,
            topic: "t".into(),
            key: None,
            payload: Bytes::new(),
            mqtt_topic: "t".into(),
            qos: QoS::AtLeastOnce,
            retain: false,
            client_id: "c".into(),
            epoch: 0,
            sequence: 0,
            outbox: None,
            received_ms: 0,
            properties: None,
        };
        StoreOp::PutOutbox { record, position: OutboxPosition { lane: 0, position: 0 } }
    }

    fn write(ops: Vec<StoreOp>, transaction: Option<Transaction>) -> StorageWork {
        StorageWork::Write { ops, tokens: Vec::new(), transaction }
    }

    fn read(session: SessionId) -> StorageWork {
        StorageWork::ReadQueue { shard: 0, slot: 0, stamp: 0, session, from: 0, limit: 10 }
    }

    #[test]
    fn a_read_waits_for_every_write_before_it() {
        let mut book = StorageBook::default();
        book.take_up(write(vec![queued(1, 1)], None), false);
        book.take_up(read(1), false);
        assert!(book.ready_reads().is_empty(), "gathered, not written");
        let batch = book.form(|_| ()).unwrap();
        assert!(book.ready_reads().is_empty(), "under way");
        book.take_up(write(vec![queued(1, 2)], None), false);
        book.done(batch.id);
        assert_eq!(book.ready_reads().len(), 1, "a write behind it does not hold it up");
        assert!(book.ready_reads().is_empty(), "begun once");
        book.read_again(None);
        assert_eq!(book.ready_reads().len(), 1);
    }

    #[test]
    fn a_transaction_is_written_when_its_last_part_is_here() {
        let mut book = StorageBook::default();
        let both = Some(Transaction { id: 9, parts: 2 });
        book.take_up(write(vec![queued(1, 1)], both), false);
        book.take_up(read(1), false);
        assert!(!book.has_next());
        assert!(book.ready_reads().is_empty(), "its session's entry is held back");
        book.take_up(write(vec![queued(2, 1)], both), false);
        let batch = book.form(|_| ()).unwrap();
        assert_eq!(batch.ops.len(), 2);
        book.done(batch.id);
        assert_eq!(book.ready_reads().len(), 1);
        assert!(!book.is_idle(), "the read is not answered");
    }

    #[test]
    fn a_full_outbox_parks_those_who_need_it_in_order_and_nobody_else() {
        let mut book = StorageBook::default();
        book.take_up(write(vec![outbox(), queued(1, 1)], None), true);
        book.take_up(write(vec![queued(2, 1)], None), true);
        // Room again, but one is parked: order among those with an outbox entry is kept.
        book.take_up(write(vec![outbox()], None), false);
        assert_eq!((book.gathered(), book.parked()), (1, 2));
        book.take_up(read(1), false);
        let batch = book.form(|_| ()).unwrap();
        book.done(batch.id);
        assert!(book.ready_reads().is_empty(), "an entry of its session is parked");
        assert!(book.unpark() && book.unpark() && !book.unpark());
        let batch = book.form(|ops| assert_eq!(ops.len(), 3)).unwrap();
        book.done(batch.id);
        assert_eq!(book.ready_reads().len(), 1);
    }
}
