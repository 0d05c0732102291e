//! What comes to the peer port and into ZooKeeper by mistake: one clear line, and all goes on.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::nodes::Cluster;
use crate::support::Node;
use crate::support::command::stdout;

/// Where the node listens for others, by `broker nodes`.
fn peer_address(node: &Node, id: &str) -> String {
    let shown = stdout(&node.cli(&["nodes"]));
    let row = shown.lines().find(|line| line.contains(id)).expect("a row");
    let address = row.split_whitespace().find(|word| word.starts_with("127.0.0.1:"));
    address.expect("an address").to_owned()
}

#[test]
fn garbage_on_the_peer_port_is_one_line_and_the_link_stays() {
    let cluster = Cluster::new();
    let nodes = cluster.start(["n1", "n2"]);
    let address = peer_address(&nodes[0], "n1");
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 64], &[0xff; 4096], b"\0\0\0\x10\x01HYDR"] {
        let mut stream = TcpStream::connect(&address).unwrap();
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
    }
    nodes[0].wait_log("to the peer port is refused");
    // One that says nothing is closed in time, and keeps nobody out.
    let mut silent = TcpStream::connect(&address).unwrap();
    silent.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    assert_eq!(silent.read(&mut [0; 16]).unwrap_or(0), 0);
    let mut subscriber = nodes[0].client("subscriber").subscribed("a", 1);
    nodes[1].client("publisher").publish("a", "fine", 1);
    assert_eq!(subscriber.take().text(), "fine");
}

#[test]
fn a_node_id_that_is_taken_and_another_clusters_id_are_refused() {
    let cluster = Cluster::new();
    let [n1, n2] = cluster.start(["n1", "n2"]);
    let (code, said) = cluster.builder("n2").fails();
    assert_eq!(code, Some(1), "{said}");
    let last = said.lines().last().unwrap_or_default();
    let address = peer_address(&n1, "n2");
    assert!(last.contains("node id \"n2\"") && last.contains(&address), "{said}");
    let (code, said) = cluster.builder("n3").set("cluster.id", "another").fails();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.lines().last().unwrap_or_default().contains("cluster.id"), "{said}");
    n2.client("still").ping();
}
