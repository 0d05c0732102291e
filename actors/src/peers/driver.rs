//! Drives the coordinator: the one place that borrows it. Each step begins with one look at the clocks and ends with
//! what the step asks for being carried out.
//!
//! It is on PeersActor's thread, and outlives the actor as the links do.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::Arc;

use futures_util::{Stream, stream};
use tokio::sync::Notify;
use tokio::time::sleep;

use super::parts::OnFailure;
use super::requests;
use crate::clock;
use crate::cluster::coordinator::Coordinator;
use crate::cluster::state::effects::Push;
use crate::cluster::state::requests::{Request, RequestId};
use crate::cluster::{Cluster, NodeIndex};
use crate::mailboxes::Mailboxes;
use crate::messages::{ManagerWork, PeerWork, RouterWork, StorageWork};
use crate::now::{Boot, Now};
use crate::ports::SharedStore;

/// See the module.
pub(crate) struct Driver {
    coordinator: RefCell<Coordinator>,
    pub cluster: Arc<Cluster>,
    pub mailboxes: Arc<Mailboxes>,
    store: Arc<dyn SharedStore>,
    on_failure: OnFailure,
    /// Nodes for which PeersActor has to begin a task.
    to_dial: RefCell<Vec<NodeIndex>>,
    /// Each wakes the task that writes the link's socket; by node, and kept.
    sockets: RefCell<BTreeMap<NodeIndex, Rc<Notify>>>,
    /// When the coordinator wants to be called, as [`deadlines`] knows it.
    deadline: Cell<Option<Boot>>,
    /// It is another one.
    another: Notify,
    /// The next step panics.
    #[cfg(test)]
    pub panics: Cell<bool>,
}

/// What PeersActor and the sockets hold of it.
pub(crate) type Handle = Rc<Driver>;

impl Driver {
    /// Drives this one.
    pub fn new(
        coordinator: Coordinator,
        cluster: &Arc<Cluster>,
        mailboxes: &Arc<Mailboxes>,
        store: &Arc<dyn SharedStore>,
        on_failure: &OnFailure,
    ) -> Handle {
        let (cluster, mailboxes) = (Arc::clone(cluster), Arc::clone(mailboxes));
        let (store, on_failure) = (Arc::clone(store), Arc::clone(on_failure));
        let (sockets, deadline, another) = (RefCell::default(), Cell::new(None), Notify::new());
        let (coordinator, to_dial) = (RefCell::new(coordinator), RefCell::default());
        Rc::new(Self {
            coordinator,
            cluster,
            mailboxes,
            store,
            on_failure,
            to_dial,
            sockets,
            deadline,
            another,
            #[cfg(test)]
            panics: Cell::new(false),
        })
    }

    /// One step. What was decided before a panic is carried out: it is not decided again.
    pub fn step<R>(&self, act: impl FnOnce(&mut Coordinator, Now) -> R) -> R {
        let mut coordinator = self.coordinator.borrow_mut();
        let done = catch_unwind(AssertUnwindSafe(|| {
            #[cfg(test)]
            assert!(!self.panics.replace(false), "as a fault would");
            act(&mut coordinator, clock::now())
        }));
        coordinator.hand_out(&mut Outside(self));
        let deadline = coordinator.poll_deadline();
        if self.deadline.replace(deadline) != deadline {
            self.another.notify_one();
        }
        done.unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// Nodes that are to be dialled from here on, each once.
    pub fn take_to_dial(&self) -> Vec<NodeIndex> {
        self.to_dial.take()
    }

    /// What wakes the task that writes a link's socket.
    pub fn socket(&self, node: NodeIndex) -> Rc<Notify> {
        Rc::clone(self.sockets.borrow_mut().entry(node).or_default())
    }

    /// When the coordinator wants to be called.
    #[cfg(test)]
    pub fn deadline(&self) -> Option<Boot> {
        self.deadline.get()
    }

    /// Looks at something.
    pub fn look<R>(&self, look: impl FnOnce(&Coordinator) -> R) -> R {
        look(&self.coordinator.borrow())
    }
}

/// Where the effects of a step go.
struct Outside<'a>(&'a Driver);

impl Push for Outside<'_> {
    fn manager(&mut self, worker: u16, work: ManagerWork, cost: usize) {
        self.0.mailboxes.managers[usize::from(worker)].push(work.into(), cost);
    }

    fn router(&mut self, worker: u16, work: RouterWork, cost: usize) {
        self.0.mailboxes.routers[usize::from(worker)].push(work, cost);
    }

    fn storage(&mut self, work: StorageWork, cost: usize) {
        self.0.mailboxes.storage.push(work, cost);
    }

    fn coordinator(&mut self, work: PeerWork, cost: usize) {
        self.0.mailboxes.peers.push(work, cost);
    }

    fn request(&mut self, id: RequestId, request: Request) {
        requests::begin(&self.0.store, &self.0.mailboxes, id, request);
    }

    fn dial(&mut self, node: NodeIndex) {
        self.0.to_dial.borrow_mut().push(node);
    }

    fn link(&mut self, node: NodeIndex) {
        self.0.socket(node).notify_one();
    }

    fn end(&mut self, why: String) {
        (self.0.on_failure)(why);
    }
}

/// The coordinator wants to be called.
#[derive(Debug)]
pub(crate) struct Due;

/// Yields whenever the coordinator wants to be called. A rebuilt actor makes another one: what was due and was not
/// handled is due again.
pub(crate) fn deadlines(driver: Handle) -> impl Stream<Item = Due> {
    stream::unfold(driver, |driver| async {
        loop {
            match driver.deadline.get() {
                None => driver.another.notified().await,
                Some(at) => tokio::select! {
                    () = driver.another.notified() => {}
                    () = sleep(at.since(clock::now().boot)) => return Some((Due, driver)),
                },
            }
        }
    })
}
