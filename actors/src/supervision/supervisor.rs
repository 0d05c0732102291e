//! The supervisor: starts permanent actors on their arbiters, learns how each ended, rebuilds it
//! with back-off within a limit, kills what stalls, and escalates what does not stay up.
//!
//! Owns nothing itself: the list of children lives in [`SupervisorHandle`], outside the actor, and
//! a child's end is written there by the child's own task. The actor only reconciles that list, so
//! that its own death (a keeper task rebuilds it) loses no child and no ending.
//! Invariant: nothing is spawned and nobody is called while the list is locked.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use actix::{Actor, AsyncContext, Context, Handler, SpawnHandle, StreamHandler};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::backoff::{History, Silence};
use super::cell::{ActorCell, ActorState, Ping, on_ping};
use super::child::{Child, Launch, Phase, Slot};
use super::exit::ExitStatus;
use super::keeper::keep;
use crate::every::every;
use crate::metrics::Metrics;
use crate::settings::SupervisionSettings;

/// What outlives the supervisor.
pub(super) struct Shared {
    pub(super) cell: Arc<ActorCell>,
    pub(super) settings: SupervisionSettings,
    metrics: Arc<Metrics>,
    pub(super) slots: Mutex<Vec<Slot>>,
    pub(super) changed: Notify,
    shutting_down: AtomicBool,
    pub(super) finished: AtomicBool,
    on_escalation: Mutex<Box<dyn Fn(String) + Send>>,
}

/// The supervisor as seen by the rest of the node; any thread. Clones are the same supervisor.
#[derive(Clone)]
pub struct SupervisorHandle {
    shared: Arc<Shared>,
}

impl fmt::Debug for SupervisorHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SupervisorHandle")
            .field("children", &self.shared.slots.lock().len())
            .finish()
    }
}

impl SupervisorHandle {
    /// Takes a child on and starts it.
    pub fn add(&self, child: Child) {
        self.shared.slots.lock().push(Slot::new(child));
        self.shared.changed.notify_one();
    }

    /// Whether every child and the supervisor itself runs.
    pub fn is_whole(&self) -> bool {
        self.shared.cell.state() == ActorState::Running
            && self
                .shared
                .slots
                .lock()
                .iter()
                .all(|slot| slot.child.cell.state() == ActorState::Running)
    }

    /// From now on a child that stops in order stays stopped. What panics or fails is still
    /// rebuilt, because the drain needs it.
    pub fn begin_shutdown(&self) {
        self.shared.shutting_down.store(true, Ordering::SeqCst);
    }

    /// Whether every child has stopped or was given up.
    pub fn all_stopped(&self) -> bool {
        self.shared.slots.lock().iter().all(|slot| matches!(slot.phase, Phase::Done))
    }

    /// Ends every child that still runs, then the supervisor; nothing is rebuilt any more.
    pub fn finish(&self) {
        self.begin_shutdown();
        self.shared.finished.store(true, Ordering::SeqCst);
        self.shared.changed.notify_one();
        for slot in self.shared.slots.lock().iter_mut() {
            slot.kill("the node ends");
        }
    }
}

impl Shared {
    pub(super) fn interval(&self) -> Duration {
        (self.settings.stall_timeout / 4).max(Duration::from_millis(1))
    }

    pub(super) fn started(&self, index: usize, life: u64, task: AbortHandle) {
        let mut slots = self.slots.lock();
        let Some(slot) = slots.get_mut(index).filter(|slot| slot.life == life) else {
            task.abort();
            return;
        };
        if self.finished.load(Ordering::SeqCst) {
            slot.phase = Phase::Running(task);
            slot.kill("the node ends");
            return;
        }
        let cell = &slot.child.cell;
        cell.set_state(ActorState::Running);
        slot.silence = Silence::new(Instant::now());
        slot.phase = Phase::Running(task);
        match cell.restarts() {
            0 => log::info!(target: "hydrant::actors", "actor {} started", cell.path()),
            n => {
                log::info!(target: "hydrant::actors", "actor {} started again, restart {n}", cell.path())
            }
        }
    }

    /// What to do about `cell`, which ended with `status`: the delay before its next life, or
    /// `None` and the sentence for the parent.
    pub(super) fn after_end(
        &self,
        cell: &ActorCell,
        history: &mut History,
        status: &ExitStatus,
    ) -> Result<Option<Duration>, String> {
        let path = cell.path();
        cell.set_last_exit(status.clone());
        let in_order = *status == ExitStatus::Stopped && self.shutting_down.load(Ordering::SeqCst);
        if in_order || self.finished.load(Ordering::SeqCst) {
            cell.set_state(ActorState::Stopped);
            log::info!(target: "hydrant::actors", "actor {path} {status}");
            return Ok(None);
        }
        let settings = &self.settings;
        let (max, window) = (settings.max_restarts, settings.restart_window);
        match history.next(settings, Instant::now(), rand::random::<f64>()) {
            Some((number, delay)) => {
                cell.count_restart();
                self.metrics.restarts.inc();
                cell.set_state(ActorState::BackingOff);
                log::warn!(target: "hydrant::actors",
                    "actor {path} {status}; restart {number} of {max} within {window:?} in {delay:.0?}");
                Ok(Some(delay))
            }
            None => {
                self.metrics.escalations.inc();
                cell.set_state(ActorState::Failed);
                let why = format!(
                    "actor {path} {status}; {max} restarts within {window:?} are used up, its parent fails"
                );
                log::error!(target: "hydrant::actors", "{why}");
                Err(why)
            }
        }
    }

    pub(super) fn escalate(&self, why: String) {
        (self.on_escalation.lock())(why);
    }

    /// Brings every child forward; returns when to look again.
    fn reconcile(self: &Arc<Self>) -> Option<Instant> {
        let now = Instant::now();
        let mut next: Option<Instant> = None;
        let (mut escalations, mut launches) = (Vec::new(), Vec::new());
        {
            let mut slots = self.slots.lock();
            for (index, slot) in slots.iter_mut().enumerate() {
                if let Phase::Ended(status) = &slot.phase {
                    slot.phase = match self.after_end(&slot.child.cell, &mut slot.history, status) {
                        Ok(Some(delay)) => Phase::BackingOff(now + delay),
                        Ok(None) => Phase::Done,
                        Err(why) => {
                            escalations.push(why);
                            Phase::Done
                        }
                    };
                }
                let finished = self.finished.load(Ordering::SeqCst);
                match slot.phase {
                    Phase::New | Phase::BackingOff(_) if finished => {
                        slot.child.cell.set_state(ActorState::Stopped);
                        slot.phase = Phase::Done;
                    }
                    Phase::New => launches.push(slot.begin(self, index)),
                    Phase::BackingOff(at) if at <= now => launches.push(slot.begin(self, index)),
                    Phase::BackingOff(at) => next = Some(next.map_or(at, |n| n.min(at))),
                    _ => {}
                }
            }
        }
        launches.into_iter().for_each(Launch::go);
        escalations.into_iter().for_each(|why| self.escalate(why));
        next
    }

    /// Pings every child and kills those that have been silent for too long.
    fn check_stalls(&self) {
        let now = Instant::now();
        let interval = self.interval();
        for slot in self.slots.lock().iter_mut() {
            if !matches!(slot.phase, Phase::Running(_)) {
                continue;
            }
            let answered = !slot.child.cell.awaits_pong();
            let thread_alive = !slot.probing.load(Ordering::SeqCst);
            let silent = slot.silence.look(now, interval, answered, thread_alive);
            if silent >= self.settings.stall_timeout {
                slot.kill(format!("stalled for {silent:.1?}"));
                continue;
            }
            // The ping goes by way of the arbiter, so that a thread which does not turn shows.
            if thread_alive {
                slot.probing.store(true, Ordering::SeqCst);
                let (probing, cell) = (Arc::clone(&slot.probing), Arc::clone(&slot.child.cell));
                slot.child.arbiter.spawn_fn(move || {
                    probing.store(false, Ordering::SeqCst);
                    if !cell.awaits_pong() {
                        cell.ping();
                    }
                });
            }
        }
    }
}

/// The actor that reconciles the children. Runs on the arbiter where it was started.
#[derive(Debug)]
pub struct Supervisor {
    handle: SupervisorHandle,
    timer: Option<SpawnHandle>,
}

/// A child's state changed.
struct Changed;

impl Supervisor {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { handle: SupervisorHandle { shared }, timer: None }
    }

    /// Starts the supervisor and its keeper on the current arbiter (call it there). `cell` is its
    /// own, path "supervisor". `on_escalation` is called when a child, or the supervisor itself,
    /// does not stay up: the node then exits non-zero and says the sentence.
    pub fn start(
        cell: Arc<ActorCell>,
        settings: SupervisionSettings,
        metrics: Arc<Metrics>,
        on_escalation: Box<dyn Fn(String) + Send>,
    ) -> SupervisorHandle {
        let shared = Arc::new(Shared {
            cell,
            settings,
            metrics,
            slots: Mutex::new(Vec::new()),
            changed: Notify::new(),
            shutting_down: AtomicBool::new(false),
            finished: AtomicBool::new(false),
            on_escalation: Mutex::new(on_escalation),
        });
        tokio::task::spawn_local(keep(Arc::clone(&shared)));
        SupervisorHandle { shared }
    }

    fn reconcile(&mut self, ctx: &mut Context<Self>) {
        let _entered = self.handle.shared.cell.enter(1);
        let next = self.handle.shared.reconcile();
        if let Some(timer) = self.timer.take() {
            ctx.cancel_future(timer);
        }
        self.timer = next.map(|at| {
            ctx.run_later(at.saturating_duration_since(Instant::now()), |this, ctx| {
                this.timer = None;
                this.reconcile(ctx);
            })
        });
    }
}

impl Actor for Supervisor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let shared = Arc::clone(&self.handle.shared);
        ctx.add_stream(futures_util::stream::unfold(shared, |shared| async {
            shared.changed.notified().await;
            Some((Changed, shared))
        }));
        every(ctx, self.handle.shared.interval(), |this, _| this.handle.shared.check_stalls());
        self.reconcile(ctx);
    }
}

impl StreamHandler<Changed> for Supervisor {
    fn handle(&mut self, _: Changed, ctx: &mut Self::Context) {
        self.reconcile(ctx);
    }
}

impl Handler<Ping> for Supervisor {
    type Result = ();

    fn handle(&mut self, _: Ping, ctx: &mut Self::Context) {
        on_ping(&self.handle.shared.cell, ctx);
    }
}
