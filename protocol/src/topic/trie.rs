//! Filters with wildcards, and who is subscribed to them: a trie by level, in three flat tables.
//!
//! Nodes in a vector with a free list, level names interned once with a reference count, and an
//! edge (node, level name) to its child. So each level of a topic is hashed as text once, however
//! wide the search gets; nothing recurses, neither search nor drop; and a node without subscriber
//! and child goes back to the free list at once. At most 2^32 nodes.

use std::hash::Hash;
use std::sync::Arc;

use ahash::AHashMap;
use smallvec::SmallVec;

use super::subscribers::Subscribers;
use crate::QoS;

/// Tables larger than this give the memory of a past crowd back.
pub(super) const CROWD: usize = 1024;
/// Index of a node; the root is 0, which as a child means none.
pub(super) type NodeId = u32;
/// Index of an interned level name.
type LevelId = u32;

const ROOT: NodeId = 0;
const NONE: NodeId = 0;

#[derive(Debug)]
struct Node<S> {
    parent: NodeId,
    /// How the parent knows it.
    step: Step,
    /// Child for `+`.
    plus: NodeId,
    /// Child for `#`.
    hash: NodeId,
    /// Children by name, which are in [`Trie::edges`].
    named: u32,
    subscribers: Subscribers<S>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Plus,
    Hash,
    Named(LevelId),
}

#[derive(Debug)]
pub(super) struct Trie<S> {
    nodes: Vec<Node<S>>,
    free_nodes: Vec<NodeId>,
    levels: AHashMap<Arc<str>, LevelId>,
    /// Name and number of edges that use it.
    names: Vec<(Option<Arc<str>>, u32)>,
    free_levels: Vec<LevelId>,
    edges: AHashMap<(NodeId, LevelId), NodeId>,
}

impl<S> Default for Trie<S> {
    fn default() -> Self {
        Self {
            nodes: vec![Node::new(ROOT, Step::Plus)],
            free_nodes: Vec::new(),
            levels: AHashMap::new(),
            names: Vec::new(),
            free_levels: Vec::new(),
            edges: AHashMap::new(),
        }
    }
}

impl<S> Node<S> {
    fn new(parent: NodeId, step: Step) -> Self {
        Self { parent, step, plus: NONE, hash: NONE, named: 0, subscribers: Subscribers::default() }
    }
}

impl<S: Copy + Eq + Hash> Trie<S> {
    fn child(&self, node: NodeId, level: &str) -> NodeId {
        match level {
            "+" => self.nodes[node as usize].plus,
            "#" => self.nodes[node as usize].hash,
            name => match self.levels.get(name) {
                Some(&level) => self.named(node, level),
                None => NONE,
            },
        }
    }

    fn named(&self, node: NodeId, level: LevelId) -> NodeId {
        self.edges.get(&(node, level)).copied().unwrap_or(NONE)
    }

    /// The node of a filter, where there is one.
    pub fn find(&self, filter: &str) -> Option<NodeId> {
        let mut node = ROOT;
        for level in filter.split('/') {
            node = self.child(node, level);
            if node == NONE {
                return None;
            }
        }
        Some(node)
    }

    /// Who is subscribed at a node.
    pub fn subscribers_of(&self, node: NodeId) -> &Subscribers<S> {
        &self.nodes[node as usize].subscribers
    }

    /// The node of a filter, made with those above it where missing.
    pub fn make(&mut self, filter: &str) -> NodeId {
        let mut node = ROOT;
        for level in filter.split('/') {
            let child = self.child(node, level);
            node = if child == NONE { self.add(node, level) } else { child };
        }
        node
    }

    fn add(&mut self, parent: NodeId, level: &str) -> NodeId {
        let step = match level {
            "+" => Step::Plus,
            "#" => Step::Hash,
            name => Step::Named(self.intern(name)),
        };
        let node = Node::new(parent, step);
        let id = match self.free_nodes.pop() {
            Some(id) => {
                self.nodes[id as usize] = node;
                id
            }
            None => {
                self.nodes.push(node);
                (self.nodes.len() - 1) as NodeId
            }
        };
        let above = &mut self.nodes[parent as usize];
        match step {
            Step::Plus => above.plus = id,
            Step::Hash => above.hash = id,
            Step::Named(level) => {
                above.named += 1;
                self.edges.insert((parent, level), id);
            }
        }
        id
    }

    /// The number of a level name, counted once more.
    fn intern(&mut self, name: &str) -> LevelId {
        if let Some(&level) = self.levels.get(name) {
            self.names[level as usize].1 += 1;
            return level;
        }
        let name: Arc<str> = Arc::from(name);
        let entry = (Some(Arc::clone(&name)), 1);
        let level = match self.free_levels.pop() {
            Some(level) => {
                self.names[level as usize] = entry;
                level
            }
            None => {
                self.names.push(entry);
                (self.names.len() - 1) as LevelId
            }
        };
        self.levels.insert(name, level);
        level
    }

    fn release(&mut self, level: LevelId) {
        let entry = &mut self.names[level as usize];
        entry.1 -= 1;
        if entry.1 == 0 {
            if let Some(name) = entry.0.take() {
                self.levels.remove(&name);
            }
            self.free_levels.push(level);
        }
    }

    /// Takes the node away, and each one above it, as long as it holds nothing.
    pub fn prune(&mut self, mut id: NodeId) {
        while id != ROOT {
            let node = &self.nodes[id as usize];
            if !node.subscribers.is_empty()
                || node.named > 0
                || node.plus != NONE
                || node.hash != NONE
            {
                return;
            }
            let (parent, step) = (node.parent, node.step);
            let above = &mut self.nodes[parent as usize];
            match step {
                Step::Plus => above.plus = NONE,
                Step::Hash => above.hash = NONE,
                Step::Named(level) => {
                    above.named -= 1;
                    self.edges.remove(&(parent, level));
                    self.release(level);
                }
            }
            self.free_nodes.push(id);
            id = parent;
        }
        if self.nodes.len() > CROWD && self.free_nodes.len() + 1 == self.nodes.len() {
            *self = Self::default();
        }
    }

    fn collect(&self, node: NodeId, out: &mut Vec<(S, QoS)>) {
        if node != NONE {
            self.nodes[node as usize].subscribers.collect_into(out);
        }
    }

    /// The subscribers of a node that [`Trie::find`] or [`Trie::make`] gave.
    pub fn subscribers(&mut self, node: NodeId) -> &mut Subscribers<S> {
        &mut self.nodes[node as usize].subscribers
    }

    /// Appends every subscription that matches the topic name.
    pub fn matches(&self, topic: &str, out: &mut Vec<(S, QoS)>) {
        if self.nodes.len() == 1 {
            return;
        }
        // All nodes that match the levels so far; the topic is walked once.
        let mut here: SmallVec<[NodeId; 16]> = SmallVec::new();
        let mut below: SmallVec<[NodeId; 16]> = SmallVec::new();
        here.push(ROOT);
        // [MQTT-4.7.2-1]: no wildcard in the first place matches a topic that begins with $.
        let mut wildcards = !topic.starts_with('$');
        for name in topic.split('/') {
            let level = self.levels.get(name).copied();
            for &id in &here {
                let node = &self.nodes[id as usize];
                if wildcards {
                    self.collect(node.hash, out);
                    if node.plus != NONE {
                        below.push(node.plus);
                    }
                }
                if let (Some(level), true) = (level, node.named > 0) {
                    let child = self.named(id, level);
                    if child != NONE {
                        below.push(child);
                    }
                }
            }
            wildcards = true;
            here.clear();
            std::mem::swap(&mut here, &mut below);
            if here.is_empty() {
                return;
            }
        }
        for &id in &here {
            self.collect(id, out);
            // `a/#` matches `a` too.
            self.collect(self.nodes[id as usize].hash, out);
        }
    }
}

#[cfg(test)]
impl<S> Trie<S> {
    /// Nodes, the free ones and the root included.
    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }

    pub fn assert_empty(&self) {
        assert_eq!(self.free_nodes.len() + 1, self.nodes.len());
        assert!(self.edges.is_empty() && self.levels.is_empty());
        assert_eq!(self.free_levels.len(), self.names.len());
    }
}
