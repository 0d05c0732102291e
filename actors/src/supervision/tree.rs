//! All actors of the node in the order of the design's picture, and how the tree is printed.
//!
//! Bound: one cell an actor that is registered at start; connections are counts in their
//! manager's detail, not rows.

use std::fmt::Write as _;
use std::sync::Arc;

use parking_lot::RwLock;

use super::cell::{ActorCell, ActorState, Fault};

/// All actors of a node.
#[derive(Debug)]
pub struct Registry {
    node: Arc<str>,
    cells: RwLock<Vec<Arc<ActorCell>>>,
}

/// One line of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeRow {
    /// As "connection-manager/0".
    pub path: Arc<str>,
    /// The actor's type.
    pub kind: &'static str,
    /// 1 for the node's own children.
    pub depth_in_tree: usize,
    /// Where it is in its life.
    pub state: ActorState,
    /// Items waiting for it.
    pub mailbox: usize,
    /// How often it was rebuilt.
    pub restarts: u64,
    /// Messages or items handled.
    pub handled: u64,
    /// Its longest handler, microseconds.
    pub longest_us: u64,
    /// A few words of its own.
    pub detail: String,
    /// How its last life ended; empty when it never did.
    pub last_exit: String,
}

impl Registry {
    /// An empty tree of node `node_id`.
    pub fn new(node_id: impl Into<Arc<str>>) -> Arc<Self> {
        Arc::new(Self { node: node_id.into(), cells: RwLock::new(Vec::new()) })
    }

    /// The node's id.
    pub fn node(&self) -> &Arc<str> {
        &self.node
    }

    /// Adds an actor; one with the same path is replaced. Its parent is the actor whose path is
    /// the longest beginning of its own, up to a '/'.
    pub fn add(&self, cell: Arc<ActorCell>) {
        let mut cells = self.cells.write();
        match cells.iter_mut().find(|known| known.path() == cell.path()) {
            Some(known) => *known = cell,
            None => cells.push(cell),
        }
    }

    /// Takes the actor at `path` out (a peer that left).
    pub fn remove(&self, path: &str) {
        self.cells.write().retain(|cell| &**cell.path() != path);
    }

    /// The actor at `path`.
    pub fn get(&self, path: &str) -> Option<Arc<ActorCell>> {
        self.cells.read().iter().find(|cell| &**cell.path() == path).cloned()
    }

    /// All actors, in the order they were added.
    pub fn cells(&self) -> Vec<Arc<ActorCell>> {
        self.cells.read().clone()
    }

    /// The tree as it is now, children after their parent, otherwise in the order they were added.
    pub fn snapshot(&self) -> Vec<TreeRow> {
        let cells = self.cells();
        let parents: Vec<Option<usize>> =
            cells.iter().map(|cell| parent_of(&cells, cell.path())).collect();
        let mut rows = Vec::with_capacity(cells.len());
        // Depth first without recursion: the last pushed is printed first.
        let children = |of: Option<usize>, depth: usize| {
            parents
                .iter()
                .enumerate()
                .filter(move |(_, p)| **p == of)
                .map(move |(i, _)| (i, depth))
                .rev()
        };
        let mut stack: Vec<(usize, usize)> = children(None, 1).collect();
        while let Some((index, depth)) = stack.pop() {
            rows.push(row(&cells[index], depth));
            stack.extend(children(Some(index), depth + 1));
        }
        rows
    }

    /// The whole tree as text, the node on top.
    pub fn print(&self) -> String {
        format!("node {}\n{}", self.node, render(&self.snapshot()))
    }

    /// Makes the actor at `path` panic, stall or fail, once, now even if it is idle. The caller
    /// checks `debug.faults`.
    ///
    /// # Errors
    /// One sentence when there is no such actor.
    pub fn arm_fault(&self, path: &str, fault: Fault) -> Result<(), String> {
        let cell = self
            .get(path)
            .ok_or_else(|| format!("no actor '{path}': `broker tree` lists the paths"))?;
        cell.arm(fault);
        cell.nudge();
        Ok(())
    }
}

fn parent_of(cells: &[Arc<ActorCell>], path: &str) -> Option<usize> {
    let mut end = path.len();
    while let Some(slash) = path[..end].rfind('/') {
        end = slash;
        if let Some(found) = cells.iter().position(|cell| **cell.path() == path[..end]) {
            return Some(found);
        }
    }
    None
}

fn row(cell: &ActorCell, depth_in_tree: usize) -> TreeRow {
    TreeRow {
        path: Arc::clone(cell.path()),
        kind: cell.kind(),
        depth_in_tree,
        state: cell.state(),
        mailbox: cell.depth(),
        restarts: cell.restarts(),
        handled: cell.handled(),
        longest_us: cell.longest_us(),
        detail: cell.detail(),
        last_exit: cell.last_exit().map_or_else(String::new, |status| status.to_string()),
    }
}

/// Draws rows of [`Registry::snapshot`] one a line, with `|- ` and `` `- ``.
pub fn render(rows: &[TreeRow]) -> String {
    let labels: Vec<String> =
        (0..rows.len()).map(|i| format!("{}{}", branch(rows, i), rows[i].path)).collect();
    let width = labels.iter().map(|label| label.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for (label, row) in labels.iter().zip(rows) {
        let _ = write!(
            text,
            "{label:width$}  {:<11}  mailbox {:<6} restarts {:<3} handled {:<10} longest {} us",
            row.state.label(),
            row.mailbox,
            row.restarts,
            row.handled,
            row.longest_us
        );
        if !row.detail.is_empty() {
            let _ = write!(text, "  {}", row.detail);
        }
        if !row.last_exit.is_empty() {
            let _ = write!(text, "  (last {})", row.last_exit);
        }
        text.push('\n');
    }
    text
}

/// The lines in front of row `at`.
fn branch(rows: &[TreeRow], at: usize) -> String {
    // Whether a later sibling follows on `level`, before the tree goes above it.
    let more = |level: usize| {
        rows[at + 1..].iter().map(|row| row.depth_in_tree).find(|d| *d <= level) == Some(level)
    };
    let depth = rows[at].depth_in_tree;
    let mut text = String::new();
    for level in 1..depth {
        text.push_str(if more(level) { "|  " } else { "   " });
    }
    text.push_str(if more(depth) { "|- " } else { "`- " });
    text
}
