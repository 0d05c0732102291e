//! What drives one worker on its thread: its connections, its manager and its router hold this.
//!
//! Owns the links of the thread's sockets and the buffer that these are read into. It outlives its actors as the
//! worker does. [`WorkerDriver::step`] is the one place that reads the clocks for a worker: once at each entry from a
//! connection, the router or the manager. What happens within a step happens at the time at which it began.

mod outside;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::clock::ReadClock as _;
use crate::connection::link::Links;
use crate::mailboxes::Mailboxes;
use crate::node_tables::NodeTables;
use crate::worker::{READ_BUFFER, Worker};
use outside::NodeOutside;

/// See the module.
pub struct WorkerDriver {
    /// The worker.
    pub worker: Rc<Worker>,
    /// The inboxes of the node's actors.
    pub mailboxes: Arc<Mailboxes>,
    /// The sockets of its connections.
    pub links: Rc<Links>,
    /// What a socket is read into.
    pub read_buffer: RefCell<Box<[u8]>>,
    /// Told when the last connection is gone.
    drained: RefCell<Vec<oneshot::Sender<()>>>,
}

impl WorkerDriver {
    /// Drives an empty worker.
    pub fn new(index: u16, shared: Arc<NodeTables>, mailboxes: Arc<Mailboxes>) -> Rc<Self> {
        let links = Rc::<Links>::default();
        let outside = NodeOutside { mailboxes: Arc::clone(&mailboxes), links: Rc::clone(&links) };
        let now = shared.clock.now();
        Rc::new(Self {
            worker: Worker::new(index, shared, Box::new(outside), now),
            mailboxes,
            links,
            read_buffer: RefCell::new(vec![0; READ_BUFFER].into_boxed_slice()),
            drained: RefCell::default(),
        })
    }

    /// A step of the worker begins.
    #[inline]
    pub fn step(&self) -> &Rc<Worker> {
        self.worker.begin(self.worker.shared.clock.now());
        &self.worker
    }

    /// Stops taking work from sockets; `done` is told when the last connection is gone.
    pub fn drain(&self, done: oneshot::Sender<()>) {
        self.drained.borrow_mut().push(done);
        self.worker.start_draining();
        self.report_drained();
    }

    /// Tells who waits for it that the last connection is gone.
    pub fn report_drained(&self) {
        if self.worker.is_drained() {
            for done in self.drained.take() {
                let _ = done.send(());
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::log::Gate;
    use crate::settings::Settings;

    /// A driver with a worker of small bounds.
    pub(crate) fn driver(workers: usize) -> Rc<WorkerDriver> {
        let settings = Settings::for_tests(workers);
        let mailboxes = Mailboxes::new(&settings, usize::MAX);
        let settings = Arc::new(settings);
        let shared = NodeTables::for_tests(&settings, Gate::default(), crate::clock::now());
        WorkerDriver::new(0, shared, mailboxes)
    }
}
