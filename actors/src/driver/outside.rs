//! Where a worker reaches: the node's inboxes, and the links of its thread.

#[cfg(test)]
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use rand::Rng;

use crate::connection::link::Links;
use crate::mailboxes::Mailboxes;
use crate::messages::{LogWork, ManagerWork, PeerWork, RouterWork, StorageWork};
use crate::worker::{ConnId, Outside};

/// See the module.
pub struct NodeOutside {
    pub mailboxes: Arc<Mailboxes>,
    pub links: Rc<Links>,
}

impl Outside for NodeOutside {
    fn storage(&self, work: StorageWork, bytes: usize) {
        self.mailboxes.storage.push(work, bytes);
    }

    fn log(&self, work: &mut Vec<LogWork>) {
        self.mailboxes.log.push_short(work.drain(..).map(|work| {
            let cost = work.record.cost();
            (work, cost)
        }));
    }

    fn router(&self, worker: u16, work: RouterWork, bytes: usize) {
        self.mailboxes.routers[usize::from(worker)].push(work, bytes);
    }

    fn manager(&self, worker: u16, work: ManagerWork, bytes: usize) {
        self.mailboxes.managers[usize::from(worker)].push(work.into(), bytes);
    }

    fn peers(&self, work: PeerWork, bytes: usize) {
        self.mailboxes.peers.push(work, bytes);
    }

    fn storage_bytes(&self) -> usize {
        self.mailboxes.storage.bytes()
    }

    fn log_has_room(&self) -> bool {
        self.mailboxes.log.has_room()
    }

    fn router_has_room(&self, worker: u16) -> bool {
        self.mailboxes.routers[usize::from(worker)].has_room()
    }

    fn wake(&self, conn: ConnId, now_ms: u64) {
        self.links.wake(conn, now_ms);
    }

    fn wake_router(&self) {
        self.links.wake_router();
    }

    fn unread(&self, conn: ConnId, into: &mut Vec<u8>) {
        self.links.unread(conn, into);
    }

    fn random(&self) -> u64 {
        rand::rng().random()
    }

    #[cfg(test)]
    fn take_storage(&self, max: usize) -> VecDeque<StorageWork> {
        let mut taken = self.mailboxes.storage.take(max);
        std::iter::from_fn(|| taken.pop()).collect()
    }
}
