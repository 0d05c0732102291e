//! The PROXY protocol in front of MQTT, and who may connect by address.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::support::client::Connect;
use crate::support::node::Builder;
use crate::support::{Client, Node, Packet};

fn behind_proxy() -> Builder {
    Node::builder().set("listener.proxy_protocol", "required")
}

/// A header of version 2.
fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let mut out = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    out.extend([command, family]);
    out.extend((body.len() as u16).to_be_bytes());
    out.extend(body);
    out
}

/// 192.0.2.`last`, port 50000, to 127.0.0.1, port 1883.
fn v4(last: u8) -> Vec<u8> {
    vec![192, 0, 2, last, 127, 0, 0, 1, 0xc3, 0x50, 7, 0x5b]
}

fn v1(last: u8) -> Vec<u8> {
    format!("PROXY TCP4 192.0.2.{last} 127.0.0.1 50000 1883\r\n").into_bytes()
}

/// Connects behind this header, both in one write.
#[track_caller]
fn client(node: &Node, header: &[u8], id: &str) -> Client {
    let mut client = node.socket();
    client.send(&[header, &Connect::new(id).bytes()].concat());
    client.expect(Packet::Connack { present: false, code: 0 });
    client
}

/// Sends this, and is cut off without an answer.
#[track_caller]
fn refused(node: &Node, bytes: &[u8], reason: &str) {
    let before = node.closed(reason);
    let mut client = node.socket();
    let _ = client.try_send(bytes);
    client.expect_closed();
    node.wait_closed(reason, before + 1.0);
}

fn lines(node: &Node, text: &str) -> usize {
    node.log().iter().filter(|line| line.contains(text)).count()
}

#[test]
fn the_client_of_the_header_stands_in_tree_and_log() {
    // Several workers: most sockets move once more after their header was read.
    let node =
        behind_proxy().set("node.workers", 3).env("RUST_LOG", "info,hydrant::mqtt=debug").start();
    let mut v6 = "2001:db8::7".parse::<std::net::Ipv6Addr>().unwrap().octets().to_vec();
    v6.extend([0; 16]);
    v6.extend([0xc3, 0x50, 7, 0x5b]);
    let tlvs = [&v4(8)[..], &[4, 0, 2, 0, 0], &[0xe0, 0, 3, 1, 2, 3]].concat();
    let mut headers: Vec<_> = (10..18)
        .flat_map(|n| [(v1(n), format!("192.0.2.{n}:50000"))])
        .chain((20..28).map(|n| (v2(0x21, 0x11, &v4(n)), format!("192.0.2.{n}:50000"))))
        .collect();
    headers.push((v2(0x21, 0x21, &v6), "[2001:db8::7]:50000".to_owned()));
    headers.push((v2(0x21, 0x11, &tlvs), "192.0.2.8:50000".to_owned()));
    let mut clients = Vec::new();
    for (n, (header, _)) in headers.iter().enumerate() {
        clients.push(client(&node, header, &format!("c{n}")));
    }
    // The proxy's own connections, and those whose client it does not know, keep their address.
    for (n, header) in [v2(0x20, 0, &[]), b"PROXY UNKNOWN\r\n".to_vec(), v2(0x20, 0x11, &v4(99))]
        .iter()
        .enumerate()
    {
        let client = client(&node, header, &format!("local{n}"));
        headers.push((Vec::new(), client.stream().local_addr().unwrap().to_string()));
        clients.push(client);
    }
    let tree = node.connections();
    for (_, address) in &headers {
        assert!(tree.contains(address), "no {address} in:\n{tree}");
    }
    assert!(!tree.contains("192.0.2.99"), "{tree}");
    for client in &mut clients {
        client.ping();
    }
    // The header is read once: a second one is not MQTT.
    clients[0].send(&v2(0x21, 0x11, &v4(66)));
    clients[0].expect_closed();
    node.wait_closed("protocol_violation", 1.0);
    node.wait_log("closing 192.0.2.10:50000 (client \"c0\")");
}

#[test]
fn a_header_may_come_in_pieces() {
    let node = behind_proxy().start();
    for (header, id) in [(v1(1), "pieces-1"), (v2(0x21, 0x11, &v4(2)), "pieces-2")] {
        let mut client = node.socket();
        let connect = Connect::new(id).bytes();
        for byte in header.iter().chain(&connect) {
            client.send(&[*byte]);
        }
        client.expect(Packet::Connack { present: false, code: 0 });
        client.ping();
        assert!(node.connections().contains("192.0.2."));
        client.disconnect();
    }
}

#[test]
fn without_a_right_header_a_connection_is_closed_and_counted() {
    let node = behind_proxy().set("limits.connect_timeout", "1s").start();
    let long = [b"PROXY UNKNOWN ".to_vec(), vec![b'x'; 200]].concat();
    let too_long = [&v2(0x21, 0x11, &[])[..14], &[0xff, 0xff]].concat();
    for bytes in [
        Connect::new("bare").bytes(),
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.1 127.0.0.1 x 1883\r\n".to_vec(),
        v2(0x21, 0x11, &[1, 2, 3]),
        v2(0x2f, 0x11, &v4(1)),
        long,
        too_long,
    ] {
        refused(&node, &bytes, "proxy_header");
    }
    assert_eq!(lines(&node, "PROXY protocol header"), 1, "one line for all of them");
    // A slow one is bounded by the time to CONNECT.
    let mut slow = node.socket();
    slow.send(b"PROXY TCP4 192.");
    let start = Instant::now();
    slow.expect_closed();
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    node.wait_closed("connect_timeout", 1.0);
    assert_eq!(node.metric("hydrant_connects_total"), 0.0);
    client(&node, &v1(1), "good").ping();
}

#[test]
fn a_header_is_taken_from_the_load_balancers_only() {
    let node = behind_proxy().set("listener.proxy_from", "192.0.2.1,2001:db8::/32").start();
    for _ in 0..5 {
        refused(&node, &[&v1(1)[..], &Connect::new("c").bytes()].concat(), "untrusted_proxy");
    }
    assert_eq!(lines(&node, "not in listener.proxy_from"), 1, "one line for all of them");
    // Nor is it taken where nobody asked for it.
    refused(&Node::builder().start(), &v2(0x21, 0x11, &v4(1)), "protocol_violation");
}

#[test]
fn clients_are_kept_out_by_their_own_address() {
    let node = behind_proxy()
        .set("listener.allow", "192.0.2.0/24,2001:db8::/32")
        .set("listener.deny", "192.0.2.66")
        .start();
    client(&node, &v1(65), "allowed").ping();
    let connect = Connect::new("denied").bytes();
    refused(&node, &[&v1(66)[..], &connect].concat(), "address_denied");
    let other = b"PROXY TCP4 198.51.100.1 127.0.0.1 50000 1883\r\n";
    refused(&node, &[other, &connect[..]].concat(), "address_denied");
    // Whom the proxy does not name has its address, which is not that of an allowed client either.
    refused(&node, &[&b"PROXY UNKNOWN\r\n"[..], &connect].concat(), "address_denied");
    // Its own connections are let in all the same.
    client(&node, &v2(0x20, 0, &[]), "local").ping();
    assert_eq!(lines(&node, "listener.deny or listener.allow"), 1, "one line for all of them");

    let direct = Node::builder().set("listener.deny", "127.0.0.0/8").start();
    refused(&direct, &connect, "address_denied");
    assert_eq!(direct.metric("hydrant_connections_accepted_total"), 0.0);
}

#[test]
fn who_is_kept_out_uses_up_no_connect_rate() {
    let node = Node::builder()
        .set("listener.deny", "::ffff:127.0.0.66")
        .set("limits.connect_rate", 1)
        .start();
    let start = Instant::now();
    let denied: Vec<_> = (0..150)
        .map(|_| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.bind(&SocketAddr::from(([127, 0, 0, 66], 0)).into()).unwrap();
            socket.connect(&node.mqtt.into()).unwrap();
            socket
        })
        .collect();
    node.client("allowed").ping();
    node.wait_closed("address_denied", 150.0);
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    drop(denied);
}

#[test]
fn ipv4_on_a_port_of_ipv6_is_shown_and_compared_as_ipv4() {
    let node = behind_proxy().listen("[::]:0").start();
    let port = node.mqtt.port();
    let mut direct = Client::open(([127, 0, 0, 1], port).into());
    let address = direct.stream().local_addr().unwrap().to_string();
    direct.send(&[b"PROXY UNKNOWN\r\n", &Connect::new("c").bytes()[..]].concat());
    direct.expect(Packet::Connack { present: false, code: 0 });
    let tree = node.connections();
    assert!(tree.contains(&format!(" {address}")) && !tree.contains("ffff"), "{tree}");
}
