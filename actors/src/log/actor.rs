//! LogActor: drives the log queue. It calls the log and the store, keeps the timer and reads the clocks; what is
//! decided is decided in [`super::queue`].

use std::sync::Arc;
use std::time::Duration;

use actix::{
    Actor, ActorContext, ActorFutureExt, AsyncContext, Context, Handler, SpawnHandle,
    StreamHandler, WrapFuture,
};
use futures_util::StreamExt;
use parking_lot::Mutex;

use super::outside::{OfNode, ToInboxes};
use super::queue::{LogOrder, LogQueue, Outcome};
use super::tell::tell;
use crate::clock;
use crate::every::every;
use crate::inbox::Inbox;
use crate::mailboxes::Mailboxes;
use crate::node_tables::NodeTables;
use crate::now::{Boot, Now};
use crate::ports::{LogRecord, MessageLog, Report, SessionStore};
use crate::step_guard::StepGuard;
use crate::supervision::{ActorCell, Ping, Running, on_ping};

/// Records taken out of the inbox in one step.
const ADMIT_AT_ONCE: usize = 4096;

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
    pub queue: Arc<Mutex<LogQueue>>,
    /// What the log reports.
    pub reports: Inbox<Vec<Report>>,
}

/// See the module.
pub struct LogActor {
    parts: LogParts,
    cell: Arc<ActorCell>,
    /// Set for this deadline of the queue.
    timer: Option<(Boot, SpawnHandle)>,
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
        let queue = LogQueue::new(&shared.settings.log, mailboxes.managers.len());
        let queue = Arc::new(Mutex::new(queue));
        let (shared, mailboxes) = (Arc::clone(shared), Arc::clone(mailboxes));
        LogParts { shared, mailboxes, log, store, queue, reports }
    }

    /// Prepares the actor; on its arbiter.
    pub fn build(parts: &LogParts, cell: &Arc<ActorCell>) -> Running {
        let work = parts.mailboxes.log.stream().map(|_| LogEvent::Work);
        let reports = parts.reports.stream().map(|_| LogEvent::Reports);
        let dead = parts.mailboxes.dead_letters.stream().map(|_| LogEvent::Dead);
        let actor = Self { parts: parts.clone(), cell: Arc::clone(cell), timer: None };
        Running::new(actor, |ctx| {
            LogActor::add_stream(reports, ctx);
            LogActor::add_stream(dead, ctx);
            LogActor::add_stream(work, ctx);
        })
    }

    /// One step of the queue: what has happened, what follows from it, and what is to be done then. The queue is
    /// locked but while the log and the store are called.
    fn step(&mut self, ctx: &mut Context<Self>, act: impl FnOnce(&mut LogQueue, Now, &OfNode<'_>)) {
        let parts = &self.parts;
        let shared = &*parts.shared;
        let now = clock::now();
        let outside = OfNode { shared, log: &*parts.log };
        {
            let mut queue = parts.queue.lock();
            act(&mut queue, now, &outside);
            queue.handle_turn(now, &outside);
            queue.hand_out(&outside, &mut ToInboxes(&parts.mailboxes));
            tell(&mut queue, shared, &parts.mailboxes);
            self.admit(&mut queue, &outside);
        }
        while let Some(batch) = poll(&parts.queue, |queue| queue.poll_append(now)) {
            self.append(batch);
        }
        while let Some(order) = poll(&parts.queue, |queue| queue.poll_order(&outside)) {
            self.obey(order, ctx);
        }
        let (deadline, pending) = {
            let queue = parts.queue.lock();
            (queue.poll_deadline(), queue.len())
        };
        shared.metrics.log_pending.set(pending as u64);
        self.set_timer(deadline, now, ctx);
    }

    /// Admits records while there is room.
    fn admit(&self, queue: &mut LogQueue, outside: &OfNode<'_>) {
        let inbox = &self.parts.mailboxes.log;
        // Without room nothing is taken only to be put back.
        let room = queue.has_room();
        let mut taken = inbox.take(if room { ADMIT_AT_ONCE } else { 0 });
        while !taken.is_empty() && queue.has_room() {
            self.cell.fault_point();
            if let Some(work) = taken.pop() {
                queue.handle_work(outside, work);
            }
        }
        if taken.is_empty() && room {
            inbox.release();
        } else {
            // Without room the stream would offer the same records again and again.
            inbox.hold();
        }
    }

    fn append(&self, batch: Vec<LogRecord>) {
        let Some(first) = batch.first().map(|record| record.id) else { return };
        let offered = batch.len();
        // Where the log panics, nobody knows which records it took. All count as given back and are sent again, so a
        // record may come twice.
        let handing = StepGuard::new(|| self.parts.queue.lock().handle_given_back(first));
        let left = self.parts.log.append(batch);
        handing.keep();
        self.parts.shared.metrics.log_appended.add((offered - left.len()) as u64);
        if let Some(first) = left.first() {
            self.parts.queue.lock().handle_given_back(first.id);
        }
    }

    fn obey(&self, order: LogOrder, ctx: &mut Context<Self>) {
        let store = &self.parts.store;
        match order {
            LogOrder::Reset => self.parts.log.reset(),
            LogOrder::ReadOutbox { id, lane, from, records, bytes } => {
                let page = store.read_outbox(lane, from, records, bytes).into_actor(self);
                ctx.spawn(page.map(move |page, actor, ctx| {
                    actor.step(ctx, |queue, now, outside| {
                        queue.handle_outbox_page(now, outside, id, page);
                    });
                }));
            }
            LogOrder::ReadLetters { id, from, letters, bytes } => {
                let page = store.dead_letters(from, letters, bytes).into_actor(self);
                ctx.spawn(page.map(move |page, actor, ctx| {
                    actor.step(ctx, |queue, now, outside| {
                        queue.handle_letters(now, outside, id, page);
                    });
                }));
            }
        }
    }

    fn set_timer(&mut self, deadline: Option<Boot>, now: Now, ctx: &mut Context<Self>) {
        if self.timer.as_ref().map(|(at, _)| *at) == deadline {
            return;
        }
        if let Some((_, timer)) = self.timer.take() {
            ctx.cancel_future(timer);
        }
        self.timer = deadline.map(|at| {
            let timer = ctx.run_later(at.since(now.boot), |actor, ctx| {
                actor.timer = None;
                actor.step(ctx, |queue, now, _| queue.handle_deadline(now));
            });
            (at, timer)
        });
    }

    /// Works reports off. A batch is gone only when every report in it was taken in.
    fn take_reports(&mut self, ctx: &mut Context<Self>) {
        let mut reports = self.parts.reports.take(256);
        let (cell, shared) = (Arc::clone(&self.cell), Arc::clone(&self.parts.shared));
        self.step(ctx, |queue, now, _| {
            let mut handled = 0;
            while let Some(batch) = reports.front_mut() {
                for report in batch.iter() {
                    handled += 1;
                    match queue.handle_report(now, report.clone()) {
                        Outcome::Acknowledged(took) => shared.metrics.log_latency.record(took),
                        Outcome::Refused | Outcome::Failed => {}
                        // Seen before a panic, or of a record that was given back.
                        Outcome::Unknown => continue,
                    }
                    cell.fault_point();
                }
                reports.pop();
            }
            drop(reports);
            cell.enter(handled);
        });
    }

    /// Works off what the store has done with dead letters.
    fn take_dead_work(&mut self, ctx: &mut Context<Self>) {
        let mut taken = self.parts.mailboxes.dead_letters.take(4096);
        let cell = Arc::clone(&self.cell);
        self.step(ctx, |queue, _, outside| {
            let mut handled = 0;
            while let Some(work) = taken.front_mut() {
                handled += 1;
                queue.handle_dead_work(outside, *work);
                taken.pop();
            }
            drop(taken);
            cell.enter(handled);
        });
    }
}

/// Asks the queue, and leaves its lock before the answer is acted on.
fn poll<T>(queue: &Mutex<LogQueue>, ask: impl FnOnce(&mut LogQueue) -> T) -> T {
    ask(&mut queue.lock())
}

impl Actor for LogActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        // What a predecessor left half done.
        self.step(ctx, |queue, _, _| queue.handle_restart());
        // Lanes fall behind without a message to this actor.
        every(ctx, Duration::from_millis(20), |actor, ctx| {
            let waits = actor.parts.queue.lock().waits();
            if waits || actor.parts.shared.lanes.lock().any_behind() {
                actor.step(ctx, |_, _, _| {});
            }
        });
    }
}

impl StreamHandler<LogEvent> for LogActor {
    fn handle(&mut self, event: LogEvent, ctx: &mut Self::Context) {
        let cell = Arc::clone(&self.cell);
        let _entered = cell.enter(1);
        match event {
            LogEvent::Work => self.step(ctx, |_, _, _| {}),
            LogEvent::Reports => self.take_reports(ctx),
            LogEvent::Dead => self.take_dead_work(ctx),
        }
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
        let queue = parts.queue.lock();
        (queue.len(), queue.held(), queue.late())
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
