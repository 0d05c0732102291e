//! The permanent children: what outlives the supervisor, how each is built, where one of its lives stands, how its
//! end is reported, and what follows from that.
//!
//! Owns the list of children, which its own lock guards; it is as long as there are permanent actors.
//! Invariants: a child has at most one task at a time; every life that began is reported exactly
//! once, whatever ends it; a report of an older life is ignored.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use actix_rt::ArbiterHandle;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::backoff::{History, Silence};
use super::cell::{ActorCell, ActorState};
use super::exit::{Caught, ExitStatus, catch};
use super::running::Running;
use crate::metrics::Metrics;
use crate::say;
use crate::settings::SupervisionSettings;

/// Builds a child; called on the child's arbiter thread for each of its lives.
pub type Factory = Arc<dyn Fn(&Arc<ActorCell>) -> Running + Send + Sync>;

/// A permanent actor: rebuilt however it ends, except in order during a shutdown.
#[derive(Clone)]
pub struct Child {
    /// Its cell, already in the registry.
    pub cell: Arc<ActorCell>,
    /// Where it lives.
    pub arbiter: ArbiterHandle,
    /// Builds it.
    pub factory: Factory,
}

impl fmt::Debug for Child {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Child").field("cell", &self.cell).finish_non_exhaustive()
    }
}

#[derive(Debug)]
pub(super) enum Phase {
    /// To be started at the next look.
    New,
    Starting,
    Running(AbortHandle),
    /// Its task was aborted for this reason; the end is not reported yet.
    Killing(String),
    Ended(ExitStatus),
    BackingOff(Instant),
    /// Stopped or given up.
    Done,
}

#[derive(Debug)]
pub(super) struct Slot {
    pub(super) child: Child,
    pub(super) life: u64,
    pub(super) phase: Phase,
    pub(super) history: History,
    pub(super) silence: Silence,
    /// A probe was sent to the child's arbiter and did not run yet; see [`Silence::look`].
    pub(super) probing: Arc<AtomicBool>,
}

impl Slot {
    pub(super) fn new(child: Child) -> Self {
        child.cell.set_state(ActorState::Starting);
        Self {
            child,
            life: 0,
            phase: Phase::New,
            history: History::default(),
            silence: Silence::new(Instant::now()),
            probing: Arc::default(),
        }
    }

    /// Begins the next life; [`Launch::go`] does it once the list's lock is left.
    pub(super) fn begin(&mut self, children: &Arc<Children>, index: usize) -> Launch {
        self.life += 1;
        self.phase = Phase::Starting;
        self.child.cell.set_state(ActorState::Starting);
        let report = Report {
            children: Arc::clone(children),
            cell: Arc::clone(&self.child.cell),
            index,
            life: self.life,
            status: None,
        };
        Launch { child: self.child.clone(), report }
    }

    /// Aborts the task of a running child; `false` when it does not run.
    pub(super) fn kill(&mut self, reason: impl Into<String>) -> bool {
        let Phase::Running(task) = &self.phase else {
            return false;
        };
        task.abort();
        self.phase = Phase::Killing(reason.into());
        true
    }
}

/// What outlives the supervisor.
pub(super) struct Children {
    pub(super) cell: Arc<ActorCell>,
    pub(super) settings: SupervisionSettings,
    metrics: Arc<Metrics>,
    pub(super) slots: Mutex<Vec<Slot>>,
    pub(super) changed: Notify,
    pub(super) shutting_down: AtomicBool,
    pub(super) finished: AtomicBool,
    on_escalation: Mutex<Box<dyn Fn(String) + Send>>,
}

impl Children {
    pub(super) fn new(
        cell: Arc<ActorCell>,
        settings: SupervisionSettings,
        metrics: Arc<Metrics>,
        on_escalation: Box<dyn Fn(String) + Send>,
    ) -> Self {
        Self {
            cell,
            settings,
            metrics,
            slots: Mutex::new(Vec::new()),
            changed: Notify::new(),
            shutting_down: AtomicBool::new(false),
            finished: AtomicBool::new(false),
            on_escalation: Mutex::new(on_escalation),
        }
    }

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
            // The tree is printed once all have.
            0 => log::debug!(target: "hydrant::actors", "actor {} started", cell.path()),
            n => say::info!(
                by: cell.said_of_restarts(),
                target: "hydrant::actors",
                "actor {} started again, restart {n}", cell.path()
            ),
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
                say::warn!(by: cell.said_of(status), target: "hydrant::actors",
                    "actor {path} {status}; restart {number} of {max} within {window:?} in {delay:.0?}");
                Ok(Some(delay))
            }
            None => {
                self.metrics.escalations.inc();
                cell.set_state(ActorState::Failed);
                let why = format!(
                    "actor {path} {status}; {max} restarts within {window:?} are used up, its parent fails"
                );
                say::error!(each: path, target: "hydrant::actors", "{why}");
                Err(why)
            }
        }
    }

    pub(super) fn escalate(&self, why: String) {
        (self.on_escalation.lock())(why);
    }
}

/// Reports the end of one life, however its task ends.
struct Report {
    children: Arc<Children>,
    cell: Arc<ActorCell>,
    index: usize,
    life: u64,
    status: Option<ExitStatus>,
}

impl Drop for Report {
    fn drop(&mut self) {
        self.cell.set_ping(None);
        let mut slots = self.children.slots.lock();
        let Some(slot) = slots.get_mut(self.index).filter(|slot| slot.life == self.life) else {
            return;
        };
        let status = match (self.status.take(), &mut slot.phase) {
            (None, Phase::Killing(reason)) => ExitStatus::Killed(std::mem::take(reason)),
            (None, _) => {
                ExitStatus::Killed("its task was dropped, or its arbiter has ended".into())
            }
            (Some(status), _) => status,
        };
        slot.phase = Phase::Ended(status);
        drop(slots);
        self.children.changed.notify_one();
    }
}

impl Report {
    fn end(mut self, status: ExitStatus) {
        self.status = Some(status);
    }
}

/// A life about to begin. Dropped on the way (its arbiter has ended) it reports a kill, which takes
/// the list's lock: never dropped while that is held.
pub(super) struct Launch {
    child: Child,
    report: Report,
}

impl Launch {
    /// Builds and runs the child on its arbiter.
    pub(super) fn go(self) {
        let Self { child, report } = self;
        let factory = child.factory;
        child.arbiter.spawn_fn(move || {
            let cell = Arc::clone(&report.cell);
            let _ = cell.take_failure();
            let running = match catch(|| factory(&cell)) {
                Ok(running) => running,
                Err(status) => return report.end(status),
            };
            cell.set_ping(Some(running.ping));
            let (children, index, life) = (Arc::clone(&report.children), report.index, report.life);
            let task = tokio::task::spawn_local(async move {
                let result = Caught::new(running.future).await;
                let status = classify(&report.cell, result);
                report.end(status);
            });
            children.started(index, life, task.abort_handle());
        });
    }
}

/// How a life ended whose future returned `result`.
pub(super) fn classify(cell: &ActorCell, result: Result<(), ExitStatus>) -> ExitStatus {
    let failure = cell.take_failure();
    match (result, failure) {
        (Err(status), _) => status,
        (Ok(()), Some(reason)) => ExitStatus::Failed(reason),
        (Ok(()), None) => ExitStatus::Stopped,
    }
}
