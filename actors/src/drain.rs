//! `broker drain`: a node that takes no new clients and closes those it has at a bounded rate, so
//! that the others take them over without a rush. It can be taken back.
//!
//! A CONNECT is answered with 0x03; what a connection has sent is finished and acknowledged before
//! it is closed, as in a shutdown. The managers close at their ticks, from one budget.
//!
//! Bounds: `node.drain_rate` connections a second (or the rate that was asked for), at most a second's worth of them at once; each
//! waits for its acknowledgements `node.shutdown_deadline` at most.

use std::sync::atomic::Ordering;

use tokio::sync::oneshot;

use crate::clock::ReadClock as _;
use crate::drain_budget::Budget;
use crate::mailboxes::Mailboxes;
use crate::messages::ManagerTask;
use crate::node_tables::NodeTables;

/// The part that is not ready meanwhile.
const PART: &str = "drain";

impl NodeTables {
    /// Begins to drain, at `rate` connections a second or `node.drain_rate`. When it does already, a
    /// rate that is given takes the place of the one before.
    pub fn start_drain(&self, rate: Option<u32>) {
        let again = self.draining.load(Ordering::SeqCst);
        if again && rate.is_none() {
            return;
        }
        let rate = rate.unwrap_or(self.settings.drain_rate).max(1);
        self.drain_rate.store(rate, Ordering::Relaxed);
        *self.drain_budget.lock() = Budget::new(self.clock.now().boot);
        if again {
            log::info!("broker drain: connections close at {rate} a second from now on");
            return;
        }
        self.set_ready(PART, Some("the node is drained (broker drain)".to_owned()));
        self.draining.store(true, Ordering::SeqCst);
        log::info!("broker drain: no new clients, connections close at {rate} a second");
    }

    /// Takes clients again; those that were closed stay away until they come back.
    pub fn cancel_drain(&self) {
        if self.draining.swap(false, Ordering::SeqCst) {
            self.set_ready(PART, None);
            log::info!("broker drain --cancel: the node takes clients again");
        }
    }
}

impl Mailboxes {
    /// Connections past their CONNECT. Of a node that drains it only falls.
    pub async fn connected(&self) -> u64 {
        let mut answers = Vec::with_capacity(self.managers.len());
        for manager in &self.managers {
            let (reply, answer) = oneshot::channel();
            manager.push(ManagerTask::Connected { reply }, 64);
            answers.push(answer);
        }
        let mut connected = 0;
        for answer in answers {
            connected += answer.await.unwrap_or_default() as u64;
        }
        connected
    }
}
