//! Where a worker reaches: the node's inboxes. Who is woken is seen by looking, after each step.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use hydrant_actors::mailboxes::Mailboxes;
use hydrant_engine::messages::{LogWork, ManagerWork, PeerWork, RouterWork, StorageWork};
use hydrant_engine::worker::{ConnId, Outside};

/// What has come on connections and was not given to their workers, by connection.
pub type Unread = Rc<RefCell<BTreeMap<(u16, usize), Vec<u8>>>>;

/// See the module.
pub struct Reach {
    mailboxes: Arc<Mailboxes>,
    worker: u16,
    unread: Unread,
}

impl Reach {
    /// Of a worker.
    pub fn new(worker: u16, mailboxes: &Arc<Mailboxes>, unread: &Unread) -> Self {
        Self { mailboxes: Arc::clone(mailboxes), worker, unread: Rc::clone(unread) }
    }
}

impl Outside for Reach {
    fn storage(&self, work: StorageWork, bytes: usize) {
        self.mailboxes.storage.push(work, bytes);
    }

    fn log(&self, work: &mut Vec<LogWork>) {
        self.mailboxes.log.push_all(work.drain(..).map(|work| {
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

    fn wake(&self, _: ConnId, _: u64) {}

    fn wake_router(&self) {}

    fn unread(&self, conn: ConnId, into: &mut Vec<u8>) {
        if let Some(bytes) = self.unread.borrow().get(&(self.worker, conn.key())) {
            into.extend_from_slice(bytes);
        }
    }

    // Client ids that a broker gives: no client of this world asks for one.
    fn random(&self) -> u64 {
        0
    }
}
