//! Nodes that start and end.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use hydrant_engine::cluster::Beginning;

use crate::clock::{MS, SECOND};
use crate::event::{Event, NodeEvent};
use crate::network::Process;
use crate::node::{Node, Setup};
use crate::settings::{LEASE, SESSION, of_node};
use crate::world::World;

/// How long a stop in order may take.
const STOP: u64 = SECOND;

impl World {
    /// A node starts, if it does not run.
    pub fn start(&mut self, index: usize) {
        if self.nodes[index].node.is_some() || self.nodes[index].away {
            return;
        }
        let clustered = self.nodes.len() > 1;
        let now = self.clock.now;
        let name = crate::roster::name(index);
        let store = Arc::clone(&self.store);
        let (begun, sessions, wills, retained, lanes) = {
            let mut store = store.lock();
            let begun = store.begin(now, &name);
            let sessions = store.sessions_of(begun.incarnation);
            let wills = begun.continued.wills.clone();
            let retained = if clustered { Vec::new() } else { store.retained() };
            let lanes = store.lanes(begun.incarnation);
            (begun, sessions, wills, retained, lanes)
        };
        let incarnation = begun.incarnation;
        let continued = begun.continued.incarnations.clone();
        let beginning = Beginning {
            incarnation,
            lineage: begun.lineage,
            continued: begun.continued.incarnations,
            batches: begun.continued.batches,
            prepared: begun.continued.prepared,
        };
        self.note(|| format!("{name} starts as {incarnation}, goes on with {continued:?}"));
        let workers = self.nodes[index].workers;
        let settings = of_node(&name, workers, self.kinds.log, &mut self.random);
        let slot = &mut self.nodes[index];
        let boot = now + slot.boot;
        let setup = Setup {
            index,
            settings,
            clustered,
            beginning,
            sessions,
            wills,
            retained,
            lanes,
            now: (boot, (1_700_000_000_000 + slot.skew) * 1_000_000 + now * 1000),
            traced: self.trace.is_read(),
            // One that is alone has no lease that could end.
            lease: if clustered { boot + LEASE.as_micros() as u64 } else { u64::MAX },
        };
        slot.node = Some(Node::new(&store, setup));
        slot.incarnation = incarnation;
        (slot.paused, slot.isolated, slot.no_store) = (false, false, false);
        slot.deferred.clear();
        slot.held.clear();
        slot.scheduled.clear();
        slot.deadlines.clear();
        slot.timers.clear();
        slot.last_write = 0;
        slot.log_broken = false;
        slot.unreported.clear();
        self.zookeeper.silent.remove(&index);
        self.forget_views(index);
        let process = (index, incarnation);
        for worker in 0..workers as u16 {
            let delay = self.random.between(1, 250) * MS;
            self.later(delay, process, NodeEvent::TickWorker(worker));
        }
        if self.kinds.log {
            self.later(20 * MS, process, NodeEvent::TickLog);
        }
        if clustered {
            let delay = self.random.between(1, 500) * MS;
            self.later(delay, process, NodeEvent::TickCoordinator);
            self.later(LEASE.as_micros() as u64 / 3, process, NodeEvent::Renew);
            self.later(delay, process, NodeEvent::Look);
            self.register(process);
        }
        self.after(process);
    }

    /// Its process ends, and with it its connections. A part of what it has sent still comes.
    pub fn crash(&mut self, index: usize) {
        let process = self.process(index);
        if !self.kill(process) {
            return;
        }
        let session = SESSION.as_micros() as u64;
        let delay = self.random.between(session / 2, session);
        self.clock.after(delay, Event::Expire { process, since: 0 });
    }

    fn kill(&mut self, process: Process) -> bool {
        if !self.lives(process) {
            return false;
        }
        let slot = &mut self.nodes[process.0];
        slot.node = None;
        (slot.paused, slot.isolated, slot.no_store) = (false, false, false);
        // Requests that it has not sent are gone with it.
        slot.held.clear();
        slot.deferred.clear();
        self.zookeeper.silent.remove(&process.0);
        self.zookeeper.withdrawn.remove(&process);
        for other in 0..self.nodes.len() {
            if self.network.is_cut(process.0, other) {
                self.network.heal(process.0, other);
            }
        }
        for (number, end) in self.network.of(process) {
            if let Some(connection) = self.network.connections.get_mut(&number) {
                let pipe = &mut connection.pipes[1 - end];
                let rest = self.random.below(pipe.len() + 1);
                pipe.truncate(rest);
            }
            self.close_end(number, end);
        }
        true
    }

    /// One look at a stop in order: clients are disconnected, then everything is written, then it leaves.
    pub fn stop_step(&mut self, process: Process) {
        let now = self.clock.now;
        let Some(node) = &mut self.nodes[process.0].node else { return };
        if !node.tables.stopping.swap(true, Ordering::SeqCst) {
            node.begin_stop(now + STOP);
        }
        if node.stops_now(now) {
            self.note(|| format!("n{} ({}) has stopped in order", process.0 + 1, process.1));
            self.deregister(process);
            self.store.lock().release(process.1);
            self.kill(process);
            let delay = if self.random.one_in(2) { 10 * MS } else { 2 * SECOND };
            let delay = self.random.between(MS, delay);
            return self.clock.after(delay, Event::Start(process.0));
        }
        self.later(5 * MS, process, NodeEvent::Stop);
    }
}
