//! The members of a cluster, as every node learns of them from ZooKeeper.

use std::sync::Arc;

use xxhash_rust::xxh3::Xxh3;

/// What a node says of how busy it is. For people and load balancers; nothing is decided by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    /// Open client connections.
    pub connections: u64,
    /// `limits.max_connections`.
    pub max_connections: u64,
}

/// One node of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// `node.id`: 1 to 64 of `[A-Za-z0-9._-]`, never held by two members at a time.
    pub node_id: Arc<str>,
    /// The number of this start of the node, above that of every earlier one.
    pub incarnation: u64,
    /// Where the other nodes reach it: host and port.
    pub peer: String,
    /// Where clients reach it: host and port, one or more.
    pub mqtt: Vec<String>,
    /// The broker's version.
    pub version: String,
    /// Versions of the peer protocol it speaks: the lowest and the highest.
    pub protocol: (u16, u16),
    /// How busy it is.
    pub load: Load,
    /// It drains: no new client, and what it owns goes to others.
    pub draining: bool,
}

/// The members at one time.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MembershipView {
    /// Rises with every member that joins or leaves.
    pub generation: u64,
    /// By node id, sorted, this node among them unless it has taken itself out.
    pub members: Arc<[Member]>,
    /// ZooKeeper answers and this node is registered there. False: the members are those that
    /// were known last.
    pub current: bool,
}

impl MembershipView {
    /// The same on every node that sees the same members in the same incarnations.
    pub fn digest(&self) -> u64 {
        let mut hasher = Xxh3::new();
        for member in self.members.iter() {
            hasher.update(member.node_id.as_bytes());
            hasher.update(&[0]);
            hasher.update(&member.incarnation.to_be_bytes());
        }
        hasher.digest()
    }

    /// The member with this node id.
    pub fn member(&self, node_id: &str) -> Option<&Member> {
        self.members.iter().find(|member| *member.node_id == *node_id)
    }
}
