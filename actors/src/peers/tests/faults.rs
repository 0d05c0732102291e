//! Nodes that die or start anew while a session is on its way.

use std::collections::BTreeMap;

use hydrant_protocol::cluster::{Key, Ring};

use super::*;

/// Connects in a thread of its own, since the answer takes until the test lets it come.
pub fn connecting(address: SocketAddr, client: &'static str) -> JoinHandle<Client> {
    std::thread::spawn(move || Client::connect(address, client, false))
}

/// A session with a subscription, offline on a node.
pub fn offline(cluster: &Cluster, node: usize, client: &str) {
    let mut device = cluster.connect(node, client, false);
    device.subscribe("a/b", 2);
    device.disconnect();
}

/// How often each payload has come: once, where it was of QoS 2.
pub fn all_once(got: &[Vec<u8>], sent: std::ops::Range<u8>) {
    all_once_at("the session", got, sent);
}

/// The same, of one of several sessions.
pub fn all_once_at(whose: &str, got: &[Vec<u8>], sent: std::ops::Range<u8>) {
    let mut times: BTreeMap<u8, usize> = BTreeMap::new();
    got.iter().for_each(|payload| *times.entry(payload[0]).or_default() += 1);
    assert_eq!(times, sent.map(|n| (n, 1)).collect(), "{whose}");
}

pub fn everything(cluster: &Cluster, client: &str, device: &mut Client) -> Vec<Vec<u8>> {
    let mut got = Vec::new();
    until("everything has come", || {
        got.append(&mut device.drain());
        cluster.world.queued(client) == 0 && device.is_quiet()
    });
    got.append(&mut device.drain());
    got
}

/// The session is with its target's successor, or with another's: the publisher is where it is not.
#[test]
fn the_source_dies_and_its_successor_has_the_session() {
    let _turn = ONE_AT_A_TIME.lock();
    let successor = Ring::new(["n2".into(), "n3".into()]);
    let successor = if successor.owns("n2", Key::Client("n1")) { 1 } else { 2 };
    for (given_up, target) in
        [(false, successor), (true, successor), (false, 3 - successor), (true, 3 - successor)]
    {
        let mut cluster = Cluster::new(&["n1", "n2", "n3"]);
        offline(&cluster, 0, "device");
        let mut publisher = cluster.connect(3 - target, "publisher", true);
        let mut near = cluster.connect(target, "near", true);
        publisher.publish("a/b", &[0], 2);
        if given_up {
            // Its target is about to take it.
            cluster.world.1.hold_take.store(true, Ordering::SeqCst);
        } else {
            // Something for it is not stored: it is not given up.
            cluster.nodes[0].node.cut.store(true, Ordering::SeqCst);
            publisher.send_publish("a/b", &[1], 2);
        }
        let device = connecting(cluster.nodes[target].address, "device");
        if given_up {
            until("it is taken", || cluster.world.1.takes.load(Ordering::SeqCst) > 0);
            publisher.send_publish("a/b", &[1], 2);
        }
        until("it is on its way", || {
            let moving = |node: usize| !cluster.nodes[node].shared.in_handover.read().is_empty();
            moving(0) && moving(target)
        });
        // The routers of all nodes have passed their markers in the meantime.
        for _ in 0..50 {
            near.publish("else", b"", 1);
        }
        for n in 2..20 {
            let publisher = if n % 2 == 0 { &mut publisher } else { &mut near };
            publisher.send_publish("a/b", &[n], 2);
        }
        cluster.kill(0);
        cluster.world.1.hold_take.store(false, Ordering::SeqCst);
        publisher.await_acks();
        near.await_acks();
        let mut device = device.join().unwrap();
        assert!(device.session_present);
        publisher.publish("a/b", &[20], 2);
        all_once(&everything(&cluster, "device", &mut device), 0..21);
    }
}

#[test]
fn the_target_dies_and_what_was_published_for_it_is_the_sources() {
    let _turn = ONE_AT_A_TIME.lock();
    for given_up in [false, true] {
        let mut cluster = Cluster::new(&["n1", "n2", "n3", "n4"]);
        offline(&cluster, 0, "device");
        let mut publisher = cluster.connect(2, "publisher", true);
        let mut near = cluster.connect(0, "near", true);
        publisher.publish("a/b", &[0], 2);
        // One that marks nothing: it is not given up.
        let silent = (!given_up).then(|| cluster.stop(3));
        cluster.world.1.hold_take.store(true, Ordering::SeqCst);
        let expected = || !cluster.nodes[1].shared.subscriptions.read().is_empty();
        let device = connecting(cluster.nodes[1].address, "device");
        until("it is on its way", || match given_up {
            true => cluster.world.1.takes.load(Ordering::SeqCst) > 0,
            false => expected(),
        });
        for n in 1..20 {
            let publisher = if n % 2 == 0 { &mut publisher } else { &mut near };
            publisher.send_publish("a/b", &[n], 2);
        }
        cluster.kill(1);
        cluster.world.1.hold_take.store(false, Ordering::SeqCst);
        if let Some((id, incarnation)) = silent {
            cluster.world.bury(id, incarnation);
        }
        publisher.await_acks();
        near.await_acks();
        assert!(device.join().is_err(), "its node is dead");
        for n in 20..30 {
            publisher.publish("a/b", &[n], 2);
        }
        let mut device = cluster.connect(1, "device", false);
        assert!(device.session_present);
        all_once(&everything(&cluster, "device", &mut device), 0..30);
    }
}

#[test]
fn a_third_node_starts_anew_while_sessions_move_and_owners_change() {
    let _turn = ONE_AT_A_TIME.lock();
    let mut cluster = Cluster::new(&["n1", "n2", "n3"]);
    let devices: Vec<String> = (0..12).map(|n| format!("{n}-device")).collect();
    devices.iter().for_each(|device| offline(&cluster, 0, device));
    let mut publisher = cluster.connect(1, "publisher", true);
    publisher.publish("a/b", &[0], 2);
    // It marks nothing, and is still a member.
    let (id, _) = cluster.stop(2);
    let coming: Vec<JoinHandle<Client>> = devices
        .iter()
        .map(|device| connecting(cluster.nodes[1].address, device.clone().leak()))
        .collect();
    for n in 1..20 {
        publisher.send_publish("a/b", &[n], 2);
    }
    // Some of them have another owner now, who asks again for what is under way.
    cluster.start("n4");
    cluster.start(id);
    publisher.await_acks();
    for (device, coming) in devices.iter().zip(coming) {
        let mut client = coming.join().unwrap();
        assert!(client.session_present, "{device}");
        all_once(&everything(&cluster, device, &mut client), 0..20);
    }
}

/// The target is out of sight when it is about to take the session, and takes it when the source has it back.
#[test]
fn a_session_that_is_taken_back_is_not_taken_by_who_comes_late() {
    let _turn = ONE_AT_A_TIME.lock();
    let cluster = Cluster::new(&["n1", "n2"]);
    offline(&cluster, 0, "device");
    let mut publisher = cluster.connect(0, "publisher", true);
    publisher.publish("a/b", &[0], 2);
    let target = &cluster.nodes[1];
    cluster.world.1.hold_take_of.store(target.incarnation, Ordering::SeqCst);
    let device = connecting(target.address, "device");
    until("it is about to be taken", || cluster.world.1.takes.load(Ordering::SeqCst) > 0);
    target.gate.shut();
    let member = cluster.world.hide("n2").unwrap();
    until("it is taken back", || cluster.world.taken("device") == 1);
    // They wait for the node that is out of sight, which wants them.
    for n in 1..20 {
        publisher.send_publish("a/b", &[n], 2);
    }
    cluster.world.1.hold_take_of.store(0, Ordering::SeqCst);
    until("the one that is late has tried", || {
        cluster.world.1.takes_ended.load(Ordering::SeqCst) > 1
    });
    target.gate.reopen();
    cluster.world.show(member);
    publisher.await_acks();
    let mut device = device.join().unwrap();
    assert!(device.session_present);
    publisher.publish("a/b", &[20], 2);
    all_once(&everything(&cluster, "device", &mut device), 0..21);
}

#[test]
fn a_client_that_connects_twice_at_once_is_connected_once() {
    let _turn = ONE_AT_A_TIME.lock();
    let cluster = Cluster::new(&["n1", "n2"]);
    let locates = || cluster.world.1.locates.load(Ordering::SeqCst);
    cluster.world.1.hold_locate.store(true, Ordering::SeqCst);
    let before = locates();
    let first = connecting(cluster.nodes[0].address, "device");
    until("the first one is granted", || locates() > before);
    let second = connecting(cluster.nodes[1].address, "device");
    cluster.world.1.hold_locate.store(false, Ordering::SeqCst);
    let mut second = second.join().unwrap();
    second.subscribe("a/b", 1);
    assert!(
        first.join().is_err() || cluster.nodes[0].shared.connections.load(Ordering::SeqCst) == 0
    );
    let mut publisher = cluster.connect(0, "publisher", true);
    publisher.publish("a/b", b"once", 1);
    assert_eq!(second.receive(1), [b"once".to_vec()]);
}

/// A stream of messages meets a session whose node dies and another one at its successor.
#[test]
fn what_is_published_while_a_node_is_lost_comes_once() {
    let _turn = ONE_AT_A_TIME.lock();
    let mut cluster = Cluster::new(&["n1", "n2", "n3"]);
    // Of every node, on every worker.
    let devices: Vec<String> = (0..12).map(|n| format!("{n}-device")).collect();
    for (n, device) in devices.iter().enumerate() {
        offline(&cluster, n % 3, device);
    }
    let stop = Arc::new(AtomicU64::new(0));
    let publishers: Vec<JoinHandle<Vec<Vec<u8>>>> = [0, 2]
        .into_iter()
        .map(|node| {
            let (address, stop) = (cluster.nodes[node].address, Arc::clone(&stop));
            std::thread::spawn(move || {
                let mut publisher = Client::connect(address, &format!("publisher-{node}"), true);
                let mut sent = Vec::new();
                while stop.load(Ordering::SeqCst) == 0 {
                    for _ in 0..20 {
                        let payload = format!("{node}/{}", sent.len()).into_bytes();
                        publisher.send_publish("a/b", &payload, 2);
                        sent.push(payload);
                    }
                    publisher.await_acks();
                }
                sent
            })
        })
        .collect();
    until("much is queued", || cluster.world.queued("1-device") > 100);
    cluster.nodes[1].node.cut.store(true, Ordering::SeqCst);
    cluster.kill(1);
    let before = cluster.world.queued("0-device");
    until("it goes on", || cluster.world.queued("0-device") > before + 200);
    stop.store(1, Ordering::SeqCst);
    let sent: Vec<Vec<u8>> =
        publishers.into_iter().flat_map(|publisher| publisher.join().unwrap()).collect();
    for device in &devices {
        let mut client = cluster.connect(0, device, false);
        assert!(client.session_present);
        let got = everything(&cluster, device, &mut client);
        for node in 0..3 {
            let of = format!("{node}/");
            let its = |all: &[Vec<u8>]| -> Vec<u64> {
                let all = all.iter().map(|payload| String::from_utf8(payload.clone()).unwrap());
                all.filter_map(|text| text.strip_prefix(&of)?.parse().ok()).collect()
            };
            let (got, sent) = (its(&got), its(&sent));
            assert_eq!(got.len(), sent.len(), "{device}: from {node}");
            assert!(got.is_sorted(), "{device}: from {node} in order, {got:?}");
        }
    }
}

#[test]
fn what_a_lost_node_had_stored_and_not_answered_is_known_to_its_successor() {
    let _turn = ONE_AT_A_TIME.lock();
    let mut cluster = Cluster::new(&["n1", "n2", "n3"]);
    offline(&cluster, 1, "device");
    let mut publisher = cluster.connect(0, "publisher", true);
    for n in 0..5 {
        publisher.publish("a/b", &[n], 2);
    }
    cluster.nodes[1].node.mute.store(true, Ordering::SeqCst);
    for n in 5..20 {
        publisher.send_publish("a/b", &[n], 2);
    }
    until("some of it is stored", || cluster.world.queued("device") > 5);
    cluster.kill(1);
    publisher.await_acks();
    publisher.publish("a/b", &[20], 2);
    let mut device = cluster.connect(0, "device", false);
    all_once(&everything(&cluster, "device", &mut device), 0..21);
}

#[test]
fn two_nodes_that_cannot_reach_each_other_go_through_a_third() {
    let _turn = ONE_AT_A_TIME.lock();
    let cluster = Cluster::new(&["n1", "n2", "n3"]);
    let mut device = cluster.connect(1, "device", false);
    device.subscribe("a/b", 2);
    let mut publisher = cluster.connect(0, "publisher", true);
    for n in 0..20 {
        publisher.send_publish("a/b", &[n], 2);
    }
    let gate = &cluster.nodes[1].gate;
    gate.shut();
    for n in 20..40 {
        publisher.send_publish("a/b", &[n], 2);
    }
    publisher.await_acks();
    // Sessions move as well, and what is asked of their owners gets there.
    let mut device = cluster.connect(0, "device", false).goes_on(device);
    for n in 0..20 {
        let client = format!("{n}-other");
        assert!(!cluster.connect(usize::from(n % 2 == 0), &client, false).session_present);
    }
    let before = gate.passed.load(Ordering::SeqCst);
    gate.reopen();
    until("it is reached directly again", || gate.passed.load(Ordering::SeqCst) > before + 1);
    for n in 40..60 {
        publisher.send_publish("a/b", &[n], 2);
    }
    publisher.await_acks();
    all_once(&everything(&cluster, "device", &mut device), 0..60);
}

/// One after the other has taken over, or at once.
#[test]
fn the_successor_of_a_lost_node_is_lost_as_well() {
    let _turn = ONE_AT_A_TIME.lock();
    for at_once in [false, true] {
        let mut cluster = Cluster::new(&["n1", "n2", "n3", "n4"]);
        offline(&cluster, 1, "device");
        let others = ["n1", "n3", "n4"];
        let ring = Ring::new(others.map(Arc::from));
        let successor = others.into_iter().find(|id| ring.owns(id, Key::Client("n2"))).unwrap();
        let at = |cluster: &Cluster, id: &str| {
            cluster.nodes.iter().position(|node| node.id == id).unwrap()
        };
        let alive = others.into_iter().filter(|id| *id != successor).map(|id| at(&cluster, id));
        let mut publishers: Vec<Client> =
            alive.map(|node| cluster.connect(node, &format!("{node}-publisher"), true)).collect();
        let send = |publishers: &mut [Client], numbers: std::ops::Range<u8>| {
            for n in numbers {
                publishers[usize::from(n % 2)].send_publish("a/b", &[n], 2);
            }
        };
        send(&mut publishers, 0..10);
        let n2 = at(&cluster, "n2");
        cluster.nodes[n2].node.cut.store(true, Ordering::SeqCst);
        send(&mut publishers, 10..20);
        if at_once {
            let successor = at(&cluster, successor);
            cluster.nodes[successor].node.cut.store(true, Ordering::SeqCst);
        }
        cluster.kill(n2);
        if !at_once {
            publishers.iter_mut().for_each(Client::await_acks);
            cluster.nodes[at(&cluster, successor)].node.cut.store(true, Ordering::SeqCst);
        }
        send(&mut publishers, 20..30);
        let successor = at(&cluster, successor);
        cluster.kill(successor);
        send(&mut publishers, 30..40);
        publishers.iter_mut().for_each(Client::await_acks);
        let mut device = cluster.connect(0, "device", false);
        assert!(device.session_present);
        all_once(&everything(&cluster, "device", &mut device), 0..40);
    }
}

#[test]
fn a_node_that_starts_while_another_has_no_successor_yet_knows_what_that_wanted() {
    let _turn = ONE_AT_A_TIME.lock();
    let mut cluster = Cluster::new(&["n1", "n2", "n3"]);
    offline(&cluster, 1, "device");
    cluster.world.1.hold_seal.store(true, Ordering::SeqCst);
    cluster.kill(1);
    let world = cluster.world.clone();
    let (ready, is_ready) = std::sync::mpsc::channel();
    let starting = std::thread::spawn(move || {
        let node = start(&world, "n4");
        let mut publisher = Client::connect(node.address, "publisher", true);
        publisher.publish("a/b", &[0], 2);
        ready.send(()).unwrap();
        node
    });
    let status = &cluster.nodes[0].shared.cluster.as_ref().unwrap().status;
    until("it is a member", || status.members() == 3);
    assert!(is_ready.recv_timeout(Duration::from_millis(500)).is_err(), "it cannot know yet");
    cluster.world.1.hold_seal.store(false, Ordering::SeqCst);
    let node = starting.join().unwrap();
    cluster.nodes.push(node);
    let mut device = cluster.connect(0, "device", false);
    assert!(device.session_present);
    all_once(&everything(&cluster, "device", &mut device), 0..1);
}

/// QoS 2 of publishers on the lost node itself: whatever it had begun is finished by its successor, and what they
/// send again is known.
#[test]
fn what_a_lost_nodes_own_publishers_had_in_flight_comes_once() {
    let _turn = ONE_AT_A_TIME.lock();
    for way in 0..8 {
        let mut cluster = Cluster::new(&["n1", "n2", "n3"]);
        let mut stored = cluster.connect(0, "stored", false);
        stored.subscribe("a/#", 2);
        let mut own = cluster.connect(1, "own", false);
        own.subscribe("a/+", 2);
        let mut live = cluster.connect(2, "live", true);
        live.subscribe("a/b", 2);
        let mut publisher = cluster.connect(1, "publisher", false);
        publisher.publish("a/b", &[0], 2);
        let node = Arc::clone(&cluster.nodes[1].node);
        // Everything that it writes is written, and it does nothing that waits for that.
        node.mute.store(way == 0, Ordering::SeqCst);
        for n in 1..60 {
            publisher.send_publish("a/b", &[n], 2);
        }
        match way {
            // As many as the writes that may be under way have brought.
            0 => until("some are begun", || cluster.world.prepared() >= 4),
            way => publisher.await_receipts(way * 7 - 6),
        }
        // A moment between two answers of the store, more or less.
        std::thread::sleep(Duration::from_millis(way as u64 % 3));
        cluster.kill(1);
        let mut publisher = cluster.connect(way % 2, "publisher", false).goes_on(publisher);
        assert!(publisher.session_present);
        publisher.await_acks();
        publisher.publish("a/b", &[60], 2);
        let mut own = cluster.connect(1, "own", false).goes_on(own);
        for (client, device) in [("stored", &mut stored), ("own", &mut own), ("live", &mut live)] {
            all_once(&everything(&cluster, client, device), 0..61);
        }
        until("nothing of it is kept", || cluster.world.prepared() == 0);
    }
}

/// The same for a session that goes from one living node to another before the lost one has a successor.
#[test]
fn what_a_lost_nodes_publishers_had_in_flight_comes_once_to_who_roams() {
    let _turn = ONE_AT_A_TIME.lock();
    for way in 0..10 {
        let mut cluster = Cluster::new(&["n1", "n2", "n3"]);
        let mut roams = cluster.connect(0, "roams", false);
        roams.subscribe("a/#", 2);
        // Whether the node that it goes to has had the messages as well.
        let mut stays = (way % 2 == 0).then(|| cluster.connect(2, "stays", false));
        stays.iter_mut().for_each(|stays| stays.subscribe("a/b", 2));
        let mut publisher = cluster.connect(1, "publisher", false);
        publisher.publish("a/b", &[0], 2);
        cluster.nodes[1].node.mute.store(way < 2, Ordering::SeqCst);
        for n in 1..60 {
            publisher.send_publish("a/b", &[n], 2);
        }
        match way {
            0 | 1 => until("some are begun", || cluster.world.prepared() >= 4),
            way => publisher.await_receipts(way * 6 - 9),
        }
        cluster.world.1.hold_seal.store(true, Ordering::SeqCst);
        cluster.kill(1);
        let mut roams = cluster.connect(1, "roams", false).goes_on(roams);
        if way % 3 == 0 {
            roams = cluster.connect(0, "roams", false).goes_on(roams);
        }
        cluster.world.1.hold_seal.store(false, Ordering::SeqCst);
        let mut publisher = cluster.connect(0, "publisher", false).goes_on(publisher);
        publisher.await_acks();
        publisher.publish("a/b", &[60], 2);
        all_once(&everything(&cluster, "roams", &mut roams), 0..61);
        stays.iter_mut().for_each(|stays| {
            all_once(&everything(&cluster, "stays", stays), 0..61);
        });
    }
}
