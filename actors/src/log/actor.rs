//! See the module above.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use actix::{
    Actor, ActorContext, ActorFutureExt, AsyncContext, Context, Handler, StreamHandler, WrapFuture,
};
use futures_util::StreamExt;
use parking_lot::Mutex;

use super::state::{Kind, LogState, Outcome, Owed};
use crate::clock;
use crate::every::every;
use crate::inbox::Inbox;
use crate::mailboxes::Mailboxes;
use crate::messages::{CompletionToken, ManagerWork, StorageWork};
use crate::node_tables::NodeTables;
use crate::ports::{DeadId, LogRecord, MessageLog, Report, SessionStore, StoreError, StoreOp};
use crate::say;
use crate::step_guard::StepGuard;
use crate::supervision::{ActorCell, Ping, Running, on_ping};

/// Records handed to the log in one call.
const APPEND_AT_ONCE: usize = 4096;
/// Records read from a lane in one go, and their bytes.
pub(super) const READ_RECORDS: usize = 4096;
pub(super) const READ_BYTES: usize = 4 * 1024 * 1024;

/// What the actor's streams yield.
#[derive(Debug, Clone, Copy)]
pub enum LogEvent {
    /// Records wait in the inbox.
    Work,
    /// Reports wait.
    Reports,
    /// The store has done something with dead letters, or they are to be sent again.
    Dead,
}

/// What the log actor is made of; clones share everything.
#[derive(Clone)]
pub struct LogParts {
    /// What the actors share.
    pub shared: Arc<NodeTables>,
    /// The inboxes of the node's actors.
    pub mailboxes: Arc<Mailboxes>,
    /// The message log.
    pub log: Arc<dyn MessageLog>,
    /// Where lanes that are behind are read from.
    pub store: Arc<dyn SessionStore>,
    /// Records under way.
    pub state: Arc<Mutex<LogState>>,
    /// What the log reports.
    pub reports: Inbox<Vec<Report>>,
}

/// See the module.
pub struct LogActor {
    pub(super) parts: LogParts,
    pub(super) cell: Arc<ActorCell>,
    /// A lane is being read from the store.
    reading: bool,
    /// So is what is to be sent again.
    pub(super) reading_again: bool,
    /// The lane whose turn it is to be read.
    next_lane: u16,
    /// Sending again is set for later.
    rewinding: bool,
    pub(super) retry: Duration,
}

impl LogActor {
    /// What every incarnation of the actor works with. Call once; sets the log's report sink.
    pub fn parts(
        shared: &Arc<NodeTables>,
        mailboxes: &Arc<Mailboxes>,
        log: Arc<dyn MessageLog>,
        store: Arc<dyn SessionStore>,
    ) -> LogParts {
        let reports: Inbox<Vec<Report>> = Inbox::new(usize::MAX, usize::MAX);
        let sink = reports.clone();
        log.on_report(Box::new(move |batch| sink.push(batch, 0)));
        let (shared, mailboxes) = (Arc::clone(shared), Arc::clone(mailboxes));
        LogParts { shared, mailboxes, log, store, state: Arc::default(), reports }
    }

    /// Prepares the actor; on its arbiter.
    pub fn build(parts: &LogParts, cell: &Arc<ActorCell>) -> Running {
        let retry = parts.shared.settings.log.retry_min;
        let work = parts.mailboxes.log.stream().map(|_| LogEvent::Work);
        let reports = parts.reports.stream().map(|_| LogEvent::Reports);
        let dead = parts.mailboxes.dead_letters.stream().map(|_| LogEvent::Dead);
        let actor = Self {
            parts: parts.clone(),
            cell: Arc::clone(cell),
            reading: false,
            reading_again: false,
            next_lane: 0,
            rewinding: false,
            retry,
        };
        Running::new(actor, |ctx| {
            LogActor::add_stream(reports, ctx);
            LogActor::add_stream(dead, ctx);
            LogActor::add_stream(work, ctx);
        })
    }

    fn has_room(&self, state: &LogState) -> bool {
        let settings = &self.parts.shared.settings.log;
        state.len() < settings.max_pending_messages
            && state.bytes() < settings.max_pending_bytes
            && !state.late.is_full(settings.max_pending_bytes)
    }

    /// Admits records while there is room, hands them on, reads lanes that are behind.
    pub(super) fn advance(&mut self, ctx: &mut Context<Self>) {
        let shared = Arc::clone(&self.parts.shared);
        let mailboxes = Arc::clone(&self.parts.mailboxes);
        // Without room nothing is taken only to be put back.
        let room = self.has_room(&self.parts.state.lock());
        let mut taken = mailboxes.log.take(if room { APPEND_AT_ONCE } else { 0 });
        {
            let mut state = self.parts.state.lock();
            let mut lanes = None;
            while !taken.is_empty() && self.has_room(&state) {
                self.cell.fault_point();
                if let Some(work) = taken.pop() {
                    let lane = work.record.outbox.map(|at| at.lane);
                    if work.token.is_some() || !self.comes_late(&mut state, &work.record) {
                        state.push_as(work.record, work.token, Kind::Publish(work.on_refused));
                    }
                    if let Some(lane) = lane {
                        lanes.get_or_insert_with(|| shared.lanes.lock()).admitted(lane);
                    }
                }
            }
        }
        if taken.is_empty() && room {
            mailboxes.log.release();
        } else {
            // Without room the stream would offer the same records again and again.
            mailboxes.log.hold();
        }
        drop(taken);
        self.send();
        self.read_again(ctx);
        self.read_lanes(ctx);
        let state = self.parts.state.lock();
        shared.metrics.log_pending.set(state.len() as u64);
    }

    /// Leaves a record in the outbox where the log takes no more of its topic. True: it was left.
    fn comes_late(&self, state: &mut LogState, record: &LogRecord) -> bool {
        let Some(at) = record.outbox else { return false };
        let late = state.late.holds(&record.topic) || !self.parts.log.takes(&record.topic);
        if late {
            state.late.put(&record.topic, at);
        }
        late
    }

    fn send(&self) {
        loop {
            let batch = {
                let mut state = self.parts.state.lock();
                if state.resetting {
                    return;
                }
                state.take_unsent(APPEND_AT_ONCE, clock::now().boot)
            };
            let Some(first) = batch.first().map(|record| record.id) else { return };
            let offered = batch.len();
            // Where the log panics, nobody knows which records it took, so all count as given back and are sent again
            // (a record may come twice).
            let handing = StepGuard::new(|| self.parts.state.lock().give_back(first));
            let left = self.parts.log.append(batch);
            handing.keep();
            self.parts.shared.metrics.log_appended.add((offered - left.len()) as u64);
            if let Some(first) = left.first() {
                // Room is announced by the next report.
                self.parts.state.lock().give_back(first.id);
                return;
            }
        }
    }

    /// Half the room is free.
    pub(super) fn is_half_empty(&self) -> bool {
        let settings = &self.parts.shared.settings.log;
        let state = self.parts.state.lock();
        state.len() * 2 <= settings.max_pending_messages
            && state.bytes() * 2 <= settings.max_pending_bytes
    }

    /// Reads on in one lane that is behind, while half the room is free.
    fn read_lanes(&mut self, ctx: &mut Context<Self>) {
        let max = self.parts.shared.settings.log.max_pending_bytes;
        if self.reading || !self.is_half_empty() || self.parts.state.lock().late.is_full(max) {
            return;
        }
        let behind = self.parts.shared.lanes.lock().next_behind(self.next_lane);
        let Some((lane, from)) = behind else { return };
        self.reading = true;
        self.next_lane = lane.saturating_add(1);
        let read = self.parts.store.read_outbox(lane, from, READ_RECORDS, READ_BYTES);
        let done = read.into_actor(self).map(move |result, actor, ctx| {
            actor.reading = false;
            let result = result.and_then(|records| match records.is_empty() {
                true => Err(StoreError::Unavailable(format!("nothing is found at position {from}"))),
                false => Ok(records),
            });
            match result {
                Ok(records) => {
                    actor.lane_read(lane, from, records);
                    actor.hand_on(ctx);
                }
                Err(error) => {
                    actor.reading = true;
                    say::warn!(target: "hydrant::log", "reading lane {lane} of the outbox again: {error}");
                    ctx.run_later(actor.retry, |actor, ctx| {
                        actor.reading = false;
                        actor.advance(ctx);
                    });
                    return;
                }
            }
            actor.advance(ctx);
        });
        ctx.spawn(done);
    }

    fn lane_read(&self, lane: u16, from: u64, records: Vec<LogRecord>) {
        let next = records.last().and_then(|last| last.outbox).map_or(from, |at| at.position + 1);
        let mut state = self.parts.state.lock();
        let dead = self.parts.shared.dead_letters.book.lock();
        for record in records {
            if !dead.is_empty() && dead.knows(DeadId::of(&record)) {
                // An earlier start was refused it, and ended before the cursor had passed it.
                state.owed.done.extend(record.outbox);
            } else if !self.comes_late(&mut state, &record) {
                state.push(record, None);
            }
        }
        drop(dead);
        // Admitted before the lane says so: a panic in between repeats, it does not lose.
        self.parts.shared.lanes.lock().read(lane, next);
    }

    /// Works reports off. A batch is gone only when every report in it was taken in, and what they
    /// said stands in the state until it was handed on: a panic anywhere loses neither.
    fn take_reports(&mut self, ctx: &mut Context<Self>) {
        let mut reports = self.parts.reports.take(256);
        let now = clock::now().boot;
        let mut handled = 0;
        while let Some(batch) = reports.front_mut() {
            let mut state = self.parts.state.lock();
            for report in batch.iter() {
                handled += 1;
                match state.report(report.clone(), now) {
                    Outcome::Acknowledged(took) => {
                        self.parts.shared.metrics.log_latency.record(took);
                    }
                    Outcome::Refused | Outcome::Failed => {}
                    // Seen before a panic, or of a record that was given back.
                    Outcome::Unknown => continue,
                }
                self.cell.fault_point();
            }
            drop(state);
            reports.pop();
        }
        drop(reports);
        self.cell.enter(handled);
        self.hand_on(ctx);
    }

    /// Tells everybody what reports have said. Each step may be done twice, none may be forgotten.
    pub(super) fn hand_on(&mut self, ctx: &mut Context<Self>) {
        let failure = {
            let mut state = self.parts.state.lock();
            // A refusal is an answer, too: a log that refuses all there is makes no node unready.
            let mut answered = !state.owed.refused.is_empty();
            self.bury(&mut state);
            self.remove_replayed(&mut state);
            let owed = &mut state.owed;
            self.answer(owed);
            self.move_cursors(owed);
            let acknowledged = std::mem::take(&mut owed.acknowledged);
            self.parts.shared.metrics.log_acked.add(acknowledged);
            answered |= acknowledged > 0;
            if answered && owed.failure.is_none() {
                self.retry = self.parts.shared.settings.log.retry_min;
                self.parts.shared.set_ready("log", None);
            }
            owed.failure.take()
        };
        if std::mem::take(&mut self.parts.state.lock().tried) {
            self.release_held();
        }
        if let Some(why) = failure {
            self.reset(&why);
        }
        self.finish_reset(ctx);
    }

    fn answer(&self, owed: &mut Owed) {
        let managers = &self.parts.mailboxes.managers;
        for token in owed.refusals.drain(..) {
            if let Some(manager) = managers.get(usize::from(token.worker)) {
                manager.push(ManagerWork::Refused(token), 0);
            }
        }
        if owed.answers.is_empty() {
            return;
        }
        let mut answers: Vec<VecDeque<CompletionToken>> = vec![VecDeque::new(); managers.len()];
        for token in &owed.answers {
            if let Some(answers) = answers.get_mut(usize::from(token.worker)) {
                answers.push_back(*token);
            }
        }
        for (manager, tokens) in managers.iter().zip(answers) {
            if !tokens.is_empty() {
                manager.push(ManagerWork::Completed(tokens), 0);
            }
        }
        owed.answers.clear();
    }

    fn move_cursors(&self, owed: &mut Owed) {
        if owed.done.is_empty() {
            return;
        }
        let shared = &self.parts.shared;
        let mut moved: Vec<(u16, u64)> = Vec::new();
        let (records, bytes) = {
            let mut lanes = shared.lanes.lock();
            for at in &owed.done {
                let Some(cursor) = lanes.acknowledge(at.lane, at.position) else { continue };
                match moved.iter_mut().find(|(lane, _)| *lane == at.lane) {
                    Some((_, known)) => *known = cursor,
                    None => moved.push((at.lane, cursor)),
                }
            }
            lanes.backlog()
        };
        owed.done.clear();
        if moved.is_empty() {
            return;
        }
        shared.metrics.outbox_records.set(records);
        shared.metrics.outbox_bytes.set(bytes);
        let ops = moved
            .into_iter()
            .map(|(lane, position)| StoreOp::MoveCursor { lane, position })
            .collect();
        let (tokens, transaction, origin) = (Vec::new(), None, None);
        let storage = &self.parts.mailboxes.storage;
        storage.push(StorageWork::Write { ops, tokens, transaction, origin }, 64);
    }

    fn reset(&mut self, why: &str) {
        let mut state = self.parts.state.lock();
        self.parts.shared.metrics.log_failed.inc();
        if state.resetting {
            return;
        }
        state.resetting = true;
        drop(state);
        say::warn!(target: "hydrant::log", "the log does not take records, sending again from the cursor: {why}");
        self.parts.shared.set_ready("log", Some(why.to_owned()));
        self.parts.shared.metrics.log_resets.inc();
        self.parts.log.reset();
    }

    /// Everything in the log's hands is reported: sends again after a while.
    fn finish_reset(&mut self, ctx: &mut Context<Self>) {
        let ready = {
            let state = self.parts.state.lock();
            state.resetting && state.in_log() == 0
        };
        if !ready || self.rewinding {
            return;
        }
        self.rewinding = true;
        let wait = self.retry;
        self.retry = (self.retry * 2).min(self.parts.shared.settings.log.retry_max);
        ctx.run_later(wait, |actor, ctx| {
            actor.rewinding = false;
            actor.parts.state.lock().rewind();
            actor.advance(ctx);
        });
    }
}

impl Actor for LogActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        // What a predecessor left half done.
        let reset_again = {
            let state = self.parts.state.lock();
            state.resetting && state.in_log() > 0
        };
        if reset_again {
            self.parts.log.reset();
        }
        self.hand_on(ctx);
        self.advance(ctx);
        // Lanes fall behind without a message to this actor.
        every(ctx, Duration::from_millis(20), |actor, ctx| {
            let waits = {
                let state = actor.parts.state.lock();
                state.has_unsent() || !state.late.is_empty()
            };
            if waits || actor.parts.shared.lanes.lock().any_behind() {
                actor.advance(ctx);
            }
        });
    }
}

impl StreamHandler<LogEvent> for LogActor {
    fn handle(&mut self, event: LogEvent, ctx: &mut Self::Context) {
        let cell = Arc::clone(&self.cell);
        let _entered = cell.enter(1);
        match event {
            LogEvent::Work => {}
            LogEvent::Reports => self.take_reports(ctx),
            LogEvent::Dead => self.take_dead_work(ctx),
        }
        self.advance(ctx);
    }

    fn finished(&mut self, ctx: &mut Self::Context) {
        ctx.stop();
    }
}

impl Handler<Ping> for LogActor {
    type Result = ();
    fn handle(&mut self, _: Ping, ctx: &mut Self::Context) {
        on_ping(&self.cell, ctx);
    }
}

/// Work waiting for the log, as the cell shows it.
pub fn depth(parts: &LogParts) -> usize {
    parts.mailboxes.log.len()
}

/// One line for `broker tree`.
pub fn describe(parts: &LogParts) -> String {
    let (pending, held, late) = {
        let state = parts.state.lock();
        (state.len(), state.held.len(), state.late.len())
    };
    let (records, bytes) = parts.shared.lanes.lock().backlog();
    let dead = parts.shared.dead_letters.book.lock().len();
    let mut line = format!(
        "{}; pending {pending}, outbox {records} records {bytes} bytes, {dead} dead letters",
        parts.log.describe()
    );
    if late > 0 {
        line.push_str(&format!(", {late} records wait in the outbox until their topics take more"));
    }
    if held > 0 {
        line.push_str(&format!(", {held} refused records wait in the outbox for room among them"));
    }
    line
}
