//! QoS 2 publishes that come again under their ids: of two nodes that are lost within one take-over, of batches of
//! which a part was buffered for a session on its way, and after a power cut of all nodes. Each session has each of
//! them once.

use hydrant_protocol::cluster::{Key, Ring};

use super::faults::{all_once_at, connecting, everything, offline};
use super::restarts::hold_seals;
use super::*;

fn kill(cluster: &mut Cluster, id: &str) {
    let at = cluster.nodes.iter().position(|node| node.id == id).unwrap();
    cluster.nodes[at].node.cut.store(true, Ordering::SeqCst);
    cluster.kill(at);
}

/// The node of a subscriber and the node of a publisher are lost, and the third has routed the publish for a session
/// of its own.
#[test]
fn two_nodes_that_are_lost_together_lose_and_double_nothing() {
    let _turn = ONE_AT_A_TIME.lock();
    for (workers, had_stored) in [(1, false), (3, false), (1, true), (3, true)] {
        let mut cluster = Cluster::with_workers(workers, &["n1", "n2", "n3"]);
        offline(&cluster, 2, "x");
        offline(&cluster, 1, "y");
        let mut publisher = cluster.connect(0, "publisher", false);
        for n in 0..5 {
            publisher.publish("a/b", &[n], 2);
        }
        if had_stored {
            // It stores what comes, and nobody hears so.
            cluster.nodes[2].node.mute.store(true, Ordering::SeqCst);
        } else {
            cluster.nodes[2].node.cut.store(true, Ordering::SeqCst);
        }
        hold_seals(&cluster, true);
        for n in 5..15 {
            publisher.send_publish("a/b", &[n], 2);
        }
        until("the third node has them", || cluster.world.queued("y") == 15);
        if had_stored {
            until("the lost node has stored them", || cluster.world.queued("x") == 15);
        }
        kill(&mut cluster, "n3");
        kill(&mut cluster, "n1");
        hold_seals(&cluster, false);
        let mut publisher = cluster.connect(0, "publisher", false).goes_on(publisher);
        publisher.await_acks();
        for client in ["x", "y"] {
            let mut device = cluster.connect(0, client, false);
            assert!(device.session_present);
            all_once_at(client, &everything(&cluster, client, &mut device), 0..15);
        }
    }
}

/// A batch is stored for one session and buffered for another that is on its way when its node is lost.
#[test]
fn a_batch_that_was_stored_in_part_comes_once() {
    let _turn = ONE_AT_A_TIME.lock();
    for workers in [1, 3] {
        let mut cluster = Cluster::with_workers(workers, &["n1", "n2", "n3"]);
        let devices = ["still", "0-goes", "1-goes", "2-goes"];
        devices.iter().for_each(|device| offline(&cluster, 1, device));
        let mut publisher = cluster.connect(0, "publisher", true);
        publisher.publish("a/b", &[0], 2);
        // They are given up, and their target does not get them.
        cluster.world.1.hold_take.store(true, Ordering::SeqCst);
        let coming: Vec<JoinHandle<Client>> = devices[1..]
            .iter()
            .map(|device| connecting(cluster.nodes[2].address, device))
            .collect();
        until("they are about to be taken", || cluster.world.1.takes.load(Ordering::SeqCst) >= 3);
        cluster.nodes[1].node.mute.store(true, Ordering::SeqCst);
        for n in 1..20 {
            publisher.send_publish("a/b", &[n], 2);
        }
        until("one of them has them", || cluster.world.queued("still") == 20);
        kill(&mut cluster, "n2");
        cluster.world.1.hold_take.store(false, Ordering::SeqCst);
        publisher.await_acks();
        publisher.publish("a/b", &[20], 2);
        drop(coming.into_iter().map(JoinHandle::join).collect::<Vec<_>>());
        for device in devices {
            let mut client = cluster.connect(0, device, false);
            assert!(client.session_present, "{device}");
            all_once_at(device, &everything(&cluster, device, &mut client), 0..21);
        }
    }
}

/// All nodes are lost while publishes are stored and not answered; all start again.
#[test]
fn a_power_cut_of_all_nodes_doubles_nothing() {
    let _turn = ONE_AT_A_TIME.lock();
    for workers in [1, 3] {
        let mut cluster = Cluster::with_workers(workers, &["n1", "n2", "n3"]);
        for (node, device) in [(1, "x"), (2, "y"), (0, "z")] {
            offline(&cluster, node, device);
        }
        cluster.world.1.goes_on.store(true, Ordering::SeqCst);
        let mut publisher = cluster.connect(0, "publisher", false);
        for n in 0..5 {
            publisher.publish("a/b", &[n], 2);
        }
        for node in [1, 2] {
            cluster.nodes[node].node.mute.store(true, Ordering::SeqCst);
        }
        for n in 5..15 {
            publisher.send_publish("a/b", &[n], 2);
        }
        until("they are stored", || ["x", "y"].iter().all(|it| cluster.world.queued(it) == 15));
        hold_seals(&cluster, true);
        ["n1", "n2", "n3"].iter().for_each(|id| kill(&mut cluster, id));
        // Each goes on with its own; none waits for another.
        ["n2", "n1", "n3"].iter().for_each(|id| cluster.start(id));
        hold_seals(&cluster, false);
        let at = cluster.nodes.iter().position(|node| node.id == "n1").unwrap();
        let mut publisher = cluster.connect(at, "publisher", false).goes_on(publisher);
        publisher.await_acks();
        for device in ["x", "y", "z"] {
            let mut client = cluster.connect(0, device, false);
            assert!(client.session_present);
            all_once_at(device, &everything(&cluster, device, &mut client), 0..15);
        }
    }
}

/// The successor is lost before it has finished what the first one's publishers had prepared.
#[test]
fn a_successor_that_is_lost_while_it_finishes_doubles_nothing() {
    let _turn = ONE_AT_A_TIME.lock();
    let ids = ["n2", "n3", "n4"];
    let successor = Ring::new(ids.map(Arc::from));
    let successor = ids.into_iter().find(|id| successor.owns(id, Key::Client("n1"))).unwrap();
    let other = ids.into_iter().find(|id| *id != successor).unwrap();
    let last = ids.into_iter().find(|id| ![successor, other].contains(id)).unwrap();
    let mut cluster = Cluster::new(&["n1", "n2", "n3", "n4"]);
    let at =
        |cluster: &Cluster, id: &str| cluster.nodes.iter().position(|node| node.id == id).unwrap();
    offline(&cluster, at(&cluster, other), "x");
    offline(&cluster, at(&cluster, successor), "y");
    offline(&cluster, at(&cluster, last), "z");
    let mut publisher = cluster.connect(0, "publisher", false);
    publisher.publish("a/b", &[0], 2);
    let mute = at(&cluster, other);
    cluster.nodes[mute].node.mute.store(true, Ordering::SeqCst);
    for n in 1..10 {
        publisher.send_publish("a/b", &[n], 2);
    }
    let devices = ["x", "y", "z"];
    until("all have them", || devices.iter().all(|it| cluster.world.queued(it) == 10));
    hold_seals(&cluster, true);
    ["n1", successor, other].iter().for_each(|id| kill(&mut cluster, id));
    hold_seals(&cluster, false);
    let mut publisher = cluster.connect(0, "publisher", false).goes_on(publisher);
    publisher.await_acks();
    for device in devices {
        let mut client = cluster.connect(0, device, false);
        assert!(client.session_present);
        all_once_at(device, &everything(&cluster, device, &mut client), 0..10);
    }
}

/// The successor is lost as well, behind its taking over and before the publisher's node has sent again what it kept:
/// what the first one had stored is known to the next.
#[test]
fn what_a_lost_node_had_stored_is_known_to_the_successor_of_its_successor() {
    let _turn = ONE_AT_A_TIME.lock();
    // Neither is the publisher's node.
    let ids = ["n2", "n3", "n4"];
    let successor_of = |lost: &str| {
        let left = ["n1", "n2", "n3", "n4"].into_iter().filter(|id| *id != lost);
        let ring = Ring::new(left.clone().map(Arc::from));
        left.clone().find(|id| ring.owns(id, Key::Client(lost))).unwrap()
    };
    let lost = ids.into_iter().find(|id| successor_of(id) != "n1").unwrap();
    let successor = successor_of(lost);
    for (workers, says_more) in [(1, false), (3, false), (1, true), (3, true)] {
        let mut cluster = Cluster::with_workers(workers, &["n1", "n2", "n3", "n4"]);
        let at = |cluster: &Cluster, id: &str| {
            cluster.nodes.iter().position(|node| node.id == id).unwrap()
        };
        let up = |cluster: &Cluster, id: &str| {
            let its = cluster.nodes[0].shared.cluster.as_ref().unwrap();
            let index = its.status.nodes().iter().position(|node| *node.id == *id).unwrap();
            its.is_up(index as u16)
        };
        offline(&cluster, at(&cluster, lost), "x");
        let mut other = cluster.connect(at(&cluster, successor), "other", false);
        other.subscribe("c", 2);
        let mut publisher = cluster.connect(0, "publisher", false);
        for n in 0..5 {
            publisher.publish("a/b", &[n], 2);
        }
        let mute = at(&cluster, lost);
        cluster.nodes[mute].node.mute.store(true, Ordering::SeqCst);
        for n in 5..15 {
            publisher.send_publish("a/b", &[n], 2);
        }
        until("they are stored", || cluster.world.queued("x") == 15);
        let first = cluster.nodes[mute].incarnation;
        cluster.world.1.hold_sealed.store(true, Ordering::SeqCst);
        kill(&mut cluster, lost);
        until("it is taken over", || cluster.world.owner(first) != first);
        // What the publisher's node says of its batches now is not of those that it keeps for the lost node.
        let ends = Instant::now() + Duration::from_millis(1500);
        let mut talks = cluster.connect(0, "talks", true);
        while says_more && Instant::now() < ends {
            talks.publish("c", b"", 2);
        }
        let away = at(&cluster, successor);
        cluster.nodes[away].gate.shut();
        until("the link is down", || !up(&cluster, successor));
        cluster.world.1.hold_sealed.store(false, Ordering::SeqCst);
        kill(&mut cluster, successor);
        publisher.await_acks();
        let mut client = cluster.connect(0, "x", false);
        assert!(client.session_present);
        all_once_at("x", &everything(&cluster, "x", &mut client), 0..15);
    }
}
