//! Nodes that start anew, and clusters of which all nodes were down: at no moment is a publish acknowledged that no
//! owner of the session will have (decision 0015).

use super::faults::{all_once, connecting, everything, offline};
use super::*;

/// QoS, clean publishers, workers, a live subscriber on the node that starts anew.
const WAYS: [(u8, bool, u64, bool); 4] =
    [(1, true, 1, false), (2, false, 1, true), (1, false, 3, true), (2, true, 3, false)];

fn publishers(cluster: &Cluster, clean: bool) -> Vec<Client> {
    let nodes = 0..cluster.nodes.len();
    nodes.map(|node| cluster.connect(node, &format!("publisher-{node}"), clean)).collect()
}

/// Each publishes some of these, and goes on without its acknowledgements.
fn send(publishers: &mut [Client], numbers: std::ops::Range<u8>, qos: u8) {
    for n in numbers {
        let at = usize::from(n) % publishers.len();
        publishers[at].send_publish("a/b", &[n], qos);
    }
}

/// What the routers of a node were given before is routed.
fn pass(cluster: &Cluster) {
    for node in 0..cluster.nodes.len() {
        let mut other = cluster.connect(node, &format!("passes-{node}"), true);
        (0..20).for_each(|_| other.publish("else", b"", 1));
    }
}

/// While they are held, nobody is taken for dead.
pub fn hold_seals(cluster: &Cluster, hold: bool) {
    cluster.world.1.hold_seal.store(hold, Ordering::SeqCst);
}

/// The successor has not taken over yet when the next start of the node is there and wants nothing.
#[test]
fn a_next_start_without_the_sessions_takes_no_interest_away() {
    let _turn = ONE_AT_A_TIME.lock();
    for (qos, clean, workers, live) in WAYS {
        let mut cluster = Cluster::with_workers(workers, &["n1", "n2", "n3"]);
        offline(&cluster, 1, "device");
        hold_seals(&cluster, true);
        cluster.kill(1);
        // It is ready although nobody has taken over.
        cluster.start("n2");
        let mut watcher = cluster.connect(2, "watcher", true);
        watcher.subscribe(if live { "a/b" } else { "other" }, 1);
        let mut publishers = publishers(&cluster, clean);
        send(&mut publishers, 0..30, qos);
        pass(&cluster);
        let waiting: usize = publishers.iter_mut().map(Client::waiting).sum();
        assert_eq!(waiting, 30, "nothing is acknowledged that nobody has");
        hold_seals(&cluster, false);
        publishers.iter_mut().for_each(Client::await_acks);
        send(&mut publishers, 30..40, qos);
        publishers.iter_mut().for_each(Client::await_acks);
        let mut device = cluster.connect(0, "device", false);
        assert!(device.session_present);
        all_once(&everything(&cluster, "device", &mut device), 0..40);
        if live {
            all_once(&watcher.receive(40), 0..40);
        }
    }
}

/// One node is up alone, and the sessions of the others are in the store only.
#[test]
fn the_first_node_up_keeps_for_those_that_are_absent() {
    let _turn = ONE_AT_A_TIME.lock();
    for (qos, clean, workers, comes_back) in WAYS {
        let mut cluster = Cluster::with_workers(workers, &["n1", "n2"]);
        offline(&cluster, 0, "near");
        offline(&cluster, 1, "device");
        cluster.world.1.goes_on.store(true, Ordering::SeqCst);
        // The one that is killed last takes nothing over.
        hold_seals(&cluster, true);
        cluster.kill(1);
        cluster.kill(0);
        cluster.start("n1");
        let mut publishers = publishers(&cluster, clean);
        send(&mut publishers, 0..20, qos);
        pass(&cluster);
        assert_eq!(publishers[0].waiting(), 20, "the session of the absent node has nothing");
        if comes_back {
            cluster.start("n2");
        } else {
            hold_seals(&cluster, false);
        }
        publishers[0].await_acks();
        for client in ["near", "device"] {
            let mut device = cluster.connect(cluster.nodes.len() - 1, client, false);
            assert!(device.session_present);
            all_once(&everything(&cluster, client, &mut device), 0..20);
        }
    }
}

/// After an ordered stop of all, the first one up leaves the others their sessions for a lease.
#[test]
fn the_first_node_up_does_not_take_everybodys_sessions() {
    let _turn = ONE_AT_A_TIME.lock();
    for stays_away in [false, true] {
        let mut cluster = Cluster::new(&["n1", "n2"]);
        offline(&cluster, 1, "device");
        cluster.world.1.goes_on.store(true, Ordering::SeqCst);
        let lease = if stays_away { 300 } else { 600_000 };
        cluster.world.1.lease.store(lease, Ordering::SeqCst);
        let before = cluster.nodes[1].incarnation;
        // The one that goes last takes nothing over.
        hold_seals(&cluster, true);
        for node in [1, 0] {
            let incarnation = cluster.nodes[node].incarnation;
            cluster.kill(node);
            cluster.world.is_dead(incarnation, true);
        }
        hold_seals(&cluster, false);
        cluster.start("n1");
        let mut publisher = cluster.connect(0, "publisher", true);
        publisher.send_publish("a/b", &[0], 1);
        let owner = if stays_away { cluster.nodes[0].incarnation } else { before };
        if stays_away {
            publisher.await_acks();
        } else {
            pass(&cluster);
        }
        assert_eq!(cluster.world.owner(before), owner);
        if !stays_away {
            cluster.start("n2");
            publisher.await_acks();
            assert_eq!(cluster.world.owner(before), cluster.nodes[1].incarnation);
        }
        let mut device = cluster.connect(0, "device", false);
        all_once(&everything(&cluster, "device", &mut device), 0..1);
    }
}

/// A node seals its predecessor, and dies before the others can see it.
#[test]
fn a_start_that_dies_before_it_is_a_member_has_a_successor() {
    let _turn = ONE_AT_A_TIME.lock();
    let mut cluster = Cluster::new(&["n1", "n2"]);
    offline(&cluster, 1, "device");
    cluster.world.1.goes_on.store(true, Ordering::SeqCst);
    hold_seals(&cluster, true);
    let before = cluster.nodes[1].incarnation;
    cluster.kill(1);
    let next = INCARNATIONS.fetch_add(1, Ordering::SeqCst);
    drop(cluster.world.node("n2", next));
    assert_eq!(cluster.world.owner(before), next);
    cluster.world.is_dead(next, false);
    hold_seals(&cluster, false);
    let mut publisher = cluster.connect(0, "publisher", true);
    publisher.publish("a/b", &[0], 2);
    let mut device = cluster.connect(0, "device", false);
    assert!(device.session_present);
    all_once(&everything(&cluster, "device", &mut device), 0..1);
}

/// A node is killed and goes on at once with its own sessions: what the others publish then does not overtake what
/// they send again.
#[test]
fn a_restart_in_place_keeps_the_order() {
    let _turn = ONE_AT_A_TIME.lock();
    for (qos, clean, workers, _) in WAYS {
        let mut cluster = Cluster::with_workers(workers, &["n1", "n2", "n3"]);
        let devices: Vec<String> = (0..6).map(|n| format!("{n}-device")).collect();
        devices.iter().for_each(|device| offline(&cluster, 1, device));
        cluster.world.1.goes_on.store(true, Ordering::SeqCst);
        let stop = Arc::new(AtomicU64::new(0));
        let publishing: Vec<JoinHandle<u32>> = [0, 2]
            .into_iter()
            .map(|node| {
                let (address, stop) = (cluster.nodes[node].address, Arc::clone(&stop));
                std::thread::spawn(move || {
                    let name = format!("publisher-{node}");
                    let mut publisher = Client::connect(address, &name, clean);
                    let mut sent = 0_u32;
                    while stop.load(Ordering::SeqCst) == 0 {
                        for _ in 0..10 {
                            let payload = [&[node as u8][..], &sent.to_be_bytes()].concat();
                            publisher.send_publish("a/b", &payload, qos);
                            sent += 1;
                        }
                        publisher.waiting();
                    }
                    publisher.await_acks();
                    sent
                })
            })
            .collect();
        for _ in 0..3 {
            let n2 = cluster.nodes.iter().position(|node| node.id == "n2").unwrap();
            cluster.nodes[n2].node.cut.store(true, Ordering::SeqCst);
            let queued = cluster.world.queued("0-device");
            hold_seals(&cluster, true);
            cluster.kill(n2);
            cluster.start("n2");
            hold_seals(&cluster, false);
            until("it goes on", || cluster.world.queued("0-device") > queued + 40);
        }
        stop.store(1, Ordering::SeqCst);
        let sent: Vec<u32> = publishing.into_iter().map(|it| it.join().unwrap()).collect();
        for device in &devices {
            let mut client = cluster.connect(0, device, false);
            assert!(client.session_present);
            let got = everything(&cluster, device, &mut client);
            for (node, sent) in [0_u8, 2].into_iter().zip(&sent) {
                let its = got.iter().filter(|payload| payload[0] == node);
                let mut its: Vec<u32> =
                    its.map(|it| u32::from_be_bytes(it[1..].try_into().unwrap())).collect();
                if qos == 1 {
                    // The first time each has come.
                    let mut seen = std::collections::BTreeSet::new();
                    its.retain(|n| seen.insert(*n));
                }
                let all: Vec<u32> = (0..*sent).collect();
                assert!(its == all, "{device}, from {node}, QoS {qos}: {its:?}");
            }
        }
    }
}

/// [MQTT-3.1.2-6]: a clean CONNECT ends the session also where an absent node holds it.
#[test]
fn a_clean_connect_ends_the_session_of_an_absent_node() {
    let _turn = ONE_AT_A_TIME.lock();
    let mut cluster = Cluster::new(&["n1", "n2"]);
    offline(&cluster, 1, "device");
    cluster.kill(1);
    let clean = cluster.connect(0, "device", true);
    assert!(!clean.session_present && !cluster.world.has_session("device"));
    clean.disconnect();
    assert!(!cluster.connect(0, "device", false).session_present);
}

/// A take-over may take longer than `limits.connect_timeout`, and a client that waits for it is not closed.
#[test]
fn a_connect_outlasts_a_take_over() {
    let _turn = ONE_AT_A_TIME.lock();
    let mut cluster = Cluster::new(&["n2"]);
    cluster.world.1.connect_timeout.store(300, Ordering::SeqCst);
    cluster.start("n1");
    offline(&cluster, 0, "device");
    hold_seals(&cluster, true);
    cluster.kill(0);
    let device = connecting(cluster.nodes[0].address, "device");
    // So long a connection without CONNECT stays open.
    for _ in 0..4 {
        let mut idle = std::net::TcpStream::connect(cluster.nodes[0].address).unwrap();
        std::io::Read::read_to_end(&mut idle, &mut Vec::new()).unwrap();
    }
    hold_seals(&cluster, false);
    assert!(device.join().unwrap().session_present);
}

/// A node that has also what it took over from another seals its own earlier start and is no member yet, when a third
/// starts: what that keeps is for both lineages, and the next start of the node drops nothing of it.
#[test]
fn a_start_that_is_no_member_yet_gets_what_is_kept_for_all_its_lineages() {
    let _turn = ONE_AT_A_TIME.lock();
    for (qos, clean, workers, _) in WAYS {
        let mut cluster = Cluster::with_workers(workers, &["n1", "n2"]);
        offline(&cluster, 0, "own");
        offline(&cluster, 1, "taken-over");
        cluster.world.1.goes_on.store(true, Ordering::SeqCst);
        let (n1, n2) = (cluster.nodes[0].incarnation, cluster.nodes[1].incarnation);
        cluster.kill(1);
        until("it is taken over", || cluster.world.owner(n2) == n1);
        let mut publisher = cluster.connect(0, "publisher", true);
        publisher.publish("a/b", &[0], qos);
        drop(publisher);
        hold_seals(&cluster, true);
        cluster.kill(0);
        let next = INCARNATIONS.fetch_add(1, Ordering::SeqCst);
        let node = cluster.world.node("n1", next);
        cluster.start("n3");
        let mut publishers = publishers(&cluster, clean);
        send(&mut publishers, 1..20, qos);
        pass(&cluster);
        assert_eq!(publishers[0].waiting(), 19);
        let node = start_as(&cluster.world, "n1", next, node);
        cluster.nodes.push(node);
        publishers[0].await_acks();
        for client in ["own", "taken-over"] {
            let mut device = cluster.connect(1, client, false);
            assert!(device.session_present);
            all_once(&everything(&cluster, client, &mut device), 0..20);
        }
    }
}
