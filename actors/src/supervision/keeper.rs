//! Who restarts the supervisor: a task too small to fail, beside it on the same arbiter.
//!
//! Owns the supervisor's restart history; past the limit it escalates like a child.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::backoff::{History, Silence};
use super::cell::ActorState;
use super::child::{Phase, classify};
use super::exit::{Caught, ExitStatus};
use super::running::Running;
use super::supervisor::{Shared, Supervisor};

/// Rebuilds the supervisor whenever it ends, until [`SupervisorHandle::finish`].
pub(super) async fn keep(shared: Arc<Shared>) {
    let cell = Arc::clone(&shared.cell);
    let mut history = History::default();
    loop {
        let actor = Supervisor::new(Arc::clone(&shared));
        let running = Running::new(actor, |_| ());
        cell.set_ping(Some(running.ping));
        cell.set_state(ActorState::Running);
        log::info!(target: "hydrant::actors", "actor {} started", cell.path());
        let status = watch_supervisor(&shared, Caught::new(running.future)).await;
        cell.set_ping(None);
        match shared.after_end(&cell, &mut history, &status) {
            Ok(Some(delay)) => tokio::time::sleep(delay).await,
            Ok(None) => return,
            Err(why) => return shared.escalate(why),
        }
    }
}

/// Runs the supervisor to its end, or to its stall.
async fn watch_supervisor(
    shared: &Shared,
    mut run: Caught<Pin<Box<dyn Future<Output = ()>>>>,
) -> ExitStatus {
    let interval = shared.interval();
    let mut silence = Silence::new(Instant::now());
    loop {
        tokio::select! {
            result = &mut run => return classify(&shared.cell, result),
            () = tokio::time::sleep(interval) => {}
        }
        if shared.finished.load(Ordering::SeqCst) && shared.cell.state() == ActorState::Running {
            let mut slots = shared.slots.lock();
            if slots.iter_mut().all(|slot| matches!(slot.phase, Phase::Done)) {
                return ExitStatus::Stopped;
            }
        }
        let answered = !shared.cell.awaits_pong();
        let silent = silence.look(Instant::now(), interval, answered, true);
        if silent >= shared.settings.stall_timeout {
            return ExitStatus::Killed(format!("stalled for {silent:.1?}"));
        }
        if answered {
            shared.cell.ping();
        }
    }
}
