//! Bad input over the socket: each limit closes cleanly and is counted, nothing allocates what is
//! merely announced, nothing panics, others are not disturbed.

use std::time::{Duration, Instant};

use crate::support::client::{Connect, Publish, packet, subscribe, text, unsubscribe};
use crate::support::{Client, Dice, Node, Packet, SOON, eventually};

/// Small limits, so that each is reached quickly.
fn node() -> Node {
    Node::builder()
        .set("limits.max_packet_size", "\"64KiB\"")
        .set("limits.max_topic_length", 200)
        .set("limits.max_topic_levels", 8)
        .set("limits.max_filters_per_subscribe", 100)
        .set("limits.connect_timeout", "1s")
        .start()
}

/// Sends this from a connected client, which is cut off; the counter of the reason goes up.
#[track_caller]
fn counted(node: &Node, bytes: &[u8], reason: &str) {
    let before = node.closed(reason);
    let mut client = node.client("bad");
    // What is past the limit may already meet a closed socket.
    let _ = client.try_send(bytes);
    client.expect_closed();
    node.wait_closed(reason, before + 1.0);
}

#[test]
fn an_oversized_packet_is_refused_by_its_header_alone() {
    let node = node();
    // Only the header comes: 256 MB announced, nothing sent.
    counted(&node, &[0x30, 0xff, 0xff, 0xff, 0x7f], "limit");
    counted(&node, &Publish::new("t", vec![0u8; 64 * 1024]).bytes(), "limit");
    let mut client = node.client("largest");
    client.publish("t", vec![0; 64 * 1024 - 100], 1);
}

#[test]
fn connections_that_announce_much_and_send_little_cost_little() {
    let node = Node::builder().set("limits.max_packet_size", "\"16MiB\"").start();
    let before = node.rss();
    let clients: Vec<_> = (0..200)
        .map(|n| {
            let mut client = node.client(&format!("announces-{n}"));
            client.send(&[0x30, 0xff, 0xff, 0xff, 0x06]);
            client.send(b"\x00\x01t some bytes of sixteen megabytes");
            client
        })
        .collect();
    let after = node.rss();
    assert!(after < before + (20 << 20), "{before} -> {after} bytes for {} clients", clients.len());
}

#[test]
fn topics_past_the_limits_close() {
    let node = node();
    for topic in ["x".repeat(201), "x/".repeat(8)] {
        counted(&node, &Publish::new(&topic, b"").bytes(), "limit");
        filter_refused(&node, &topic);
    }
    let mut client = node.client("longest");
    client.publish(&"x".repeat(200), "x", 1);
    client.publish(&"x/".repeat(7), "x", 1);
}

#[test]
fn topics_of_64_kib_work_and_are_bounded_by_their_levels() {
    let node = Node::builder().start();
    let mut client = node.client("long");
    let topic = "x".repeat(65_535);
    client.subscribe(&topic, 1);
    client.retain(&topic, "x", 1);
    assert_eq!(client.take().topic.len(), 65_535);
    counted(&node, &Publish::new(&"/".repeat(65_535), b"").bytes(), "limit");
    filter_refused(&node, &"+/".repeat(30_000));
}

/// A SUBSCRIBE with this filter takes what stands beside it, and an UNSUBSCRIBE with all three is acknowledged.
#[track_caller]
fn filter_refused(node: &Node, filter: &str) {
    let before = node.metric("hydrant_subscriptions");
    let mut client = node.client("refused");
    client.send(&subscribe(1, &[("before", 0), (filter, 1), ("behind", 2)]));
    client.expect(Packet::Suback(1, vec![0, 0x80, 2]));
    client.publish("behind", "x", 1);
    assert_eq!(client.take().topic, "behind");
    client.send(&unsubscribe(2, &["before", filter, "behind"]));
    client.expect(Packet::Unsuback(2));
    eventually(SOON, "none is left", || node.metric("hydrant_subscriptions") <= before);
    client.disconnect();
}

#[test]
fn two_hundred_levels_are_taken_at_the_defaults() {
    let node = Node::builder().start();
    let mut client = node.client("deep");
    let deep = |level: &str| [level; 200].join("/");
    client.subscribe(&deep("a"), 1);
    client.subscribe(&deep("+"), 2);
    client.retain(&deep("a"), "x", 1);
    assert_eq!(client.take().text(), "x");
    filter_refused(&node, &["a"; 257].join("/"));
}

#[test]
fn the_deepest_topic_there_is_costs_no_stack() {
    let node = Node::builder().set("limits.max_topic_levels", 65_535).start();
    let topic = "/".repeat(32_767);
    let filters = [["+"; 32_768].join("/"), format!("{}#", "+/".repeat(32_767)), topic.clone()];
    let mut client = node.persistent("deepest");
    for filter in &filters {
        client.subscribe(filter, 2);
    }
    client.retain(&topic, "x", 2);
    assert_eq!(client.take().topic, topic);
    client.disconnect();
    let node = node.restart();
    let mut client = node.persistent("deepest");
    for filter in &filters {
        client.subscribe(filter, 1);
        assert_eq!(client.take().topic, topic);
        client.send(&unsubscribe(1, &[filter]));
        client.expect(Packet::Unsuback(1));
    }
}

#[test]
fn ten_thousand_filters_in_one_packet_are_answered_each() {
    let node = Node::builder().start();
    let names: Vec<String> = (0..10_000).map(|n| format!("f/{n}/+")).collect();
    let filters: Vec<_> = names.iter().map(|name| (name.as_str(), 1)).collect();
    let mut client = node.persistent("thousands");
    client.send(&subscribe(1, &filters));
    client.expect(Packet::Suback(1, [vec![1; 1000], vec![0x80; 9000]].concat()));
    assert_eq!(node.metric("hydrant_subscriptions"), 1000.0);
    // The rest, in packets that are taken whole.
    for (n, some) in (2..).zip(filters[1000..].chunks(1000)) {
        client.send(&subscribe(n, some));
        client.expect(Packet::Suback(n, vec![1; 1000]));
    }
    assert_eq!(node.metric("hydrant_subscriptions"), 10_000.0);
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    client.send(&unsubscribe(20, &names[1..]));
    client.expect(Packet::Unsuback(20));
    assert_eq!(node.metric("hydrant_subscriptions"), 1.0);
    client.publish("f/0/x", "left", 1);
    assert_eq!(client.take().text(), "left");
    node.wait_log("9000 of its topic filters are refused: there are more than 1000");
}

#[test]
fn shared_subscriptions_are_refused() {
    filter_refused(&Node::builder().start(), "$share/group/topic");
}

#[test]
fn control_characters_are_refused_unless_they_are_allowed() {
    let strings = ["a\u{1}", "a\n", "a\u{7f}", "a\u{85}", "a\u{fdd0}", "a\u{ffff}", "a\u{10fffe}"];
    let node = Node::builder().start();
    for string in strings {
        counted(&node, &Publish::new(string, b"").bytes(), "limit");
        filter_refused(&node, string);
        let before = node.closed("limit");
        let mut client = node.socket();
        client.send(&Connect::new(string).bytes());
        client.expect_closed();
        node.wait_closed("limit", before + 1.0);
    }
    let node = Node::builder().set("limits.control_characters", "\"allow\"").start();
    for string in strings {
        let mut client = node.client(string).subscribed(string, 1);
        client.publish(string, "x", 1);
        assert_eq!(client.take().topic, string);
    }
    // What no key allows.
    for bytes in
        [&b"\x30\x04\0\x02a\0"[..], b"\x30\x05\0\x03\xed\xa0\x80", b"\x30\x05\0\x03\xed\xbf\xbf"]
    {
        counted(&node, bytes, "protocol_violation");
    }
}

#[test]
fn malformed_packets_are_counted_as_violations() {
    let node = node();
    counted(&node, &[0xf0, 0], "protocol_violation");
    counted(&node, &packet(0x36, &text("t")), "protocol_violation");
    counted(&node, &[0x30, 0x80, 0x80, 0x80, 0x80, 0x00], "protocol_violation");
    counted(&node, &Connect::new("again").bytes(), "protocol_violation");
}

#[test]
fn a_truncated_packet_ends_with_its_socket() {
    let node = node();
    let whole = Publish::new("t", vec![7u8; 1000]).qos(1).id(1).bytes();
    let mut watcher = node.client("watcher").subscribed("t", 1);
    for length in [1, 2, 3, 10, 500, whole.len() - 1] {
        let before = node.closed("eof");
        let mut client = node.client("truncated");
        client.send(&whole[..length]);
        client.half_close();
        client.expect_closed();
        eventually(SOON, "the close is counted", || node.closed("eof") > before);
    }
    node.client("whole").publish("t", "fence", 1);
    assert_eq!(watcher.take().text(), "fence");
}

#[test]
fn a_packet_in_single_bytes_is_put_together() {
    let node = node();
    let mut client = node.socket();
    let mut bytes = Connect::new("slow").bytes();
    bytes.extend(subscribe(1, &[("t", 1)]));
    bytes.extend(Publish::new("t", b"in pieces").qos(1).id(2).bytes());
    for byte in bytes {
        client.send(&[byte]);
    }
    client.expect(Packet::Connack { present: false, code: 0 });
    client.expect(Packet::Suback(1, vec![1]));
    client.wait_for(&Packet::Puback(2));
    assert_eq!(client.take().text(), "in pieces");
}

#[test]
fn who_never_sends_connect_is_closed_and_counted() {
    let node = node();
    let start = Instant::now();
    let mut silent = node.socket();
    let mut slow = node.socket();
    slow.send(&Connect::new("slow").bytes()[..5]);
    silent.expect_closed();
    slow.expect_closed();
    assert!(start.elapsed() >= Duration::from_millis(900), "{:?}", start.elapsed());
    node.wait_closed("connect_timeout", 2.0);
}

#[test]
fn a_connect_that_drips_for_ever_is_closed() {
    let node = node();
    let start = Instant::now();
    let mut client = node.socket();
    let bytes = Connect::new(&"x".repeat(1000)).bytes();
    for byte in bytes {
        if client.try_send(&[byte]).is_err() {
            break;
        }
        if client.recv_within(Duration::from_millis(50)).is_err() {
            break;
        }
    }
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    node.wait_closed("connect_timeout", 1.0);
}

#[test]
fn a_half_open_connection_ends_by_its_keep_alive() {
    // The peer is there and says nothing any more, as after a pulled cable.
    let node = node();
    let mut client = Client::connect(node.mqtt, &Connect::new("half-open").keep_alive(1));
    client.subscribe("t", 0);
    client.expect_closed();
    node.wait_closed("keep_alive", 1.0);
    eventually(SOON, "its subscription is gone", || node.metric("hydrant_subscriptions") == 0.0);
}

/// Whether a client that sends a PUBLISH in such steps, ten a second, is cut off within 4 s.
fn upload_is_cut_off(node: &Node, keep_alive: u16, step: usize) -> bool {
    let mut client = Client::connect(node.mqtt, &Connect::new("slow").keep_alive(keep_alive));
    Publish::new("t", vec![0u8; 60_000]).qos(1).id(9).bytes().chunks(step).take(40).any(|part| {
        client.try_send(part).is_err() || client.recv_within(Duration::from_millis(100)).is_err()
    })
}

#[test]
fn a_slow_upload_is_a_sign_of_life_unless_it_is_too_slow() {
    let node = Node::builder().start();
    assert!(!upload_is_cut_off(&node, 1, 1000), "10,000 bytes a second");
    assert!(upload_is_cut_off(&node, 1, 1), "10 bytes a second");
    node.wait_closed("keep_alive", 1.0);
    let node = Node::builder()
        .set("limits.min_packet_rate", 1)
        .set("limits.packet_timeout", "\"1s\"")
        .start();
    assert!(upload_is_cut_off(&node, 0, 1000), "for longer than limits.packet_timeout");
    node.wait_closed("packet_timeout", 1.0);
}

#[test]
fn past_the_most_connections_a_socket_is_closed_and_the_others_go_on() {
    let node = Node::builder().set("limits.max_connections", 10).start();
    let mut clients: Vec<_> = (0..10).map(|n| node.client(&format!("c{n}"))).collect();
    for _ in 0..5 {
        let mut surplus = node.socket();
        surplus.expect_closed();
    }
    node.wait_closed("too_many_connections", 5.0);
    for client in &mut clients {
        client.ping();
    }
    drop(clients.pop());
    eventually(SOON, "there is room again", || node.metric("hydrant_connections") < 10.0);
    node.client("late").ping();
}

#[test]
fn a_flood_of_connects_waits_its_turn() {
    let node = Node::builder().set("limits.connect_rate", 100).start();
    let start = Instant::now();
    let mut clients: Vec<_> = (0..150)
        .map(|n| {
            let mut client = node.socket();
            client.send(&Connect::new(&format!("flood-{n}")).bytes());
            client
        })
        .collect();
    for client in &mut clients {
        client.expect(Packet::Connack { present: false, code: 0 });
    }
    assert!(
        start.elapsed() >= Duration::from_secs(1),
        "{:?} for 150 at 100 a second",
        start.elapsed()
    );
}

#[test]
fn random_bytes_never_hurt_anybody_else() {
    let node = node();
    let mut dice = Dice::new();
    let mut bystander = node.client("bystander").subscribed("bystander", 1);
    for round in 0..300 {
        let mut client = if round % 3 == 0 { node.socket() } else { node.client("random") };
        let mut bytes: Vec<u8> = (0..dice.below(300)).map(|_| dice.below(256) as u8).collect();
        if round % 2 == 0 {
            // A packet that begins well.
            let kinds = [0x10, 0x30, 0x32, 0x34, 0x40, 0x50, 0x62, 0x70, 0x82, 0xa2, 0xc0, 0xe0];
            bytes = packet(kinds[dice.below(kinds.len() as u64) as usize], &bytes);
        }
        let _ = client.try_send(&bytes);
        client.half_close();
        client.expect_end();
    }
    bystander.publish("bystander", "well", 1);
    assert_eq!(bystander.take().text(), "well");
    assert_eq!(node.closed("actor_died"), 0.0);
    assert_eq!(node.metric("hydrant_restarts_total"), 0.0);
}

#[test]
fn empty_client_ids_are_refused_where_the_configuration_says_so() {
    let node = Node::builder().set("limits.allow_empty_client_id", false).start();
    let mut client = node.socket();
    client.send(&Connect::new("").bytes());
    client.expect(Packet::Connack { present: false, code: 2 });
    client.expect_closed();
    node.wait_closed("connect_refused", 1.0);
}

#[test]
fn past_the_most_sessions_a_new_one_is_refused_with_code_3() {
    let node = Node::builder().set("session.max_sessions", 2).start();
    for id in ["a", "b"] {
        node.persistent(id).disconnect();
    }
    let mut client = node.socket();
    client.send(&Connect::new("c").persistent().bytes());
    client.expect(Packet::Connack { present: false, code: 3 });
    client.expect_closed();
    node.persistent("a").ping();
    node.client("c").ping();
}

#[test]
fn a_keep_alive_past_the_limit_is_refused() {
    let node = Node::builder().set("limits.max_keep_alive", 60).start();
    for seconds in [0, 61] {
        let mut client = node.socket();
        client.send(&Connect::new("k").keep_alive(seconds).bytes());
        client.expect(Packet::Connack { present: false, code: 2 });
        client.expect_closed();
    }
    Client::connect(node.mqtt, &Connect::new("k").keep_alive(60)).ping();
}

#[test]
fn retained_messages_are_bounded() {
    let node =
        Node::builder().set("limits.max_retained_messages", 3).set("sys.interval", "0s").start();
    let mut client = node.client("retains");
    for n in 0..5 {
        client.retain(&format!("r/{n}"), "x", 1);
    }
    // One that is there can be replaced.
    client.retain("r/0", "new", 1);
    assert_eq!(node.metric("hydrant_retained_messages"), 3.0);
    assert_eq!(node.dropped("retained_full"), 2.0);
    let mut late = node.client("late").subscribed("r/#", 0);
    let mut came: Vec<_> = (0..3).map(|_| late.take().text()).collect();
    came.sort();
    assert_eq!(came, ["new", "x", "x"]);
}
