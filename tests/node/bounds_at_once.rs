//! Bounds in bytes, beside [`crate::bounds`]: several of them filled at once in one node, the embedded log's, and what
//! the admin endpoints hold for callers that do not go on.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::bounds::{Held, MIB, STORE, builder, flood};
use crate::support::client::{Publish, packet, subscribe, text};
use crate::support::{Client, Node, Packet, SOON, eventually};

/// Sessions, retained messages, half packets, output and the route cache: each gets 150 to 270 MB, and what is taken
/// stays until the end.
#[test]
fn several_bounds_that_are_full_at_once_are_held_together() {
    let held = Held::start(
        builder()
            .set("session.max_bytes", "\"1MiB\"")
            .set("session.max_total_bytes", "\"8MiB\"")
            .set("limits.max_retained_bytes", "\"8MiB\"")
            .set("limits.max_packet_size", "\"1MiB\"")
            .set("limits.max_buffer_bytes", "\"8MiB\"")
            .set("limits.route_cache_bytes", "\"8MiB\"")
            // None of those that take nothing is closed meanwhile.
            .set("limits.write_timeout", "10m")
            .set("listener.send_buffer", "\"64KiB\""),
    );
    let node = &held.node;
    let mut other = node.client("other").subscribed("other", 1);
    let mut filtering: Vec<Client> = (0..20).map(|c| node.client(&format!("f{c}"))).collect();
    let mut open = Vec::new();
    let mut publisher = node.client("publisher");
    for n in 0..400 {
        publisher.send(&Publish::new(&format!("kept/{n}"), vec![b'x'; 500_000]).retain().bytes());
        publisher.ping();
    }
    for n in 0..40 {
        open.push(node.client(&format!("stuck-{n}")).subscribed("t", n % 2));
    }
    for _ in 0..300 {
        publisher.send(&Publish::new("t", vec![b'x'; 500_000]).qos(1).id(1).bytes());
        publisher.wait_for(&Packet::Puback(1));
    }
    // Once the sessions are full, no new one is taken.
    let mut halves: Vec<Client> = (0..300).map(|n| node.client(&format!("half-{n}"))).collect();
    for (c, client) in filtering.iter_mut().enumerate() {
        for round in 0..20 {
            let long = |n| format!("{c}/{round}/{n}/{}", "x".repeat(60_000));
            let filters: Vec<String> = (0..10).map(long).collect();
            let filters: Vec<(&str, u8)> = filters.iter().map(|f| (f.as_str(), 0)).collect();
            let id = client.id();
            client.send(&subscribe(id, &filters));
            assert!(matches!(client.recv(), Packet::Suback(..)));
        }
    }
    let whole = packet(0x30, &[text("t"), vec![b'x'; 999_000]].concat());
    for client in &mut halves {
        // The node may have closed it.
        let _ = client.try_send(&whole[..900_000]);
    }
    eventually(SOON, "most of them are closed", || node.closed("buffers_full") > 200.0);
    flood(&mut publisher, 150_000, |n| format!("{n}/{}", "y".repeat(1000)));
    held.holds((8 + 8 + 2 * 8 + 8) * MIB + STORE);
    // All of them at this moment.
    for (bytes, least) in [
        ("hydrant_session_bytes", 7 * MIB),
        ("hydrant_retained_bytes", 7 * MIB),
        ("hydrant_buffered_bytes", 4 * MIB),
        ("hydrant_route_cache_bytes", 1),
    ] {
        let found = node.metric(bytes);
        assert!(found >= least as f64, "{bytes} {found}");
    }
    assert!(node.dropped("retained_full") > 300.0);
    assert!(node.dropped("slow_subscriber") > 1000.0 && node.dropped("queue_full") > 1000.0);
    assert!(node.metric("hydrant_subscriptions_refused_total") > 2000.0);
    assert!(node.metric("hydrant_route_cache_evictions_total") > 100_000.0);
    // Others are served.
    other.publish("other", "x", 1);
    assert_eq!(other.take().text(), "x");
}

/// One worker and an embedded log of little memory.
fn logging() -> crate::support::node::Builder {
    Node::builder()
        .set("node.workers", 1)
        .set("sys.interval", "0s")
        .set("storage.journal_max_size", STORE)
        .set("log.journal_max_size", LOG)
        .set("log.segment_size", "\"16MiB\"")
        .set("log.retention_bytes", "\"64MiB\"")
}

/// The memory tables of the embedded log: `log.journal_max_size`.
const LOG: u64 = 64 * MIB;

#[test]
fn records_that_the_embedded_log_does_not_take_have_their_bytes() {
    let held = Held::start(
        logging()
            .set("log.max_pending_bytes", "\"4MiB\"")
            .set("route_default.ack", "accepted")
            .set("supervision.stall_timeout", "8s")
            .set("debug.faults", true),
    );
    let node = &held.node;
    let payload = vec![b'x'; 500_000];
    let mut publishers: Vec<Client> = (0..4).map(|n| node.client(&format!("p{n}"))).collect();
    node.fault("stall", "log");
    // 400 MB that nobody waits for, and 100 MB that wait for the log: their connections are not read.
    for _ in 0..200 {
        for publisher in &mut publishers {
            publisher.send(&Publish::new("a/k/b", &payload).bytes());
        }
    }
    for id in 1..=50 {
        for publisher in &mut publishers {
            publisher.send(&Publish::new("a/k/b", &payload).qos(1).id(id).bytes());
        }
    }
    for publisher in &mut publishers {
        for id in 1..=50 {
            publisher.wait_for(&Packet::Puback(id));
        }
    }
    held.holds(2 * 4 * MIB + LOG + STORE);
    assert!(node.dropped("log_full_qos0") > 600.0, "{}", node.dropped("log_full_qos0"));
    node.wait_log("actor log");
    // It goes on.
    eventually(SOON, "all is appended", || node.metric("hydrant_log_pending_records") == 0.0);
}

/// A caller of the admin socket that has read the first byte of its answer, and no more.
fn asks(node: &Node, request: &str) -> UnixStream {
    let mut stream = UnixStream::connect(node.data_dir().join("admin.sock")).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    writeln!(stream, "{request}").unwrap();
    stream.read_exact(&mut [0]).expect("an answer has begun");
    stream
}

fn is_closed(mut stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    match stream.read(&mut [0]) {
        Ok(n) => n == 0,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    }
}

fn calls(admin: SocketAddr, request: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(admin).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    // One more than may be open is closed.
    let _ = stream.write_all(request);
    stream
}

/// The row of the admin endpoints in docs/operations.md at the defaults, MiB.
const ADMIN: u64 = 175;

#[test]
fn admin_callers_that_do_not_go_on_hold_what_the_docs_say() {
    let mut held = Held::start(
        logging()
            .set("admin.header_timeout", "60s")
            .set("admin.timeout", "60s")
            .set("admin.request_timeout", "60s"),
    );
    // Something to show: 1,000 connections with the longest client ids, and 60 records of 1 MB.
    let mut crowd: Vec<Client> =
        (0..1000).map(|n| held.node.client(&format!("{n:01024}"))).collect();
    let mut publisher = held.node.client("publisher");
    for _ in 0..60 {
        publisher.publish("a/k/b", vec![b'x'; 1_000_000], 1);
    }
    held.again();
    let node = &held.node;
    let tail = r#"{"request":"tail","topic":"a-b","from_start":true}"#;
    let tails: Vec<UnixStream> = (0..16).map(|_| asks(node, tail)).collect();
    let tree = r#"{"request":"tree","connections":true,"page_size":1000}"#;
    let mut trees: Vec<UnixStream> = (0..14).map(|_| asks(node, tree)).collect();
    let path = node.data_dir().join("admin.sock");
    let mut long = UnixStream::connect(path).unwrap();
    long.write_all(&[b'x'; 16_000]).unwrap();
    // Answers that are not read, and headers that do not end.
    let whole = b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n";
    let wholes: Vec<TcpStream> = (0..200).map(|_| calls(node.admin, whole)).collect();
    let half = [b"GET /metrics HTTP/1.1\r\nx: ", &[b'x'; 15_000][..]].concat();
    let halves: Vec<TcpStream> = (0..200).map(|_| calls(node.admin, &half)).collect();
    eventually(SOON, "more than may be open are closed", || {
        halves.iter().filter(|stream| is_closed(stream)).count() >= 200 - 64
    });
    // And the block cache in which the log is read.
    held.holds((ADMIN + 8) * MIB);
    // MQTT goes on, and so do those who read on.
    crowd[0].ping();
    let mut rest = String::new();
    trees.remove(0).read_to_string(&mut rest).unwrap();
    assert_eq!(rest.lines().filter(|line| line.contains("\"client_id\"")).count(), 1000);
    drop((tails, trees, halves, wholes, long));
    eventually(Duration::from_secs(60), "there is room again", || {
        crate::support::node::http(node.admin, "/ready").is_ok()
    });
}

#[test]
fn a_page_of_dead_letters_is_short_whatever_their_topics_are() {
    let node = Node::builder().set("log.max_topics", 1).start();
    let mut client = node.client("sender");
    client.publish("the/k/only", "taken", 1);
    for n in 0..20 {
        client.publish(&format!("{n}/{}/more", "y".repeat(60_000)), "refused", 1);
    }
    eventually(SOON, "all are dead letters", || node.metric("hydrant_dead_letters") == 20.0);
    let list = r#"{"request":"dead","action":{"list":{"after":null,"count":1000}}}"#;
    let mut page = String::new();
    asks(&node, list).read_to_string(&mut page).unwrap();
    assert_eq!(page.lines().filter(|line| line.contains("yyy...")).count(), 20, "{page}");
    // A row has 3 KiB and a client id, by docs/operations.md.
    assert!(page.len() < 21 * 3 * 1024, "{} bytes", page.len());
}
