//! A start that is ended before it is over.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use super::nodes::Cluster;
use crate::support::load::PATIENCE;
use crate::support::process::signal;
use crate::support::zookeeper;
use crate::support::{SOON, eventually};

#[test]
fn a_signal_while_the_cluster_is_joined_gives_the_lease_back() {
    // A ZooKeeper that takes connections and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    silent.set_nonblocking(true).unwrap();
    let cluster = Cluster::on(&silent.local_addr().unwrap().to_string());
    let folder = tempfile::tempdir().unwrap();
    let builder = || cluster.builder("n1").data_dir(folder.path()).set("cassandra.lease", "60s");
    let (code, said) = builder().ends(|pid| {
        // Its first question is asked before it has a lease; what is tried here comes behind that.
        let asked = || silent.accept().is_ok();
        eventually(PATIENCE, "it has its lease", || {
            while asked() {}
            cluster.has_lease("n1")
        });
        eventually(SOON, "it joins", asked);
        signal(pid, "TERM");
    });
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("it was told to before it was ready"), "{said}");
    // Its successor does not wait for a lease.
    let start = Instant::now();
    let node = builder().set("zookeeper.servers", zookeeper::shared().address()).start();
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    node.client("c").ping();
}
