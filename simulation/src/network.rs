//! TCP: connections that carry bytes in order, late, or not at all while their ends are cut off from each other, and
//! end.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// One process: a node, and the incarnation of its start.
pub type Process = (usize, u64);

/// Who is at one end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// A client, by its index.
    Client(usize),
    /// A node.
    Node(Process),
}

/// What comes of a connection.
#[derive(Debug)]
pub enum Chunk {
    /// Bytes.
    Bytes(Vec<u8>),
    /// The other end has closed it, or is gone.
    End,
}

/// See the module.
#[derive(Debug)]
pub struct Connection {
    /// Who dialled, and who was.
    pub ends: [End; 2],
    /// To each end.
    pub pipes: [VecDeque<Chunk>; 2],
    /// When the last chunk to each end arrives.
    pub last: [u64; 2],
    /// What an end read before it knew whose the connection is; `None`: it knows.
    pub first: Option<Vec<u8>>,
    /// An end takes nothing more.
    pub closed: [bool; 2],
}

/// See the module.
#[derive(Debug, Default)]
pub struct Network {
    /// By number.
    pub connections: BTreeMap<u64, Connection>,
    made: u64,
    /// Pairs of nodes that cannot reach each other, the lower one first.
    cut: BTreeSet<(usize, usize)>,
}

impl Network {
    /// They cannot reach each other.
    pub fn is_cut(&self, a: usize, b: usize) -> bool {
        self.cut.contains(&(a.min(b), a.max(b)))
    }

    /// Between two nodes nothing comes through any more.
    pub fn cut(&mut self, a: usize, b: usize) {
        self.cut.insert((a.min(b), a.max(b)));
    }

    /// They reach each other again: what stood in the pipes between them is on its way. The connections.
    pub fn heal(&mut self, a: usize, b: usize) -> Vec<u64> {
        self.cut.remove(&(a.min(b), a.max(b)));
        self.between(a, b)
    }

    /// The connections between two nodes.
    pub fn between(&self, a: usize, b: usize) -> Vec<u64> {
        let its = self.connections.iter().filter(|(_, connection)| {
            matches!(connection.ends, [End::Node((x, _)), End::Node((y, _))]
                if (x, y) == (a, b) || (x, y) == (b, a))
        });
        its.map(|(number, _)| *number).collect()
    }

    /// The connections of a process, and which end it is.
    pub fn of(&self, process: Process) -> Vec<(u64, usize)> {
        let its = self.connections.iter().filter_map(|(number, connection)| {
            let end = connection.ends.iter().position(|end| *end == End::Node(process))?;
            Some((*number, end))
        });
        its.collect()
    }

    /// A new connection.
    pub fn connect(&mut self, dialler: End, acceptor: Process) -> u64 {
        self.made += 1;
        let connection = Connection {
            ends: [dialler, End::Node(acceptor)],
            pipes: Default::default(),
            last: [0; 2],
            first: matches!(dialler, End::Node(_)).then(Vec::new),
            closed: [false; 2],
        };
        self.connections.insert(self.made, connection);
        self.made
    }

    /// Whether what is sent to an end of a connection waits for a cut to heal.
    pub fn waits(&self, connection: &Connection) -> bool {
        match connection.ends {
            [End::Node((a, _)), End::Node((b, _))] => self.is_cut(a, b),
            _ => false,
        }
    }
}
