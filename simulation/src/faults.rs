//! What goes wrong, by the seed, and how it ends.

use crate::clock::{MS, SECOND};
use crate::event::{ClientEvent, Event, Fault, NodeEvent};
use crate::kinds::Kinds;
use crate::network::Chunk;
use crate::world::World;

/// How long faults come.
const LONG: u64 = 5 * SECOND;
/// And to their end, at most.
const ENDS: u64 = 5 * SECOND;
/// From the end of all faults to the end of all that follows from them.
const PATIENCE: u64 = 60 * SECOND;

impl World {
    /// Decides what goes wrong when.
    pub fn begin(&mut self) {
        let nodes = self.nodes.len();
        let begin = self.clock.now;
        let kinds = self.kinds;
        let (mut faults, mut lost, mut left) = (Vec::new(), false, false);
        let most = 10 * (1 + self.random.below(5));
        for _ in 0..20 * most {
            // Those that a history does not have are drawn again.
            if faults.len() * 10 >= most {
                break;
            }
            let at = begin + self.random.between(0, LONG);
            let longest = if self.random.one_in(2) { ENDS } else { 500 * MS };
            let end = at + self.random.between(10 * MS, longest);
            let node = self.random.below(nodes);
            let other = (node + 1 + self.random.below(nodes.saturating_sub(1))) % nodes;
            let (fault, over) = match self.random.below(15) {
                0..3 => (Fault::Crash(node), None),
                3 | 4 => (Fault::Pause(node), Some(Fault::Resume(node))),
                5 => (Fault::Isolate(node), Some(Fault::Join(node))),
                6 => (Fault::NoStore(node), Some(Fault::StoreAgain(node))),
                7 => (Fault::Cut(node, other), None),
                8 => (Fault::Part(node, other), Some(Fault::Heal(node, other))),
                9 => {
                    (Fault::SlowStore(self.random.between(20, 400) * MS), Some(Fault::SlowStore(0)))
                }
                10 => (
                    Fault::SlowNetwork(self.random.between(1, 50) * MS),
                    Some(Fault::SlowNetwork(0)),
                ),
                11 | 12 => (Fault::Restart(node), None),
                13 => (Fault::ColdStart(self.random.one_in(2)), None),
                _ => (Fault::Leave(node), None),
            };
            let loses = !matches!(
                fault,
                Fault::Cut(..) | Fault::Part(..) | Fault::SlowStore(_) | Fault::SlowNetwork(_)
            );
            let leaves = matches!(fault, Fault::Leave(_));
            if (loses && kinds.one_loss && lost) || (leaves && left) {
                continue;
            }
            if allows(kinds, fault) {
                (lost, left) = (lost || loses, left || leaves);
                faults.push((at, end, fault, over));
            }
        }
        for (at, end, fault, over) in faults {
            self.clock.at(at, Event::Fault(fault));
            if let Some(over) = over {
                self.clock.at(end, Event::Fault(over));
            } else if matches!(fault, Fault::Crash(_)) && !self.random.one_in(3) {
                let Fault::Crash(node) = fault else { continue };
                self.clock.at(end, Event::Start(node));
            }
        }
        self.clock.at(begin + LONG + SECOND, Event::Fault(Fault::Over));
        self.deadline = begin + LONG + PATIENCE;
    }

    /// Something goes wrong, or is over.
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
            Fault::Leave(node) => {
                self.counts.away += 1;
                self.nodes[node].away = true;
                self.crash(node);
            }
            Fault::Pause(node) => {
                self.counts.pauses += 1;
                self.nodes[node].paused = self.nodes[node].node.is_some();
                self.nodes[node].stuck = self.random.one_in(2);
                self.hear(node);
            }
            Fault::Resume(node) => self.resume(node),
            Fault::Isolate(node) => {
                self.counts.isolations += 1;
                self.nodes[node].isolated = self.nodes[node].node.is_some();
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
            Fault::NoStore(node) => {
                self.counts.no_store += 1;
                self.nodes[node].no_store = self.nodes[node].node.is_some();
            }
            Fault::StoreAgain(node) => self.store_again(node),
            Fault::Cut(a, b) => self.cut(a, b),
            Fault::Part(a, b) => {
                self.counts.partitions += 1;
                self.network.cut(a, b);
            }
            Fault::Heal(a, b) => self.flow(a, b),
            Fault::SlowStore(delay) => self.slow_store = delay,
            Fault::SlowNetwork(delay) => self.slow_network = delay,
            Fault::Restart(node) => self.stop(node),
            Fault::ColdStart(all) => {
                self.counts.cold_starts += 1;
                let spared = self.random.below(self.nodes.len());
                for node in 0..self.nodes.len() {
                    if all || node != spared {
                        self.crash(node);
                        let delay = self.random.between(MS, 3 * SECOND);
                        self.clock.after(delay, Event::Start(node));
                    }
                }
            }
            Fault::Over => self.over(),
        }
    }

    /// A part of what is on its way still comes.
    fn cut(&mut self, a: usize, b: usize) {
        for number in self.network.between(a, b) {
            self.counts.cuts += 1;
            for end in [0, 1] {
                let Some(connection) = self.network.connections.get_mut(&number) else { continue };
                let pipe = &mut connection.pipes[end];
                let rest = self.random.below(pipe.len() + 1);
                pipe.truncate(rest);
                self.send_chunk(number, end, Chunk::End);
            }
        }
    }

    /// Its process stands still no longer.
    pub fn resume(&mut self, index: usize) {
        if !std::mem::replace(&mut self.nodes[index].paused, false) {
            return;
        }
        let process = self.process(index);
        self.note(|| format!("n{} goes on", index + 1));
        for (process, ask) in std::mem::take(&mut self.nodes[index].held) {
            self.ask(process, ask);
        }
        for event in std::mem::take(&mut self.nodes[index].deferred) {
            self.later(0, process, event);
        }
        self.hear(index);
    }

    /// What stood in the pipes between two goes on.
    fn flow(&mut self, a: usize, b: usize) {
        for number in self.network.heal(a, b) {
            let Some(connection) = self.network.connections.get(&number) else { continue };
            let counts = [connection.pipes[0].len(), connection.pipes[1].len()];
            for (end, count) in counts.into_iter().enumerate() {
                for _ in 0..count {
                    self.clock.after(MS, Event::Arrive { connection: number, end });
                }
            }
        }
    }

    /// It reaches the others again. Its requests come late, or not at all.
    fn join(&mut self, index: usize) {
        if std::mem::replace(&mut self.nodes[index].isolated, false) {
            self.hold_no_more(index);
            self.hear(index);
        }
    }

    fn store_again(&mut self, index: usize) {
        if std::mem::replace(&mut self.nodes[index].no_store, false) {
            self.hold_no_more(index);
        }
    }

    fn over(&mut self) {
        (self.slow_store, self.slow_network) = (0, 0);
        for a in 0..self.nodes.len() {
            self.resume(a);
            (0..a).for_each(|b| self.flow(a, b));
            self.join(a);
            self.store_again(a);
            if self.nodes[a].node.is_none() && !self.nodes[a].away {
                let delay = self.random.between(MS, 5 * SECOND);
                self.clock.after(delay, Event::Start(a));
            }
        }
        self.healed = true;
        for client in 0..self.clients.len() {
            self.clock.after(MS, Event::Client(client, ClientEvent::Connect));
        }
    }

    /// Stops in order, as far as that is played: clients are disconnected and what is under way is written.
    fn stop(&mut self, index: usize) {
        let process = self.process(index);
        if self.nodes[index].node.is_some() && !self.nodes[index].paused {
            self.counts.stops += 1;
            self.later(0, process, NodeEvent::Stop);
        }
    }
}

/// Whether a history has such faults.
fn allows(kinds: Kinds, fault: Fault) -> bool {
    match fault {
        Fault::Crash(_) => kinds.crash,
        Fault::Pause(_) | Fault::Resume(_) => kinds.pause,
        Fault::Isolate(_) | Fault::Join(_) => kinds.isolate,
        Fault::NoStore(_) | Fault::StoreAgain(_) => kinds.no_store,
        Fault::Cut(..) | Fault::Part(..) | Fault::Heal(..) => kinds.links,
        Fault::SlowStore(_) | Fault::SlowNetwork(_) => kinds.slow,
        Fault::Restart(_) => kinds.restart,
        Fault::ColdStart(_) => kinds.cold,
        Fault::Leave(_) => kinds.away,
        Fault::Over => true,
    }
}
