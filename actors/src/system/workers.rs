//! The workers: one on each worker's thread, with the sessions and wills whose home it is.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use actix_rt::ArbiterHandle;
use tokio::sync::oneshot;

use super::ActorSystem;
use crate::cluster::{Beginning, EARLIER_STARTS};
use crate::driver::WorkerDriver;
use crate::messages::PeerWork;
use crate::node_tables::Found;
use crate::ports::StoredBatch;
use crate::sys::Sys;
use crate::worker::Origin;

thread_local! {
    static DRIVER: RefCell<Option<Rc<WorkerDriver>>> = const { RefCell::new(None) };
}

/// What drives the worker of this arbiter's thread.
fn current_driver() -> Option<Rc<WorkerDriver>> {
    DRIVER.with(|driver| driver.borrow().clone())
}

pub(super) fn with_driver<T>(build: impl FnOnce(&Rc<WorkerDriver>) -> T) -> T {
    match current_driver() {
        Some(driver) => build(&driver),
        // Children of a worker are added after its worker was made.
        #[allow(clippy::unreachable)]
        None => unreachable!("a worker's actor is built on its worker"),
    }
}

impl ActorSystem {
    /// Makes the workers and gives each the sessions and wills whose home it is.
    pub(super) async fn restore(
        &self,
        workers: &[ArbiterHandle],
        found: Found,
        beginning: Option<Beginning>,
    ) {
        let held: Vec<Arc<str>> =
            found.sessions.iter().map(|session| Arc::clone(&session.client_id)).collect();
        let mut sessions = self.shared.by_home(found.sessions, |session| &session.client_id);
        let mut wills = self.shared.by_home(found.wills, |will| &will.client_id);
        let mut restored = Vec::new();
        let (mut prepared, mut batches) = (HashMap::new(), Vec::new());
        if let Some(beginning) = beginning {
            self.mailboxes.peers.push(PeerWork::Holds(held), 1024);
            prepared = self.shared.by_home(beginning.prepared, |publish| &publish.publisher);
            batches = beginning.batches;
        }
        let batches: Arc<[StoredBatch]> = batches.into();
        for (index, worker) in (0_u16..).zip(workers) {
            let (shared, mailboxes) = (Arc::clone(&self.shared), Arc::clone(&self.mailboxes));
            let sessions = sessions.remove(&index).unwrap_or_default();
            let wills = wills.remove(&index).unwrap_or_default();
            let prepared = prepared.remove(&index).unwrap_or_default();
            let batches = Arc::clone(&batches);
            let (done, wait) = oneshot::channel();
            worker.spawn_fn(move || {
                let clustered = shared.cluster.is_some();
                let driver = WorkerDriver::new(index, shared, mailboxes);
                let worker = &driver.worker;
                for session in &sessions {
                    worker.restore_session(session, EARLIER_STARTS);
                }
                worker.await_own_markers();
                if let Some(cluster) = &worker.shared.cluster
                    && let Some(predecessor) = cluster.predecessor()
                {
                    worker.begin_dedup(predecessor, &batches);
                }
                worker.hold_prepared(&prepared);
                for will in wills {
                    // Whom it is for is not known before the other nodes are.
                    match clustered {
                        true => worker.hold_will(will),
                        false => worker.restore_will(&will),
                    }
                }
                DRIVER.with(|slot| *slot.borrow_mut() = Some(driver));
                let _ = done.send(());
            });
            restored.push(wait);
        }
        for wait in restored {
            let _ = wait.await;
        }
    }

    /// `$SYS`, on the first worker.
    pub(super) fn start_sys(&self) {
        let interval = self.shared.settings.sys_interval;
        if interval.is_zero() {
            return;
        }
        let Some(worker) = self.arbiters.get(1) else { return };
        worker.spawn(async move {
            let mut sys = Sys::default();
            let mut timer = tokio::time::interval(interval);
            loop {
                timer.tick().await;
                let Some(driver) = current_driver() else { return };
                let worker = driver.step();
                for message in sys.messages(&worker.shared) {
                    worker.publish_internal(Origin::Node, message, Vec::new());
                }
            }
        });
    }
}
