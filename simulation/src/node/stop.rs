//! A stop in order, as `ActorSystem::stop` has it: clients are disconnected, and what is under way is written.

use hydrant_engine::messages::PeerWork;
use hydrant_protocol::cluster::message::Control;

use super::Node;
use super::parts::Stop;

impl Node {
    /// It begins, and takes until then at most.
    pub fn begin_stop(&mut self, until: u64) {
        if self.cluster.is_some() {
            self.mailboxes.peers.push(PeerWork::Broadcast(Control::Stopping), 64);
        }
        self.workers.iter().for_each(|worker| worker.start_draining());
        self.stop = Some(Stop { until, idle_before: false });
    }

    /// Whether nothing is under way any more, twice in a row, or it has taken too long.
    pub fn stops_now(&mut self, now: u64) -> bool {
        let drained = self.workers.iter().all(|worker| worker.is_drained());
        let idle = drained && self.unfinished().is_none();
        let Some(stop) = &mut self.stop else { return false };
        (idle && std::mem::replace(&mut stop.idle_before, idle)) || now >= stop.until
    }
}
