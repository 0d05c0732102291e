//! The log queue in virtual time: its log, store and tables are played by the test, step by step.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hydrant_protocol::OnRefused;

use super::*;
use crate::log::dead::{DeadBook, DeadState};
use crate::log::outbox_progress::OutboxProgress;
use crate::messages::{AckSource, CompletionToken};
use crate::now::Wall;
use crate::ports::{DeadId, DeadLetter, LogError, LogOp, OutboxPosition, StoreError, StoreOp};

mod history;
mod lanes;
mod letters;
mod sending;

const MS: Duration = Duration::from_millis(1);

/// The tables, and what the log says about topics.
struct World {
    lanes: RefCell<OutboxProgress>,
    book: RefCell<DeadBook>,
    full: RefCell<Vec<&'static str>>,
}

impl Outside for World {
    fn lanes<R>(&self, act: impl FnOnce(&mut OutboxProgress) -> R) -> R {
        act(&mut self.lanes.borrow_mut())
    }
    fn book<R>(&self, act: impl FnOnce(&mut DeadBook) -> R) -> R {
        act(&mut self.book.borrow_mut())
    }
    fn takes(&self, topic: &str) -> bool {
        !self.full.borrow().contains(&topic)
    }
}

/// What was pushed, in order.
#[derive(Debug, PartialEq)]
enum Pushed {
    /// Its sequence, what it was for the book then, where it moves a cursor, and who waits for it.
    Letter(u64, Option<DeadState>, Option<u64>, Vec<u32>),
    Removals(Vec<DeadId>),
    Cursors(Vec<(u16, u64)>),
    Completed(usize, Vec<u32>),
    Refused(u32),
}

struct Inboxes {
    world: Rc<World>,
    pushed: Vec<Pushed>,
    /// Pushes until one panics.
    panics_in: Option<usize>,
}

impl Inboxes {
    fn push(&mut self, pushed: Pushed) {
        if let Some(left) = &mut self.panics_in {
            *left = left.checked_sub(1).unwrap_or_else(|| panic!("the push panics"));
        }
        self.pushed.push(pushed);
    }
}

fn ids(tokens: impl IntoIterator<Item = CompletionToken>) -> Vec<u32> {
    tokens.into_iter().map(|token| token.pending).collect()
}

impl Push for Inboxes {
    fn storage(&mut self, ops: Vec<StoreOp>, tokens: Vec<CompletionToken>, _: usize) {
        let cursors = ops.iter().filter_map(|op| match op {
            StoreOp::Log(LogOp::MoveCursor { lane, position }) => Some((*lane, *position)),
            _ => None,
        });
        let cursors: Vec<_> = cursors.collect();
        let removals = ops.iter().filter_map(|op| match op {
            StoreOp::Log(LogOp::DropDeadLetter { id }) => Some(*id),
            _ => None,
        });
        let removals: Vec<_> = removals.collect();
        let pushed = match &ops[0] {
            StoreOp::Log(LogOp::PutDeadLetter { letter }) => {
                let state = self.world.book.borrow().state(letter.id);
                let cursor = cursors.first().map(|(_, position)| *position);
                Pushed::Letter(letter.record.sequence, state, cursor, ids(tokens))
            }
            StoreOp::Log(LogOp::DropDeadLetter { .. }) => Pushed::Removals(removals),
            _ => Pushed::Cursors(cursors),
        };
        self.push(pushed);
    }
    fn completed(&mut self, worker: usize, tokens: VecDeque<CompletionToken>) {
        self.push(Pushed::Completed(worker, ids(tokens)));
    }
    fn refused(&mut self, token: CompletionToken) {
        self.push(Pushed::Refused(token.pending));
    }
}

/// Drives the queue as LogActor does.
struct Driver {
    queue: LogQueue,
    world: Rc<World>,
    inboxes: Inboxes,
    now: Now,
    /// Ids of the records in the log's hands, by sequence.
    in_log: BTreeMap<u64, u64>,
    /// Sequences that the log was handed in this step.
    sent: Vec<u64>,
    /// Records that the log has room for.
    room: usize,
    orders: Vec<LogOrder>,
}

impl Driver {
    fn new(change: impl FnOnce(&mut LogSettings)) -> Self {
        let mut settings = crate::settings::Settings::for_tests(2).log;
        settings.retry_min = 100 * MS;
        settings.retry_max = 400 * MS;
        settings.max_pending_bytes = 1 << 20;
        change(&mut settings);
        let world = Rc::new(World {
            lanes: RefCell::new(OutboxProgress::new(2, 1 << 20, &[])),
            book: RefCell::new(DeadBook::new(settings.dead_letter_max_bytes)),
            full: RefCell::default(),
        });
        let inboxes = Inboxes { world: Rc::clone(&world), pushed: Vec::new(), panics_in: None };
        Self {
            queue: LogQueue::new(&settings, 2),
            world,
            inboxes,
            now: Now { boot: Boot(1_000_000), wall: Wall(7_000_000) },
            in_log: BTreeMap::new(),
            sent: Vec::new(),
            room: usize::MAX,
            orders: Vec::new(),
        }
    }

    /// One step, as the actor makes it, with this work in the inbox.
    fn step_with(&mut self, work: Vec<LogWork>, act: impl FnOnce(&mut LogQueue, Now, &World)) {
        let world = Rc::clone(&self.world);
        self.sent.clear();
        self.orders.clear();
        self.inboxes.pushed.clear();
        act(&mut self.queue, self.now, &world);
        self.queue.handle_turn(self.now, &*world);
        self.queue.hand_out(&*world, &mut self.inboxes);
        for work in work {
            assert!(self.queue.has_room());
            self.queue.handle_work(&*world, work);
        }
        while let Some(batch) = self.queue.poll_append(self.now) {
            assert!(!batch.is_empty());
            let (took, left) = batch.split_at(self.room.min(batch.len()));
            self.room -= took.len();
            self.in_log.extend(took.iter().map(|record| (record.sequence, record.id)));
            self.sent.extend(took.iter().map(|record| record.sequence));
            if let Some(first) = left.first() {
                self.queue.handle_given_back(first.id);
            }
        }
        while let Some(order) = self.queue.poll_order(&*world) {
            self.orders.push(order);
        }
    }

    fn step(&mut self, act: impl FnOnce(&mut LogQueue, Now, &World)) {
        self.step_with(Vec::new(), act);
    }

    fn admit(&mut self, work: Vec<LogWork>) {
        self.step_with(work, |_, _, _| {});
    }

    /// Reports on records in the log's hands, in one step.
    fn report(&mut self, reports: Vec<(u64, Result<(), LogError>)>) {
        let mut id_of = |sequence| self.in_log.remove(&sequence).unwrap();
        let reports: Vec<Report> = reports
            .into_iter()
            .map(|(sequence, result)| Report { id: id_of(sequence), result })
            .collect();
        self.step(|queue, now, _| {
            for report in reports {
                queue.handle_report(now, report);
            }
        });
    }

    /// The store answers a read of the outbox.
    fn page(&mut self, order: LogOrder, page: Result<Vec<LogRecord>, StoreError>) {
        let LogOrder::ReadOutbox { id, .. } = order else { panic!("{order:?}") };
        self.step(|queue, now, world| queue.handle_outbox_page(now, world, id, page));
    }

    /// Time passes, and the timer fires where it is due.
    fn pass(&mut self, time: Duration) {
        self.now.boot = self.now.boot + time;
        match self.queue.poll_deadline() {
            Some(at) if at <= self.now.boot => {
                self.step(|queue, now, _| queue.handle_deadline(now))
            }
            _ => self.step(|_, _, _| {}),
        }
    }

    /// How long until the timer fires.
    fn pause(&self) -> Option<Duration> {
        self.queue.poll_deadline().map(|at| at.since(self.now.boot))
    }

    /// A record of the outbox, in lane 0, that is durable. `room`: the log actor's inbox has room for it.
    fn store(&self, sequence: u64, topic: &str, room: bool) -> LogRecord {
        let mut record = record(sequence);
        record.topic = topic.into();
        let mut lanes = self.world.lanes.borrow_mut();
        let position = lanes.assign(0, record.cost() as u64);
        assert_eq!(lanes.durable(0, position, room), room);
        record.outbox = Some(OutboxPosition { lane: 0, position });
        record
    }

    /// The same, as work in the inbox.
    fn stored(&self, sequence: u64, topic: &str) -> LogWork {
        let record = self.store(sequence, topic, true);
        LogWork { record, token: None, on_refused: OnRefused::DeadLetter }
    }

    fn kinds(&self) -> Vec<&'static str> {
        let kind = |pushed: &Pushed| match pushed {
            Pushed::Letter(..) => "letter",
            Pushed::Removals(_) => "removals",
            Pushed::Cursors(_) => "cursors",
            Pushed::Completed(..) => "completed",
            Pushed::Refused(_) => "refused",
        };
        self.inboxes.pushed.iter().map(kind).collect()
    }
}

fn record(sequence: u64) -> LogRecord {
    LogRecord { received_ms: sequence, ..LogRecord::for_tests(sequence) }
}

/// A publish of level `kafka`: its publisher waits for the log.
fn waited_for(sequence: u64, on_refused: OnRefused) -> LogWork {
    let pending = u32::try_from(sequence).unwrap();
    let worker = u16::from(sequence % 2 == 1);
    let token = Some(CompletionToken { worker, source: AckSource::Log, pending, generation: 0 });
    LogWork { record: record(sequence), token, on_refused }
}

fn publish(sequence: u64) -> LogWork {
    waited_for(sequence, OnRefused::DeadLetter)
}

fn away() -> Result<(), LogError> {
    Err(LogError::Unavailable("away".into()))
}

fn refused() -> Result<(), LogError> {
    Err(LogError::Refused("too large".into()))
}
