//! Large sets of retained messages: all of it reaches each new subscription, however it reads, in bounded memory, and
//! others are served meanwhile.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::client::{Connect, Publish, subscribe};
use crate::support::{Client, Node, Packet};

/// More than the buffers of both sides, the window and a queue hold.
const MANY: usize = 20_000;

/// What the node may need above an idle one, for a few connections; an unoptimised build's allocator included.
const HEADROOM: u64 = 64 << 20;

/// Retains messages of topics `PREFIX/NUMBER`.
fn load(node: &Node, prefix: &str, count: usize, payload: &[u8], qos: u8) {
    let mut loader = node.client("loader");
    let mut sent = 0;
    while sent < count {
        let mut packets = Vec::new();
        let step = 500.min(count - sent);
        for id in 1..=step {
            let topic = format!("{prefix}/{}", sent + id);
            packets.extend(Publish::new(&topic, payload).qos(qos).id(id as u16).retain().bytes());
        }
        loader.send(&packets);
        for id in 1..=step as u16 {
            loader.wait_acknowledged(qos, id);
        }
        loader.ping();
        sent += step;
    }
}

/// Reads and acknowledges until a topic of each has come.
fn read_all(client: &mut Client, qos: u8, case: &str) {
    let mut got = BTreeSet::new();
    while got.len() < MANY {
        let came = client.take();
        assert!(came.retain && came.qos == qos, "{case}: {came:?}");
        assert!(got.insert(came.topic.clone()), "{case}: {} came twice", came.topic);
    }
}

#[test]
fn a_large_set_reaches_who_reads_at_once_and_who_reads_late() {
    let node = Node::builder()
        .set("log.kind", "none")
        .set("listener.send_buffer", "\"64KiB\"")
        .set("limits.max_output_bytes", "\"256KiB\"")
        .set("session.max_queued_messages", 500)
        .start();
    for qos in 0..=2 {
        load(&node, &format!("q{qos}"), MANY, &[b'x'; 100], qos);
        let before = node.rss();
        for persistent in [false, true] {
            let case = format!("QoS {qos}, persistent: {persistent}");
            let client = |id: String| {
                let connect = Connect::new(&id);
                let connect = if persistent { connect.persistent() } else { connect };
                Client::connect(node.mqtt, &connect).subscribed(&format!("q{qos}/#"), qos)
            };
            let mut late = client(format!("late-{qos}-{persistent}"));
            let mut quick = client(format!("quick-{qos}-{persistent}"));
            read_all(&mut quick, qos, &case);
            assert!(node.rss() < before + HEADROOM, "{case}: {before} -> {} bytes", node.rss());
            read_all(&mut late, qos, &case);
            late.ping();
        }
    }
    assert_eq!(node.dropped("slow_subscriber"), 0.0);
    assert_eq!(node.dropped("queue_full"), 0.0);
}

#[test]
fn a_persistent_session_that_leaves_gets_the_rest_when_it_is_back() {
    let node = Node::builder().set("log.kind", "none").start();
    load(&node, "t", MANY, b"x", 1);
    let mut client = node.persistent("c").subscribed("t/#", 1);
    let mut got = BTreeSet::new();
    for _ in 0..MANY / 2 {
        got.insert(client.take().topic);
    }
    client.disconnect();
    let mut client = node.persistent("c");
    while got.len() < MANY {
        got.insert(client.take().topic);
    }
}

/// A session has got a part of what it subscribed to when its node ends, in order or by kill -9.
#[test]
fn a_persistent_session_gets_the_rest_after_a_restart() {
    for (qos, count) in [(1, MANY), (2, MANY / 5)] {
        for killed in [false, true] {
            let case = format!("QoS {qos}, killed: {killed}");
            let mut node = Node::builder().set("log.kind", "none").start();
            load(&node, "t", count, b"x", qos);
            let mut client = node.persistent("c").subscribed("t/#", qos);
            let mut got = BTreeSet::new();
            for _ in 0..count / 4 {
                assert!(got.insert(client.take().topic), "{case}");
            }
            if killed {
                node.kill9();
            }
            let node = node.restart();
            let mut again = 0;
            let mut client = node.persistent("c");
            while got.len() < count {
                let came = match client.recv() {
                    Packet::Publish(came) => came,
                    // Its PUBCOMP was not stored.
                    Packet::Pubrel(id) => {
                        client.pubcomp(id);
                        continue;
                    }
                    other => panic!("{case}: {other:?}"),
                };
                assert!(came.retain, "{case}: {came:?}");
                client.acknowledge(&came);
                again += usize::from(!got.insert(came.topic));
            }
            // In order only what was in flight, and its acknowledgement not read, comes a second time.
            assert!(again <= if killed { count / 2 } else { 100 }, "{case}: {again} came twice");
            client.ping();
            let node = node.restart();
            node.client("p").publish("t/0", "fence", 1);
            assert_eq!(node.persistent("c").take().text(), "fence", "{case}: it is over");
        }
    }
}

/// Connects, subscribes when told, and reads so many bytes.
async fn reads(node: std::net::SocketAddr, n: usize, bytes: usize, all: &tokio::sync::Barrier) {
    let mut stream = TcpStream::connect(node).await.unwrap();
    stream.write_all(&Connect::new(&format!("crowd-{n}")).bytes()).await.unwrap();
    let mut connack = [0; 4];
    stream.read_exact(&mut connack).await.unwrap();
    all.wait().await;
    stream.write_all(&subscribe(1, &[("#", 0)])).await.unwrap();
    let (mut left, mut buffer) = (5 + bytes, vec![0; 65_536]);
    while left > 0 {
        let most = left.min(buffer.len());
        let came = stream.read(&mut buffer[..most]).await.unwrap();
        assert!(came > 0, "{left} bytes are missing");
        left -= came;
    }
}

/// 1,000 clients subscribe to everything at once. The readers share few cores with an unoptimised node: of a release
/// build on the same two cores the longest answer came in 26 ms.
#[test]
fn a_crowd_that_subscribes_to_everything_holds_nobody_up() {
    let node = Node::builder().set("log.kind", "none").set("sys.interval", "\"0s\"").start();
    let (clients, messages) = (1_000, 1_000);
    load(&node, "t", messages, &[b'x'; 60], 0);
    let one = |n: usize| Publish::new(&format!("t/{n}"), [b'x'; 60]).retain().bytes().len();
    let bytes: usize = (1..=messages).map(one).sum();
    let mut resident = node.client("resident");
    let address = node.mqtt;
    let (begun, begins) = std::sync::mpsc::channel();
    let crowd = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(async {
            let all = tokio::sync::Barrier::new(clients + 1);
            let each = (0..clients).map(|n| reads(address, n, bytes, &all));
            let begin = async {
                all.wait().await;
                begun.send(()).unwrap();
            };
            let crowd = futures_util::future::join_all(each);
            tokio::time::timeout(Duration::from_secs(120), async { tokio::join!(crowd, begin) })
                .await
                .expect("a client of the crowd waits for its messages");
        });
    });
    begins.recv().unwrap();
    let (since, mut answers) = (Instant::now(), Vec::new());
    while !crowd.is_finished() {
        let sent = Instant::now();
        resident.ping();
        answers.push(sent.elapsed());
    }
    crowd.join().unwrap();
    answers.sort();
    let (most, longest) = (answers[answers.len() * 9 / 10], answers[answers.len() - 1]);
    eprintln!(
        "{:?}: {} pings, nine of ten in {most:?}, all in {longest:?}",
        since.elapsed(),
        answers.len()
    );
    assert!(most < Duration::from_millis(50), "{most:?}, the longest {longest:?}");
    assert_eq!(node.dropped("slow_subscriber"), 0.0);
}
