//! The store as one start of a node has it at hand: its lease by its own clock, and sessions that are given up.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hydrant_engine::cluster::{GiveUp, Lease};
use parking_lot::Mutex;

use super::Store;

/// See the module. All else that machines ask of the store comes as events of the world.
#[derive(Debug)]
pub struct Handle {
    store: Arc<Mutex<Store>>,
    /// The node's boot clock as its last step has read it.
    now: AtomicU64,
    /// The end of its lease by that clock.
    lease: AtomicU64,
}

impl Handle {
    /// Of one start.
    pub fn new(store: &Arc<Mutex<Store>>) -> Self {
        Self { store: Arc::clone(store), now: AtomicU64::new(0), lease: AtomicU64::new(0) }
    }

    /// The boot clock of the step that begins.
    pub fn set_now(&self, now: u64) {
        self.now.store(now, Ordering::Relaxed);
    }

    /// The lease ends then, by the boot clock.
    pub fn set_lease(&self, until: u64) {
        self.lease.store(until, Ordering::Relaxed);
    }
}

impl Lease for Handle {
    fn holds(&self) -> bool {
        self.now.load(Ordering::Relaxed) < self.lease.load(Ordering::Relaxed)
    }
}

impl GiveUp for Handle {
    fn give_up(&self, session: u64) -> u64 {
        self.store.lock().taken(session)
    }
}
