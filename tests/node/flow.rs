//! Flow control over real sockets: a subscriber that stops reading, a publisher that floods. The
//! node's memory stays bounded, others get theirs, what is dropped is dropped for the slow one only.

use std::io::Write as _;
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::support::client::{Connect, Publish};
use crate::support::{Client, Node, Packet, SOON, eventually};

/// What the node may need above an idle one: output buffers, queues and the kernel's share of a few
/// connections, an unoptimised build's allocator included.
const HEADROOM: u64 = 64 << 20;

fn slow_node() -> Node {
    // Small buffers fill soon.
    Node::builder()
        .set("log.kind", "none")
        .set("listener.send_buffer", "\"64KiB\"")
        .set("limits.max_output_bytes", "\"256KiB\"")
        .set("session.max_queued_messages", 500)
        .set("session.max_inflight", 100)
        .start()
}

#[test]
fn a_subscriber_that_stops_reading_loses_qos_0_alone() {
    let node = slow_node();
    let mut slow = node.client("slow").subscribed("t", 0);
    let mut quick = node.client("quick").subscribed("t", 0);
    let before = node.rss();
    let total = 4_000u32;
    let mut publisher = node.client("publisher");
    let payload = vec![b'x'; 10_000];
    let (step, steps) = std::sync::mpsc::channel();
    let writer = std::thread::spawn(move || {
        for n in 0..total {
            let mut payload = payload.clone();
            payload[..4].copy_from_slice(&n.to_be_bytes());
            publisher.send(&Publish::new("t", &payload).bytes());
            // In step with the quick one: its buffer never fills.
            if n % 10 == 9 {
                steps.recv().unwrap();
            }
        }
        publisher
    });
    // The quick one gets everything, in order.
    for n in 0..total {
        assert_eq!(quick.publish_in().payload[..4], n.to_be_bytes());
        if n % 10 == 9 {
            step.send(()).unwrap();
        }
    }
    let _publisher = writer.join().unwrap();
    let dropped = node.dropped("slow_subscriber");
    assert!(dropped > 1_000.0, "{dropped} dropped for the slow one");
    let after = node.rss();
    assert!(after < before + HEADROOM, "{before} -> {after} bytes");
    // The slow one is still connected, and once it reads it gets what was kept and then new ones.
    let received = drain_until_quiet(&mut slow);
    assert_eq!(f64::from(received) + dropped, f64::from(total), "each is delivered or counted");
    slow.ping();
}

/// Reads PUBLISH packets until a second passes without one.
fn drain_until_quiet(client: &mut Client) -> u32 {
    let mut count = 0;
    while let Ok(Some(packet)) = client.recv_within(Duration::from_secs(1)) {
        assert!(matches!(packet, Packet::Publish(_)), "{packet:?}");
        count += 1;
    }
    count
}

#[test]
fn a_subscriber_that_stops_reading_keeps_qos_1_within_its_limit() {
    for connect in Connect::new("slow").clean_and_persistent() {
        let node = slow_node();
        let mut slow = Client::connect(node.mqtt, &connect).subscribed("t", 1);
        let mut quick = node.client("quick").subscribed("t", 1);
        let before = node.rss();
        let mut publisher = node.client("publisher");
        let payload = vec![b'x'; 4_000];
        let total = 1_500u16;
        for n in 1..=total {
            let mut payload = payload.clone();
            payload[..2].copy_from_slice(&n.to_be_bytes());
            publisher.publish("t", payload, 1);
            let came = quick.take();
            assert_eq!(came.payload[..2], n.to_be_bytes());
        }
        let dropped = node.dropped("queue_full");
        assert!(node.rss() < before + HEADROOM, "{before} -> {} bytes", node.rss());
        // 500 may wait; what is in flight counts with them in a persistent session.
        assert!(dropped >= f64::from(total) - 620.0 && dropped < f64::from(total), "{dropped}");
        let mut last = 0;
        for _ in 0..u32::from(total) - dropped as u32 {
            let came = slow.take();
            let n = u16::from_be_bytes(came.payload[..2].try_into().unwrap());
            assert!(n > last, "{n} after {last}");
            last = n;
        }
        publisher.publish("t", [0xff, 0xff], 1);
        assert_eq!(slow.take().payload, [0xff, 0xff], "it goes on");
    }
}

#[test]
fn a_subscriber_that_takes_nothing_for_too_long_is_closed() {
    let node = Node::builder()
        .set("log.kind", "none")
        .set("listener.send_buffer", "\"64KiB\"")
        .set("limits.write_timeout", "1s")
        .start();
    let mut slow = node.client("slow").subscribed("t", 0);
    let mut publisher = node.client("publisher");
    let end = Instant::now() + SOON;
    while node.closed("write_timeout") < 1.0 {
        assert!(Instant::now() < end, "never closed");
        for _ in 0..50 {
            publisher.publish("t", vec![b'x'; 20_000], 0);
        }
        publisher.ping();
    }
    slow.expect_end();
    publisher.ping();
}

#[test]
fn a_flood_of_qos_1_is_held_back_and_others_get_their_share() {
    let node = Node::builder()
        .set("storage.max_pending_bytes", "\"4MiB\"")
        .set("log.max_pending_bytes", "\"4MiB\"")
        .start();
    let before = node.rss();
    let stop = Arc::new(AtomicBool::new(false));
    let acknowledged = Arc::new(AtomicU64::new(0));
    let floods: Vec<_> = (0..3)
        .map(|n| {
            let client = node.client(&format!("flood-{n}"));
            let reader = client.stream().try_clone().unwrap();
            let acks = Arc::clone(&acknowledged);
            let reading = std::thread::spawn(move || count_pubacks(reader, &acks));
            let mut writer = client.stream().try_clone().unwrap();
            let stop = Arc::clone(&stop);
            let writing = std::thread::spawn(move || {
                let mut id = 0u16;
                while !stop.load(Ordering::Relaxed) {
                    id = id % 60_000 + 1;
                    if writer
                        .write_all(&Publish::new("flood", vec![0u8; 1000]).qos(1).id(id).bytes())
                        .is_err()
                    {
                        break;
                    }
                }
            });
            (client, writing, reading)
        })
        .collect();
    // The modest one is served meanwhile.
    let mut subscriber = node.client("subscriber").subscribed("modest", 1);
    let mut modest = node.client("modest");
    let mut slowest = Duration::ZERO;
    for n in 0..100 {
        let start = Instant::now();
        modest.publish("modest", n.to_string(), 1);
        assert_eq!(subscriber.take().text(), n.to_string());
        slowest = slowest.max(start.elapsed());
    }
    let after = node.rss();
    stop.store(true, Ordering::Relaxed);
    for (client, writing, reading) in floods {
        writing.join().unwrap();
        let _ = client.stream().shutdown(Shutdown::Both);
        reading.join().unwrap();
    }
    assert!(acknowledged.load(Ordering::Relaxed) > 1000, "the floods were served too");
    // Of this the embedded log's tables in memory are the most: 32 MiB a segment, few at once.
    assert!(after < before + 4 * HEADROOM, "{before} -> {after} bytes");
    assert!(slowest < Duration::from_secs(5), "the modest one waited {slowest:?}");
    assert!(node.metric("hydrant_read_pauses_total") > 0.0, "the floods were held back");
}

fn count_pubacks(mut stream: TcpStream, count: &AtomicU64) {
    use std::io::Read as _;
    let mut buffer = [0u8; 64 * 1024];
    let mut bytes = 0u64;
    let _ = stream.set_read_timeout(Some(2 * SOON));
    while let Ok(n @ 1..) = stream.read(&mut buffer) {
        bytes += n as u64;
        count.fetch_add(bytes / 4, Ordering::Relaxed);
        bytes %= 4;
    }
}

#[test]
fn a_publisher_without_credit_is_not_read_and_goes_on_later() {
    let node =
        Node::builder().set("limits.max_unacknowledged", 10).set("debug.faults", true).start();
    let mut publisher = node.client("publisher");
    publisher.burst(1..=2_000, |_| Publish::new("t", vec![0u8; 2_000]).qos(1));
    for id in 1..=2_000 {
        publisher.expect(Packet::Puback(id));
    }
    eventually(SOON, "pauses are counted", || node.metric("hydrant_read_pauses_total") > 0.0);
}

#[test]
fn a_store_that_stalls_holds_publishers_back_and_forgets_nothing() {
    let node = Node::builder()
        .set("debug.faults", true)
        .set("supervision.stall_timeout", "1s")
        .set("storage.max_pending_bytes", "\"256KiB\"")
        .start();
    let mut subscriber = node.persistent("s").subscribed("t", 1);
    let before = node.rss();
    let mut publisher = node.client("publisher");
    publisher.publish("t", "first", 1);
    subscriber.take();
    node.fault("stall", "storage");
    let writer = std::thread::spawn(move || {
        publisher.burst(1..=2_000, |id| Publish::new("t", id.to_be_bytes()).qos(1));
        publisher
    });
    let mut seen = std::collections::BTreeSet::new();
    while seen.len() < 2_000 {
        seen.insert(subscriber.take().payload);
    }
    let mut publisher = writer.join().unwrap();
    for id in 1..=2_000 {
        publisher.expect(Packet::Puback(id));
    }
    assert!(node.metric("hydrant_restarts_total") >= 1.0);
    assert!(node.rss() < before + HEADROOM);
}
