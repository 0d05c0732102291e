//! Which nodes are asked for a partition, in what order: its replicas in the local data centre,
//! then the other nodes there. Never another data centre's.
//!
//! The driver's own strategy leaves out every node that it does not hold for up, and loses that
//! knowledge whenever it reads the cluster's members again (it compares an address for clients with
//! one for nodes): after a restart of Cassandra it found no node at all, for good. Here such nodes
//! come last instead; asking one costs a refused connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use cdrs_tokio::cluster::topology::{Node, NodeState, ReplicationStrategy};
use cdrs_tokio::cluster::{ClusterMetadata, Murmur3Token};
use cdrs_tokio::load_balancing::{LoadBalancingStrategy, QueryPlan, Request};

use super::transport::{Manager, Transport};

type Member = Arc<Node<Transport, Manager>>;

/// See the module.
pub(super) struct LocalReplicasFirst {
    local_dc: String,
    /// Spreads the load over replicas, and over all nodes where no partition is asked for.
    turn: AtomicUsize,
}

impl LocalReplicasFirst {
    pub(super) fn new(local_dc: String) -> Self {
        Self { local_dc, turn: AtomicUsize::new(0) }
    }

    /// Copies of the keyspace in the local data centre.
    fn copies(
        &self,
        keyspace: Option<&str>,
        cluster: &ClusterMetadata<Transport, Manager>,
    ) -> usize {
        let keyspace = keyspace.and_then(|name| cluster.keyspace(name));
        match keyspace.map(|keyspace| &keyspace.replication_strategy) {
            Some(ReplicationStrategy::NetworkTopologyStrategy {
                datacenter_replication_factor,
            }) => datacenter_replication_factor.get(&self.local_dc).copied().unwrap_or(0),
            Some(ReplicationStrategy::SimpleStrategy { replication_factor }) => *replication_factor,
            _ => 0,
        }
    }
}

impl LoadBalancingStrategy<Transport, Manager> for LocalReplicasFirst {
    fn query_plan(
        &self,
        request: Option<Request<'_>>,
        cluster: &ClusterMetadata<Transport, Manager>,
    ) -> QueryPlan<Transport, Manager> {
        let turn = self.turn.fetch_add(1, Relaxed);
        let token = request.as_ref().and_then(|request| {
            request.token.or_else(|| request.routing_key.map(Murmur3Token::generate))
        });
        let is_local = |node: &Member| node.datacenter() == self.local_dc;
        let mut replicas: Vec<Member> = Vec::new();
        let mut others: Vec<Member> = Vec::new();
        match token {
            Some(token) => {
                let keyspace = request.as_ref().and_then(|request| request.keyspace);
                let ring = cluster.token_map().nodes_for_token(token).filter(is_local);
                (replicas, others) = split(ring.collect(), self.copies(keyspace, cluster));
            }
            None => others.extend(cluster.nodes().values().filter(|node| is_local(node)).cloned()),
        }
        for nodes in [&mut replicas, &mut others] {
            if !nodes.is_empty() {
                let at = turn % nodes.len();
                nodes.rotate_left(at);
            }
        }
        replicas.append(&mut others);
        // Stable: the order stays among those that are up.
        replicas
            .sort_by_key(|node| matches!(node.state(), NodeState::Down | NodeState::ForcedDown));
        QueryPlan::new(replicas)
    }
}

/// The replicas among the nodes of a data centre in the order of the ring, as
/// NetworkTopologyStrategy chooses them: a rack comes again only when all have had their turn.
fn split(ring: Vec<Member>, copies: usize) -> (Vec<Member>, Vec<Member>) {
    let mut racks: Vec<&str> = Vec::new();
    let mut chosen = vec![false; ring.len()];
    for (node, chosen) in ring.iter().zip(&mut chosen) {
        if racks.len() < copies && !racks.contains(&node.rack()) {
            racks.push(node.rack());
            *chosen = true;
        }
    }
    let mut missing = copies.saturating_sub(racks.len());
    for chosen in &mut chosen {
        if missing > 0 && !*chosen {
            *chosen = true;
            missing -= 1;
        }
    }
    let mut chosen = chosen.into_iter();
    ring.into_iter().partition(|_| chosen.next() == Some(true))
}
