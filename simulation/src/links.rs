//! What nodes and clients send each other, on its way; and the links between nodes, which are dialled again and again.

use hydrant_engine::cluster::NodeIndex;
use hydrant_engine::now::Boot;

use crate::clock::MS;
use crate::event::{Event, NodeEvent};
use crate::network::{Chunk, End, Process};
use crate::world::World;

impl World {
    /// Something is on its way to an end of a connection.
    pub fn send_chunk(&mut self, number: u64, end: usize, chunk: Chunk) {
        let mut delay = self.random.between(30, 1000);
        let Some(connection) = self.network.connections.get_mut(&number) else { return };
        if connection.closed[end] {
            return;
        }
        if matches!(connection.ends[0], End::Node(_)) {
            delay += self.slow_network;
        }
        if let Chunk::Bytes(bytes) = &chunk {
            self.trace.mix(bytes.len() as u64);
        }
        connection.pipes[end].push_back(chunk);
        let at = connection.last[end].max(self.clock.now + delay);
        connection.last[end] = at;
        self.clock.at(at, Event::Arrive { connection: number, end });
    }

    /// Something has come to an end of a connection.
    pub fn arrive(&mut self, number: u64, end: usize) {
        let Some(connection) = self.network.connections.get(&number) else { return };
        if self.network.waits(connection) {
            return;
        }
        let Some(connection) = self.network.connections.get_mut(&number) else { return };
        let Some(chunk) = connection.pipes[end].pop_front() else { return };
        if connection.closed[end] {
            return;
        }
        let to = connection.ends[end];
        if matches!(chunk, Chunk::End) {
            connection.closed[end] = true;
        }
        match to {
            End::Client(client) => self.client_hears(client, number, chunk),
            End::Node(process) => self.later(0, process, NodeEvent::Heard(number, end, chunk)),
        }
        if self.network.connections.get(&number).is_some_and(|it| it.closed == [true; 2]) {
            self.network.connections.remove(&number);
        }
    }

    /// A process hears something.
    pub fn heard_at(&mut self, process: Process, number: u64, end: usize, chunk: Chunk) {
        let Some(node) = &mut self.nodes[process.0].node else { return };
        if node.sockets.contains_key(&number) {
            return node.arrived(
                number,
                match chunk {
                    Chunk::Bytes(bytes) => Some(bytes),
                    Chunk::End => None,
                },
            );
        }
        let Chunk::Bytes(bytes) = chunk else {
            if let Some(peer) = node.disconnected(number) {
                self.note(|| format!("n{}: its connection {number} has ended", process.0 + 1));
                self.close_end(number, end);
                if end == 0 {
                    self.dial_later(process, peer);
                }
            }
            return;
        };
        let first = self.network.connections.get_mut(&number);
        let first = first.and_then(|it| it.first.as_mut()).filter(|_| end == 1);
        let fine = match first {
            None => node.received(number, &bytes),
            Some(first) => {
                first.extend(bytes);
                match node.first_bytes(number, first) {
                    None => return,
                    Some(fine) => {
                        if let Some(connection) = self.network.connections.get_mut(&number) {
                            connection.first = None;
                        }
                        fine
                    }
                }
            }
        };
        if !fine {
            // What the other end is told of a refusal has still to go out.
            self.look_at_link(process, number);
            self.drop_link(process, number, end);
        }
    }

    /// A process closes a connection with another node.
    fn drop_link(&mut self, process: Process, number: u64, end: usize) {
        self.note(|| format!("n{} closes connection {number}", process.0 + 1));
        let node = self.nodes[process.0].node.as_mut();
        let peer = node.and_then(|node| node.disconnected(number));
        self.close_end(number, end);
        if end == 0
            && let Some(peer) = peer
        {
            self.dial_later(process, peer);
        }
    }

    /// One end takes nothing more, and the other one hears so.
    pub fn close_end(&mut self, number: u64, end: usize) {
        self.send_chunk(number, 1 - end, Chunk::End);
        if let Some(connection) = self.network.connections.get_mut(&number) {
            connection.closed[end] = true;
            connection.pipes[end].clear();
        }
    }

    /// What a link has to send goes out, and its next time-out is kept.
    pub fn look_at_link(&mut self, process: Process, number: u64) {
        let Some(node) = &mut self.nodes[process.0].node else { return };
        let end = self
            .network
            .connections
            .get(&number)
            .map(|connection| usize::from(connection.ends[0] != End::Node(process)));
        let Some(end) = end else { return };
        match node.transmit(number) {
            None => {
                // Another connection has replaced it.
                node.peers.remove(&number);
                self.close_end(number, end);
            }
            Some((out, next)) => {
                if !out.is_empty() {
                    self.send_chunk(number, 1 - end, Chunk::Bytes(out));
                }
                self.keep_link_timer(process, number, next);
            }
        }
    }

    fn keep_link_timer(&mut self, process: Process, number: u64, next: Option<Boot>) {
        let Some(next) = next else { return };
        let slot = &mut self.nodes[process.0];
        if slot.timers.get(&number).is_none_or(|known| next < *known) {
            slot.timers.insert(number, next);
            let at = self.at_boot(process.0, next);
            self.clock.at(at, Event::At(process, NodeEvent::Link(number, next)));
        }
    }

    /// A time-out of a link may have come.
    pub fn link_timer(&mut self, process: Process, number: u64, at: Boot) {
        let slot = &mut self.nodes[process.0];
        if slot.timers.get(&number) == Some(&at) {
            slot.timers.remove(&number);
        }
        let Some(node) = &mut slot.node else { return };
        if !node.timed_out(number) {
            let end = self
                .network
                .connections
                .get(&number)
                .map(|connection| usize::from(connection.ends[0] != End::Node(process)));
            self.drop_link(process, number, end.unwrap_or_default());
        }
    }

    /// It is tried again.
    pub fn dial_later(&mut self, process: Process, node: NodeIndex) {
        let delay = self.random.between(10 * MS, 150 * MS);
        self.later(delay, process, NodeEvent::Dial(node));
    }

    /// A node dials another one, if that is a member; it does so until it is connected.
    pub fn dial(&mut self, process: Process, node: NodeIndex) {
        let Some(this) = &mut self.nodes[process.0].node else { return };
        if this.peers.values().any(|peer| peer.node == node) {
            return;
        }
        let target = this.address(node).and_then(|address| self.by_name(&address));
        let reached = target.filter(|target| {
            let slot = &self.nodes[*target];
            slot.node.is_some() && !self.network.is_cut(process.0, *target)
        });
        let Some(target) = reached else { return self.dial_later(process, node) };
        let acceptor = self.process(target);
        let number = self.network.connect(End::Node(process), acceptor);
        self.note(|| format!("n{} dials n{}: connection {number}", process.0 + 1, target + 1));
        if let Some(this) = &mut self.nodes[process.0].node {
            this.dialled(number, node);
        }
    }

    fn by_name(&self, name: &str) -> Option<usize> {
        (0..self.nodes.len()).find(|index| *crate::roster::name(*index) == *name)
    }
}
