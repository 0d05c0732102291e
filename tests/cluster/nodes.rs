//! Nodes of one cluster, each cluster with a keyspace and a chroot of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::support::cassandra::{Shared, shared};
use crate::support::client::{Client, Packet};
use crate::support::load::{PATIENCE, Seen};
use crate::support::node::Builder;
use crate::support::zookeeper::{self, Zookeeper};
use crate::support::{Node, eventually, unique};

/// `zookeeper.session_timeout` of the nodes, in seconds.
pub const SESSION_TIMEOUT: u64 = 2;
/// `cassandra.lease`, in seconds.
pub const LEASE: u64 = 3;

/// What the nodes of one cluster are started with.
pub struct Cluster {
    cassandra: Shared,
    zookeeper: String,
    name: String,
}

impl Cluster {
    /// On the ZooKeeper that all tests share.
    pub fn new() -> Self {
        Self::on(&zookeeper::shared().address())
    }

    /// On this one.
    pub fn on(zookeeper: &str) -> Self {
        let name = unique("cluster");
        Self { cassandra: shared(), zookeeper: zookeeper.to_owned(), name }
    }

    /// On a ZooKeeper of its own.
    pub fn beside(zookeeper: &Zookeeper) -> Self {
        Self::on(&zookeeper.address())
    }

    /// Where its Cassandra is.
    pub fn cassandra(&self) -> String {
        self.cassandra.address()
    }

    /// Cassandra holds its connections and answers nothing for this long. For a test that runs alone.
    pub fn stall_cassandra(&self, time: Duration) {
        self.cassandra.pause();
        std::thread::sleep(time);
        self.cassandra.resume();
    }

    /// Whether a node of this id has, or had, a lease.
    pub fn has_lease(&self, id: &str) -> bool {
        let keyspace = self.keyspace();
        let rows = self.cassandra.execute(&format!("SELECT node_id FROM {keyspace}.incarnation"));
        rows.is_ok_and(|rows| rows.windows(id.len()).any(|found| found == id.as_bytes()))
    }

    fn keyspace(&self) -> String {
        self.name.replace('-', "_")
    }

    /// How a node of it is started.
    pub fn builder(&self, id: &str) -> Builder {
        Node::builder()
            .id(id)
            .set("storage.kind", "cassandra")
            .set("cassandra.contact_points", self.cassandra.address())
            .set("cassandra.keyspace", self.keyspace())
            .set("cassandra.lease", format!("{LEASE}s"))
            .set("log.kind", "none")
            // A load goes as fast as the machine lets it, for as long as a restart takes.
            .set("session.max_queued_messages", 10_000_000)
            .set("session.max_queued_bytes", "\"1TiB\"")
            .set("cluster.kind", "zookeeper")
            .set("cluster.id", &self.name)
            .set("cluster.listen", "127.0.0.1:0")
            .set("zookeeper.servers", &self.zookeeper)
            .set("zookeeper.chroot", format!("/{}", self.name))
            .set("zookeeper.session_timeout", format!("{SESSION_TIMEOUT}s"))
    }

    /// Starts these nodes, one after another, and waits until they see each other.
    pub fn start<const N: usize>(&self, ids: [&str; N]) -> [Node; N] {
        let nodes = ids.map(|id| self.builder(id).start());
        for node in &nodes {
            sees(node, &ids);
        }
        nodes
    }
}

/// Waits until a node has links to all the others of these, and knows no other.
#[track_caller]
pub fn sees(node: &Node, ids: &[&str]) {
    eventually(PATIENCE, "the nodes see each other", || {
        let tree = node.tree();
        let peers = tree.lines().find(|line| line.contains("peers")).unwrap_or_default();
        let up = ids.iter().filter(|id| peers.contains(&format!("{id} up"))).count();
        up == ids.len() - 1
    });
}

/// Reads with a client that was offline until everything acknowledged has come, in order; how much came again.
#[track_caller]
pub fn read_all(client: &mut Client, acknowledged: &BTreeMap<String, u64>) -> u64 {
    let mut seen = Seen::default();
    let (end, mut held) = (Instant::now() + PATIENCE, BTreeSet::new());
    while !seen.has(acknowledged) && Instant::now() < end {
        match client.recv_within(Duration::from_secs(1)).unwrap() {
            Some(Packet::Publish(message)) => {
                client.acknowledge(&message);
                let key = message.topic.split('/').nth(1).unwrap();
                if message.qos < 2 || held.insert(message.id) {
                    seen.take(key, message.text().parse().unwrap());
                }
            }
            Some(Packet::Pubrel(id)) => {
                held.remove(&id);
                let [high, low] = id.to_be_bytes();
                client.send(&[0x70, 2, high, low]);
            }
            _ => {}
        }
    }
    seen.check(acknowledged)
}
