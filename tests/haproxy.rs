//! The tier "haproxy": three nodes behind a real HAProxy with docs/haproxy.cfg.
//! `scripts/setup-haproxy` fetches it, `scripts/setup-clients` mosquitto_sub; no test skips: without
//! them each fails.
//!
//! `cargo test --features servers --test haproxy`

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[allow(unused_imports)]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};

use socket2::{Domain, Socket, Type};
use support::client::Connect;
use support::command::stdout;
use support::haproxy::HaProxy;
use support::load::Load;
use support::node::Builder;
use support::process::{guard, release};
use support::{Client, Node, Packet, SOON, eventually};

fn behind_haproxy(n: usize) -> Builder {
    Node::builder()
        .id(&format!("n{n}"))
        .set("listener.proxy_protocol", "required")
        .set("admin.agent_listen", "127.0.0.1:0")
}

fn three_nodes(change: impl Fn(Builder) -> Builder) -> Vec<Node> {
    (1..=3).map(|n| change(behind_haproxy(n)).start()).collect()
}

/// A client whose own address is this.
#[track_caller]
fn client_from(ip: [u8; 4], haproxy: &HaProxy) -> Client {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((ip, 0)).into()).unwrap();
    socket.connect(&haproxy.mqtt.into()).unwrap();
    Client::over(TcpStream::from(socket))
}

/// Clients of a node, as it lists them.
fn connected(node: &Node) -> usize {
    let tree = node.connections();
    tree.lines().filter(|line| line.contains("127.0.0.") && !line.contains("listener/")).count()
}

/// What the first node has of so many clients. Those that came at once are spread unevenly.
#[track_caller]
fn share(nodes: &[Node], clients: usize) -> usize {
    let sum = || nodes.iter().map(connected).sum::<usize>();
    eventually(SOON, "all are connected", || sum() == clients);
    let here = connected(&nodes[0]);
    assert!((1..clients).contains(&here), "{here} of {clients}");
    here
}

/// Every load record of a node's log; `kind` is the load's. The node has to take clients.
fn logged(node: &Node, kind: &str) -> BTreeSet<(String, u64)> {
    // A record of our own says where the end is.
    let mut client = Client::open(node.mqtt);
    client.send(b"PROXY UNKNOWN\r\n");
    client.send(&Connect::new("end").bytes());
    client.expect(Packet::Connack { present: false, code: 0 });
    let end = format!("{kind}/end/load");
    client.publish(&end, "0", 1);
    let lines = node.tail_to(&format!("{kind}-load"), &end);
    let record = |line: &String| {
        let fields: Vec<_> = line.split('\t').collect();
        (fields[2].to_owned(), fields[4].parse().unwrap())
    };
    lines.iter().map(record).collect()
}

/// Nothing acknowledged is missing in the logs of all nodes together.
#[track_caller]
fn check(acknowledged: &BTreeMap<String, u64>, nodes: &[Node], kind: &str) {
    let logged: BTreeSet<_> = nodes.iter().flat_map(|node| logged(node, kind)).collect();
    let all = acknowledged.iter().flat_map(|(key, n)| (0..*n).map(|n| (key.clone(), n)));
    let lost: Vec<_> = all.filter(|record| !logged.contains(record)).collect();
    assert!(lost.is_empty(), "acknowledged and in no log: {lost:?}");
}

#[test]
fn the_nodes_see_the_clients_addresses_by_version_1_and_2() {
    for version in ["send-proxy", "send-proxy-v2"] {
        let nodes = three_nodes(|node| node.set("listener.deny", "127.0.0.66"));
        let haproxy = HaProxy::start_with(&nodes, |config| {
            assert_eq!(config.matches(" send-proxy-v2 ").count(), 1);
            config.replace(" send-proxy-v2 ", &format!(" {version} "))
        });
        let clients: Vec<_> = (0..9)
            .map(|n| {
                let mut client = client_from([127, 0, 0, 10 + n], &haproxy);
                client.send(&Connect::new(&format!("c{n}")).bytes());
                client.expect(Packet::Connack { present: false, code: 0 });
                client
            })
            .collect();
        let trees: Vec<_> = nodes.iter().map(Node::connections).collect();
        for client in &clients {
            let address = client.stream().local_addr().unwrap().to_string();
            let seen = trees.iter().filter(|tree| tree.contains(&address)).count();
            assert_eq!(seen, 1, "{version}: {address} in:\n{}", trees.join("\n"));
        }
        let spread: Vec<_> = nodes.iter().map(connected).collect();
        assert_eq!(spread, [3, 3, 3], "{version}");
        // Kept out by its own address, not by HAProxy's.
        let mut denied = client_from([127, 0, 0, 66], &haproxy);
        denied.send(&Connect::new("denied").bytes());
        denied.expect_closed();
        let denials = || nodes.iter().map(|node| node.closed("address_denied")).sum::<f64>();
        eventually(SOON, "it is counted", || denials() == 1.0);
        let line = |node: &Node| node.log().iter().any(|line| line.contains("from 127.0.0.66:"));
        eventually(SOON, "a line names the client", || nodes.iter().any(line));
        // The health check is no bad request.
        for (name, node) in ["n1", "n2", "n3"].iter().zip(&nodes) {
            eventually(SOON, "it is checked", || haproxy.stat(name, "check_code") == "200");
            assert_eq!(haproxy.stat(name, "status"), "UP");
            assert_eq!(node.metric("hydrant_admin_bad_requests_total"), 0.0);
        }
    }
}

#[test]
fn mosquitto_comes_through_under_its_own_address() {
    let program = support::server::work().join("clients/bin/mosquitto_sub");
    assert!(program.is_file(), "run scripts/setup-clients (or scripts/test) first");
    for version in ["send-proxy", "send-proxy-v2"] {
        let nodes = three_nodes(|node| node);
        let haproxy = HaProxy::start_with(&nodes, |config| {
            config.replace(" send-proxy-v2 ", &format!(" {version} "))
        });
        let mut client = Command::new(&program)
            .args(["-A", "127.0.0.77", "-h", "127.0.0.1", "-p", &haproxy.mqtt.port().to_string()])
            .args(["-t", "t", "-i", "mosquitto"])
            .stdin(Stdio::null())
            .spawn()
            .expect("mosquitto_sub starts");
        let folder = tempfile::tempdir().unwrap();
        let guard = guard(client.id(), folder.path());
        let row = |node: &Node| {
            let tree = node.connections();
            tree.lines().any(|line| line.contains("mosquitto ") && line.contains(" 127.0.0.77:"))
        };
        eventually(SOON, "a node has it under its address", || nodes.iter().any(row));
        let _ = client.kill();
        let _ = client.wait();
        release(guard);
    }
}

#[test]
fn the_weight_follows_the_load() {
    let nodes = three_nodes(|node| node.set("limits.max_connections", 10));
    let haproxy = HaProxy::start(&nodes);
    eventually(SOON, "an empty node has all of it", || haproxy.stat("n1", "weight") == "100");
    let clients: Vec<_> =
        (0..9).map(|n| Client::connect(haproxy.mqtt, &Connect::new(&format!("c{n}")))).collect();
    for (name, node) in ["n1", "n2", "n3"].iter().zip(&nodes) {
        let wanted = (100 - 10 * connected(node)).to_string();
        eventually(SOON, "its weight is what is free", || haproxy.stat(name, "weight") == wanted);
        assert!(wanted != "100", "nobody came to {name}");
    }
    assert!(haproxy.ask("get weight hydrant/n1").contains("(initial 100)"));
    drop(clients);
    eventually(SOON, "and back", || haproxy.stat("n1", "weight") == "100");
}

#[test]
fn what_an_operator_says_to_haproxy_stays() {
    let nodes = three_nodes(|node| node.set("limits.max_connections", 10));
    let haproxy = HaProxy::start(&nodes);
    let weighs = |percent: &str| {
        let said = || haproxy.ask("get weight hydrant/n1");
        eventually(SOON, "the agent was asked", || said().starts_with(&format!("{percent} ")));
    };
    for (state, shown) in [("drain", "DRAIN"), ("maint", "MAINT")] {
        weighs("100");
        assert_eq!(haproxy.ask(&format!("set server hydrant/n1 state {state}")).trim(), "");
        let mut client = Client::open(nodes[0].mqtt);
        client.send(&[b"PROXY UNKNOWN\r\n", &Connect::new("c").bytes()[..]].concat());
        client.expect(Packet::Connack { present: false, code: 0 });
        // So what the agent says now has been heard.
        weighs("90");
        let status = haproxy.stat("n1", "status");
        assert!(status.starts_with(shown), "{status} although the operator said {state}");
        assert_eq!(haproxy.ask("set server hydrant/n1 state ready").trim(), "");
        eventually(SOON, "it is back", || haproxy.stat("n1", "status") == "UP");
    }
}

#[test]
fn a_drained_node_gets_nobody_and_nothing_acknowledged_is_lost() {
    let nodes = three_nodes(|node| node.set("node.drain_rate", 5));
    let haproxy = HaProxy::start(&nodes);
    let load = Load::start_stubborn(haproxy.mqtt, "drained", 12, 1);
    load.goes_on(500);
    let here = share(&nodes, 12);
    let output = nodes[0].cli(&["drain", "--wait"]);
    let said = stdout(&output);
    assert!(output.status.success() && said.ends_with("0 connections left\n"), "{said}");
    assert_eq!(nodes[0].closed("drain"), here as f64);
    load.goes_on(500);
    let status = || haproxy.stat("n1", "status");
    eventually(SOON, "HAProxy knows", || !status().starts_with("UP"));
    eventually(SOON, "by the agent, too", || {
        haproxy.ask("get weight hydrant/n1").starts_with("0 ")
    });
    eventually(SOON, "all are elsewhere", || connected(&nodes[1]) + connected(&nodes[2]) == 12);
    let before = nodes[0].metric("hydrant_connections_accepted_total");
    let mut clients: Vec<_> =
        (0..10).map(|n| Client::connect(haproxy.mqtt, &Connect::new(&format!("new{n}")))).collect();
    clients.iter_mut().for_each(Client::ping);
    assert_eq!(nodes[0].metric("hydrant_connections_accepted_total"), before, "one came to it");
    let acknowledged = load.finish();
    assert!(nodes[0].cli(&["drain", "--cancel"]).status.success());
    eventually(SOON, "it is back", || status() == "UP");
    eventually(SOON, "it gets clients again", || {
        Client::connect(haproxy.mqtt, &Connect::new("late")).ping();
        nodes[0].metric("hydrant_connections_accepted_total") > before
    });
    check(&acknowledged, &nodes, "drained");
}

#[test]
fn clients_of_a_killed_node_come_back_to_the_others() {
    let mut nodes = three_nodes(|node| node);
    let haproxy = HaProxy::start(&nodes);
    let load = Load::start_stubborn(haproxy.mqtt, "killed", 12, 1);
    load.goes_on(500);
    share(&nodes, 12);
    nodes[0].kill9();
    load.goes_on(500);
    eventually(SOON, "all are elsewhere", || connected(&nodes[1]) + connected(&nodes[2]) == 12);
    eventually(SOON, "HAProxy knows", || haproxy.stat("n1", "status").starts_with("DOWN"));
    let acknowledged = load.finish();
    let killed = nodes.remove(0).restart();
    nodes.push(killed);
    check(&acknowledged, &nodes, "killed");
}
