//! What goes wrong, by the seed, and how it ends.

use super::clock::{MS, SECOND};
use super::event::{Event, NodeEvent};
use super::network::Chunk;
use super::world::World;

/// How long faults come.
const LONG: u64 = 5 * SECOND;
/// And to their end, at most.
const ENDS: u64 = 5 * SECOND;
/// From the end of all faults to the end of all that follows from them.
const PATIENCE: u64 = 60 * SECOND;

#[derive(Debug, Clone, Copy)]
pub enum Fault {
    Crash(usize),
    Pause(usize),
    Resume(usize),
    /// It reaches nobody: neither nodes, nor store, nor ZooKeeper.
    Isolate(usize),
    Join(usize),
    /// The connections between two break.
    Cut(usize, usize),
    Part(usize, usize),
    Heal(usize, usize),
    SlowStore(u64),
    SlowNetwork(u64),
    /// The end of all.
    Over,
}

impl World {
    /// Decides what goes wrong when.
    pub fn begin(&mut self) {
        let nodes = self.nodes.len();
        let begin = self.clock.now;
        for _ in 0..1 + self.random.below(5) {
            let at = begin + self.random.between(0, LONG);
            let longest = if self.random.one_in(2) { ENDS } else { 500 * MS };
            let end = at + self.random.between(10 * MS, longest);
            let node = self.random.below(nodes);
            let other = (node + 1 + self.random.below(nodes - 1)) % nodes;
            let (fault, over) = match self.random.below(10) {
                0..3 => (Fault::Crash(node), None),
                3 | 4 => (Fault::Pause(node), Some(Fault::Resume(node))),
                5 => (Fault::Isolate(node), Some(Fault::Join(node))),
                6 => (Fault::Cut(node, other), None),
                7 => (Fault::Part(node, other), Some(Fault::Heal(node, other))),
                8 => {
                    (Fault::SlowStore(self.random.between(20, 400) * MS), Some(Fault::SlowStore(0)))
                }
                _ => (
                    Fault::SlowNetwork(self.random.between(1, 50) * MS),
                    Some(Fault::SlowNetwork(0)),
                ),
            };
            self.clock.at(at, Event::Fault(fault));
            if let Some(over) = over {
                self.clock.at(end, Event::Fault(over));
            } else if matches!(fault, Fault::Crash(_)) && !self.random.one_in(3) {
                self.clock.at(end, Event::Start(node));
            }
        }
        self.clock.at(begin + LONG + SECOND, Event::Fault(Fault::Over));
        self.deadline = begin + LONG + PATIENCE;
    }

    pub fn fault(&mut self, fault: Fault) {
        if self.healed {
            return;
        }
        self.note(|| format!("FAULT {fault:?}"));
        match fault {
            Fault::Crash(node) => {
                self.counts.crashes += 1;
                self.crash(node);
            }
            Fault::Pause(node) => {
                self.nodes[node].paused = true;
                self.hear(node);
            }
            Fault::Resume(node) => self.resume(node),
            Fault::Isolate(node) => {
                self.nodes[node].isolated = true;
                for other in (0..self.nodes.len()).filter(|other| *other != node) {
                    self.network.cut(node, other);
                }
                self.hear(node);
            }
            Fault::Join(node) => {
                for other in (0..self.nodes.len()).filter(|other| *other != node) {
                    self.flow(node, other);
                }
                self.join(node);
            }
            Fault::Cut(a, b) => self.cut(a, b),
            Fault::Part(a, b) => self.network.cut(a, b),
            Fault::Heal(a, b) => self.flow(a, b),
            Fault::SlowStore(delay) => self.slow_store = delay,
            Fault::SlowNetwork(delay) => self.slow_network = delay,
            Fault::Over => self.over(),
        }
    }

    /// A part of what is on its way still comes.
    fn cut(&mut self, a: usize, b: usize) {
        for number in self.network.between(a, b) {
            self.counts.cuts += 1;
            let Some(connection) = self.network.connections.get_mut(&number) else { continue };
            for end in [0, 1] {
                let pipe = &mut connection.pipes[end];
                let rest = self.random.below(pipe.len() + 1);
                pipe.truncate(rest);
                pipe.push_back(Chunk::End);
                let (to, at) = (connection.ends[end], connection.last[end]);
                self.clock.at(at, Event::At(to, NodeEvent::Arrive { connection: number, end }));
            }
        }
    }

    fn over(&mut self) {
        (self.slow_store, self.slow_network) = (0, 0);
        for a in 0..self.nodes.len() {
            self.resume(a);
            (0..a).for_each(|b| self.flow(a, b));
            self.join(a);
            if self.nodes[a].node.is_none() {
                let delay = self.random.between(MS, 5 * SECOND);
                self.clock.after(delay, Event::Start(a));
            }
        }
        self.healed = true;
        for client in 0..self.subscribers.len() {
            self.clock.after(MS, Event::Reconnect(client));
        }
    }
}
