//! TCP between nodes: connections that carry bytes in order, late, or not at all while the two are cut off
//! from each other, and end.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// One process: a node, and the incarnation of its start.
pub type Process = (usize, u64);

pub enum Chunk {
    Bytes(Vec<u8>),
    /// The other end has closed it, or is gone.
    End,
}

pub struct Connection {
    /// Who dialled, and who was.
    pub ends: [Process; 2],
    /// To each end.
    pub pipes: [VecDeque<Chunk>; 2],
    /// When the last chunk to each end arrives.
    pub last: [u64; 2],
    /// What an end read before it knew whose the connection is; `None`: it knows.
    pub first: [Option<Vec<u8>>; 2],
    pub closed: [bool; 2],
}

#[derive(Default)]
pub struct Network {
    pub connections: BTreeMap<u64, Connection>,
    made: u64,
    /// Pairs that cannot reach each other, the lower one first.
    cut: BTreeSet<(usize, usize)>,
}

impl Network {
    pub fn is_cut(&self, a: usize, b: usize) -> bool {
        self.cut.contains(&(a.min(b), a.max(b)))
    }

    pub fn cut(&mut self, a: usize, b: usize) {
        self.cut.insert((a.min(b), a.max(b)));
    }

    /// They reach each other again: what stood in the pipes between them is on its way. The connections.
    pub fn heal(&mut self, a: usize, b: usize) -> Vec<u64> {
        self.cut.remove(&(a.min(b), a.max(b)));
        self.between(a, b)
    }

    pub fn between(&self, a: usize, b: usize) -> Vec<u64> {
        let its = self.connections.iter().filter(|(_, connection)| {
            let nodes = connection.ends.map(|(node, _)| node);
            nodes == [a, b] || nodes == [b, a]
        });
        its.map(|(number, _)| *number).collect()
    }

    /// Those of a process.
    pub fn of(&self, process: Process) -> Vec<(u64, usize)> {
        let its = self.connections.iter().filter_map(|(number, connection)| {
            let end = connection.ends.iter().position(|end| *end == process)?;
            Some((*number, end))
        });
        its.collect()
    }

    pub fn connect(&mut self, dialler: Process, acceptor: Process) -> u64 {
        self.made += 1;
        let connection = Connection {
            ends: [dialler, acceptor],
            pipes: Default::default(),
            last: [0; 2],
            first: [None, Some(Vec::new())],
            closed: [false; 2],
        };
        self.connections.insert(self.made, connection);
        self.made
    }
}
