//! The write queue: what is written in which batch, when it is written again, and in which order it is answered. A
//! machine of decision 0017: it has no clock, lock or inbox, and one driver steps it, StorageActor.
//!
//! It owns everything that was taken and is not answered, and outlives its driver: a rebuilt actor calls
//! [`WriteQueue::handle_restart`], and what its predecessor had under way is done again. Every operation is idempotent
//! by key.
//!
//! The families: `handle_*` takes what has happened, `poll_*` and [`WriteQueue::hand_out`] give what is to be done until
//! they give nothing any more, the rest observes. A driver tells the room in the outbox, then requests while
//! [`WriteQueue::takes`] says so, and then polls. It calls [`WriteQueue::handle_deadline`] at the time that
//! [`WriteQueue::poll_deadline`] gives, or later.
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

mod batch;
mod deferred;
mod gathering;
mod hand_out;
mod lines;
mod outbox;
mod reads;
mod request;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::log::OutboxProgress;
use crate::messages::{ManagerWork, StorageWork, Transaction};
use crate::now::{Boot, Now};
use crate::plants::{self, Plant};
use crate::ports::{QueueEntry, StoreOp};
use crate::settings::StorageSettings;
use batch::InFlight;
use deferred::DeferredWrites;
use gathering::{Gathered, Gathering};
use lines::{Assembled, Left, Lines};
use reads::Reads;
use request::{Request, cost};

pub use batch::WriteId;
pub use hand_out::{Answered, Outbox, Push};
pub use reads::{Read, ReadId};

/// For tests of drivers.
#[cfg(any(test, feature = "for-tests"))]
#[doc(hidden)]
pub use {gathering::GATHER, hand_out::HandOut, outbox::assign_positions};

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests;

/// How soon to look for room in the outbox, which comes without a message when nothing else is written.
const LOOK: Duration = Duration::from_millis(50);

/// See the module.
#[derive(Debug)]
pub struct WriteQueue {
    settings: StorageSettings,
    in_flight: InFlight,
    /// How long a failure is waited out.
    retry: Duration,
    /// When everything under way is written again; present from the last answer about it on.
    retry_at: Option<Boot>,
    reads: Reads,
    lines: Lines,
    parked: VecDeque<Request>,
    /// Requests that were ever parked.
    times_parked: u64,
    /// The outbox had no room at the last look.
    outbox_full: bool,
    /// When to look again; present while a request is parked.
    look_at: Option<Boot>,
    deferred: DeferredWrites,
    next_request: u64,
    next: Request,
    gathering: Gathering,
    out: hand_out::HandOut,
}

impl WriteQueue {
    /// An empty one.
    pub fn new(settings: &StorageSettings) -> Self {
        Self {
            settings: settings.clone(),
            in_flight: InFlight::default(),
            retry: settings.retry_min,
            retry_at: None,
            reads: Reads::default(),
            lines: Lines::default(),
            parked: VecDeque::new(),
            times_parked: 0,
            outbox_full: false,
            look_at: None,
            deferred: DeferredWrites::default(),
            next_request: 0,
            next: Request::default(),
            gathering: Gathering::default(),
            out: hand_out::HandOut::default(),
        }
    }

    /// A new driver steps the queue: what its predecessor had under way is done again.
    pub fn handle_restart(&mut self) {
        self.retry = self.settings.retry_min;
        self.retry_at = None;
        self.in_flight.restart();
        self.reads.restart();
        self.gathering.restart();
    }

    /// Whether the outbox has room. It changes without a message, so this is told before requests are.
    pub fn handle_room(&mut self, outbox_full: bool) {
        self.outbox_full = outbox_full;
        self.fill();
    }

    /// A request, while [`Self::takes`] says so.
    pub fn handle_request(&mut self, work: StorageWork) {
        self.admit(work, self.outbox_full);
        self.fill();
    }

    /// The store has answered about a write: it is durable, or nobody knows. Every operation is idempotent, so what
    /// nobody knows is written again, with everything behind it; in how long, when that is decided now. A second
    /// answer, or a late one about a write that was done again, changes nothing.
    #[must_use]
    pub fn handle_written(&mut self, now: Now, write: WriteId, durable: bool) -> Option<Duration> {
        let durable = durable || plants::is(Plant::FailureIsDone);
        if !self.in_flight.answered(write, durable) {
            return None;
        }
        if durable {
            self.reads.end_rest();
        }
        if self.in_flight.oldest_written().is_some() {
            self.retry = self.settings.retry_min;
        }
        // Batches behind the one that failed wait with it, so that none overtakes it.
        if !self.in_flight.must_write_again() {
            return None;
        }
        let wait = self.retry;
        self.retry_at = Some(now.boot + wait);
        self.retry = (wait * 2).min(self.settings.retry_max);
        Some(wait)
    }

    /// The store has found a page. A second answer changes nothing.
    pub fn handle_page(&mut self, read: ReadId, entries: Vec<QueueEntry>) {
        self.reads.found(read, entries);
    }

    /// The store has not found out: the read begins again after a while.
    pub fn handle_read_failed(&mut self, now: Now, read: ReadId) {
        self.reads.failed(read, now.boot + self.retry);
    }

    /// Does what was put off until now.
    pub fn handle_deadline(&mut self, now: Now) {
        let is_over = |at: &mut Boot| *at <= now.boot;
        if self.retry_at.take_if(is_over).is_some() {
            self.in_flight.write_again();
        }
        if self.reads.rest_until().is_some_and(|at| at <= now.boot) {
            self.reads.end_rest();
        }
        self.look_at.take_if(is_over);
        self.gathering.handle_deadline(now.boot);
    }

    /// A batch for the store, and by which name the store's answer is told.
    pub fn poll_write(
        &mut self,
        now: Now,
        outbox: &mut OutboxProgress,
    ) -> Option<(WriteId, Arc<Vec<StoreOp>>)> {
        let again = self.in_flight.write(now.boot);
        if again.is_some() {
            return again;
        }
        if self.may_form() && !self.must_wait(now) && self.has_next() {
            self.form(now, outbox);
            self.handle_room(outbox.is_full());
            return self.in_flight.write(now.boot);
        }
        if self.parked.is_empty() {
            self.look_at = None;
        } else {
            self.look_at.get_or_insert(now.boot + LOOK);
        }
        None
    }

    /// Reads for the store; they count as begun. One look at each read that waits.
    pub fn poll_reads(&mut self) -> Vec<Read> {
        let oldest = self.in_flight.oldest().unwrap_or(u64::MAX);
        let next = self.in_flight.last() + 1;
        let gathered = self.has_next();
        let deferred = &self.deferred;
        self.reads.ready(|read| {
            let written = read.after < oldest && !(gathered && read.after >= next);
            written && !deferred.has_entries(read.session, read.until)
        })
    }

    /// A page for its worker.
    pub fn poll_page(&mut self) -> Option<(u16, ManagerWork)> {
        self.reads.page()
    }

    /// Hands out what follows from the oldest batch, when it is durable: its outbox entries to the log, then the tokens
    /// of those who wait, one message a worker. `None`: there is no such batch.
    pub fn hand_out(
        &mut self,
        now: Now,
        outbox: &impl Outbox,
        log_has_room: bool,
        to: &mut impl Push,
    ) -> Option<Answered> {
        let early = plants::is(Plant::EarlyAcknowledgement);
        let batch = match early {
            true => self.in_flight.batches.front(),
            false => self.in_flight.oldest_written(),
        };
        let batch = batch?;
        outbox.lanes(|lanes| self.out.hand_to_log(&batch.ops, lanes, log_has_room, to));
        self.out.answer(&batch.tokens, to);
        let answered = Answered { ops: batch.ops.len(), took: now.boot.since(batch.since) };
        // Only now: a panic in between answers again, which changes nothing.
        self.in_flight.forget_oldest();
        Some(answered)
    }

    /// When [`Self::handle_deadline`] has something to do.
    pub fn poll_deadline(&self) -> Option<Boot> {
        let waits = [self.retry_at, self.reads.rest_until(), self.look_at, self.gathering.until()];
        waits.into_iter().flatten().min()
    }

    /// Whether requests are taken. What is not taken waits in the inbox, where its bytes count.
    pub fn takes(&self) -> bool {
        self.may_form() && !self.is_full() && !self.lines.may_advance()
    }

    /// Another batch may be formed.
    fn may_form(&self) -> bool {
        self.in_flight.len() < self.settings.max_in_flight && !self.in_flight.has_failed()
    }

    /// The next batch is full.
    fn is_full(&self) -> bool {
        self.gathered() >= self.settings.batch_max_ops
            || self.gathered_bytes() >= self.settings.batch_max_bytes
    }

    /// What is held back and may go on joins the next batch, until that is full.
    fn fill(&mut self) {
        if self.may_form() {
            while !self.is_full() && !self.outbox_full && self.resume() {}
            // What stands in a line came before what is in the inbox.
            while !self.is_full() && self.advance(self.outbox_full) {}
        }
    }

    fn must_wait(&mut self, now: Now) -> bool {
        let next = self.has_next().then(|| Gathered {
            ops: self.gathered(),
            bytes: self.gathered_bytes(),
            alone: self.in_flight.is_empty(),
            // A store that several batches are handed to at once has it wait for that one, since a queue has no holes.
            follows: self.in_flight.add_to_queues_of(&self.next.ops),
        });
        self.gathering.must_wait(now.boot, &self.settings, next)
    }

    /// Another wait for company than the usual one.
    #[cfg(any(test, feature = "for-tests"))]
    pub fn set_company(&mut self, company: Duration) {
        self.gathering.set_company(company);
    }

    /// Batches handed to the store and not answered.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
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
    fn has_next(&self) -> bool {
        !self.next.ops.is_empty() || !self.next.tokens.is_empty()
    }

    /// Requests that wait for room in the outbox.
    pub fn parked(&self) -> usize {
        self.parked.len()
    }

    /// Requests that began to wait for it since this was asked.
    pub fn take_times_parked(&mut self) -> u64 {
        std::mem::take(&mut self.times_parked)
    }

    /// Bytes of all that is admitted and held back.
    pub fn parked_bytes(&self) -> usize {
        self.deferred.bytes()
    }

    /// `outbox_full`: requests with an outbox entry are parked.
    fn admit(&mut self, work: StorageWork, outbox_full: bool) {
        match work {
            StorageWork::Write { ops, tokens, transaction, origin } => {
                self.next_request += 1;
                let mut request = Request { ops, tokens, number: self.next_request, bytes: 0 };
                if let Some(transaction) = transaction {
                    self.assemble(request, transaction, origin, outbox_full);
                } else if let Some(origin) = origin.filter(|origin| self.lines.has(*origin)) {
                    self.deferred.hold(&mut request);
                    self.lines.push_write(origin, request);
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
                let id = self.reads.next_id();
                let (after, rests) = (0, false);
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
                    rests,
                    id,
                };
                if self.lines.has(worker) {
                    self.lines.push_read(worker, read);
                } else {
                    self.want(read);
                }
            }
        }
    }

    /// A read waits for what was admitted before it.
    fn want(&mut self, read: Read) {
        // What is gathered becomes the next batch.
        let after = self.in_flight.last() + u64::from(self.has_next());
        self.reads.want(read, after);
    }

    /// A part of a transaction; gathers it when it was the last and nothing is before it in its
    /// line.
    fn assemble(
        &mut self,
        mut request: Request,
        transaction: Transaction,
        origin: Option<u16>,
        outbox_full: bool,
    ) {
        self.deferred.hold(&mut request);
        match self.lines.assemble(request, transaction, origin) {
            Assembled::Waits => {}
            Assembled::Ready => _ = self.advance(outbox_full),
            Assembled::Whole(parts) => {
                let whole = self.join(parts);
                self.gather(whole, outbox_full);
            }
        }
    }

    /// One request of all parts of a transaction.
    fn join(&mut self, mut parts: Vec<Request>) -> Request {
        let number = parts.iter().map(|part| part.number).min().unwrap_or(0);
        let mut whole = Request { number, ..Request::default() };
        for part in &mut parts {
            self.let_go(part);
            whole.ops.append(&mut part.ops);
            whole.tokens.append(&mut part.tokens);
        }
        whole
    }

    /// One request leaves its line; false when there is none that may.
    fn advance(&mut self, outbox_full: bool) -> bool {
        let Some(left) = self.lines.advance() else { return false };
        match left {
            Left::Whole(parts) => {
                let whole = self.join(parts);
                self.gather(whole, outbox_full);
            }
            Left::Write(mut request) => {
                self.let_go(&mut request);
                self.gather(request, outbox_full);
            }
            Left::Read(read) => self.want(read),
            Left::Nothing => {}
        }
        true
    }

    /// The request is held back no longer; reads of the queues that it adds to wait for it.
    fn let_go(&mut self, request: &mut Request) {
        self.deferred.let_go(request);
        self.reads.wait_for(request, self.in_flight.last() + 1);
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
            self.times_parked += 1;
            // Held first: what ends a session ends what is parked of it.
            self.add(Request { ops, number, ..Request::default() });
            return;
        }
        self.add(request);
    }

    /// The outbox has room again: the oldest parked request joins the next batch.
    fn resume(&mut self) -> bool {
        match self.parked.pop_front() {
            Some(mut request) => {
                self.let_go(&mut request);
                self.add(request);
                true
            }
            None => false,
        }
    }

    /// What is gathered becomes a batch, which is due.
    fn form(&mut self, now: Now, progress: &mut OutboxProgress) {
        // In its place: a panic leaves what is gathered where it is.
        outbox::assign_positions(progress, &mut self.next.ops);
        let request = std::mem::take(&mut self.next);
        self.in_flight.form(now.boot, request);
    }

    /// A batch failed, and none was written since.
    pub fn has_failed(&self) -> bool {
        self.in_flight.has_failed()
    }

    /// Nothing is under way or held back.
    pub fn is_idle(&self) -> bool {
        self.in_flight.is_empty()
            && !self.has_next()
            && self.parked.is_empty()
            && self.lines.is_empty()
            && self.reads.is_empty()
    }
}
