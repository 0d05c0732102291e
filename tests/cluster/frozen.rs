//! A node of three that freezes under load: what is of it waits for a bounded time, the rest does not.

use std::time::{Duration, Instant};

use crate::nodes::{Cluster, LEASE, SESSION_TIMEOUT, sees};
use crate::paths::{IDS, Path, Pauses, owned_by};
use crate::support::client::{Client, Connect};
use crate::support::eventually;
use crate::support::load::PATIENCE;

/// What keys of a lost node wait, at most.
const OUTAGE: Duration = Duration::from_secs(SESSION_TIMEOUT + LEASE + 1);
/// So much slower the machine may be than one that has nothing else to do.
const SLOW: u32 = 4;

#[test]
fn a_frozen_nodes_clients_wait_for_its_lease_and_nobody_else_does() {
    let cluster = Cluster::new();
    let mut nodes = cluster.start(IDS);
    let (n1, n2, n3) = (0, 1, 2);
    let rest = [(n1, n3, 1), (n3, n1, 2)];
    let rest = rest.map(|(from, to, qos)| Path::steady(&nodes, from, to, qos));
    let lost = [(n1, n2, 1), (n3, n2, 2), (n2, n3, 1), (n2, n1, 2)];
    let lost = lost.map(|(from, to, qos)| Path::stubborn(&nodes, from, to, qos));
    rest.iter().chain(&lost).for_each(|path| path.goes_on(50));
    nodes[n2].signal("STOP");
    let frozen = Instant::now();
    // Its clients go elsewhere at once. Their old connections stay open.
    for path in &lost[..2] {
        path.subscriber.leave(nodes[n1].mqtt);
    }
    for path in &lost[2..] {
        path.load.leave(nodes[n1].mqtt);
    }
    // So do clients that have nothing to do with it.
    for owner in ["n1", "n3"] {
        for node in [n1, n3] {
            let mut client = Client::connect(nodes[node].mqtt, &Connect::new(&owned_by(owner)));
            client.publish("nobody/wants/it", "x", 2);
        }
    }
    let others = frozen.elapsed();
    let before = lost.each_ref().map(|path| path.since((0, 0)));
    let mut pauses = Pauses::new();
    for (path, before) in lost.iter().zip(before) {
        let what = format!("{} goes on without the frozen node", path.kind);
        eventually(SLOW * OUTAGE, &what, || {
            pauses.look(&rest);
            let (acknowledged, came) = path.since(before);
            acknowledged > 50 && came > 50
        });
    }
    let outage = frozen.elapsed();
    let paused = pauses.longest();
    assert!(2 * paused < outage, "the rest paused for {paused:?} of {outage:?}");
    assert!(2 * others < outage, "other clients waited {others:?} of {outage:?}");
    // It wakes up, ends, and comes back.
    nodes[n2].signal("CONT");
    assert_ne!(nodes[n2].wait_exit(PATIENCE), Some(0));
    nodes = nodes.map(|mut node| if node.is_running() { node } else { node.restart() });
    nodes.iter().for_each(|node| sees(node, &IDS));
    rest.iter().chain(&lost).for_each(|path| path.goes_on(50));
    rest.into_iter().chain(lost).for_each(Path::finish_once);
}
