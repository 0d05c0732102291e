//! A permanent child: how it is built, where one of its lives stands, and how its end is reported.
//!
//! Invariants: a child has at most one task at a time; every life that began is reported exactly
//! once, whatever ends it; a report of an older life is ignored.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use actix_rt::ArbiterHandle;
use tokio::task::AbortHandle;

use super::backoff::{History, Silence};
use super::cell::{ActorCell, ActorState};
use super::exit::{Caught, ExitStatus, catch};
use super::running::Running;
use super::supervisor::Shared;

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
    pub(super) fn begin(&mut self, shared: &Arc<Shared>, index: usize) -> Launch {
        self.life += 1;
        self.phase = Phase::Starting;
        self.child.cell.set_state(ActorState::Starting);
        let report = Report {
            shared: Arc::clone(shared),
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

/// Reports the end of one life, however its task ends.
struct Report {
    shared: Arc<Shared>,
    cell: Arc<ActorCell>,
    index: usize,
    life: u64,
    status: Option<ExitStatus>,
}

impl Drop for Report {
    fn drop(&mut self) {
        self.cell.set_ping(None);
        let mut slots = self.shared.slots.lock();
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
        self.shared.changed.notify_one();
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
            let (shared, index, life) = (Arc::clone(&report.shared), report.index, report.life);
            let task = tokio::task::spawn_local(async move {
                let result = Caught::new(running.future).await;
                let status = classify(&report.cell, result);
                report.end(status);
            });
            shared.started(index, life, task.abort_handle());
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
