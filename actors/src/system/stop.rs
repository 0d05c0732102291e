//! Stops the tree: no new sockets, connections drain, batches are written, the log is flushed, the cluster is left.
//!
//! Bounds: the deadline; past it [`LEAST`] for the log and for the cluster each.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hydrant_protocol::cluster::message::Control;
use tokio::sync::oneshot;

use super::ActorSystem;
use crate::inbox::Inbox;
use crate::messages::{ManagerTask, PeerWork};
use crate::say;

/// Longest wait for ZooKeeper at shutdown, within the deadline; the others learn of it by the session's
/// end then.
const LEAVE: Duration = Duration::from_secs(2);

/// What flushing the log and leaving the cluster get of a deadline that is over, each.
const LEAST: Duration = Duration::from_millis(100);

impl ActorSystem {
    /// Stops in order: no new sockets, connections drain, batches are written, the log is flushed.
    /// False when the deadline cut it short; what was acknowledged as stored is in the store then
    /// too.
    pub async fn stop(mut self, deadline: Duration) -> bool {
        let until = Instant::now() + deadline;
        self.shared.stopping.store(true, Ordering::SeqCst);
        self.shared.set_ready("shutdown", Some("the node shuts down".to_owned()));
        if self.shared.cluster.is_some() {
            self.mailboxes.peers.push(PeerWork::Broadcast(Control::Stopping), 64);
        }
        self.supervisor.begin_shutdown();
        let waits: Vec<_> = self
            .mailboxes
            .managers
            .iter()
            .map(|manager| {
                let (done, wait) = oneshot::channel();
                manager.push(ManagerTask::Drain { done }, 64);
                wait
            })
            .collect();
        let left = |until: Instant| until.saturating_duration_since(Instant::now());
        let mut whole = true;
        for wait in waits {
            whole &= tokio::time::timeout(left(until), wait).await.is_ok();
        }
        whole &= self.until_written(until).await;
        if self.log.steps.log.is_up() {
            whole &= self.log.steps.log.flush(left(until).max(LEAST));
        } else {
            self.say_what_stays();
        }
        if let Some(membership) = &self.membership {
            // What is left to do others do now.
            let _ = tokio::time::timeout(left(until).clamp(LEAST, LEAVE), membership.leave()).await;
        }
        self.supervisor.finish();
        drop(self.watchdog.take());
        for arbiter in &self.arbiters {
            arbiter.stop();
        }
        whole
    }

    fn say_what_stays(&self) {
        let (records, _) = self.shared.lanes.lock().backlog();
        let pending = self.log.steps.queue.lock().len();
        say::warn!(
            "the log is away: {records} records stay in the outbox for the next start, \
             {pending} were waiting in memory (those that are not in the outbox were not acknowledged)"
        );
    }

    /// Waits until StorageActor and the log actor have nothing under way, and other nodes have what was
    /// published here for their queues.
    async fn until_written(&self, until: Instant) -> bool {
        // Twice in a row: work on its way from one actor to the next is in neither's hands.
        let mut idle_before = false;
        loop {
            let storage_idle =
                self.mailboxes.storage.is_empty() && self.storage.queue.lock().is_idle();
            let routers_idle = self.mailboxes.routers.iter().all(Inbox::is_empty);
            // With the log away, what the outbox holds stays there for the next start; nothing else
            // that waits for the log was acknowledged.
            let log_idle = !self.log.steps.log.is_up()
                || (self.mailboxes.log.is_empty() && self.log.steps.queue.lock().is_empty());
            let dead_idle = self.mailboxes.dead_letters.is_empty();
            let peers_idle = self.mailboxes.peers.is_empty()
                && self.shared.cluster.as_ref().is_none_or(|cluster| cluster.is_idle());
            let idle = storage_idle && routers_idle && log_idle && dead_idle && peers_idle;
            if idle && idle_before {
                return true;
            }
            idle_before = idle;
            if Instant::now() >= until {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
