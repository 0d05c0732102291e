//! A worker's steps but for its connections: what its TopicRouter and its ConnectionManager have it do.

use std::rc::Rc;

use hydrant_actors::messages::ManagerTask;
use hydrant_engine::messages::{ManagerWork, RouterWork};
use hydrant_engine::worker::SocketState;

use super::Node;

impl Node {
    /// Routes what waits, then up to `most` messages of other workers and nodes.
    pub(super) fn route(&mut self, index: u16, most: usize) {
        self.has_room.remove(&index);
        let worker = Rc::clone(&self.workers[usize::from(index)]);
        worker.router_polled();
        if worker.may_route() {
            worker.route_all(|| ());
        }
        let mut taken = self.mailboxes.routers[usize::from(index)].take(most);
        while let Some(work) = taken.front_mut() {
            if !matches!(work, RouterWork::Deliver(_) | RouterWork::PeerBatch(_)) {
                self.note(&format!("router {index}"), work);
            }
            worker.handle_router_message(work, || ());
            taken.pop();
        }
        drop(taken);
        worker.send_retained();
        worker.resume_paused();
    }

    /// Up to `most` messages of storage, log and coordinator.
    pub(super) fn manage(&mut self, index: u16, most: usize) {
        let worker = Rc::clone(&self.workers[usize::from(index)]);
        let mut taken = self.mailboxes.managers[usize::from(index)].take(most);
        while let Some(task) = taken.pop() {
            match task {
                ManagerTask::Worker(mut work) => {
                    if !matches!(work, ManagerWork::Completed(_)) {
                        self.note(&format!("worker {index}"), &work);
                    }
                    worker.handle_message(&mut work, false);
                }
                ManagerTask::Told { mut work, done } => {
                    worker.handle_message(&mut work, false);
                    let _ = done.send(());
                }
                ManagerTask::Drain { .. } => worker.start_draining(),
                // Of the driver's own, in `actors/`.
                ManagerTask::Accept(_)
                | ManagerTask::List { .. }
                | ManagerTask::Connected { .. }
                | ManagerTask::Fault { .. } => {}
            }
        }
        drop(taken);
        worker.flush();
        worker.resume_paused();
    }

    /// A quarter of a second has passed.
    pub fn tick_worker(&mut self, index: u16) {
        let worker = Rc::clone(&self.workers[usize::from(index)]);
        if index == 0 {
            self.ticks += 1;
        }
        worker.handle_tick(self.ticks, |_, _| SocketState::Goes);
    }
}
