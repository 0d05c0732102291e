//! `broker drain`: a node is emptied for a restart, and what it says of itself meanwhile.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::operate::with_a_stalled_store;
use crate::support::client::{Connect, Publish};
use crate::support::command::success;
use crate::support::{Client, Node, Packet, SOON, eventually};

#[track_caller]
fn drain(node: &Node, args: &[&str]) -> String {
    success(&node.cli(&[&["drain"], args].concat()))
}

fn agent(node: &Node) -> String {
    let mut text = String::new();
    let mut stream = TcpStream::connect(node.agent()).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.read_to_string(&mut text).unwrap();
    text
}

fn connack(node: &Node, id: &str) -> u8 {
    let mut client = node.socket();
    client.send(&Connect::new(id).bytes());
    match client.recv() {
        Packet::Connack { code, .. } => code,
        other => panic!("{other:?} instead of CONNACK"),
    }
}

#[test]
fn a_drained_node_has_acknowledged_only_what_it_has_and_takes_nobody() {
    let node = Node::builder()
        .set("node.workers", 2)
        .set("admin.agent_listen", "127.0.0.1:0")
        .set("limits.max_connections", 100)
        .start();
    assert_eq!(agent(&node), "up 100%\n");
    let _watcher = node.persistent("watcher").subscribed("will", 1);
    let mut with_will = Client::connect(node.mqtt, &Connect::new("c").will("will", "drained", 1));
    let mut publishers: Vec<_> = (0..8).map(|n| node.client(&format!("publisher-{n}"))).collect();
    assert_eq!(agent(&node), "up 90%\n");
    for (n, publisher) in publishers.iter_mut().enumerate() {
        publisher.burst(1..=400, |id| Publish::new("load/x/t", format!("{n} {id}")).qos(1));
        publisher.expect(Packet::Puback(1));
    }
    let said = drain(&node, &["--wait"]);
    assert!(
        said.starts_with("the node drains: ") && said.ends_with("0 connections left\n"),
        "{said}"
    );
    let mut acknowledged = BTreeSet::new();
    for (n, publisher) in publishers.iter_mut().enumerate() {
        acknowledged.insert(format!("{n} 1"));
        while let Ok(Some(Packet::Puback(id))) = publisher.recv_within(SOON) {
            acknowledged.insert(format!("{n} {id}"));
        }
    }
    with_will.expect_closed();
    node.wait_closed("drain", 10.0);

    assert_eq!(connack(&node, "new"), 3, "server unavailable");
    let (status, body) = node.http("/ready");
    assert!(status == 503 && body.contains("drain: "), "{status} {body}");
    assert_eq!(node.http("/health").0, 200);
    assert_eq!(agent(&node), "up 0%\n");
    assert_eq!(node.metric("hydrant_draining"), 1.0);
    drain(&node, &[]);

    drain(&node, &["--cancel"]);
    drain(&node, &["--cancel"]);
    assert_eq!(node.http("/ready").0, 200);
    assert_eq!(agent(&node), "up 100%\n");
    assert_eq!(connack(&node, "new"), 0);
    assert_eq!(node.persistent("watcher").take().text(), "drained");
    node.client("end").publish("load/x/t", "end", 1);
    let lines = node.tail_to("load-t", "\tend");
    let logged: BTreeSet<_> =
        lines.iter().filter_map(|line| line.rsplit('\t').next()).map(str::to_owned).collect();
    let lost: Vec<_> = acknowledged.difference(&logged).collect();
    assert!(lost.is_empty(), "acknowledged and not in the log: {lost:?}");
}

#[test]
fn an_actor_that_restarts_is_not_ready_and_keeps_nobody_away() {
    let node = Node::builder()
        .set("admin.agent_listen", "127.0.0.1:0")
        .set("debug.faults", true)
        .set("supervision.restart_min", "20s")
        .set("supervision.restart_max", "20s")
        .start();
    node.fault("fail", "log");
    eventually(SOON, "it restarts", || node.http("/ready").1.contains("actor log is "));
    assert_eq!((node.http("/ready").0, node.http("/health").0), (503, 200));
    assert!(agent(&node).starts_with("up "), "{}", agent(&node));
}

#[test]
fn connections_are_closed_at_the_rate() {
    let node = Node::builder().set("node.workers", 2).set("node.drain_rate", 20).start();
    let mut clients: Vec<_> = (0..30).map(|n| node.client(&format!("idle-{n}"))).collect();
    let start = Instant::now();
    let said = drain(&node, &["--wait"]);
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(1200), "{took:?} for 30 at 20 a second");
    assert!(said.starts_with("the node drains: 30 connections, 20 a second\n"), "{said}");
    for client in &mut clients {
        client.expect_closed();
    }
}

#[test]
fn a_drain_goes_on_at_the_rate_that_is_asked_for() {
    let node = Node::builder().set("node.drain_rate", 1).start();
    let mut clients: Vec<_> = (0..20).map(|n| node.client(&format!("idle-{n}"))).collect();
    let said = drain(&node, &["--rate", "2"]);
    assert!(said.ends_with("connections, 2 a second\n"), "{said}");
    // Without one it stays as it is.
    let said = drain(&node, &[]);
    assert!(said.ends_with("connections, 2 a second\n"), "{said}");
    let start = Instant::now();
    drain(&node, &["--rate", "1000", "--wait"]);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?} at the new rate", start.elapsed());
    for client in &mut clients {
        client.expect_closed();
    }
    // The next one begins with what is configured.
    drain(&node, &["--cancel"]);
    let said = drain(&node, &[]);
    assert!(said.ends_with(" 0 connections, 1 a second\n"), "{said}");
}

#[test]
fn a_drain_that_is_taken_back_spares_the_rest() {
    let node = Node::builder().set("node.drain_rate", 2).start();
    let mut clients: Vec<_> = (0..6).map(|n| node.client(&format!("c{n}"))).collect();
    drain(&node, &[]);
    eventually(SOON, "one is closed", || node.closed("drain") >= 1.0);
    drain(&node, &["--cancel"]);
    let alive = clients
        .iter_mut()
        .filter_map(|client| {
            client.try_send(&[0xc0, 0]).ok()?;
            client.recv_within(SOON).ok()?
        })
        .count();
    assert!((1..6).contains(&alive), "{alive} of 6 go on");
    assert_eq!(alive as f64, 6.0 - node.closed("drain"));
}

#[test]
fn a_shutdown_in_the_middle_of_a_drain_is_a_shutdown() {
    let mut node = Node::builder().set("node.drain_rate", 1).start();
    let mut clients: Vec<_> = (0..3).map(|n| node.client(&format!("c{n}"))).collect();
    drain(&node, &[]);
    assert_eq!(node.terminate(), Some(0));
    for client in &mut clients {
        client.expect_closed();
    }
}

#[test]
fn a_store_that_does_not_answer_holds_a_drain_up_to_the_deadline() {
    let (node, mut publisher) = with_a_stalled_store("1s");
    let start = Instant::now();
    assert!(drain(&node, &["--wait"]).ends_with("0 connections left\n"));
    assert!(start.elapsed() >= Duration::from_secs(1), "{:?}", start.elapsed());
    // Without a PUBACK: it sends again.
    publisher.expect_closed();
}
