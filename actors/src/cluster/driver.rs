//! Drives the coordinator: the one place that borrows it. Each step begins with one look at the clocks and ends with
//! what the step asks for being carried out.
//!
//! It is on PeersActor's thread, and outlives the actor as the links do.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::Notify;
use tokio::time::sleep;

use super::coordinator::Peers;
use super::{Cluster, requests};
use crate::clock;
use crate::mailboxes::Mailboxes;
use crate::now::{Boot, Now};

/// See the module.
pub(crate) struct Driver {
    peers: RefCell<Peers>,
    pub cluster: Arc<Cluster>,
    pub mailboxes: Arc<Mailboxes>,
    /// When the coordinator wants to be called, as [`deadlines`] knows it.
    deadline: Cell<Option<Boot>>,
    /// It is another one.
    another: Notify,
}

/// What PeersActor and the sockets hold of it.
pub(crate) type Handle = Rc<Driver>;

impl Driver {
    /// Drives this one.
    pub fn new(peers: Peers) -> Handle {
        let (cluster, mailboxes) = (Arc::clone(&peers.cluster), Arc::clone(&peers.mailboxes));
        let (peers, deadline) = (RefCell::new(peers), Cell::new(None));
        Rc::new(Self { peers, cluster, mailboxes, deadline, another: Notify::new() })
    }

    /// One step.
    pub fn step<R>(&self, act: impl FnOnce(&mut Peers, Now) -> R) -> R {
        let mut peers = self.peers.borrow_mut();
        let done = act(&mut peers, clock::now());
        while let Some((id, request)) = peers.poll_request() {
            let (cluster, mailboxes) = (Arc::clone(&self.cluster), Arc::clone(&self.mailboxes));
            tokio::task::spawn_local(requests::ask(cluster, mailboxes, id, request));
        }
        let deadline = peers.poll_deadline();
        if self.deadline.replace(deadline) != deadline {
            self.another.notify_one();
        }
        done
    }

    /// Looks at something.
    pub fn look<R>(&self, look: impl FnOnce(&Peers) -> R) -> R {
        look(&self.peers.borrow())
    }
}

/// Calls the coordinator when it wants to be called, for as long as the process lives.
pub(crate) async fn deadlines(driver: Handle) {
    loop {
        match driver.deadline.get() {
            None => driver.another.notified().await,
            Some(at) => tokio::select! {
                () = driver.another.notified() => {}
                () = sleep(at.since(clock::now().boot)) => driver.step(Peers::handle_deadline),
            },
        }
    }
}
