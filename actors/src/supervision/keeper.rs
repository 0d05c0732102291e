//! Who starts the supervisor and restarts it: a task too small to fail, beside it on the same arbiter.
//!
//! Owns the supervisor's restart history; past the limit it escalates like a child.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::backoff::{History, Silence};
use super::cell::{ActorCell, ActorState};
use super::children::{Children, Phase, classify};
use super::exit::{Caught, ExitStatus};
use super::running::Running;
use super::supervisor::{Supervisor, SupervisorHandle};
use crate::metrics::Metrics;
use crate::settings::SupervisionSettings;

impl Supervisor {
    /// Starts the supervisor and its keeper on the current arbiter (call it there). `cell` is its
    /// own, path "supervisor". `on_escalation` is called when a child, or the supervisor itself,
    /// does not stay up: the node then exits non-zero and says the sentence.
    pub fn start(
        cell: Arc<ActorCell>,
        settings: SupervisionSettings,
        metrics: Arc<Metrics>,
        on_escalation: Box<dyn Fn(String) + Send>,
    ) -> SupervisorHandle {
        let children = Arc::new(Children::new(cell, settings, metrics, on_escalation));
        tokio::task::spawn_local(keep(Arc::clone(&children)));
        SupervisorHandle { children }
    }
}

/// Rebuilds the supervisor whenever it ends, until [`SupervisorHandle::finish`].
async fn keep(children: Arc<Children>) {
    let cell = Arc::clone(&children.cell);
    let mut history = History::default();
    loop {
        let actor = Supervisor::new(Arc::clone(&children));
        let running = Running::new(actor, |_| ());
        cell.set_ping(Some(running.ping));
        cell.set_state(ActorState::Running);
        log::debug!(target: "hydrant::actors", "actor {} started", cell.path());
        let status = watch_supervisor(&children, Caught::new(running.future)).await;
        cell.set_ping(None);
        match children.after_end(&cell, &mut history, &status) {
            Ok(Some(delay)) => tokio::time::sleep(delay).await,
            Ok(None) => return,
            Err(why) => return children.escalate(why),
        }
    }
}

/// Runs the supervisor to its end, or to its stall.
async fn watch_supervisor(
    children: &Children,
    mut run: Caught<Pin<Box<dyn Future<Output = ()>>>>,
) -> ExitStatus {
    let interval = children.interval();
    let mut silence = Silence::new(Instant::now());
    loop {
        tokio::select! {
            result = &mut run => return classify(&children.cell, result),
            () = tokio::time::sleep(interval) => {}
        }
        if children.finished.load(Ordering::SeqCst) && children.cell.state() == ActorState::Running
        {
            let mut slots = children.slots.lock();
            if slots.iter_mut().all(|slot| matches!(slot.phase, Phase::Done)) {
                return ExitStatus::Stopped;
            }
        }
        let answered = !children.cell.awaits_pong();
        let silent = silence.look(Instant::now(), interval, answered, true);
        if silent >= children.settings.stall_timeout {
            return ExitStatus::Killed(format!("stalled for {silent:.1?}"));
        }
        if answered {
            children.cell.ping();
        }
    }
}
