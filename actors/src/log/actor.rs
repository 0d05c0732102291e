//! LogActor: drives the log queue. It calls the log and the store, keeps the timer and reads the clocks; what is
//! decided is decided in [`super::queue`].

use std::sync::Arc;
use std::time::Duration;

use actix::{
    Actor, ActorContext, ActorFutureExt, AsyncContext, Context, Handler, SpawnHandle,
    StreamHandler, WrapFuture,
};
use futures_util::StreamExt;

use super::outside::OfNode;
use super::queue::{LogOrder, LogQueue};
use super::steps::LogSteps;
use crate::clock;
use crate::mailboxes::Mailboxes;
use crate::node_tables::NodeTables;
use crate::now::{Boot, Now};
use crate::ports::{MessageLog, SessionStore};
use crate::supervision::{ActorCell, Ping, Running, on_ping};

/// How soon to look for a step that is due without a message (lanes fall behind), and how soon after one that was.
const LOOK: Duration = Duration::from_millis(100);
const LOOK_SOON: Duration = Duration::from_millis(20);

/// What the actor's streams yield.
#[derive(Debug, Clone, Copy)]
pub enum LogEvent {
    /// Records wait in the inbox.
    Work,
    /// Reports wait.
    Reports,
    /// The store has done something with dead letters, or they are to be sent again.
    Dead,
    /// A step on another thread has left something.
    Left,
}

/// What the log actor is made of; clones share everything.
#[derive(Clone)]
pub struct LogParts {
    /// The queue, and its steps.
    pub steps: Arc<LogSteps>,
    /// Where lanes that are behind are read from.
    pub store: Arc<dyn SessionStore>,
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
        LogParts { steps: LogSteps::new(shared, mailboxes, log), store }
    }

    /// Prepares the actor; on its arbiter.
    pub fn build(parts: &LogParts, cell: &Arc<ActorCell>) -> Running {
        let mailboxes = &parts.steps.mailboxes;
        let work = mailboxes.log.stream().map(|_| LogEvent::Work);
        let reports = parts.steps.reports.stream().map(|_| LogEvent::Reports);
        let dead = mailboxes.dead_letters.stream().map(|_| LogEvent::Dead);
        let left = parts.steps.left.stream().map(|_| LogEvent::Left);
        let actor = Self { parts: parts.clone(), cell: Arc::clone(cell), timer: None };
        Running::new(actor, |ctx| {
            LogActor::add_stream(reports, ctx);
            LogActor::add_stream(dead, ctx);
            LogActor::add_stream(work, ctx);
            LogActor::add_stream(left, ctx);
        })
    }

    /// One step of the queue, and what is to be done then.
    fn step(&mut self, ctx: &mut Context<Self>, act: impl FnOnce(&mut LogQueue, Now, &OfNode<'_>)) {
        let steps = Arc::clone(&self.parts.steps);
        let now = clock::now();
        steps.step(now, || self.cell.fault_point(), |queue, outside| act(queue, now, outside));
        let outside = steps.outside();
        while let Some(order) = steps.poll(|queue| queue.poll_order(&outside)) {
            self.obey(order, ctx);
        }
        let deadline = steps.poll(|queue| queue.poll_deadline());
        self.set_timer(deadline, now, ctx);
    }

    fn obey(&self, order: LogOrder, ctx: &mut Context<Self>) {
        let store = &self.parts.store;
        match order {
            LogOrder::Reset => self.parts.steps.log.reset(),
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

    /// Takes a step where one is due that no message announces, and looks again: soon while there are such.
    fn look(&mut self, ctx: &mut Context<Self>) {
        let steps = &self.parts.steps;
        let due = steps.poll(|queue| queue.waits()) || steps.shared.lanes.lock().any_behind();
        if due {
            self.step(ctx, |_, _, _| {});
        }
        ctx.run_later(if due { LOOK_SOON } else { LOOK }, Self::look);
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

    /// Works reports off.
    fn take_reports(&mut self, ctx: &mut Context<Self>) {
        let (cell, steps) = (Arc::clone(&self.cell), Arc::clone(&self.parts.steps));
        self.step(ctx, |queue, now, _| {
            let handled = steps.take_reports(queue, now, usize::MAX, || cell.fault_point());
            cell.enter(handled);
        });
    }

    /// Works off what the store has done with dead letters.
    fn take_dead_work(&mut self, ctx: &mut Context<Self>) {
        let mut taken = self.parts.steps.mailboxes.dead_letters.take(4096);
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

impl Actor for LogActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        // What a predecessor left half done.
        self.step(ctx, |queue, _, _| queue.handle_restart());
        self.look(ctx);
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
            LogEvent::Left => {
                // Gone when the step is done.
                let steps = Arc::clone(&self.parts.steps);
                let mut left = steps.left.take(usize::MAX);
                self.step(ctx, |_, _, _| {});
                while left.pop().is_some() {}
            }
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
    parts.steps.mailboxes.log.len()
}

/// One line for `broker tree`.
pub fn describe(parts: &LogParts) -> String {
    let (pending, held, late) = {
        let queue = parts.steps.queue.lock();
        (queue.len(), queue.held(), queue.late())
    };
    let (records, bytes) = parts.steps.shared.lanes.lock().backlog();
    let dead = parts.steps.shared.dead_letters.book.lock().len();
    let mut line = format!(
        "{}; pending {pending}, outbox {records} records {bytes} bytes, {dead} dead letters",
        parts.steps.log.describe()
    );
    if late > 0 {
        line.push_str(&format!(", {late} records wait in the outbox until their topics take more"));
    }
    if held > 0 {
        line.push_str(&format!(", {held} refused records wait in the outbox for room among them"));
    }
    line
}
