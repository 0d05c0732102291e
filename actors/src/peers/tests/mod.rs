//! Whole nodes of one cluster in this process, on real sockets: the store and the membership they
//! share are in memory.

mod absent;
mod client;
mod driver;
mod faults;
mod gate;
mod leave;
mod order;
mod owed;
mod restarts;
mod settings;
mod slow;
mod twice;
mod wills;
mod world;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use self::client::Client;
use self::gate::Gate;
use self::settings::{cluster_settings, settings_of};
use self::world::World;
use crate::mailboxes::Mailboxes;
use crate::node_tables::NodeTables;
use crate::peers::ClusterParts;
use crate::ports::{LogRecord, MessageLog, Report};
use crate::system::{ActorSystem, Parts};

/// Every test's deadline for anything it waits for.
const DEADLINE: Duration = Duration::from_secs(20);

struct Silent;

impl MessageLog for Silent {
    fn append(&self, _: Vec<LogRecord>) -> Vec<LogRecord> {
        Vec::new()
    }
    fn on_report(&self, _: Box<dyn Fn(Vec<Report>) + Send + Sync>) {}
    fn reset(&self) {}
    fn flush(&self, _: Duration) -> bool {
        true
    }
    fn is_up(&self) -> bool {
        true
    }
    fn describe(&self) -> String {
        "none".to_owned()
    }
}

struct TestNode {
    id: &'static str,
    incarnation: u64,
    address: SocketAddr,
    node: Arc<world::Node>,
    shared: Arc<NodeTables>,
    mailboxes: Arc<Mailboxes>,
    gate: Gate,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct Cluster {
    world: World,
    nodes: Vec<TestNode>,
}

static INCARNATIONS: AtomicU64 = AtomicU64::new(1);

fn start(world: &World, id: &'static str) -> TestNode {
    let incarnation = INCARNATIONS.fetch_add(1, Ordering::SeqCst);
    start_as(world, id, incarnation, world.node(id, incarnation))
}

/// A start that has taken its number and what it goes on with before.
fn start_as(world: &World, id: &'static str, incarnation: u64, node: Arc<world::Node>) -> TestNode {
    let bind = || {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        listener
    };
    let (mqtt, peer) = (bind(), bind());
    let address = mqtt.local_addr().unwrap();
    let peer_address = peer.local_addr().unwrap();
    // The way of the first node to it.
    let gate = Gate::before(peer_address);
    world.way("n1", id, gate.address.to_string());
    let (ready, wait) = std::sync::mpsc::channel();
    let (stop, stopped) = oneshot::channel::<()>();
    let (theirs, ends) = (Arc::clone(&node), Arc::clone(&node));
    let workers = match world.1.workers.load(Ordering::SeqCst) {
        0 => 2,
        workers => workers as u16,
    };
    let mut settings = settings_of(id, workers);
    match world.1.connect_timeout.load(Ordering::SeqCst) {
        0 => {}
        ms => settings.limits.connect_timeout = Duration::from_millis(ms),
    }
    let thread = std::thread::spawn(move || {
        actix_rt::System::new().block_on(async move {
            let parts = Parts {
                settings: Arc::new(settings),
                store: Arc::clone(&theirs) as _,
                log: Arc::new(Silent),
                listener: (Arc::new(mqtt), format!("tcp/{address}")),
                nodelay: true,
                cluster: Some(ClusterParts {
                    membership: Arc::clone(&theirs) as _,
                    store: theirs,
                    listener: Arc::new(peer),
                    settings: cluster_settings(peer_address.to_string(), vec![address.to_string()]),
                }),
                on_failure: Arc::new(move |why| match ends.may_end.load(Ordering::SeqCst) {
                    true => *ends.ended.lock() = Some(why),
                    false => panic!("{why}"),
                }),
            };
            let system = ActorSystem::start(parts).await.unwrap();
            ready.send((Arc::clone(&system.shared), Arc::clone(&system.mailboxes))).unwrap();
            let _ = stopped.await;
            system.stop(Duration::from_millis(200)).await;
        });
    });
    let (shared, mailboxes) = wait.recv_timeout(DEADLINE).unwrap();
    let (stop, thread) = (Some(stop), Some(thread));
    TestNode { id, incarnation, address, node, shared, mailboxes, gate, stop, thread }
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

impl Cluster {
    fn new(ids: &[&'static str]) -> Self {
        Self::with_workers(0, ids)
    }

    fn with_workers(workers: u64, ids: &[&'static str]) -> Self {
        let world = World::default();
        world.1.workers.store(workers, Ordering::SeqCst);
        let nodes: Vec<TestNode> = ids.iter().map(|id| start(&world, id)).collect();
        let others = nodes.len() - 1;
        for node in &nodes {
            until("the links are up", || {
                let cluster = node.shared.cluster.as_ref().unwrap();
                (1..=others).all(|n| cluster.is_up(n as u16))
            });
        }
        Self { world, nodes }
    }

    fn connect(&self, node: usize, client: &str, clean: bool) -> Client {
        Client::connect(self.nodes[node].address, client, clean)
    }

    /// As kill -9 does it, as far as the others can see: no member, no lease, no answer.
    fn kill(&mut self, node: usize) {
        let node = self.nodes.remove(node);
        node.node.cut.store(true, Ordering::SeqCst);
        self.world.bury(node.id, node.incarnation);
    }

    /// It answers nothing any more, and nobody knows yet.
    fn stop(&mut self, node: usize) -> (&'static str, u64) {
        let node = self.nodes.remove(node);
        node.node.cut.store(true, Ordering::SeqCst);
        (node.id, node.incarnation)
    }

    fn start(&mut self, id: &'static str) {
        let node = start(&self.world, id);
        self.nodes.push(node);
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take()
            && !std::thread::panicking()
        {
            let _ = thread.join();
        }
    }
}

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

#[test]
fn a_publish_reaches_the_subscribers_of_every_node_once() {
    let _turn = ONE_AT_A_TIME.lock();
    let cluster = Cluster::new(&["n1", "n2", "n3"]);
    let mut subscribers = Vec::new();
    for node in 0..3 {
        for (client, clean, filter) in
            [("exact", true, "a/b"), ("wild", true, "a/+"), ("stored", false, "a/#")]
        {
            let mut client = cluster.connect(node, &format!("{client}-{node}"), clean);
            client.subscribe(filter, 2);
            subscribers.push(client);
        }
    }
    for qos in 0..3 {
        for node in 0..3 {
            // Each a client of its own: QoS 0 may be lost where a client is taken over.
            let mut publisher = cluster.connect(node, &format!("{qos}-{node}"), true);
            publisher.publish("a/b", &[qos, node as u8], qos);
            publisher.publish("b/a", b"nobody wants it", qos);
        }
    }
    for subscriber in &mut subscribers {
        let mut got = subscriber.receive(9);
        got.sort();
        let all = (0..3).flat_map(|qos| (0..3).map(move |node| vec![qos, node]));
        assert_eq!(got, all.collect::<Vec<_>>());
        assert!(subscriber.is_quiet());
    }
}

#[test]
fn what_is_retained_is_retained_everywhere() {
    let _turn = ONE_AT_A_TIME.lock();
    let cluster = Cluster::new(&["n1", "n2"]);
    let mut publisher = cluster.connect(0, "publisher", true);
    publisher.retain("a/b", b"one");
    until("retained on the other node", || {
        cluster.nodes[1].shared.retained.read().get("a/b").is_some()
    });
    let mut subscriber = cluster.connect(1, "subscriber", true);
    subscriber.subscribe("a/#", 1);
    assert_eq!(subscriber.receive(1), [b"one".to_vec()]);
    publisher.retain("a/b", b"");
    until("removed on the other node", || {
        cluster.nodes[1].shared.retained.read().get("a/b").is_none()
    });
}

#[test]
fn what_is_retained_while_a_node_starts_is_retained_there() {
    let _turn = ONE_AT_A_TIME.lock();
    let mut cluster = Cluster::new(&["n1", "n2"]);
    let mut publisher = cluster.connect(0, "publisher", true);
    for topic in ["a/kept", "a/changed", "a/removed"] {
        publisher.retain(topic, b"before");
    }
    let faults = &cluster.world.1;
    let reads = faults.reads.load(Ordering::SeqCst);
    faults.hold_retained.store(true, Ordering::SeqCst);
    let world = cluster.world.clone();
    let starting = std::thread::spawn(move || start(&world, "n3"));
    until("the store is read", || faults.reads.load(Ordering::SeqCst) > reads);
    publisher.retain("a/changed", b"after");
    publisher.retain("a/removed", b"");
    publisher.retain("a/new", b"after");
    faults.hold_retained.store(false, Ordering::SeqCst);
    cluster.nodes.push(starting.join().unwrap());
    let mut subscriber = cluster.connect(2, "subscriber", true);
    subscriber.subscribe("a/#", 1);
    let mut got = subscriber.receive(3);
    got.sort();
    assert_eq!(got, [b"after".to_vec(), b"after".to_vec(), b"before".to_vec()]);
    assert!(subscriber.is_quiet());
}

/// A member that nobody reaches holds up no SUBACK for ever, and knows of it once it is back.
#[test]
fn who_cannot_be_reached_does_not_hold_up_a_subscription() {
    let _turn = ONE_AT_A_TIME.lock();
    let cluster = Cluster::new(&["n1", "n2"]);
    let mut publisher = cluster.connect(1, "publisher", true);
    let mut subscriber = cluster.connect(0, "subscriber", true);
    cluster.nodes[1].gate.shut();
    until("the link is down", || !cluster.nodes[0].shared.cluster.as_ref().unwrap().is_up(1));
    subscriber.subscribe("a/b", 1);
    cluster.nodes[1].gate.reopen();
    until("it is known there", || {
        publisher.publish("a/b", b"x", 1);
        !subscriber.drain().is_empty()
    });
}

#[test]
fn a_client_that_connects_elsewhere_takes_its_session_along() {
    let _turn = ONE_AT_A_TIME.lock();
    let cluster = Cluster::new(&["n1", "n2", "n3"]);
    let mut subscriber = cluster.connect(0, "device", false);
    subscriber.subscribe("a/b", 2);
    let mut publisher = cluster.connect(2, "publisher", true);
    for node in [1, 2, 0, 1] {
        let before = subscriber;
        subscriber = cluster.connect(node, "device", false);
        assert!(subscriber.session_present);
        assert!(before.ends(), "the old connection is closed");
        for qos in 0..3 {
            publisher.publish("a/b", &[node as u8, qos], qos);
        }
        let mut got = subscriber.receive(3);
        got.sort();
        assert_eq!(got, (0..3).map(|qos| vec![node as u8, qos]).collect::<Vec<_>>());
        // Else what it has not acknowledged comes again elsewhere.
        until("all is acknowledged", || {
            subscriber.is_quiet() && cluster.world.queued("device") == 0
        });
    }
    subscriber.disconnect();
    for n in 0..50 {
        publisher.publish("a/b", &[n], 2);
    }
    let mut subscriber = cluster.connect(2, "device", false);
    assert_eq!(subscriber.receive(50), (0..50).map(|n| vec![n]).collect::<Vec<_>>());
    until("the queue is empty", || subscriber.is_quiet() && cluster.world.queued("device") == 0);
    // A clean session ends what the client had elsewhere.
    let clean = cluster.connect(0, "device", true);
    assert!(!clean.session_present && subscriber.ends());
}

#[test]
fn a_lost_node_has_a_successor() {
    let _turn = ONE_AT_A_TIME.lock();
    let mut cluster = Cluster::new(&["n1", "n2", "n3"]);
    let mut offline = cluster.connect(1, "offline", false);
    offline.subscribe("a/b", 1);
    offline.disconnect();
    let mut held = cluster.connect(1, "held", false);
    held.subscribe("a/b", 2);
    let mut watcher = cluster.connect(0, "watcher", true);
    watcher.subscribe("will", 1);
    let _dying = Client::connect_with_will(cluster.nodes[1].address, "dying", "will", b"dead");
    let mut publisher = cluster.connect(0, "publisher", true);
    publisher.publish("a/b", b"before", 1);
    cluster.nodes[1].node.cut.store(true, Ordering::SeqCst);
    // Waits: the writer of those queues does not answer.
    publisher.send_publish("a/b", b"during", 1);
    cluster.kill(1);
    publisher.await_acks();
    assert_eq!(watcher.receive(1), [b"dead".to_vec()], "a will fires once");
    publisher.publish("a/b", b"after", 1);
    for (node, client) in [(0, "offline"), (1, "held")] {
        let mut back = cluster.connect(node, client, false);
        assert!(back.session_present);
        let mut got = back.receive(3);
        got.dedup();
        assert_eq!(got, [b"before".to_vec(), b"during".to_vec(), b"after".to_vec()], "{client}");
    }
    assert!(watcher.is_quiet());
    for node in &cluster.nodes {
        let lost = &node.shared.cluster.as_ref().unwrap().status.lost_nodes;
        let rows = lost.rows(crate::clock::now().boot, Duration::from_secs(4));
        let [row] = &rows[..] else { panic!("{rows:?}") };
        assert!(&*row.node == "n2" && row.state.starts_with("taken over by n"), "{row:?}");
    }
}

/// Publishers on all nodes go on while a session moves from node to node: nothing acknowledged is
/// lost, nothing of QoS 2 comes twice, and each publisher's order is kept.
#[test]
fn a_session_on_its_way_loses_and_doubles_nothing() {
    let _turn = ONE_AT_A_TIME.lock();
    let cluster = Arc::new(Cluster::new(&["n1", "n2", "n3"]));
    let mut subscriber = cluster.connect(0, "device", false);
    subscriber.subscribe("a/+", 2);
    // Others with the same filter: their nodes get everything anyhow.
    let mut other = cluster.connect(1, "other", false);
    other.subscribe("a/+", 0);
    let stop = Arc::new(AtomicU64::new(0));
    let publishers: Vec<JoinHandle<u32>> = (0..3_usize)
        .map(|node| {
            let (cluster, stop) = (Arc::clone(&cluster), Arc::clone(&stop));
            std::thread::spawn(move || {
                // One with a session, whose QoS 2 is open while it is on its way, and others without.
                let mut publisher = cluster.connect(node, &format!("publisher-{node}"), node != 0);
                let mut sent = 0_u32;
                while stop.load(Ordering::SeqCst) == 0 {
                    // Many at once, and one by one.
                    for _ in 0..if sent.is_multiple_of(3) { 50 } else { 1 } {
                        let mut payload = vec![node as u8];
                        payload.extend_from_slice(&sent.to_be_bytes());
                        let qos = if node == 2 { 1 } else { 2 };
                        publisher.send_publish(&format!("a/{node}"), &payload, qos);
                        sent += 1;
                    }
                    publisher.await_acks();
                }
                sent
            })
        })
        .collect();
    let mut got = Vec::new();
    for round in 0..12 {
        got.append(&mut subscriber.receive(20));
        let before = subscriber;
        subscriber = cluster.connect((round + 1) % 3, "device", false).goes_on(before);
        assert!(subscriber.session_present);
    }
    stop.store(1, Ordering::SeqCst);
    let sent: Vec<u32> =
        publishers.into_iter().map(|publisher| publisher.join().unwrap()).collect();
    until("everything has come", || {
        got.append(&mut subscriber.drain());
        subscriber.is_quiet() && cluster.world.queued("device") == 0
    });
    got.append(&mut subscriber.drain());
    for (node, sent) in (0_u8..).zip(sent) {
        let numbers: Vec<u32> = got
            .iter()
            .filter(|payload| payload[0] == node)
            .map(|payload| u32::from_be_bytes(payload[1..5].try_into().unwrap()))
            .collect();
        let mut once = numbers.clone();
        if node == 2 {
            // QoS 1 that was not acknowledged comes again.
            once.sort_unstable();
            once.dedup();
        }
        assert_eq!(once, (0..sent).collect::<Vec<_>>(), "of the publisher on node {node}");
    }
}

/// Whoever loses its place among the members and lives goes on: it is not sealed, and what is for its
/// sessions gets there.
#[test]
fn a_node_that_is_no_member_for_a_while_keeps_what_it_has() {
    let _turn = ONE_AT_A_TIME.lock();
    let cluster = Cluster::new(&["n1", "n2", "n3"]);
    let mut device = cluster.connect(1, "device", false);
    device.subscribe("a/b", 1);
    let mut publisher = cluster.connect(0, "publisher", true);
    publisher.publish("a/b", b"before", 1);
    let member = cluster.world.hide("n2").unwrap();
    until("the others have seen it", || {
        let tree = |node: usize| cluster.nodes[node].shared.cluster.as_ref().unwrap();
        [0, 2].iter().all(|node| tree(*node).status.members() == 2)
    });
    publisher.publish("a/b", b"meanwhile", 1);
    cluster.world.show(member);
    publisher.publish("a/b", b"after", 1);
    let got = device.receive(3);
    assert_eq!(got, [b"before".to_vec(), b"meanwhile".to_vec(), b"after".to_vec()]);
    drop(device);
    let back = cluster.connect(2, "device", false);
    assert!(back.session_present);
}
