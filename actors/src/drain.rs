//! `broker drain`: a node that takes no new clients and closes those it has at a bounded rate, so
//! that the others take them over without a rush. It can be taken back.
//!
//! A CONNECT is answered with 0x03; what a connection has sent is finished and acknowledged before
//! it is closed, as in a shutdown. The managers close at their ticks, from one budget.
//!
//! Bounds: `node.drain_rate` connections a second (or the rate that was asked for), at most a second's worth of them at once; each
//! waits for its acknowledgements `node.shutdown_deadline` at most.

use tokio::sync::oneshot;

use crate::mailboxes::Mailboxes;
use crate::messages::ManagerTask;

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
