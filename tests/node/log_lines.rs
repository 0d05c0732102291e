//! The node's own log: a client cannot flood it, nobody has to read it, and nothing is refused, dropped or ignored
//! without a line.

use std::net::TcpStream;
use std::time::Instant;

use crate::support::client::{Connect, Publish, packet, text};
use crate::support::command::stdout;
use crate::support::{Client, Node, SOON, eventually};

/// Lines of the log with this text.
fn lines(node: &Node, text: &str) -> Vec<String> {
    node.log().into_iter().filter(|line| line.contains(text)).collect()
}

fn left_out(node: &Node, reason: &str) -> f64 {
    node.metric(&format!("hydrant_log_lines_left_out_total{{reason=\"{reason}\"}}"))
}

#[test]
fn a_flood_of_refused_publishes_is_a_few_lines() {
    let builder = Node::builder().set("log.max_topics", 20);
    let node = builder.set("route_default.on_refused", "disconnect").start();
    let start = Instant::now();
    let before = node.log().len();
    let mut client = node.client(&"c".repeat(200));
    let long = "y".repeat(1000);
    for n in 0..3000 {
        client.send(&Publish::new(&format!("x/k/{n}_{long}"), b"v").bytes());
    }
    client.ping();
    eventually(SOON, "all are routed", || {
        node.dropped("log_refused") + node.dropped("log_full_qos0") >= 2980.0
    });
    let line = node.wait_log("the log refuses a record");
    let said = node.log()[before..].to_vec();
    let bytes: usize = said.iter().map(String::len).sum();
    // Each reason has a line in 10 s; what is cut of a value is told by its length.
    let turns = 1 + start.elapsed().as_secs() as usize / 10;
    assert!(lines(&node, "the log refuses a record").len() <= turns, "{said:#?}");
    assert!(bytes < 4096 * turns, "{bytes} bytes: {said:#?}");
    let id = format!("client \"{}\"... (200 bytes)", "c".repeat(64));
    assert!(line.contains(&id) && line.contains("... (1007 bytes)"), "{line}");
    // The others are told of, also when none follows.
    let rest = node.wait_log("more lines were left out like: the log refuses a record");
    assert!(left_out(&node, "limited") > 2000.0, "{rest}");
}

#[test]
fn a_log_that_nobody_reads_stops_nothing() {
    let mut node = Node::builder().env("RUST_LOG", "debug").start();
    node.pause_log();
    // Each client is some lines at debug: the pipe is full, and then the node's own queue.
    let long = "i".repeat(60);
    for n in 0..20_000 {
        Client::connect(node.mqtt, &Connect::new(&format!("{n}{long}"))).disconnect();
        if n % 100 == 0 && left_out(&node, "unread") > 100.0 {
            break;
        }
    }
    assert!(left_out(&node, "unread") > 100.0, "the log is full");
    let rss = node.rss();
    let mut client = node.persistent("stays").subscribed("t", 1);
    for n in 0..200 {
        client.publish("t", n.to_string(), 1);
        let message = client.take();
        assert_eq!(message.text(), n.to_string());
    }
    assert_eq!(node.http("/ready").0, 200);
    for n in 0..500 {
        Client::connect(node.mqtt, &Connect::new(&format!("{n}{long}"))).disconnect();
    }
    assert!(node.rss() < rss + (16 << 20), "the log waits in bounded memory");
    node.resume_log();
    node.wait_log("lines were left out because nobody read the log");
    client.ping();
    assert_eq!(node.terminate(), Some(0));
    node.wait_log("node n1 stopped");
}

#[test]
fn a_node_ends_although_nobody_reads_its_log() {
    let mut node = Node::builder().env("RUST_LOG", "debug").start();
    node.pause_log();
    for n in 0..1000 {
        Client::connect(node.mqtt, &Connect::new(&format!("{n}{}", "i".repeat(60)))).disconnect();
    }
    assert_eq!(node.terminate(), Some(0));
}

/// Sends this on a socket of its own.
fn send(node: &Node, bytes: &[u8]) -> Client {
    let mut client = node.socket();
    let _ = client.try_send(bytes);
    client
}

/// A CONNECT of this protocol level with a client id of this length.
fn connect(level: u8, id: usize) -> Vec<u8> {
    let properties: &[u8] = if level == 5 { &[0] } else { &[] };
    packet(
        0x10,
        &[&text("MQTT")[..], &[level, 2, 0, 0], properties, &text("i".repeat(id))].concat(),
    )
}

#[test]
fn who_is_refused_or_cut_off_has_a_line() {
    let node = Node::builder()
        .set("limits.max_packet_size", "\"2KiB\"")
        .set("limits.max_client_id_length", 100)
        .set("limits.connect_timeout", "\"1s\"")
        .start();
    for (bytes, line) in [
        (connect(5, 3), "it speaks MQTT 5, and this broker MQTT 3.1.1 and 3.1"),
        (connect(6, 3), "the protocol level is not supported"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc".to_vec(), "it speaks TLS (a ClientHello)"),
        // Shorter than what MQTT would take its second byte for.
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "it speaks HTTP"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n".to_vec(), "it sends a PROXY header"),
        (packet(0xf0, b""), "the packet type is reserved"),
        (packet(0xc0, b""), "the first packet is not CONNECT"),
        (connect(4, 101), "its client id is longer than limits.max_client_id_length"),
    ] {
        let mut client = send(&node, &bytes);
        let said = node.wait_log(line);
        client.expect_end();
        let from = client.stream().local_addr().expect("an address").to_string();
        assert!(said.contains(&from), "{said}");
    }
    let mut large = node.client("large");
    let _ = large.try_send(&Publish::new("t", vec![b'x'; 4096]).bytes());
    let said = node.wait_log("limits.max_packet_size");
    assert!(said.contains("(client \"large\")"), "{said}");
    let mut silent = node.client("silent");
    let mut late = send(&node, b"\x10");
    node.wait_log("no CONNECT came within limits.connect_timeout");
    late.expect_end();
    let _quiet = Client::connect(node.mqtt, &Connect::new("quiet").keep_alive(1));
    let said = node.wait_log("nothing came for one and a half times its keep-alive");
    assert!(said.contains("\"quiet\""), "{said}");
    silent.ping();
    // One line a reason, however many come.
    for _ in 0..50 {
        send(&node, &connect(5, 3)).expect_end();
    }
    assert!(lines(&node, "it speaks MQTT 5").len() <= 2);
}

#[test]
fn user_names_are_ignored_with_a_line() {
    let node = Node::builder().start();
    let mut connect = Connect::new("bob");
    (connect.0.username, connect.0.password) = (Some("bob".into()), Some("secret".into()));
    Client::connect(node.mqtt, &connect).ping();
    let line = node.wait_log("gave a user name and password: ignored");
    assert!(line.contains("INFO") && line.contains("client \"bob\"") && !line.contains("secret"));
}

#[test]
fn dropped_messages_have_a_line_with_an_example() {
    let node = Node::builder()
        .set("log.kind", "none")
        .set("session.max_queued_messages", 2)
        .set("limits.max_retained_messages", 1)
        .set("sys.interval", "0s")
        .set("limits.max_output_bytes", "\"64KiB\"")
        .set("listener.send_buffer", "\"64KiB\"")
        .start();
    node.offline("sleeper", &[("queued", 1), ("live", 0)]);
    let mut publisher = node.client("publisher");
    for n in 0..5 {
        publisher.publish("queued", n.to_string(), 1);
    }
    publisher.publish("live", "x", 0);
    for topic in ["kept", "not kept", "neither"] {
        publisher.retain(topic, "x", 1);
    }
    publisher.publish("$SYS/fake", "x", 1);
    for (reason, example) in [
        ("(queue_full)", "client \"sleeper\", topic \"queued\""),
        ("(offline_qos0)", "client \"sleeper\", topic \"live\""),
        ("(retained_full)", "topic \"not kept\""),
        ("(no_route)", "client \"publisher\", topic \"$SYS/fake\""),
    ] {
        let line = node.wait_log(reason);
        assert!(line.contains("dropped ") && line.contains(example), "{line}");
    }
    let _slow = node.client("slow").subscribed("flood", 0);
    let payload = vec![b'x'; 10_000];
    eventually(SOON, "a slow subscriber loses messages", || {
        for _ in 0..50 {
            publisher.send(&Publish::new("flood", &payload).bytes());
        }
        publisher.ping();
        node.dropped("slow_subscriber") > 0.0
    });
    let line = node.wait_log("(slow_subscriber)");
    assert!(line.contains("client \"slow\", topic \"flood\""), "{line}");
    let status = stdout(&node.cli(&["status"]));
    let dropped = status.lines().find(|line| line.starts_with("dropped")).expect("a line");
    assert!(dropped.contains("3 queue_full") && dropped.contains("2 retained_full"), "{status}");
}

#[test]
fn full_and_hurried_nodes_say_so() {
    let node =
        Node::builder().set("limits.max_connections", 2).set("limits.connect_rate", 5).start();
    let clients: Vec<_> = (0..2).map(|n| node.client(&n.to_string())).collect();
    eventually(SOON, "it is full", || {
        let mut third = node.socket();
        third.expect_end();
        !lines(&node, "limits.max_connections = 2 are open").is_empty()
    });
    node.wait_log("connections come faster than limits.connect_rate = 5 a second");
    drop(clients);
}

#[test]
fn no_file_descriptors_is_a_line_that_says_what_to_do() {
    let node = Node::builder().start();
    let pid = i32::try_from(node.pid()).expect("a process id");
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("its files").count() as u64;
    let (mut soft, mut hard) = (0, 0);
    let files = rlimit::Resource::NOFILE;
    rlimit::prlimit(pid, files, None, Some((&mut soft, &mut hard))).expect("its limit");
    rlimit::prlimit(pid, files, Some((open + 3, hard)), None).expect("a low one");
    let mut sockets = Vec::new();
    eventually(SOON, "accept fails", || {
        sockets.push(TcpStream::connect(node.mqtt).expect("the backlog"));
        !lines(&node, "no client is accepted for now").is_empty()
    });
    let line = node.wait_log("no client is accepted for now");
    assert!(line.contains("ulimit -n") && line.contains("limits.max_connections"), "{line}");
    drop(sockets);
    rlimit::prlimit(pid, files, Some((soft, hard)), None).expect("the limit of before");
    node.client("later").ping();
    assert!(lines(&node, "no client is accepted for now").len() <= 2);
}

#[test]
fn a_start_warns_of_ports_beyond_loopback() {
    let node = Node::builder().start();
    node.client("c").ping();
    assert!(lines(&node, "beyond loopback").is_empty());
    assert!(lines(&node, "actor storage started").is_empty(), "the tree says it");
    assert_eq!(lines(&node, "the actor tree:").len(), 1);
    let open = Node::builder().listen("0.0.0.0:0").set("admin.address", "0.0.0.0:0").start();
    for key in ["listener.address", "admin.address"] {
        let line = open.wait_log(&format!("{key} = 0.0.0.0:"));
        assert!(line.contains("WARN") && line.contains("listen on 127.0.0.1"), "{line}");
    }
}

#[test]
fn status_says_what_the_node_is_and_what_it_does() {
    let node = Node::builder().start();
    let mut client = node.client("c");
    client.publish("$SYS/x", "", 1);
    for n in 0..100 {
        client.publish("a/b/c", n.to_string(), 1);
    }
    let line = |start: &str| {
        let status = stdout(&node.cli(&["status"]));
        let found = status.lines().find(|line| line.starts_with(start)).map(str::to_owned);
        found.unwrap_or_else(|| panic!("no {start} in:\n{status}"))
    };
    assert_eq!(line("node "), "node           n1");
    assert_eq!(line("listeners"), format!("listeners      tcp/{}", node.mqtt));
    assert!(line("log ").starts_with("log            embedded log: "), "{}", line("log "));
    assert_eq!(line("dropped"), "dropped        1 no_route");
    eventually(SOON, "a rate is known", || {
        client.publish("a/b/c", "x", 1);
        let line = line("messages");
        let words: Vec<_> = line.split_whitespace().collect();
        words.get(1).and_then(|rate| rate.parse::<u64>().ok()).is_some_and(|rate| rate > 0)
    });
}

#[test]
fn a_client_that_connects_is_a_line_at_debug() {
    let node = Node::builder().env("RUST_LOG", "debug").start();
    let _client = Client::connect(node.mqtt, &Connect::new("c1").keep_alive(60));
    let line = node.wait_log("client \"c1\" connected from");
    assert!(line.contains("clean, keep-alive 60"), "{line}");
}
