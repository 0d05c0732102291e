//! What the coordinator shows the rest of the node of its cluster, and the list of all tables that it shares with workers.
//!
//! Only the coordinator writes [`ClusterStatus`]: its setters are not visible outside of the cluster's modules. Its
//! values are single words, and none is compared with another, so no lock is needed; who reads one late acts as if it
//! had come a moment earlier.
//!
//! | table | writes | reads | why it is safe |
//! |---|---|---|---|
//! | `ClusterStatus::synced` | coordinator, once | workers, the start | never unset; set behind the interest, the survey and the retained messages that it stands for |
//! | `members`, `waits_for`, `lost_nodes` | coordinator | people | nothing is decided by them |
//! | `some_are_absent` | coordinator, at a turn's end | workers: how long a CONNECT may take | late by a turn: a deadline is looked at again each tick |
//! | `unstored` | coordinator, at a turn's end | the stop of the node | what was given to PeersActor is counted in its inbox until its turn is over |
//! | `confirmed` | coordinator, upwards only | workers: is a change of interest unconfirmed | a worker that reads less waits for a token that comes at once |
//! | `nodes` | coordinator: appends; `up`, `stops` of each | admin, `broker tree`, links | an index never changes its node |
//! | `Cluster::remote` | coordinator, each change under one lock | routers, one look a route | a generation is moved behind each change, so an older route is made anew (0012: markers decide, no lock does) |
//! | `Cluster::stored_batches` | coordinator: adds | routers | added behind the take-over's request and before it is handed out, so before any worker has the sessions |
//! | `NodeTables::dead_letters`, `lanes` | workers and queues; coordinator: what was taken over | log queue | other lane numbers and ids than the node's own; letters before lanes, so nothing refused is sent again |
//!
//! Written by both, so limits of "one writer" (decision 0017):
//!
//! - `Cluster::interest` with `announced`: workers write, under the lock of `NodeTables::subscriptions`, since changes are
//!   told in the order in which they were made. The coordinator takes the changes.
//! - `NodeTables::retained` with `Cluster::retained` and `retained_clock`: a router and the coordinator change a topic
//!   under the one write lock; the later version counts, whoever comes first. The clock only grows.
//! - `Cluster::begun`: the coordinator adds, before workers are given what they finish. A worker takes out what is
//!   everywhere; each id has one worker. Which one is the last of its incarnation is decided under the lock.
//! - `Cluster::dedup`, `next_move`: workers only. `NodeTables::generations`, `metrics`: counters.
//!
//! What routers knew of batches (whether the store keeps those of a node) comes with
//! [`PeerWork::Consumed`](crate::messages::PeerWork::Consumed); what is being sealed is the coordinator's alone.
//! Bounds: an entry in `nodes` a node id that ever was a member.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use parking_lot::{Mutex, RwLock};

use crate::cluster::lost_nodes::LostNodes;
use crate::cluster::node_index::{Node, NodeIndex};

/// See the module.
#[derive(Debug, Default)]
pub struct ClusterStatus {
    /// The nodes that ever were members, by their index.
    nodes: RwLock<Vec<Arc<Node>>>,
    /// Those that were lost of late, for `broker nodes`.
    pub lost_nodes: LostNodes,
    synced: AtomicBool,
    members: AtomicUsize,
    some_are_absent: AtomicBool,
    confirmed: AtomicU64,
    waits_for: Mutex<String>,
    unstored: AtomicUsize,
}

impl ClusterStatus {
    /// Every member has told what it wants and holds: clients may come.
    pub fn is_synced(&self) -> bool {
        self.synced.load(Ordering::SeqCst)
    }

    /// Members as this node sees them.
    pub fn members(&self) -> usize {
        self.members.load(Ordering::SeqCst)
    }

    /// Sessions of a lost node are with nobody yet.
    pub fn some_are_absent(&self) -> bool {
        self.some_are_absent.load(Ordering::Relaxed)
    }

    /// The last change of interest that every member has confirmed.
    pub fn confirmed(&self) -> u64 {
        self.confirmed.load(Ordering::SeqCst)
    }

    /// What a start waits for before clients may come, for people.
    pub fn waits_for(&self) -> String {
        self.waits_for.lock().clone()
    }

    /// Batches for other nodes that are not stored there yet, and that somebody waits for or has to have.
    pub fn unstored(&self) -> usize {
        self.unstored.load(Ordering::SeqCst)
    }

    /// The nodes that ever were members, by their index.
    pub fn nodes(&self) -> Vec<Arc<Node>> {
        self.nodes.read().clone()
    }

    /// The link to a node is up.
    pub fn is_up(&self, node: NodeIndex) -> bool {
        self.nodes.read().get(usize::from(node)).is_some_and(|node| node.is_up())
    }

    pub(in crate::cluster) fn is_synced_now(&self) {
        self.synced.store(true, Ordering::SeqCst);
    }

    pub(in crate::cluster) fn has_members(&self, members: usize) {
        self.members.store(members, Ordering::SeqCst);
    }

    pub(in crate::cluster) fn has_absent(&self, some: bool) {
        self.some_are_absent.store(some, Ordering::Relaxed);
    }

    pub(in crate::cluster) fn has_confirmed(&self, change: u64) {
        self.confirmed.fetch_max(change, Ordering::SeqCst);
    }

    pub(in crate::cluster) fn now_waits_for(&self, what: String) {
        *self.waits_for.lock() = what;
    }

    pub(in crate::cluster) fn has_unstored(&self, batches: usize) {
        self.unstored.store(batches, Ordering::SeqCst);
    }

    /// The first is this node itself.
    pub(in crate::cluster) fn begins(&self, own: Arc<Node>) {
        *self.nodes.write() = vec![own];
    }

    /// Another one; its index. `None`: there are as many as can be.
    pub(in crate::cluster) fn add(&self, node: Arc<Node>) -> Option<NodeIndex> {
        let mut nodes = self.nodes.write();
        let index = NodeIndex::try_from(nodes.len()).ok()?;
        nodes.push(node);
        Some(index)
    }
}
