//! Whether leases and ZooKeeper sessions of these times are kept while the machine has too much to do.
//! By hand: it takes as long as `LEASE_MINUTES` says (60).
//!
//! `LEASE_MINUTES=60 cargo test --features servers --test cluster hour -- --ignored --nocapture`

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::nodes::{Cluster, sees};
use crate::paths::{IDS, Path};
use crate::support::Node;

/// `cassandra.lease` and `zookeeper.session_timeout`: half of the defaults.
const TIMES: (&str, &str) = ("5s", "3s");
const STALL: Duration = Duration::from_secs(2);

/// Threads that only count, two for each core, until dropped.
struct Overcommitted(Arc<AtomicBool>);

impl Overcommitted {
    fn start() -> Self {
        let busy = Arc::new(AtomicBool::new(true));
        let cores = std::thread::available_parallelism().unwrap().get();
        for _ in 0..2 * cores {
            let busy = Arc::clone(&busy);
            std::thread::spawn(move || {
                while busy.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        Self(busy)
    }
}

impl Drop for Overcommitted {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// What nodes say when a lease or a session has ended.
fn losses(nodes: &[Node; 3]) -> Vec<String> {
    let ended = ["this node is no member", "was sealed", " left", "is lost", "session expired"];
    let lines = nodes.iter().flat_map(Node::log);
    lines.filter(|line| ended.iter().any(|end| line.contains(end))).collect()
}

#[test]
#[ignore = "an hour"]
fn half_the_times_are_kept_with_the_cpu_overcommitted_and_cassandra_stalled_each_minute() {
    let minutes: u64 = std::env::var("LEASE_MINUTES").map_or(60, |text| text.parse().unwrap());
    let cluster = Cluster::new();
    let nodes = IDS.map(|id| {
        let builder = cluster.builder(id).set("cassandra.lease", TIMES.0);
        builder.set("zookeeper.session_timeout", TIMES.1).start()
    });
    nodes.iter().for_each(|node| sees(node, &IDS));
    let paths =
        [(0, 1, 1), (1, 2, 2), (2, 0, 1)].map(|(a, b, qos)| Path::stubborn(&nodes, a, b, qos));
    let _busy = Overcommitted::start();
    let began = Instant::now();
    for minute in 0..minutes {
        while began.elapsed() < Duration::from_secs(60 * minute + 58) {
            std::thread::sleep(Duration::from_millis(100));
        }
        cluster.stall_cassandra(STALL);
        let lost = losses(&nodes);
        eprintln!("minute {}: {} ended leases and sessions", minute + 1, lost.len());
        assert!(lost.is_empty(), "{lost:#?}");
    }
    paths.into_iter().for_each(Path::finish_once);
}
