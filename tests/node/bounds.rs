//! What clients can fill is bounded in bytes: each table, queue and buffer gets the worst input there is, and the
//! most memory that the process ever had is held against the sum of the bounds.
//!
//! The input is some ten times the bound, so that a bound that does not hold is seen.

use crate::support::client::{Connect, Publish, packet, subscribe, text};
use crate::support::node::Builder;
use crate::support::{Client, Node, Packet, SOON, eventually};

pub const MIB: u64 = 1 << 20;
/// Beside the bounds: what the node reads and writes at a time, its pools, free pages of the allocator, and an
/// unoptimised build.
const ALLOWANCE: u64 = 64 * MIB;

/// The memory tables of the store, where much is stored: `storage.journal_max_size`.
pub const STORE: u64 = 64 * MIB;

/// Without a log, one worker: what is bounded for each worker is bounded once.
pub fn builder() -> Builder {
    Node::builder()
        .set("log.kind", "none")
        .set("node.workers", 1)
        .set("sys.interval", "0s")
        .set("storage.journal_max_size", STORE)
}

/// A line of /proc/PID/status, in bytes.
fn status(node: &Node, name: &str) -> u64 {
    let path = format!("/proc/{}/status", node.pid());
    let status = std::fs::read_to_string(path).expect("the status of the process");
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or_else(|| panic!("no {name} in:\n{status}")) * 1024
}

/// A node and what it takes when it is idle.
pub struct Held {
    pub node: Node,
    idle: u64,
}

impl Held {
    pub fn start(builder: Builder) -> Self {
        let node = builder.start();
        let idle = status(&node, "VmRSS");
        Self { node, idle }
    }

    /// What it has taken until now is not looked at.
    pub fn again(&mut self) {
        let path = format!("/proc/{}/clear_refs", self.node.pid());
        // The most that it had begins anew.
        std::fs::write(path, "5").expect("its own process");
        self.idle = status(&self.node, "VmRSS");
    }

    /// It never took more than these bounds.
    #[track_caller]
    pub fn holds(&self, bounds: u64) {
        let most = status(&self.node, "VmHWM");
        let (now, idle) = (status(&self.node, "VmRSS"), self.idle);
        eprintln!("idle {} MiB, most {} MiB, now {} MiB", idle / MIB, most / MIB, now / MIB);
        assert!(
            most <= idle + bounds + ALLOWANCE,
            "{} MiB idle, {} MiB at the most: bounds of {} MiB do not hold",
            idle / MIB,
            most / MIB,
            bounds / MIB
        );
    }
}

/// Publishes `count` messages of these topics and waits until the node has read them.
pub fn flood(client: &mut Client, count: usize, topic: impl Fn(usize) -> String) {
    for n in 0..count {
        client.send(&Publish::new(&topic(n), b"v").bytes());
        if n % 500 == 499 {
            client.ping();
        }
    }
    client.ping();
}

#[test]
fn distinct_topics_of_any_length_fill_the_route_cache_to_its_bytes() {
    let held = Held::start(builder().set("limits.route_cache_bytes", "\"8MiB\""));
    let mut publisher = held.node.client("publisher");
    // 240 MB of topics, none of which is cached.
    flood(&mut publisher, 4000, |n| format!("{n}/{}", "y".repeat(60_000)));
    assert_eq!(held.node.metric("hydrant_route_cache_evictions_total"), 0.0);
    held.holds(8 * MIB);
    // The longest that are, another 120 MB; and as short ones as there are many.
    flood(&mut publisher, 120_000, |n| format!("{n}/{}", "y".repeat(1000)));
    flood(&mut publisher, 120_000, |n| format!("{n}"));
    let bytes = held.node.metric("hydrant_route_cache_bytes");
    assert!(bytes > 0.0 && bytes <= (8 * MIB) as f64, "{bytes}");
    assert!(held.node.metric("hydrant_route_cache_evictions_total") > 100_000.0);
    held.holds(8 * MIB);
}

#[test]
fn filters_of_any_shape_fill_a_session_and_all_of_them_to_their_bytes() {
    let held = Held::start(
        builder().set("session.max_bytes", "\"1MiB\"").set("session.max_total_bytes", "\"8MiB\""),
    );
    let node = &held.node;
    let mut clients = Vec::new();
    let mut granted = 0;
    for c in 0..20 {
        let mut client = node.client(&format!("c{c}"));
        for round in 0..20 {
            // Long ones; and those with a node of the tree for each level, all different.
            let filters: Vec<String> = (0..10)
                .map(|n| {
                    let name = format!("{c}/{round}/{n}");
                    match n % 3 {
                        0 => format!("{name}/{}", "x".repeat(60_000)),
                        1 => format!("{name}/+/{}", "x".repeat(60_000)),
                        _ => format!("+/{name}{}", "/a".repeat(200)),
                    }
                })
                .collect();
            let filters: Vec<(&str, u8)> = filters.iter().map(|f| (f.as_str(), 0)).collect();
            let id = client.id();
            client.send(&subscribe(id, &filters));
            match client.recv() {
                Packet::Suback(_, codes) => {
                    granted += codes.iter().filter(|code| **code == 0).count();
                }
                other => panic!("{other:?}"),
            }
        }
        clients.push(client);
    }
    assert!(granted > 50 && granted < 1000, "{granted} of 4,000 granted");
    let refused = node.metric("hydrant_subscriptions_refused_total");
    assert_eq!(refused as usize, 4000 - granted);
    assert!(node.metric("hydrant_session_bytes") <= (8 * MIB) as f64);
    node.wait_log("topic filters are refused: its session or the node has no room for them");
    held.holds(8 * MIB);
    // All of it goes with the sessions.
    clients.into_iter().for_each(Client::disconnect);
    eventually(SOON, "the sessions are gone", || node.metric("hydrant_session_bytes") == 0.0);
    node.client("new").subscribe(&"x".repeat(60_000), 0);
}

#[test]
fn sessions_with_the_longest_client_ids_have_their_bytes_together() {
    let held = Held::start(
        builder().set("session.max_bytes", "\"64KiB\"").set("session.max_total_bytes", "\"1MiB\""),
    );
    let node = &held.node;
    for n in 0..1000 {
        let mut client = node.socket();
        client.send(&Connect::new(&format!("{n:01000}")).persistent().bytes());
        match client.recv() {
            Packet::Connack { code: 0, .. } => client.disconnect(),
            Packet::Connack { code: 3, .. } => client.expect_closed(),
            other => panic!("{other:?}"),
        }
    }
    let refused = node.closed("connect_refused");
    assert!(refused > 300.0 && refused < 950.0, "{refused}");
    assert!(node.metric("hydrant_session_bytes") <= MIB as f64);
    // A session that is there is taken up again.
    let (_client, present) = node.persistent_present(&format!("{:01000}", 0));
    assert!(present);
    held.holds(MIB);
}

#[test]
fn packet_ids_that_are_never_released_close_the_connection() {
    let held = Held::start(
        builder().set("session.max_bytes", "\"64KiB\"").set("route_default.ack", "accepted"),
    );
    for n in 0..5 {
        let mut client = held.node.client(&format!("c{n}"));
        for id in 1..=u16::MAX {
            if client.try_send(&Publish::new("t", b"").qos(2).id(id).bytes()).is_err() {
                break;
            }
        }
        held.node.wait_closed("limit", f64::from(n + 1));
    }
    held.holds(MIB);
}

#[test]
fn retained_messages_of_any_size_have_their_bytes() {
    for (count, topic, payload) in [(2000, 10, 60_000), (2000, 60_000, 1), (200_000, 10, 1)] {
        let held = Held::start(builder().set("limits.max_retained_bytes", "\"16MiB\""));
        let mut publisher = held.node.client("publisher");
        let payload = vec![b'x'; payload];
        for n in 0..count {
            let topic = format!("{n:0topic$}");
            publisher.send(&Publish::new(&topic, &payload).retain().bytes());
            if n % 500 == 499 {
                publisher.ping();
            }
        }
        publisher.ping();
        let bytes = held.node.metric("hydrant_retained_bytes");
        assert!(bytes > (15 * MIB) as f64 && bytes <= (16 * MIB) as f64, "{bytes}");
        assert!(held.node.dropped("retained_full") > 1000.0);
        held.holds(16 * MIB + STORE);
    }
}

/// 8 MiB for all connections, half of it for what comes in; past it their shares come on top.
fn buffers() -> Held {
    let builder = builder().set("limits.max_packet_size", "\"1MiB\"");
    Held::start(builder.set("limits.max_buffer_bytes", "\"8MiB\""))
}

#[test]
fn packets_that_are_never_whole_close_their_connections() {
    let held = buffers();
    // A PUBLISH of 1,000,000 bytes.
    let whole = packet(0x30, &[text("t"), vec![b'x'; 999_000]].concat());
    let (half, rest) = whole.split_at(600_000);
    let mut open = Vec::new();
    for n in 0..200 {
        let mut client = held.node.client(&format!("c{n}"));
        // The node may have closed it.
        let _ = client.try_send(half);
        open.push(client);
    }
    eventually(SOON, "the most are closed", || held.node.closed("buffers_full") > 150.0);
    held.holds(16 * MIB);
    // Others go on meanwhile.
    let mut other = held.node.client("other").subscribed("t", 1);
    other.publish("t", "x", 1);
    assert_eq!(other.take().text(), "x");
    // And room comes back.
    drop(open);
    eventually(SOON, "the buffers are empty", || {
        held.node.metric("hydrant_buffered_bytes") < 1_000_000.0
    });
    other.send(half);
    other.send(rest);
    other.ping();
}

#[test]
fn subscribers_that_take_nothing_hold_their_share_of_large_messages() {
    for qos in [0, 1] {
        let held = Held::start(
            builder()
                .set("limits.max_buffer_bytes", "\"8MiB\"")
                .set("listener.send_buffer", "\"64KiB\""),
        );
        let mut stuck = Vec::new();
        for n in 0..40 {
            stuck.push(held.node.client(&format!("c{n}")).subscribed("t", qos));
        }
        let mut publisher = held.node.client("publisher");
        for _ in 0..300 {
            // Each in memory of its own.
            publisher.send(&Publish::new("t", vec![b'x'; 500_000]).qos(qos).id(1).bytes());
            publisher.ping();
        }
        let reason = if qos == 0 { "slow_subscriber" } else { "queue_full" };
        assert!(held.node.dropped(reason) > 8_000.0, "{}", held.node.dropped(reason));
        held.holds(16 * MIB);
    }
}

#[test]
fn the_largest_wills_of_many_clients_are_refused_past_the_bound() {
    let held = buffers();
    let (topic, payload) = ("t".repeat(60_000), "x".repeat(60_000));
    let mut open = Vec::new();
    for n in 0..600 {
        let mut client = held.node.socket();
        client.send(&Connect::new(&format!("c{n}")).will(&topic, &payload, 0).bytes());
        match client.recv_within(SOON) {
            Ok(Some(Packet::Connack { code: 0, .. })) => open.push(client),
            // In the middle of its CONNECT, if that came in many pieces.
            Ok(Some(Packet::Connack { code: 3, .. })) | Err(_) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(open.len() >= 30 && open.len() < 150, "{}", open.len());
    assert!(held.node.closed("connect_refused") > 400.0);
    held.node.wait_log("the node has no room for one more session, or for its will");
    held.holds(16 * MIB);
    // Without a will, or with a short one, a client is let in.
    let short = Connect::new("short").will("t", "x", 0);
    let mut short = Client::connect(held.node.mqtt, &short);
    short.ping();
    drop(open);
    eventually(SOON, "the wills are gone", || {
        held.node.metric("hydrant_buffered_bytes") < 100_000.0
    });
    Client::connect(held.node.mqtt, &Connect::new("c1").will(&topic, &payload, 0)).ping();
}

#[test]
fn what_waits_for_the_store_is_held_back() {
    let held = Held::start(
        builder()
            .set("storage.max_pending_bytes", "\"4MiB\"")
            .set("supervision.stall_timeout", "8s")
            .set("debug.faults", true),
    );
    // Persistent clients that subscribe to long filters again and again, without waiting for answers, while the
    // store takes nothing: 144 MB.
    let filter = "x".repeat(60_000);
    let mut clients: Vec<Client> = (0..4).map(|n| held.node.persistent(&format!("c{n}"))).collect();
    let filters: Vec<String> = (0..10).map(|n| format!("{n}/{filter}")).collect();
    let filters: Vec<(&str, u8)> = filters.iter().map(|f| (f.as_str(), 0)).collect();
    held.node.fault("stall", "storage");
    for id in 1..=60 {
        for client in &mut clients {
            client.send(&subscribe(id, &filters));
        }
    }
    for client in &mut clients {
        for id in 1..=60 {
            client.wait_for(&Packet::Suback(id, vec![0; 10]));
        }
    }
    // Eight times the bound, as the docs say, and the filters themselves.
    held.holds(8 * 4 * MIB + 4 * MIB);
}
